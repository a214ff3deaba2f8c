#pragma once
#include <functional>
#include <memory>
#include <string>

#include "src/link/channel.hpp"
#include "src/model/backend.hpp"

namespace troupe::link {

/// A rank of another process, for whoever drives ranks: plans go over the link, answers come back. Neither call waits
/// for the other side, but `poll` looks for some tens of microseconds (a millisecond where the rank has one plan at a
/// time, when nothing else is to be looked at), so that polling in a loop does not burn a core.
///
/// `why_lost`: what is known of a rank whose connection has closed ("was killed by signal 9"); may be empty and may say
/// nothing.
std::unique_ptr<model::backend> make_remote_backend(std::shared_ptr<channel>, model::rank_shape,
                                                    std::function<std::string()> why_lost);

}  // namespace troupe::link

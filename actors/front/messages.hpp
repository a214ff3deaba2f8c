#pragma once
#include <memory>
#include <optional>
#include <utility>
#include <variant>
#include <vector>

#include <troupe/engine.hpp>

#include "src/mail/mailbox.hpp"

/// The protocol of a port: what comes back to a consumer of the engine.
namespace troupe::front {

/// A piece of one stream, its end, or both.
struct stream_event {
  stream_id stream = 0;
  troupe::piece piece;
  std::optional<completion> end;
  bool has_piece = false;

  stream_event() = default;
  explicit stream_event(stream_id id) : stream(id) {}
};

/// Everything a step had for the streams of one port: one message, one wake.
struct stream_batch {
  std::vector<stream_event> events;

  stream_batch() = default;
  explicit stream_batch(std::vector<stream_event> e) : events(std::move(e)) {}
};

using message = std::variant<stream_batch>;
using port_box = mail::mailbox<message>;
using port_ptr = std::shared_ptr<port_box>;

}  // namespace troupe::front

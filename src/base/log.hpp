#pragma once
#include <memory>
#include <spdlog/logger.h>

namespace troupe {

/// The process's Troupe logger: silent until a program gives it a sink (a library prints nothing by itself).
spdlog::logger& log();
/// Replaces the logger; call before any engine exists.
void set_logger(std::shared_ptr<spdlog::logger>);

}  // namespace troupe

#include "src/base/log.hpp"

#include <spdlog/sinks/null_sink.h>

namespace troupe {
namespace {
std::shared_ptr<spdlog::logger>& instance() {
  static auto logger = std::make_shared<spdlog::logger>("troupe", std::make_shared<spdlog::sinks::null_sink_mt>());
  return logger;
}
}  // namespace

spdlog::logger& log() { return *instance(); }
void set_logger(std::shared_ptr<spdlog::logger> logger) { instance() = std::move(logger); }

}  // namespace troupe

#pragma once
#include "src/cpu/cpu_backend.hpp"
#include "tests/backend/driver.hpp"

namespace troupe::test {

class driver : public backend_driver {
 public:
  driver(std::shared_ptr<const model::model> m, const cpu::cpu_options& o)
      : backend_driver([&](auto sinks) { return cpu::make_cpu_backend(std::move(m), o, std::move(sinks)).value(); }) {}
};

}  // namespace troupe::test

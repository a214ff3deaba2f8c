#pragma once
#include "src/cpu/cpu_backend.hpp"
#include "tests/backend/driver.hpp"

namespace troupe::test {

class driver : public backend_driver {
 public:
  driver(std::shared_ptr<const model::model> m, const cpu::cpu_options& o,
         std::shared_ptr<model::mask_table> masks = nullptr)
      : backend_driver([&](auto sinks) {
          return cpu::make_cpu_backend(std::move(m), o, std::move(sinks), nullptr, std::move(masks)).value();
        }) {}
};

}  // namespace troupe::test

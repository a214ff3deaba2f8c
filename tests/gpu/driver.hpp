#pragma once
#include "src/gpu/gpu_backend.hpp"
#include "tests/backend/driver.hpp"

namespace troupe::test {

class driver : public backend_driver {
 public:
  driver(std::shared_ptr<const model::model> m, const gpu::gpu_options& o,
         std::shared_ptr<model::mask_table> masks = nullptr)
      : backend_driver([&](auto sinks) {
          return gpu::make_gpu_backend(std::move(m), o, std::move(sinks), nullptr, std::move(masks)).value();
        }) {}
};

/// A driver whose steps of one token are captured: their products have been timed, and are by a gemv each.
template <class Driver>
struct one_token : Driver {
  template <class... Arguments>
  explicit one_token(Arguments&&... arguments) : Driver(std::forward<Arguments>(arguments)...) {
    this->warm_up(1);
  }
};

inline gpu::gpu_options small(kernels::dtype compute, kernels::gpu::kv_type kv) {
  gpu::gpu_options o;
  o.compute = compute;
  o.kv = kv;
  o.max_slots = 33;
  o.max_batched_tokens = 300;
  o.max_model_len = 512;
  o.n_pages = 600;
  return o;
}

}  // namespace troupe::test

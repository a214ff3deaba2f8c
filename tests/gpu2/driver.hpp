#pragma once
#include "src/gpu/device.hpp"
#include "src/gpu/device_weights.hpp"
#include "tests/backend/group.hpp"
#include "tests/gpu/driver.hpp"

namespace troupe::test {

inline constexpr auto group_limit = std::chrono::seconds(20);

/// Two or more cards as one backend.
class group_driver : public backend_driver {
 public:
  group_driver(std::shared_ptr<const model::model> m, const gpu::gpu_options& o, std::uint32_t size = 2)
      : backend_driver([&](auto sinks) {
          const gpu::group_id id = gpu::make_group_id().value();
          return std::make_unique<rank_group>(
              size, std::move(sinks), [&](std::uint32_t rank, auto own) -> result<std::unique_ptr<model::backend>> {
                gpu::gpu_options mine = o;
                mine.device = static_cast<int>(rank);
                mine.place = {rank, size};
                if (auto card = gpu::use_device(mine.device); !card) return card.take_error();
                auto end = gpu::communicator::join(mine.place, id, group_limit, group_limit);
                if (!end) return end.take_error();
                return gpu::make_gpu_backend(m, mine, std::move(own), std::move(*end));
              });
        }) {}
  rank_group& ranks() { return static_cast<rank_group&>(*backend); }
};

}  // namespace troupe::test

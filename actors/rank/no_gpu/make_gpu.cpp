#include "actors/rank/backends.hpp"

namespace troupe::rank {

std::vector<std::string> gpus() { return {}; }

result<made_backend> make_gpu(const engine_options& o, int, std::shared_ptr<const model::model>,
                              std::shared_ptr<model::sink_table>, std::shared_ptr<group::collective>, std::uint32_t) {
  return failure(
      errc::unsupported,
      "device '" + o.device + "': this build has no CUDA backend: build it where the CUDA toolkit is, or use cpu");
}

}  // namespace troupe::rank

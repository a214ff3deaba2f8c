#pragma once
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include <troupe/options.hpp>

#include "src/base/result.hpp"
#include "src/group/collective.hpp"
#include "src/model/backend.hpp"
#include "src/model/open_model.hpp"

/// From an engine's options to its ranks' backends.
namespace troupe::rank {

struct made_backend {
  std::unique_ptr<model::backend> backend;
  std::string device;         ///< "cpu", "cuda:0"
  std::string arithmetic;     ///< "avx2", "reference", "bf16"
  std::uint32_t threads = 0;  ///< compute threads on the CPU
  std::uint64_t kv_bytes = 0, weight_bytes = 0;
};

/// All ranks of an engine; sizes and threads are of all together.
struct made_ranks {
  model::rank_group group;
  std::string device, arithmetic;
  std::uint32_t threads = 0;
  std::uint64_t kv_bytes = 0, weight_bytes = 0;
};

/// Chooses the device, plans the memory of tensor_parallel_size ranks, says so in the log, takes it and loads the
/// weights, all ranks at once. Errors: invalid_argument, unsupported, not_found, out_of_memory, rank_failed.
result<made_ranks> make_ranks(const engine_options&, std::shared_ptr<const model::model>,
                              std::shared_ptr<model::sink_table> sinks);

/// Sizes that ranks in several processes agree on before they load; of all ranks together but for n_pages.
struct group_plan {
  std::vector<std::uint32_t> n_pages;     ///< per KV group, the most that this rank can hold
  std::vector<std::uint64_t> page_bytes;  ///< per KV group
  std::uint64_t weight_bytes = 0;
  std::string describe;                   ///< one line for a person
};
result<group_plan> plan_group(const engine_options&, const model::model&);
/// One rank of a group whose other ranks are elsewhere. `threads` are this rank's alone.
result<made_backend> make_member(const engine_options&, const std::vector<std::uint32_t>& n_pages,
                                 std::shared_ptr<const model::model>, std::shared_ptr<model::sink_table> sinks,
                                 std::shared_ptr<group::collective>);

/// "cpu", "cuda:1" and so on, checked for form only. Errors: invalid_argument.
result<void> check_device(const std::string& device);

/// A line for each card that can be used, by ordinal; empty where there is none or the build has no CUDA.
std::vector<std::string> gpus();
/// A GPU rank; in a build without CUDA says so. `group`: its membership, null for a rank alone. Ranks are made at once,
/// each on a thread of its own, so they may meet in there, and through it give one another what their own communicator
/// needs.
result<made_backend> make_gpu(const engine_options&, int ordinal, std::shared_ptr<const model::model>,
                              std::shared_ptr<model::sink_table> sinks, std::shared_ptr<group::collective> group);

}  // namespace troupe::rank

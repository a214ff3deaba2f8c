#pragma once
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include <troupe/options.hpp>

#include "src/base/result.hpp"
#include "src/model/backend.hpp"
#include "src/model/open_model.hpp"

/// From an engine's options to the rank's backend.
namespace troupe::rank {

struct made_backend {
  std::unique_ptr<model::backend> backend;
  std::string device;         ///< "cpu", "cuda:0"
  std::string arithmetic;     ///< "avx2", "reference", "bf16"
  std::uint32_t threads = 0;  ///< compute threads on the CPU
  std::uint64_t kv_bytes = 0, weight_bytes = 0;
};

/// Chooses the device, plans its memory, says so in the log, takes it and loads the weights. `n_pages`: so many KV pages
/// exactly, whatever the options say of memory; 0: as they say. Errors: invalid_argument, unsupported, not_found,
/// out_of_memory, rank_failed.
result<made_backend> make_backend(const engine_options&, std::shared_ptr<const model::model>,
                                  std::shared_ptr<model::sink_table> sinks, std::uint32_t n_pages = 0);

/// "cpu", "cuda:1" and so on, checked for form only. Errors: invalid_argument.
result<void> check_device(const std::string& device);

/// A line for each card that can be used, by ordinal; empty where there is none or the build has no CUDA.
std::vector<std::string> gpus();
/// The GPU's part of make_backend; in a build without CUDA says so.
result<made_backend> make_gpu(const engine_options&, int ordinal, std::shared_ptr<const model::model>,
                              std::shared_ptr<model::sink_table> sinks, std::uint32_t n_pages);

}  // namespace troupe::rank

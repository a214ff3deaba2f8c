#include "actors/rank/backends.hpp"

#include <algorithm>
#include <charconv>
#include <optional>
#include <thread>

#include "src/base/log.hpp"
#include "src/cpu/cpu_backend.hpp"

namespace troupe::rank {
namespace {

result<cpu::cpu_options> cpu_options_of(const engine_options& o) {
  cpu::cpu_options c;
  c.threads = o.threads;
  c.max_slots = o.max_num_seqs;
  c.max_batched_tokens =
      std::max(o.max_num_batched_tokens ? o.max_num_batched_tokens : c.max_batched_tokens, o.max_num_seqs);
  c.max_model_len = o.max_model_len;
  c.reference = o.reference;
  c.mask_patience = std::min(c.mask_patience, std::chrono::milliseconds(500) * o.step_timeout);  // the row, not the rank
  if (o.kv_cache_dtype == "f32")
    c.kv = cpu::kv_dtype::f32;
  else if (o.kv_cache_dtype == "bf16")
    c.kv = cpu::kv_dtype::bf16;
  else if (o.kv_cache_dtype == "auto" || o.kv_cache_dtype == "f16")
    c.kv = cpu::kv_dtype::f16;
  else
    return failure(errc::invalid_argument,
                   "kv_cache_dtype '" + o.kv_cache_dtype + "': on the CPU use auto, f16, bf16 or f32");
  if (o.dtype != "auto" && o.dtype != "float32")
    return failure(errc::unsupported, "dtype '" + o.dtype + "': the CPU computes in float32: use auto or float32");
  if (!o.quantization.empty())
    return failure(errc::unsupported, "quantization '" + o.quantization +
                                          "' at load works on the GPU only: give the CPU a quantized GGUF");
  return c;
}

result<made_backend> make_cpu(const engine_options& o, std::shared_ptr<const model::model> m,
                              std::shared_ptr<model::sink_table> sinks, std::uint32_t n_pages) {
  auto c = cpu_options_of(o);
  if (!c) return c.take_error();
  c->n_pages = n_pages;
  auto plan = cpu::plan_memory(*m, *c);
  if (!plan) return plan.take_error();
  if (o.kv_cache_memory_bytes && !n_pages) {
    c->n_pages =
        static_cast<std::uint32_t>(std::min<std::uint64_t>(o.kv_cache_memory_bytes / plan->page_bytes, 1u << 30));
    if (c->n_pages == 0)
      return failure(errc::invalid_argument, "kv_cache_memory_bytes: one page of the KV cache takes " +
                                                 std::to_string(plan->page_bytes) + " bytes: give more");
    plan = cpu::plan_memory(*m, *c);
    if (!plan) return plan.take_error();
  }
  log().info("{}: {}", m->path, plan->describe());
  made_backend made;
  auto backend = cpu::make_cpu_backend(std::move(m), *c, std::move(sinks));
  if (!backend) return backend.take_error();
  made.backend = std::move(*backend);
  made.device = "cpu";
  made.arithmetic = o.reference ? "reference" : std::string(kernels::cpu::name(c->isa));
  made.threads = c->threads ? c->threads : std::max(1u, std::thread::hardware_concurrency());
  made.kv_bytes = plan->kv;
  made.weight_bytes = plan->weights;
  return made;
}

/// "cuda" and "cuda:3"; none: something else.
std::optional<int> cuda_ordinal(const std::string& device) {
  if (device == "cuda") return 0;
  if (!device.starts_with("cuda:")) return std::nullopt;
  int n = -1;
  const char* const end = device.data() + device.size();
  const auto [at, error] = std::from_chars(device.data() + 5, end, n);
  if (error != std::errc() || at != end || n < 0) return std::nullopt;
  return n;
}

}  // namespace

result<void> check_device(const std::string& device) {
  if (device == "auto" || device == "cpu" || cuda_ordinal(device)) return {};
  return failure(errc::invalid_argument, "device '" + device + "': use auto, cpu, cuda or cuda:N");
}

result<made_backend> make_backend(const engine_options& o, std::shared_ptr<const model::model> m,
                                  std::shared_ptr<model::sink_table> sinks, std::uint32_t n_pages) {
  if (auto ok = check_device(o.device); !ok) return ok.take_error();
  std::optional<int> ordinal = cuda_ordinal(o.device);
  if (o.device == "auto" && !o.reference && !gpus().empty()) ordinal = 0;
  if (!ordinal) return make_cpu(o, std::move(m), std::move(sinks), n_pages);
  if (o.reference)
    return failure(errc::invalid_argument, "the reference path computes on the CPU: leave the device out");
  return make_gpu(o, *ordinal, std::move(m), std::move(sinks), n_pages);
}

}  // namespace troupe::rank

#include <algorithm>

#include "actors/rank/backends.hpp"
#include "src/gpu/device.hpp"
#include "src/gpu/device_weights.hpp"
#include "src/gpu/gpu_backend.hpp"

namespace troupe::rank {
namespace {

using kernels::dtype;
using kernels::gpu::kv_type;

failure unknown(const char* option, const std::string& value, const char* use) {
  return {errc::invalid_argument, std::string(option) + " '" + value + "': on a GPU use " + use};
}

result<gpu::gpu_options> gpu_options_of(const engine_options& o, int ordinal, const model::model& m) {
  gpu::gpu_options g;
  g.device = ordinal;
  g.max_slots = o.max_num_seqs;
  g.max_batched_tokens =
      std::max(o.max_num_batched_tokens ? o.max_num_batched_tokens : g.max_batched_tokens, o.max_num_seqs);
  g.max_model_len = o.max_model_len;
  g.deterministic = o.deterministic;
  g.graphs = !o.enforce_eager;
  g.memory_share = o.gpu_memory_utilization;
  g.plan_file = o.gpu_plan_file;
  g.mask_patience = std::min(g.mask_patience, std::chrono::milliseconds(500) * o.step_timeout);  // the row, not the rank
  if (o.dtype == "auto")
    g.compute = gpu::natural_compute_type(m);
  else if (o.dtype == "bfloat16")
    g.compute = dtype::bf16;
  else if (o.dtype == "float16")
    g.compute = dtype::f16;
  else if (o.dtype == "float32")
    g.compute = dtype::f32;
  else
    return unknown("dtype", o.dtype, "auto, bfloat16, float16 or float32");
  if (o.kv_cache_dtype == "auto")
    g.kv = g.compute == dtype::f32 ? kv_type::f32 : g.compute == dtype::f16 ? kv_type::f16 : kv_type::bf16;
  else if (o.kv_cache_dtype == "f32")
    g.kv = kv_type::f32;
  else if (o.kv_cache_dtype == "f16")
    g.kv = kv_type::f16;
  else if (o.kv_cache_dtype == "bf16")
    g.kv = kv_type::bf16;
  else if (o.kv_cache_dtype == "fp8" || o.kv_cache_dtype == "fp8_e4m3")
    g.kv = kv_type::e4m3;
  else
    return unknown("kv_cache_dtype", o.kv_cache_dtype, "auto, bf16, f16, f32 or fp8");
  if (o.quantization == "int8")
    g.quantize = gpu::quantization::int8;
  else if (o.quantization == "int4")
    g.quantize = gpu::quantization::int4;
  else if (o.quantization == "fp8")
    g.quantize = gpu::quantization::fp8;
  else if (!o.quantization.empty())
    return unknown("quantization", o.quantization, "int8, int4 or fp8");
  return g;
}

}  // namespace

std::vector<std::string> gpus() {
  std::vector<std::string> out;
  for (const gpu::device_info& d : gpu::devices())
    out.push_back("cuda:" + std::to_string(d.ordinal) + " " + d.name + ", compute capability " +
                  std::to_string(d.major) + "." + std::to_string(d.minor) + ", " + std::to_string(d.n_sms) +
                  " processors, " + std::to_string(d.total_bytes >> 20) + " MiB");
  return out;
}

result<made_backend> make_gpu(const engine_options& o, int ordinal, std::shared_ptr<const model::model> m,
                              std::shared_ptr<model::sink_table> sinks, std::uint32_t n_pages) {
  auto g = gpu_options_of(o, ordinal, *m);
  if (!g) return g.take_error();
  g->n_pages = n_pages;
  if (o.kv_cache_memory_bytes && !n_pages) {
    g->n_pages = static_cast<std::uint32_t>(
        std::min<std::uint64_t>(o.kv_cache_memory_bytes / gpu::page_bytes(*m, *g), 1u << 30));
    if (g->n_pages == 0)
      return failure(errc::invalid_argument, "kv_cache_memory_bytes: one page of the KV cache takes " +
                                                 std::to_string(gpu::page_bytes(*m, *g)) + " bytes: give more");
  }
  auto plan = gpu::plan_memory(m, *g);
  if (!plan) return plan.take_error();
  made_backend made;
  auto backend = gpu::make_gpu_backend(std::move(m), *g, std::move(sinks));
  if (!backend) return backend.take_error();
  made.backend = std::move(*backend);
  made.device = "cuda:" + std::to_string(ordinal);
  made.arithmetic = g->compute == dtype::f32 ? "float32" : g->compute == dtype::f16 ? "float16" : "bfloat16";
  made.kv_bytes = plan->kv;
  made.weight_bytes = plan->weights;
  return made;
}

}  // namespace troupe::rank

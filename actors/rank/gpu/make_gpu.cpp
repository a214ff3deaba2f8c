#include <algorithm>
#include <chrono>
#include <span>

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
  g.mask_patience =
      std::min(g.mask_patience, std::chrono::milliseconds(500) * o.step_timeout);  // the row, not the rank
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

/// NCCL among the ranks, whose id comes from rank 0, and the cards' ways to each other.
result<std::shared_ptr<gpu::communicator>> join(group::collective& group, int ordinal, const engine_options& o) {
  gpu::group_id id{};
  if (group.place().rank == 0) {
    auto made = gpu::make_group_id();
    if (!made) return made.take_error();
    id = *made;
  }
  if (auto ok = group.broadcast(std::as_writable_bytes(std::span(id))); !ok) return ok.take_error();
  auto card = gpu::use_device(ordinal);
  if (!card) return card.take_error();
  if (auto ok = group.barrier(); !ok) return ok.take_error();  // from here on nobody waits for one without a card
  const auto share = [&group](std::span<std::byte> blocks) { return group.share_blocks(blocks); };
  if (auto ok = gpu::one_card_each(group.place(), *card, share); !ok) return ok.take_error();
  auto joined = gpu::communicator::join(group.place(), id, std::chrono::seconds(o.rank_start_timeout),
                                        std::chrono::seconds(o.step_timeout));
  if (!joined) return joined;
  if (auto ok = gpu::connect_peers(**joined, *card, share); !ok) return ok.take_error();
  return joined;
}

/// Ranks plan by what their cards have free; all take as many pages, and sequences as long, as the least of them can.
result<void> agree(group::collective& group, const model::rank_shape& shape, gpu::gpu_options& g) {
  struct most {
    std::uint32_t n_pages, max_model_len;
  };
  std::vector<most> all(group.place().size);
  all[group.place().rank] = {shape.n_pages[0], shape.max_model_len};
  if (auto ok = group.share_blocks(std::as_writable_bytes(std::span(all))); !ok) return ok;
  g.n_pages = std::ranges::min(all, {}, &most::n_pages).n_pages;
  g.max_model_len = std::ranges::min(all, {}, &most::max_model_len).max_model_len;
  return {};
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
                              std::shared_ptr<model::sink_table> sinks, std::shared_ptr<group::collective> group,
                              std::uint32_t n_pages) {
  auto g = gpu_options_of(o, ordinal, *m);
  if (!g) return g.take_error();
  if (group) g->place = group->place();
  g->n_pages = n_pages;
  if (o.kv_cache_memory_bytes && !n_pages) {
    auto page = gpu::page_bytes(*m, *g);
    if (!page) return page.take_error();
    // A rank's pages hold its share of the heads; the budget is of all ranks.
    const std::uint64_t of_all = *page * g->place.size;
    g->n_pages = static_cast<std::uint32_t>(std::min<std::uint64_t>(o.kv_cache_memory_bytes / of_all, 1u << 30));
    if (g->n_pages == 0)
      return failure(errc::invalid_argument, "kv_cache_memory_bytes: one page of the KV cache takes " +
                                                 std::to_string(of_all) + " bytes: give more");
  }
  std::shared_ptr<gpu::communicator> communicator;
  if (group) {
    auto joined = join(*group, ordinal, o);
    if (!joined) return joined.take_error();
    communicator = std::move(*joined);
  }
  auto plan = gpu::plan_rank(m, *g);
  if (!plan) return plan.take_error();
  if (group) {
    if (auto ok = agree(*group, plan->shape, *g); !ok) return ok.take_error();
    if (g->n_pages != plan->shape.n_pages[0] || g->max_model_len != plan->shape.max_model_len) {
      plan = gpu::plan_rank(m, *g);
      if (!plan) return plan.take_error();
    }
  }
  made_backend made;
  made.kv_bytes = plan->bytes.kv;
  made.weight_bytes = plan->bytes.weights;
  auto backend = gpu::make_gpu_backend(std::move(*plan), *g, std::move(sinks), communicator);
  if (!backend) return backend.take_error();
  made.backend = std::move(*backend);
  made.device = "cuda:" + std::to_string(ordinal);
  made.arithmetic = g->compute == dtype::f32 ? "float32" : g->compute == dtype::f16 ? "float16" : "bfloat16";
  if (communicator) made.abort = [communicator] { communicator->abort(); };
  return made;
}

}  // namespace troupe::rank

#include "src/gpu/rank_plan.hpp"

#include <algorithm>

#include "src/model/slot_table.hpp"

namespace troupe::gpu {

namespace g = kernels::gpu;

namespace {

constexpr std::uint32_t depth = 2;

/// The largest decode steps that graphs are captured for.
constexpr std::uint32_t most_decode_rows = 256;

/// Page-table changes that travel in a step's inputs; more go in pieces before the step, and the card waits for them.
/// All rows of a decode step may need a page at once.
std::uint32_t max_page_entries(const bucket& b) {
  return std::max({64u, std::min(b.tokens, most_decode_rows), b.tokens / g::page_tokens * 4});
}

/// Where everything lies with as many pages as p.shape says, and what it takes.
void lay_out(rank_plan& p, const gpu_options& o) {
  const model::model_config& c = p.local->config;
  const model::rank_shape& s = p.shape;
  const std::uint32_t n_sms = p.card.n_sms;
  layout l;
  l.add_bytes(p.weights.bytes());
  rank_space& at = p.at;
  at.decoder = gpu_decoder::lay_out(l, c, s, o, p.shard, p.weights, n_sms);
  memory_plan& bytes = p.bytes;
  const std::uint64_t before = l.bytes();
  at.slots = slot_admissions::lay_out(l, s);
  bytes.slots = l.bytes() - before;
  const bucket largest{s.max_batched_tokens, s.max_batched_tokens, s.max_slots};
  const g::attention_shape shape{
      c.n_heads,       c.n_kv_heads, c.head_dim, s.max_batched_tokens, std::min(s.max_batched_tokens, s.max_slots),
      s.max_model_len, c.window,     n_sms};
  at.inputs_bytes = step_layout_of(largest, shape).bytes;
  at.inputs = l.add_bytes(at.inputs_bytes);
  at.results = l.add<g::sample_result>(s.max_slots);
  at.began = l.add<std::uint64_t>(1);
  at.sample_scratch = l.add_bytes(g::sample_scratch_bytes(s.max_slots, s.vocab));
  at.bytes = l.bytes();
  bytes.weights = p.weights.bytes();
  bytes.page_bytes = gpu_decoder::page_bytes(c, o.kv);
  bytes.kv = bytes.page_bytes * s.n_pages[0];
  bytes.workspace = p.weights.scratch_bytes() + products::workspace_bytes;
  bytes.activations = at.bytes - bytes.weights - bytes.kv - bytes.slots - bytes.workspace;
}

/// The buckets of decode steps.
std::vector<std::uint32_t> graph_sizes(std::uint32_t most) {
  std::vector<std::uint32_t> out;
  for (std::uint32_t n = 1; n <= std::min(most, most_decode_rows); ++n)
    if (token_bucket(n, most) == n) out.push_back(n);
  return out;
}

failure refused(const std::string& what) { return {errc::invalid_argument, what}; }

result<void> check_limits(const gpu_options& o) {
  if (o.max_slots == 0 || o.max_slots > 4096)
    return refused("the number of sequences on a GPU must be between 1 and 4096");
  if (o.max_batched_tokens < o.max_slots || o.max_batched_tokens > 65536)
    return refused("the number of tokens in one step must be between that of sequences and 65536");
  return {};
}

model::rank_shape shape_without_pages(const model::model_config& c, const gpu_options& o) {
  model::rank_shape s;
  s.vocab = c.vocab;
  s.max_model_len = o.max_model_len ? o.max_model_len : c.context;
  s.max_slots = o.max_slots;
  s.max_batched_tokens = o.max_batched_tokens;
  s.depth = depth;
  if (o.graphs) s.graph_sizes = graph_sizes(s.max_slots);
  s.n_pages = {0};
  return s;
}

/// The pages that fit beside all else of a plan that has none yet. Where nobody asked for a length of sequences and not
/// one of the model's context fits, they become as long as fits.
result<std::uint64_t> pages_that_fit(rank_plan& p, const gpu_options& o, std::uint64_t free) {
  lay_out(p, o);
  model::rank_shape& s = p.shape;
  const auto per_sequence = [&s] { return (std::uint64_t{s.max_model_len} + page_tokens - 1) / page_tokens; };
  const auto usable = static_cast<std::uint64_t>(static_cast<double>(free) * o.memory_share);
  std::uint64_t pages = usable > p.bytes.total() ? (usable - p.bytes.total()) / p.bytes.page_bytes : 0;
  pages = std::min(pages, per_sequence() * s.max_slots);
  if (pages < per_sequence() && o.max_model_len == 0) s.max_model_len = static_cast<std::uint32_t>(pages * page_tokens);
  if (pages == 0 || pages < per_sequence())
    return failure(errc::out_of_memory, "device " + std::to_string(o.device) + " has " + std::to_string(free >> 20) +
                                            " MiB free, which holds the weights but no sequence of " +
                                            std::to_string(s.max_model_len) +
                                            " tokens: lower max-model-len or max-num-seqs");
  return pages;
}

}  // namespace

step_layout step_layout_of(const bucket& b, const g::attention_shape& shape) {
  return step_layout(b, max_page_entries(b), g::max_attention_items(shape));
}

result<rank_plan> plan_rank(std::shared_ptr<const model::model> whole, const gpu_options& o) {
  if (auto ok = check_limits(o); !ok) return ok.take_error();
  auto shard = shard_of(*whole, o.place);
  if (!shard) return shard.take_error();
  std::shared_ptr<const model::model> m = whole;
  if (o.place.size > 1) {
    auto part = model_of_shard(*whole, *shard, model::sharing::sums);
    if (!part) return part.take_error();
    m = std::move(*part);
  }
  const auto& c = m->config;
  if (c.head_dim > 256 || c.head_dim % 8 != 0 || c.hidden % 8 != 0 || c.ffn % 8 != 0)
    return failure(errc::unsupported, "the GPU kernels want head_dim up to 256 and sizes in multiples of 8");
  auto card = use_device(o.device);
  if (!card) return card.take_error();
  std::size_t free = 0, total = 0;
  if (auto ok = check(cudaMemGetInfo(&free, &total), "cudaMemGetInfo"); !ok) return ok.take_error();
  auto weights = device_weights::plan(m, *shard, o);
  if (!weights) return weights.take_error();

  rank_plan p{*card, m, *shard, std::move(*weights), shape_without_pages(c, o), {}, {}};
  result<std::uint64_t> pages = std::uint64_t{o.n_pages};
  if (o.n_pages == 0) pages = pages_that_fit(p, o, free);
  if (!pages) return pages.take_error();
  if (*pages >= model::no_page) return refused("more KV pages than page numbers");
  p.shape.n_pages = {static_cast<std::uint32_t>(*pages)};
  p.shape.groups = {{c.window, c.n_layers, gpu_decoder::page_bytes(c, o.kv)}};
  lay_out(p, o);
  p.bytes.free = free;
  if (p.at.bytes > free)
    return failure(errc::out_of_memory, "the rank would take " + p.bytes.describe() + ", the card has " +
                                            std::to_string(free >> 20) +
                                            " MiB free: lower max-num-seqs, max-num-batched-tokens or the KV cache");
  return p;
}

std::string memory_plan::describe() const {
  const auto mib = [](std::uint64_t b) { return std::to_string((b + (1u << 19)) >> 20) + " MiB"; };
  return "weights " + mib(weights) + ", KV cache " + mib(kv) + " (" + std::to_string(page_bytes ? kv / page_bytes : 0) +
         " pages), activations " + mib(activations) + ", slots " + mib(slots) + ", workspace " + mib(workspace) +
         ", together " + mib(total());
}

}  // namespace troupe::gpu

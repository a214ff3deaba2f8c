#include "src/gpu/gpu_decoder.hpp"

#include <algorithm>
#include <cmath>

#include "src/base/log.hpp"
#include "src/format/dequantize.hpp"

namespace troupe::gpu {

namespace g = kernels::gpu;
using kernels::dtype;

namespace {

std::uint32_t qkv_rows(const model::model_config& c) { return c.q_size() + 2 * c.kv_size(); }

std::uint64_t pool_page_bytes(const model::model_config& c, g::kv_type t) {
  return std::uint64_t{c.n_kv_heads} * g::page_tokens * c.head_dim * g::kv_element_bytes(t);
}
std::uint64_t scale_page_floats(const model::model_config& c, g::kv_type t) {
  return t == g::kv_type::e4m3 ? std::uint64_t{c.n_kv_heads} * g::page_tokens : 0;
}

/// The division of plan_shard, as the kernel wants it.
g::vocab_parts vocab_parts_of(const model::model_config& c, std::uint32_t size) {
  g::vocab_parts v{};
  v.size = size;
  for (std::uint32_t r = 0; r < size; ++r) {
    const model::slice part = model::vocab_of(c, {r, size});
    v.begin[r] = part.begin;
    v.ld = std::max(v.ld, part.count);
  }
  v.begin[size] = c.vocab;
  return v;
}

/// Floats that the ranks' parts of a step take: of logits, and of sums where their order is fixed.
std::uint64_t part_floats(const model::model_config& c, const model::rank_shape& s, const gpu_options& o,
                          const g::vocab_parts& v) {
  if (v.size == 1) return 0;
  const std::uint64_t logits = std::uint64_t{std::max(s.max_slots, gpu_decoder::logits_chunk)} * v.ld;
  const std::uint64_t sums = o.deterministic ? std::uint64_t{s.max_batched_tokens} * c.hidden : 0;
  return std::max(logits, sums) * v.size;
}

g::attention_shape shape_for(const model::model_config& c, const model::rank_shape& s, std::uint32_t n_sms, bucket b) {
  return {c.n_heads,       c.n_kv_heads, c.head_dim, b.tokens, std::min(b.tokens, s.max_slots),
          s.max_model_len, c.window,     n_sms};
}

}  // namespace

g::gate_activation gpu_decoder::gate_of(model::activation a) {
  switch (a) {
    case model::activation::gelu_tanh:
      return g::gate_activation::gelu_tanh;
    case model::activation::gelu_erf:
      return g::gate_activation::gelu_erf;
    case model::activation::silu:
      break;
  }
  return g::gate_activation::silu;
}

std::uint64_t gpu_decoder::page_bytes(const model::model_config& c, g::kv_type t) {
  return std::uint64_t{c.n_layers} * 2 * (pool_page_bytes(c, t) + scale_page_floats(c, t) * sizeof(float));
}

gpu_decoder::space gpu_decoder::lay_out(layout& l, const model::model_config& c, const model::rank_shape& s,
                                        const gpu_options& o, const model::shard& part, const device_weights& w,
                                        std::uint32_t n_sms) {
  const std::uint64_t n = s.max_batched_tokens, e = element_bytes(o.compute);
  const std::uint64_t table = (std::uint64_t{s.max_model_len} + g::page_tokens - 1) / g::page_tokens;
  const std::uint64_t mlp_rows = n * std::max(c.n_experts_used, 1u);
  space at;
  at.h = l.add<float>(n * c.hidden);
  at.normed = l.add_bytes(n * c.hidden * e);
  at.qkv = l.add_bytes(n * qkv_rows(c) * e);
  at.attended = l.add_bytes(n * c.q_size() * e);
  at.gate_up = l.add_bytes(mlp_rows * 2 * c.ffn * e);
  at.activated = l.add_bytes(mlp_rows * c.ffn * e);
  at.router = l.add<float>(n * c.n_experts);
  at.expert_out = l.add_bytes(c.n_experts ? mlp_rows * c.hidden * e : 0);
  at.routes =
      l.add_bytes(c.n_experts ? g::expert_routes_bytes(c.n_experts, c.n_experts_used, s.max_batched_tokens) : 0);
  at.squares = l.add<float>(c.hidden / 4);
  at.rope = l.add<float>(n * c.rope.dim);
  at.frequencies = l.add<double>(c.rope.dim / 2);
  at.logits = l.add<float>(std::uint64_t{std::max(s.max_slots, logits_chunk)} * c.vocab);
  at.page_table = l.add<std::uint32_t>(table * s.max_slots);
  at.constants = l.add<std::uint32_t>(4);
  at.attention_scratch =
      l.add_bytes(g::attention_scratch_bytes(shape_for(c, s, n_sms, {s.max_batched_tokens, s.max_batched_tokens})));
  at.dequantized = l.add_bytes(w.scratch_bytes());
  at.workspace = l.add_bytes(products::workspace_bytes);
  at.parts = l.add<float>(part_floats(c, s, o, vocab_parts_of(c, part.place.size)));
  at.exchanged = l.add<float>(std::min<std::uint64_t>(n * c.hidden, g::exchange_capacity(part.place.size)));
  at.kv = l.add_bytes(std::uint64_t{c.n_layers} * 2 * pool_page_bytes(c, o.kv) * s.n_pages[0]);
  at.kv_scales = l.add<float>(std::uint64_t{c.n_layers} * 2 * scale_page_floats(c, o.kv) * s.n_pages[0]);
  return at;
}

result<std::unique_ptr<gpu_decoder>> gpu_decoder::make(std::shared_ptr<const model::model> m,
                                                       std::shared_ptr<communicator> group, const model::rank_shape& s,
                                                       const gpu_options& o, device_weights w, const space& at,
                                                       std::byte* base, std::uint32_t n_sms) {
  auto p =
      products::make(o.compute, o.deterministic, base + at.workspace, products::workspace_bytes, base + at.dequantized);
  if (!p) return p.take_error();
  if (!o.plan_file.empty()) p->read_choices(o.plan_file);
  std::unique_ptr<gpu_decoder> d(
      new gpu_decoder(std::move(m), std::move(group), s, o, std::move(w), std::move(*p), at, base, n_sms));
  std::vector<float> divisors;
  if (const format::tensor_view* t = d->model_->weights.find(model::tensor_role::rope_divisors)) {
    divisors.resize(t->shape.elements());
    (void)format::dequantize(*t, divisors);
  }
  const std::vector<double> frequencies = model::inverse_frequencies(d->c_.rope, divisors);
  const std::uint32_t chunk = logits_chunk;
  checked ok;
  ok(cudaMemcpy(d->frequencies_, frequencies.data(), frequencies.size() * sizeof(double), cudaMemcpyHostToDevice),
     "cudaMemcpy")(cudaMemcpy(d->constants_, &chunk, sizeof chunk, cudaMemcpyHostToDevice), "cudaMemcpy")(
      cudaMemset(d->attention_scratch_, 0, at.dequantized - at.attention_scratch), "cudaMemset");
  if (const auto& c = d->c_; c.n_experts)
    ok(cudaMemset(base + at.routes, 0, g::expert_routes_bytes(c.n_experts, c.n_experts_used, s.max_batched_tokens)),
       "cudaMemset");
  ok(cudaDeviceSynchronize(), "cudaDeviceSynchronize");
  if (!ok.ok()) return ok.take().take_error();
  return d;
}

gpu_decoder::gpu_decoder(std::shared_ptr<const model::model> m, std::shared_ptr<communicator> group,
                         const model::rank_shape& s, const gpu_options& o, device_weights w, products p,
                         const space& at, std::byte* base, std::uint32_t n_sms)
    : model_(std::move(m)),
      group_(std::move(group)),
      vocab_parts_(vocab_parts_of(model_->config, o.place.size)),
      c_(model_->config),
      shape_(s),
      options_(o),
      weights_(std::move(w)),
      products_(std::move(p)),
      n_sms_(n_sms),
      table_pages_((s.max_model_len + g::page_tokens - 1) / g::page_tokens),
      h_(reinterpret_cast<float*>(base + at.h)),
      squares_(reinterpret_cast<float*>(base + at.squares)),
      rope_(reinterpret_cast<float*>(base + at.rope)),
      logits_(reinterpret_cast<float*>(base + at.logits)),
      parts_(reinterpret_cast<float*>(base + at.parts)),
      exchanged_(reinterpret_cast<float*>(base + at.exchanged)),
      normed_(base + at.normed),
      qkv_(base + at.qkv),
      attended_(base + at.attended),
      gate_up_(base + at.gate_up),
      activated_(base + at.activated),
      router_(reinterpret_cast<float*>(base + at.router)),
      expert_out_(base + at.expert_out),
      frequencies_(reinterpret_cast<double*>(base + at.frequencies)),
      page_table_(reinterpret_cast<std::uint32_t*>(base + at.page_table)),
      constants_(reinterpret_cast<std::uint32_t*>(base + at.constants)),
      attention_scratch_(base + at.attention_scratch),
      kv_(base + at.kv),
      kv_scales_(reinterpret_cast<float*>(base + at.kv_scales)) {
  if (c_.n_experts)
    routes_ = g::view_expert_routes(base + at.routes, c_.n_experts, c_.n_experts_used, s.max_batched_tokens);
  const bool plain_layers = std::ranges::all_of(weights_.layers, [&](const layer_weights& w) {
    return w.qkv.plain() && w.o.plain() && w.gate_up.plain() && w.down.plain() && !w.o_bias && !w.gate_bias &&
           !w.up_bias && !w.down_bias;
  });
  // Of a norm's two halves the first is in bf16: without a division before it, f16 could overflow.
  fuses_one_token_ = plain_layers && (c_.n_experts == 0 || experts_by_gemv(1)) && (!group_ || exchanges(1)) &&
                     !options_.deterministic && options_.compute == dtype::bf16 && c_.hidden % 16 == 0;
}

g::attention_shape gpu_decoder::attention_shape(const bucket& b) const { return shape_for(c_, shape_, n_sms_, b); }

bucket gpu_decoder::largest_bucket() const { return {shape_.max_batched_tokens, shape_.max_batched_tokens}; }

g::kv_pool gpu_decoder::kv_of(std::uint32_t layer) const {
  const std::uint64_t pool = pool_page_bytes(c_, options_.kv) * shape_.n_pages[0];
  const std::uint64_t scales = scale_page_floats(c_, options_.kv) * shape_.n_pages[0];
  std::byte* k = kv_ + 2 * layer * pool;
  float* s = scales ? kv_scales_ + 2 * layer * scales : nullptr;
  return {k, k + pool, s, s ? s + scales : nullptr, options_.kv, c_.n_kv_heads, c_.head_dim};
}

result<void> gpu_decoder::copy_page(std::uint32_t from, std::uint32_t to, cudaStream_t stream) {
  const auto copy = [&](std::byte* pools, std::uint64_t page) {
    // One row per pool: layers and keys, values lie n_pages pages apart.
    return check(cudaMemcpy2DAsync(pools + to * page, page * shape_.n_pages[0], pools + from * page,
                                   page * shape_.n_pages[0], page, 2 * c_.n_layers, cudaMemcpyDeviceToDevice, stream),
                 "cudaMemcpy2DAsync");
  };
  if (from == to) return {};
  if (auto ok = copy(kv_, pool_page_bytes(c_, options_.kv)); !ok) return ok;
  const std::uint64_t scales = scale_page_floats(c_, options_.kv) * sizeof(float);
  return scales ? copy(reinterpret_cast<std::byte*>(kv_scales_), scales) : result<void>();
}

result<void> gpu_decoder::forward(const bucket& b, const step_layout& l, std::byte* inputs,
                                  const std::int32_t* last_token, cudaStream_t stream) {
  const g::step_header* header = step_layout::header(inputs);
  checked ok;
  begin(ok, b, l, inputs, last_token, stream);
  const one_token_plan one = plan_one_token(b);
  for (std::uint32_t i = 0; i < c_.n_layers && ok.ok(); ++i) {
    if (one.any())
      one_token_layer(ok, i, one, b, l, inputs, stream);
    else
      layer(ok, i, b, l, inputs, stream);
  }
  if (b.outputs > 0)
    ok(g::rms_norm({h_, weights_.layers.back().down_bias, weights_.output_norm, 0.0f, c_.rms_eps, normed_,
                    options_.compute, c_.hidden, step_layout::at<std::uint32_t>(inputs, l.gather)},
                   &header->n_outputs, b.outputs, stream),
       "rms_norm");
  return ok.take();
}

/// The residual stream, normed for the first layer, and the rotations' table.
void gpu_decoder::begin(checked& ok, const bucket& b, const step_layout& l, std::byte* inputs,
                        const std::int32_t* last_token, cudaStream_t stream) {
  const std::uint32_t* n = &step_layout::header(inputs)->n_tokens;
  const float* first_norm = weights_.layers.front().attention_norm;
  ok(g::rope_table(step_layout::at<std::uint32_t>(inputs, l.positions), frequencies_, c_.rope.dim,
                   c_.rope.attention_factor, rope_, n, b.tokens, stream),
     "rope_table");
  ok(g::embed(weights_.embedding, step_layout::at<g::input_token>(inputs, l.tokens), last_token, 1.0f, h_, n, b.tokens,
              stream),
     "embed");
  // A rank has zeros for tokens of the others' rows, so this sum rounds nothing.
  if (exchanges(b.tokens)) {
    ok(g::exchange_norm({norm_args(nullptr, first_norm), h_, false, exchange(0, inputs)}, n, b.tokens, stream),
       "exchange_norm");
    return;
  }
  if (group_ && ok.ok()) ok(group_->all_reduce(h_, std::uint64_t{b.tokens} * c_.hidden, stream));
  norm(ok, nullptr, first_norm, b, n, stream);
}

bool gpu_decoder::exchanges(std::uint32_t n_tokens) const {
  const peers* direct = group_ ? group_->direct() : nullptr;
  return direct && g::can_exchange_norm(direct->view(), c_.hidden, n_tokens) && n_tokens <= direct->n_sms();
}

g::exchange_call gpu_decoder::exchange(std::uint32_t sum, std::byte* inputs) const {
  return {group_->direct()->view(), &step_layout::header(inputs)->run, sums_per_step(), sum};
}

/// Where this rank's part of a sum goes that is added in a fixed order: its place among [rank][n_tokens][hidden].
float* gpu_decoder::part_of_sum(std::uint32_t n_tokens) const {
  return parts_ + std::uint64_t{group_->place().rank} * n_tokens * c_.hidden;
}

/// A product that belongs to the residual stream. Of several ranks each keeps its part apart where the cards exchange
/// them, or where they are gathered to be added in order; else the first adds to the stream and the others overwrite
/// theirs, so that the sum over the ranks is the stream with all parts added.
product gpu_decoder::residual(const void* x, std::uint32_t n_tokens) const {
  if (!group_) return {x, h_, dtype::f32, c_.hidden, true};
  if (exchanges(n_tokens)) return {x, exchanged_, dtype::f32, c_.hidden, false};
  if (options_.deterministic) return {x, part_of_sum(n_tokens), dtype::f32, c_.hidden, false};
  return {x, h_, dtype::f32, c_.hidden, group_->place().rank == 0};
}

/// The stream after such a product, on all ranks, by NCCL.
void gpu_decoder::add_up(checked& ok, std::uint32_t n_tokens, cudaStream_t stream) {
  if (!group_ || !ok.ok()) return;
  const std::uint64_t n = std::uint64_t{n_tokens} * c_.hidden;
  if (!options_.deterministic) {
    ok(group_->all_reduce(h_, n, stream));
    return;
  }
  ok(group_->all_gather(part_of_sum(n_tokens), parts_, n, stream));
  ok(g::add_parts(h_, parts_, group_->place().size, n, n, stream), "add_parts");
}

g::rms_norm_args gpu_decoder::norm_args(const float* bias, const float* weight) const {
  return {h_, bias, weight, 0.0f, c_.rms_eps, normed_, options_.compute, c_.hidden, nullptr};
}

void gpu_decoder::norm(checked& ok, const float* bias, const float* weight, const bucket& b,
                       const std::uint32_t* n_tokens, cudaStream_t stream) {
  ok(g::rms_norm(norm_args(bias, weight), n_tokens, b.tokens, stream), "rms_norm");
}

void gpu_decoder::between(checked& ok, std::uint32_t sum, const float* bias, const float* weight, const bucket& b,
                          std::byte* inputs, cudaStream_t stream) {
  const std::uint32_t* n = &step_layout::header(inputs)->n_tokens;
  if (exchanges(b.tokens)) {
    // The last sum is normed as well; nobody reads that.
    ok(g::exchange_norm(
           {norm_args(bias, weight ? weight : weights_.output_norm), exchanged_, true, exchange(sum, inputs)}, n,
           b.tokens, stream),
       "exchange_norm");
    return;
  }
  add_up(ok, b.tokens, stream);
  if (weight) norm(ok, bias, weight, b, n, stream);
}

void gpu_decoder::between_halves(checked& ok, std::uint32_t i, const bucket& b, std::byte* inputs,
                                 cudaStream_t stream) {
  const layer_weights& w = weights_.layers[i];
  between(ok, 2 * i + 1, w.o_bias, w.ffn_norm, b, inputs, stream);
}

/// After the last layer the norm of the outputs adds the bias.
void gpu_decoder::between_layers(checked& ok, std::uint32_t i, const bucket& b, std::byte* inputs,
                                 cudaStream_t stream) {
  const bool last = i + 1 == c_.n_layers;
  between(ok, 2 * i + 2, last ? nullptr : weights_.layers[i].down_bias,
          last ? nullptr : weights_.layers[i + 1].attention_norm, b, inputs, stream);
}

g::rope_store_args gpu_decoder::rope_args(std::uint32_t i, const step_layout& l, std::byte* inputs) const {
  g::rope_store_args rope{};
  rope.qkv = qkv_;
  rope.type = options_.compute;
  rope.bias = weights_.layers[i].qkv_bias;
  rope.q_norm = weights_.layers[i].q_norm;
  rope.k_norm = weights_.layers[i].k_norm;
  rope.eps = c_.rms_eps;
  rope.rope = rope_;
  rope.rope_dim = c_.rope.dim;
  rope.interleaved = c_.rope.form == model::rope_form::interleaved;
  rope.n_heads = c_.n_heads;
  rope.kv = kv_of(i);
  rope.positions = step_layout::at<std::uint32_t>(inputs, l.positions);
  rope.slots = step_layout::at<std::uint32_t>(inputs, l.slots);
  rope.page_table = page_table_;
  rope.table_pages = table_pages_;
  return rope;
}

void gpu_decoder::attention(checked& ok, std::uint32_t i, const bucket& b, const step_layout& l, std::byte* inputs,
                            cudaStream_t stream) {
  g::attention_args attention{};
  // Of the largest step, whatever this one's size: the shape says where in the scratch counters lie, which are zero
  // between steps, and where partial results, which are not. Steps are planned for their own, smaller shapes.
  attention.shape = attention_shape(largest_bucket());
  attention.q = qkv_;
  attention.ld_q = weights_.layers[i].qkv.rows;
  attention.out = attended_;
  attention.type = options_.compute;
  attention.kv = kv_of(i);
  attention.page_table = page_table_;
  attention.table_pages = table_pages_;
  attention.scale = 1.0f / std::sqrt(static_cast<float>(c_.head_dim));
  attention.items = step_layout::at<g::attention_item>(inputs, l.items);
  attention.n_items = &step_layout::header(inputs)->n_attention_items;
  attention.scratch = attention_scratch_;
  if (!options_.deterministic && g::attention_few_pays(attention.shape, b.tokens) &&
      g::can_attend_few(attention, b.tokens))
    ok(g::attention_few(attention, step_layout::at<std::uint32_t>(inputs, l.positions),
                        step_layout::at<std::uint32_t>(inputs, l.slots), &step_layout::header(inputs)->n_tokens,
                        b.tokens, stream),
       "attention_few");
  else
    ok(g::attention(attention, stream), "attention");
}

/// Queries, keys and values, rotated, the latter in the cache.
void gpu_decoder::project(checked& ok, std::uint32_t i, const bucket& b, const step_layout& l, std::byte* inputs,
                          cudaStream_t stream) {
  const linear& qkv = weights_.layers[i].qkv;
  const std::uint32_t* n = &step_layout::header(inputs)->n_tokens;
  ok(products_.run(qkv, {normed_, qkv_, options_.compute, qkv.rows}, n, b.tokens, stream));
  ok(g::rope_and_store(rope_args(i, l, inputs), n, b.tokens, stream), "rope_and_store");
}

/// The first half of a gated MLP.
void gpu_decoder::gate(checked& ok, std::uint32_t i, const bucket& b, const std::uint32_t* n_tokens,
                       cudaStream_t stream) {
  const layer_weights& w = weights_.layers[i];
  const dtype type = options_.compute;
  result<bool> gated = false;
  if (!w.gate_bias && !w.up_bias)
    gated = products_.run_gated(w.gate_up, gate_of(c_.act), {normed_, activated_, type, c_.ffn}, n_tokens, b.tokens,
                                stream);
  if (!gated) ok(gated.take_error());
  if (gated && !*gated) {
    ok(products_.run(w.gate_up, {normed_, gate_up_, type, w.gate_up.rows}, n_tokens, b.tokens, stream));
    ok(g::gated_activation(gate_of(c_.act), gate_up_, w.gate_bias, w.up_bias, activated_, type, c_.ffn, n_tokens,
                           b.tokens, stream),
       "gated_activation");
  }
}

void gpu_decoder::layer(checked& ok, std::uint32_t i, const bucket& b, const step_layout& l, std::byte* inputs,
                        cudaStream_t stream) {
  const layer_weights& w = weights_.layers[i];
  const std::uint32_t* n = &step_layout::header(inputs)->n_tokens;
  project(ok, i, b, l, inputs, stream);
  attention(ok, i, b, l, inputs, stream);
  ok(products_.run(w.o, residual(attended_, b.tokens), n, b.tokens, stream));
  between_halves(ok, i, b, inputs, stream);
  feed_forward(ok, i, b, n, stream);
  between_layers(ok, i, b, inputs, stream);
}

void gpu_decoder::feed_forward(checked& ok, std::uint32_t i, const bucket& b, const std::uint32_t* n_tokens,
                               cudaStream_t stream) {
  if (c_.n_experts) {
    experts(ok, i, b, n_tokens, stream);
    return;
  }
  gate(ok, i, b, n_tokens, stream);
  ok(products_.run(weights_.layers[i].down, residual(activated_, b.tokens), n_tokens, b.tokens, stream));
}

result<void> gpu_decoder::tune(const bucket& b, cudaStream_t stream) {
  std::uint32_t* const count = constants_ + 1;
  checked ok;
  ok(cudaStreamSynchronize(stream), "cudaStreamSynchronize")(
      cudaMemcpy(count, &b.tokens, sizeof b.tokens, cudaMemcpyHostToDevice), "cudaMemcpy");
  const dtype type = options_.compute;
  // A gemv of one token does besides what a norm or a rotation would (one_token_layer), 1.2 us on an H200.
  const float gemv_saves_us = b.tokens == 1 && fuses_one_token_ ? 1.2f : 0.0f;
  const auto tune_all = [&](linear layer_weights::*which, const product& p) {
    std::vector<const linear*> layers;
    for (const layer_weights& w : weights_.layers) {
      const linear& l = w.*which;
      // A file may store some layers otherwise; they are other products.
      const auto alike = [](const linear_part& x, const linear_part& y) { return x.packed.form == y.packed.form; };
      if (layers.empty() || std::ranges::equal(l.parts, layers.front()->parts, alike)) layers.push_back(&l);
    }
    ok(products_.tune(layers, p, count, b.tokens, stream, gemv_saves_us));
  };
  const layer_weights& w = weights_.layers.front();
  tune_all(&layer_weights::qkv, {normed_, qkv_, type, w.qkv.rows});
  tune_all(&layer_weights::o, residual(attended_, b.tokens));
  if (c_.n_experts == 0) {
    tune_all(&layer_weights::gate_up, {normed_, gate_up_, type, w.gate_up.rows});
    tune_all(&layer_weights::down, residual(activated_, b.tokens));
  }
  if (b.draws > 0) {
    const linear* const head[] = {&weights_.head};
    ok(products_.tune(head, {normed_, logits_, dtype::f32, group_ ? vocab_parts_.ld : c_.vocab}, count, b.draws,
                      stream));
  }
  // Ranks of a group time equal shapes; one of them keeps what it found.
  if (!options_.plan_file.empty() && options_.place.rank == 0 && ok.ok())
    if (auto kept = products_.write_choices(options_.plan_file); !kept) log().warn("{}", kept.error().message);
  return ok.take();
}

result<void> gpu_decoder::head(std::uint32_t first, std::uint32_t n, const std::uint32_t* count, cudaStream_t stream) {
  const std::byte* x = normed_ + std::uint64_t{first} * c_.hidden * element_bytes(options_.compute);
  if (!group_) return products_.run(weights_.head, {x, logits_, dtype::f32, c_.vocab}, count, n, stream);
  const std::uint64_t part = std::uint64_t{n} * vocab_parts_.ld;
  float* const mine = parts_ + group_->place().rank * part;
  checked ok;
  ok(products_.run(weights_.head, {x, mine, dtype::f32, vocab_parts_.ld}, count, n, stream));
  if (ok.ok()) ok(group_->all_gather(mine, parts_, part, stream));
  ok(g::join_logits(vocab_parts_, parts_, logits_, n, stream), "join_logits");
  return ok.take();
}

}  // namespace troupe::gpu

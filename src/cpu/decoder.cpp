#include "src/cpu/decoder.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "kernels/common/kv_page.hpp"
#include "src/format/dequantize.hpp"

namespace troupe::cpu {

using namespace kernels::cpu;
using model::tensor_role;

static_assert(kernels::kv_page_tokens == page_tokens);

namespace {

constexpr std::uint32_t few_rows = 4;  // up to so many tokens every thread norms and quantizes for itself

kv_type type_of(kv_dtype t) {
  return t == kv_dtype::f32 ? kv_type::f32 : t == kv_dtype::bf16 ? kv_type::bf16 : kv_type::f16;
}

std::uint32_t widest(const rank_part& p) { return std::max({p.hidden.width, p.attended.width, p.ffn.width}); }
/// Groups of a row of `cols`; rows that are never quantized may have any width.
std::uint64_t groups_of(std::uint32_t cols) { return (cols + group_size - 1) / group_size; }

attention_plan::shape attention_shape(const model::model_config& c, const model::rank_shape& s, std::uint32_t threads) {
  return {c.n_heads, c.n_kv_heads, c.head_dim, c.window, threads, s.max_batched_tokens, s.max_model_len};
}

}  // namespace

decoder::offsets decoder::lay_out(const rank_part& p, const model::rank_shape& s, std::uint32_t threads) {
  const model::model_config& c = p.model->config;
  const std::uint64_t n = s.max_batched_tokens;
  const std::uint64_t n_mlp = c.n_experts ? n * c.n_experts_used : n;
  layout shared, own;
  offsets o{};
  o.h = shared.add<float>(n * c.hidden);
  o.a = shared.add<float>(n * c.hidden);
  o.groups = shared.add<activation_group>(std::max(n * groups_of(widest(p)),
                                                   n_mlp * groups_of(std::max(p.hidden.width, p.ffn.width))));
  o.rope = shared.add<float>(n * 2 * c.rope.dim);
  o.b = shared.add<float>(n * c.hidden);
  o.qkv = shared.add<float>(n * (c.q_size() + 2 * c.kv_size()));
  o.att = shared.add<float>(n * p.attended.width);
  o.gate = shared.add<float>(n_mlp * p.ffn.width);
  o.up = shared.add<float>(n_mlp * c.ffn);
  o.router = shared.add<float>(n * c.n_experts);
  o.expert_rows = shared.add<float>(c.n_experts ? n_mlp * c.hidden : 0);
  o.n_partials = attention_plan::partial_floats(attention_shape(c, s, threads));
  o.partials = shared.add<float>(o.n_partials);
  o.own_h = own.add<float>(few_rows * c.hidden);
  o.own_a = own.add<float>(few_rows * c.hidden);
  o.own_groups = own.add<activation_group>(few_rows * groups_of(widest(p)));
  o.own_rope = own.add<float>(few_rows * 2 * c.rope.dim);
  o.own_attention = own.add<std::byte>(attention_scratch_bytes(c.head_dim));
  o.own_bytes = (own.bytes() + 4095) / 4096 * 4096;  // threads stay off each other's lines
  o.own = shared.add<std::byte>(o.own_bytes * threads);
  o.total = shared.bytes();
  return o;
}

result<memory_plan> decoder::plan(const rank_part& part, const model::rank_shape& s, const cpu_options& o,
                                  std::uint32_t threads) {
  const model::model& m = *part.model;
  auto weights = packed_weights::bytes(m);
  if (!weights) return weights.take_error();
  memory_plan p;
  p.weights = *weights;
  p.page_bytes = std::uint64_t{m.config.n_layers} * m.config.n_kv_heads * kv_head_bytes(type_of(o.kv), m.config.head_dim);
  p.kv = p.page_bytes * s.n_pages[0];
  p.activations = lay_out(part, s, threads).total;
  return p;
}

result<std::unique_ptr<forward>> decoder::make(rank_part part, const model::rank_shape& s, const cpu_options& o,
                                               thread_pool& pool) {
  auto sizes = plan(part, s, o, pool.size());
  if (!sizes) return sizes.take_error();
  auto kv = region::take(sizes->kv, "the KV cache");
  if (!kv) return kv.take_error();
  auto scratch = region::take(sizes->activations, "activations");
  if (!scratch) return scratch.take_error();
  auto weights = packed_weights::make(*part.model, pool);
  if (!weights) return weights.take_error();
  return std::unique_ptr<forward>(
      new decoder(std::move(part), s, o, pool, std::move(*weights), std::move(*kv), std::move(*scratch)));
}

decoder::decoder(rank_part part, const model::rank_shape& s, const cpu_options& o, thread_pool& pool,
                 packed_weights weights, region kv, region scratch)
    : part_(std::move(part)),
      c_(part_.model->config),
      vector_(vector_kernels_for(o.isa)),
      matmul_(matmul_kernels_for(o.isa)),
      attention_(attention_kernels_for(o.isa)),
      kv_type_(type_of(o.kv)),
      pool_(pool),
      weights_(std::move(weights)),
      kv_(std::move(kv)),
      scratch_(std::move(scratch)),
      page_bytes_(std::uint64_t{c_.n_layers} * c_.n_kv_heads * kv_head_bytes(kv_type_, c_.head_dim)),
      at_(lay_out(part_, s, pool.size())),
      b_(scratch_.at<float>(at_.b)),
      qkv_(scratch_.at<float>(at_.qkv)),
      att_(scratch_.at<float>(at_.att)),
      gate_(scratch_.at<float>(at_.gate)),
      up_(scratch_.at<float>(at_.up)),
      router_(scratch_.at<float>(at_.router)),
      expert_rows_(scratch_.at<float>(at_.expert_rows)),
      routing_(c_.n_experts, c_.n_experts_used, c_.experts_renormalized, s.max_batched_tokens),
      plan_(attention_shape(c_, s, pool.size())) {
  std::vector<float> divisors;
  if (const format::tensor_view* t = part_.model->weights.find(tensor_role::rope_divisors)) {
    divisors.resize(t->shape.elements());
    (void)format::dequantize(*t, divisors);
  }
  frequencies_ = model::inverse_frequencies(c_.rope, divisors);
}

void decoder::fork(page_id from, page_id to) {
  if (from != to) std::memcpy(kv_.data() + to * page_bytes_, kv_.data() + from * page_bytes_, page_bytes_);
}

result<void> decoder::run(const step_batch& batch) {
  batch_ = batch;
  plan_.build(batch);
  pool_.run([this](team& t) { walk(t); });
  return failed_ ? result<void>(*failed_) : result<void>();
}

result<void> decoder::logits(std::uint32_t first, std::uint32_t n, float* out) {
  const bool few = n <= few_rows;
  pool_.run([&](team& t) {
    rows r = rows_of(t, few);
    // The hidden states of the outputs are the first rows of the shared stream; they stay as they are.
    const float* h = scratch_.at<float>(at_.h) + std::size_t{first} * c_.hidden;
    const auto make = [&](std::uint32_t begin, std::uint32_t end) {
      for (std::uint32_t i = begin; i < end; ++i)
        vector_.rms_norm(h + i * c_.hidden, weights_.output_norm, c_.rms_eps, c_.hidden, r.a + i * c_.hidden);
      if (weights_.head.wants_groups()) matmul_.quantize_rows(r.a, c_.hidden, n, c_.hidden, begin, end, r.groups);
    };
    if (few) {
      make(0, n);
    } else {
      t.for_tiles(n, row_chunk, make);
      t.barrier();
    }
    const linear* parts[] = {&weights_.head};
    float* const to = out + part_.vocab.own.begin;
    multiply(t, parts, &to, c_.vocab, r.a, c_.hidden, r, n);
  });
  if (!part_.group) return {};
  return part_.group->gather_columns(out, c_.vocab, n, part_.vocab.of);
}

decoder::rows decoder::rows_of(const team& t, bool few) const {
  if (few) {
    std::byte* mine = own(t);
    return {reinterpret_cast<float*>(mine + at_.own_h), reinterpret_cast<float*>(mine + at_.own_a),
            reinterpret_cast<activation_group*>(mine + at_.own_groups), reinterpret_cast<float*>(mine + at_.own_rope)};
  }
  return {scratch_.at<float>(at_.h), scratch_.at<float>(at_.a), scratch_.at<activation_group>(at_.groups),
          scratch_.at<float>(at_.rope)};
}

/// Every thread has computed its share of the rank's columns of x [n][width]; when this returns true, x is whole on all
/// threads, with the other ranks' columns. False: the group has failed, on all threads.
bool decoder::meet(team& t, float* x, const shared_columns& columns, std::uint32_t n) {
  t.barrier();
  if (!part_.group) return true;
  if (t.index() == 0)
    if (auto ok = part_.group->share_columns(x, columns.width, n, columns.of); !ok) failed_ = ok.take_error();
  t.barrier();
  return !failed_;
}

void decoder::walk(team& t) {
  auto n = static_cast<std::uint32_t>(batch_.tokens.size());
  const auto n_outputs = static_cast<std::uint32_t>(batch_.outputs.size());
  bool few = n <= few_rows;
  rows r = rows_of(t, few);
  embed(t, r, n);
  if (!few) t.barrier();
  const std::size_t qkv_ld = c_.q_size() + 2 * c_.kv_size();
  const float* delta = nullptr;  // what the last layer's feed-forward adds to the stream
  const float* bias = nullptr;
  for (std::uint32_t i = 0; i < c_.n_layers; ++i) {
    const layer_weights& l = weights_.layers[i];
    norm(t, r, n, few, delta, bias, l.attention_norm, l.q.wants_groups() || l.k.wants_groups() || l.v.wants_groups());
    const linear* qkv[] = {&l.q, &l.k, &l.v};
    float* const to[] = {qkv_, qkv_ + c_.q_size(), qkv_ + c_.q_size() + c_.kv_size()};
    multiply(t, qkv, to, qkv_ld, r.a, c_.hidden, r, n);
    t.barrier();

    // After the last layer's keys and values are stored, only rows whose logits are wanted go on.
    const bool narrow = i + 1 == c_.n_layers && n_outputs < n;
    attention(t, i, r, narrow);
    if (narrow) {
      if (n_outputs == 0) return;
      const bool now_few = n_outputs <= few_rows;
      const rows next = rows_of(t, now_few);
      if (now_few || t.index() == 0)  // ascending, so a row is read before it is overwritten
        for (std::uint32_t k = 0; k < n_outputs; ++k)
          std::memmove(next.h + k * c_.hidden, r.h + std::size_t{batch_.outputs[k].token} * c_.hidden,
                       c_.hidden * sizeof(float));
      n = n_outputs;
      few = now_few;
      r = next;
    }
    if (!meet(t, att_, part_.attended, n)) return;
    quantize(t, r, n, few, att_, part_.attended.width, l.o.wants_groups());
    const linear* o[] = {&l.o};
    float* const own = b_ + part_.hidden.own.begin;
    multiply(t, o, &own, c_.hidden, att_, part_.attended.width, r, n);
    if (!meet(t, b_, part_.hidden, n)) return;
    const bool dense = l.experts.empty();
    norm(t, r, n, few, b_, l.o.bias, l.ffn_norm,
         dense ? l.gate.wants_groups() || l.up.wants_groups() : l.router.wants_groups());
    if (!(dense ? feed_forward(t, l, r, n, few) : experts(t, l, r, n))) return;
    delta = b_;
    bias = l.down.bias;
  }
  // The outputs' rows of the stream, to the front of the shared one. With few rows thread 0 has them all.
  float* h = scratch_.at<float>(at_.h);
  const auto finish = [&](std::uint32_t begin, std::uint32_t end) {
    for (std::uint32_t k = begin; k < end; ++k) {
      float* row = h + std::size_t{k} * c_.hidden;
      if (few) std::memcpy(row, r.h + std::size_t{k} * c_.hidden, c_.hidden * sizeof(float));
      vector_.add(row, delta + std::size_t{k} * c_.hidden, c_.hidden);
      if (bias) vector_.add(row, bias, c_.hidden);
    }
  };
  if (!few)
    t.for_tiles(n, row_chunk, finish);
  else if (t.index() == 0)
    finish(0, n);
}

void decoder::embed(team& t, const rows& r, std::uint32_t n) {
  const format::tensor_view& table = *part_.model->weights.find(tensor_role::embedding);
  const auto make = [&](std::uint32_t begin, std::uint32_t end) {
    for (std::uint32_t i = begin; i < end; ++i) {
      (void)format::dequantize_rows(table, static_cast<std::uint64_t>(batch_.tokens[i]), 1,
                                    {r.h + std::size_t{i} * c_.hidden, c_.hidden});
      rope_row(frequencies_.data(), c_.rope.dim, c_.rope.form == model::rope_form::interleaved, batch_.positions[i],
               c_.rope.attention_factor, r.rope + std::size_t{i} * 2 * c_.rope.dim);
    }
  };
  if (n <= few_rows)
    make(0, n);
  else
    t.for_tiles(n, row_chunk, make);
}

/// h += delta + bias, then a = norm(h) and, if wanted, its groups; ready on all threads.
void decoder::norm(team& t, const rows& r, std::uint32_t n, bool few, const float* delta, const float* bias,
                   const float* weight, bool groups) {
  const auto make = [&](std::uint32_t begin, std::uint32_t end) {
    for (std::uint32_t i = begin; i < end; ++i) {
      float* h = r.h + std::size_t{i} * c_.hidden;
      if (delta) vector_.add(h, delta + std::size_t{i} * c_.hidden, c_.hidden);
      if (bias) vector_.add(h, bias, c_.hidden);
      vector_.rms_norm(h, weight, c_.rms_eps, c_.hidden, r.a + std::size_t{i} * c_.hidden);
    }
    if (groups) matmul_.quantize_rows(r.a, c_.hidden, n, c_.hidden, begin, end, r.groups);
  };
  if (few) return make(0, n);
  t.for_tiles(n, row_chunk, make);
  t.barrier();
}

void decoder::quantize(team& t, const rows& r, std::uint32_t n, bool few, const float* x, std::uint32_t cols,
                       bool wanted) {
  if (!wanted) return;
  const auto make = [&](std::uint32_t begin, std::uint32_t end) {
    matmul_.quantize_rows(x, cols, n, cols, begin, end, r.groups);
  };
  if (few) return make(0, n);
  t.for_tiles(n, row_chunk, make);
  t.barrier();
}

/// Products of one activation matrix with several weight matrices of equal width; tiles are shared out as if the matrices
/// were one.
void decoder::multiply(team& t, std::span<const linear* const> parts, float* const* y, std::size_t ld, const float* x,
                       std::size_t ld_x, const rows& r, std::uint32_t n) {
  std::uint32_t total = 0;
  for (const linear* p : parts) total += p->tiles();
  const activations input{x, ld_x, r.groups};
  t.for_tiles(total, tile_chunk(total, t.size()), [&](std::uint32_t begin, std::uint32_t end) {
    std::uint32_t base = 0;
    for (std::size_t i = 0; i < parts.size(); base += parts[i++]->tiles()) {
      const std::uint32_t from = std::max(begin, base), to = std::min(end, base + parts[i]->tiles());
      if (from < to) product(*parts[i], from - base, to - base, input, n, y[i], ld);
    }
  });
}

/// y = scale * (x W^T) for tiles [first, last) of a layer, n rows. A scale is the whole tensor's, so no bit depends on
/// who has which rows.
void decoder::product(const linear& l, std::uint32_t first, std::uint32_t last, const activations& x, std::uint32_t n,
                      float* y, std::size_t ld) const {
  matmul_.matmul(l.matrix, first, last, x, n, y, ld);
  if (l.scale == 1.0f) return;
  const std::uint32_t end = std::min(last * tile_rows, l.matrix.rows);
  for (std::uint32_t r = 0; r < n; ++r)
    for (std::uint32_t i = first * tile_rows; i < end; ++i) y[r * ld + i] *= l.scale;
}

kv_layer decoder::kv_of(std::uint32_t layer) const {
  return {kv_.data() + layer * std::uint64_t{c_.n_kv_heads} * kv_head_bytes(kv_type_, c_.head_dim), page_bytes_, kv_type_,
          c_.head_dim};
}

/// One key/value head of one token: bias, norm and rotation of its queries and key, and the store.
void decoder::rotate_and_store(std::uint32_t layer, const rows& r, std::uint32_t token, std::uint32_t kv_head) const {
  const layer_weights& l = weights_.layers[layer];
  const std::uint32_t d = c_.head_dim, group = c_.n_heads / c_.n_kv_heads, q_at = kv_head * group * d, kv_at = kv_head * d;
  float* q = qkv_ + std::size_t{token} * (c_.q_size() + 2 * c_.kv_size()) + q_at;
  float* k = q - q_at + c_.q_size() + kv_at;
  float* v = k + c_.kv_size();
  if (l.q.bias) vector_.add(q, l.q.bias + q_at, group * d);
  if (l.k.bias) vector_.add(k, l.k.bias + kv_at, d);
  if (l.v.bias) vector_.add(v, l.v.bias + kv_at, d);
  const auto norm_heads = [&](float* x, std::uint32_t n, const float* weight) {
    if (weight)
      for (std::uint32_t i = 0; i < n; ++i, x += d) vector_.rms_norm(x, weight, c_.rms_eps, d, x);
  };
  norm_heads(q, group, l.q_norm);
  norm_heads(k, 1, l.k_norm);
  const float* table = r.rope + std::size_t{token} * 2 * c_.rope.dim;
  const bool interleaved = c_.rope.form == model::rope_form::interleaved;
  vector_.rope(q, group, d, c_.rope.dim, interleaved, table);
  vector_.rope(k, 1, d, c_.rope.dim, interleaved, table);
  const std::uint32_t position = batch_.positions[token];
  const page_id page = batch_.rows[batch_.row_of[token]].pages[position / page_tokens];
  const kv_layer kv = kv_of(layer);
  attention_.store(kv_type_, 1, d, k, v, kv.base + page * kv.page_stride + kv_head * kv_head_bytes(kv_type_, d),
                   position % page_tokens);
}

attention_tile decoder::tile_of(const attention_task& task, std::uint32_t layer) const {
  attention_tile t;
  t.kv = kv_of(layer);
  t.pages = batch_.rows[task.row].pages;
  t.kv_head = task.kv_head;
  t.q_stride = c_.q_size() + 2 * c_.kv_size();
  t.q = qkv_ + task.token * t.q_stride + std::size_t{task.head} * c_.head_dim;
  t.out_stride = part_.attended.width;
  t.out = att_ + task.out * t.out_stride + part_.attended.own.begin + std::size_t{task.head} * c_.head_dim;
  t.n_tokens = task.n_tokens;
  t.n_heads = task.n_heads;
  t.position = batch_.positions[task.token];
  t.window = c_.window;
  t.scale = 1.0f / std::sqrt(static_cast<float>(c_.head_dim));
  t.soft_cap = 0.0f;
  return t;
}

/// The caller's barrier makes the results visible.
void decoder::attention(team& t, std::uint32_t layer, const rows& r, bool narrow) {
  const auto tasks = narrow ? plan_.outputs() : plan_.all();
  const auto n_tasks = static_cast<std::uint32_t>(tasks.size());
  std::byte* scratch = attention_scratch(t);
  const auto parts = plan_.parts();
  if (!narrow && parts.empty() && plan_.single()) {
    t.for_tiles(n_tasks, 1, [&](std::uint32_t begin, std::uint32_t end) {
      for (std::uint32_t i = begin; i < end; ++i) {
        rotate_and_store(layer, r, tasks[i].token, tasks[i].kv_head);
        attention_.attend(tile_of(tasks[i], layer), scratch);
      }
    });
    return;
  }
  const auto n = static_cast<std::uint32_t>(batch_.tokens.size());
  t.for_tiles(n * c_.n_kv_heads, c_.n_kv_heads * 4, [&](std::uint32_t begin, std::uint32_t end) {
    for (std::uint32_t i = begin; i < end; ++i) rotate_and_store(layer, r, i / c_.n_kv_heads, i % c_.n_kv_heads);
  });
  t.barrier();
  if (narrow || parts.empty()) {
    t.for_tiles(n_tasks, 1, [&](std::uint32_t begin, std::uint32_t end) {
      for (std::uint32_t i = begin; i < end; ++i) attention_.attend(tile_of(tasks[i], layer), scratch);
    });
    return;
  }
  float* partials = scratch_.at<float>(at_.partials);
  t.for_tiles(static_cast<std::uint32_t>(parts.size()), 1, [&](std::uint32_t begin, std::uint32_t end) {
    for (std::uint32_t i = begin; i < end; ++i)
      attention_.attend_segment(tile_of(tasks[parts[i].task], layer), parts[i].segment, partials + parts[i].offset, scratch);
  });
  t.barrier();
  t.for_tiles(n_tasks, 1, [&](std::uint32_t begin, std::uint32_t end) {
    for (std::uint32_t i = begin; i < end; ++i)
      attention_.merge(tile_of(tasks[i], layer), partials + parts[tasks[i].partial].offset, scratch);
  });
}

/// b = down(silu(gate) * up) without the bias of down. False: the group has failed.
bool decoder::feed_forward(team& t, const layer_weights& l, const rows& r, std::uint32_t n, bool few) {
  const std::size_t ffn = part_.ffn.width;
  float* const gate = gate_ + part_.ffn.own.begin;
  const auto activate = [&](std::uint32_t row, std::uint32_t from, std::uint32_t count) {
    float* g = gate + row * ffn + from;
    float* u = up_ + std::size_t{row} * c_.ffn + from;
    if (l.gate.bias) vector_.add(g, l.gate.bias + from, count);
    if (l.up.bias) vector_.add(u, l.up.bias + from, count);
    vector_.swiglu(g, u, count, g);
  };
  const activations input{r.a, c_.hidden, r.groups};
  const std::uint32_t tiles = l.gate.tiles();
  const bool by_tile = few || part_.group;  // activated where it was multiplied, ready for the exchange
  t.for_tiles(tiles, tile_chunk(tiles, t.size()), [&](std::uint32_t begin, std::uint32_t end) {
    product(l.gate, begin, end, input, n, gate, ffn);
    product(l.up, begin, end, input, n, up_, c_.ffn);
    if (by_tile)
      for (std::uint32_t i = 0; i < n; ++i)
        activate(i, begin * tile_rows, std::min(end * tile_rows, c_.ffn) - begin * tile_rows);
  });
  if (!meet(t, gate_, part_.ffn, n)) return false;
  const bool groups = l.down.wants_groups();
  if (by_tile) {
    quantize(t, r, n, few, gate_, part_.ffn.width, groups);
  } else {
    t.for_tiles(n, row_chunk, [&](std::uint32_t begin, std::uint32_t end) {
      for (std::uint32_t i = begin; i < end; ++i) activate(i, 0, c_.ffn);
      if (groups) matmul_.quantize_rows(gate_, c_.ffn, n, c_.ffn, begin, end, r.groups);
    });
    t.barrier();
  }
  const linear* down[] = {&l.down};
  float* const own = b_ + part_.hidden.own.begin;
  multiply(t, down, &own, c_.hidden, gate_, ffn, r, n);
  return meet(t, b_, part_.hidden, n);
}

}  // namespace troupe::cpu

// An MLP with experts, of which a token takes a few.
#include <algorithm>
#include <cstring>

#include "src/cpu/decoder.hpp"

namespace troupe::cpu {

using namespace kernels::cpu;

/// Rows [begin, end) of x [rows][cols], those of an expert side by side: quantized expert by expert.
void decoder::quantize_expert_rows(const float* x, std::uint32_t cols, std::uint32_t begin, std::uint32_t end) {
  activation_group* const groups = scratch_.at<activation_group>(at_.groups);
  routing_.for_parts(begin, end, [&](std::uint32_t e, std::uint32_t first, std::uint32_t last) {
    matmul_.quantize_rows(x + std::size_t{routing_.first(e)} * cols, cols, routing_.count(e), cols, first, last,
                          groups + quantized_groups(routing_.first(e), cols));
  });
}

/// use(expert, first tile, last tile) for `tiles` tiles of each expert that has rows.
template <class Use>
void decoder::expert_tiles(team& t, std::uint32_t tiles, Use&& use) {
  const auto active = routing_.active();
  const auto total = static_cast<std::uint32_t>(active.size()) * tiles;
  t.for_tiles(total, tile_chunk(total, t.size()), [&](std::uint32_t begin, std::uint32_t end) {
    for (std::uint32_t a = begin / tiles; a * tiles < end; ++a)
      use(active[a], std::max(begin, a * tiles) - a * tiles, std::min(end, (a + 1) * tiles) - a * tiles);
  });
}

/// b = the sum of what a token's experts make of it, each times its weight, experts ascending. Every rank has the
/// router and its columns of every expert. False: the group has failed.
bool decoder::experts(team& t, const layer_weights& l, const rows& r, std::uint32_t n) {
  const linear* router[] = {&l.router};
  float* const to[] = {router_};
  multiply(t, router, to, c_.n_experts, r.a, c_.hidden, r, n);
  t.barrier();
  if (t.index() == 0) routing_.route(router_, n, vector_);
  t.barrier();

  // A layer's experts are one tensor in a GGUF, and safetensors have no type that wants groups: all are as the first.
  const expert_weights& any = l.experts.front();
  const bool groups_wanted = any.gate.wants_groups() || any.up.wants_groups();
  const std::uint32_t n_rows = routing_.n_rows();
  t.for_tiles(n_rows, row_chunk, [&](std::uint32_t begin, std::uint32_t end) {
    for (std::uint32_t i = begin; i < end; ++i)
      std::memcpy(expert_rows_ + std::size_t{i} * c_.hidden, r.a + std::size_t{routing_.token(i)} * c_.hidden,
                  c_.hidden * sizeof(float));
    if (groups_wanted) quantize_expert_rows(expert_rows_, c_.hidden, begin, end);
  });
  t.barrier();
  const activation_group* const groups = scratch_.at<activation_group>(at_.groups);
  const auto input = [&](const float* x, std::uint32_t cols, std::uint32_t e) {
    return activations{x + std::size_t{routing_.first(e)} * cols, cols,
                       groups + quantized_groups(routing_.first(e), cols)};
  };
  const std::uint32_t ffn = part_.ffn.width;
  expert_tiles(t, any.gate.tiles(), [&](std::uint32_t e, std::uint32_t first, std::uint32_t last) {
    const std::uint32_t m = routing_.count(e), from = first * tile_rows,
                        count = std::min(last * tile_rows, c_.ffn) - from;
    float* const gate = gate_ + std::size_t{routing_.first(e)} * ffn + part_.ffn.own.begin;
    float* const up = up_ + std::size_t{routing_.first(e)} * c_.ffn;
    const activations x = input(expert_rows_, c_.hidden, e);
    product(l.experts[e].gate, first, last, x, m, gate, ffn);
    product(l.experts[e].up, first, last, x, m, up, c_.ffn);
    for (std::uint32_t i = 0; i < m; ++i) {
      float* const g = gate + std::size_t{i} * ffn + from;
      vector_.swiglu(g, up + std::size_t{i} * c_.ffn + from, count, g);
    }
  });
  if (!meet(t, gate_, part_.ffn, n_rows)) return false;
  if (any.down.wants_groups()) {
    t.for_tiles(n_rows, row_chunk,
                [&](std::uint32_t begin, std::uint32_t end) { quantize_expert_rows(gate_, ffn, begin, end); });
    t.barrier();
  }
  const model::slice own = part_.hidden.own;
  expert_tiles(t, any.down.tiles(), [&](std::uint32_t e, std::uint32_t first, std::uint32_t last) {
    product(l.experts[e].down, first, last, input(gate_, ffn, e), routing_.count(e),
            expert_rows_ + std::size_t{routing_.first(e)} * c_.hidden + own.begin, c_.hidden);
  });
  t.barrier();
  t.for_tiles(n, 1, [&](std::uint32_t begin, std::uint32_t end) {
    for (std::uint32_t i = begin; i < end; ++i) {
      float* const out = b_ + std::size_t{i} * c_.hidden + own.begin;
      std::fill_n(out, own.count, 0.0f);
      for (std::uint32_t j = 0; j < c_.n_experts_used; ++j) {
        const float* const x = expert_rows_ + std::size_t{routing_.rows(i)[j]} * c_.hidden + own.begin;
        const float weight = routing_.weights(i)[j];
        for (std::uint32_t k = 0; k < own.count; ++k) out[k] += weight * x[k];
      }
    }
  });
  return meet(t, b_, part_.hidden, n);
}

}  // namespace troupe::cpu

// A layer of one token: products that are gemvs anyway do besides what stands before or after them; experts are gemvs, too.
#include "src/gpu/gpu_decoder.hpp"

namespace troupe::gpu {

namespace g = kernels::gpu;
using kernels::dtype;

gpu_decoder::one_token_plan gpu_decoder::plan_one_token(const bucket& b) {
  if (b.tokens != 1 || !fuses_one_token_) return {};
  const layer_weights& w = weights_.layers.front();
  one_token_plan p;
  p.experts = c_.n_experts > 0;
  if (!p.experts) p.gate_up = products_.gemv_of(w.gate_up, {normed_, gate_up_, dtype::bf16, w.gate_up.rows}, 1);
  p.qkv = products_.gemv_of(w.qkv, {normed_, qkv_, dtype::bf16, w.qkv.rows}, 1);
  // These leave half of a norm to the next product, which must take it. What leads to a router is the same on all ranks
  // (experts), so it is not for their clocks to choose.
  if (p.experts && group_)
    p.o = depth_in_group(w.o.rows, g::gemv_depth::four);
  else if (p.experts || p.gate_up)
    p.o = residual_depth(w.o, attended_);
  if (!p.qkv) return p;
  if (!p.experts)
    p.down = residual_depth(w.down, activated_);
  else if (!group_ || g::can_gemv_residual_experts_in_group(w.down.rows, group_->direct()->n_sms()))
    p.down = g::gemv_depth::eight;
  return p;
}

std::optional<g::gemv_depth> gpu_decoder::residual_depth(const linear& w, const void* x) {
  const auto timed = products_.gemv_of(w, residual(x, 1), 1);
  return timed && group_ ? depth_in_group(w.rows, *timed) : timed;
}

/// Of a group's kernel no more loads at once than leave room for all its blocks on a card, which wait for one another.
std::optional<g::gemv_depth> gpu_decoder::depth_in_group(std::uint32_t rows, g::gemv_depth most) const {
  for (const g::gemv_depth depth : {g::gemv_depth::eight, g::gemv_depth::four, g::gemv_depth::two})
    if (depth <= most && g::can_gemv_residual_in_group(rows, depth, group_->direct()->n_sms())) return depth;
  return std::nullopt;
}

/// A residual product that leaves half of the next norm.
g::gemv_residual_args gpu_decoder::residual_args(const linear& w, const void* x, const float* next_norm,
                                                 std::uint32_t sum, std::byte* inputs) const {
  return {w.parts.front().dense,
          x,
          w.rows,
          w.cols,
          h_,
          next_norm,
          normed_,
          squares_,
          group_ ? exchange(sum, inputs) : g::exchange_call{}};
}

void gpu_decoder::one_token_layer(checked& ok, std::uint32_t i, const one_token_plan& plan, const bucket& b,
                                  const step_layout& l, std::byte* inputs, cudaStream_t stream) {
  const layer_weights& w = weights_.layers[i];
  const std::uint32_t* n = &step_layout::header(inputs)->n_tokens;
  const g::rms_scale scale = i > 0 && plan.down ? half_norm() : g::rms_scale{};
  if (!plan.qkv) {
    project(ok, i, b, l, inputs, stream);
  } else if (const g::rope_store_args rope = rope_args(i, l, inputs); g::can_gemv_qkv(rope)) {
    ok(g::gemv_qkv({w.qkv.parts.front().dense, normed_, c_.hidden, scale, rope}, *plan.qkv, n, stream), "gemv_qkv");
  } else {
    ok(g::gemv({w.qkv.parts.front().dense, normed_, dtype::bf16, w.qkv.rows, w.qkv.cols, qkv_, dtype::bf16, w.qkv.rows,
                false},
               scale, *plan.qkv, n, 1, stream),
       "gemv");
    ok(g::rope_and_store(rope, n, 1, stream), "rope_and_store");
  }
  attention(ok, i, b, l, inputs, stream);
  if (plan.o) {
    ok(g::gemv_residual(residual_args(w.o, attended_, w.ffn_norm, 2 * i + 1, inputs), *plan.o, n, stream),
       "gemv_residual");
  } else {
    ok(products_.run(w.o, residual(attended_, 1), n, 1, stream));
    between_halves(ok, i, b, inputs, stream);
  }
  one_token_feed_forward(ok, i, plan, b, inputs, stream);
}

void gpu_decoder::one_token_feed_forward(checked& ok, std::uint32_t i, const one_token_plan& plan, const bucket& b,
                                         std::byte* inputs, cudaStream_t stream) {
  const layer_weights& w = weights_.layers[i];
  const std::uint32_t* n = &step_layout::header(inputs)->n_tokens;
  const g::rms_scale scale = plan.o ? half_norm() : g::rms_scale{};
  if (plan.experts)
    gate_experts_by_gemv(ok, i, scale, n, stream);
  else if (plan.gate_up)
    ok(g::gemv_gated({w.gate_up.parts.front().dense, normed_, dtype::bf16, w.gate_up.rows, w.gate_up.cols, activated_,
                      dtype::bf16, c_.ffn, false},
                     gate_of(c_.act), scale, *plan.gate_up, n, 1, stream),
       "gemv_gated");
  else
    gate(ok, i, b, n, stream);

  if (plan.down && i + 1 < c_.n_layers) {
    const g::gemv_residual_args end =
        residual_args(w.down, activated_, weights_.layers[i + 1].attention_norm, 2 * i + 2, inputs);
    if (plan.experts)
      ok(g::gemv_residual_experts(down_of_experts(i), end, n, stream), "gemv_residual_experts");
    else
      ok(g::gemv_residual(end, *plan.down, n, stream), "gemv_residual");
    return;
  }
  if (plan.experts)
    combine_experts_by_gemv(ok, i, n, stream);
  else
    ok(products_.run(w.down, residual(activated_, 1), n, 1, stream));
  between_layers(ok, i, b, inputs, stream);
}

}  // namespace troupe::gpu

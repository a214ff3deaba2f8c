// An MLP with experts, of which a token takes a few.
#include "src/gpu/gpu_decoder.hpp"

namespace troupe::gpu {

namespace g = kernels::gpu;

bool gpu_decoder::experts_by_gemv(std::uint32_t n_tokens) const {
  const layer_weights& w = weights_.layers.front();
  return n_tokens == 1 && !options_.deterministic &&
         g::can_gemv_experts(options_.compute, routes_, c_.hidden, c_.ffn) && w.gate_up.plain() && w.down.plain();
}

g::expert_gemv_args gpu_decoder::down_of_experts(std::uint32_t i) const {
  const linear& down = weights_.layers[i].down;
  const linear_part& part = down.parts.front();
  return {part.dense, part.stride, activated_, options_.compute, down.rows, down.cols, routes_};
}

void gpu_decoder::gate_experts_by_gemv(checked& ok, std::uint32_t i, const g::rms_scale& scale,
                                       const std::uint32_t* n_tokens, cudaStream_t stream) {
  const layer_weights& w = weights_.layers[i];
  const linear_part& part = w.gate_up.parts.front();
  const kernels::dtype type = options_.compute;
  ok(g::gemv_route(
         {w.router.parts.front().dense, normed_, type, w.router.cols, scale, router_, c_.experts_renormalized, routes_},
         n_tokens, stream),
     "gemv_route");
  ok(g::gemv_gated_experts({part.dense, part.stride, normed_, type, w.gate_up.rows, w.gate_up.cols, routes_},
                           gate_of(c_.act), scale, activated_, n_tokens, stream),
     "gemv_gated_experts");
}

void gpu_decoder::combine_experts_by_gemv(checked& ok, std::uint32_t i, const std::uint32_t* n_tokens,
                                          cudaStream_t stream) {
  const product sum = residual(nullptr, 1);
  ok(g::gemv_combine_experts(down_of_experts(i), static_cast<float*>(sum.y), sum.accumulate, n_tokens, stream),
     "gemv_combine_experts");
}

/// Every rank has the router whole and its columns of every expert, so that what it leaves is its part of the sum. The
/// router runs by a kernel that is not chosen by timing, and so does what leads to it: ranks must choose the same
/// experts.
void gpu_decoder::experts(checked& ok, std::uint32_t i, const bucket& b, const std::uint32_t* n_tokens,
                          cudaStream_t stream) {
  if (experts_by_gemv(b.tokens)) {
    gate_experts_by_gemv(ok, i, {}, n_tokens, stream);
    combine_experts_by_gemv(ok, i, n_tokens, stream);
    return;
  }
  const layer_weights& w = weights_.layers[i];
  const kernels::dtype type = options_.compute;
  const std::uint32_t tile_rows = g::expert_tile_rows(type, c_.n_experts, c_.n_experts_used, b.tokens);
  const auto dense = [&](const linear& l, const linear_part& part, const void* x, void* y, std::uint32_t ld_y,
                         bool gathers) {
    return g::expert_matmul_args{
        {part.dense, x, type, part.rows, l.cols, y, type, ld_y, false}, part.stride, routes_, gathers, tile_rows};
  };
  const auto multiply = [&](const linear& l, const void* x, void* y, bool gathers) {
    for (const linear_part& part : l.parts) {
      void* const to = static_cast<std::byte*>(y) + part.first_row * element_bytes(type);
      if (part.packed.form == g::packed_form::none)
        ok(g::expert_matmul(dense(l, part, x, to, l.rows, gathers), b.tokens, stream), "expert_matmul");
      else
        ok(g::packed_expert_matmul(
               {{part.packed, x, type, to, type, l.rows, false}, part.stride, routes_, gathers, tile_rows}, b.tokens,
               stream),
           "packed_expert_matmul");
    }
  };

  ok(g::matmul({w.router.parts.front().dense, normed_, type, w.router.rows, w.router.cols, router_, kernels::dtype::f32,
                w.router.rows, false},
               n_tokens, b.tokens, stream),
     "matmul");
  ok(g::route_experts(router_, c_.experts_renormalized, routes_, tile_rows, n_tokens, b.tokens, stream),
     "route_experts");
  const linear_part& first = w.gate_up.parts.front();
  const g::expert_matmul_args both = dense(w.gate_up, first, normed_, activated_, c_.ffn, true);
  if (first.rows == w.gate_up.rows && first.dense && g::can_gate_experts(both.product)) {
    ok(g::gated_expert_matmul(both, gate_of(c_.act), b.tokens, stream), "gated_expert_matmul");
  } else {
    multiply(w.gate_up, normed_, gate_up_, true);
    ok(g::gated_activation(gate_of(c_.act), gate_up_, nullptr, nullptr, activated_, type, c_.ffn, routes_.n_rows,
                           b.tokens * c_.n_experts_used, stream),
       "gated_activation");
  }
  multiply(w.down, activated_, expert_out_, false);
  const product sum = residual(nullptr, b.tokens);
  ok(g::combine_experts(expert_out_, type, routes_, c_.hidden, static_cast<float*>(sum.y), sum.accumulate, n_tokens,
                        b.tokens, stream),
     "combine_experts");
}

}  // namespace troupe::gpu

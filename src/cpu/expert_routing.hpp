#pragma once
#include <algorithm>
#include <cstdint>
#include <span>
#include <vector>

#include "kernels/cpu/vector.hpp"

namespace troupe::cpu {

/// Which experts the tokens of a step go to, and where a token's row lies among those of its experts: rows of one
/// expert side by side, experts ascending, tokens ascending within. What a token gets depends on its own logits only.
/// Formula: transformers' Mixtral and Qwen3-MoE: softmax over all experts, the most likely ones, divided by their sum.
class expert_routing {
 public:
  /// renormalized: a token's weights add up to 1; else they are shares of the softmax over all experts.
  expert_routing(std::uint32_t n_experts, std::uint32_t n_used, bool renormalized, std::uint32_t max_tokens);

  /// logits [n][n_experts]. Of equal ones the lower expert is chosen; a NaN is chosen last. Allocates nothing.
  void route(const float* logits, std::uint32_t n, const kernels::cpu::vector_kernels&);

  std::uint32_t n_rows() const { return first_.back(); }
  /// Experts that have rows, ascending.
  std::span<const std::uint32_t> active() const { return active_; }
  std::uint32_t first(std::uint32_t expert) const { return first_[expert]; }
  std::uint32_t count(std::uint32_t expert) const { return first_[expert + 1] - first_[expert]; }
  std::uint32_t token(std::uint32_t row) const { return token_[row]; }
  /// Of token t: its rows, by ascending expert, and what each counts.
  std::span<const std::uint32_t> rows(std::uint32_t t) const { return std::span(row_).subspan(t * n_used_, n_used_); }
  std::span<const float> weights(std::uint32_t t) const { return std::span(weight_).subspan(t * n_used_, n_used_); }

  /// f(expert, first, last) for the parts of rows [begin, end), counted from the expert's first row.
  template <class F>
  void for_parts(std::uint32_t begin, std::uint32_t end, F&& f) const {
    for (const std::uint32_t e : active_) {
      const std::uint32_t from = std::max(begin, first_[e]), to = std::min(end, first_[e + 1]);
      if (from < to) f(e, from - first_[e], to - first_[e]);
    }
  }

 private:
  std::uint32_t n_experts_, n_used_;
  bool renormalized_;
  std::vector<std::uint32_t> expert_;  // [token][n_used_], ascending
  std::vector<std::uint32_t> row_;     // the same
  std::vector<float> weight_;          // the same
  std::vector<std::uint32_t> first_;   // [n_experts_ + 1]
  std::vector<std::uint32_t> next_;    // [n_experts_]
  std::vector<std::uint32_t> token_;   // [row]
  std::vector<std::uint32_t> active_;
  std::vector<std::uint32_t> order_;  // [n_experts_]
  std::vector<float> all_;            // [n_experts_]
};

}  // namespace troupe::cpu

#include "src/cpu/expert_routing.hpp"

#include <cmath>
#include <numeric>

namespace troupe::cpu {

expert_routing::expert_routing(std::uint32_t n_experts, std::uint32_t n_used, bool renormalized,
                               std::uint32_t max_tokens)
    : n_experts_(n_experts),
      n_used_(n_used),
      renormalized_(renormalized),
      expert_(std::size_t{max_tokens} * n_used),
      row_(expert_.size()),
      weight_(expert_.size()),
      first_(n_experts + 1),
      next_(n_experts),
      token_(expert_.size()),
      order_(n_experts),
      all_(n_experts) {
  active_.reserve(n_experts);
}

void expert_routing::route(const float* logits, std::uint32_t n, const kernels::cpu::vector_kernels& vector) {
  std::fill(next_.begin(), next_.end(), 0);
  for (std::uint32_t t = 0; t < n; ++t, logits += n_experts_) {
    const auto value = [&](std::uint32_t e) { return std::isnan(logits[e]) ? -INFINITY : logits[e]; };
    std::iota(order_.begin(), order_.end(), 0u);
    std::partial_sort(order_.begin(), order_.begin() + n_used_, order_.end(), [&](std::uint32_t a, std::uint32_t b) {
      return value(a) != value(b) ? value(a) > value(b) : a < b;
    });
    const float largest = logits[order_[0]];
    std::uint32_t* const expert = expert_.data() + std::size_t{t} * n_used_;
    float* const weight = weight_.data() + std::size_t{t} * n_used_;
    std::copy_n(order_.begin(), n_used_, expert);
    std::sort(expert, expert + n_used_);
    vector.exp_scaled(logits, n_experts_, largest, 1.0f, all_.data());
    for (std::uint32_t j = 0; j < n_used_; ++j) weight[j] = all_[expert[j]];
    float sum = 0;  // of what the weights are shares of; divided by theirs, the softmax's own falls out
    if (renormalized_)
      for (std::uint32_t j = 0; j < n_used_; ++j) sum += weight[j];
    else
      for (const float x : all_) sum += x;
    for (std::uint32_t j = 0; j < n_used_; ++j) {
      weight[j] /= sum;
      ++next_[expert[j]];
    }
  }
  active_.clear();
  first_[0] = 0;
  for (std::uint32_t e = 0; e < n_experts_; ++e) {
    if (next_[e]) active_.push_back(e);
    first_[e + 1] = first_[e] + next_[e];
    next_[e] = first_[e];
  }
  for (std::uint32_t t = 0; t < n; ++t)
    for (std::uint32_t j = 0; j < n_used_; ++j) {
      const std::uint32_t row = next_[expert_[t * n_used_ + j]]++;
      row_[t * n_used_ + j] = row;
      token_[row] = t;
    }
}

}  // namespace troupe::cpu

#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

#include "kernels/cpu/vector.hpp"
#include "src/cpu/forward.hpp"
#include "src/cpu/region.hpp"
#include "src/format/dequantize.hpp"

namespace troupe::cpu {
namespace {

using format::tensor_view;
using model::tensor_role;

struct reference_sizes {
  std::uint64_t h, a, b, q, k, v, gate, up, total;
};

reference_sizes plan_scratch(const model::model_config& c, std::uint32_t n) {
  layout l;
  reference_sizes s;
  const std::uint64_t width = std::max({c.hidden, c.q_size(), c.ffn});
  s.h = l.add<float>(std::uint64_t{n} * c.hidden);
  s.a = l.add<float>(n * width);
  s.b = l.add<float>(n * width);
  s.q = l.add<float>(std::uint64_t{n} * c.q_size());
  s.k = l.add<float>(std::uint64_t{n} * c.kv_size());
  s.v = l.add<float>(std::uint64_t{n} * c.kv_size());
  s.gate = l.add<float>(std::uint64_t{n} * c.ffn);
  s.up = l.add<float>(std::uint64_t{n} * c.ffn);
  s.total = l.bytes();
  return s;
}

class reference final : public forward {
 public:
  reference(std::shared_ptr<const model::model> m, const model::rank_shape& shape, thread_pool& pool, region kv,
            region scratch)
      : model_(std::move(m)),
        c_(model_->config),
        pool_(pool),
        kv_(std::move(kv)),
        scratch_(std::move(scratch)),
        page_floats_(plan_reference(c_, shape).page_bytes / sizeof(float)),
        rope_table_(2 * std::size_t{c_.rope.dim}) {
    const reference_sizes s = plan_scratch(c_, shape.max_batched_tokens);
    h_ = scratch_.at<float>(s.h);
    a_ = scratch_.at<float>(s.a);
    b_ = scratch_.at<float>(s.b);
    q_ = scratch_.at<float>(s.q);
    k_ = scratch_.at<float>(s.k);
    v_ = scratch_.at<float>(s.v);
    gate_ = scratch_.at<float>(s.gate);
    up_ = scratch_.at<float>(s.up);
    std::vector<float> divisors;
    if (const tensor_view* t = find(tensor_role::rope_divisors, 0)) divisors = vector_of(*t);
    frequencies_ = model::inverse_frequencies(c_.rope, divisors);
  }

  result<void> run(const step_batch& batch) override {
    batch_ = batch;
    const auto n = static_cast<std::uint32_t>(batch.tokens.size());
    const tensor_view& embedding = *find(tensor_role::embedding, 0);
    for (std::uint32_t t = 0; t < n; ++t)
      (void)format::dequantize_rows(embedding, static_cast<std::uint64_t>(batch.tokens[t]), 1, {h_ + t * c_.hidden, c_.hidden});
    for (std::uint32_t layer = 0; layer < c_.n_layers; ++layer) {
      norm(h_, n, *find(tensor_role::attention_norm, layer), a_);
      linear(a_, n, layer, tensor_role::q, tensor_role::q_bias, q_);
      linear(a_, n, layer, tensor_role::k, tensor_role::k_bias, k_);
      linear(a_, n, layer, tensor_role::v, tensor_role::v_bias, v_);
      for (std::uint32_t t = 0; t < n; ++t) rotate_and_store(layer, t);
      for (std::uint32_t t = 0; t < n; ++t) attend(layer, t, a_ + std::size_t{t} * c_.q_size());
      linear(a_, n, layer, tensor_role::o, tensor_role::o_bias, b_);
      for (std::size_t i = 0; i < std::size_t{n} * c_.hidden; ++i) h_[i] += b_[i];
      norm(h_, n, *find(tensor_role::ffn_norm, layer), a_);
      if (c_.n_experts)
        for (std::uint32_t t = 0; t < n; ++t) experts(layer, a_ + std::size_t{t} * c_.hidden, b_ + std::size_t{t} * c_.hidden);
      else
        feed_forward(layer, n);
      for (std::size_t i = 0; i < std::size_t{n} * c_.hidden; ++i) h_[i] += b_[i];
    }
    return {};
  }

  result<void> logits(std::uint32_t first, std::uint32_t n, float* out) override {
    for (std::uint32_t i = 0; i < n; ++i)
      norm(h_ + std::size_t{batch_.outputs[first + i].token} * c_.hidden, 1, *find(tensor_role::output_norm, 0),
           a_ + std::size_t{i} * c_.hidden);
    matmul(a_, n, model_->weights.head(), nullptr, out);
    return {};
  }

  void fork(page_id from, page_id to) override {
    std::copy_n(kv_.at<float>(0) + from * page_floats_, page_floats_, kv_.at<float>(0) + to * page_floats_);
  }

 private:
  const tensor_view* find(tensor_role role, std::uint32_t layer) const { return model_->weights.find(role, layer); }

  static std::vector<float> vector_of(const tensor_view& t) {
    std::vector<float> out(t.shape.elements());
    (void)format::dequantize(t, out);
    return out;
  }

  /// Rows as wide as the weight. y may be x.
  void norm(const float* x, std::uint32_t n, const tensor_view& weight, float* y) const {
    const std::vector<float> w = vector_of(weight);
    const std::size_t width = w.size();
    for (std::uint32_t t = 0; t < n; ++t, x += width, y += width) {
      double squares = 0;
      for (std::size_t i = 0; i < width; ++i) squares += static_cast<double>(x[i]) * x[i];
      const auto scale = static_cast<float>(1.0 / std::sqrt(squares / static_cast<double>(width) + c_.rms_eps));
      for (std::size_t i = 0; i < width; ++i) y[i] = x[i] * scale * w[i];
    }
  }
  void norm_heads(float* x, std::uint32_t n, const tensor_view* weight) const {
    if (weight) norm(x, n, *weight, x);
  }

  /// silu(gate) * up, in gate_.
  void activate(std::uint32_t n) {
    for (std::size_t i = 0; i < std::size_t{n} * c_.ffn; ++i)
      gate_[i] = gate_[i] / (1.0f + std::exp(-gate_[i])) * up_[i];
  }

  void feed_forward(std::uint32_t layer, std::uint32_t n) {
    linear(a_, n, layer, tensor_role::gate, tensor_role::gate_bias, gate_);
    linear(a_, n, layer, tensor_role::up, tensor_role::up_bias, up_);
    activate(n);
    linear(gate_, n, layer, tensor_role::down, tensor_role::down_bias, b_);
  }

  /// One token: the experts that the router likes best, each times its share of their softmax.
  void experts(std::uint32_t layer, const float* x, float* y) {
    std::vector<float> logits(c_.n_experts), one(c_.hidden);
    matmul(x, 1, *find(tensor_role::router, layer), nullptr, logits.data());
    std::vector<std::uint32_t> order(c_.n_experts);
    std::iota(order.begin(), order.end(), 0u);
    std::ranges::sort(order, [&](std::uint32_t a, std::uint32_t b) {
      return logits[a] != logits[b] ? logits[a] > logits[b] : a < b;
    });
    order.resize(c_.n_experts_used);
    std::ranges::sort(order);
    double total = 0;
    if (c_.experts_renormalized)
      for (const std::uint32_t e : order) total += std::exp(static_cast<double>(logits[e]));
    else
      for (const float x : logits) total += std::exp(static_cast<double>(x));
    std::vector<double> sum(c_.hidden);
    for (const std::uint32_t e : order) {
      matmul(x, 1, model_->weights.expert(tensor_role::expert_gate, layer, e), nullptr, gate_);
      matmul(x, 1, model_->weights.expert(tensor_role::expert_up, layer, e), nullptr, up_);
      activate(1);
      matmul(gate_, 1, model_->weights.expert(tensor_role::expert_down, layer, e), nullptr, one.data());
      const double weight = std::exp(static_cast<double>(logits[e])) / total;
      for (std::uint32_t i = 0; i < c_.hidden; ++i) sum[i] += weight * one[i];
    }
    std::ranges::transform(sum, y, [](double v) { return static_cast<float>(v); });
  }

  void linear(const float* x, std::uint32_t n, std::uint32_t layer, tensor_role weight, tensor_role bias, float* y) {
    matmul(x, n, *find(weight, layer), find(bias, layer), y);
  }

  /// y[t][r] = sum over i of W[r][i] * x[t][i], plus bias[r]
  void matmul(const float* x, std::uint32_t n, const tensor_view& weight, const tensor_view* bias, float* y) {
    const auto rows = static_cast<std::uint32_t>(weight.shape[0]), cols = static_cast<std::uint32_t>(weight.shape[1]);
    const std::vector<float> b = bias ? vector_of(*bias) : std::vector<float>();
    pool_.run([&](team& t) {
      std::vector<float> w(cols);
      t.for_tiles(rows, 16, [&](std::uint32_t begin, std::uint32_t end) {
        for (std::uint32_t r = begin; r < end; ++r) {
          (void)format::dequantize_rows(weight, r, 1, w);
          for (std::uint32_t row = 0; row < n; ++row) {
            const float* a = x + std::size_t{row} * cols;
            double sums[4] = {};  // four chains, only so that a test ends today
            std::uint32_t i = 0;
            for (; i + 4 <= cols; i += 4)
              for (std::uint32_t j = 0; j < 4; ++j) sums[j] += static_cast<double>(w[i + j]) * a[i + j];
            for (; i < cols; ++i) sums[0] += static_cast<double>(w[i]) * a[i];
            const auto product = static_cast<float>((sums[0] + sums[1]) + (sums[2] + sums[3]));
            y[std::size_t{row} * rows + r] = b.empty() ? product : product + b[r];
          }
        }
      });
    });
  }

  /// Key (which = 0) or value (1) of a position: [kv head][head_dim].
  float* stored(const page_id* pages, std::uint32_t layer, std::uint32_t which, std::uint32_t position) const {
    const std::uint64_t page = pages[position / page_tokens];
    return kv_.at<float>(0) + page * page_floats_ +
           ((std::uint64_t{layer} * 2 + which) * page_tokens + position % page_tokens) * c_.kv_size();
  }

  void rotate(float* x, std::uint32_t n_heads) const {
    const std::uint32_t d = c_.rope.dim;
    const bool interleaved = c_.rope.form == model::rope_form::interleaved;
    for (std::uint32_t head = 0; head < n_heads; ++head, x += c_.head_dim)
      for (std::uint32_t i = 0; i < d / 2; ++i) {
        float& a = x[interleaved ? 2 * i : i];
        float& b = x[interleaved ? 2 * i + 1 : i + d / 2];
        const double cosine = rope_table_[2 * i], sine = rope_table_[2 * i + 1];
        const double x0 = a, x1 = b;
        a = static_cast<float>(x0 * cosine - x1 * sine);
        b = static_cast<float>(x1 * cosine + x0 * sine);
      }
  }

  void rotate_and_store(std::uint32_t layer, std::uint32_t t) {
    const std::uint32_t position = batch_.positions[t];
    for (std::uint32_t i = 0; i < c_.rope.dim / 2; ++i) {
      rope_table_[2 * i] = std::cos(position * frequencies_[i]) * c_.rope.attention_factor;
      rope_table_[2 * i + 1] = std::sin(position * frequencies_[i]) * c_.rope.attention_factor;
    }
    float* k = k_ + std::size_t{t} * c_.kv_size();
    norm_heads(q_ + std::size_t{t} * c_.q_size(), c_.n_heads, find(tensor_role::q_norm, layer));
    norm_heads(k, c_.n_kv_heads, find(tensor_role::k_norm, layer));
    rotate(q_ + std::size_t{t} * c_.q_size(), c_.n_heads);
    rotate(k, c_.n_kv_heads);
    const page_id* pages = batch_.rows[batch_.row_of[t]].pages;
    std::copy_n(k, c_.kv_size(), stored(pages, layer, 0, position));
    std::copy_n(v_ + std::size_t{t} * c_.kv_size(), c_.kv_size(), stored(pages, layer, 1, position));
  }

  void attend(std::uint32_t layer, std::uint32_t t, float* out) {
    const std::uint32_t position = batch_.positions[t];
    const page_id* pages = batch_.rows[batch_.row_of[t]].pages;
    const std::uint32_t oldest = c_.window && position >= c_.window ? position - c_.window + 1 : 0;
    const double scale = 1.0 / std::sqrt(static_cast<double>(c_.head_dim));
    scores_.resize(position + 1);
    for (std::uint32_t head = 0; head < c_.n_heads; ++head) {
      const std::size_t kv = std::size_t{head / (c_.n_heads / c_.n_kv_heads)} * c_.head_dim;
      const float* q = q_ + std::size_t{t} * c_.q_size() + std::size_t{head} * c_.head_dim;
      double largest = -INFINITY, total = 0;
      for (std::uint32_t j = oldest; j <= position; ++j) {
        const float* k = stored(pages, layer, 0, j) + kv;
        double score = 0;
        for (std::uint32_t i = 0; i < c_.head_dim; ++i) score += static_cast<double>(q[i]) * k[i];
        scores_[j] = score * scale;
        largest = std::max(largest, scores_[j]);
      }
      for (std::uint32_t j = oldest; j <= position; ++j) total += scores_[j] = std::exp(scores_[j] - largest);
      for (std::uint32_t i = 0; i < c_.head_dim; ++i) {
        double sum = 0;
        for (std::uint32_t j = oldest; j <= position; ++j) sum += scores_[j] * stored(pages, layer, 1, j)[kv + i];
        out[std::size_t{head} * c_.head_dim + i] = static_cast<float>(sum / total);
      }
    }
  }

  std::shared_ptr<const model::model> model_;
  const model::model_config& c_;
  thread_pool& pool_;
  region kv_, scratch_;
  std::uint64_t page_floats_;
  std::vector<double> frequencies_;
  std::vector<double> rope_table_;
  std::vector<double> scores_;
  step_batch batch_;
  float *h_, *a_, *b_, *q_, *k_, *v_, *gate_, *up_;
};

}  // namespace

memory_plan plan_reference(const model::model_config& c, const model::rank_shape& shape) {
  memory_plan p;
  p.page_bytes = std::uint64_t{c.n_layers} * 2 * page_tokens * c.kv_size() * sizeof(float);
  p.kv = p.page_bytes * shape.n_pages[0];
  p.activations = plan_scratch(c, shape.max_batched_tokens).total;
  return p;
}

result<std::unique_ptr<forward>> make_reference(std::shared_ptr<const model::model> m, const model::rank_shape& shape,
                                                thread_pool& pool) {
  const memory_plan plan = plan_reference(m->config, shape);
  auto kv = region::take(plan.kv, "the KV cache");
  if (!kv) return kv.take_error();
  auto scratch = region::take(plan.activations, "activations");
  if (!scratch) return scratch.take_error();
  return std::unique_ptr<forward>(new reference(std::move(m), shape, pool, std::move(*kv), std::move(*scratch)));
}

}  // namespace troupe::cpu

#include "src/sample/sampler.hpp"

#include <algorithm>
#include <cmath>
#include <limits>

#include "kernels/common/philox.hpp"

namespace troupe::sample {
namespace {

constexpr float greedy_below = 1e-5f;
constexpr float lowest = std::numeric_limits<float>::lowest();  // -infinity: not allowed
constexpr float huge = 1e30f;  // what a bias or penalty may make of a logit stays finite

float bounded(float x) { return std::clamp(x, -huge, huge); }

void apply(std::span<float> logits, std::span<const bias> biases) {
  for (const bias& b : biases)
    if (b.token >= 0 && static_cast<std::size_t>(b.token) < logits.size() && !std::isnan(b.addend))
      logits[static_cast<std::size_t>(b.token)] = bounded(logits[static_cast<std::size_t>(b.token)] + bounded(b.addend));
}

void apply(std::span<float> logits, const parameters& p, const token_counts& counts) {
  for (const token_counts::entry& e : counts.entries()) {
    if (e.token < 0 || static_cast<std::size_t>(e.token) >= logits.size()) continue;
    float& x = logits[static_cast<std::size_t>(e.token)];
    x = x > 0 ? x / p.repetition_penalty : x * p.repetition_penalty;
    if (e.outputs > 0) x -= p.presence_penalty + p.frequency_penalty * static_cast<float>(e.outputs);
    x = std::isnan(x) ? 0.0f : bounded(x);
  }
}

/// Makes -infinity of what the mask does not allow, which no filter keeps, adds nothing to a sum of masses and loses every
/// draw; finds the largest of the rest.
kernels::cpu::extreme apply(std::span<float> logits, std::span<const std::uint32_t> mask) {
  kernels::cpu::extreme top{-INFINITY, 0, true};
  for (std::size_t i = 0; i < logits.size(); ++i) {
    if (!(mask[i / 32] >> i % 32 & 1))
      logits[i] = -INFINITY;
    else if (logits[i] > top.value)
      top = {logits[i], static_cast<std::uint32_t>(i), true};
  }
  return top;
}

float scale_of(const parameters& p) { return 1.0f / std::min(p.temperature, 1e6f); }

}  // namespace

sampler::sampler(std::uint32_t vocab, const kernels::cpu::vector_kernels& kernels)
    : kernels_(kernels), ids_(vocab), values_(vocab), items_(vocab), raw_(vocab) {}

std::uint64_t sampler::bytes(std::uint32_t vocab) { return std::uint64_t{vocab} * (sizeof(item) + 12); }

draw sampler::next(std::span<float> logits, const parameters& p, const token_counts* counts,
                   std::span<const bias> biases, std::uint32_t position, bool want_logprob,
                   std::span<const std::uint32_t> mask) {
  const kernels::cpu::extreme raw_top = kernels_.argmax(logits.data(), logits.size());
  if (!raw_top.finite) return {};
  const bool penalized = counts && p.penalizes() && !counts->entries().empty();
  double log_sum = 0;
  if (want_logprob) {
    log_sum = raw_top.value + std::log(kernels_.exp_sum(logits.data(), logits.size(), raw_top.value, 1.0f));
    std::copy(logits.begin(), logits.end(), raw_.begin());
  }
  if (!biases.empty()) apply(logits, biases);
  if (penalized) apply(logits, p, *counts);
  const kernels::cpu::extreme top = !mask.empty()                  ? apply(logits, mask)
                                    : biases.empty() && !penalized ? raw_top
                                                                   : kernels_.argmax(logits.data(), logits.size());

  draw out;
  out.nothing_allowed = top.value == -INFINITY;
  out.ok = !out.nothing_allowed;
  if (!out.ok) return out;
  out.token = static_cast<token_id>(top.index);
  if (p.temperature >= greedy_below) {
    const float scale = scale_of(p);
    const bool filtered = p.min_p > 0 || p.top_p < 1 || (p.top_k > 0 && static_cast<std::size_t>(p.top_k) < logits.size());
    if (!filtered) {
      const kernels::cpu::extreme best = kernels_.gumbel_argmax(logits.data(), logits.size(), top.value, scale,
                                                                {p.seed, p.choice, position});
      out.token = static_cast<token_id>(best.index);
    } else {
      filter(logits, p, top.value, scale);
      float best = -INFINITY;
      for (std::size_t i = 0; i < n_items_; ++i) {
        const item& c = items_[i];
        const float z = (c.value - top.value) * scale;
        if (z + 23.0f < best) continue;  // more than any noise
        const float score = z + kernels::draw_gumbel(p.seed, p.choice, position, c.id);
        if (score > best || (score == best && c.id < static_cast<std::uint32_t>(out.token))) {
          best = score;
          out.token = static_cast<token_id>(c.id);
        }
      }
    }
  }
  if (want_logprob)
    out.logprob = static_cast<float>(static_cast<double>(raw_[static_cast<std::size_t>(out.token)]) - log_sum);
  return out;
}

std::span<const std::uint32_t> sampler::kept(std::span<const float> logits, const parameters& p) {
  const kernels::cpu::extreme top = kernels_.argmax(logits.data(), logits.size());
  filter(logits, p, top.value, scale_of(p));
  std::sort(items_.begin(), items_.begin() + static_cast<std::ptrdiff_t>(n_items_), likelier);
  for (std::size_t i = 0; i < n_items_; ++i) ids_[i] = items_[i].id;
  return {ids_.data(), n_items_};
}

void sampler::filter(std::span<const float> logits, const parameters& p, float max, float scale) {
  const std::size_t vocab = logits.size();
  const std::size_t k = p.top_k > 0 ? std::min<std::size_t>(static_cast<std::size_t>(p.top_k), vocab) : vocab;
  const double top_p = std::isnan(p.top_p) ? 1.0 : std::clamp(static_cast<double>(p.top_p), 0.0, 1.0);
  if (p.min_p > 0) {
    gather(logits, static_cast<float>(max + std::log(std::min(static_cast<double>(p.min_p), 1.0)) / scale), max, scale);
  } else {
    // Few tokens matter: widen the net until it holds enough of them, or enough probability.
    const double whole = k == vocab ? kernels_.exp_sum(logits.data(), vocab, max, scale) : 0.0;
    for (double radius = 8;; radius *= 2) {
      const bool everything = radius > 128;  // exp(-128) is zero here
      gather(logits, everything ? lowest : static_cast<float>(max - radius / scale), max, scale);
      if (everything || n_items_ == vocab) break;
      if (k < vocab) {
        if (n_items_ >= k) break;
      } else {
        double mass = 0;
        for (std::size_t i = 0; i < n_items_; ++i) mass += items_[i].mass;
        if (mass >= top_p * whole) break;
      }
    }
    if (k == vocab) {
      keep_mass(top_p * whole);
      return;
    }
  }
  keep_count(k);
  if (top_p < 1) {
    double mass = 0;
    for (std::size_t i = 0; i < n_items_; ++i) mass += items_[i].mass;
    keep_mass(top_p * mass);
  }
}

void sampler::gather(std::span<const float> logits, float threshold, float max, float scale) {
  n_items_ = kernels_.select_at_least(logits.data(), logits.size(), threshold, ids_.data(), ids_.size());
  for (std::size_t i = 0; i < n_items_; ++i) values_[i] = logits[ids_[i]];
  for (std::size_t i = 0; i < n_items_; ++i) items_[i] = {values_[i], ids_[i], 0.0f};
  kernels_.exp_scaled(values_.data(), n_items_, max, scale, values_.data());
  for (std::size_t i = 0; i < n_items_; ++i) items_[i].mass = values_[i];
}

void sampler::keep_count(std::size_t count) {
  if (count >= n_items_) return;
  std::nth_element(items_.begin(), items_.begin() + static_cast<std::ptrdiff_t>(count),
                   items_.begin() + static_cast<std::ptrdiff_t>(n_items_), likelier);
  n_items_ = count;
}

/// Keeps the likeliest items until their mass reaches the target. A large set is not sorted: a histogram over the values
/// finds the bin where the border lies, and only that bin is looked at again.
void sampler::keep_mass(double target) {
  constexpr std::size_t n_bins = 256, sort_below = 512;
  std::size_t sure = 0;            // items_[0, sure) stay
  std::size_t open = n_items_;     // items_[sure, open) are undecided, what follows is dropped
  double mass = 0;                 // of the sure ones
  while (open - sure > sort_below) {
    const auto first = items_.begin() + static_cast<std::ptrdiff_t>(sure);
    const auto last = items_.begin() + static_cast<std::ptrdiff_t>(open);
    const auto [low, high] = std::minmax_element(first, last, [](const item& a, const item& b) { return a.value < b.value; });
    const float top = high->value;
    const double width = (static_cast<double>(top) - low->value) / n_bins;
    if (!(width > 0)) break;  // all equal: the ids decide, below
    const auto bin = [&](const item& c) {
      return std::min<std::size_t>(static_cast<std::size_t>((static_cast<double>(top) - c.value) / width), n_bins - 1);
    };
    double bins[n_bins] = {};
    for (auto it = first; it != last; ++it) bins[bin(*it)] += it->mass;
    std::size_t border = 0;
    double above = mass;
    while (border + 1 < n_bins && above + bins[border] < target) above += bins[border++];
    const auto open_first = std::partition(first, last, [&](const item& c) { return bin(c) < border; });
    const auto open_last = std::partition(open_first, last, [&](const item& c) { return bin(c) == border; });
    sure = static_cast<std::size_t>(open_first - items_.begin());
    open = static_cast<std::size_t>(open_last - items_.begin());
    mass = above;
  }
  std::sort(items_.begin() + static_cast<std::ptrdiff_t>(sure), items_.begin() + static_cast<std::ptrdiff_t>(open), likelier);
  while (sure < open && (mass < target || sure == 0)) mass += items_[sure++].mass;
  n_items_ = sure;
}

}  // namespace troupe::sample

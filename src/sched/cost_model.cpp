#include "src/sched/cost_model.hpp"

#include <algorithm>
#include <bit>
#include <cmath>

namespace troupe::sched {
namespace {

using vector3 = std::array<double, 3>;
using matrix3 = std::array<vector3, 3>;

/// Solves m x = v over the coordinates in `mask`, the others being zero, by elimination with pivots. False if singular.
bool solve(matrix3 m, vector3 v, unsigned mask, vector3& x) {
  int index[3], n = 0;
  for (int i = 0; i < 3; ++i)
    if (mask >> i & 1) index[n++] = i;
  for (int k = 0; k < n; ++k) {
    int pivot = k;
    for (int i = k + 1; i < n; ++i)
      if (std::abs(m[index[i]][index[k]]) > std::abs(m[index[pivot]][index[k]])) pivot = i;
    if (std::abs(m[index[pivot]][index[k]]) < 1e-9) return false;
    std::swap(m[index[pivot]], m[index[k]]);
    std::swap(v[index[pivot]], v[index[k]]);
    for (int i = k + 1; i < n; ++i) {
      const double f = m[index[i]][index[k]] / m[index[k]][index[k]];
      for (int j = k; j < n; ++j) m[index[i]][index[j]] -= f * m[index[k]][index[j]];
      v[index[i]] -= f * v[index[k]];
    }
  }
  x = {};
  for (int k = n - 1; k >= 0; --k) {
    double s = v[index[k]];
    for (int j = k + 1; j < n; ++j) s -= m[index[k]][index[j]] * x[index[j]];
    x[index[k]] = s / m[index[k]][index[k]];
  }
  return true;
}

}  // namespace

void cost_model::observe(step_shape s, double ns) {
  if (!(s.tokens > 0) || !(ns > 0)) return;
  bucket& b = buckets_[{static_cast<int>(std::log2(s.tokens)), static_cast<int>(std::log2(1 + s.work / s.tokens))}];
  b.n = std::min(b.n + 1, 8.0);
  const double weight = 1 / b.n;
  b.tokens += (s.tokens - b.tokens) * weight;
  b.work += (s.work - b.work) * weight;
  b.ns += (ns - b.ns) * weight;
  max_tokens_ = std::max(max_tokens_, s.tokens);
  fit();
}

void cost_model::fit() {
  // Columns are scaled to comparable size, rows by 1 / time.
  vector3 scale{};
  for (const auto& [key, b] : buckets_) {
    scale[0] = std::max(scale[0], 1 / b.ns);
    scale[1] = std::max(scale[1], b.tokens / b.ns);
    scale[2] = std::max(scale[2], b.work / b.ns);
  }
  matrix3 m{};
  vector3 v{};
  for (const auto& [key, b] : buckets_) {
    const vector3 row{1 / b.ns / scale[0], b.tokens / b.ns / scale[1], b.work / b.ns / scale[2]};
    for (int i = 0; i < 3; ++i) {
      for (int j = 0; j < 3; ++j) m[i][j] += row[i] * row[j];
      v[i] += row[i];
    }
  }
  // Least squares with x >= 0: of three coordinates every subset can be tried. With fewer points than coefficients the
  // simplest explanation wins, all time charged per token: it errs towards small chunks.
  static constexpr unsigned by_size[] = {0b010, 0b011, 0b110, 0b111, 0b001, 0b100, 0b101};
  double best = std::numeric_limits<double>::infinity();
  for (unsigned mask : by_size) {
    if (static_cast<std::size_t>(std::popcount(mask)) > buckets_.size()) continue;
    vector3 x;
    if (!solve(m, v, mask, x) || std::min({x[0], x[1], x[2]}) < 0) continue;
    double residual = 0;  // |A x - 1|^2 without its constant
    for (int i = 0; i < 3; ++i) {
      residual -= 2 * x[i] * v[i];
      for (int j = 0; j < 3; ++j) residual += x[i] * x[j] * m[i][j];
    }
    if (residual < best - 1e-9) {
      best = residual;
      for (int i = 0; i < 3; ++i) coefficient_[i] = x[i] / scale[i];
    }
  }
}

double cost_model::predict(step_shape s) const {
  return coefficient_[0] + coefficient_[1] * s.tokens + coefficient_[2] * s.work;
}

std::uint32_t cost_model::largest_chunk(std::uint32_t position, double ns) const {
  if (!calibrated()) return unlimited;
  if (!(ns > 0)) return 0;
  double n = growth * max_tokens_;
  // c/2 n^2 + (b + c (position + 1/2)) n <= ns
  const double half_c = coefficient_[2] / 2;
  const double linear = coefficient_[1] + coefficient_[2] * (position + 0.5);
  const double root = std::sqrt(linear * linear + 4 * half_c * ns);
  if (root + linear > 0) n = std::min(n, 2 * ns / (linear + root));
  return static_cast<std::uint32_t>(n);
}

}  // namespace troupe::sched

// The kernels of vector.hpp over sixteen lanes; included once by each tier's file.
#include <algorithm>
#include <cmath>

#include "kernels/common/philox.hpp"
#include "kernels/cpu/lanes.hpp"
#include "kernels/cpu/vector.hpp"

namespace troupe::kernels::cpu {
namespace {

/// Calls f(offset, count): whole vectors first, then a rest of fewer than sixteen.
template <class F>
inline void for_vectors(std::size_t n, F f) {
  std::size_t i = 0;
  for (; i + n_lanes <= n; i += n_lanes) f(i, n_lanes);
  if (i < n) f(i, n - i);
}
inline vf take(const float* p, std::size_t count) { return count == n_lanes ? load(p) : load(p, count); }
inline void put(float* p, vf x, std::size_t count) {
  if (count == n_lanes)
    store(p, x);
  else
    store(p, x, count);
}

void rms_norm(const float* x, const float* w, float eps, std::size_t n, float* y) {
  vf even = zero(), odd = zero();  // two chains hide the latency of the fma
  std::size_t i = 0;
  for (; i + 2 * n_lanes <= n; i += 2 * n_lanes) {
    const vf a = load(x + i), b = load(x + i + n_lanes);
    even = fma(a, a, even);
    odd = fma(b, b, odd);
  }
  for_vectors(n - i, [&](std::size_t at, std::size_t count) {
    const vf a = take(x + i + at, count);
    even = fma(a, a, even);
  });
  const float mean = sum(add(even, odd)) / static_cast<float>(n);
  const vf inverse = set(1.0f / std::sqrt(mean + eps));
  for_vectors(n, [&](std::size_t at, std::size_t count) {
    put(y + at, mul(mul(take(x + at, count), inverse), take(w + at, count)), count);
  });
}

void add_rows(float* x, const float* y, std::size_t n) {
  for_vectors(n, [&](std::size_t at, std::size_t count) {
    put(x + at, add(take(x + at, count), take(y + at, count)), count);
  });
}

void swiglu(const float* gate, const float* up, std::size_t n, float* y) {
  for_vectors(n, [&](std::size_t at, std::size_t count) {
    const vf g = take(gate + at, count);
    const vf silu = div(g, add(set(1.0f), exp(sub(zero(), g))));
    put(y + at, mul(silu, take(up + at, count)), count);
  });
}

void rope(float* x, std::uint32_t n_heads, std::uint32_t head_dim, std::uint32_t dim, bool interleaved,
          const float* table) {
  const float* cosines = table;
  const float* sines = table + dim;
  for (std::uint32_t h = 0; h < n_heads; ++h, x += head_dim) {
    if (interleaved) {
      for_vectors(dim, [&](std::size_t at, std::size_t count) {
        const vf a = take(x + at, count);
        put(x + at, fma(a, take(cosines + at, count), mul(swap_pairs(a), take(sines + at, count))), count);
      });
    } else {
      const std::size_t half = dim / 2;
      for_vectors(half, [&](std::size_t at, std::size_t count) {
        const vf a = take(x + at, count), b = take(x + half + at, count);
        put(x + at, fma(a, take(cosines + at, count), mul(b, take(sines + at, count))), count);
        put(x + half + at, fma(b, take(cosines + half + at, count), mul(a, take(sines + half + at, count))), count);
      });
    }
  }
}

extreme argmax(const float* x, std::size_t n) {
  if (n == 0) return {0, 0, false};
  // Pass one finds the value and whether all are finite, pass two the first place of the value: each is one operation
  // per element, and the second usually ends early.
  const vi magnitude = iset(0x7fffffffu);
  vf best0 = set(x[0]), best1 = best0;
  vi worst0 = iset(0), worst1 = worst0;
  std::size_t i = 0;
  for (; i + 2 * n_lanes <= n; i += 2 * n_lanes) {
    const vf a = load(x + i), b = load(x + i + n_lanes);
    best0 = max(a, best0);
    best1 = max(b, best1);
    worst0 = imax(worst0, iand(bits(a), magnitude));
    worst1 = imax(worst1, iand(bits(b), magnitude));
  }
  std::uint32_t worst[n_lanes];
  istore(worst, imax(worst0, worst1));
  float value = largest(max(best0, best1));
  std::uint32_t top = 0;
  for (std::uint32_t w : worst) top = std::max(top, w);
  for (; i < n; ++i) {
    top = std::max(top, std::bit_cast<std::uint32_t>(x[i]) & 0x7fffffffu);
    value = x[i] > value ? x[i] : value;
  }
  if (top >= 0x7f800000u) return {0, 0, false};
  const vf wanted = set(value);
  std::size_t at = 0;
  for (; at + n_lanes <= n; at += n_lanes)
    if (const std::uint32_t hit = mask_bits(greater_equal(load(x + at), wanted)))
      return {value, static_cast<std::uint32_t>(at) + static_cast<std::uint32_t>(__builtin_ctz(hit)), true};
  while (at < n && !(x[at] >= value)) ++at;
  return {value, static_cast<std::uint32_t>(at), true};
}

double exp_sum(const float* x, std::size_t n, float max, float scale) {
  constexpr std::size_t block = 4096;
  double total = 0;
  const vf m = set(max), s = set(scale);
  for (std::size_t from = 0; from < n; from += block) {
    const std::size_t size = std::min(block, n - from);
    vf a = zero(), b = zero();
    std::size_t i = 0;
    for (; i + 2 * n_lanes <= size; i += 2 * n_lanes) {
      a = add(a, exp(mul(sub(load(x + from + i), m), s)));
      b = add(b, exp(mul(sub(load(x + from + i + n_lanes), m), s)));
    }
    for (; i < size; i += n_lanes) {
      float rest[n_lanes];
      for (std::size_t k = 0; k < n_lanes; ++k) rest[k] = i + k < size ? x[from + i + k] : -INFINITY;
      a = add(a, exp(mul(sub(load(rest), m), s)));
    }
    total += static_cast<double>(sum(add(a, b)));
  }
  return total;
}

void exp_scaled(const float* x, std::size_t n, float max, float scale, float* y) {
  const vf m = set(max), s = set(scale);
  for_vectors(n, [&](std::size_t at, std::size_t count) { put(y + at, exp(mul(sub(take(x + at, count), m), s)), count); });
}

std::size_t select_at_least(const float* x, std::size_t n, float threshold, std::uint32_t* indices,
                            std::size_t capacity) {
  const vf t = set(threshold);
  std::size_t found = 0, i = 0;
  for (; i + n_lanes <= n; i += n_lanes) {
    std::uint32_t hits = mask_bits(greater_equal(load(x + i), t));
    while (hits) {
      if (found < capacity) indices[found] = static_cast<std::uint32_t>(i) + static_cast<std::uint32_t>(__builtin_ctz(hits));
      ++found;
      hits &= hits - 1;
    }
  }
  for (; i < n; ++i)
    if (x[i] >= threshold) {
      if (found < capacity) indices[found] = static_cast<std::uint32_t>(i);
      ++found;
    }
  return found;
}

/// exact_log of philox.hpp, the same operations in the same order.
inline vf plain_log(vf x) {
  const vi raw = bits(x);
  const vi diff = isub(raw, iset(detail::sqrt_half_bits));
  // Arithmetic shift by 23 of the signed difference: logical shift, then the sign bits put back.
  const vi sign = iset(1u << 8);
  const vi k = isub(ixor(shift_right<23>(diff), sign), sign);
  const vf f = add(as_float(isub(raw, shift_left<23>(k))), set(-1.0f));
  const vf n = to_float(k);
  const vf square = mul(f, f);
  vf p = set(detail::log_coefficients[0]);
  for (int i = 1; i < 9; ++i) p = add(mul(p, f), set(detail::log_coefficients[i]));
  vf y = mul(mul(p, f), square);
  y = add(y, mul(n, set(detail::ln2_low)));
  y = add(y, mul(set(-0.5f), square));
  return add(add(f, y), mul(n, set(detail::ln2_high)));
}

/// gumbel of philox.hpp, the same operations in the same order.
inline vf gumbel_of(vi random) {
  const vf high = mul(to_float(shift_right<16>(random)), set(0x1p-16f));
  const vf low = mul(add(to_float(iand(random, iset(0xffffu))), set(0.5f)), set(0x1p-32f));
  vf v = add(high, low);
  v = select(less(v, set(1.0f)), v, set(1.0f - 0x1p-24f));
  const vf w = add(set(1.0f), sub(zero(), v));
  const vf lost = add(add(w, set(-1.0f)), v);
  const vf e = add(sub(zero(), plain_log(w)), div(lost, w));
  return sub(zero(), plain_log(e));
}

/// Words of sixteen consecutive quads: w[i] is word i of every quad.
inline void philox_quads(draw_key key, std::uint32_t first_quad, vi w[4]) {
  vi c0 = iadd(iset(first_quad), iota()), c1 = iset(key.position), c2 = iset(key.choice), c3 = iset(0);
  std::uint32_t key0 = static_cast<std::uint32_t>(key.seed), key1 = static_cast<std::uint32_t>(key.seed >> 32);
  const vi m0 = iset(detail::philox_m0), m1 = iset(detail::philox_m1);
  for (int round = 0; round < 10; ++round) {
    vi low0, high0, low1, high1;
    imul(m0, c0, low0, high0);
    imul(m1, c2, low1, high1);
    c0 = ixor(ixor(high1, c1), iset(key0));
    c1 = low1;
    c2 = ixor(ixor(high0, c3), iset(key1));
    c3 = low0;
    key0 += detail::philox_w0;
    key1 += detail::philox_w1;
  }
  w[0] = c0;
  w[1] = c1;
  w[2] = c2;
  w[3] = c3;
}

extreme gumbel_argmax(const float* x, std::size_t n, float max, float scale, draw_key key) {
  constexpr std::size_t block = 4 * n_lanes;  // tokens of sixteen quads
  constexpr float largest_gumbel = 23.0f;
  const vf m = set(max), s = set(scale);
  float best = -INFINITY;
  std::uint32_t best_index = 0;
  for (std::size_t from = 0; from < n; from += block) {
    const std::size_t size = std::min(block, n - from);
    alignas(64) float z[block];
    vf top = set(-INFINITY);
    for (std::size_t i = 0; i < block; i += n_lanes) {
      const std::size_t count = i >= size ? 0 : std::min(n_lanes, size - i);
      vf value = set(-INFINITY);
      if (count == n_lanes) {
        value = mul(sub(load(x + from + i), m), s);
      } else if (count) {
        float rest[n_lanes];
        for (std::size_t k = 0; k < n_lanes; ++k) rest[k] = k < count ? x[from + i + k] : -INFINITY;
        value = mul(sub(load(rest), m), s);
      }
      store(z + i, value);
      top = cpu::max(value, top);
    }
    if (largest(top) + largest_gumbel < best) continue;  // no noise can lift any of these
    vi words[4];
    philox_quads(key, static_cast<std::uint32_t>(from / 4), words);
    alignas(64) float noise[4][n_lanes];
    for (int i = 0; i < 4; ++i) store(noise[i], gumbel_of(words[i]));
    for (std::size_t i = 0; i < size; ++i) {
      const float score = z[i] + noise[i % 4][i / 4];
      if (score > best) {
        best = score;
        best_index = static_cast<std::uint32_t>(from + i);
      }
    }
  }
  return {best, best_index, std::isfinite(best)};
}

constexpr vector_kernels table{rms_norm, add_rows,   swiglu,          rope,         argmax,
                               exp_sum,  exp_scaled, select_at_least, gumbel_argmax};

}  // namespace
}  // namespace troupe::kernels::cpu

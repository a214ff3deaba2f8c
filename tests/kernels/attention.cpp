#include <boost/test/unit_test.hpp>
#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <random>
#include <vector>

#include "kernels/common/floats.hpp"
#include "kernels/cpu/attention.hpp"

using namespace troupe::kernels::cpu;
using troupe::kernels::kv_page_tokens;

namespace {

float as_stored(kv_type t, float x) {
  using namespace troupe::kernels;
  if (t == kv_type::f16) return f16_to_f32(f32_to_f16(x));
  if (t == kv_type::bf16) return bf16_to_f32(f32_to_bf16(x));
  return x;
}

/// One sequence in poisoned pages at scattered ids.
struct sequence {
  kv_type type;
  std::uint32_t n_kv, group, dim, length;
  std::size_t page_bytes;
  std::vector<float> q, k, v;  // [length][heads][dim]
  std::vector<std::byte> pages;
  std::vector<std::uint32_t> table;

  sequence(kv_type type_, std::uint32_t n_kv_, std::uint32_t group_, std::uint32_t dim_, std::uint32_t length_,
           std::mt19937& random)
      : type(type_), n_kv(n_kv_), group(group_), dim(dim_), length(length_) {
    std::normal_distribution<float> normal;
    q.resize(std::size_t{length} * n_kv * group * dim);
    k.resize(std::size_t{length} * n_kv * dim);
    v.resize(k.size());
    for (auto* x : {&q, &k, &v})
      for (float& e : *x) e = normal(random);
    for (float& e : q) e *= 3.0f;
    const std::uint32_t n_pages = (length + kv_page_tokens - 1) / kv_page_tokens;
    page_bytes = n_kv * kv_head_bytes(type, dim) + 64;
    pages.assign((n_pages + 3) * page_bytes, std::byte{0xff});  // NaN in every format
    for (std::uint32_t i = 0; i < n_pages + 3; ++i) table.push_back(i);
    std::shuffle(table.begin(), table.end(), random);
    table.resize(n_pages);
  }
  void store(isa tier, std::uint32_t from, std::uint32_t to) {
    for (std::uint32_t t = from; t < to; ++t)
      attention_kernels_for(tier).store(type, n_kv, dim, &k[std::size_t{t} * n_kv * dim], &v[std::size_t{t} * n_kv * dim],
                                        pages.data() + table[t / kv_page_tokens] * page_bytes, t % kv_page_tokens);
  }
  attention_tile tile(std::uint32_t head, std::uint32_t position, std::uint32_t n_tokens, std::uint32_t n_heads,
                      std::vector<float>& out, std::uint32_t window, float cap) {
    const std::size_t stride = std::size_t{n_kv} * group * dim;
    attention_tile t{};
    t.kv = {pages.data(), page_bytes, type, dim};
    t.pages = table.data();
    t.kv_head = head / group;
    t.q = &q[position * stride + std::size_t{head} * dim];
    t.out = &out[position * stride + std::size_t{head} * dim];
    t.q_stride = t.out_stride = stride;
    t.n_tokens = n_tokens;
    t.n_heads = n_heads;
    t.position = position;
    t.window = window;
    t.scale = 1.0f / std::sqrt(static_cast<float>(dim));
    t.soft_cap = cap;
    return t;
  }
  /// All heads of positions [from, to), in tiles of n_tokens.
  void attend(isa tier, std::uint32_t from, std::uint32_t to, std::uint32_t n_tokens, std::uint32_t n_heads,
              std::vector<float>& out, std::uint32_t window, float cap) {
    scratch.resize(attention_scratch_bytes(dim) + 64);
    std::byte* s = scratch.data() + (64 - reinterpret_cast<std::uintptr_t>(scratch.data()) % 64) % 64;
    for (std::uint32_t h = 0; h < n_kv * group; h += n_heads)
      for (std::uint32_t t = from; t < to; t += n_tokens)
        attention_kernels_for(tier).attend(tile(h, t, std::min(n_tokens, to - t), n_heads, out, window, cap), s);
  }
  std::vector<double> reference(std::uint32_t position, std::uint32_t head, std::uint32_t window, double cap) const {
    const float* query = &q[(std::size_t{position} * n_kv * group + head) * dim];
    std::vector<double> s, out(dim);
    const std::uint32_t first = window && position >= window ? position - window + 1 : 0;
    double top = -INFINITY, total = 0;
    for (std::uint32_t j = first; j <= position; ++j) {
      double sum = 0;
      for (std::uint32_t d = 0; d < dim; ++d)
        sum += static_cast<double>(query[d]) * as_stored(type, k[(std::size_t{j} * n_kv + head / group) * dim + d]);
      sum /= std::sqrt(static_cast<double>(dim));
      if (cap != 0) sum = cap * std::tanh(sum / cap);
      s.push_back(sum);
      top = std::max(top, sum);
    }
    for (double& x : s) total += x = std::exp(x - top);
    for (std::uint32_t j = first; j <= position; ++j)
      for (std::uint32_t d = 0; d < dim; ++d)
        out[d] += s[j - first] / total * as_stored(type, v[(std::size_t{j} * n_kv + head / group) * dim + d]);
    return out;
  }
  std::vector<std::byte> scratch;
};

std::vector<isa> tiers() {
  std::vector<isa> out;
  for (isa t : {isa::scalar, isa::avx2, isa::avx512})
    if (isa_supported(t)) out.push_back(t);
  return out;
}

bool same(const std::vector<float>& a, const std::vector<float>& b, std::size_t from = 0) {
  return std::memcmp(a.data() + from, b.data() + from, (a.size() - from) * sizeof(float)) == 0;
}

struct variant {
  kv_type type;
  std::uint32_t n_kv, group, dim, length, window;
  float cap;
};
constexpr variant variants[] = {
    {kv_type::f16, 2, 3, 64, 1100, 0, 0},   {kv_type::bf16, 1, 4, 32, 70, 0, 0}, {kv_type::f32, 2, 1, 128, 600, 0, 0},
    {kv_type::f32, 1, 7, 8, 130, 0, 0},     {kv_type::f16, 1, 2, 24, 65, 0, 0},  {kv_type::f16, 1, 5, 256, 90, 0, 0},
    {kv_type::f16, 1, 2, 80, 700, 100, 0},  {kv_type::f32, 1, 2, 64, 200, 1, 0}, {kv_type::f32, 1, 2, 64, 300, 17, 20.0f},
    {kv_type::f16, 1, 1, 40, 600, 513, 5.0f}};

}  // namespace

BOOST_AUTO_TEST_CASE(attention_agrees_with_its_definition) {
  std::mt19937 random(1);
  for (const variant& c : variants) {
    sequence s(c.type, c.n_kv, c.group, c.dim, c.length, random);
    s.store(best_isa(), 0, c.length);
    std::vector<float> out(s.q.size(), NAN);
    s.attend(best_isa(), 0, c.length, max_tile_rows / c.group, c.group, out, c.window, c.cap);
    double error = 0, norm = 0;
    for (std::uint32_t t = 0; t < c.length; t += 1 + c.length / 60)
      for (std::uint32_t h = 0; h < c.n_kv * c.group; ++h) {
        const auto want = s.reference(t, h, c.window, c.cap);
        for (std::uint32_t d = 0; d < c.dim; ++d) {
          const double got = out[(std::size_t{t} * c.n_kv * c.group + h) * c.dim + d];
          error += (got - want[d]) * (got - want[d]);
          norm += want[d] * want[d];
        }
      }
    BOOST_TEST(std::sqrt(error / norm) <= 2e-6, "dim " << c.dim << " length " << c.length);
  }
}

BOOST_AUTO_TEST_CASE(attention_has_the_same_bits_on_every_tier) {
  std::mt19937 random(2);
  for (const variant& c : variants) {
    sequence s(c.type, c.n_kv, c.group, c.dim, c.length, random);
    std::vector<std::byte> pages;
    std::vector<float> first;
    for (isa tier : tiers()) {
      s.store(tier, 0, c.length);
      std::vector<float> out(s.q.size(), NAN);
      s.attend(tier, 0, c.length, max_tile_rows / c.group, c.group, out, c.window, c.cap);
      if (first.empty()) {
        first = out;
        pages = s.pages;
      }
      BOOST_TEST(same(first, out), name(tier) << " dim " << c.dim);
      BOOST_TEST((pages == s.pages));
    }
  }
}

BOOST_AUTO_TEST_CASE(attention_does_not_depend_on_tiles_pages_or_what_comes_later) {
  std::mt19937 random(3);
  for (const variant& c : variants) {
    sequence s(c.type, c.n_kv, c.group, c.dim, c.length, random);
    s.store(best_isa(), 0, c.length);
    std::vector<float> whole(s.q.size(), NAN);
    s.attend(best_isa(), 0, c.length, max_tile_rows / c.group, c.group, whole, c.window, c.cap);

    sequence other = s;  // other pages, filled chunk by chunk, other tiles, single heads
    std::fill(other.pages.begin(), other.pages.end(), std::byte{0xff});
    std::shuffle(other.table.begin(), other.table.end(), random);
    std::vector<float> out(s.q.size(), NAN);
    for (std::uint32_t at = 0; at < c.length;) {
      const std::uint32_t to = std::min<std::uint32_t>(c.length, at + 1 + random() % 90);
      other.store(best_isa(), at, to);
      other.attend(best_isa(), at, to, 1 + random() % (max_tile_rows / c.group), random() % 2 ? 1 : c.group, out, c.window,
                   c.cap);
      at = to;
    }
    BOOST_TEST(same(whole, out), "dim " << c.dim << " length " << c.length);
  }
}

BOOST_AUTO_TEST_CASE(segments_merge_to_the_same_bits) {
  std::mt19937 random(4);
  for (std::uint32_t window : {0u, 700u}) {
    sequence s(kv_type::f16, 1, 3, 64, 1900, random);
    s.store(best_isa(), 0, s.length);
    std::vector<float> whole(s.q.size(), NAN), parts(s.q.size(), NAN);
    const std::uint32_t position = 1890;
    s.attend(best_isa(), position, position + 8, 8, 3, whole, window, 0);
    const attention_tile t = s.tile(0, position, 8, 3, parts, window, 0);
    const auto& k = attention_kernels_for(best_isa());
    const std::size_t each = partial_floats(24, 64);
    std::vector<float> partials(each * n_segments(t));
    for (std::uint32_t g = n_segments(t); g-- > first_segment(t);)
      k.attend_segment(t, g, partials.data() + (g - first_segment(t)) * each, s.scratch.data());
    k.merge(t, partials.data(), s.scratch.data());
    BOOST_TEST(same(whole, parts));
  }
}

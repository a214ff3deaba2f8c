#include "kernels/gpu/dense.hpp"

#include <functional>

#include "kernels/gpu/step_inputs.hpp"
#include "src/format/dequantize.hpp"
#include "tests/gpu_kernels/dense_cases.hpp"

using namespace troupe;
using namespace troupe::kernels;
using namespace troupe::kernels::gpu;
using test::device_array;

BOOST_AUTO_TEST_SUITE(gpu_dense)

BOOST_AUTO_TEST_CASE(embeddings_are_bit_exact_for_every_type) {
  std::mt19937 rng(1);
  std::vector<dtype> types(std::begin(test::block_types), std::end(test::block_types));
  types.insert(types.end(), {dtype::f32, dtype::f16, dtype::bf16});
  const std::uint32_t vocab = 40, max_tokens = 9, n = 6;
  for (dtype type : types)
    for (std::uint32_t hidden : {256u, 768u}) {
      const std::size_t all = std::size_t{vocab} * hidden;
      std::vector<std::byte> table;
      if (traits(type).quantized) {
        table = test::random_blocks(rng, type, all);
      } else {
        const auto bytes = test::encode(type, test::random_normal(rng, all));
        table.assign(reinterpret_cast<const std::byte*>(bytes.data()),
                     reinterpret_cast<const std::byte*>(bytes.data() + bytes.size()));
      }
      std::vector<float> values(all);
      format::dequantize(type, table.data(), values.data(), all);
      device_array<std::byte> data(table);
      const embedding_table e{data.get(), type, table.size() / vocab, vocab, hidden};
      const std::vector<std::int32_t> last = {-1, 39, -1, 7};
      device_array<input_token> tokens(
          std::vector<input_token>{0, 39, last_token_of(1), 5, last_token_of(3), 5, -9, -9, -9});
      device_array<std::int32_t> last_token(last);
      device_array<float> h(std::size_t{max_tokens} * hidden);
      const auto number = test::count(n);
      for (float scale : {1.0f, 33.941125f}) {
        h.poison();
        test::run([&](cudaStream_t s) { return embed(e, tokens, last_token, scale, h, number, max_tokens, s); });
        const std::uint32_t ids[n] = {0, 39, 39, 5, 7, 5};
        const auto have = h.take();
        std::size_t wrong = 0;
        for (std::uint32_t t = 0; t < n; ++t)
          for (std::uint32_t i = 0; i < hidden; ++i)
            wrong += have[std::size_t{t} * hidden + i] != scale * values[std::size_t{ids[t]} * hidden + i];
        BOOST_TEST(wrong == 0u, name(type) << " " << hidden);
        BOOST_TEST(test::untouched(have, std::size_t{n} * hidden), name(type));
      }
    }
}

namespace {

struct norm_case {
  std::uint32_t hidden;
  dtype type;
  bool centered, bias, gather;
};

void check_norm(std::mt19937& rng, const norm_case& c, test::worst& worst) {
  const std::uint32_t n = 5, max_tokens = 7, rows = 9;
  const float eps = 1e-5f, offset = c.centered ? 0.0f : 1.0f;
  auto h = test::random_normal(rng, std::size_t{rows} * c.hidden, 3.0f);
  for (float& x : h) x += 0.5f;
  for (std::uint32_t r = 0; r < rows; ++r) h[std::size_t{r} * c.hidden + rng() % c.hidden] *= 50.0f;
  std::fill_n(h.begin(), c.hidden, 0.0f);
  const auto weight = test::random_normal(rng, c.hidden), bias = test::random_normal(rng, c.hidden),
             shift = test::random_normal(rng, c.hidden);
  const std::vector<std::uint32_t> gather = {8, 0, 3, 3, 1, 0, 0};
  device_array<float> dh(h), dweight(weight), dbias(bias), dshift(shift);
  device_array<std::uint32_t> dgather(gather);
  const auto number = test::count(n);
  device_array<std::uint8_t> out(std::size_t{max_tokens} * c.hidden * test::size_of(c.type));
  const rms_norm_args args{dh,       c.bias ? dbias.get() : nullptr,    dweight, offset, eps, out.get(), c.type,
                           c.hidden, c.gather ? dgather.get() : nullptr};
  const auto enqueue = [&](cudaStream_t s) {
    return c.centered ? layer_norm(args, c.bias ? dshift.get() : nullptr, number, max_tokens, s)
                      : rms_norm(args, number, max_tokens, s);
  };
  test::run(enqueue);
  const std::string what = std::string(name(c.type)) + " hidden " + std::to_string(c.hidden) +
                           (c.centered ? " layer" : " rms") + (c.bias ? " bias" : "") + (c.gather ? " gather" : "");
  const auto bytes = out.take();
  BOOST_TEST(test::untouched(bytes, std::size_t{n} * c.hidden * test::size_of(c.type)), what);
  const auto have = test::decode(c.type, bytes);
  const auto after = dh.take();

  auto stored = h;
  std::vector<double> want;
  for (std::uint32_t t = 0; t < n; ++t) {
    const std::size_t row = c.gather ? gather[t] : t;
    std::vector<float> x(h.begin() + row * c.hidden, h.begin() + (row + 1) * c.hidden);
    if (c.bias)
      for (std::uint32_t i = 0; i < c.hidden; ++i) x[i] += bias[i];
    if (!c.gather) std::copy(x.begin(), x.end(), stored.begin() + row * c.hidden);
    double mean = 0, squares = 0;
    for (float v : x) mean += v;
    mean = c.centered ? mean / c.hidden : 0;
    for (float v : x) squares += (v - mean) * (v - mean);
    const double inverse = 1 / std::sqrt(squares / c.hidden + eps);
    for (std::uint32_t i = 0; i < c.hidden; ++i)
      want.push_back((x[i] - mean) * inverse * (double{weight[i]} + offset) + (c.centered && c.bias ? shift[i] : 0));
  }
  BOOST_TEST((after == stored), what + ": the residual stream");
  const double error = test::relative_error(std::span<const float>(have).first(want.size()), want);
  // 2.5e-3 is what rounding leaves of many outputs; of a few one may lie half a unit of bf16 away.
  BOOST_TEST(error <= (c.type == dtype::f32 ? 2e-6 : c.hidden < 64 ? 0x1p-8 : 2.5e-3), what << ": " << error);
  if (c.type != dtype::f32 && !c.centered)
    for (std::size_t i = 0; i < want.size(); ++i) {
      const double distance = test::ulps(c.type, have[i], want[i]);
      BOOST_REQUIRE_MESSAGE(distance <= 1, what << " element " << i << ": " << have[i] << " for " << want[i]);
    }
  if (c.type == dtype::f32) worst.see(error, what);
  if (!c.bias || c.gather) {  // else the bias would be added again
    test::run(enqueue, true);
    BOOST_TEST((out.take() == bytes), what << ": graph");
  }
}

}  // namespace

BOOST_AUTO_TEST_CASE(norms_are_within_a_unit_of_the_last_place) {
  std::mt19937 rng(2);
  test::worst worst;
  for (std::uint32_t hidden : {4u, 36u, 576u, 4096u, 4100u, 8192u, 8196u, 20480u})
    for (dtype type : test::compute_types)
      for (bool centered : {false, true})
        for (bool bias : {false, true})
          for (bool gather : {false, true}) check_norm(rng, {hidden, type, centered, bias, gather}, worst);
  BOOST_TEST_MESSAGE("norms in f32: worst relative error " << worst);
}

BOOST_AUTO_TEST_CASE(rotations_are_tabled_in_double) {
  const std::uint32_t dim = 96, max_tokens = 7, n = 6;
  const std::vector<std::uint32_t> positions = {0, 1, 511, 8191, 100003, 131071, 77};
  std::vector<double> frequencies;
  for (std::uint32_t i = 0; i < dim / 2; ++i) frequencies.push_back(std::pow(500000.0, -2.0 * i / dim));
  device_array<std::uint32_t> p(positions);
  device_array<double> f(frequencies);
  device_array<float> table(std::size_t{max_tokens} * dim);
  const auto number = test::count(n);
  const double factor = 1.13;
  test::run([&](cudaStream_t s) { return rope_table(p, f, dim, factor, table, number, max_tokens, s); });
  const auto have = table.take();
  test::worst worst;
  for (std::uint32_t t = 0; t < n; ++t)
    for (std::uint32_t i = 0; i < dim / 2; ++i) {
      const double angle = positions[t] * frequencies[i];
      const std::string what = "position " + std::to_string(positions[t]) + " pair " + std::to_string(i);
      worst.see(std::fabs(have[t * dim + 2 * i] - std::cos(angle) * factor), what + " cosine");
      worst.see(std::fabs(have[t * dim + 2 * i + 1] - std::sin(angle) * factor), what + " sine");
    }
  BOOST_TEST(worst.value <= 1e-7, worst);
  BOOST_TEST(test::untouched(have, n * dim));
  BOOST_TEST_MESSAGE("rope_table: worst error " << worst);
}

namespace {

/// The e4m3 value nearest to x, ties to the even code; saturates.
float nearest_e4m3(float x) {
  float best = 0;
  int best_code = -1;
  for (int code = 0; code < 0x7f; ++code) {
    const int exponent = code >> 3, mantissa = code & 7;
    const double v = exponent == 0 ? std::ldexp(mantissa, -9) : std::ldexp(8 + mantissa, exponent - 10);
    const double a = std::fabs(std::fabs(double{x}) - v), b = std::fabs(std::fabs(double{x}) - best);
    if (best_code < 0 || a < b || (a == b && code % 2 == 0)) best = static_cast<float>(v), best_code = code;
  }
  return std::copysign(best, x);
}
float e4m3_value(std::uint8_t code) {
  const int exponent = (code >> 3) & 15, mantissa = code & 7;
  const double v = exponent == 0 ? std::ldexp(mantissa, -9) : std::ldexp(8 + mantissa, exponent - 10);
  return static_cast<float>(code & 0x80 ? -v : v);
}

struct rope_case {
  std::uint32_t n_heads, n_kv, dim, rope_dim;
  bool interleaved, bias, norms;
  dtype type;
  kv_type cache;
};

void check_rope(std::mt19937& rng, const rope_case& c, test::worst& worst) {
  const std::uint32_t n = 5, max_tokens = 6, slots = 3, table_pages = 8, n_pages = 20;
  const std::uint32_t heads = c.n_heads + 2 * c.n_kv, width = heads * c.dim;
  const std::string what = std::string(name(c.type)) + " cache " + std::to_string(int(c.cache)) + " heads " +
                           std::to_string(c.n_heads) + "/" + std::to_string(c.n_kv) + " dim " + std::to_string(c.dim) +
                           " rope " + std::to_string(c.rope_dim) + (c.interleaved ? " interleaved" : "") +
                           (c.bias ? " bias" : "") + (c.norms ? " norms" : "");
  const std::vector<std::uint32_t> positions = {0, 15, 16, 100, 37, 99}, token_slots = {2, 0, 0, 1, 2, 77};
  std::vector<std::uint32_t> table(slots * table_pages);
  std::vector<std::uint32_t> pages(n_pages);
  for (std::uint32_t i = 0; i < n_pages; ++i) pages[i] = i;
  std::shuffle(pages.begin(), pages.end(), rng);
  for (std::uint32_t i = 0; i < table.size(); ++i) table[i] = i < n_pages ? pages[i] : pages[i % n_pages];
  auto x = test::random_normal(rng, std::size_t{max_tokens} * width);
  std::fill_n(x.begin() + c.n_heads * c.dim, c.dim, 0.0f);  // the first token's first key
  x = test::rounded(c.type, x);
  const auto bias = test::random_normal(rng, width), q_norm = test::random_normal(rng, c.dim),
             k_norm = test::random_normal(rng, c.dim);
  auto rope = test::random_normal(rng, std::size_t{max_tokens} * std::max(c.rope_dim, 2u));
  for (std::size_t i = 0; i + 1 < rope.size(); i += 2) {
    const float a = rope[i] * 3;
    rope[i] = std::cos(a), rope[i + 1] = std::sin(a);
  }
  const std::size_t kv_elements = std::size_t{n_pages} * c.n_kv * page_tokens * c.dim;
  const std::size_t kv_scales = std::size_t{n_pages} * c.n_kv * page_tokens, element = kv_element_bytes(c.cache);
  device_array<std::uint8_t> qkv(test::encode(c.type, x)), k(kv_elements * element), v(kv_elements * element);
  device_array<float> ks(kv_scales), vs(kv_scales), dbias(bias), dq(q_norm), dk(k_norm), drope(rope);
  device_array<std::uint32_t> dpositions(positions), dslots(token_slots), dtable(table);
  const auto number = test::count(n);
  const float eps = 1e-6f;
  const rope_store_args args{qkv.get(),
                             c.type,
                             c.bias ? dbias.get() : nullptr,
                             c.norms ? dq.get() : nullptr,
                             c.norms ? dk.get() : nullptr,
                             eps,
                             drope,
                             c.rope_dim,
                             c.interleaved,
                             c.n_heads,
                             kv_pool{k.get(), v.get(), ks, vs, c.cache, c.n_kv, c.dim},
                             dpositions,
                             dslots,
                             dtable,
                             table_pages};
  test::run([&](cudaStream_t s) { return rope_and_store(args, number, max_tokens, s); });

  const auto out = test::decode(c.type, qkv.take());
  const auto out_k = k.take(), out_v = v.take();
  const auto out_ks = ks.take(), out_vs = vs.take();
  std::vector<bool> written(kv_scales, false);
  for (std::uint32_t t = 0; t < max_tokens; ++t)
    for (std::uint32_t head = 0; head < heads; ++head) {
      const std::size_t at = std::size_t{t} * width + head * c.dim;
      const bool query = head < c.n_heads, value = head >= c.n_heads + c.n_kv;
      if (t >= n || !query) {  // stays as it was
        for (std::uint32_t i = 0; i < c.dim; ++i) BOOST_REQUIRE_MESSAGE(out[at + i] == x[at + i], what);
        if (t >= n) continue;
      }
      std::vector<double> y(x.begin() + at, x.begin() + at + c.dim), z;
      double size = 0, squares = 0;
      for (std::uint32_t i = 0; i < c.dim; ++i) {
        if (c.bias) y[i] = static_cast<float>(y[i]) + bias[head * c.dim + i];
        squares += y[i] * y[i];
      }
      if (c.norms && !value)
        for (std::uint32_t i = 0; i < c.dim; ++i)
          y[i] *= (query ? q_norm : k_norm)[i] / std::sqrt(squares / c.dim + double{eps});
      z = y;
      for (std::uint32_t i = 0; i < c.rope_dim / 2 && !value; ++i) {
        const std::uint32_t a = c.interleaved ? 2 * i : i, b = c.interleaved ? 2 * i + 1 : i + c.rope_dim / 2;
        const double cosine = rope[std::size_t{t} * c.rope_dim + 2 * i],
                     sine = rope[std::size_t{t} * c.rope_dim + 2 * i + 1];
        z[a] = y[a] * cosine - y[b] * sine;
        z[b] = y[b] * cosine + y[a] * sine;
      }
      for (double d : z) size = std::max(size, std::fabs(d));
      // f32 arithmetic cancels where a pair's terms do: its error is of the size of the head, then comes one rounding.
      const double slack = size * 1e-6;
      if (query) {
        for (std::uint32_t i = 0; i < c.dim; ++i) {
          const double unit = std::fabs(out[at + i] - z[i]) <= slack ? 0 : test::ulps(c.type, out[at + i], z[i]);
          if (c.type != dtype::f32 || unit != 0) worst.see(unit, what);
          BOOST_REQUIRE_MESSAGE(unit <= 1, what << " query element " << i << ": " << out[at + i] << " for " << z[i]);
        }
        continue;
      }
      const std::uint32_t kv_head = head - c.n_heads - (value ? c.n_kv : 0);
      const std::uint32_t page = table[token_slots[t] * table_pages + positions[t] / page_tokens];
      const std::size_t place = (std::size_t{page} * c.n_kv + kv_head) * page_tokens + positions[t] % page_tokens;
      written[place] = true;
      const auto& pool = value ? out_v : out_k;
      if (c.cache == kv_type::e4m3) {
        const float scale = (value ? out_vs : out_ks)[place];
        BOOST_REQUIRE_MESSAGE(size == 0 ? scale == 1 : std::fabs(scale - size / 448) <= size / 448 * 4e-6,
                              what << " scale " << scale << " for " << size / 448);
        for (std::uint32_t i = 0; i < c.dim; ++i) {
          const float have = e4m3_value(pool[place * c.dim + i]), exact = static_cast<float>(z[i] / scale);
          const float below = nearest_e4m3(exact - 1e-3f * std::fabs(exact)),
                      above = nearest_e4m3(exact + 1e-3f * std::fabs(exact));
          BOOST_REQUIRE_MESSAGE(have == nearest_e4m3(exact) || have == below || have == above,
                                what << " code of " << exact << " is " << have);
        }
      } else {
        const dtype stored = c.cache == kv_type::f32 ? dtype::f32 : c.cache == kv_type::f16 ? dtype::f16 : dtype::bf16;
        const auto have = test::decode(stored, std::span(pool).subspan(place * c.dim * element, c.dim * element));
        for (std::uint32_t i = 0; i < c.dim; ++i) {
          const double unit = std::fabs(have[i] - z[i]) <= slack ? 0 : test::ulps(stored, have[i], z[i]);
          BOOST_REQUIRE_MESSAGE(unit <= 1,
                                what << (value ? " value " : " key ") << i << ": " << have[i] << " for " << z[i]);
        }
      }
    }
  for (std::size_t place = 0; place < kv_scales; ++place) {
    if (written[place]) continue;
    for (const auto* pool : {&out_k, &out_v})
      BOOST_REQUIRE_MESSAGE((std::all_of(pool->begin() + static_cast<std::ptrdiff_t>(place * c.dim * element),
                                         pool->begin() + static_cast<std::ptrdiff_t>((place + 1) * c.dim * element),
                                         [](std::uint8_t b) { return b == 0xff; })),
                            what << ": a place of no token was written");
  }
}

}  // namespace

BOOST_AUTO_TEST_CASE(heads_are_rotated_and_stored_in_their_pages) {
  std::mt19937 rng(4);
  test::worst worst;
  for (dtype type : test::compute_types)
    for (kv_type cache : {kv_type::f32, kv_type::f16, kv_type::bf16, kv_type::e4m3})
      for (const bool interleaved : {false, true})
        for (const bool extras : {false, true}) {
          check_rope(rng, {9, 3, 64, 64, interleaved, extras, false, type, cache}, worst);
          check_rope(rng, {4, 4, 128, 128, interleaved, extras, extras, type, cache}, worst);
          check_rope(rng, {2, 1, 80, 32, interleaved, false, extras, type, cache}, worst);
          check_rope(rng, {3, 1, 256, 64, interleaved, extras, true, type, cache}, worst);
          check_rope(rng, {2, 2, 8, 0, interleaved, extras, false, type, cache}, worst);
        }
  BOOST_TEST_MESSAGE("rope_and_store: worst query in units of the last place " << worst);
}

BOOST_AUTO_TEST_CASE(gates_are_within_a_unit_of_the_last_place) {
  std::mt19937 rng(5);
  const struct {
    gate_activation activation;
    const char* name;
  } activations[] = {{gate_activation::silu, "silu"},
                     {gate_activation::gelu_tanh, "gelu_tanh"},
                     {gate_activation::gelu_erf, "gelu_erf"}};
  const std::uint32_t n = 3, max_tokens = 5;
  for (const auto& a : activations) {
    test::worst worst;
    for (dtype type : test::compute_types)
      for (std::uint32_t ffn : {8u, 1536u, 2056u, 14336u})
        for (bool bias : {false, true}) {
          auto gu = test::random_normal(rng, std::size_t{max_tokens} * 2 * ffn, 3.0f);
          for (int i = 0; i < 20; ++i) gu[rng() % gu.size()] *= 10.0f;
          gu = test::rounded(type, gu);
          gu[0] = -200.0f;  // exp overflows
          gu[1] = 0.0f;
          gu = test::rounded(type, gu);
          const auto gate_bias = test::random_normal(rng, ffn), up_bias = test::random_normal(rng, ffn);
          device_array<std::uint8_t> in(test::encode(type, gu)),
              out(std::size_t{max_tokens} * ffn * test::size_of(type));
          device_array<float> gb(gate_bias), ub(up_bias);
          const auto number = test::count(n);
          const auto enqueue = [&](cudaStream_t s) {
            return gated_activation(a.activation, in.get(), bias ? gb.get() : nullptr, bias ? ub.get() : nullptr,
                                    out.get(), type, ffn, number, max_tokens, s);
          };
          test::run(enqueue);
          const std::string what = std::string(a.name) + " " + std::string(name(type)) + " ffn " + std::to_string(ffn) +
                                   (bias ? " bias" : "");
          const auto bytes = out.take();
          BOOST_TEST(test::untouched(bytes, std::size_t{n} * ffn * test::size_of(type)), what);
          const auto have = test::decode(type, bytes);
          std::vector<double> want;
          for (std::uint32_t t = 0; t < n; ++t)
            for (std::uint32_t i = 0; i < ffn; ++i) {
              float g = gu[std::size_t{t} * 2 * ffn + i], u = gu[(std::size_t{t} * 2 + 1) * ffn + i];
              if (bias) g += gate_bias[i], u += up_bias[i];
              want.push_back(test::activated(a.activation, g) * u);
              // In f32 the exponential's rounding is left over; values that the type cannot hold come to nothing.
              const double unit = std::fabs(want.back()) < 1e-30 ? (std::fabs(have[want.size() - 1]) < 1e-30 ? 0 : 1e9)
                                                                 : test::ulps(type, have[want.size() - 1], want.back());
              BOOST_REQUIRE_MESSAGE(type == dtype::f32 || unit <= 1,
                                    what << " " << i << ": " << have[want.size() - 1] << " for " << want.back());
            }
          const double error = test::relative_error(std::span<const float>(have).first(want.size()), want);
          BOOST_TEST(error <= (type == dtype::f32 ? 1e-6 : 2.5e-3), what << ": " << error);
          if (type == dtype::f32) worst.see(error, what);
          test::run(enqueue, true);
          BOOST_TEST((out.take() == bytes), what << ": graph");
        }
    BOOST_TEST_MESSAGE(a.name << " in f32: worst relative error " << worst);
  }
}

BOOST_AUTO_TEST_CASE(random_weights_are_normal_and_the_same_every_time) {
  for (dtype type : test::compute_types) {
    const std::size_t n = (1 << 20) + 3;
    device_array<std::uint8_t> out(n * test::size_of(type)), part(1001 * test::size_of(type));
    test::run([&](cudaStream_t s) { return fill_normal(out.get(), type, n, 0.02f, 77, s); });
    test::run([&](cudaStream_t s) { return fill_normal(part.get(), type, 1001, 0.02f, 77, s); });
    const auto bytes = out.take(), head = part.take();
    BOOST_TEST(std::equal(head.begin(), head.end(), bytes.begin()), name(type));
    const auto x = test::decode(type, bytes);
    double mean = 0, squares = 0, fourth = 0, neighbours = 0;
    std::size_t beyond = 0;
    for (std::size_t i = 0; i < n; ++i) {
      const double v = x[i] / 0.02;
      mean += v, squares += v * v, fourth += v * v * v * v, beyond += std::fabs(v) > 2;
      if (i > 0) neighbours += v * x[i - 1] / 0.02;
    }
    // Five standard errors of each estimate for a million draws; 4.55 % of a normal lie beyond two deviations.
    BOOST_TEST(std::fabs(mean / n) < 0.005, name(type));
    BOOST_TEST(std::fabs(squares / n - 1) < 0.007 + 1e-3, name(type));
    BOOST_TEST(std::fabs(fourth / n - 3) < 0.05, name(type));
    BOOST_TEST(std::fabs(neighbours / n) < 0.005, name(type));
    BOOST_TEST(std::fabs(static_cast<double>(beyond) / n - 0.0455) < 0.0015, name(type));
    test::run([&](cudaStream_t s) { return fill_normal(out.get(), type, n, 0.02f, 78, s); });
    BOOST_TEST((out.take() != bytes), name(type));
  }
}

BOOST_AUTO_TEST_SUITE_END()

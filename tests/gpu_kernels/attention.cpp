#include "kernels/gpu/attention.hpp"

#include <algorithm>
#include <array>
#include <boost/test/data/monomorphic.hpp>
#include <boost/test/data/test_case.hpp>
#include <cstring>
#include <functional>
#include <memory>
#include <numeric>
#include <ostream>

#include "kernels/gpu/attention_scratch.hpp"
#include "tests/gpu_kernels/device.hpp"

/// Attention against a slow f64 one from the same stored numbers, and bit for bit against itself however a step is put
/// together. Everything that no query may see is NaN: pages nobody uses, positions past the end, pages before the
/// window (whose table entries are nonsense too), the key and value columns beside the queries, and the scratch.
using namespace troupe::test;
using namespace troupe::kernels;
using namespace troupe::kernels::gpu;

namespace {

struct setting {
  const char* name;
  dtype type;
  kv_type kv;
  std::uint32_t n_heads, n_kv_heads, head_dim;
  std::uint32_t window = 0;
  float soft_cap = 0;
  bool sinks = false;
  float deviation = 1;  ///< of queries and keys
  float value_deviation = 1;
};
std::ostream& operator<<(std::ostream& out, const setting& s) { return out << s.name; }

struct sequence {
  std::uint32_t slot, length;  ///< positions that are stored
  std::uint32_t first_query;   ///< queries exist for [first_query, length)
};

/// Towards zero, |x| <= 448; below 2^-6 zero.
std::uint8_t f32_to_e4m3(float x) {
  const f16_bits h = f32_to_f16(x);
  const int magnitude = (h & 0x7fff) >> 7;
  return static_cast<std::uint8_t>((h >> 8 & 0x80) | (magnitude < (9 << 3) ? 0 : std::min(magnitude - (8 << 3), 0x7e)));
}

/// Sequences with keys, values and queries on the card, and steps over any parts of them.
class scene {
 public:
  scene(const setting& s, std::vector<sequence> sequences, unsigned seed)
      : s_(s), sequences_(std::move(sequences)), rng_(seed) {
    check(cudaGetDevice(&device_));
    check(cudaDeviceGetAttribute(&n_sms_, cudaDevAttrMultiProcessorCount, device_));
    std::uint32_t longest = 1, max_slot = 0, n_pages = 0;
    for (const sequence& q : sequences_) {
      longest = std::max(longest, q.length);
      max_slot = std::max(max_slot, q.slot);
      n_pages += (q.length + page_tokens - 1) / page_tokens;
    }
    max_model_len_ = longest + 100;
    table_pages_ = (max_model_len_ + page_tokens - 1) / page_tokens;
    n_pages += 7;
    std::vector<std::uint32_t> free(n_pages);
    std::iota(free.begin(), free.end(), 0u);
    std::shuffle(free.begin(), free.end(), rng_);
    table_.assign(std::size_t{max_slot + 1} * table_pages_, 0xffffffffu);
    const std::size_t rows = std::size_t{n_pages} * s_.n_kv_heads * page_tokens;
    const std::uint32_t size = kv_element_bytes(s_.kv);
    k_bytes_.assign(rows * s_.head_dim * size, 0xff);
    v_bytes_ = k_bytes_;
    k_scale_.assign(rows, std::numeric_limits<float>::quiet_NaN());
    v_scale_ = k_scale_;
    k_.assign(rows * s_.head_dim, std::numeric_limits<float>::quiet_NaN());
    v_ = k_;
    for (const sequence& q : sequences_) {
      const std::uint32_t oldest = s_.window && q.first_query + 1 > s_.window ? q.first_query + 1 - s_.window : 0;
      for (std::uint32_t p = oldest; p < q.length; ++p) {
        std::uint32_t& page = table_[std::size_t{q.slot} * table_pages_ + p / page_tokens];
        if (page == 0xffffffffu) page = free.back(), free.pop_back();
        for (std::uint32_t h = 0; h < s_.n_kv_heads; ++h) {
          const std::size_t row = (std::size_t{page} * s_.n_kv_heads + h) * page_tokens + p % page_tokens;
          store(row, s_.deviation, k_bytes_, k_, k_scale_);
          store(row, s_.value_deviation, v_bytes_, v_, v_scale_);
        }
      }
      queries_.push_back(
          rounded(s_.type, outliers(random_normal(
                               rng_, std::size_t{q.length - q.first_query} * s_.n_heads * s_.head_dim, s_.deviation))));
    }
    if (s_.sinks) sinks_ = random_normal(rng_, s_.n_heads, 2.0f);
    k_device_ = std::make_unique<device_array<std::uint8_t>>(k_bytes_);
    v_device_ = std::make_unique<device_array<std::uint8_t>>(v_bytes_);
    k_scale_device_ = std::make_unique<device_array<float>>(k_scale_);
    v_scale_device_ = std::make_unique<device_array<float>>(v_scale_);
    table_device_ = std::make_unique<device_array<std::uint32_t>>(table_);
    if (s_.sinks) sinks_device_ = std::make_unique<device_array<float>>(sinks_);
  }

  /// Consecutive queries of one sequence (index into the scene's).
  struct part {
    std::size_t sequence;
    std::uint32_t position, n_tokens;
  };

  /// What runs: a plan of the parts for a card of n_sms, eagerly or by a graph that is replayed. few: attention_few
  /// with that many tokens at most instead, in the smallest scratch that may be; nothing if it does not take the
  /// setting.
  std::vector<std::uint8_t> run(const std::vector<part>& parts, int n_sms = 0, bool graph = false,
                                std::uint32_t few = 0) {
    const std::uint32_t ld_q = (s_.n_heads + 2 * s_.n_kv_heads) * s_.head_dim;
    const std::size_t size = s_.type == dtype::f32 ? 4 : 2, row = std::size_t{s_.n_heads} * s_.head_dim;
    std::vector<row_span> rows;
    std::uint32_t n_tokens = 0;
    std::vector<std::uint32_t> positions, slots;
    for (const part& p : parts) {
      rows.push_back({sequences_[p.sequence].slot, p.position, p.n_tokens, n_tokens});
      n_tokens += p.n_tokens;
      for (std::uint32_t i = 0; i < p.n_tokens; ++i)
        positions.push_back(p.position + i), slots.push_back(rows.back().slot);
    }
    const std::uint32_t max_tokens = std::max(n_tokens, few) + 5;
    attention_args a{};
    a.shape = {s_.n_heads,
               s_.n_kv_heads,
               s_.head_dim,
               few ? attention_few_tokens : max_tokens,
               few ? 1 : static_cast<std::uint32_t>(rows.size()) + 2,
               max_model_len_,
               s_.window,
               static_cast<std::uint32_t>(n_sms ? n_sms : n_sms_)};
    std::vector<float> q(std::size_t{max_tokens} * ld_q, std::numeric_limits<float>::quiet_NaN());
    std::size_t token = 0;
    for (const part& p : parts)
      for (std::uint32_t i = 0; i < p.n_tokens; ++i, ++token)
        std::copy_n(queries_[p.sequence].begin() +
                        static_cast<std::ptrdiff_t>((p.position - sequences_[p.sequence].first_query + i) * row),
                    row, q.begin() + static_cast<std::ptrdiff_t>(token * ld_q));
    const device_array<std::uint8_t> q_device(encode(s_.type, q));
    const device_array<std::uint8_t> out(max_tokens * row * size);
    std::vector<attention_item> items;
    if (!few) plan_attention(a.shape, rows, items);
    BOOST_REQUIRE_LE(items.size(), max_attention_items(a.shape));
    n_split_ = static_cast<std::size_t>(
        std::count_if(items.begin(), items.end(), [](const attention_item& i) { return i.n_parts > 1; }));
    device_array<attention_item> items_device(max_attention_items(a.shape));
    items_device.put(items);
    const device_array<std::uint32_t> n_items(std::vector<std::uint32_t>{static_cast<std::uint32_t>(items.size())});
    const attention_scratch_layout layout = layout_attention_scratch(a.shape);
    const device_array<std::uint8_t> scratch(attention_scratch_bytes(a.shape));
    check(cudaMemset(scratch.get() + layout.counters, 0, layout.sums - layout.counters));

    a.q = q_device.get();
    a.ld_q = ld_q;
    a.out = out.get();
    a.type = s_.type;
    a.kv = {k_device_->get(),
            v_device_->get(),
            s_.kv == kv_type::e4m3 ? k_scale_device_->get() : nullptr,
            s_.kv == kv_type::e4m3 ? v_scale_device_->get() : nullptr,
            s_.kv,
            s_.n_kv_heads,
            s_.head_dim};
    a.page_table = table_device_->get();
    a.table_pages = table_pages_;
    a.scale = scale();
    a.soft_cap = s_.soft_cap;
    a.sinks = s_.sinks ? sinks_device_->get() : nullptr;
    a.items = few ? nullptr : items_device.get();
    a.n_items = few ? nullptr : n_items.get();
    a.scratch = scratch.get();
    if (few && !can_attend_few(a, few)) return {};
    device_array<std::uint32_t> positions_device(max_tokens), slots_device(max_tokens);  // 0xffffffff past the tokens
    positions_device.put(positions);
    slots_device.put(slots);
    const device_array<std::uint32_t> count(std::vector<std::uint32_t>{n_tokens});
    const auto compute = [&](cudaStream_t s) {
      return few ? attention_few(a, positions_device, slots_device, count, few, s) : attention(a, s);
    };
    cudaStream_t stream;
    check(cudaStreamCreate(&stream));
    if (graph) {
      cudaGraph_t captured;
      cudaGraphExec_t ready;
      check(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
      check(compute(stream));
      check(cudaStreamEndCapture(stream, &captured));
      check(cudaGraphInstantiate(&ready, captured, 0));
      for (int i = 0; i < 3; ++i) check(cudaGraphLaunch(ready, stream));
      check(cudaStreamSynchronize(stream));
      check(cudaGraphExecDestroy(ready));
      check(cudaGraphDestroy(captured));
    } else {
      check(compute(stream));
    }
    check(cudaStreamSynchronize(stream));
    check(cudaStreamDestroy(stream));

    std::vector<std::uint8_t> bits = out.take();
    const bool untouched = std::all_of(bits.begin() + static_cast<std::ptrdiff_t>(n_tokens * row * size), bits.end(),
                                       [](std::uint8_t b) { return b == 0xff; });
    BOOST_TEST(untouched, s_.name << ": rows past the last token were written");
    std::vector<std::uint8_t> counters(layout.sums - layout.counters);
    check(cudaMemcpy(counters.data(), scratch.get() + layout.counters, counters.size(), cudaMemcpyDeviceToHost));
    const bool reset = std::all_of(counters.begin(), counters.end(), [](std::uint8_t b) { return b == 0; });
    if (layout.bytes < 8u << 20) scratch.take();  // its guards
    BOOST_TEST(reset, s_.name << ": counters were left behind");
    bits.resize(n_tokens * row * size);
    return bits;
  }

  /// In f64, for the token at `position` of a sequence: [n_heads * head_dim].
  std::vector<double> reference(std::size_t sequence, std::uint32_t position) const {
    const auto& seq = sequences_[sequence];
    const std::uint32_t group = s_.n_heads / s_.n_kv_heads, dim = s_.head_dim;
    const std::uint32_t oldest = s_.window && position + 1 > s_.window ? position + 1 - s_.window : 0;
    std::vector<double> out(std::size_t{s_.n_heads} * dim);
    std::vector<double> scores(position - oldest + 1);
    for (std::uint32_t head = 0; head < s_.n_heads; ++head) {
      const float* q = queries_[sequence].data() + (std::size_t{position - seq.first_query} * s_.n_heads + head) * dim;
      const auto row_of = [&](std::uint32_t p) {
        const std::size_t page = table_[std::size_t{seq.slot} * table_pages_ + p / page_tokens];
        return (page * s_.n_kv_heads + head / group) * page_tokens + p % page_tokens;
      };
      double top = s_.sinks ? static_cast<double>(sinks_[head]) : -std::numeric_limits<double>::infinity();
      for (std::uint32_t p = oldest; p <= position; ++p) {
        const float* k = k_.data() + row_of(p) * dim;
        double dot = 0;
        for (std::uint32_t d = 0; d < dim; ++d) dot += static_cast<double>(q[d]) * static_cast<double>(k[d]);
        dot *= static_cast<double>(scale());
        const double cap = static_cast<double>(s_.soft_cap);
        if (cap != 0) dot = cap * std::tanh(dot / cap);
        scores[p - oldest] = dot;
        top = std::max(top, dot);
      }
      double sum = s_.sinks ? std::exp(static_cast<double>(sinks_[head]) - top) : 0;
      for (double& x : scores) sum += x = std::exp(x - top);
      for (std::uint32_t p = oldest; p <= position; ++p) {
        const float* v = v_.data() + row_of(p) * dim;
        const double w = scores[p - oldest] / sum;
        for (std::uint32_t d = 0; d < dim; ++d) out[std::size_t{head} * dim + d] += w * static_cast<double>(v[d]);
      }
    }
    return out;
  }

  std::size_t token_bytes() const { return std::size_t{s_.n_heads} * s_.head_dim * (s_.type == dtype::f32 ? 4 : 2); }
  std::size_t n_split() const { return n_split_; }
  const setting& settings() const { return s_; }
  const std::vector<sequence>& sequences() const { return sequences_; }
  std::mt19937& rng() { return rng_; }

 private:
  float scale() const { return 1.0f / std::sqrt(static_cast<float>(s_.head_dim)); }

  /// Channel 3 of each head far larger than the others, as models have it; kept out where scores must stay small.
  std::vector<float> outliers(std::vector<float> x) const {
    for (std::size_t i = 3; i < x.size(); i += s_.head_dim) x[i] *= 5;
    return x;
  }

  /// Random numbers into one row of a pool: bits, what they mean, and with e4m3 the scale.
  void store(std::size_t row, float deviation, std::vector<std::uint8_t>& bytes, std::vector<float>& values,
             std::vector<float>& scales) {
    std::vector<float> x = random_normal(rng_, s_.head_dim, deviation);
    float* to = values.data() + row * s_.head_dim;
    if (s_.kv == kv_type::e4m3) {
      float amax = 0;
      for (float f : x) amax = std::max(amax, std::abs(f));
      scales[row] = amax / 448;
      for (std::uint32_t d = 0; d < s_.head_dim; ++d) {
        const std::uint8_t code = f32_to_e4m3(x[d] / scales[row]);
        bytes[row * s_.head_dim + d] = code;
        to[d] = scales[row] * e4m3_to_f32(code);
      }
      return;
    }
    const dtype type = s_.kv == kv_type::f32 ? dtype::f32 : s_.kv == kv_type::f16 ? dtype::f16 : dtype::bf16;
    const std::vector<std::uint8_t> encoded = encode(type, x);
    std::copy(encoded.begin(), encoded.end(), bytes.begin() + static_cast<std::ptrdiff_t>(row * encoded.size()));
    const std::vector<float> back = decode(type, encoded);
    std::copy(back.begin(), back.end(), to);
  }

  setting s_;
  std::vector<sequence> sequences_;
  std::mt19937 rng_;
  int device_ = 0, n_sms_ = 0;
  std::uint32_t max_model_len_ = 0, table_pages_ = 0;
  std::size_t n_split_ = 0;
  std::vector<std::uint32_t> table_;
  std::vector<std::uint8_t> k_bytes_, v_bytes_;
  std::vector<float> k_scale_, v_scale_, k_, v_, sinks_;
  std::vector<std::vector<float>> queries_;
  std::unique_ptr<device_array<std::uint8_t>> k_device_, v_device_;
  std::unique_ptr<device_array<float>> k_scale_device_, v_scale_device_, sinks_device_;
  std::unique_ptr<device_array<std::uint32_t>> table_device_;
};

/// Bounds of the design's table: 3e-3 for bf16 (its own rounding of the result is 1.7e-3), 1e-3 for f16.
double bound_of(dtype type) { return type == dtype::bf16 ? 3e-3 : type == dtype::f16 ? 1e-3 : 1e-5; }

/// The worst relative error of tokens picked at random (all of them if few) among the parts' results.
double worst_error(scene& s, const std::vector<scene::part>& parts, std::span<const std::uint8_t> bits,
                   std::size_t n_picks) {
  std::vector<std::pair<std::size_t, std::uint32_t>> tokens;
  for (const scene::part& p : parts)
    for (std::uint32_t i = 0; i < p.n_tokens; ++i) tokens.push_back({p.sequence, p.position + i});
  std::vector<std::size_t> picks(tokens.size());
  std::iota(picks.begin(), picks.end(), std::size_t{0});
  if (picks.size() > n_picks) {
    std::shuffle(picks.begin() + 1, picks.end() - 1, s.rng());
    std::swap(picks[1], picks.back());
    picks.resize(n_picks);
  }
  double worst = 0;
  for (std::size_t i : picks) {
    const std::vector<float> out = decode(s.settings().type, bits.subspan(i * s.token_bytes(), s.token_bytes()));
    worst =
        std::max(worst, relative_error(std::span<const float>(out), s.reference(tokens[i].first, tokens[i].second)));
  }
  return worst;
}

std::size_t n_different(const scene& s, std::span<const std::uint8_t> a, std::span<const std::uint8_t> b) {
  BOOST_REQUIRE_EQUAL(a.size(), b.size());
  std::size_t n = 0;
  for (std::size_t i = 0; i < a.size(); i += s.token_bytes())
    n += std::memcmp(a.data() + i, b.data() + i, s.token_bytes()) != 0;
  return n;
}

const std::vector<setting> settings{
    {"f16 64 group 3", dtype::f16, kv_type::f16, 9, 3, 64},
    {"f16 96 group 1", dtype::f16, kv_type::f16, 2, 2, 96},
    {"f16 128 group 4", dtype::f16, kv_type::f16, 8, 2, 128},
    {"f16 256 group 2", dtype::f16, kv_type::f16, 4, 2, 256},
    {"bf16 64 group 8, window 128, sinks", dtype::bf16, kv_type::bf16, 16, 2, 64, 128, 0, true},
    {"bf16 96 group 4", dtype::bf16, kv_type::bf16, 4, 1, 96},
    {"bf16 128 group 4", dtype::bf16, kv_type::bf16, 8, 2, 128},
    {"bf16 128 group 7, large scores", dtype::bf16, kv_type::bf16, 7, 1, 128, 0, 0, false, 3},
    {"bf16 128 group 1, window 700", dtype::bf16, kv_type::bf16, 2, 2, 128, 700},
    {"bf16 256 group 2, cap 50, window 1000", dtype::bf16, kv_type::bf16, 4, 2, 256, 1000, 50, false, 2},
    {"bf16 64 group 71", dtype::bf16, kv_type::bf16, 71, 1, 64},
    {"bf16 128 group 16, sinks, cap 30", dtype::bf16, kv_type::bf16, 16, 1, 128, 0, 30, true},
    {"f16 64 e4m3", dtype::f16, kv_type::e4m3, 6, 2, 64},
    {"f16 96 e4m3", dtype::f16, kv_type::e4m3, 6, 2, 96},
    {"f16 128 e4m3, small values", dtype::f16, kv_type::e4m3, 8, 2, 128, 0, 0, false, 1, 0.01f},
    {"f16 256 e4m3, window 600, sinks", dtype::f16, kv_type::e4m3, 4, 2, 256, 600, 0, true},
    {"bf16 64 e4m3, cap 20", dtype::bf16, kv_type::e4m3, 8, 1, 64, 0, 20},
    {"bf16 96 e4m3", dtype::bf16, kv_type::e4m3, 3, 1, 96},
    {"bf16 128 e4m3", dtype::bf16, kv_type::e4m3, 8, 2, 128},
    {"bf16 256 e4m3", dtype::bf16, kv_type::e4m3, 2, 1, 256},
    {"plain f32 64", dtype::f32, kv_type::f32, 9, 3, 64},
    {"plain f32 8, cap 10, window 77, sinks", dtype::f32, kv_type::f32, 4, 2, 8, 77, 10, true},
    {"plain f32 over f16 256", dtype::f32, kv_type::f16, 2, 1, 256},
    {"plain f32 over e4m3 80", dtype::f32, kv_type::e4m3, 4, 2, 80},
    {"plain bf16 over bf16 72", dtype::bf16, kv_type::bf16, 4, 2, 72},
    {"plain f16 over bf16 128", dtype::f16, kv_type::bf16, 4, 2, 128},
};

/// What attention_few takes: those above and some for it alone.
std::vector<setting> settings_of_few() {
  std::vector<setting> out{{"bf16 128 group 8, window 100", dtype::bf16, kv_type::bf16, 8, 1, 128, 100},
                           {"bf16 128 group 8", dtype::bf16, kv_type::bf16, 8, 1, 128},
                           {"bf16 64 group 8", dtype::bf16, kv_type::bf16, 16, 2, 64},
                           {"f16 128 group 3", dtype::f16, kv_type::f16, 6, 2, 128},
                           {"f16 64 group 4, window 1000", dtype::f16, kv_type::f16, 8, 2, 64, 1000}};
  for (const setting& s : settings)
    if ((s.head_dim == 64 || s.head_dim == 128) && s.type != dtype::f32 && s.soft_cap == 0 && !s.sinks &&
        s.kv == (s.type == dtype::f16 ? kv_type::f16 : kv_type::bf16) && s.n_heads / s.n_kv_heads <= 4)
      out.push_back(s);
  return out;
}

}  // namespace

BOOST_AUTO_TEST_SUITE(attention_kernels)

BOOST_DATA_TEST_CASE(decode_rows_of_all_lengths_match_f64, boost::unit_test::data::make(settings), s) {
  std::vector<sequence> sequences;
  std::vector<scene::part> parts;
  for (std::uint32_t length : {1u, 2u, 15u, 16u, 17u, 64u, 65u, 127u, 511u, 512u, 513u, 577u, 1025u, 2100u}) {
    parts.push_back({sequences.size(), length - 1, 1});
    sequences.push_back({static_cast<std::uint32_t>(2 * sequences.size() + 1), length, length - 1});
  }
  scene x(s, sequences, 1);
  const std::vector<std::uint8_t> bits = x.run(parts);
  const double error = worst_error(x, parts, bits, 100);
  BOOST_TEST(error <= bound_of(s.type), s.name << ": relative error " << error);
  BOOST_TEST_MESSAGE(s.name << ": error is " << error / bound_of(s.type) << " of its bound");
  // The same by a graph, on a card of one and of 1000 multiprocessors (other splits), and one row at a time.
  BOOST_TEST(n_different(x, bits, x.run(parts, 0, true)) == 0u, s.name << ": the graph's bits differ");
  BOOST_TEST(n_different(x, bits, x.run(parts, 1)) == 0u, s.name << ": unsplit bits differ");
  BOOST_TEST(x.n_split() == 0u);
  BOOST_TEST(n_different(x, bits, x.run(parts, 1000)) == 0u, s.name << ": bits differ when all is split");
  for (std::size_t i : {3u, 8u, 13u}) {
    const std::vector<std::uint8_t> alone = x.run({parts[i]});
    BOOST_TEST(n_different(x, alone, std::span(bits).subspan(i * x.token_bytes(), x.token_bytes())) == 0u,
               s.name << ": row " << i << " alone differs");
  }
}

BOOST_DATA_TEST_CASE(prefill_matches_f64_and_decode_bit_for_bit, boost::unit_test::data::make(settings), s) {
  // One sequence from its start, one in the middle (whose earlier pages a window may have freed), a decode row beside.
  constexpr std::uint32_t n = emulated ? 150 : 700, from = emulated ? 500 : 1100, n_more = emulated ? 45 : 233;
  scene x(s, {{0, n, 0}, {4, from + n_more, from}, {2, 600, 599}}, 2);
  const std::vector<scene::part> whole{{0, 0, n}, {1, from, n_more}, {2, 599, 1}};
  const std::vector<std::uint8_t> bits = x.run(whole);
  const double error = worst_error(x, whole, bits, 24);
  BOOST_TEST(error <= bound_of(s.type), s.name << ": relative error " << error);
  BOOST_TEST_MESSAGE(s.name << ": error is " << error / bound_of(s.type) << " of its bound");

  BOOST_TEST(n_different(x, bits, x.run(whole, 1)) == 0u, s.name << ": bits differ on one multiprocessor");
  BOOST_TEST(n_different(x, bits, x.run(whole, 1000)) == 0u, s.name << ": bits differ when all is split");
  BOOST_TEST(x.n_split() > 0u);
  BOOST_TEST(n_different(x, bits, x.run(whole, 0, true)) == 0u, s.name << ": the graph's bits differ");
  const auto token = [&](std::size_t i) { return std::span(bits).subspan(i * x.token_bytes(), x.token_bytes()); };
  // In chunks of odd sizes.
  std::vector<std::uint8_t> chunked;
  for (std::uint32_t at = 0, size = 1; at < n; at += size, size = size % 190 * 3 + 2) {
    size = std::min(size, n - at);
    const std::vector<std::uint8_t> chunk = x.run({{0, at, size}, {2, 599, 1}});
    chunked.insert(chunked.end(), chunk.begin(), chunk.begin() + static_cast<std::ptrdiff_t>(size * x.token_bytes()));
    BOOST_TEST(n_different(x, std::span(chunk).subspan(size * x.token_bytes()), token(n + n_more)) == 0u, s.name);
  }
  const std::size_t n_wrong = n_different(x, std::span(bits).first(n * x.token_bytes()), chunked);
  BOOST_TEST(n_wrong == 0u, s.name << ": " << n_wrong << " of " << n << " rows differ in chunks");
  // As decode rows, many of one sequence in one step.
  std::vector<scene::part> rows;
  std::vector<std::size_t> tokens;
  for (std::uint32_t p : {0u, 1u, 14u, 63u, 64u, 300u, 510u, 511u, 512u, 513u, 640u, n - 1})
    if (p < n) rows.push_back({0, p, 1}), tokens.push_back(p);
  for (std::uint32_t p : {0u, 1u, 11u, 12u, 13u, 51u, 52u, 200u, n_more - 1})
    if (p < n_more) rows.push_back({1, from + p, 1}), tokens.push_back(n + p);
  const std::vector<std::uint8_t> decoded = x.run(rows);
  for (std::size_t i = 0; i < rows.size(); ++i)
    BOOST_TEST(n_different(x, std::span(decoded).subspan(i * x.token_bytes(), x.token_bytes()), token(tokens[i])) == 0u,
               s.name << ": token " << tokens[i] << " differs as a decode row");
}

BOOST_AUTO_TEST_CASE(a_long_row_split_over_the_card_matches_f64) {
  double worst_share = 0;
  for (const setting& s : {setting{"bf16 128", dtype::bf16, kv_type::bf16, 4, 1, 128},
                           setting{"f16 64 e4m3", dtype::f16, kv_type::e4m3, 4, 1, 64},
                           setting{"f32 64", dtype::f32, kv_type::f32, 2, 1, 64}}) {
    scene x(s, {{0, 40000, 39990}}, 3);
    const std::vector<scene::part> parts{{0, 39990, 10}};
    const std::vector<std::uint8_t> bits = x.run(parts, emulated ? 132 : 0);
    BOOST_TEST(x.n_split() > 30u);
    const double error = worst_error(x, parts, bits, 3);
    BOOST_TEST(error <= bound_of(s.type), s.name << ": relative error " << error);
    worst_share = std::max(worst_share, error / bound_of(s.type));
    BOOST_TEST(n_different(x, bits, x.run(parts, 1)) == 0u, s.name << ": unsplit bits differ");
    const std::vector<std::uint8_t> last = x.run({{0, 39999, 1}});
    BOOST_TEST(n_different(x, last, std::span(bits).last(x.token_bytes())) == 0u, s.name << ": alone it differs");
  }
  BOOST_TEST_MESSAGE("long rows: worst error is " << worst_share << " of its bound");
}

// Steps of few tokens have a kernel of their own: short contexts, parts of blocks, windows, and one that is replayed.
BOOST_DATA_TEST_CASE(a_few_tokens_match_f64, boost::unit_test::data::make(settings_of_few()), s) {
  constexpr std::uint32_t most = emulated ? 1300 : 5000;
  scene x(s, {{0, 5, 0}, {2, 700, 0}, {1, most, most - 10}, {5, 1, 0}}, 5);
  BOOST_TEST_REQUIRE(!x.run({{0, 4, 1}}, 0, false, 1).empty());
  double worst = 0;
  const auto near = [&](const std::vector<scene::part>& parts, std::span<const std::uint8_t> bits, const char* what) {
    const double error = worst_error(x, parts, bits, attention_few_tokens);
    BOOST_TEST(error <= bound_of(s.type), what << ": relative error " << error);
    worst = std::max(worst, error / bound_of(s.type));
  };
  using parts = std::vector<scene::part>;
  for (std::uint32_t p : {0u, 15u, 16u, 63u, 64u, 127u, 128u, 511u, 699u})
    near({{1, p, 1}}, x.run({{1, p, 1}}, 0, false, 1), "alone");
  // Of different sequences and lengths, consecutive of one, the last position beside the first; then with *n_tokens
  // below max_tokens.
  const std::vector<parts> steps{{{2, most - 1, 1}},
                                 {{0, 4, 1}, {1, 699, 1}},
                                 {{1, 62, 3}},
                                 {{3, 0, 1}, {2, most - 10, 1}, {1, 300, 1}, {0, 0, 1}},
                                 {{2, most - 5, 4}},
                                 {{1, 126, 2}, {0, 1, 1}},
                                 {{1, 510, 3}, {2, most - 1, 1}}};
  for (const parts& step : steps) {
    std::uint32_t n = 0;
    for (const scene::part& p : step) n += p.n_tokens;
    for (std::uint32_t room = n; room <= attention_few_tokens;
         room = emulated && room < attention_few_tokens ? attention_few_tokens : room + 1) {
      BOOST_TEST_CONTEXT(n << " tokens of at most " << room << ", the first at " << step[0].position) {
        const std::vector<std::uint8_t> bits = x.run(step, 0, false, room);
        if (room == n || room == attention_few_tokens) near(step, bits, "together");
        BOOST_TEST(n_different(x, bits, x.run(step, 0, true, room)) == 0u, "a graph differs");
        // A row's bits are its own, whatever tokens are beside it and whichever place it has.
        std::size_t token = 0;
        for (const scene::part& p : step)
          for (std::uint32_t i = 0; i < p.n_tokens; ++i, ++token)
            if (room == n || room == attention_few_tokens)
              BOOST_TEST(n_different(x, x.run({{p.sequence, p.position + i, 1}}, 0, false, room),
                                     std::span(bits).subspan(token * x.token_bytes(), x.token_bytes())) == 0u,
                         "token " << token << " differs alone");
      }
    }
    near(step, x.run(step, 3, false, attention_few_tokens), "on few multiprocessors");
    near(step, x.run(step, 1000, false, attention_few_tokens), "on many multiprocessors");
  }
  BOOST_TEST(x.run({}, 0, false, 1).empty());
  BOOST_TEST(x.run({}, 0, false, attention_few_tokens).empty());
  BOOST_TEST_MESSAGE(s.name << ": worst error is " << worst << " of its bound");
}

BOOST_AUTO_TEST_CASE(nothing_is_done_without_items) {
  scene x(settings[6], {{0, 20, 0}}, 4);
  BOOST_TEST(x.run({}).empty());
}

BOOST_AUTO_TEST_CASE(impossible_shapes_are_refused) {
  attention_args a{};
  a.shape = {4, 3, 64, 8, 8, 100, 0, 132};
  a.kv.n_kv_heads = 3, a.kv.head_dim = 64;
  BOOST_TEST(attention(a, nullptr) == cudaErrorInvalidValue);
  a.shape = {4, 2, 260, 8, 8, 100, 0, 132};
  a.kv.n_kv_heads = 2, a.kv.head_dim = 260;
  BOOST_TEST(attention(a, nullptr) == cudaErrorInvalidValue);
  a.shape = {4, 2, 64, 8, 8, 100, 0, 132};
  a.kv.n_kv_heads = 2, a.kv.head_dim = 64;
  a.type = dtype::bf16, a.kv.type = kv_type::bf16, a.ld_q = 512;
  BOOST_TEST(can_attend_few(a, attention_few_tokens));
  BOOST_TEST(attention_few(a, nullptr, nullptr, nullptr, attention_few_tokens + 1, nullptr) == cudaErrorInvalidValue);
  BOOST_TEST(attention_few(a, nullptr, nullptr, nullptr, 0, nullptr) == cudaErrorInvalidValue);
}

BOOST_AUTO_TEST_SUITE_END()

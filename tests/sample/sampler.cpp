#include <boost/test/unit_test.hpp>
#include <algorithm>
#include <cmath>
#include <map>
#include <numeric>
#include <random>

#include "kernels/common/philox.hpp"
#include "src/sample/sampler.hpp"

using namespace troupe;
using namespace troupe::sample;
namespace cpu = troupe::kernels::cpu;

namespace {

const cpu::vector_kernels& best() { return cpu::vector_kernels_for(cpu::best_isa()); }

std::vector<float> random_logits(std::size_t n, std::mt19937& random, float spread = 3.0f) {
  std::normal_distribution<float> normal(0.0f, spread);
  std::vector<float> x(n);
  for (float& v : x) v = normal(random);
  return x;
}

/// The filters as their definition says, in double, over a full sort.
std::vector<std::uint32_t> reference_kept(const std::vector<float>& x, const parameters& p) {
  std::vector<std::uint32_t> ids(x.size());
  std::iota(ids.begin(), ids.end(), 0u);
  std::sort(ids.begin(), ids.end(), [&](auto a, auto b) { return x[a] > x[b] || (x[a] == x[b] && a < b); });
  const double top = x[ids[0]];
  const auto mass = [&](std::uint32_t i) { return std::exp((x[i] - top) / p.temperature); };
  if (p.min_p > 0) std::erase_if(ids, [&](auto i) { return mass(i) < p.min_p; });
  if (p.top_k > 0 && ids.size() > static_cast<std::size_t>(p.top_k)) ids.resize(static_cast<std::size_t>(p.top_k));
  if (p.top_p < 1) {
    double total = 0, running = 0;
    for (auto i : ids) total += mass(i);
    std::size_t n = 0;
    while (n < ids.size() && (n == 0 || running < p.top_p * total)) running += mass(ids[n++]);
    ids.resize(n);
  }
  return ids;
}

}  // namespace

BOOST_AUTO_TEST_CASE(philox_gives_the_published_words) {
  // Known answers of Random123's distribution (kat_vectors, philox4x32-10).
  using kernels::philox4x32_10;
  auto zero = philox4x32_10({{0, 0, 0, 0}}, 0, 0);
  BOOST_TEST((zero.w[0] == 0x6627e8d5u && zero.w[1] == 0xe169c58du && zero.w[2] == 0xbc57ac4cu && zero.w[3] == 0x9b00dbd8u));
  auto ones = philox4x32_10({{~0u, ~0u, ~0u, ~0u}}, ~0u, ~0u);
  BOOST_TEST((ones.w[0] == 0x408f276du && ones.w[1] == 0x41c83b0eu && ones.w[2] == 0xa20bc7c6u && ones.w[3] == 0x6d5451fdu));
  auto pi = philox4x32_10({{0x243f6a88u, 0x85a308d3u, 0x13198a2eu, 0x03707344u}}, 0xa4093822u, 0x299f31d0u);
  BOOST_TEST((pi.w[0] == 0xd16cfe09u && pi.w[1] == 0x94fdccebu && pi.w[2] == 0x5001e420u && pi.w[3] == 0x24126ea1u));
}

BOOST_AUTO_TEST_CASE(gumbel_noise_is_close_to_its_formula_everywhere) {
  std::mt19937 random(3);
  std::vector<std::uint32_t> words = {0u, 1u, 2u, 0x7fffffffu, 0x80000000u, 0xfffffffeu, 0xffffffffu};
  for (int i = 0; i < 100000; ++i) words.push_back(static_cast<std::uint32_t>(random()));
  for (std::uint32_t w : words) {
    const double v = std::min((w + 0.5) / 4294967296.0, 1 - 0x1p-24);
    const double exponential = -std::log1p(-v), want = -std::log(exponential);
    const double rounding_of_v = 0x1p-24 / ((1 - v) * exponential);
    BOOST_TEST_REQUIRE(std::abs(kernels::gumbel(w) - want) <= 4e-6 * std::max(1.0, std::abs(want)) + rounding_of_v);
  }
}

BOOST_AUTO_TEST_CASE(greedy_takes_the_first_of_equals) {
  std::mt19937 random(1);
  for (std::size_t n : {1, 5, 16, 31, 33, 448, 49152}) {
    sampler s(static_cast<std::uint32_t>(n), best());
    for (int round = 0; round < 20; ++round) {
      auto x = random_logits(n, random);
      for (float& v : x) v = std::round(v * 4) / 4;  // many ties
      const auto want = std::max_element(x.begin(), x.end()) - x.begin();
      parameters p;
      p.temperature = 0;
      const draw d = s.next(x, p, nullptr, {}, 0, false);
      BOOST_TEST_REQUIRE(d.ok);
      BOOST_TEST_REQUIRE(d.token == want);
    }
  }
}

BOOST_AUTO_TEST_CASE(logits_that_are_not_finite_fail_wherever_they_are) {
  sampler s(100, best());
  std::mt19937 random(1);
  for (float bad : {NAN, INFINITY, -INFINITY})
    for (std::size_t at : {0, 15, 16, 31, 64, 95, 96, 99}) {
      auto x = random_logits(100, random);
      x[at] = bad;
      for (float t : {0.0f, 1.0f}) {
        parameters p;
        p.temperature = t;
        auto copy = x;
        BOOST_TEST(!s.next(copy, p, nullptr, {}, 0, false).ok);
      }
    }
}

BOOST_AUTO_TEST_CASE(filters_keep_what_a_full_sort_keeps) {
  std::mt19937 random(7);
  const auto uniform = [&](double a, double b) { return std::uniform_real_distribution<double>(a, b)(random); };
  for (int round = 0; round < 400; ++round) {
    const std::size_t n = round % 10 == 0 ? 49152 : 1 + random() % 3000;
    sampler s(static_cast<std::uint32_t>(n), best());
    auto x = random_logits(n, random, static_cast<float>(uniform(0.01, 6)));
    if (round % 3 == 0)
      for (float& v : x) v = std::round(v * 2) / 2;
    if (round % 17 == 0) std::fill(x.begin(), x.end(), 1.5f);
    parameters p;
    p.temperature = static_cast<float>(uniform(0.1, 2.5));
    if (random() % 2) p.top_k = static_cast<std::int32_t>(1 + random() % (random() % 2 ? 100 : n + 10));
    if (random() % 2) p.top_p = static_cast<float>(uniform(0.01, 0.999));
    if (random() % 3 == 0) p.min_p = static_cast<float>(std::exp(uniform(-12, 0)));
    const auto want = reference_kept(x, p);
    const auto got = s.kept(x, p);
    // Where the sets differ, it is by tokens at the border, whose probability is within rounding of the threshold.
    const std::size_t common = std::min(want.size(), got.size());
    BOOST_TEST_REQUIRE(std::equal(want.begin(), want.begin() + static_cast<std::ptrdiff_t>(common), got.begin()));
    double total = 0, odd = 0;
    for (float v : x) total += std::exp((v - x[want[0]]) / p.temperature);
    for (std::size_t i = common; i < std::max(want.size(), got.size()); ++i)
      odd += std::exp((x[i < want.size() ? want[i] : got[i]] - x[want[0]]) / p.temperature);
    const bool ties_only = [&] {
      for (std::size_t i = common; i < std::max(want.size(), got.size()); ++i)
        if (x[i < want.size() ? want[i] : got[i]] != x[want[common ? common - 1 : 0]]) return false;
      return true;
    }();
    BOOST_TEST_REQUIRE((odd / total <= 1e-6 || (ties_only && std::max(want.size(), got.size()) - common <= 2)),
                       "round " << round << ": " << want.size() << " and " << got.size() << " of " << n);
  }
}

BOOST_AUTO_TEST_CASE(draws_follow_the_distribution) {
  std::mt19937 random(5);
  const std::size_t n = 40;
  const auto x = random_logits(n, random, 1.5f);
  for (bool filtered : {false, true}) {
    sampler s(n, best());
    parameters p;
    p.temperature = 0.8f;
    p.seed = 12345;
    if (filtered) {
      p.top_k = 25;
      p.top_p = 0.97f;
    }
    const auto kept = reference_kept(x, p);
    double total = 0;
    for (auto i : kept) total += std::exp(x[i] / 0.8);
    std::vector<double> seen(n);
    constexpr std::uint32_t draws = 200000;
    for (std::uint32_t position = 0; position < draws; ++position) {
      auto copy = x;
      const draw d = s.next(copy, p, nullptr, {}, position, false);
      ++seen[static_cast<std::size_t>(d.token)];
    }
    double chi = 0, kept_seen = 0;
    for (auto i : kept) {
      const double expected = draws * std::exp(x[i] / 0.8) / total;
      chi += (seen[i] - expected) * (seen[i] - expected) / expected;
      kept_seen += seen[i];
    }
    BOOST_TEST(kept_seen == draws);
    const double freedom = static_cast<double>(kept.size() - 1);
    // Wilson-Hilferty: the cube root of chi2/df is nearly normal; 3.7 sigma is p about 1e-4.
    const double z = (std::cbrt(chi / freedom) - (1 - 2 / (9 * freedom))) / std::sqrt(2 / (9 * freedom));
    BOOST_TEST(z < 3.7);
  }
}

BOOST_AUTO_TEST_CASE(a_draw_depends_on_seed_choice_and_position_only) {
  std::mt19937 random(5);
  const std::size_t n = 5000;
  auto x = random_logits(n, random, 1.0f);
  sampler one(n, best()), other(n, cpu::vector_kernels_for(cpu::isa::scalar));
  std::map<token_id, int> tokens;
  for (std::uint32_t position = 0; position < 50; ++position)
    for (std::uint32_t choice = 0; choice < 3; ++choice) {
      parameters p;
      p.seed = 99;
      p.choice = choice;
      auto a = x, b = x, c = x;
      const draw d = one.next(a, p, nullptr, {}, position, false);
      BOOST_TEST_REQUIRE(other.next(b, p, nullptr, {}, position, false).token == d.token);
      // A filter that keeps everything draws the same token, by the scalar path of kernels/common/philox.hpp.
      p.top_p = 0.9999999f;
      p.top_k = n - 1;
      BOOST_TEST_REQUIRE(one.next(c, p, nullptr, {}, position, false).token == d.token);
      ++tokens[d.token];
    }
  BOOST_TEST(tokens.size() > 100u);
}

BOOST_AUTO_TEST_CASE(penalties_and_biases_change_what_they_name) {
  sampler s(8, best());
  token_counts counts(16);
  counts.add_prompt(1);
  counts.add_output(2);
  counts.add_output(2);
  parameters p;
  p.temperature = 0;
  const std::vector<float> x = {0, 2.0f, 2.2f, 1.9f, -1, -1, -1, -1};
  const auto pick = [&](std::span<const bias> b = {}) {
    auto copy = x;
    return s.next(copy, p, &counts, b, 0, false).token;
  };
  BOOST_TEST(pick() == 2);
  p.presence_penalty = 0.25f;  // 2.2 - 0.25 < 2.0; prompt tokens are not penalized
  BOOST_TEST(pick() == 1);
  p.presence_penalty = 0;
  p.frequency_penalty = 0.11f;  // twice: 1.98
  BOOST_TEST(pick() == 1);
  p.frequency_penalty = 0;
  p.repetition_penalty = 1.2f;  // 2.0/1.2, 2.2/1.2 < 1.9
  BOOST_TEST(pick() == 3);
  const bias ban[] = {{3, -100.0f}, {7, 50.0f}, {-5, 1.0f}, {800, 1.0f}};
  BOOST_TEST(pick(ban) == 7);
}

BOOST_AUTO_TEST_CASE(logprob_is_that_of_the_raw_logits) {
  std::mt19937 random(2);
  auto x = random_logits(1000, random);
  double sum = 0;
  for (float v : x) sum += std::exp(static_cast<double>(v));
  sampler s(1000, best());
  parameters p;
  p.top_k = 5;
  const bias b[] = {{17, 100.0f}};
  auto copy = x;
  const draw d = s.next(copy, p, nullptr, b, 3, true);
  BOOST_TEST(d.token == 17);
  BOOST_TEST(std::abs(d.logprob - (x[17] - std::log(sum))) < 1e-4);
}

BOOST_AUTO_TEST_CASE(counts_find_every_token_again) {
  token_counts counts(300);
  std::map<token_id, std::uint32_t> want;
  std::mt19937 random(2);
  for (int round = 0; round < 3; ++round) {
    counts.clear();
    want.clear();
    for (int i = 0; i < 2000; ++i) {
      const auto t = static_cast<token_id>(random() % 300 * 4096);
      counts.add_output(t);
      ++want[t];
    }
    BOOST_TEST_REQUIRE(counts.entries().size() == want.size());
    for (const auto& e : counts.entries()) BOOST_TEST_REQUIRE(e.outputs == want[e.token]);
  }
}

BOOST_AUTO_TEST_CASE(masked_draws_are_the_best_of_the_allowed_tokens) {
  std::mt19937 random(21);
  for (int round = 0; round < 300; ++round) {
    const std::size_t n = round % 30 == 0 ? 49152 : 1 + random() % 700;
    auto x = random_logits(n, random);
    if (round % 3 == 0)
      for (float& v : x) v = std::round(v);
    std::vector<std::uint32_t> mask((n + 31) / 32);
    std::vector<std::uint32_t> allowed;
    const unsigned one_in = 1 + random() % 40;
    const std::size_t sure = random() % n;
    for (std::size_t t = 0; t < mask.size() * 32; ++t)
      if (t >= n || t == sure || random() % one_in == 0) {
        mask[t / 32] |= 1u << t % 32;
        if (t < n) allowed.push_back(static_cast<std::uint32_t>(t));
      }
    parameters p;
    p.seed = random();
    p.temperature = round % 4 == 0 ? 0.0f : 0.9f;
    if (round % 4 == 2) p.top_k = static_cast<std::int32_t>(1 + random() % 30);
    if (round % 8 == 3) p.min_p = 0.1f;
    const std::uint32_t position = random() % 1000;
    // Reference: the likeliest of the allowed that the filters keep, scored one by one.
    std::sort(allowed.begin(), allowed.end(), [&](auto a, auto b) { return x[a] > x[b] || (x[a] == x[b] && a < b); });
    const float top = x[allowed[0]], scale = 1.0f / 0.9f;
    std::uint32_t want = allowed[0];
    if (p.temperature > 0) {
      if (p.top_k > 0 && allowed.size() > static_cast<std::size_t>(p.top_k)) allowed.resize(static_cast<std::size_t>(p.top_k));
      float best = -INFINITY;
      std::sort(allowed.begin(), allowed.end());
      for (std::uint32_t t : allowed) {
        if (p.min_p > 0 && std::exp((x[t] - top) * scale) < p.min_p) continue;
        const float score = (x[t] - top) * scale + kernels::draw_gumbel(p.seed, 0, position, t);
        if (score > best) best = score, want = t;
      }
    }
    sampler s(static_cast<std::uint32_t>(n), best());
    auto copy = x;
    const draw d = s.next(copy, p, nullptr, {}, position, true, mask);
    BOOST_TEST_REQUIRE((d.ok && !d.nothing_allowed));
    BOOST_TEST_REQUIRE(static_cast<std::uint32_t>(d.token) == want, "round " << round);
    // The logprob is over all tokens, and a mask of ones is none.
    const std::vector<std::uint32_t> ones(mask.size(), ~0u);
    auto a = x, b = x;
    const draw free = s.next(a, p, nullptr, {}, position, true), same = s.next(b, p, nullptr, {}, position, true, ones);
    BOOST_TEST_REQUIRE((free.token == same.token && free.logprob == same.logprob));
    if (free.token == d.token) BOOST_TEST_REQUIRE(free.logprob == d.logprob);
  }
}

BOOST_AUTO_TEST_CASE(a_mask_outlives_biases_and_penalties_and_may_allow_nothing) {
  sampler s(8, best());
  const std::vector<float> x = {0, 2.0f, 2.2f, 1.9f, -1, -1, -1, -1};
  token_counts counts(8);
  for (token_id t = 0; t < 8; ++t) counts.add_output(t);
  parameters p;
  p.temperature = 0;
  p.presence_penalty = 1;
  const bias b[] = {{2, 50.0f}, {6, 2.5f}};
  const auto pick = [&](std::uint32_t mask) {
    auto copy = x;
    return s.next(copy, p, &counts, b, 0, false, {&mask, 1});
  };
  BOOST_TEST(pick(0xff).token == 2);
  BOOST_TEST(pick(0xfb).token == 1);
  BOOST_TEST(pick(0xf9).token == 3);
  BOOST_TEST(pick(0xf1).token == 6);
  for (std::uint32_t nothing : {0u, 0xffffff00u}) {
    const draw d = pick(nothing);
    BOOST_TEST((!d.ok && d.nothing_allowed));
  }
  auto bad = x;
  bad[7] = NAN;
  const std::uint32_t none = 0;
  const draw d = s.next(bad, p, &counts, b, 0, false, {&none, 1});
  BOOST_TEST((!d.ok && !d.nothing_allowed));
}

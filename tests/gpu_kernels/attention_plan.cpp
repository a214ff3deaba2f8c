#include <algorithm>
#include <boost/test/unit_test.hpp>
#include <functional>
#include <map>
#include <random>
#include <set>

#include "kernels/gpu/attention_scratch.hpp"

/// The planner is host code: these cases need no card.
using namespace troupe::kernels::gpu;

namespace {

attention_shape random_shape(std::mt19937& rng) {
  const auto one_of = [&rng](std::initializer_list<std::uint32_t> v) { return v.begin()[rng() % v.size()]; };
  attention_shape s{};
  s.n_kv_heads = one_of({1, 2, 3, 8});
  s.n_heads = s.n_kv_heads * one_of({1, 3, 4, 7, 8, 16, 71});
  s.head_dim = one_of({8, 64, 96, 128, 256});
  s.max_tokens = one_of({16, 512, 2048, 8192});
  s.max_rows = one_of({1, 8, 256});
  s.max_model_len = one_of({512, 8192, 131072});
  s.window = one_of({0, 0, 1, 128, 512, 1000, 4096});
  s.n_sms = one_of({1, 58, 132});
  return s;
}

std::vector<row_span> random_rows(std::mt19937& rng, const attention_shape& s) {
  std::vector<row_span> rows;
  std::uint32_t first = 0;
  const std::uint32_t wanted = 1 + rng() % s.max_rows;
  for (std::uint32_t i = 0; i < wanted && first < s.max_tokens; ++i) {
    std::uint32_t n = rng() % 3 ? 1 : 1 + rng() % s.max_tokens;
    n = std::min({n, s.max_tokens - first, s.max_model_len});
    const std::uint32_t position = rng() % (s.max_model_len - n + 1);
    rows.push_back({i, position, n, first});
    first += n;
  }
  return rows;
}

}  // namespace

BOOST_AUTO_TEST_SUITE(attention_plans)

BOOST_AUTO_TEST_CASE(cover_every_token_and_segment_once_and_fit_the_scratch) {
  std::mt19937 rng(20);
  std::vector<attention_item> items;
  std::size_t n_split = 0;
  for (int round = 0; round < 400; ++round) {
    const attention_shape s = random_shape(rng);
    const std::vector<row_span> rows = random_rows(rng, s);
    plan_attention(s, rows, items);
    BOOST_REQUIRE_LE(items.size(), max_attention_items(s));
    BOOST_REQUIRE(std::is_sorted(items.begin(), items.end(), [](const auto& a, const auto& b) {
      return a.last_segment - a.first_segment > b.last_segment - b.first_segment;
    }));

    const std::uint32_t group = s.n_heads / s.n_kv_heads, capacity = attention_partial_rows(s);
    std::map<std::uint32_t, std::vector<attention_item>> tiles;  // by first token
    for (const attention_item& item : items) tiles[item.token].push_back(item);
    std::vector<std::pair<std::uint64_t, std::uint64_t>> partials;
    std::map<std::uint32_t, row_span> row_at;
    for (const row_span& r : rows) row_at[r.first] = r;
    std::uint32_t next = 0;
    for (auto& [token, parts] : tiles) {
      BOOST_REQUIRE_EQUAL(token, next);
      const attention_item& t = parts.front();
      next = token + t.n_tokens;
      const row_span& row = std::prev(row_at.upper_bound(token))->second;
      BOOST_REQUIRE_EQUAL(t.slot, row.slot);
      BOOST_REQUIRE_EQUAL(t.position, row.position + (token - row.first));
      BOOST_REQUIRE_LE(next, row.first + row.n_tokens);
      BOOST_REQUIRE(t.n_tokens * group <= attention_block_rows(s.head_dim) || t.n_tokens == 1);
      BOOST_REQUIRE_EQUAL(parts.size(), t.n_parts);
      std::sort(parts.begin(), parts.end(),
                [](const auto& a, const auto& b) { return a.first_segment < b.first_segment; });
      const std::uint32_t oldest = s.window && t.position + 1 > s.window ? t.position + 1 - s.window : 0;
      std::uint32_t segment = oldest / attention_segment;
      const std::uint32_t last = (t.position + t.n_tokens - 1) / attention_segment + 1;
      const std::uint64_t need = std::uint64_t{last - segment} * t.n_tokens * group;
      for (const attention_item& p : parts) {
        BOOST_REQUIRE_EQUAL(p.first_segment, segment);
        BOOST_REQUIRE_GT(p.last_segment, p.first_segment);
        segment = p.last_segment;
        BOOST_REQUIRE(p.slot == t.slot && p.position == t.position && p.n_tokens == t.n_tokens &&
                      p.n_parts == t.n_parts && p.partial == t.partial);
      }
      BOOST_REQUIRE_EQUAL(segment, last);
      if (t.n_parts == 1) {
        BOOST_REQUIRE_EQUAL(t.partial, no_partial);
      } else {
        ++n_split;
        partials.push_back({t.partial, t.partial + need});
        BOOST_REQUIRE_LE(t.partial + need, capacity);
      }
    }
    BOOST_REQUIRE_EQUAL(next, rows.back().first + rows.back().n_tokens);
    std::sort(partials.begin(), partials.end());
    for (std::size_t i = 1; i < partials.size(); ++i) BOOST_REQUIRE_GE(partials[i].first, partials[i - 1].second);
  }
  BOOST_TEST(n_split > 200);
}

BOOST_AUTO_TEST_CASE(split_a_long_row_over_the_card_but_not_many_of_them) {
  attention_shape s{32, 8, 128, 8192, 256, 131072, 0, 132};
  std::vector<attention_item> items;
  const row_span one{0, 32767, 1, 0};
  plan_attention(s, {&one, 1}, items);
  BOOST_TEST(items.size() == 64u);  // a segment each: 512 units of work for 264 blocks
  std::vector<row_span> many;
  for (std::uint32_t i = 0; i < 64; ++i) many.push_back({i, 8191, 1, i});
  plan_attention(s, many, items);
  BOOST_TEST(items.size() == 64u);
  BOOST_TEST(items[0].n_parts == 1u);
  plan_attention(s, {}, items);
  BOOST_TEST(items.empty());
}

// The order among items of equal length is part of the plan: that of the rows.
BOOST_AUTO_TEST_CASE(items_are_in_the_order_that_a_stable_sort_makes) {
  const auto sort = [](std::vector<attention_item>& v) {
    std::multimap<std::uint32_t, attention_item, std::greater<>> by_length;  // equal keys stay in order
    for (const attention_item& i : v) by_length.emplace(i.last_segment - i.first_segment, i);
    v.clear();
    for (const auto& [length, item] : by_length) v.push_back(item);
  };
  const auto equal = [](const attention_item& a, const attention_item& b) {
    return a.slot == b.slot && a.token == b.token && a.n_tokens == b.n_tokens && a.position == b.position &&
           a.first_segment == b.first_segment && a.last_segment == b.last_segment && a.partial == b.partial &&
           a.n_parts == b.n_parts;
  };
  std::mt19937 rng(23);
  std::vector<attention_item> items;
  std::size_t n_plain = 0, n_split = 0, n_long = 0;
  for (int round = 0; round < 600; ++round) {
    attention_shape s = random_shape(rng);
    if (round % 10 == 0) s.max_model_len = 2 << 20;
    const std::vector<row_span> rows = random_rows(rng, s);

    // What plan_attention says, without hurry.
    std::vector<attention_item> expected;
    const std::uint32_t tile = attention_tile_tokens(s), group = attention_group(s);
    std::uint64_t n_segments = 0;
    for (const row_span& r : rows)
      for (std::uint32_t t = 0; t < r.n_tokens; t += tile) {
        const std::uint32_t n = std::min(tile, r.n_tokens - t), position = r.position + t;
        expected.push_back({r.slot, r.first + t, n, position, attention_first_segment(position, s.window),
                            attention_last_segment(position, n), no_partial, 1});
        n_segments += expected.back().last_segment - expected.back().first_segment;
      }
    sort(expected);
    n_long += expected.front().last_segment - expected.front().first_segment > 1024;
    const std::uint64_t wanted = std::uint64_t{4} * s.n_sms;
    const std::uint64_t length = std::max<std::uint64_t>(1, (n_segments * s.n_kv_heads + wanted - 1) / wanted);
    std::uint32_t used = 0;
    const std::size_t n_tiles = expected.size();
    for (std::size_t i = 0; i < n_tiles; ++i) {
      const attention_item whole = expected[i];
      const std::uint64_t n = whole.last_segment - whole.first_segment, need = n * whole.n_tokens * group;
      if (n <= length || used + need > attention_partial_rows(s)) continue;
      const std::uint64_t n_parts = (n + length - 1) / length;
      for (std::uint64_t p = 0; p < n_parts; ++p) {
        attention_item part = whole;
        part.first_segment = whole.first_segment + static_cast<std::uint32_t>(n * p / n_parts);
        part.last_segment = whole.first_segment + static_cast<std::uint32_t>(n * (p + 1) / n_parts);
        part.partial = used;
        part.n_parts = static_cast<std::uint32_t>(n_parts);
        if (p == 0)
          expected[i] = part;
        else
          expected.push_back(part);
      }
      used += static_cast<std::uint32_t>(need);
    }
    sort(expected);
    ++(expected.size() > n_tiles ? n_split : n_plain);

    plan_attention(s, rows, items);
    BOOST_REQUIRE(std::equal(items.begin(), items.end(), expected.begin(), expected.end(), equal));
  }
  BOOST_TEST(n_plain > 50u);
  BOOST_TEST(n_split > 50u);
  BOOST_TEST(n_long > 5u);
}

// A rank has one scratch for steps of all sizes and lays it out for the largest; layouts of their own would lay one
// step's partial results where another looks for counters that are zero.
BOOST_AUTO_TEST_CASE(a_smaller_step_fits_the_scratch_of_a_larger_one) {
  std::mt19937 rng(22);
  std::size_t n_different = 0;
  for (int round = 0; round < 400; ++round) {
    const attention_shape large = random_shape(rng);
    attention_shape small = large;
    small.max_tokens = 1 + rng() % large.max_tokens;
    small.max_rows = std::min(small.max_tokens, large.max_rows);
    BOOST_TEST(attention_partial_rows(small) <= attention_partial_rows(large));
    BOOST_TEST(max_attention_items(small) <= max_attention_items(large));
    n_different += layout_attention_scratch(small).sums != layout_attention_scratch(large).sums;
  }
  BOOST_TEST(n_different > 100u);
}

BOOST_AUTO_TEST_SUITE_END()

#include <boost/test/unit_test.hpp>
#include <map>
#include <numeric>
#include <random>

#include "src/cache/page_store.hpp"

using namespace troupe;
using namespace troupe::cache;

namespace {

std::vector<token_id> run(token_id first, std::size_t n) {
  std::vector<token_id> t(n);
  std::iota(t.begin(), t.end(), first);
  return t;
}
std::vector<token_id> join(std::vector<token_id> a, const std::vector<token_id>& b) {
  a.insert(a.end(), b.begin(), b.end());
  return a;
}
page_lists lease(page_store& s, std::uint32_t n) { return s.lease(std::vector<std::uint32_t>(s.n_groups(), n)); }

}  // namespace

BOOST_AUTO_TEST_CASE(what_is_published_is_found_in_whole_pages) {
  page_store store({{8, 0}});
  const auto tokens = run(0, 40);
  page_lists mine = lease(store, 2);
  store.publish(tokens, "", mine, true);
  auto hit = store.lookup(join(run(0, 39), {777}), "");
  BOOST_TEST(hit.n_tokens == 32u);
  BOOST_TEST(hit.pages[0] == mine[0]);
  BOOST_TEST(store.pool(0).pins(mine[0][0]) == 2u);
  BOOST_TEST(store.lookup(join(run(0, 15), run(100, 30)), "").n_tokens == 0u);
  BOOST_TEST(store.lookup(run(0, 31), "").n_tokens == 16u);
  store.audit();
}

BOOST_AUTO_TEST_CASE(salts_do_not_see_each_other) {
  page_store store({{8, 0}});
  store.publish(run(0, 16), "a", lease(store, 1), true);
  BOOST_TEST(store.lookup(run(0, 16), "b").n_tokens == 0u);
  BOOST_TEST(store.lookup(run(0, 16), "").n_tokens == 0u);
  BOOST_TEST(store.lookup(run(0, 16), "a").n_tokens == 16u);
}

BOOST_AUTO_TEST_CASE(a_second_copy_of_a_prefix_is_not_indexed_but_carries_what_follows) {
  page_store store({{8, 0}});
  page_lists first = lease(store, 1);
  page_lists second = lease(store, 2);
  store.publish(run(0, 16), "", first, true);
  store.publish(run(0, 32), "", second, true);
  BOOST_TEST(store.pool(0).is_leased(second[0][0]));
  BOOST_TEST(store.pool(0).is_indexed(second[0][1]));
  auto hit = store.lookup(run(0, 32), "");
  BOOST_TEST(hit.pages[0][0] == first[0][0]);
  BOOST_TEST(hit.pages[0][1] == second[0][1]);
  store.give_back(hit.pages);
  store.give_back(first);
  store.give_back(second);
  BOOST_TEST(store.pool(0).n_leased() == 0u);
  BOOST_TEST(store.pool(0).n_evictable() == 2u);
  store.audit();
}

BOOST_AUTO_TEST_CASE(the_leaf_used_longest_ago_is_evicted_first_and_pins_protect) {
  page_store store({{4, 0}});
  page_lists a = lease(store, 2), b = lease(store, 1);
  store.publish(run(0, 32), "", a, true);
  store.publish(run(500, 16), "", b, true);
  store.give_back(a);
  store.give_back(b);
  auto hold = store.lookup(run(0, 32), "");  // a is in use, and newer afterwards
  BOOST_TEST(lease(store, 2)[0].size() == 2u);
  BOOST_TEST(store.lookup(run(500, 16), "").n_tokens == 0u);
  BOOST_TEST(lease(store, 1)[0].size() == 0u);
  store.give_back(hold.pages);
  BOOST_TEST(store.available()[0] == 2u);
  BOOST_TEST(lease(store, 1)[0].size() == 1u);
  auto rest = store.lookup(run(0, 32), "");  // the leaf went, its parent stayed
  BOOST_TEST(rest.n_tokens == 16u);
  store.audit();
}

BOOST_AUTO_TEST_CASE(a_hit_needs_the_window_s_pages_only_behind_its_end) {
  page_store store({{8, 0}, {8, 20}});
  page_lists pages = lease(store, 4);
  const page_lists all = pages;
  pages[1][0] = pages[1][1] = no_page;  // behind the window of whoever wrote them
  store.publish(run(0, 64), "", pages, true);
  auto hit = store.lookup(run(0, 64), "");
  BOOST_TEST(hit.n_tokens == 64u);  // needs [44, 64) of the window group
  BOOST_TEST(hit.pages[1][1] == no_page);
  BOOST_TEST(hit.pages[1][2] == all[1][2]);
  auto shorter = store.lookup(run(0, 48), "");  // would need [28, 48)
  BOOST_TEST(shorter.n_tokens == 0u);
  page_lists again = lease(store, 2);
  store.publish(run(0, 32), "", again, true);  // fills the holes
  BOOST_TEST(store.lookup(run(0, 48), "").n_tokens == 48u);
  BOOST_TEST(store.pool(1).is_indexed(again[1][1]));
  BOOST_TEST(store.pool(0).is_leased(again[0][1]));
  store.audit();
}

BOOST_AUTO_TEST_CASE(a_published_prefix_never_skips_a_full_attention_page) {
  page_store store({{8, 0}});
  page_lists pages = lease(store, 3);
  const page_id second = pages[0][1];
  pages[0][1] = no_page;
  store.publish(run(0, 48), "", pages, true);
  BOOST_TEST(store.lookup(run(0, 48), "").n_tokens == 16u);
  BOOST_TEST(store.pool(0).is_leased(pages[0][2]));
  store.give_back({{second, pages[0][2]}});
  store.audit();
}

/// Against a plain map from prefixes to pages: random prompts over a tiny alphabet, pools that force eviction.
BOOST_AUTO_TEST_CASE(random_prompts_find_what_a_plain_map_finds) {
  for (unsigned seed = 0; seed < 20; ++seed) {
    std::mt19937 random(seed);
    page_store store({{24, 0}, {24, 32}});
    std::map<page_id, std::vector<token_id>> content;  // group 0: the prefix whose last page this is
    struct holder {
      page_lists pages;
    };
    std::vector<holder> holders;
    for (int round = 0; round < 600; ++round) {
      if (holders.size() > 3 || (random() % 3 == 0 && !holders.empty())) {
        const std::size_t i = random() % holders.size();
        for (auto& l : holders[i].pages) std::erase(l, no_page);
        store.give_back(holders[i].pages);
        holders.erase(holders.begin() + static_cast<std::ptrdiff_t>(i));
      } else {
        std::vector<token_id> tokens;
        const std::size_t blocks = 1 + random() % 4;
        for (std::size_t i = 0; i < blocks; ++i) {
          const token_id which = static_cast<token_id>(random() % 2);
          for (std::uint32_t k = 0; k < page_tokens; ++k) tokens.push_back(which);
        }
        auto hit = store.lookup(tokens, "");
        for (std::size_t i = 0; i < hit.pages[0].size(); ++i) {
          const std::vector<token_id> prefix(tokens.begin(),
                                             tokens.begin() + static_cast<std::ptrdiff_t>((i + 1) * page_tokens));
          BOOST_REQUIRE(content.at(hit.pages[0][i]) == prefix);
        }
        const std::uint32_t need = static_cast<std::uint32_t>(blocks - hit.pages[0].size());
        page_lists more = lease(store, need);
        if (more[0].size() == need && more[1].size() == need) {
          for (std::uint32_t i = 0; i < need; ++i) {
            const std::size_t end = (hit.pages[0].size() + 1) * page_tokens;
            content[more[0][i]] = {tokens.begin(), tokens.begin() + static_cast<std::ptrdiff_t>(end)};
            hit.pages[0].push_back(more[0][i]);
            hit.pages[1].push_back(more[1][i]);
          }
          store.publish(tokens, "", hit.pages, true);
        } else {
          store.give_back(more);
        }
        holders.push_back({hit.pages});
      }
      store.audit();
    }
    for (auto& h : holders) {
      for (auto& l : h.pages) std::erase(l, no_page);
      store.give_back(h.pages);
    }
    store.audit();
    BOOST_TEST(store.pool(0).n_leased() == 0u);
    BOOST_TEST(store.available()[0] == 24u);
    BOOST_TEST(lease(store, 24)[1].size() == 24u);
    BOOST_TEST(store.index().n_nodes() == 0u);
    BOOST_TEST(store.index().n_roots() == 0u);
  }
}

BOOST_AUTO_TEST_CASE(an_offer_that_goes_on_stops_at_a_second_copy) {
  page_store store({{8, 0}});
  page_lists first = lease(store, 1);
  page_lists second = lease(store, 2);
  store.publish(run(0, 16), "", first, false);
  store.give_back(first);
  store.publish(run(0, 32), "", second, false);
  // Indexed, the second page would hang below the first one, which nobody pins and which then could not be evicted.
  BOOST_TEST(store.pool(0).is_leased(second[0][1]));
  BOOST_TEST(store.available()[0] == 6u);
  BOOST_TEST(lease(store, 6)[0].size() == 6u);
  store.give_back(second);
  store.audit();
}

BOOST_AUTO_TEST_CASE(a_window_s_pages_can_be_taken_from_a_prefix_in_use) {
  page_store store({{8, 0}, {4, 16}});
  page_lists mine = lease(store, 4);
  store.publish(run(0, 64), "", mine, false);
  // The sequence goes on: three pages lie behind its window now, their prefixes are still pinned by the other group.
  store.give_back({{}, {mine[1][0], mine[1][1], mine[1][2]}});
  BOOST_TEST(store.available()[1] == 3u);
  const page_lists more = store.lease(std::vector<std::uint32_t>{0, 3});
  BOOST_TEST(more[1].size() == 3u);
  store.audit();
  BOOST_TEST(store.lookup(run(0, 64), "").n_tokens == 64u);
  BOOST_TEST(store.lookup(run(0, 48), "").n_tokens == 0u);
  store.audit();
}

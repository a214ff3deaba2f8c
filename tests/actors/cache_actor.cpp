#include <boost/test/unit_test.hpp>
#include <numeric>
#include <troupe/error.hpp>

#include "actors/cache/actor.hpp"

using namespace troupe;

namespace {

struct recorder {
  std::vector<cache::lease_granted> granted;
  std::vector<cache::prefix_hit> hits;
  cache::outbox out{[this](cache::lease_granted&& m) { granted.push_back(std::move(m)); },
                    [this](cache::prefix_hit&& m) { hits.push_back(std::move(m)); }};
};

std::shared_ptr<const std::vector<token_id>> numbers(std::size_t n) {
  auto t = std::make_shared<std::vector<token_id>>(n);
  std::iota(t->begin(), t->end(), 0);
  return t;
}

}  // namespace

BOOST_AUTO_TEST_SUITE(cache_actor)

BOOST_AUTO_TEST_CASE(a_want_is_answered_with_what_there_is) {
  recorder r;
  cache::actor a({{6, 0}, {3, 32}});
  a.on(cache::lease_want({4, 4}), r.out);
  BOOST_REQUIRE(r.granted.size() == 1);
  BOOST_TEST(r.granted[0].pages[0].size() == 4u);
  BOOST_TEST(r.granted[0].pages[1].size() == 3u);
  BOOST_TEST(r.granted[0].available[0] == 2u);
  BOOST_TEST(r.granted[0].available[1] == 0u);
  a.on(cache::lease_return(r.granted[0].pages), r.out);
  a.on(cache::lease_want({6, 3}), r.out);
  BOOST_TEST(r.granted[1].pages[0].size() == 6u);
  BOOST_TEST(r.granted[1].pages[1].size() == 3u);
}

BOOST_AUTO_TEST_CASE(a_published_prefix_is_hit_and_evicted_when_pages_are_wanted) {
  recorder r;
  cache::actor a({{4, 0}});
  a.on(cache::lease_want({3}), r.out);
  const cache::page_lists mine = r.granted[0].pages;
  a.on(cache::prefix_publish(numbers(48), "s", mine, false), r.out);
  a.on(cache::prefix_lookup(5, numbers(48), 47, "s"), r.out);
  a.on(cache::prefix_lookup(6, numbers(48), 47, "t"), r.out);
  BOOST_REQUIRE(r.hits.size() == 2);
  BOOST_TEST(r.hits[0].id == 5u);
  BOOST_TEST(r.hits[0].n_tokens == 32u);
  BOOST_TEST(r.hits[0].pages[0][1] == mine[0][1]);
  BOOST_TEST(r.hits[1].n_tokens == 0u);
  a.on(cache::lease_return(mine), r.out);
  a.on(cache::lease_want({4}), r.out);  // one was free, the unpinned leaf goes, two are held by the hit
  BOOST_TEST(r.granted[1].pages[0].size() == 2u);
  BOOST_TEST(r.granted[1].available[0] == 0u);
  a.on(cache::lease_return(r.hits[0].pages), r.out);
  a.on(cache::lease_want({4}), r.out);
  BOOST_TEST(r.granted[2].pages[0].size() == 2u);
}

BOOST_AUTO_TEST_CASE(a_wrong_return_is_refused_and_harms_nothing) {
  recorder r;
  cache::actor a({{4, 0}});
  BOOST_CHECK_THROW(a.on(cache::lease_return(cache::page_lists{{2}}), r.out), troupe::error);
  BOOST_CHECK_THROW(a.on(cache::lease_return(cache::page_lists{{}, {0}}), r.out), troupe::error);
  a.store().audit();
  a.on(cache::lease_want({9}), r.out);
  BOOST_TEST(r.granted[0].pages[0].size() == 4u);
}

BOOST_AUTO_TEST_SUITE_END()

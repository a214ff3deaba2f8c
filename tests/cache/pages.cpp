#include <boost/test/unit_test.hpp>
#include <random>
#include <troupe/error.hpp>

#include "src/cache/page_lease.hpp"
#include "src/cache/page_pool.hpp"

using namespace troupe;
using namespace troupe::cache;

BOOST_AUTO_TEST_CASE(a_pool_leases_what_it_has) {
  page_pool pool(5);
  std::vector<page_id> got;
  BOOST_TEST(pool.lease(3, got) == 3u);
  BOOST_TEST(pool.lease(3, got) == 2u);
  BOOST_TEST(got.size() == 5u);
  BOOST_TEST(pool.n_free() == 0u);
  pool.release(got[0]);
  BOOST_TEST(pool.n_free() == 1u);
  pool.audit();
}

BOOST_AUTO_TEST_CASE(a_breach_of_the_pool_s_books_is_an_error) {
  page_pool pool(3);
  std::vector<page_id> got;
  BOOST_CHECK_THROW(pool.release(0), troupe::error);
  BOOST_CHECK_THROW(pool.release(99), troupe::error);
  pool.lease(2, got);
  pool.index(got[0]);
  BOOST_CHECK_THROW(pool.release(got[0]), troupe::error);
  BOOST_CHECK_THROW(pool.evict(got[0]), troupe::error);
  BOOST_CHECK_THROW(pool.pin(got[1]), troupe::error);
  pool.unpin(got[0]);
  BOOST_CHECK_THROW(pool.unpin(got[0]), troupe::error);
  BOOST_TEST(pool.n_evictable() == 1u);
  pool.evict(got[0]);
  pool.audit();
  BOOST_TEST(pool.n_free() == 2u);
}

BOOST_AUTO_TEST_CASE(a_page_comes_back_when_the_last_plan_that_refers_to_it_is_done) {
  page_lease lease(4);
  for (page_id p : {0u, 1u, 2u}) lease.add(p);
  const page_id a = lease.take();
  const page_id b = lease.take();
  lease.retire(a, 7, 5);
  lease.retire(b, 6, 5);
  BOOST_TEST(lease.n_stock() == 1u);
  BOOST_TEST(lease.n_retiring() == 2u);
  lease.plans_done(6);
  BOOST_TEST(lease.n_stock() == 2u);
  lease.plans_done(7);
  BOOST_TEST(lease.n_stock() == 3u);
  const page_id c = lease.take();
  lease.retire(c, 7, 7);  // nothing in flight refers to it
  BOOST_TEST(lease.n_stock() == 3u);
  BOOST_TEST(lease.returns.empty());
  lease.audit();
}

BOOST_AUTO_TEST_CASE(shared_pages_go_back_to_the_cache_once_per_reference) {
  page_lease lease(4);
  lease.add(0);
  const page_id own = lease.take();
  lease.publish(own);
  lease.share(own);  // another sequence hits what this one published
  lease.share(3);
  lease.retire(own, 2, 1);
  lease.retire(3, 1, 1);
  BOOST_TEST(lease.returns.size() == 1u);
  lease.retire(own, 1, 1);
  BOOST_TEST(lease.returns.size() == 2u);
  lease.plans_done(2);
  BOOST_TEST(lease.returns.size() == 3u);
  BOOST_TEST(lease.n_held() == 0u);
  lease.audit();
}

BOOST_AUTO_TEST_CASE(a_breach_of_the_lease_s_books_is_an_error) {
  page_lease lease(3);
  BOOST_CHECK_THROW(lease.take(), troupe::error);
  BOOST_CHECK_THROW(lease.add(3), troupe::error);
  lease.add(1);
  BOOST_CHECK_THROW(lease.add(1), troupe::error);
  BOOST_CHECK_THROW(lease.share(1), troupe::error);
  BOOST_CHECK_THROW(lease.publish(1), troupe::error);
  BOOST_CHECK_THROW(lease.retire(1, 0, 0), troupe::error);
  const page_id p = lease.take();
  lease.retire(p, 2, 1);
  BOOST_CHECK_THROW(lease.retire(p, 2, 1), troupe::error);
}

BOOST_AUTO_TEST_CASE(random_use_of_a_lease_loses_no_page) {
  std::mt19937 random(7);
  page_lease lease(40);
  for (page_id p = 0; p < 40; ++p) lease.add(p);
  std::vector<page_id> used;
  step_seq submitted = 0, done = 0;
  for (int round = 0; round < 20000; ++round) {
    switch (random() % 4) {
      case 0:
        if (lease.n_stock()) used.push_back(lease.take());
        break;
      case 1:
        if (!used.empty()) {
          const std::size_t i = random() % used.size();
          lease.retire(used[i], done + random() % (submitted - done + 1), done);
          used.erase(used.begin() + static_cast<std::ptrdiff_t>(i));
        }
        break;
      case 2:
        if (submitted < done + 3) ++submitted;
        break;
      default:
        if (done < submitted) lease.plans_done(++done);
    }
    lease.audit();
    BOOST_REQUIRE(lease.n_stock() + used.size() + lease.n_retiring() == 40);
  }
  for (page_id p : used) lease.retire(p, 0, done);
  lease.plans_done(submitted);
  BOOST_TEST(lease.n_stock() == 40u);
}

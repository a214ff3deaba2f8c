#include <boost/test/unit_test.hpp>

#include "tests/group/exercise.hpp"

using namespace troupe;
using namespace troupe::test;
using namespace std::chrono_literals;

namespace {

using members = std::vector<std::shared_ptr<collective>>;

members make(std::uint32_t size, std::uint64_t buffer = 4096, std::chrono::milliseconds limit = 60s) {
  return group::make_thread_group(size, {buffer, limit}).value();
}

}  // namespace

BOOST_AUTO_TEST_CASE(threads_share_what_they_wrote) {
  for (std::uint32_t size = 1; size <= 4; ++size)
    for (std::uint64_t buffer : {64u, 1000u, 1u << 20}) {
      const auto said = on_threads(make(size, buffer), [&](collective& g) { return exercise(g, size * 100, 150); });
      for (const std::string& s : said) BOOST_TEST(s == "", "of " << size << ", buffer " << buffer << ": " << s);
    }
}

BOOST_AUTO_TEST_CASE(sizes_and_slices_that_cannot_be_are_refused) {
  BOOST_TEST(!group::make_thread_group(0, {}).ok());
  BOOST_TEST(!group::make_thread_group(1 << 20, {}).ok());
  BOOST_TEST(!group::make_thread_group(2, {8, 1s}).ok());
  const auto g = make(2);
  float x[4];
  const std::vector<slice> one{{0, 1}}, beyond{{0, 1}, {4, 1}};
  BOOST_TEST((g[0]->share_columns(x, 4, 1, one).error().code == errc::invalid_argument));
  BOOST_TEST((g[0]->share_columns(x, 4, 1, beyond).error().code == errc::invalid_argument));
  BOOST_TEST(
      (g[0]->share_blocks(std::as_writable_bytes(std::span(x)).first(3)).error().code == errc::invalid_argument));
}

BOOST_AUTO_TEST_CASE(an_abort_ends_every_wait_and_every_later_call) {
  for (std::uint32_t size = 2; size <= 4; ++size)
    for (std::uint32_t aborts = 0; aborts < size; ++aborts) {
      const auto g = make(size);
      std::thread elsewhere([&] {
        std::this_thread::sleep_for(std::chrono::milliseconds(aborts * 5));  // before they sleep, or while they do
        g[aborts]->abort();
      });
      const auto said = on_threads(g, [&](collective& m) {
        if (m.place().rank == aborts) return std::string();  // never comes, so that the others wait
        return must_fail(m, 30s);
      });
      elsewhere.join();
      for (const std::string& s : said) BOOST_TEST(s == "");
      for (const auto& m : g) BOOST_TEST(must_fail(*m, 1s) == "");
    }
}

BOOST_AUTO_TEST_CASE(a_rank_that_does_not_come_is_named) {
  const auto g = make(3, 4096, 100ms);
  const auto said = on_threads(g, [](collective& m) -> std::string {
    if (m.place().rank == 1) return "";
    const auto ok = m.barrier();
    return ok ? "passed" : ok.error().message;
  });
  BOOST_TEST((said[0].find("rank 1 has not come") != std::string::npos ||
              said[2].find("rank 1 has not come") != std::string::npos));
  BOOST_TEST(g[0]->awaited().value() == 1u);
  BOOST_TEST(must_fail(*g[1], 1s) == "");
}

BOOST_AUTO_TEST_CASE(nobody_is_awaited_while_all_are_equal) {
  const auto g = make(2);
  BOOST_TEST(!g[0]->awaited());
  on_threads(g, [](collective& m) { return m.barrier() ? "" : "failed"; });
  BOOST_TEST(!g[0]->awaited());
}

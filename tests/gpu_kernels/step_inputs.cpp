#include "kernels/gpu/step_inputs.hpp"

#include "tests/gpu_kernels/dense_cases.hpp"

using namespace troupe;
using namespace troupe::kernels::gpu;
using test::device_array;

BOOST_AUTO_TEST_SUITE(gpu_step_inputs)

BOOST_AUTO_TEST_CASE(inputs_are_pulled_from_pinned_memory) {
  std::mt19937 rng(1);
  for (std::uint32_t words : {4u, 1024u, 1028u, 64 * 1024u}) {
    std::uint32_t* pinned = nullptr;
    test::check(cudaMallocHost(reinterpret_cast<void**>(&pinned), words * 4));
    for (std::uint32_t i = 0; i < words; ++i) pinned[i] = static_cast<std::uint32_t>(rng());
    device_array<std::uint32_t> out(words);
    test::run([&](cudaStream_t s) { return pull_inputs(pinned, out, words, s); });
    BOOST_TEST((out.take() == std::vector<std::uint32_t>(pinned, pinned + words)), words);
    // The next step's contents are seen by the same graph.
    for (std::uint32_t i = 0; i < words; ++i) pinned[i] += 1;
    test::run([&](cudaStream_t s) { return pull_inputs(pinned, out, words, s); }, true);
    BOOST_TEST((out.take() == std::vector<std::uint32_t>(pinned, pinned + words)), words);
    test::check(cudaFreeHost(pinned));
  }
}

BOOST_AUTO_TEST_CASE(page_tables_take_their_entries) {
  std::mt19937 rng(2);
  const std::uint32_t slots = 7, pages = 33, max_n = 200;
  for (std::uint32_t n : {0u, 1u, 150u}) {
    std::vector<page_entry> entries(max_n, page_entry{0, 0, 0xdeadu});  // beyond n: not to be used
    std::vector<std::uint32_t> want(slots * pages, 0xffffffffu), places(slots * pages);
    for (std::uint32_t i = 0; i < places.size(); ++i) places[i] = i;
    std::shuffle(places.begin(), places.end(), rng);
    for (std::uint32_t i = 0; i < n; ++i) {
      entries[i] = {places[i] / pages, places[i] % pages, static_cast<std::uint32_t>(rng() % 1000)};
      want[places[i]] = entries[i].page;
    }
    device_array<page_entry> e(entries);
    device_array<std::uint32_t> table(slots * pages);
    const auto number = test::count(n);
    test::run([&](cudaStream_t s) { return update_page_table(e, number, max_n, table, pages, s); });
    BOOST_TEST((table.take() == want), n);
  }
}

BOOST_AUTO_TEST_CASE(pages_are_copied_in_every_pool) {
  std::mt19937 rng(3);
  const std::uint32_t n_pages = 12, page_bytes = 16 * 67;
  const std::vector<page_copy> copies = {{0, 5}, {0, 6}, {3, 7}, {11, 1}, {2, 2}};
  for (std::uint32_t n : {0u, 1u, 4u}) {
    std::vector<std::uint8_t> a(n_pages * page_bytes), b(a.size());
    for (auto& x : a) x = static_cast<std::uint8_t>(rng());
    for (auto& x : b) x = static_cast<std::uint8_t>(rng());
    device_array<std::uint8_t> pool_a(a), pool_b(b);
    device_array<void*> pools(std::vector<void*>{pool_a.get(), pool_b.get()});
    device_array<page_copy> c(copies);
    const auto number = test::count(n);
    test::run([&](cudaStream_t s) { return copy_pages(c, number, 5, pools, 2, page_bytes, s); });
    for (std::uint32_t i = 0; i < n; ++i)
      for (auto* x : {&a, &b})
        std::copy_n(x->begin() + copies[i].from * page_bytes, page_bytes, x->begin() + copies[i].to * page_bytes);
    BOOST_TEST((pool_a.take() == a), n);
    BOOST_TEST((pool_b.take() == b), n);
  }
}

BOOST_AUTO_TEST_SUITE_END()

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

BOOST_AUTO_TEST_SUITE_END()

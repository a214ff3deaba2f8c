#include "kernels/gpu/sample.hpp"

#include <atomic>
#include <chrono>
#include <cstring>
#include <memory>
#include <thread>

#include "src/sample/sampler.hpp"
#include "tests/gpu_kernels/device.hpp"

using namespace troupe;
using namespace troupe::test;
using namespace troupe::kernels;
using namespace troupe::kernels::gpu;

namespace {

template <class T>
class pinned_array {
 public:
  explicit pinned_array(std::size_t n) { check(cudaMallocHost(reinterpret_cast<void**>(&p_), (n + 1) * sizeof(T))); }
  pinned_array(const pinned_array&) = delete;
  pinned_array& operator=(const pinned_array&) = delete;
  ~pinned_array() { cudaFreeHost(p_); }
  operator T*() const { return p_; }

 private:
  T* p_;
};

/// One row with everything that src/sample needs to draw it too.
struct test_row {
  std::vector<float> logits;
  sample::parameters parameters;
  std::vector<sample::bias> biases;
  std::vector<std::pair<std::int32_t, std::uint32_t>> counted;  // token, count word
  std::vector<bool> allowed;                                    // empty: no mask
  std::uint32_t position = 0, flags = sample_logprob;
};

struct outcome {
  std::vector<sample_result> results;
  std::vector<std::int32_t> last_token;
  std::vector<std::uint32_t> counts;
};

/// Slots and logits rows are not in the order of the rows.
std::uint32_t slot_of(std::uint32_t i, std::uint32_t n) { return (i + n / 2) % n; }

/// Runs all rows in one step. `replay`: captured in a graph and launched twice, counts put back between.
outcome run(std::uint32_t vocab, const std::vector<test_row>& rows, bool replay = false, std::uint32_t pad = 3,
            std::chrono::milliseconds gate_delay = {}) {
  const std::uint32_t n = static_cast<std::uint32_t>(rows.size()), max_rows = n + 2, ld = vocab + pad;
  const std::uint32_t mask_words = (vocab + 31) / 32;
  std::vector<float> logits(std::size_t{max_rows} * ld, std::numeric_limits<float>::quiet_NaN());
  std::vector<sample_row> sample_rows(max_rows, {0xffffffffu, 0xffffffffu, 0xffffffffu, 0, 0, 0});
  std::vector<slot_sampling> slots(max_rows);
  std::vector<bias_entry> biases(1);
  std::vector<std::uint32_t> counts(std::size_t{max_rows} * vocab);
  pinned_array<std::uint32_t> masks(std::size_t{max_rows} * mask_words);
  pinned_array<std::uint64_t> gates(max_rows);
  for (std::uint32_t i = 0; i < n; ++i) {
    const test_row& r = rows[i];
    const std::uint32_t slot = slot_of(i, n), logits_row = n - 1 - i;
    std::copy(r.logits.begin(), r.logits.end(),
              logits.begin() + static_cast<std::ptrdiff_t>(std::size_t{logits_row} * ld));
    const bool masked = !r.allowed.empty();
    sample_rows[i] = {slot, r.position, logits_row, r.flags | (masked ? sample_masked : 0u), i, i};
    const sample::parameters& p = r.parameters;
    slots[slot] = {p.seed,
                   p.choice,
                   p.top_k,
                   p.temperature,
                   p.top_p,
                   p.min_p,
                   p.repetition_penalty,
                   p.frequency_penalty,
                   p.presence_penalty,
                   static_cast<std::uint32_t>(biases.size()),
                   static_cast<std::uint32_t>(r.biases.size()),
                   p.penalizes()};
    for (const sample::bias& b : r.biases) biases.push_back({b.token, b.addend});
    for (auto [token, count] : r.counted) counts[std::size_t{slot} * vocab + static_cast<std::size_t>(token)] = count;
    for (std::uint32_t w = 0; w < mask_words; ++w) masks[std::size_t{i} * mask_words + w] = 0xa5a5a5a5u;
    gates[i] = 6;
  }
  const auto open_gates = [&] {
    for (std::uint32_t i = n; i-- > 0;) {
      if (rows[i].allowed.empty()) continue;
      for (std::uint32_t w = 0; w < mask_words; ++w) {
        std::uint32_t word = 0xffffffffu;  // bits beyond the vocabulary mean nothing
        for (std::uint32_t b = 0; b < 32 && 32 * w + b < vocab; ++b)
          if (!rows[i].allowed[32 * w + b]) word &= ~(1u << b);
        masks[std::size_t{i} * mask_words + w] = word;
      }
      std::atomic_ref<std::uint64_t>(gates[i]).store(7, std::memory_order_release);
    }
  };
  device_array<float> d_logits(logits);
  device_array<sample_row> d_rows(sample_rows);
  device_array<std::uint32_t> d_n(std::vector<std::uint32_t>{n});
  device_array<slot_sampling> d_slots(slots);
  device_array<bias_entry> d_biases(biases);
  device_array<std::uint32_t> d_counts(counts);
  device_array<std::uint64_t> d_gate(std::vector<std::uint64_t>{7});
  device_array<std::int32_t> d_last(max_rows);
  device_array<sample_result> d_results(max_rows);
  device_array<std::uint8_t> scratch(sample_scratch_bytes(max_rows, vocab));
  const sample_args a{d_logits, ld,    vocab, d_rows, d_n,    max_rows,  d_slots, d_biases,
                      d_counts, masks, gates, d_gate, d_last, d_results, scratch};
  cudaStream_t stream;
  check(cudaStreamCreate(&stream));
  if (!gate_delay.count()) open_gates();
  if (replay) {
    cudaGraph_t graph;
    cudaGraphExec_t exec;
    check(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
    check(gpu::sample(a, stream));
    check(cudaStreamEndCapture(stream, &graph));
    check(cudaGraphInstantiate(&exec, graph, 0));
    check(cudaGraphLaunch(exec, stream));
    check(cudaStreamSynchronize(stream));
    d_counts.put(counts);
    check(cudaGraphLaunch(exec, stream));
    check(cudaStreamSynchronize(stream));
    cudaGraphExecDestroy(exec);
    cudaGraphDestroy(graph);
  } else {
    check(gpu::sample(a, stream));
    if (gate_delay.count()) {
      std::this_thread::sleep_for(gate_delay);
      BOOST_TEST(cudaStreamQuery(stream) == cudaErrorNotReady);
      open_gates();
    }
    check(cudaStreamSynchronize(stream));
  }
  cudaStreamDestroy(stream);
  outcome out{d_results.take(), {}, {}};
  BOOST_TEST(std::memcmp(d_logits.take().data(), logits.data(), logits.size() * 4) == 0);
  for (std::uint32_t i = n; i < max_rows; ++i) BOOST_TEST(out.results[i].flags == 0xffffffffu);
  out.results.resize(n);
  const auto last = d_last.take();
  const auto all_counts = d_counts.take();
  scratch.take();
  for (std::uint32_t i = 0; i < n; ++i) {
    const std::uint32_t slot = slot_of(i, n);
    out.last_token.push_back(last[slot]);
    out.counts.insert(out.counts.end(), all_counts.begin() + static_cast<std::ptrdiff_t>(std::size_t{slot} * vocab),
                      all_counts.begin() + static_cast<std::ptrdiff_t>(std::size_t{slot + 1} * vocab));
  }
  return out;
}

sample::draw expected(std::uint32_t vocab, const test_row& r, sample::parameters p) {
  sample::sampler s(vocab, kernels::cpu::vector_kernels_for(kernels::cpu::best_isa()));
  sample::token_counts counts(static_cast<std::uint32_t>(r.counted.size()) + 1);
  for (auto [token, word] : r.counted) {
    if (word & 0x80000000u) counts.add_prompt(token);
    for (std::uint32_t k = 0; k < (word & 0x7fffffffu); ++k) counts.add_output(token);
  }
  auto logits = r.logits;
  std::vector<std::uint32_t> mask;
  if (!r.allowed.empty()) mask.resize((vocab + 31) / 32);
  for (std::size_t t = 0; t < r.allowed.size(); ++t)
    if (r.allowed[t]) mask[t / 32] |= 1u << t % 32;
  return s.next(logits, p, &counts, r.biases, r.position, false, mask);
}

/// Compares with src/sample. Only the border of a filter by probability may differ, by 1e-6 of probability.
void compare(const char* what, std::uint32_t vocab, const std::vector<test_row>& rows, const outcome& got) {
  std::size_t at_border = 0;
  double worst_logprob = 0;
  for (std::size_t i = 0; i < rows.size(); ++i) {
    const test_row& r = rows[i];
    const sample::draw want = expected(vocab, r, r.parameters);
    BOOST_TEST_REQUIRE(want.ok);
    BOOST_TEST_REQUIRE(got.results[i].flags == 0u);
    const std::int32_t token = got.results[i].token;
    if (token != want.token) {
      bool border = false;
      for (float step : {-1e-6f, 1e-6f}) {
        auto p = r.parameters;
        if (p.top_p < 1) p.top_p += step;
        if (p.min_p > 0) p.min_p *= 1 + step;
        border = border || expected(vocab, r, p).token == token;
      }
      BOOST_TEST(border, what << ": row " << i << " of vocabulary " << vocab << ": token " << token << ", expected "
                              << want.token << "; temperature " << r.parameters.temperature << ", top_k "
                              << r.parameters.top_k << ", top_p " << r.parameters.top_p << ", min_p "
                              << r.parameters.min_p);
      ++at_border;
    }
    BOOST_TEST(got.last_token[i] == token);
    double most = -INFINITY, sum = 0;
    for (float x : r.logits) most = std::max<double>(most, x);
    for (float x : r.logits) sum += std::exp(x - most);
    const double logprob = r.logits[static_cast<std::size_t>(token)] - most - std::log(sum);
    if (r.flags & sample_logprob) worst_logprob = std::max(worst_logprob, std::abs(logprob - got.results[i].logprob));
    std::vector<std::uint32_t> counts(vocab);
    for (auto [t, word] : r.counted) counts[static_cast<std::size_t>(t)] = word;
    if (r.parameters.penalizes()) ++counts[static_cast<std::size_t>(token)];
    BOOST_TEST(std::equal(counts.begin(), counts.end(), got.counts.begin() + static_cast<std::ptrdiff_t>(i * vocab)));
  }
  BOOST_TEST(at_border * 100 <= rows.size() + 99);
  BOOST_TEST(worst_logprob <= 1e-4, what << ": logprob off by " << worst_logprob);
  BOOST_TEST_MESSAGE(what << ", vocabulary " << vocab << ": " << rows.size() << " rows, " << at_border
                          << " differ at a border, worst logprob error " << worst_logprob);
}

test_row random_row(std::uint32_t vocab, std::mt19937& rng, float spread = 3) {
  test_row r;
  r.logits = random_normal(rng, vocab, spread);
  r.parameters.seed = rng() * 0x100000001ull;
  r.parameters.choice = rng() % 5;
  r.position = rng() % 100000;
  return r;
}
double uniform(std::mt19937& rng, double a, double b) { return std::uniform_real_distribution<double>(a, b)(rng); }

const std::uint32_t vocabularies[] = {1, 5, 130, 4096, 4097, 32001, 128256};

}  // namespace

BOOST_AUTO_TEST_SUITE(gpu_sample)

BOOST_AUTO_TEST_CASE(greedy_takes_the_first_of_equals) {
  std::mt19937 rng(1);
  for (std::uint32_t vocab : vocabularies) {
    std::vector<test_row> rows;
    for (int i = 0; i < 9; ++i) {
      rows.push_back(random_row(vocab, rng));
      rows.back().parameters.temperature = i == 4 ? NAN : 0;
      for (float& x : rows.back().logits) x = i == 3 ? 0.0f : std::round(x);
      if (i == 3)
        for (std::size_t t = 0; t < vocab; t += 2) rows.back().logits[t] = -0.0f;
    }
    compare("greedy", vocab, rows, run(vocab, rows));
  }
}

BOOST_AUTO_TEST_CASE(unfiltered_draws_are_those_of_the_processor) {
  std::mt19937 rng(2);
  for (std::uint32_t vocab : vocabularies) {
    std::vector<test_row> rows;
    for (int i = 0; i < 60; ++i) {
      rows.push_back(random_row(vocab, rng, static_cast<float>(uniform(rng, 0, 8))));
      rows.back().parameters.temperature = static_cast<float>(i % 5 == 0 ? 1.0 : std::exp(uniform(rng, -4, 4)));
      if (i == 7) std::fill(rows.back().logits.begin(), rows.back().logits.end(), -2.5f);
      if (i % 2) rows.back().flags = 0;
    }
    compare("unfiltered", vocab, rows, run(vocab, rows, false, vocab % 3));
  }
}

BOOST_AUTO_TEST_CASE(filtered_draws_are_those_of_the_processor) {
  std::mt19937 rng(3);
  for (std::uint32_t vocab : vocabularies) {
    std::vector<test_row> rows;
    for (int i = 0; i < 80; ++i) {
      test_row r = random_row(vocab, rng, static_cast<float>(uniform(rng, 0.01, 6)));
      if (i % 3 == 0)
        for (float& x : r.logits) x = std::round(x * 2) / 2;
      if (i % 17 == 0) std::fill(r.logits.begin(), r.logits.end(), 1.5f);
      sample::parameters& p = r.parameters;
      p.temperature = static_cast<float>(i % 11 == 0 ? std::exp(uniform(rng, -8, 5)) : uniform(rng, 0.1, 2.5));
      if (i % 2) p.top_k = static_cast<std::int32_t>(1 + rng() % (rng() % 2 ? 100 : vocab + 10));
      if (rng() % 2 || i % 2 == 0)
        p.top_p = static_cast<float>(rng() % 7 ? uniform(rng, 0.01, 0.999) : rng() % 2 ? 0 : 0.9999);
      if (rng() % 3 == 0) p.min_p = static_cast<float>(std::exp(uniform(rng, -12, 0.1)));
      rows.push_back(std::move(r));
    }
    compare("filtered", vocab, rows, run(vocab, rows));
  }
}

BOOST_AUTO_TEST_CASE(penalties_and_biases_are_those_of_the_processor) {
  std::mt19937 rng(4);
  for (std::uint32_t vocab : vocabularies) {
    std::vector<test_row> rows;
    for (int i = 0; i < 40; ++i) {
      test_row r = random_row(vocab, rng);
      sample::parameters& p = r.parameters;
      p.temperature = i % 4 == 0 ? 0.0f : 0.9f;
      if (i % 4 == 2) p.top_k = 40;
      if (i % 8 >= 5) p.top_p = 0.9f;
      if (i % 3) {
        p.repetition_penalty = static_cast<float>(uniform(rng, 0.8, 1.5));
        p.presence_penalty = static_cast<float>(uniform(rng, -1, 2));
        p.frequency_penalty = static_cast<float>(uniform(rng, -0.5, 1));
        if (i == 13) p.repetition_penalty = 0;
      }
      std::vector<std::int32_t> tokens;
      for (std::uint32_t k = 0; k < std::min(vocab, 300u); ++k)
        tokens.push_back(static_cast<std::int32_t>(rng() % vocab));
      std::sort(tokens.begin(), tokens.end());
      tokens.erase(std::unique(tokens.begin(), tokens.end()), tokens.end());
      for (std::int32_t t : tokens)
        r.counted.push_back({t, (rng() % 2 ? 0x80000000u : 1u) + static_cast<std::uint32_t>(rng() % 4)});
      if (i % 2)
        for (int k = 0; k < 200; ++k)
          r.biases.push_back({static_cast<std::int32_t>(rng() % vocab), static_cast<float>(uniform(rng, -20, 12))});
      if (i % 5 == 1)
        r.biases.push_back({-1, 50.0f}), r.biases.push_back({static_cast<std::int32_t>(vocab), 50.0f}),
            r.biases.push_back({0, NAN});
      rows.push_back(std::move(r));
    }
    compare("penalized", vocab, rows, run(vocab, rows));
  }
}

BOOST_AUTO_TEST_CASE(masks_hold_for_every_kind_of_row) {
  std::mt19937 rng(5);
  for (std::uint32_t vocab : vocabularies)
    for (int delay : {0, 30}) {
      std::vector<test_row> rows;
      for (int i = 0; i < 30; ++i) {
        test_row r = random_row(vocab, rng);
        r.parameters.temperature = i % 3 == 0 ? 0.0f : 1.0f;
        if (i % 3 == 2) r.parameters.top_p = 0.8f;
        if (i % 6 == 5) r.parameters.top_k = 1 + static_cast<std::int32_t>(rng() % 300);
        if (i % 4) {
          r.allowed.assign(vocab, false);
          const std::uint32_t share = i % 5 == 0 ? 1 : i % 5 == 1 ? 3 : 1000;
          for (std::uint32_t t = 0; t < vocab; ++t) r.allowed[t] = rng() % share == 0;
          r.allowed[rng() % vocab] = true;
        }
        if (i % 7 == 1) r.biases = {{static_cast<std::int32_t>(rng() % vocab), 9.0f}};
        rows.push_back(std::move(r));
      }
      compare("masked", vocab, rows, run(vocab, rows, false, 3, std::chrono::milliseconds(delay)));
    }
}

BOOST_AUTO_TEST_CASE(rows_that_cannot_be_drawn_say_so) {
  std::mt19937 rng(6);
  const std::uint32_t vocab = 10000;
  std::vector<test_row> rows;
  std::vector<std::uint32_t> want;
  for (float bad : {NAN, INFINITY, -INFINITY})
    for (std::size_t at : {0u, 4095u, 4096u, 9999u})
      for (float temperature : {0.0f, 1.0f}) {
        rows.push_back(random_row(vocab, rng));
        rows.back().logits[at] = bad;
        rows.back().parameters.temperature = temperature;
        if (at == 4096) rows.back().parameters.top_k = 5;
        if (at == 9999) rows.back().allowed.assign(vocab, true);
        want.push_back(1);
      }
  rows.push_back(random_row(vocab, rng));
  rows.back().allowed.assign(vocab, false);
  want.push_back(2);
  rows.push_back(random_row(vocab, rng));
  want.push_back(0);
  rows.push_back(random_row(vocab, rng));
  rows.back().flags = sample_skip;
  const outcome got = run(vocab, rows);
  for (std::size_t i = 0; i < want.size(); ++i) {
    BOOST_TEST(got.results[i].flags == want[i]);
    if (want[i]) BOOST_TEST(got.results[i].token == -1);
    if (want[i]) BOOST_TEST(got.last_token[i] == 0);
  }
  BOOST_TEST(got.results.back().flags == 0xffffffffu);
  BOOST_TEST(got.last_token.back() == -1);
}

BOOST_AUTO_TEST_CASE(a_row_draws_the_same_alone_among_others_and_in_a_graph) {
  std::mt19937 rng(7);
  const std::uint32_t vocab = 32001;
  std::vector<test_row> rows;
  for (int i = 0; i < 24; ++i) {
    rows.push_back(random_row(vocab, rng));
    if (i % 3 == 1) rows.back().parameters.top_p = 0.9f;
    if (i % 4 == 3)
      rows.back().parameters.presence_penalty = 0.5f,
      rows.back().counted = {{static_cast<std::int32_t>(rng() % vocab), 2}};
    if (i % 5 == 4) rows.back().allowed.assign(vocab, true);
  }
  const outcome together = run(vocab, rows), replayed = run(vocab, rows, true);
  const auto bytes = [](const std::vector<sample_result>& r) { return r.size() * sizeof(sample_result); };
  BOOST_TEST(std::memcmp(together.results.data(), replayed.results.data(), bytes(together.results)) == 0);
  BOOST_TEST(together.counts == replayed.counts);
  for (std::size_t i = 0; i < rows.size(); ++i) {
    const outcome alone = run(vocab, {rows[i]});
    BOOST_TEST(std::memcmp(&alone.results[0], &together.results[i], sizeof(sample_result)) == 0, "row " << i);
  }
}

BOOST_AUTO_TEST_CASE(slots_become_what_their_entries_say) {
  std::mt19937 rng(9);
  const std::uint32_t slots = 40, most = 1100;
  const std::uint32_t numbers[] = {0, 0, 1, 2, 31, 255, 256, 257, 1023, 1024, 1025, most};
  for (std::uint32_t n : {0u, 1u, 7u, slots}) {
    std::vector<std::uint32_t> order(slots);
    for (std::uint32_t i = 0; i < slots; ++i) order[i] = i;
    std::shuffle(order.begin(), order.end(), rng);
    pinned_array<slot_entry> entries(n + 1);
    pinned_array<bias_entry> staged(std::size_t{n + 1} * most);
    std::vector<slot_sampling> sampling(slots);
    std::vector<bias_entry> biases(std::size_t{slots} * most);
    device_array<slot_sampling> d_sampling(slots);
    device_array<bias_entry> d_biases(biases.size());
    for (int round = 0; round < 2; ++round) {  // through the same memory again
      std::memset(static_cast<void*>(sampling.data()), 0xff, slots * sizeof(slot_sampling));
      std::memset(static_cast<void*>(biases.data()), 0xff, biases.size() * sizeof(bias_entry));
      d_sampling.poison();
      d_biases.poison();
      std::uint32_t n_staged = 0;
      for (std::uint32_t i = 0; i < n; ++i) {
        // All bytes of the parameters, but for those that say where biases go.
        std::uint8_t bytes[sizeof(slot_entry)];
        for (auto& b : bytes) b = static_cast<std::uint8_t>(rng());
        std::memcpy(static_cast<void*>(entries + i), bytes, sizeof bytes);
        slot_entry& e = entries[i];
        e.slot = order[i];
        e.first_bias = n_staged;
        e.sampling.bias_offset = e.slot * most;
        e.sampling.n_biases = numbers[rng() % std::size(numbers)];
        e.sampling.penalizes = rng() % 2;
        std::memcpy(static_cast<void*>(&sampling[e.slot]), &e.sampling, sizeof(slot_sampling));
        for (std::uint32_t k = 0; k < e.sampling.n_biases; ++k)
          biases[e.sampling.bias_offset + k] =
              staged[n_staged++] = {static_cast<std::int32_t>(rng()), static_cast<float>(uniform(rng, -9, 9))};
      }
      check(admit_slots(entries, n, staged, d_sampling, d_biases, nullptr));
      const auto got_sampling = d_sampling.take();
      const auto got_biases = d_biases.take();
      BOOST_TEST(std::memcmp(got_sampling.data(), sampling.data(), slots * sizeof(slot_sampling)) == 0, n);
      BOOST_TEST(std::memcmp(got_biases.data(), biases.data(), biases.size() * sizeof(bias_entry)) == 0, n);
    }
  }
}

BOOST_AUTO_TEST_CASE(counts_begin_with_the_history) {
  std::mt19937 rng(8);
  for (std::uint32_t vocab : {7u, 5000u}) {
    const std::uint32_t slots = 6;
    std::vector<std::int32_t> history(4000);
    for (auto& t : history) t = static_cast<std::int32_t>(rng() % vocab);
    history[5] = -1, history[6] = static_cast<std::int32_t>(vocab);  // ignored
    const std::vector<count_reset> resets = {{4, 0, 1000, 300}, {1, 1000, 0, 0}, {2, 1000, 3000, 3000}, {0, 0, 10, 0}};
    device_array<std::uint32_t> counts(std::size_t{slots} * vocab);
    device_array<count_reset> d_resets(resets);
    device_array<std::uint32_t> n(std::vector<std::uint32_t>{3});
    device_array<std::int32_t> d_history(history);
    check(reset_counts(d_resets, n, 4, d_history, counts, vocab, nullptr));
    std::vector<std::uint32_t> want(std::size_t{slots} * vocab, 0xffffffffu);
    for (std::size_t k = 0; k < 3; ++k) {
      const count_reset& r = resets[k];
      std::uint32_t* row = want.data() + std::size_t{r.slot} * vocab;
      std::fill_n(row, vocab, 0u);
      for (std::uint32_t i = 0; i < r.history_count; ++i) {
        const auto t = static_cast<std::uint32_t>(history[r.history_offset + i]);
        if (t >= vocab) continue;
        if (i < r.prompt_length)
          row[t] |= 0x80000000u;
        else
          ++row[t];
      }
    }
    BOOST_TEST(counts.take() == want);
  }
}

BOOST_AUTO_TEST_CASE(results_are_published_before_their_number) {
  for (std::uint32_t n : {0u, 1u, 33u, 600u}) {
    std::vector<sample_result> results(n + 1);
    for (std::uint32_t i = 0; i <= n; ++i)
      results[i] = {static_cast<std::int32_t>(i * 3), i & 1, 0.5f * static_cast<float>(i), i};
    device_array<sample_result> d(results);
    device_array<std::uint32_t> d_n(std::vector<std::uint32_t>{n});
    device_array<std::uint64_t> seq(std::vector<std::uint64_t>{0x1234567890ull});
    pinned_array<sample_result> out(n + 1);
    pinned_array<std::uint64_t> word(1);
    out[n] = {-7, 0, 0, 0};
    word[0] = 0;
    check(publish_results(d, d_n, n + 1, out, seq, word, nullptr));
    const auto until = std::chrono::steady_clock::now() + std::chrono::seconds(10);
    while (std::atomic_ref<std::uint64_t>(word[0]).load(std::memory_order_acquire) != 0x1234567890ull)
      if (std::chrono::steady_clock::now() > until) break;
    BOOST_TEST(word[0] == 0x1234567890ull);
    BOOST_TEST(std::memcmp(out, results.data(), n * sizeof(sample_result)) == 0);
    BOOST_TEST(out[n].token == -7);
    check(cudaDeviceSynchronize());
  }
}

BOOST_AUTO_TEST_SUITE_END()

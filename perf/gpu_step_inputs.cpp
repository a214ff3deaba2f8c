// What a decode step costs the rank's thread before anything is queued on the card, by part: the plan read and checked,
// applied to the slots, its attention divided, its inputs written. The same calls as gpu_backend::launch; needs no
// card. to_copy: all of it as a ratio to copying the plan's bytes and the inputs' once, in the same steps.
#include <benchmark/benchmark.h>

#include <array>
#include <chrono>
#include <cstring>
#include <memory>
#include <random>
#include <span>
#include <vector>

#include "src/gpu/rank_plan.hpp"
#include "src/gpu/step_writer.hpp"

using namespace troupe;

namespace {

using clock_type = std::chrono::steady_clock;
namespace g = kernels::gpu;

constexpr std::uint32_t shortest = 96, longest = 1000;  ///< contexts

model::rank_shape shape_for() {
  model::rank_shape s;
  s.vocab = 128256;
  s.max_model_len = 8192;
  s.max_slots = 256;
  s.max_batched_tokens = 8192;
  s.depth = 2;
  s.n_pages = {256 * 8192 / page_tokens / 2};
  return s;
}

enum part : std::uint32_t { parsed, applied, ordered, divided, written, n_parts };
constexpr const char* names[n_parts] = {"parse_us", "apply_us", "order_us", "divide_us", "write_us"};

class rank {
 public:
  explicit rank(std::uint32_t n) : n_(n), slots_(shape_, 0), writer_(shape_), next_page_(shape_.n_pages[0]) {
    for (std::uint32_t i = 0; i < shape_.n_pages[0]; ++i) next_page_[i] = i;
    std::shuffle(next_page_.begin(), next_page_.end(), rng_);  // as in an engine that has run for a while
    for (std::uint32_t i = 0; i < n; ++i) {
      builder_.admit(i, {}, i);
      position_.push_back(shortest + static_cast<std::uint32_t>(rng_() % (longest - shortest)));
      pages_for(i, 0, position_[i]);
      row(i, 0, position_[i], model::row_input::literal);
      builder_.tokens.assign(longest, 17);
      step();
    }
    times = {};
    copied = 0;
  }

  /// Every sequence one token further; the contexts that have become too long start again, untimed.
  double decode() {
    for (std::uint32_t i = 0; i < n_; ++i) {
      if (position_[i] + 1 >= 2 * longest) position_[i] = shortest;
      if (position_[i] % page_tokens == 0) pages_for(i, position_[i] / page_tokens, position_[i] + 1);
      row(i, position_[i], 1, model::row_input::last_token);
      ++position_[i];
    }
    builder_.graph = {bucket_.tokens, 0, 0};
    return step();
  }

  void sweep() {
    for (std::size_t i = 0; i < other_.size(); i += 64) ++other_[i];
  }

  std::array<double, n_parts> times{};  ///< seconds so far
  double copied = 0;                    ///< seconds that the copies took

 private:
  void pages_for(std::uint32_t slot, std::uint32_t first, std::uint32_t n_tokens) {
    for (std::uint32_t i = first; i * page_tokens < n_tokens; ++i) {
      builder_.deltas.push_back({slot, 0, i, next_page_[taken_]});
      taken_ = (taken_ + 1) % next_page_.size();
    }
  }
  void row(std::uint32_t slot, std::uint32_t position, std::uint32_t n, model::row_input input) {
    model::plan_row r{};
    r.slot = slot;
    r.kind = n == 1 ? model::row_kind::decode : model::row_kind::chunk;
    r.input = input;
    r.output = model::row_output::sample;
    r.position = position;
    r.n_tokens = n;
    builder_.rows.push_back(r);
  }

  /// Seconds, caches as a step finds them.
  double copy(std::span<const std::byte> plan, std::span<const std::byte> inputs) {
    copy_.resize(std::max(copy_.size(), plan.size() + inputs.size()));
    if (cold) sweep();
    const auto from = clock_type::now();
    std::memcpy(copy_.data(), plan.data(), plan.size());
    std::memcpy(copy_.data() + plan.size(), inputs.data(), inputs.size());
    benchmark::DoNotOptimize(copy_.data());
    return std::chrono::duration<double>(clock_type::now() - from).count();
  }

  double step() {
    const auto owned = builder_.build(++seq_);
    builder_.clear();
    if (cold) sweep();
    std::array<clock_type::time_point, n_parts + 1> at;
    at[0] = clock_type::now();
    auto plan = model::step_plan_view::parse(owned->bytes());
    at[1] = clock_type::now();
    if (!plan) std::abort();
    if (auto ok = slots_.apply(*plan); !ok) std::abort();
    at[2] = clock_type::now();
    const model::step_batch& batch = slots_.batch();
    writer_.order(*plan, batch);
    at[3] = clock_type::now();
    const auto n_tokens = gpu::token_bucket(static_cast<std::uint32_t>(batch.tokens.size()), shape_.max_batched_tokens);
    const gpu::bucket b{n_tokens, n_tokens, n_tokens};
    const g::attention_shape shape{32, 8,  128, b.tokens, std::min(b.tokens, shape_.max_slots), shape_.max_model_len,
                                   0,  132};
    writer_.divide(shape, batch);
    at[4] = clock_type::now();
    const gpu::step_layout l = gpu::step_layout_of(b, shape);
    entries_.clear();
    for (const model::page_delta& d : plan->deltas()) entries_.push_back({d.slot, d.index, d.page});
    entries_.resize(std::min<std::size_t>(entries_.size(), l.max_page_entries));
    inputs_.resize(std::max<std::size_t>(inputs_.size(), l.bytes));
    writer_.write(*plan, batch, entries_, l, inputs_.data());
    at[5] = clock_type::now();
    benchmark::DoNotOptimize(inputs_.data());
    copied += copy(owned->bytes(), {inputs_.data(), l.bytes});
    for (std::uint32_t i = 0; i < n_parts; ++i) times[i] += std::chrono::duration<double>(at[i + 1] - at[i]).count();
    return std::chrono::duration<double>(at[n_parts] - at[0]).count();
  }

 public:
  bool cold = false;

 private:
  std::mt19937 rng_{1};
  model::rank_shape shape_ = shape_for();
  std::uint32_t n_;
  model::slot_table slots_;
  gpu::step_writer writer_;
  gpu::bucket bucket_{gpu::token_bucket(n_, 8192), 0, 0};
  model::plan_builder builder_;
  std::vector<page_id> next_page_;
  std::size_t taken_ = 0;
  std::vector<std::uint32_t> position_;
  std::vector<g::page_entry> entries_;
  std::vector<std::byte> inputs_, copy_;
  std::vector<char> other_ = std::vector<char>(64u << 20);
  step_seq seq_ = 0;
};

/// cold: between steps something else fills the caches.
void decode_step(benchmark::State& state) {
  const auto r = std::make_unique<rank>(static_cast<std::uint32_t>(state.range(0)));
  r->cold = state.range(1) != 0;
  double all = 0;
  for (auto _ : state) {
    const double seconds = r->decode();
    state.SetIterationTime(seconds);
    all += seconds;
  }
  state.counters["to_copy"] = all / r->copied;
  for (std::uint32_t i = 0; i < n_parts; ++i)
    state.counters[names[i]] = r->times[i] / static_cast<double>(state.iterations()) * 1e6;
}
BENCHMARK(decode_step)
    ->ArgNames({"sequences", "cold"})
    ->ArgsProduct({{1, 64, 256}, {0}})
    ->UseManualTime()
    ->Iterations(20000)
    ->Unit(benchmark::kMicrosecond);
BENCHMARK(decode_step)
    ->ArgNames({"sequences", "cold"})
    ->ArgsProduct({{1, 64, 256}, {1}})
    ->UseManualTime()
    ->Iterations(200)  // the time between them is not counted, and would be long
    ->Unit(benchmark::kMicrosecond);

}  // namespace

BENCHMARK_MAIN();

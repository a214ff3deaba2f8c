// What the scheduler costs the host per step: N sequences decode, each step takes rank 0's answer, delivers the tokens,
// plans the next step and reads the status for the metrics, as it does in the engine. The time between is the device's.
#include <benchmark/benchmark.h>

#include <chrono>
#include <memory>
#include <vector>

#include "actors/sched/actor.hpp"

using namespace troupe;

namespace {

using clock_type = std::chrono::steady_clock;

constexpr std::uint32_t n_prompt = 32, max_len = 4096;

model::rank_shape shape_for(std::uint32_t n_sequences) {
  model::rank_shape s;
  s.vocab = 32000;
  s.max_model_len = max_len;
  s.max_slots = n_sequences;
  s.max_batched_tokens = std::max(2048u, n_sequences);
  s.groups = {{.window = 0, .n_layers = 1, .page_bytes = 1}};
  s.n_pages = {n_sequences * max_len / page_tokens};
  return s;
}

class driver {
 public:
  explicit driver(std::uint32_t n_sequences) : shape_(shape_for(n_sequences)), actor_({.shape = shape_, .policy = {}}) {
    out_.plan = [this](auto plan) { plan_ = std::move(plan); };
    out_.tokens = [this](std::uint32_t, sched::token_batch&& b) { n_tokens_ += b.events.size(); };
    out_.want = [this](cache::lease_want&& w) {
      cache::page_lists pages(1);
      while (pages[0].size() < w.n[0]) pages[0].push_back(next_page_++);
      granted_ = std::make_unique<cache::lease_granted>(std::move(pages),
                                                        std::vector<std::uint32_t>{shape_.n_pages[0] - next_page_});
    };
    out_.publish = [](auto&&) {};
    out_.give_back = [](auto&&) {};
    out_.lookup = [](auto&&) {};
    for (std::uint32_t i = 0; i < n_sequences; ++i) {
      auto r = std::make_shared<sched::request_record>();
      r->id = i + 1;
      r->prompt.assign(n_prompt, static_cast<token_id>(i));
      r->ignore_eos = true;
      actor_.on(sched::submit(std::move(r)), out_);
    }
    actor_.settle(out_);
    for (bool decodes = false; !decodes;) {
      step();
      decodes = plan_->view().rows().size() == n_sequences;
      for (const auto& row : plan_->view().rows()) decodes &= row.kind == model::row_kind::decode;
    }
  }

  /// One step, and the host's time of it: from the rank's answer to the next plan on its way and all told.
  clock_type::duration step() {
    if (granted_) {
      actor_.on(std::move(*granted_), out_);
      granted_.reset();
      actor_.settle(out_);
    }
    model::step_done done;
    done.seq = plan_->view().seq();
    done.device_ns = 1'000'000;
    for (const auto& row : plan_->view().rows())
      if (row.output != model::row_output::none) done.rows.push_back({row.slot, 17, 0, 0});
    const auto start = clock_type::now();
    actor_.on(sched::step_done(0, std::move(done)), out_);
    actor_.settle(out_);
    benchmark::DoNotOptimize(actor_.core().status());
    return clock_type::now() - start;
  }

  std::size_t n_tokens() const { return n_tokens_; }

 private:
  model::rank_shape shape_;
  sched::actor actor_;
  sched::outbox out_;
  std::shared_ptr<const model::step_plan> plan_;
  std::unique_ptr<cache::lease_granted> granted_;
  page_id next_page_ = 0;
  std::size_t n_tokens_ = 0;
};

/// cold: between steps something else fills the caches, as the forward pass does on the same processor.
void decode_step(benchmark::State& state) {
  const auto n = static_cast<std::uint32_t>(state.range(0));
  const bool cold = state.range(1) != 0;
  std::vector<char> other(cold ? 64u << 20 : 0);
  auto d = std::make_unique<driver>(n);
  std::uint32_t steps = 0;
  double seconds = 0;
  for (auto _ : state) {
    if (++steps == max_len - n_prompt - 16) {
      d = std::make_unique<driver>(n);
      steps = 0;
    }
    for (std::size_t i = 0; i < other.size(); i += 64) ++other[i];
    const double t = std::chrono::duration<double>(d->step()).count();
    state.SetIterationTime(t);
    seconds += t;
  }
  benchmark::DoNotOptimize(d->n_tokens());
  state.counters["step_us"] = seconds / static_cast<double>(state.iterations()) * 1e6;
}
BENCHMARK(decode_step)
    ->ArgNames({"sequences", "cold"})
    ->ArgsProduct({{1, 32, 256, 1024}, {0}})
    ->UseManualTime()
    ->Unit(benchmark::kMicrosecond);
BENCHMARK(decode_step)
    ->ArgNames({"sequences", "cold"})
    ->ArgsProduct({{1, 32, 256, 1024}, {1}})
    ->UseManualTime()
    ->Iterations(200)  // the time between them is not counted, and would be long
    ->Unit(benchmark::kMicrosecond);

}  // namespace

BENCHMARK_MAIN();

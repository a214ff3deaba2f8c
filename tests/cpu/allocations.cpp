#include <atomic>
#include <barrier>
#include <boost/test/unit_test.hpp>
#include <cstdlib>
#include <new>
#include <thread>

#include "tests/cpu/driver.hpp"

// Sanitizers bring operators of their own, which do not mix with these.
#if defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define TROUPE_NO_COUNT
#endif
#endif
#if !defined(TROUPE_NO_COUNT) && !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)

using namespace troupe;
using namespace troupe::test;

namespace {
std::atomic<long> n_allocations{0};
}

// Every allocation of this program goes through here, those of the compute threads too.
void* operator new(std::size_t n) {
  ++n_allocations;
  if (void* p = std::malloc(n)) return p;
  throw std::bad_alloc();
}
void operator delete(void* p) noexcept { std::free(p); }
void operator delete(void* p, std::size_t) noexcept { std::free(p); }

namespace {

cpu::cpu_options eight_slots(std::uint32_t threads) {
  cpu::cpu_options o;
  o.threads = threads;
  o.max_slots = 8;
  o.n_pages = 200;
  return o;
}

std::vector<std::shared_ptr<const model::step_plan>> forty_plans() {
  std::vector<std::shared_ptr<const model::step_plan>> plans;
  model::plan_builder builder;
  for (slot_id s = 0; s < 8; ++s) {
    sampling_params p;
    p.temperature = s % 2 ? 0.8f : 0.0f;
    if (s > 3) p.top_p = 0.9f;
    if (s > 5) p.presence_penalty = 0.5f;
    builder.admit(s, p, 1);
    for (std::uint32_t i = 0; i < 20; ++i) builder.deltas.push_back({s, 0, i, s * 20 + i});
  }
  const auto add = [&](slot_id s, model::row_input input, std::uint32_t position, std::uint32_t n) {
    model::plan_row r{};
    r.slot = s;
    r.kind = model::row_kind::chunk;
    r.input = input;
    r.output = model::row_output::sample;
    r.position = position;
    r.n_tokens = n;
    r.token_offset = static_cast<std::uint32_t>(builder.tokens.size());
    if (input == model::row_input::literal) builder.tokens.resize(builder.tokens.size() + n, 17);
    builder.rows.push_back(r);
  };
  for (slot_id s = 0; s < 8; ++s) add(s, model::row_input::literal, 0, 30);
  plans.push_back(builder.build(1));
  for (step_seq seq = 2; seq < 40; ++seq) {
    builder.clear();
    for (slot_id s = 0; s < 7; ++s) add(s, model::row_input::last_token, static_cast<std::uint32_t>(28 + seq), 1);
    add(7, model::row_input::literal, 30, static_cast<std::uint32_t>(1 + seq % 50));
    plans.push_back(builder.build(seq));
  }
  return plans;
}

}  // namespace

BOOST_AUTO_TEST_CASE(a_step_allocates_nothing) {
  for (const char* name : {"llama-256/model-Q4_K_M.gguf", "mixtral/model-Q8_0.gguf"}) {
    auto m = model::open_model(data(name)).value();
    auto b = cpu::make_cpu_backend(m, eight_slots(2), nullptr).value();
    const auto plans = forty_plans();
    model::step_done done;
    done.rows.reserve(8);
    for (std::size_t i = 0; i < plans.size(); ++i) {
      const long before = n_allocations;
      BOOST_TEST_REQUIRE(b->launch(plans[i]).ok());
      BOOST_TEST_REQUIRE(b->poll(done).value());
      const long after = n_allocations;
      if (i > 0) BOOST_TEST(after - before == 0, name << ", step " << i);  // the first admits
      BOOST_TEST_REQUIRE(done.rows.size() == 8u);
    }
  }
}

BOOST_AUTO_TEST_CASE(a_step_of_a_group_allocates_nothing) {
  auto m = model::open_model(data("llama-256/model-Q4_K_M.gguf")).value();
  const auto plans = forty_plans();
  const auto members = group::make_thread_group(2, {1 << 16, std::chrono::seconds(60)}).value();
  std::vector<std::unique_ptr<model::backend>> ranks;
  for (const auto& member : members) ranks.push_back(cpu::make_cpu_backend(m, eight_slots(1), nullptr, member).value());
  std::barrier meet(2);
  bool ok[2] = {true, true};
  long before = 0, after = 0;
  const auto live = [&](std::size_t r) {
    model::step_done done;
    done.rows.reserve(8);
    for (std::size_t i = 0; i < plans.size(); ++i) {
      if (i == 1) {  // the first admits
        meet.arrive_and_wait();
        if (r == 0) before = n_allocations;
        meet.arrive_and_wait();
      }
      ok[r] = ok[r] && ranks[r]->launch(plans[i]).ok();
      const auto finished = ranks[r]->poll(done);
      ok[r] = ok[r] && finished.ok() && *finished && done.rows.size() == (r == 0 ? 8u : 0u);
    }
    meet.arrive_and_wait();
    if (r == 0) after = n_allocations;
    meet.arrive_and_wait();
  };
  std::thread other(live, 1);
  live(0);
  other.join();
  BOOST_TEST((ok[0] && ok[1]));
  BOOST_TEST(after - before == 0);
}

#endif

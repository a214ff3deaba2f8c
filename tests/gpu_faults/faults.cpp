// What happens on a real card when things go wrong there. A CUDA error stays with its process: run one case a process,
// as ctest does.
#include <spdlog/sinks/ostream_sink.h>

#include <boost/test/unit_test.hpp>
#include <chrono>
#include <sstream>
#include <thread>

#include "actors/rank/actor.hpp"
#include "src/base/log.hpp"
#include "src/gpu/device.hpp"
#include "tests/gpu/driver.hpp"
#include "tests/gpu_faults/fault_kernels.hpp"

using namespace troupe;
using namespace troupe::test;
using namespace std::chrono_literals;
using kernels::dtype;
using kernels::gpu::kv_type;
using clock_type = std::chrono::steady_clock;

namespace {

constexpr step_seq faulty_step = 4;

gpu::gpu_options options(std::function<cudaError_t(cudaStream_t)> fault) {
  gpu::gpu_options o = small(dtype::bf16, kv_type::bf16);
  o.n_pages = 40'000;  // so much memory that its coming and going is seen
  if (fault)
    o.before_step = [fault = std::move(fault)](step_seq seq, cudaStream_t s) {
      return seq == faulty_step ? fault(s) : cudaSuccess;
    };
  return o;
}

std::shared_ptr<const model::model> tiny() { return model::open_model(data("llama3-rope")).value(); }

/// Steps 1 to 3 of a sequence, so that all kernels are loaded, and what step 4 would draw after them.
void run_up(backend_driver& d) {
  const std::vector<token_id> ids(20, 7);
  d.admit(0, {});
  d.chunk(0, 0, ids, model::row_output::sample);
  d.step();
  for (std::uint32_t i = 0; i < 2; ++i) {
    d.decode(0, 20 + i);
    d.step();
  }
  d.decode(0, 22);
}

/// The same steps for whoever counts plans by himself.
std::shared_ptr<const model::step_plan> plan_of(step_seq seq) {
  model::plan_builder b;
  model::plan_row r{};
  r.output = model::row_output::sample;
  if (seq == 1) {
    b.admit(0, {}, 0);
    b.deltas = {{0, 0, 0, 1}, {0, 0, 1, 2}};
    b.tokens.assign(20, 7);
    r.kind = model::row_kind::chunk;
    r.n_tokens = 20;
  } else {
    r.kind = model::row_kind::decode;
    r.input = model::row_input::last_token;
    r.position = 18 + static_cast<std::uint32_t>(seq);
    r.n_tokens = 1;
  }
  b.rows = {r};
  return b.build(seq);
}

/// Polls until there is an error, or for 20 s.
result<void> error_of(model::backend& b) {
  model::step_done done;
  for (const auto limit = clock_type::now() + 20s; clock_type::now() < limit;) {
    auto finished = b.poll(done);
    if (!finished) return finished.take_error();
    if (*finished) break;
  }
  return {};
}

std::uint64_t free_bytes() {
  std::size_t free = 0, total = 0;
  BOOST_REQUIRE_EQUAL(cudaMemGetInfo(&free, &total), cudaSuccess);
  return free;
}

class told {
 public:
  told() : word_(gpu::memory::pinned(sizeof(std::uint32_t), "a word").value()) {}
  volatile std::uint32_t* word() const { return word_.at<volatile std::uint32_t>(0); }
  void tell() { *word() = 1; }

 private:
  gpu::memory word_;
};

/// The process's log, while it lives.
class listener {
 public:
  listener() {
    set_logger(std::make_shared<spdlog::logger>("test", std::make_shared<spdlog::sinks::ostream_sink_mt>(said_)));
  }
  ~listener() { set_logger(std::make_shared<spdlog::logger>("silent")); }
  std::string said() const { return said_.str(); }

 private:
  std::ostringstream said_;
};

struct rank_outbox final : rank::outbox {
  std::vector<step_seq> done;
  std::vector<std::string> failed;
  bool busy = false;
  clock_type::time_point give_up = clock_type::time_point::max();
  void send(sched::step_done&& m) override { done.push_back(m.done.seq); }
  void send(sched::rank_failed&& m) override { failed.push_back(m.message); }
  void step_started() override { busy = true; }
  void step_ended() override { busy = false; }
  bool given_up() const override { return clock_type::now() > give_up; }
};

}  // namespace

BOOST_AUTO_TEST_CASE(an_illegal_access_is_told_and_spoils_the_process_only) {
  driver d(tiny(), options(illegal_access));
  run_up(d);
  result<void> outcome = d.backend->launch(d.plan.build(faulty_step));
  if (outcome) outcome = error_of(*d.backend);  // the error may come with the launch or later
  BOOST_TEST_REQUIRE(!outcome.ok());
  BOOST_TEST((outcome.error().code == errc::rank_failed));
  BOOST_TEST(outcome.error().message.find("illegal memory access") != std::string::npos, outcome.error().message);
  const auto before = clock_type::now();
  d.backend.reset();
  BOOST_TEST((clock_type::now() - before < 5s));
  // No second rank in this process: an error in words, not a crash.
  auto again = gpu::make_gpu_backend(tiny(), options({}), nullptr);
  BOOST_TEST_REQUIRE(!again.ok());
  BOOST_TEST(!again.error().message.empty());
  BOOST_TEST_MESSAGE("the second rank: " << again.error().message);
}

BOOST_AUTO_TEST_CASE(an_illegal_access_before_a_graph_is_told) {
  driver d(tiny(), options(illegal_access));
  const std::vector<token_id> ids(20, 7);
  d.warm_up(4);
  d.admit(0, {});
  d.chunk(0, 0, ids, model::row_output::sample);
  d.step();
  for (const bool last : {false, true}) {
    d.decode(0, last ? 21 : 20);
    d.plan.graph = {4, 4, 0};
    if (!last) d.step();
  }
  result<void> outcome = d.backend->launch(d.plan.build(faulty_step));
  if (outcome) outcome = error_of(*d.backend);
  BOOST_TEST_REQUIRE(!outcome.ok());
  BOOST_TEST((outcome.error().code == errc::rank_failed));
  BOOST_TEST(outcome.error().message.find("illegal memory access") != std::string::npos, outcome.error().message);
}

BOOST_AUTO_TEST_CASE(the_rank_tells_of_a_cuda_error_once) {
  rank::rank_actor actor(0, gpu::make_gpu_backend(tiny(), options(illegal_access), nullptr).value());
  rank_outbox out;
  for (step_seq seq = 1; seq <= faulty_step + 1; ++seq) {
    actor.on(rank::step_plan(plan_of(seq)), out);
    for (const auto limit = clock_type::now() + 20s; actor.advance(out) && clock_type::now() < limit;) {
    }
  }
  BOOST_TEST(out.done == std::vector<step_seq>({1, 2, 3}), boost::test_tools::per_element());
  BOOST_TEST_REQUIRE(out.failed.size() == 1u);
  BOOST_TEST(out.failed[0].find("illegal memory access") != std::string::npos, out.failed[0]);
  BOOST_TEST(!out.busy);
}

BOOST_AUTO_TEST_CASE(more_memory_than_the_card_has_is_an_error) {
  const auto m = tiny();
  gpu::gpu_options huge = options({});
  huge.n_pages = 0x7fffffffu;
  for (const auto& f : {gpu::make_gpu_backend(m, huge, nullptr).error(), gpu::plan_rank(m, huge).error()}) {
    BOOST_TEST((f.code == errc::out_of_memory));
    BOOST_TEST(f.message.find("MiB free") != std::string::npos, f.message);
    BOOST_TEST(f.message.find("lower ") != std::string::npos, f.message);
  }
  // An allocation that the card itself refuses.
  const auto refused = gpu::memory::on_device(std::uint64_t{1} << 46, "a test");
  BOOST_TEST_REQUIRE(!refused.ok());
  BOOST_TEST((refused.error().code == errc::out_of_memory));
  BOOST_TEST(refused.error().message.find("MiB of device memory for a test") != std::string::npos,
             refused.error().message);
  {
    // A card that others have filled.
    std::vector<gpu::memory> taken;
    for (std::uint64_t piece = std::uint64_t{8} << 30; piece >= 1u << 20; piece /= 2)
      while (auto more = gpu::memory::on_device(piece, "others")) taken.push_back(std::move(*more));
    gpu::gpu_options wide = options({});
    wide.n_pages = 0;
    wide.max_slots = 1024;
    wide.max_batched_tokens = 16384;
    const auto full = gpu::make_gpu_backend(m, wide, nullptr);
    BOOST_TEST_REQUIRE(!full.ok());
    BOOST_TEST((full.error().code == errc::out_of_memory));
    BOOST_TEST(full.error().message.find("MiB free") != std::string::npos, full.error().message);
  }
  // None of that stays: the next rank works.
  driver d(m, options({}));
  run_up(d);
  BOOST_TEST(d.step().size() == 1u);
}

BOOST_AUTO_TEST_CASE(a_hanging_step_is_left_behind_with_its_memory) {
  const auto m = tiny();
  token_id want = -1;
  {
    driver healthy(m, options({}));
    run_up(healthy);
    want = healthy.step().at(0);
  }
  told end;
  listener log;
  driver d(m, options([&end](cudaStream_t s) { return spin(end.word(), s); }));
  const std::uint64_t with_rank = free_bytes();
  run_up(d);
  d.launch();
  model::step_done done;
  for (const auto limit = clock_type::now() + 300ms; clock_type::now() < limit;)
    BOOST_TEST_REQUIRE(!d.backend->poll(done).value());
  const auto before = clock_type::now();
  d.backend.reset();
  const auto took = clock_type::now() - before;
  BOOST_TEST((took >= 900ms && took < 5s));
  BOOST_TEST(log.said().find("left behind") != std::string::npos, log.said());
  BOOST_TEST(free_bytes() <= with_rank + (1u << 20));  // nothing was freed under the step
  end.tell();
  BOOST_TEST(cudaDeviceSynchronize() == cudaSuccess);  // so it could end, and harmed nobody
  driver next(m, options({}));
  run_up(next);
  BOOST_TEST(next.step().at(0) == want);
}

BOOST_AUTO_TEST_CASE(a_slow_step_is_waited_for_and_frees_its_memory) {
  const auto m = tiny();
  { driver once(m, options({})); }  // what the context itself takes is taken
  told end;
  listener log;
  const std::uint64_t without_rank = free_bytes();
  driver d(m, options([&end](cudaStream_t s) { return spin(end.word(), s); }));
  const std::uint64_t of_rank = gpu::plan_rank(m, options({})).value().bytes.total();
  BOOST_TEST(of_rank > 100u << 20);
  BOOST_TEST(free_bytes() + of_rank / 2 < without_rank);
  run_up(d);
  d.launch();
  std::jthread other([&end] {
    std::this_thread::sleep_for(200ms);
    end.tell();
  });
  const auto before = clock_type::now();
  d.backend.reset();
  const auto took = clock_type::now() - before;
  BOOST_TEST((took >= 150ms && took < 900ms));
  BOOST_TEST(log.said().find("left behind") == std::string::npos, log.said());
  BOOST_TEST(free_bytes() + of_rank / 2 > without_rank);  // kernels that were loaded meanwhile may stay
}

BOOST_AUTO_TEST_CASE(a_rank_that_is_given_up_leaves_a_hanging_step) {
  told end;
  auto backend =
      gpu::make_gpu_backend(tiny(), options([&end](cudaStream_t s) { return spin(end.word(), s); }), nullptr);
  auto actor = std::make_unique<rank::rank_actor>(0, std::move(backend.value()));
  rank_outbox out;
  for (step_seq seq = 1; seq <= faulty_step; ++seq) {
    if (seq == faulty_step) out.give_up = clock_type::now() + 200ms;
    actor->on(rank::step_plan(plan_of(seq)), out);
    const auto before = clock_type::now();
    while (actor->advance(out)) BOOST_TEST_REQUIRE((clock_type::now() - before < 20s));
  }
  BOOST_TEST(out.done == std::vector<step_seq>({1, 2, 3}), boost::test_tools::per_element());
  BOOST_TEST(out.failed.empty());  // whoever gave it up knows
  BOOST_TEST(!out.busy);
  const auto before = clock_type::now();
  actor.reset();
  BOOST_TEST((clock_type::now() - before < 5s));
  end.tell();
  BOOST_TEST(cudaDeviceSynchronize() == cudaSuccess);
}

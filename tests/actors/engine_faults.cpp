// An engine that loses its rank: every stream ends, its owner is told, it can be destroyed in bounded time, and nothing
// else in the process suffers.
#include <boost/test/unit_test.hpp>
#include <atomic>
#include <future>

#include "actors/system.hpp"
#include "tests/actors/client.hpp"

using namespace troupe;
using namespace troupe::test;
using namespace std::chrono_literals;

namespace {

using clock_type = std::chrono::steady_clock;

constexpr std::uint32_t step_timeout = 2;  // seconds; steps of the tiny model take a few milliseconds
// The watchdog's word comes within one and a quarter times that; the rest is for slow machines and sanitizers.
constexpr auto noticed = 20s;

engine_options faulty(const std::string& fault) {
  engine_options o = tiny_options();
  o.inject_fault = fault;
  o.step_timeout = step_timeout;
  return o;
}

struct owner {
  explicit owner(engine& e) {
    e.on_failure([this](std::error_code code, std::string what) {
      ++calls;
      told.set_value({code, std::move(what)});
    });
  }
  std::atomic<int> calls{0};
  std::promise<std::pair<std::error_code, std::string>> told;
};

/// Four streams on an engine that will lose a rank at step 20; then what the owner sees.
void lose(const std::string& fault, const std::string& reason, std::uint32_t n_ranks = 1, std::uint32_t rank = 0) {
  engine_options options = faulty(fault);
  options.tensor_parallel_size = n_ranks;
  auto e = std::make_unique<engine>(engine::open(options));
  owner o(*e);
  {
    client c(*e);
    std::vector<answer_ptr> streams;
    for (std::uint32_t i = 0; i < 4; ++i) streams.push_back(c.submit(tokens_request(i, 5, 300)));
    BOOST_REQUIRE(c.run(noticed));
    for (const auto& s : streams) {
      BOOST_TEST((s->end.reason == finish_reason::error));
      BOOST_TEST(s->end.error == errc::rank_failed);
      BOOST_TEST(s->end.message.starts_with("rank " + std::to_string(rank) + " was lost: "), s->end.message);
      BOOST_TEST(s->end.message.find(reason) != std::string::npos, s->end.message);
      BOOST_TEST(s->tokens.size() >= 10u);
      BOOST_TEST(s->tokens.size() < 20u);
    }
    auto told = o.told.get_future();
    BOOST_REQUIRE((told.wait_for(noticed) == std::future_status::ready));
    const auto [code, what] = told.get();
    BOOST_TEST(code == errc::rank_failed);
    BOOST_TEST(what.find(reason) != std::string::npos, what);
    BOOST_TEST(e->status().failed);
    BOOST_TEST(!e->status().ready);
    BOOST_TEST(c.try_submit(tokens_request(1, 5, 5)).error == errc::rank_failed);
  }
  std::promise<void> late;  // who asks too late is told at once
  e->on_failure([&](std::error_code, std::string) { late.set_value(); });
  late.get_future().wait();
  const auto start = clock_type::now();
  e.reset();
  BOOST_TEST((clock_type::now() - start < 10s));
  BOOST_TEST(o.calls == 1);
}

}  // namespace

BOOST_AUTO_TEST_SUITE(engine_faults)

BOOST_AUTO_TEST_CASE(a_step_that_fails) { lose("step=20:fail", "step 20 failed on purpose"); }
BOOST_AUTO_TEST_CASE(memory_that_runs_out) { lose("step=20:no-memory", "out of memory"); }
BOOST_AUTO_TEST_CASE(a_device_that_hangs) { lose("step=20:hang", "no progress for 2000 ms"); }
BOOST_AUTO_TEST_CASE(a_thread_that_never_comes_back) { lose("step=20:freeze", "no progress for 2000 ms"); }

/// Whichever rank is lost, the others do not wait for it, and it is the one that is named.
BOOST_AUTO_TEST_CASE(one_rank_of_several) {
  for (std::uint32_t rank : {0u, 2u}) {
    const std::string who = "rank=" + std::to_string(rank) + ":step=20:";
    lose(who + "fail", "step 20 failed on purpose", 3, rank);
    lose(who + "no-memory", "out of memory", 3, rank);
    lose(who + "hang", "no progress for 2000 ms", 3, rank);
    lose(who + "freeze", "no progress for 2000 ms", 3, rank);
  }
}

BOOST_AUTO_TEST_CASE(an_engine_is_destroyed_while_its_rank_hangs_unnoticed) {
  for (const char* fault : {"step=3:hang", "step=3:freeze", "rank=1:step=3:hang", "rank=1:step=3:freeze"}) {
    engine_options o = faulty(fault);
    if (o.inject_fault.starts_with("rank=1")) o.tensor_parallel_size = 2;
    auto e = std::make_unique<engine>(engine::open(o));
    {
      client c(*e);
      auto a = c.submit(tokens_request(0, 5, 300));
      BOOST_REQUIRE(c.run_until([&] { return a->tokens.size() == 2; }));
    }
    const auto start = clock_type::now();
    e.reset();
    BOOST_TEST((clock_type::now() - start < noticed));
  }
}

BOOST_AUTO_TEST_CASE(a_slow_step_is_no_lost_rank) {
  engine plain = engine::open(tiny_options());
  engine slow = engine::open(faulty("step=5+:slow=20ms"));
  client a(plain), b(slow);
  const auto start = clock_type::now();
  auto late = b.ask(tokens_request(0, 5, 20));
  BOOST_TEST((clock_type::now() - start >= 16 * 20ms));
  BOOST_TEST(late->tokens == a.ask(tokens_request(0, 5, 20))->tokens, boost::test_tools::per_element());
  BOOST_TEST(!slow.status().failed);
}

BOOST_AUTO_TEST_CASE(another_engine_of_the_process_goes_on) {
  engine good = engine::open(tiny_options());
  engine bad = engine::open(faulty("step=4:freeze"));
  client a(good), b(bad);
  auto lost = b.submit(tokens_request(0, 5, 100));
  BOOST_REQUIRE(b.run(noticed));
  BOOST_TEST(lost->end.error == errc::rank_failed);
  BOOST_TEST((a.ask(tokens_request(0, 5, 100))->end.reason == finish_reason::length));
  BOOST_TEST(good.status().ready);
}

BOOST_AUTO_TEST_CASE(wrong_options_are_refused_before_the_model_is_read) {
  for (auto spoil : {+[](engine_options& o) { o.inject_fault = "step=0:fail"; },
                     +[](engine_options& o) { o.inject_fault = "rank=1:step=1:fail"; },
                     +[](engine_options& o) { o.tensor_parallel_size = 0; }, +[](engine_options& o) { o.step_timeout = 0; }}) {
    engine_options o = tiny_options();
    o.model = "/nonexistent";
    spoil(o);
    BOOST_CHECK_EXCEPTION((void)engine::open(o), error, [](const error& e) { return e.code() == errc::invalid_argument; });
  }
}

namespace {

/// A device whose thread hangs inside poll until the test lets it go.
class stuck final : public model::backend {
 public:
  stuck(std::shared_future<void> go, std::promise<void>& freed) : go_(std::move(go)), freed_(freed) {
    shape_.vocab = 100;
    shape_.max_model_len = 64;
    shape_.max_slots = 2;
    shape_.max_batched_tokens = 64;
    shape_.groups = {{0, 1, 64}};
    shape_.n_pages = {8};
  }
  ~stuck() override { freed_.set_value(); }
  const model::rank_shape& shape() const override { return shape_; }
  result<void> launch(std::shared_ptr<const model::step_plan> plan) override {
    seq_ = plan->view().seq();
    return {};
  }
  result<bool> poll(model::step_done& done) override {
    go_.wait();
    done.seq = seq_;
    return true;
  }

 private:
  std::shared_future<void> go_;
  std::promise<void>& freed_;
  model::rank_shape shape_;
  step_seq seq_ = 0;
};

}  // namespace

BOOST_AUTO_TEST_CASE(a_thread_that_comes_back_after_its_engine_has_gone_frees_its_device) {
  std::promise<void> go, freed, lost;
  auto free_again = freed.get_future();
  auto port = std::make_shared<front::port_box>(16);
  {
    actor_parts parts;
    parts.text.vocab = 100;
    parts.ranks.ranks.push_back(std::make_unique<stuck>(std::shared_future<void>(go.get_future()), freed));
    parts.step_limit = 100ms;
    parts.metrics = std::make_shared<watch::engine_metrics>(watch::engine_labels{.model_name = "stuck"});
    parts.on_rank_lost = [&](std::string) { lost.set_value(); };
    actor_system system(std::move(parts));
    auto record = std::make_shared<text::stream_record>();
    record->sched.id = 1;
    record->port = port;
    record->request.prompt = std::vector<std::int32_t>{1, 2};
    auto sender = system.text_sender(0);
    BOOST_REQUIRE(sender.try_send(text::encode_request(record)));
    lost.get_future().wait();
  }
  std::vector<front::message> got;
  port->try_receive(got, 8);
  BOOST_REQUIRE(got.size() == 1u);
  BOOST_TEST(std::get<front::stream_batch>(got[0]).events.at(0).end->error == errc::rank_failed);
  BOOST_TEST((free_again.wait_for(50ms) == std::future_status::timeout));
  go.set_value();
  BOOST_TEST((free_again.wait_for(60s) == std::future_status::ready));
}

BOOST_AUTO_TEST_SUITE_END()

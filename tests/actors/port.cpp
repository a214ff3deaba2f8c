#include "actors/front/port.hpp"

#include <boost/test/unit_test.hpp>
#include <functional>
#include <map>

using namespace troupe;

namespace {

/// An engine that only takes down what a port sends; the test reads its mailboxes.
class fake_host final : public front::port_host {
 public:
  explicit fake_host(std::uint32_t max_requests = 4, std::uint32_t n_shards = 2) : permits_(max_requests) {
    info_.vocab = 100;
    options_.stream_buffer = 8;
    options_.stall_seconds = 3;
    for (std::uint32_t i = 0; i < n_shards; ++i) text.push_back(std::make_shared<mail::mailbox<text::message>>(16));
  }
  const engine_options& options() const noexcept override { return options_; }
  const model_info& info() const noexcept override { return info_; }
  bool failed() const noexcept override { return lost; }
  mail::permits& permits() noexcept override { return permits_; }
  watch::engine_metrics& metrics() noexcept override { return metrics_; }
  front::sinks& sinks() noexcept override { return *sinks_; }
  std::uint32_t n_text_shards() const noexcept override { return static_cast<std::uint32_t>(text.size()); }
  mail::sender<text::message> text_sender(std::uint32_t shard) override { return mail::sender<text::message>(text[shard]); }
  mail::sender<sched::message> sched_sender() override { return mail::sender<sched::message>(sched); }
  request_id next_request_id() noexcept override { return ++last_; }

  /// What has come in since the last look.
  std::vector<text::stream_ptr> encoded(std::uint32_t shard) {
    std::vector<text::message> got;
    text[shard]->try_receive(got, 64);
    std::vector<text::stream_ptr> out;
    for (auto& m : got) out.push_back(std::get<text::encode_request>(m).record);
    return out;
  }
  std::vector<sched::message> told() {
    std::vector<sched::message> got;
    sched->try_receive(got, 64);
    return got;
  }

  bool lost = false;
  std::vector<std::shared_ptr<mail::mailbox<text::message>>> text;
  std::shared_ptr<mail::mailbox<sched::message>> sched = std::make_shared<mail::mailbox<sched::message>>(16);

 private:
  engine_options options_;
  model_info info_;
  mail::permits permits_;
  watch::engine_metrics metrics_{watch::engine_labels{.model_name = "fake"}};
  std::shared_ptr<front::sinks> sinks_ = std::make_shared<front::sinks>();
  request_id last_ = 0;
};

struct reader final : stream_sink {
  void on_piece(piece&& p) override {
    BOOST_TEST(ends.empty());
    text += p.text;
    if (then) then();
  }
  void on_end(completion&& c) override { ends.push_back(std::move(c)); }
  std::string text;
  std::vector<completion> ends;
  std::function<void()> then;
};

struct stage {
  explicit stage(std::uint32_t max_requests = 4) : host(std::make_shared<fake_host>(max_requests)) {
    port = std::make_unique<front::consumer_port>(host, port_waker{[](void* n) noexcept { ++*static_cast<int*>(n); }, &wakes});
  }
  static request ask() {
    request r;
    r.prompt = std::vector<std::int32_t>{1, 2, 3};
    return r;
  }
  submitted submit(request r = ask()) {
    sink = std::make_shared<reader>();
    return port->submit(std::move(r), sink);
  }
  /// As a text shard does.
  void answer(const text::stream_ptr& record, const char* text, bool end = false) {
    front::stream_event e(record->stream);
    e.has_piece = text != nullptr;
    if (text) e.piece.text = text;
    if (end) e.end.emplace().reason = finish_reason::length;
    std::vector<front::stream_event> events;
    events.push_back(std::move(e));
    mail::sender<front::message> to_port(record->port);
    to_port.send_control(front::stream_batch(std::move(events)));
  }
  text::stream_ptr only() {
    auto a = host->encoded(0), b = host->encoded(1);
    a.insert(a.end(), b.begin(), b.end());
    BOOST_REQUIRE(a.size() == 1u);
    return a[0];
  }

  int wakes = 0;
  std::shared_ptr<fake_host> host;
  std::unique_ptr<front::consumer_port> port;
  std::shared_ptr<reader> sink;
};

}  // namespace

BOOST_AUTO_TEST_SUITE(ports)

BOOST_AUTO_TEST_CASE(a_request_becomes_a_record_on_its_shard) {
  stage s;
  request r = s.ask();
  r.sampling.seed = 77;
  r.max_tokens = 5;
  r.stop_token_ids = {9};
  r.ignore_eos = true;
  r.priority = -2;
  r.deadline = std::chrono::steady_clock::time_point(std::chrono::nanoseconds(123));
  const auto accepted = s.submit(r);
  BOOST_REQUIRE(bool(accepted));
  BOOST_TEST(s.host->permits().in_use() == 1u);
  auto record = s.only();
  BOOST_TEST(record->stream == accepted.stream);
  BOOST_TEST(record->sched.id == 1u);
  BOOST_TEST(record->sched.shard == 1u);  // by the request's number
  BOOST_TEST(record->sched.seed == 77u);
  BOOST_TEST(record->sched.max_tokens.value_or(0) == 5u);
  BOOST_TEST(record->sched.stop_token_ids.at(0) == 9);
  BOOST_TEST(record->sched.ignore_eos);
  BOOST_TEST(record->sched.priority == -2);
  BOOST_TEST(record->sched.deadline == 123);
  BOOST_TEST(record->sched.credits == 8u);
  BOOST_TEST(record->sched.stall_limit == 3'000'000'000);
  BOOST_TEST(record->sched.sink == sched::no_sink);
  BOOST_TEST(std::get<std::vector<std::int32_t>>(record->request.prompt).size() == 3u);
  BOOST_TEST(bool(s.submit()));
  auto second = s.host->encoded(0);
  BOOST_REQUIRE(second.size() == 1u);
  BOOST_TEST(second[0]->sched.id == 2u);
  BOOST_TEST(s.port->open_streams() == 2u);
}

BOOST_AUTO_TEST_CASE(requests_without_a_seed_get_different_ones) {
  stage s;
  s.submit();
  const auto first = s.only()->sched.seed;
  s.submit();
  BOOST_TEST(s.only()->sched.seed != first);
}

BOOST_AUTO_TEST_CASE(what_is_refused_leaves_no_trace) {
  stage s(1);
  const auto refuse = [&](errc code, request r = stage::ask()) {
    const auto got = s.submit(std::move(r));
    BOOST_TEST(!got);
    BOOST_TEST(got.error == code);
    BOOST_TEST(!got.message.empty());
  };
  request hot = stage::ask();
  hot.sampling.temperature = -1;
  refuse(errc::invalid_argument, hot);
  BOOST_TEST(s.host->permits().in_use() == 0u);
  BOOST_REQUIRE(bool(s.submit()));
  auto record = s.only();
  refuse(errc::overloaded);
  s.host->lost = true;
  refuse(errc::rank_failed);
  s.host->lost = false;
  s.host->permits().close();
  refuse(errc::draining);
  BOOST_TEST(s.port->open_streams() == 1u);
  BOOST_TEST(s.host->encoded(0).size() + s.host->encoded(1).size() == 0u);
  BOOST_TEST(s.sink->ends.empty());
  BOOST_TEST(s.host->metrics().rejected_overloaded.value() == 1u);
  BOOST_TEST(s.host->metrics().rejected_draining.value() == 1u);
}

BOOST_AUTO_TEST_CASE(a_permit_lives_as_long_as_its_record) {
  stage s(1);
  s.submit();
  auto record = s.only();
  s.answer(record, "x", true);
  s.port->poll();
  BOOST_TEST(s.port->open_streams() == 0u);
  BOOST_TEST(s.host->permits().in_use() == 1u);  // the scheduler may still have it
  record.reset();
  BOOST_TEST(s.host->permits().in_use() == 0u);
  BOOST_TEST(bool(s.submit()));
}

BOOST_AUTO_TEST_CASE(a_shard_that_is_closed_refuses_and_gives_the_permit_back) {
  stage s;
  for (auto& box : s.host->text) box->close();
  const auto got = s.submit();
  BOOST_TEST(got.error == errc::draining);
  BOOST_TEST(s.host->permits().in_use() == 0u);
  BOOST_TEST(s.port->open_streams() == 0u);
}

BOOST_AUTO_TEST_CASE(pieces_reach_their_sink_on_poll_and_nothing_follows_the_end) {
  stage s;
  s.submit();
  auto first_sink = s.sink;
  auto first = s.only();
  s.submit();
  auto second = s.only();
  BOOST_TEST(s.wakes == 0);
  s.answer(first, "a");
  s.answer(second, "b");
  BOOST_TEST(s.wakes == 1);  // once until the next poll
  BOOST_TEST(first_sink->text.empty());
  BOOST_TEST(s.port->poll() == 2u);
  BOOST_TEST(first_sink->text == "a");
  BOOST_TEST(s.sink->text == "b");
  s.answer(first, "c", true);
  BOOST_TEST(s.wakes == 2);
  s.answer(first, "late");
  s.answer(first, nullptr, true);
  s.port->poll();
  BOOST_TEST(first_sink->text == "ac");
  BOOST_TEST(first_sink->ends.size() == 1u);
  BOOST_TEST(s.sink->ends.empty());
  BOOST_TEST(s.port->poll() == 0u);
}

BOOST_AUTO_TEST_CASE(a_cancel_sets_the_flag_and_hints_once) {
  stage s;
  const auto stream = s.submit().stream;
  auto record = s.only();
  s.port->cancel(stream);
  s.port->cancel(stream);
  s.port->cancel(stream + 1);
  BOOST_TEST(record->sched.cancelled.load());
  auto told = s.host->told();
  BOOST_REQUIRE(told.size() == 1u);
  BOOST_TEST(std::get<sched::cancel>(told[0]).id == record->sched.id);
}

BOOST_AUTO_TEST_CASE(credits_go_back_a_quarter_of_the_buffer_at_a_time) {
  stage s;
  const auto stream = s.submit().stream;
  auto record = s.only();
  s.port->consumed(stream, 1);
  BOOST_TEST(s.host->told().empty());
  s.port->consumed(stream, 1);
  s.port->consumed(stream, 5);
  auto told = s.host->told();
  BOOST_REQUIRE(told.size() == 2u);
  BOOST_TEST(std::get<sched::resume>(told[0]).n_tokens == 2u);
  BOOST_TEST(std::get<sched::resume>(told[1]).n_tokens == 5u);
  s.answer(record, nullptr, true);
  s.port->poll();
  s.port->consumed(stream, 100);
  BOOST_TEST(s.host->told().empty());
}

BOOST_AUTO_TEST_CASE(a_sink_that_throws_loses_its_own_request_only) {
  stage s;
  s.submit();
  auto bad_sink = s.sink;
  auto bad = s.only();
  bad_sink->then = [] { throw std::runtime_error("the reader is broken"); };
  s.submit();
  auto good = s.only();
  s.answer(bad, "x");
  s.answer(good, "y");
  s.port->poll();
  BOOST_TEST(s.sink->text == "y");
  BOOST_TEST(bad->sched.cancelled.load());
  BOOST_TEST(!good->sched.cancelled.load());
  BOOST_TEST(s.host->told().size() == 1u);
}

BOOST_AUTO_TEST_CASE(a_sink_may_call_back_into_its_port) {
  stage s;
  const auto stream = s.submit().stream;
  auto first_sink = s.sink;
  auto first = s.only();
  submitted inner;
  auto inner_sink = std::make_shared<reader>();
  first_sink->then = [&] {
    s.port->cancel(stream);
    inner = s.port->submit(stage::ask(), inner_sink);
  };
  s.answer(first, "x", true);
  s.port->poll();
  BOOST_TEST(bool(inner));
  BOOST_TEST(first_sink->ends.size() == 1u);
  BOOST_TEST(s.port->open_streams() == 1u);
}

BOOST_AUTO_TEST_CASE(a_logits_sink_is_registered_as_long_as_the_request_lives) {
  struct logits final : logits_sink {
    void on_logits(std::uint32_t, std::span<const float>) override {}
  };
  stage s;
  request r = s.ask();
  r.logits = std::make_shared<logits>();
  r.max_tokens = 0;
  s.submit(r);
  auto record = s.only();
  const auto number = record->sched.sink;
  BOOST_TEST(number != sched::no_sink);
  BOOST_TEST(s.host->sinks().find(number).get() == r.logits.get());
  record.reset();
  s.port.reset();
  BOOST_TEST(!s.host->sinks().find(number));
}

BOOST_AUTO_TEST_CASE(a_port_that_goes_away_cancels_what_it_has_open) {
  stage s;
  s.submit();
  auto record = s.only();
  auto sink = s.sink;
  s.port.reset();
  BOOST_TEST(record->sched.cancelled.load());
  BOOST_TEST(s.host->told().size() == 1u);
  s.answer(record, "x", true);  // the shard's answer meets a closed mailbox
  BOOST_TEST(s.wakes == 0);
  BOOST_TEST(sink->text.empty());
  BOOST_TEST(sink->ends.empty());
}

BOOST_AUTO_TEST_SUITE_END()

#include "actors/text/actor.hpp"

#include <boost/test/unit_test.hpp>
#include <map>

using namespace troupe;
using namespace std::chrono_literals;

namespace {

const text::text_model& tiny_model() {
  static const text::text_model model = [] {
    text::text_model m;
    auto opened = text::open_tokenizer(std::string(TROUPE_TEST_DATA) + "/model/llama-bias/model-bf16.gguf").value();
    m.tokenizer = opened.tokens;
    m.chat = opened.chat;
    m.vocab = 448;
    return m;
  }();
  return model;
}

struct recorder final : text::outbox {
  std::vector<sched::submit> submitted;
  std::vector<sched::finish> finished;
  std::vector<std::pair<front::port_ptr, front::stream_batch>> batches;
  std::vector<front::port_ptr> forgotten;

  void send(sched::submit&& m) override { submitted.push_back(std::move(m)); }
  void send(sched::finish&& m) override { finished.push_back(m); }
  void send(const front::port_ptr& p, front::stream_batch&& m) override { batches.emplace_back(p, std::move(m)); }
  void forget(const front::port_ptr& p) override { forgotten.push_back(p); }
};

/// What a stream's reader has got.
struct heard {
  std::string text;
  std::vector<token_id> tokens;
  std::optional<completion> end;
};

struct stage {
  explicit stage(text::text_model m = tiny_model())
      : metrics(std::make_shared<watch::engine_metrics>(watch::engine_labels{.model_name = "tiny"})),
        actor(std::move(m), metrics, [this] { return now; }) {}

  text::stream_ptr record(request r, const front::port_ptr& port) {
    auto s = std::make_shared<text::stream_record>();
    s->sched.id = ++last;
    s->stream = 100 + last;
    s->port = port;
    s->arrived = now;
    s->sched.max_tokens = r.max_tokens;
    s->request = std::move(r);
    return s;
  }
  text::stream_ptr encode(request r, const front::port_ptr& port) {
    auto s = record(std::move(r), port);
    actor.on(text::encode_request(s), out);
    return s;
  }
  text::stream_ptr encode(request r) { return encode(std::move(r), port); }

  static sched::token_event token(const text::stream_ptr& s, token_id id, finish_reason reason = finish_reason::none) {
    sched::token_event e;
    e.id = s->sched.id;
    e.token = id;
    e.reason = reason;
    return e;
  }
  void tokens(std::vector<sched::token_event> events) {
    actor.on(sched::token_batch(std::move(events)), out);
    settle();
  }
  /// Lets the actor settle and plays its batches to the readers.
  void settle() {
    actor.settle(out);
    for (auto& [port, batch] : out.batches)
      for (auto& e : batch.events) {
        heard& h = readers[e.stream];
        BOOST_TEST(!h.end.has_value());  // nothing follows the end
        if (e.has_piece) {
          h.text += e.piece.text;
          h.tokens.insert(h.tokens.end(), e.piece.tokens.begin(), e.piece.tokens.end());
        }
        if (e.end) h.end = std::move(e.end);
      }
    n_batches += out.batches.size();
    out.batches.clear();
  }
  const heard& reader(const text::stream_ptr& s) { return readers[s->stream]; }

  std::chrono::steady_clock::time_point now{1s};
  std::shared_ptr<watch::engine_metrics> metrics;
  front::port_ptr port = std::make_shared<front::port_box>(16);
  recorder out;
  text::text_actor actor;
  std::map<stream_id, heard> readers;
  std::size_t n_batches = 0;
  request_id last = 0;
};

request saying(std::string text) {
  request r;
  r.prompt = text_prompt{std::move(text)};
  return r;
}

std::vector<token_id> ids_of(std::string_view text) { return tiny_model().tokenizer->encode(text, {false, false}).value(); }

}  // namespace

BOOST_AUTO_TEST_SUITE(text_actor)

BOOST_AUTO_TEST_CASE(a_prompt_is_encoded_and_submitted_with_its_record) {
  stage s;
  auto r = s.encode(saying("Hello"));
  BOOST_REQUIRE(s.out.submitted.size() == 1u);
  BOOST_TEST(s.out.submitted[0].request.get() == &r->sched);
  std::vector<token_id> want = ids_of("Hello");
  want.insert(want.begin(), tiny_model().tokenizer->bos());
  BOOST_TEST(r->sched.prompt == want, boost::test_tools::per_element());
  BOOST_TEST(std::get<std::vector<token_id>>(r->request.prompt).empty());  // its text is not kept
  s.settle();
  BOOST_TEST(s.n_batches == 0u);
  BOOST_TEST(s.actor.n_streams() == 1u);
}

BOOST_AUTO_TEST_CASE(a_chat_is_rendered_with_the_model_s_template) {
  stage s;
  request r;
  chat_prompt chat;
  chat.messages = {{"user", "Hi", ""}};
  r.prompt = chat;
  auto record = s.encode(r);
  const std::string rendered = text::render_chat(tiny_model(), chat).value();
  BOOST_TEST(record->sched.prompt == tiny_model().tokenizer->encode(rendered, {false, true}).value(), boost::test_tools::per_element());
}

BOOST_AUTO_TEST_CASE(tokens_become_text_in_one_batch_per_port_and_turn) {
  stage s;
  const front::port_ptr other = std::make_shared<front::port_box>(16);
  auto a = s.encode(saying("a")), b = s.encode(saying("b")), c = s.encode(saying("c"), other);
  const auto word = ids_of("Hello, world");
  BOOST_REQUIRE(word.size() >= 2u);
  for (token_id t : word) {
    s.n_batches = 0;
    s.tokens({s.token(a, t), s.token(b, t), s.token(c, t)});
    BOOST_TEST(s.n_batches == 2u);
  }
  for (auto& r : {a, b, c}) s.tokens({s.token(r, word[0], finish_reason::length)});
  for (auto& r : {a, b, c}) {
    const heard& h = s.reader(r);
    BOOST_TEST(h.text == "Hello, world" + tiny_model().tokenizer->decode(std::vector<token_id>{word[0]}, true));
    BOOST_REQUIRE(h.end.has_value());
    BOOST_TEST((h.end->reason == finish_reason::length));
    BOOST_TEST(!h.end->error);
    BOOST_TEST(h.end->usage.completion_tokens == word.size() + 1);
    BOOST_TEST(h.end->usage.prompt_tokens == r->sched.prompt.size());
    BOOST_TEST(h.tokens.size() == word.size() + 1);
  }
  BOOST_TEST(s.actor.n_streams() == 0u);
  BOOST_TEST(s.out.forgotten.size() == 2u);
}

BOOST_AUTO_TEST_CASE(an_end_of_text_token_counts_and_is_no_text) {
  stage s;
  auto r = s.encode(saying("a"));
  s.tokens({s.token(r, ids_of("x")[0]), s.token(r, 2, finish_reason::stop)});
  BOOST_TEST(s.reader(r).text == "x");
  BOOST_TEST(s.reader(r).tokens.size() == 1u);
  BOOST_TEST(s.reader(r).end->usage.completion_tokens == 2u);
  BOOST_TEST((s.reader(r).end->reason == finish_reason::stop));
  BOOST_TEST(!s.reader(r).end->stop_match.has_value());
}

BOOST_AUTO_TEST_CASE(a_character_cut_into_bytes_waits_for_its_last_and_is_replaced_at_the_end) {
  stage s;
  auto whole = s.encode(saying("a")), cut = s.encode(saying("b"));
  const auto bytes = ids_of("\xF0\x9F\x99\x82");  // a smiley, which the tiny vocabulary has in bytes only
  BOOST_REQUIRE(bytes.size() == 4u);
  for (int i = 0; i < 3; ++i) {
    s.tokens({s.token(whole, bytes[i]), s.token(cut, bytes[i])});
    BOOST_TEST(s.reader(whole).text.empty());
    BOOST_TEST(s.reader(whole).tokens.size() == static_cast<std::size_t>(i + 1));
  }
  s.tokens({s.token(whole, bytes[3], finish_reason::length), s.token(cut, -1, finish_reason::stop)});
  BOOST_TEST(s.reader(whole).text == "\xF0\x9F\x99\x82");
  BOOST_TEST(s.reader(cut).text.find("\xEF\xBF\xBD") == 0u);
}

BOOST_AUTO_TEST_CASE(a_stop_string_ends_the_stream_before_the_scheduler_knows) {
  stage s;
  request q = saying("a");
  q.stop = {"nothing", "END"};
  auto r = s.encode(q);
  std::vector<sched::token_event> events;
  for (token_id t : ids_of("before EN")) events.push_back(s.token(r, t));
  s.tokens(std::move(events));
  BOOST_TEST(s.reader(r).text == "before ");  // EN may be the start
  BOOST_TEST(s.out.finished.empty());
  s.tokens({s.token(r, ids_of("D")[0])});
  const heard& h = s.reader(r);
  BOOST_TEST(h.text == "before ");
  BOOST_REQUIRE(h.end.has_value());
  BOOST_TEST((h.end->reason == finish_reason::stop));
  BOOST_TEST(h.end->stop_match.value_or("") == "END");
  BOOST_REQUIRE(s.out.finished.size() == 1u);
  BOOST_TEST(s.out.finished[0].id == r->sched.id);
  BOOST_TEST(s.out.finished[0].n_tokens == h.end->usage.completion_tokens);
  // What the ranks drew meanwhile is waste, and the scheduler's own last word closes the books.
  BOOST_TEST(s.actor.n_streams() == 1u);
  s.tokens({s.token(r, ids_of("x")[0])});
  s.tokens({s.token(r, -1, finish_reason::stop)});
  BOOST_TEST(s.reader(r).text == "before ");
  BOOST_TEST(s.actor.n_streams() == 0u);
  BOOST_TEST(s.out.forgotten.size() == 1u);
}

BOOST_AUTO_TEST_CASE(a_stop_string_may_be_kept_and_what_only_began_one_is_text) {
  stage s;
  request q = saying("a");
  q.stop = {"END"};
  q.include_stop_in_output = true;
  auto kept = s.encode(q), begun = s.encode(q);
  std::vector<sched::token_event> events;
  for (token_id t : ids_of("x END")) events.push_back(s.token(kept, t));
  for (token_id t : ids_of("x EN")) events.push_back(s.token(begun, t));
  events.push_back(s.token(begun, -1, finish_reason::length));
  s.tokens(std::move(events));
  BOOST_TEST(s.reader(kept).text == "x END");
  BOOST_TEST(s.reader(begun).text == "x EN");
  BOOST_TEST((s.reader(begun).end->reason == finish_reason::length));
}

BOOST_AUTO_TEST_CASE(what_cannot_be_encoded_is_refused_without_the_scheduler) {
  stage s;
  request ids, empty;
  ids.prompt = std::vector<std::int32_t>{1, 448};
  empty.prompt = std::vector<std::int32_t>{};
  auto a = s.encode(ids), b = s.encode(empty);
  auto cancelled = s.record(saying("x"), s.port);
  cancelled->sched.cancelled = true;
  s.actor.on(text::encode_request(cancelled), s.out);
  s.settle();
  BOOST_TEST(s.out.submitted.empty());
  BOOST_TEST(s.reader(a).end->error == errc::invalid_argument);
  BOOST_TEST(s.reader(a).end->message.find("448 at position 1") != std::string::npos);
  BOOST_TEST(s.reader(b).end->error == errc::invalid_argument);
  BOOST_TEST(s.reader(cancelled).end->error == errc::cancelled);
  BOOST_TEST((s.reader(cancelled).end->reason == finish_reason::cancelled));
  BOOST_TEST(s.actor.n_streams() == 0u);
  BOOST_TEST(s.out.forgotten.size() == 1u);
}

BOOST_AUTO_TEST_CASE(without_a_tokenizer_ids_work_and_text_says_why_not) {
  text::text_model bare;
  bare.vocab = 448;
  stage s(bare);
  auto text = s.encode(saying("x"));
  request q;
  q.prompt = std::vector<std::int32_t>{5, 6};
  auto ids = s.encode(q);
  s.tokens({s.token(ids, 9), s.token(ids, 10, finish_reason::length)});
  BOOST_TEST(s.reader(text).end->error == errc::unsupported);
  BOOST_TEST(s.reader(ids).text.empty());
  BOOST_TEST(s.reader(ids).tokens == (std::vector<token_id>{9, 10}), boost::test_tools::per_element());
}

BOOST_AUTO_TEST_CASE(the_scheduler_s_error_reaches_the_reader_with_the_text_so_far) {
  stage s;
  request q = saying("a");
  q.stop = {"END"};
  auto r = s.encode(q);
  auto lost = s.token(r, -1, finish_reason::error);
  lost.code = errc::rank_failed;
  lost.message = "rank 0 was lost";
  std::vector<sched::token_event> events;
  for (token_id t : ids_of("so E")) events.push_back(s.token(r, t));
  events.push_back(lost);
  s.tokens(std::move(events));
  BOOST_TEST(s.reader(r).text == "so E");
  BOOST_TEST((s.reader(r).end->reason == finish_reason::error));
  BOOST_TEST(s.reader(r).end->error == errc::rank_failed);
  BOOST_TEST(s.reader(r).end->message == "rank 0 was lost");
}

BOOST_AUTO_TEST_CASE(an_exception_costs_the_request_that_was_being_encoded_and_no_other) {
  stage s;
  auto running = s.encode(saying("a"));
  auto r = s.record(saying("b"), s.port);
  text::message m = text::encode_request(r);
  s.actor.failed(m, std::make_exception_ptr(std::runtime_error("a fault")), s.out);
  text::message tokens = sched::token_batch({s.token(running, 9)});
  s.actor.failed(tokens, std::make_exception_ptr(std::runtime_error("another")), s.out);
  s.settle();
  BOOST_TEST(s.reader(r).end->error == errc::internal);
  BOOST_TEST(s.reader(r).end->message.find("a fault") != std::string::npos);
  BOOST_TEST(!s.reader(running).end.has_value());
  s.tokens({s.token(running, ids_of("x")[0], finish_reason::length)});
  BOOST_TEST(s.reader(running).text == "x");
  BOOST_TEST(s.actor.n_streams() == 0u);
}

BOOST_AUTO_TEST_CASE(times_count_from_arrival) {
  stage s;
  auto r = s.record(saying("a"), s.port);
  s.now += 10ms;
  s.actor.on(text::encode_request(r), s.out);
  s.now += 20ms;
  auto first = s.token(r, ids_of("x")[0]);
  s.tokens({first});
  s.now += 30ms;
  auto last = s.token(r, ids_of("x")[0], finish_reason::length);
  last.admitted = std::chrono::nanoseconds((s.now - 45ms).time_since_epoch()).count();
  last.n_cached = 1;
  s.tokens({last});
  const auto& t = s.reader(r).end->timings;
  BOOST_TEST(t.encoded == 0.010, boost::test_tools::tolerance(1e-6));
  BOOST_TEST(t.admitted == 0.015, boost::test_tools::tolerance(1e-6));
  BOOST_TEST(t.first_token == 0.030, boost::test_tools::tolerance(1e-6));
  BOOST_TEST(t.finished == 0.060, boost::test_tools::tolerance(1e-6));
  BOOST_TEST(s.reader(r).end->usage.cached_tokens == 1u);
}

BOOST_AUTO_TEST_SUITE_END()

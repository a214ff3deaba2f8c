#include <sys/socket.h>

#include <boost/test/unit_test.hpp>
#include <cstring>
#include <future>
#include <thread>

#include "src/link/child.hpp"
#include "src/link/handshake.hpp"
#include "src/link/remote_backend.hpp"

using namespace troupe;
using namespace troupe::link;
using namespace std::chrono_literals;

namespace {

time_point in(std::chrono::milliseconds time) { return std::chrono::steady_clock::now() + time; }

struct both_ends {
  std::shared_ptr<channel> rank0, rank;
};
both_ends connected() {
  auto pair = socket_pair().value();
  return {std::make_shared<channel>(std::move(pair.first), "rank 1"),
          std::make_shared<channel>(std::move(pair.second), "rank 0")};
}

struct meeting {
  result<introduced> rank0;
  result<hello> rank;
};
meeting meet(const std::string& secret_of_rank0, const std::string& secret_of_rank) {
  both_ends ends = connected();
  auto rank = std::async(std::launch::async, [&] { return greet(*ends.rank, secret_of_rank, 1, in(10s)); });
  auto who = introduce(*ends.rank0, secret_of_rank0, in(10s));
  if (who) {
    hello h;
    h.proof = who->proof;
    h.rank = 1, h.size = 2;
    h.options.model = "m.gguf";
    (void)ends.rank0->send(kind::hello, encode(h), in(1s)).ok();
  }
  return {std::move(who), rank.get()};
}

bool says(const failure& f, const char* words) { return f.message.find(words) != std::string::npos; }

std::shared_ptr<const model::step_plan> plan_of(step_seq seq, std::size_t n_tokens = 1) {
  model::plan_builder b;
  b.tokens.assign(n_tokens, 5);
  model::plan_row r{};
  r.n_tokens = static_cast<std::uint32_t>(n_tokens);
  b.rows = {r};
  return b.build(seq);
}

std::unique_ptr<model::backend> remote(const both_ends& ends, std::uint32_t depth = 1, std::string why = {}) {
  model::rank_shape shape;
  shape.depth = depth;
  return make_remote_backend(ends.rank0, shape, [why] { return why; });
}

result<bool> poll_until_it_says(model::backend& b, model::step_done& done) {
  for (const auto limit = in(10s); std::chrono::steady_clock::now() < limit;)
    if (auto r = b.poll(done); !r || *r) return r;
  return false;
}

void answer(const both_ends& ends, step_seq seq) {
  model::step_done done;
  done.seq = seq;
  done.rows = {{3, 7, 0, 0.0f}};
  ends.rank->send(kind::done, encode(done), in(5s)).value();
}

}  // namespace

BOOST_AUTO_TEST_CASE(the_right_secret_opens) {
  const meeting m = meet("a long secret", "a long secret");
  BOOST_TEST_REQUIRE(m.rank0.ok());
  BOOST_TEST(m.rank0->rank == 1u);
  BOOST_TEST_REQUIRE(m.rank.ok());
  BOOST_TEST(m.rank->options.model == "m.gguf");
}

BOOST_AUTO_TEST_CASE(a_wrong_secret_is_told_on_both_sides) {
  const meeting m = meet("a long secret", "a long secre7");
  BOOST_TEST_REQUIRE(!m.rank0.ok());
  BOOST_TEST(says(m.rank0.error(), "rank 1 was turned away: the rank does not know the secret"));
  BOOST_TEST_REQUIRE(!m.rank.ok());
  BOOST_TEST(says(m.rank.error(), "rank 0: the rank does not know the secret"));
}

BOOST_AUTO_TEST_CASE(an_impostor_at_rank_0_s_address_is_found_out) {
  both_ends ends = connected();
  auto rank = std::async(std::launch::async, [&] { return greet(*ends.rank, "a long secret", 1, in(10s)); });
  ends.rank0->send(kind::challenge, encode(challenge{protocol_version, program_version(), {}}), in(1s)).value();
  (void)ends.rank0->expect<greeting>(kind::greeting, in(5s)).value();
  hello h;
  h.rank = 1, h.size = 2;
  ends.rank0->send(kind::hello, encode(h), in(1s)).value();
  const auto got = rank.get();
  BOOST_TEST_REQUIRE(!got.ok());
  BOOST_TEST(says(got.error(), "does not know the secret"));
}

BOOST_AUTO_TEST_CASE(another_version_is_told_on_both_sides) {
  for (const bool protocol : {true, false}) {
    both_ends ends = connected();
    auto rank0 = std::async(std::launch::async, [&] { return introduce(*ends.rank0, "s", in(10s)); });
    const auto c = ends.rank->expect<challenge>(kind::challenge, in(5s)).value();
    greeting g;
    g.program = "0.0.7";
    g.rank = 1;
    g.proof = proof_of_rank("s", c.fresh, g.fresh, 1);
    if (protocol) g.protocol = 77;
    ends.rank->send(kind::greeting, encode(g), in(1s)).value();
    const char* const theirs = protocol ? "protocol 77" : "Troupe 0.0.7";
    const auto said = ends.rank->expect<hello>(kind::hello, in(5s));
    BOOST_TEST_REQUIRE(!said.ok());
    BOOST_TEST(says(said.error(), theirs), said.error().message);
    const auto got = rank0.get();
    BOOST_TEST_REQUIRE(!got.ok());
    BOOST_TEST(says(got.error(), theirs), got.error().message);
  }
  // The other way round.
  both_ends ends = connected();
  auto rank = std::async(std::launch::async, [&] { return greet(*ends.rank, "s", 1, in(10s)); });
  ends.rank0->send(kind::challenge, encode(challenge{78, "9.9", {}}), in(1s)).value();
  BOOST_TEST(ends.rank0->receive(in(5s)).value().bytes.size() > 8u);  // its own version, for rank 0's message
  const auto got = rank.get();
  BOOST_TEST_REQUIRE(!got.ok());
  BOOST_TEST(says(got.error(), "protocol 78"), got.error().message);
}

BOOST_AUTO_TEST_CASE(strangers_are_turned_away_in_time) {
  for (const std::string_view text :
       {"GET / HTTP/1.1\r\nHost: x\r\n\r\n", "", "\x10\0\0\0\x02\0\0\0aaaaaaaabbbbbbbb"}) {
    both_ends ends = connected();
    ::send(ends.rank->fd(), text.data(), text.size(), MSG_NOSIGNAL);
    const auto before = std::chrono::steady_clock::now();
    BOOST_TEST(!introduce(*ends.rank0, "s", in(200ms)).ok());
    BOOST_TEST((std::chrono::steady_clock::now() - before < 5s));
  }
  both_ends ends = connected();
  ends.rank->cut();
  BOOST_TEST(!introduce(*ends.rank0, "s", in(10s)).ok());
}

BOOST_AUTO_TEST_CASE(plans_go_out_and_answers_come_back) {
  both_ends ends = connected();
  auto backend = remote(ends, 2);
  BOOST_TEST(backend->shape().depth == 2u);
  backend->launch(plan_of(1)).value();
  backend->launch(plan_of(2, 1000)).value();
  model::step_done done;
  BOOST_TEST(!backend->poll(done).value());
  for (step_seq seq : {1, 2}) {
    const frame f = ends.rank->receive(in(5s)).value();
    BOOST_TEST((f.kind == kind::plan));
    BOOST_TEST(model::step_plan_view::parse(f.bytes).value().seq() == seq);
    answer(ends, seq);
    BOOST_TEST(poll_until_it_says(*backend, done).value());
    BOOST_TEST(done.seq == seq);
    BOOST_TEST(done.rows.at(0).token == 7);
  }
}

BOOST_AUTO_TEST_CASE(a_rank_that_takes_nothing_does_not_block) {
  both_ends ends = connected();
  auto backend = remote(ends, 64);
  const auto before = std::chrono::steady_clock::now();
  for (step_seq seq = 1; seq <= 64; ++seq) backend->launch(plan_of(seq, 50'000)).value();  // 12.8 MB
  model::step_done done;
  BOOST_TEST(!backend->poll(done).value());
  BOOST_TEST((std::chrono::steady_clock::now() - before < 5s));
  // What was kept goes out as the other side takes it.
  auto reader = std::async(std::launch::async, [&] {
    for (step_seq seq = 1; seq <= 64; ++seq)
      if (model::step_plan_view::parse(ends.rank->receive(in(10s)).value().bytes).value().seq() != seq) return false;
    answer(ends, 1);
    return true;
  });
  BOOST_TEST(poll_until_it_says(*backend, done).value());
  BOOST_TEST(reader.get());
}

BOOST_AUTO_TEST_CASE(a_closed_connection_is_a_failure_that_names_the_rank) {
  both_ends ends = connected();
  auto backend = remote(ends);
  backend->launch(plan_of(1)).value();
  ends.rank->cut();
  model::step_done done;
  const auto r = poll_until_it_says(*backend, done);
  BOOST_TEST_REQUIRE(!r.ok());
  BOOST_TEST((r.error().code == make_error_code(errc::rank_failed)));
  BOOST_TEST(r.error().message == "rank 1: the connection closed");
  const auto again = remote(ends, 1, "was killed by signal 9")->launch(plan_of(1));
  BOOST_TEST_REQUIRE(!again.ok());
  BOOST_TEST(again.error().message == "rank 1: was killed by signal 9");
}

BOOST_AUTO_TEST_CASE(what_a_rank_says_wrong_is_a_failure) {
  const auto after = [](auto say) {
    both_ends ends = connected();
    auto backend = remote(ends);
    backend->launch(plan_of(1)).value();
    say(ends);
    model::step_done done;
    const auto r = poll_until_it_says(*backend, done);
    return r ? std::string("nothing") : r.error().message;
  };
  BOOST_TEST(after([](auto& e) { answer(e, 2); }) == "rank 1: answered plan 2 where plan 1 was due");
  BOOST_TEST(after([](auto& e) { e.rank->send(kind::failed, encode(failed{"the card fell off"}), in(1s)).value(); }) ==
             "rank 1: the card fell off");
  BOOST_TEST(after([](auto& e) { e.rank->send(kind::plan, {}, in(1s)).value(); }) ==
             "rank 1: sent something else than the answer to a plan");
  BOOST_TEST(after([](auto& e) { e.rank->send(kind::done, {}, in(1s)).value(); }) ==
             "rank 1: a message of the link is malformed");
  BOOST_TEST(after([](auto& e) { ::send(e.rank->fd(), "GET / HTTP/1.1\r\n", 16, 0); }) ==
             "rank 1: sent what is no frame of a link");
}

BOOST_AUTO_TEST_CASE(over_tcp) {
  const listener l = listen_at({"127.0.0.1", 0}).value();
  BOOST_TEST(l.at.port != 0);
  BOOST_TEST(!accept_from(l, in(20ms)).value().fd);
  auto client = connect_to(l.at, in(5s)).value();
  auto server = accept_from(l, in(5s)).value();
  BOOST_TEST(server.from.host == "127.0.0.1");
  BOOST_TEST(to_string(local_end(client.get())) == to_string(server.from));
  BOOST_TEST(to_string(far_end(client.get())) == to_string(l.at));
  channel a(std::move(client), "a"), b(std::move(server.fd), "b");
  a.send(kind::stop, {}, in(1s)).value();
  BOOST_TEST((b.receive(in(5s)).value().kind == kind::stop));
  const auto nobody = connect_to({"127.0.0.1", 1}, in(300ms));
  BOOST_TEST(!nobody.ok());
  BOOST_TEST(!listen_at(l.at).ok());
}

BOOST_AUTO_TEST_CASE(children) {
  const auto ended = [](pid_t pid) {
    for (const auto limit = in(10s); std::chrono::steady_clock::now() < limit; std::this_thread::sleep_for(5ms))
      if (auto end = end_of(pid)) return *end;
    return std::string("runs on");
  };
  BOOST_TEST(ended(start_child("/bin/sh", {"-c", "exit 7"}, {}).value()) == "ended with exit code 7");
  BOOST_TEST(ended(start_child("/bin/sh", {"-c", "kill -9 $$"}, {}).value()) == "was killed by signal 9 (Killed)");
  BOOST_TEST(!start_child("/no/such/program", {}, {}).ok());

  // It gets what it is given, under the numbers promised, and nothing else.
  auto first = socket_pair().value(), second = socket_pair().value();
  const auto pid = start_child("/bin/sh", {"-c", "echo one >&3; echo two >&4; ls /proc/self/fd | wc -w >&3"},
                               {second.second.get(), first.second.get()})
                       .value();
  BOOST_TEST(ended(pid) == "ended with exit code 0");
  char text[64] = {};
  BOOST_TEST(::recv(second.first.get(), text, sizeof text, 0) > 0);
  BOOST_TEST(std::string(text) == "one\n6\n");  // 0 to 4 and the one that ls reads the folder by
  std::memset(text, 0, sizeof text);
  BOOST_TEST(::recv(first.first.get(), text, sizeof text, 0) == 4);
  BOOST_TEST(std::string(text) == "two\n");
}

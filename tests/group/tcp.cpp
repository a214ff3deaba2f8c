#include "src/group/tcp_group.hpp"

#include <arpa/inet.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <boost/test/unit_test.hpp>

#include "tests/group/exercise.hpp"

using namespace troupe;
using namespace troupe::test;
using namespace std::chrono_literals;

namespace {

struct meeting_place {
  explicit meeting_place(std::uint32_t size) {
    for (std::uint32_t r = 0; r < size; ++r) {
      listeners.push_back(group::listen_tcp_group("127.0.0.1").value());
      addresses.push_back(listeners.back().address());
    }
  }
  result<std::shared_ptr<collective>> join(std::uint32_t rank, const group::group_options& o,
                                           const std::string& secret = "s3cret") {
    return group::join_tcp_group({rank, static_cast<std::uint32_t>(addresses.size())}, addresses,
                                 std::move(listeners[rank]), secret, o);
  }
  /// Each rank on its thread: joins, then f(member); what it returned.
  template <class F>
  std::vector<std::string> run(const group::group_options& o, F f) {
    std::vector<std::string> said(addresses.size());
    std::vector<std::thread> threads;
    for (std::uint32_t r = 0; r < addresses.size(); ++r)
      threads.emplace_back([&, r] {
        auto member = join(r, o);
        said[r] = member ? f(**member) : member.error().message;
      });
    for (auto& t : threads) t.join();
    return said;
  }
  std::vector<group::tcp_listener> listeners;
  std::vector<std::string> addresses;
};

/// A connection of a stranger.
int knock(const std::string& address) {
  sockaddr_in to{};
  to.sin_family = AF_INET;
  to.sin_port = htons(static_cast<std::uint16_t>(std::stoi(address.substr(address.rfind(':') + 1))));
  to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  const int fd = socket(AF_INET, SOCK_STREAM, 0);
  BOOST_TEST_REQUIRE(connect(fd, reinterpret_cast<sockaddr*>(&to), sizeof to) == 0);
  return fd;
}

}  // namespace

BOOST_AUTO_TEST_CASE(ranks_over_tcp_share_what_they_wrote) {
  for (std::uint32_t size = 1; size <= 4; ++size)
    for (std::uint64_t buffer : {64u, 1u << 20}) {
      meeting_place m(size);
      const auto said = m.run({buffer, 60s}, [&](collective& g) { return exercise(g, 50 + size, 120); });
      for (const std::string& s : said) BOOST_TEST(s == "", "of " << size << ", buffer " << buffer << ": " << s);
    }
}

BOOST_AUTO_TEST_CASE(blocks_larger_than_the_sockets_buffers_pass) {
  meeting_place m(3);
  const auto said = m.run({64u << 20, 60s}, [](collective& g) -> std::string {
    std::vector<float> x(3 * 2'000'000, 0.0f);
    const std::vector<slice> slices{{0, 2'000'000}, {2'000'000, 2'000'000}, {4'000'000, 2'000'000}};
    std::fill_n(x.begin() + slices[g.place().rank].begin, 2'000'000, static_cast<float>(1 + g.place().rank));
    if (auto ok = g.share_columns(x.data(), x.size(), 1, slices); !ok) return ok.error().message;
    for (std::size_t i = 0; i < x.size(); ++i)
      if (x[i] != static_cast<float>(1 + i / 2'000'000)) return "element " + std::to_string(i);
    return "";
  });
  for (const std::string& s : said) BOOST_TEST(s == "");
}

BOOST_AUTO_TEST_CASE(an_abort_ends_the_waits_of_all_tcp_ranks) {
  for (std::uint32_t aborts : {0u, 2u}) {
    meeting_place m(3);
    const auto said = m.run({4096, 60s}, [&](collective& g) -> std::string {
      if (auto ok = g.barrier(); !ok) return ok.error().message;
      if (g.place().rank != aborts) return must_fail(g, 20s);
      std::thread elsewhere([&] {
        std::this_thread::sleep_for(50ms);
        g.abort();
      });
      elsewhere.join();
      return must_fail(g, 1s);
    });
    for (const std::string& s : said) BOOST_TEST(s == "");
  }
}

BOOST_AUTO_TEST_CASE(an_abort_ends_its_own_rank_s_wait) {
  meeting_place m(2);
  std::shared_ptr<collective> silent;
  std::thread joins([&] { silent = m.join(1, {4096, 60s}).value(); });
  const auto g = m.join(0, {4096, 60s}).value();
  joins.join();
  std::thread elsewhere([&] {
    std::this_thread::sleep_for(50ms);
    g->abort();
  });
  BOOST_TEST(must_fail(*g, 20s) == "");
  elsewhere.join();
  (void)silent->barrier();  // to this one all had come
  BOOST_TEST(must_fail(*silent, 20s) == "");
}

BOOST_AUTO_TEST_CASE(a_tcp_rank_that_dies_or_is_silent_is_noticed) {
  for (bool dies : {true, false}) {
    meeting_place m(3);
    const pid_t child = fork();  // before this test has threads
    if (child == 0) {
      auto g = m.join(1, {4096, 60s});
      if (!g || !(*g)->barrier()) _exit(1);
      if (dies) _exit(0);
      pause();
    }
    std::vector<std::string> said(3);
    std::vector<std::thread> threads;
    for (std::uint32_t r : {0u, 2u})
      threads.emplace_back([&, r] {
        auto g = m.join(r, {4096, 500ms});
        if (!g || !(*g)->barrier())
          said[r] = "the first barrier failed";
        else
          said[r] = must_fail(**g, 20s);
      });
    for (auto& t : threads) t.join();
    for (const std::string& s : said) BOOST_TEST(s == "");
    kill(child, SIGKILL);
    waitpid(child, nullptr, 0);
  }
}

BOOST_AUTO_TEST_CASE(leaving_after_the_last_exchange_disturbs_nobody) {
  for (int round = 0; round < 50; ++round) {
    meeting_place m(4);
    const auto said = m.run({4096, 60s}, [](collective& g) -> std::string {
      int x = g.place().rank == 0 ? 42 : 0;
      auto ok = g.broadcast({reinterpret_cast<std::byte*>(&x), sizeof x});
      return ok ? (x == 42 ? "" : "not broadcast") : ok.error().message;
    });
    for (const std::string& s : said) BOOST_TEST(s == "");
  }
}

BOOST_AUTO_TEST_CASE(strangers_are_turned_away_and_hold_nobody_up) {
  meeting_place m(2);
  const std::string address = m.addresses[0];
  const int silent = knock(address), noisy = knock(address), gone = knock(address);
  const std::string noise(4096, 'x');
  (void)!write(noisy, noise.data(), noise.size());
  close(gone);
  const auto said = m.run({4096, 30s}, [](collective& g) { return exercise(g, 3, 20); });
  for (const std::string& s : said) BOOST_TEST(s == "");
  close(silent);
  close(noisy);
}

BOOST_AUTO_TEST_CASE(who_does_not_know_the_secret_does_not_get_in) {
  meeting_place m(2);
  std::string first;
  std::thread other([&] {
    auto g = m.join(0, {4096, 1s}, "right");
    first = g ? "joined" : g.error().message;
  });
  const auto second = m.join(1, {4096, 1s}, "wrong");
  other.join();
  BOOST_TEST_REQUIRE(!second.ok());
  BOOST_TEST(second.error().message.find("rank 0") != std::string::npos);
  BOOST_TEST(first == "rank 1 has not connected in time");
}

BOOST_AUTO_TEST_CASE(hosts_and_arguments_that_cannot_be_are_refused) {
  BOOST_TEST(!group::listen_tcp_group("no.such.host.invalid").ok());
  meeting_place m(2);
  BOOST_TEST(!m.join(0, {4096, 1s}, "").ok());
  meeting_place n(2);
  n.addresses[0] = "nonsense";
  BOOST_TEST(!n.join(1, {4096, 1s}).ok());
}

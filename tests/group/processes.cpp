#include <fcntl.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <boost/test/unit_test.hpp>

#include "src/group/shared_group.hpp"
#include "tests/group/exercise.hpp"

using namespace troupe;
using namespace troupe::test;
using namespace std::chrono_literals;

namespace {

/// Children that run f(rank) and leave with its text as a complaint, or with 0 where it is empty. Forked before the
/// test has threads.
template <class F>
std::vector<pid_t> start(std::uint32_t size, F f) {
  std::vector<pid_t> children;
  for (std::uint32_t rank = 0; rank < size; ++rank) {
    const pid_t pid = fork();
    if (pid == 0) {
      std::string said = f(rank);
      if (!said.empty()) (void)!write(2, (said += "\n").data(), said.size());
      _exit(said.empty() ? 0 : 1);
    }
    children.push_back(pid);
  }
  return children;
}

int wait_for(pid_t pid) {
  int status = -1;
  while (waitpid(pid, &status, 0) < 0 && errno == EINTR) {
  }
  return status;
}

std::string with(const group::shared_group& g, std::uint32_t rank, std::chrono::milliseconds limit,
                 const std::function<std::string(collective&)>& f) {
  auto member = group::join_shared_group(g.fd(), rank, limit);
  return member ? f(**member) : member.error().message;
}

}  // namespace

BOOST_AUTO_TEST_CASE(processes_share_what_they_wrote) {
  for (std::uint32_t size = 1; size <= 4; ++size)
    for (std::uint64_t buffer : {64u, 1u << 16}) {
      const auto g = group::shared_group::create(size, {buffer, 60s}).value();
      const auto children = start(size, [&](std::uint32_t rank) {
        return with(g, rank, 60s, [&](collective& m) { return exercise(m, size, 150); });
      });
      for (pid_t child : children) BOOST_TEST(wait_for(child) == 0);
    }
}

BOOST_AUTO_TEST_CASE(a_process_that_dies_is_noticed_by_the_limit) {
  const auto g = group::shared_group::create(3, {4096, 60s}).value();
  const auto children = start(3, [&](std::uint32_t rank) {
    return with(g, rank, 300ms, [&](collective& m) -> std::string {
      if (!m.barrier()) return "the first barrier failed";
      if (rank == 2) raise(SIGKILL);
      return must_fail(m, 20s);
    });
  });
  BOOST_TEST(wait_for(children[0]) == 0);
  BOOST_TEST(wait_for(children[1]) == 0);
  BOOST_TEST(WIFSIGNALED(wait_for(children[2])));
  BOOST_TEST(g.awaited().value() == 2u);
}

BOOST_AUTO_TEST_CASE(the_parent_ends_a_group_whose_rank_has_died) {
  auto g = group::shared_group::create(3, {4096, 600s}).value();
  const auto children = start(3, [&](std::uint32_t rank) {
    return with(g, rank, 600s, [&](collective& m) -> std::string {
      if (rank == 1) raise(SIGKILL);
      return must_fail(m, 60s);
    });
  });
  BOOST_TEST(WIFSIGNALED(wait_for(children[1])));
  g.abort();
  BOOST_TEST(wait_for(children[0]) == 0);
  BOOST_TEST(wait_for(children[2]) == 0);
}

BOOST_AUTO_TEST_CASE(descriptors_that_are_no_group_are_refused) {
  BOOST_TEST(!group::join_shared_group(-1, 0, 1s).ok());
  int pipe_ends[2];
  BOOST_TEST_REQUIRE(pipe(pipe_ends) == 0);
  BOOST_TEST(!group::join_shared_group(pipe_ends[0], 0, 1s).ok());
  close(pipe_ends[0]);
  close(pipe_ends[1]);
  const int file = open("/proc/self/exe", O_RDONLY);
  BOOST_TEST(!group::join_shared_group(file, 0, 1s).ok());
  close(file);
  const auto g = group::shared_group::create(2, {}).value();
  BOOST_TEST((group::join_shared_group(g.fd(), 2, 1s).error().code == errc::invalid_argument));
}

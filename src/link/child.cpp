#include "src/link/child.hpp"

#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <system_error>

#include "src/link/socket.hpp"

namespace troupe::link {
namespace {

/// posix_spawn's two descriptions of a child.
struct spawn_plan {
  posix_spawn_file_actions_t files;
  posix_spawnattr_t attributes;
  spawn_plan() {
    posix_spawn_file_actions_init(&files);
    posix_spawnattr_init(&attributes);
  }
  ~spawn_plan() {
    posix_spawn_file_actions_destroy(&files);
    posix_spawnattr_destroy(&attributes);
  }
};

}  // namespace

result<pid_t> start_child(const std::string& program, const std::vector<std::string>& arguments,
                          const std::vector<int>& fds) {
  spawn_plan plan;
  // First out of the way of the numbers that they get.
  std::vector<unique_fd> moved;
  for (int fd : fds) {
    moved.emplace_back(fcntl(fd, F_DUPFD_CLOEXEC, first_child_fd + static_cast<int>(fds.size())));
    if (!moved.back())
      return failure(errc::io_failed,
                     "a descriptor cannot be handed to a rank: " + std::generic_category().message(errno));
  }
  posix_spawn_file_actions_addopen(&plan.files, STDIN_FILENO, "/dev/null", O_RDONLY, 0);
  posix_spawn_file_actions_adddup2(&plan.files, STDERR_FILENO, STDOUT_FILENO);
  int next = first_child_fd;
  for (const unique_fd& fd : moved) posix_spawn_file_actions_adddup2(&plan.files, fd.get(), next++);
  posix_spawn_file_actions_addclosefrom_np(&plan.files, next);

  sigset_t none, all;
  sigemptyset(&none);
  sigfillset(&all);
  posix_spawnattr_setsigmask(&plan.attributes, &none);
  posix_spawnattr_setsigdefault(&plan.attributes, &all);
  posix_spawnattr_setflags(&plan.attributes, POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF);

  std::vector<char*> words{const_cast<char*>(program.c_str())};
  for (const std::string& a : arguments) words.push_back(const_cast<char*>(a.c_str()));
  words.push_back(nullptr);
  pid_t pid = 0;
  if (const int error = posix_spawn(&pid, program.c_str(), &plan.files, &plan.attributes, words.data(), environ))
    return failure(error == ENOENT ? errc::not_found : errc::io_failed,
                   program + ": cannot be started as a rank: " + std::generic_category().message(error));
  return pid;
}

std::optional<std::string> end_of(pid_t pid) {
  int status = 0;
  const pid_t ended = waitpid(pid, &status, WNOHANG);
  if (ended == 0) return std::nullopt;
  if (ended < 0) return "has ended";  // somebody else of this process has taken its status
  if (WIFSIGNALED(status))
    return "was killed by signal " + std::to_string(WTERMSIG(status)) + " (" + strsignal(WTERMSIG(status)) + ")";
  return "ended with exit code " + std::to_string(WEXITSTATUS(status));
}

}  // namespace troupe::link

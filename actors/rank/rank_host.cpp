#include "actors/rank/rank_host.hpp"

#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <future>

#include "src/base/log.hpp"
#include "src/link/child.hpp"

namespace troupe::rank {
namespace {

using clock = std::chrono::steady_clock;
using std::chrono::milliseconds;

constexpr auto greeting_limit = std::chrono::seconds(5);  // for one that has connected to say who it is
constexpr auto end_limit = milliseconds(300);             // from a child's connection closing to its end being known
constexpr auto leave_limit = std::chrono::seconds(5);     // for a rank to leave in order, its memory freed
constexpr auto given_up_limit = milliseconds(500);        // for a rank that was given up to see it and end
constexpr auto kill_limit = std::chrono::seconds(5);

/// As --log-level spells it.
std::string level_name() {
  const auto level = log().level();
  if (level == spdlog::level::warn) return "warn";
  const auto name = spdlog::level::to_string_view(level);
  return {name.data(), name.size()};
}

}  // namespace

rank_host::rank_host(const rank_host_options& o)
    : options_(o), wake_(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)), members_(o.size - 1) {
  thread_ = std::thread([this] { run(); });
}

result<std::shared_ptr<rank_host>> rank_host::start(const rank_host_options& o) {
  std::shared_ptr<rank_host> host(new rank_host(o));
  auto ok = o.rendezvous.empty() ? host->start_children() : host->await_ranks();
  if (!ok) return ok.take_error();
  return host;
}

rank_host::~rank_host() {
  finish();
  {
    std::lock_guard lock(mutex_);
    leaving_ = true;
  }
  changed_.notify_all();
  const std::uint64_t one = 1;
  (void)!write(wake_.get(), &one, sizeof one);
  thread_.join();
}

result<void> rank_host::start_children() {
  const auto deadline = clock::now() + options_.start_limit;
  const group::group_options g{.limit = options_.step_limit};
  auto shared = group::shared_group::create(options_.size, g);
  if (!shared) return shared.take_error();
  shared_.emplace(std::move(*shared));
  std::vector<link::unique_fd> their_ends;
  for (std::uint32_t r = 1; r < options_.size; ++r) {
    auto ends = link::socket_pair();
    if (!ends) return ends.take_error();
    members_[r - 1].link = std::make_shared<link::channel>(std::move(ends->first), "rank " + std::to_string(r));
    their_ends.push_back(std::move(ends->second));
  }

  std::promise<result<void>> started;
  {
    std::lock_guard lock(mutex_);
    const std::string level = level_name();
    to_spawn_ = [&, level] {
      for (std::uint32_t r = 1; r < options_.size; ++r) {
        auto pid = link::start_child(options_.program, {"rank", "--child", "--log-level", level},
                                     {their_ends[r - 1].get(), shared_->fd()});
        if (!pid) return started.set_value(pid.take_error());
        member& m = members_[r - 1];
        m.pid = *pid;
        m.where = "process " + std::to_string(*pid);
        m.link->call_far("rank " + std::to_string(r) + " (" + m.where + ")");
      }
      started.set_value({});
    };
  }
  changed_.notify_all();
  if (auto ok = started.get_future().get(); !ok) return ok;
  their_ends.clear();  // so that a child's end closes its link

  for (std::uint32_t r = 1; r < options_.size; ++r) {
    // No secret: whoever holds the descriptor is the child.
    auto who = link::introduce(*members_[r - 1].link, {}, deadline);
    if (!who) return explained(r, who.take_error());
    members_[r - 1].proof = who->proof;
  }
  return {};
}

result<void> rank_host::await_ranks() {
  const auto deadline = clock::now() + options_.start_limit;
  auto at = link::parse_address(options_.rendezvous);
  if (!at) return failure(errc::invalid_argument, "rendezvous: " + at.error().message);
  auto listener = link::listen_at(*at);
  if (!listener) return listener.take_error();
  log().info("waiting for {} ranks at {}", options_.size - 1, link::to_string(listener->at));
  std::string last;  // why somebody was turned away
  for (std::uint32_t missing = options_.size - 1; missing > 0;) {
    auto guest = link::accept_from(*listener, deadline);
    if (!guest) return guest.take_error();
    if (!guest->fd) {
      std::string who;
      for (std::uint32_t r = 1; r < options_.size; ++r)
        if (!members_[r - 1].link) who += (who.empty() ? "rank " : ", ") + std::to_string(r);
      return failure(errc::rank_failed, who + " did not come to " + link::to_string(listener->at) + " within " +
                                            std::to_string(options_.start_limit.count()) +
                                            " s: start it with troupe rank --join" +
                                            (last.empty() ? std::string() : "; the last that came: " + last));
    }
    const std::string from = link::to_string(guest->from);
    auto link = std::make_shared<link::channel>(std::move(guest->fd), from);
    auto who = link::introduce(*link, options_.secret, clock::now() + greeting_limit);
    if (who && who->rank == link::any_rank)
      for (std::uint32_t r = 1; r < options_.size && who->rank == link::any_rank; ++r)
        if (!members_[r - 1].link) who->rank = r;
    if (who && (who->rank == 0 || who->rank >= options_.size || members_[who->rank - 1].link)) {
      const bool taken = who->rank > 0 && who->rank < options_.size;
      const std::string why =
          "rank " + std::to_string(who->rank) +
          (taken ? " has come already" : " is not among the ranks 1 to " + std::to_string(options_.size - 1));
      link::refuse(*link, why);
      who = failure(errc::rank_failed, from + " was turned away: " + why);
    }
    if (!who) {
      last = who.error().message;
      log().warn("{}", last);
      continue;
    }
    member& m = members_[who->rank - 1];
    link->call_far("rank " + std::to_string(who->rank) + " (" + from + ")");
    m.where = from;
    m.link = std::move(link);
    m.proof = who->proof;
    --missing;
  }
  return {};
}

void rank_host::run() {
  pthread_setname_np(pthread_self(), "hosts");
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [&] { return to_spawn_ || lost_ || leaving_; });
  if (auto spawn = std::exchange(to_spawn_, nullptr)) {
    lock.unlock();
    spawn();
    lock.lock();
  }
  changed_.wait(lock, [&] { return lost_ || leaving_; });
  while (!leaving_) {
    std::vector<pollfd> fds = {{wake_.get(), POLLIN, 0}};
    std::vector<std::uint32_t> ranks;
    for (std::uint32_t r = 1; r < options_.size; ++r)
      if (!members_[r - 1].reported) fds.push_back({members_[r - 1].link->fd(), POLLRDHUP, 0}), ranks.push_back(r);
    lock.unlock();
    (void)::poll(fds.data(), fds.size(), -1);
    std::vector<std::uint32_t> closed;
    for (std::size_t i = 0; i < ranks.size(); ++i)
      if (fds[i + 1].revents) closed.push_back(ranks[i]);
    report_closed(closed);
    lock.lock();
  }
}

void rank_host::report_closed(const std::vector<std::uint32_t>& ranks) {
  for (std::uint32_t r : ranks) {
    failure f = explained(r, {errc::rank_failed, link_of(r).far() + ": the connection closed"});
    {
      std::lock_guard lock(mutex_);
      members_[r - 1].reported = true;
      if (aborted_ || finished_) continue;
    }
    std::lock_guard lock(call_mutex_);
    if (!quiet_) lost_(r, std::move(f.message));
  }
}

void rank_host::take_ends() const {
  for (member& m : members_)
    if (m.pid > 0)
      if (auto end = link::end_of(m.pid)) m.end = std::move(*end), m.pid = -1;
}

bool rank_host::children_ended(milliseconds limit) const {
  for (const auto deadline = clock::now() + limit;;) {
    {
      std::lock_guard lock(mutex_);
      take_ends();
      if (std::ranges::none_of(members_, [](const member& m) { return m.pid > 0; })) return true;
    }
    if (clock::now() >= deadline) return false;
    std::this_thread::sleep_for(milliseconds(2));
  }
}

std::string rank_host::why_lost(std::uint32_t rank) const {
  for (const auto deadline = clock::now() + end_limit;;) {
    {
      std::lock_guard lock(mutex_);
      take_ends();
      const member& m = members_[rank - 1];
      if (m.pid < 0 || clock::now() >= deadline) return m.end;
    }
    std::this_thread::sleep_for(milliseconds(2));
  }
}

failure rank_host::explained(std::uint32_t rank, failure f) const {
  if (!f.message.ends_with("the connection closed")) return f;
  if (const std::string why = why_lost(rank); !why.empty()) f.message = members_[rank - 1].link->far() + ": " + why;
  return f;
}

void rank_host::watch(std::function<void(std::uint32_t, std::string)> lost) {
  {
    std::lock_guard lock(mutex_);
    for (const member& m : members_) m.link->call_far(m.where);
    lost_ = std::move(lost);
  }
  changed_.notify_all();
}

void rank_host::quiet() {
  std::lock_guard lock(call_mutex_);
  quiet_ = true;
}

void rank_host::abort() noexcept {
  {
    std::lock_guard lock(mutex_);
    aborted_ = true;
  }
  if (shared_) shared_->abort();
  for (const member& m : members_)
    if (m.link) m.link->cut();
}

void rank_host::finish() noexcept {
  quiet();
  bool aborted;
  {
    std::lock_guard lock(mutex_);
    if (std::exchange(finished_, true)) return;
    aborted = aborted_ || !lost_;  // in the middle of a start there is no order to leave in
  }
  const auto deadline = clock::now() + leave_limit;
  for (const member& m : members_)
    if (m.link && *m.link && !aborted)
      (void)m.link->send(link::kind::stop, {}, clock::now() + std::chrono::seconds(1)).ok();
  for (const member& m : members_)
    if (m.link && *m.link && !aborted)
      while (m.link->receive(deadline).ok()) {
      }  // until it closes: it has read the end
  abort();
  const auto left = std::chrono::duration_cast<milliseconds>(deadline - clock::now());
  if (children_ended(aborted ? given_up_limit : std::max(left, given_up_limit))) return;
  {
    std::lock_guard lock(mutex_);
    for (const member& m : members_)
      if (m.pid > 0) {
        log().error("{} does not leave: it is killed", m.link->far());
        ::kill(m.pid, SIGKILL);
      }
  }
  (void)children_ended(kill_limit);
}

}  // namespace troupe::rank

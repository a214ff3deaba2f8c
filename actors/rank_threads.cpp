#include "actors/rank_threads.hpp"

#include <algorithm>
#include <optional>

#include "actors/rank/actor.hpp"
#include "actors/runtime/actor_cell.hpp"
#include "src/base/log.hpp"

namespace troupe {
namespace {

constexpr auto leave_limit = std::chrono::seconds(1);  // for a rank that is given up to see so between two polls

class rank_wires final : public rank::outbox {
 public:
  rank_wires(mail::sender<sched::message> to_sched, mail::sender<runtime::supervisor::message> to_supervisor,
             std::shared_ptr<runtime::watchdog> dog, std::shared_ptr<const std::atomic<bool>> given_up)
      : to_sched_(std::move(to_sched)),
        to_supervisor_(std::move(to_supervisor)),
        dog_(std::move(dog)),
        given_up_(std::move(given_up)) {}
  void send(sched::step_done&& m) override { to_sched_.send_control(std::move(m)); }
  // The scheduler hears of it from the supervisor, who knows which rank of a group was the first.
  void send(sched::rank_failed&& m) override {
    to_supervisor_.send_control(runtime::rank_failed(m.rank, errc::rank_failed, std::move(m.message)));
  }
  void step_started() override { working_.emplace(dog_->work()); }
  void step_ended() override { working_.reset(); }
  bool given_up() const override { return given_up_->load(std::memory_order_relaxed); }

 private:
  mail::sender<sched::message> to_sched_;
  mail::sender<runtime::supervisor::message> to_supervisor_;
  std::shared_ptr<runtime::watchdog> dog_;
  std::shared_ptr<const std::atomic<bool>> given_up_;
  std::optional<runtime::watchdog::working> working_;
};

/// The actor with its outbox.
class wired_rank : public rank::rank_actor {
 public:
  using rank_actor::rank_actor;
  using outbox = rank_wires;
};

using rank_cell = runtime::actor_cell<wired_rank>;

}  // namespace

struct rank_threads::member {
  std::unique_ptr<runtime::loop> loop;  // outlives the cell on it
  std::unique_ptr<rank_cell> cell;
};

rank_threads::rank_threads(model::rank_group group, std::chrono::milliseconds step_limit)
    : shape_(group.ranks.at(0)->shape()), group_(std::move(group)), step_limit_(step_limit) {
  for (std::size_t r = 0; r < group_.ranks.size(); ++r) {
    auto m = std::make_unique<member>();
    m->loop = std::make_unique<runtime::loop>(runtime::loop_options{"rank-" + std::to_string(r), {}});
    m->cell = std::make_unique<rank_cell>(*m->loop, runtime::cell_options{"rank", shape_.depth + 2});
    members_.push_back(std::move(m));
  }
}

rank_threads::~rank_threads() = default;

void rank_threads::start(const std::function<mail::sender<sched::message>()>& to_sched,
                         const std::function<mail::sender<runtime::supervisor::message>()>& to_supervisor) {
  for (std::uint32_t r = 0; r < size(); ++r) {
    auto dog = std::make_shared<runtime::watchdog>("rank " + std::to_string(r), step_limit_);
    auto supervisor = to_supervisor();
    supervisor.send_control(runtime::watch(dog, r));
    rank_cell& cell = *members_[r]->cell;
    cell.start(rank_wires(to_sched(), std::move(supervisor), std::move(dog), given_up_), r, std::move(group_.ranks[r]));
    // Between messages the rank's thread looks at the device while a step is on it.
    members_[r]->loop->poll_while([&cell] { return cell.actor().advance(cell.out()); });
  }
  if (group_.watch)
    group_.watch([to = std::make_shared<mail::sender<runtime::supervisor::message>>(to_supervisor())](std::uint32_t rank, std::string what) {
      to->send_control(runtime::rank_failed(rank, errc::rank_failed, std::move(what)));
    });
}

void rank_threads::run() {
  for (auto& m : members_) m->loop->start();
}

std::function<void(std::shared_ptr<const model::step_plan>)> rank_threads::plan_sender() {
  auto to_ranks = std::make_shared<std::vector<mail::sender<rank::message>>>();
  for (auto& m : members_) to_ranks->push_back(m->cell->make_sender());
  return [to_ranks](const std::shared_ptr<const model::step_plan>& plan) {
    for (auto& to : *to_ranks) to.send_control(rank::step_plan(plan));
  };
}

std::pair<std::uint32_t, std::string> rank_threads::give_up(const runtime::incident& i) {
  const auto awaited = group_.awaited ? group_.awaited() : std::nullopt;
  given_up_->store(true);
  if (!awaited || *awaited == i.rank) return {i.rank, i.text};
  return {*awaited, "the others wait for it, " + i.text};
}

void rank_threads::end_group() noexcept {
  if (group_.abort) group_.abort();
}

std::chrono::milliseconds rank_threads::overdue_for_sure() const { return step_limit_ * 3 / 2 + leave_limit; }

void rank_threads::stop() noexcept {
  for (auto& m : members_) m->loop->stop();
  const auto end = std::chrono::steady_clock::now() + (given_up_->load() ? leave_limit : overdue_for_sure());
  for (std::uint32_t r = 0; r < size(); ++r) {
    member& m = *members_[r];
    const auto left = end - std::chrono::steady_clock::now();
    if (!m.loop || m.loop->join_for(std::max(left, decltype(left)::zero()))) continue;
    log().critical("rank {} hangs in a step: its thread is left behind", r);
    runtime::loop::abandon(std::move(m.loop), std::shared_ptr<rank_cell>(std::move(m.cell)));
  }
  if (group_.leave) group_.leave();
}

}  // namespace troupe

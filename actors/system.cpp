// Who exists, on which thread, with which mailbox: the wiring of one engine on one page.
//
//   thread     actors               mailbox limit                       sends to
//   text-N     text shard           requests in the system              scheduler, ports
//   control    scheduler, cache     requests in the system; a few       ranks, text shards, each other
//   rank-N     rank                 plans in flight                     scheduler
//   watch      supervisor           a few                               the engine's owner
#include "actors/system.hpp"

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <mutex>

#include "actors/cache/actor.hpp"
#include "actors/rank_threads.hpp"
#include "actors/runtime/actor_cell.hpp"
#include "actors/runtime/supervisor.hpp"
#include "actors/runtime/system.hpp"
#include "actors/sched/actor.hpp"
#include "src/base/log.hpp"

namespace troupe {
namespace {

/// An actor with the outbox that this file makes for it.
template <class Actor, class Wires>
class wired : public Actor {
 public:
  using Actor::Actor;
  using outbox = Wires;
};

class text_wires final : public text::outbox {
 public:
  explicit text_wires(mail::sender<sched::message> to_sched) : to_sched_(std::move(to_sched)) {}
  // The scheduler's mailbox holds a message of each kind per admitted request, so none of these meets "full".
  void send(sched::submit&& m) override { to_sched_.send_control(std::move(m)); }
  void send(sched::finish&& m) override { to_sched_.send_control(std::move(m)); }
  void send(const front::port_ptr& port, front::stream_batch&& m) override {
    auto found = std::find_if(ports_.begin(), ports_.end(), [&](const auto& p) { return p.first == port; });
    if (found == ports_.end()) found = ports_.emplace(ports_.end(), port, mail::sender<front::message>(port));
    found->second.send_control(std::move(m));
  }
  void forget(const front::port_ptr& port) override {
    std::erase_if(ports_, [&](const auto& p) { return p.first == port; });
  }

 private:
  mail::sender<sched::message> to_sched_;
  std::vector<std::pair<front::port_ptr, mail::sender<front::message>>> ports_;
};

/// The scheduler's status where other threads can read it.
struct shared_status {
  std::atomic<std::uint64_t> running{0}, waiting{0}, pages_total{0}, pages_free{0}, steps{0};
};

/// The scheduler, telling metrics and status what it did after each turn.
class observed_scheduler : public sched::actor {
 public:
  observed_scheduler(sched::actor_options options, std::shared_ptr<shared_status> status, std::shared_ptr<watch::engine_metrics> metrics)
      : actor(std::move(options)), status_(std::move(status)), metrics_(std::move(metrics)) {
    publish();
  }
  void settle(outbox& out) {
    actor::settle(out);
    publish();
  }

 private:
  void publish() {
    const sched::scheduler_status now = core().status();
    status_->running.store(now.n_running, std::memory_order_relaxed);
    status_->waiting.store(now.n_waiting, std::memory_order_relaxed);
    status_->pages_total.store(now.n_pages, std::memory_order_relaxed);
    status_->pages_free.store(now.n_free_pages, std::memory_order_relaxed);
    status_->steps.store(now.steps, std::memory_order_release);
    auto& m = *metrics_;
    m.requests_running.set(static_cast<double>(now.n_running));
    m.requests_waiting.set(static_cast<double>(now.n_waiting));
    m.requests_parked.set(static_cast<double>(now.n_parked));
    m.kv_cache_usage.set(now.n_pages ? 1.0 - static_cast<double>(now.n_free_pages) / static_cast<double>(now.n_pages) : 0.0);
    m.kv_waste.set(now.used_page_tokens ? 1.0 - static_cast<double>(now.used_tokens) / static_cast<double>(now.used_page_tokens) : 0.0);
    m.steps.add(now.steps - last_.steps);
    m.preemptions.add(now.preemptions - last_.preemptions);
    m.recomputed_tokens.add(now.recomputed_tokens - last_.recomputed_tokens);
    m.waste_tokens.add(now.surplus_tokens - last_.surplus_tokens);
    m.prompt_tokens_cached.add(now.cached_tokens - last_.cached_tokens);
    last_ = now;
  }
  std::shared_ptr<shared_status> status_;
  std::shared_ptr<watch::engine_metrics> metrics_;
  sched::scheduler_status last_;
};

using text_cell = runtime::actor_cell<wired<text::text_actor, text_wires>>;
using sched_cell = runtime::actor_cell<observed_scheduler>;
using cache_cell = runtime::actor_cell<cache::actor>;
using supervisor_cell = runtime::actor_cell<runtime::supervisor>;

std::vector<cache::group_size> cache_groups(const model::rank_shape& shape) {
  std::vector<cache::group_size> groups;
  for (std::size_t g = 0; g < shape.groups.size(); ++g) groups.push_back({shape.n_pages[g], shape.groups[g].window});
  return groups;
}

}  // namespace

class actor_system::wiring {
 public:
  explicit wiring(actor_parts parts)
      : system_({.fold = parts.fold, .host = nullptr, .on_fault = {}}),
        status_(std::make_shared<shared_status>()),
        on_rank_lost_(std::move(parts.on_rank_lost)),
        ranks_(std::move(parts.ranks), parts.step_limit) {
    const std::uint32_t many = parts.max_requests + 64;

    // Threads, in order of start. The supervisor's is its own even when the others are folded together.
    watch_loop_ = std::make_unique<runtime::loop>(runtime::loop_options{"watch", {}});
    runtime::loop& text_loop = system_.add("text");
    runtime::loop& control_loop = system_.add("control");

    // Mailboxes.
    supervisor_ = std::make_unique<supervisor_cell>(*watch_loop_, runtime::cell_options{"supervisor", 64});
    for (std::uint32_t i = 0; i < parts.n_text_shards; ++i) {
      runtime::loop& on = i == 0 ? text_loop : system_.add("text-" + std::to_string(i));
      text_.push_back(std::make_unique<text_cell>(on, runtime::cell_options{"text", many}));
    }
    sched_ = std::make_unique<sched_cell>(control_loop, runtime::cell_options{"scheduler", many});
    cache_ = std::make_unique<cache_cell>(control_loop, runtime::cell_options{"cache", 64});

    start(std::move(parts));
    watch_loop_->start();
    system_.start();
    ranks_.run();
  }

  ~wiring() { shut(); }

  std::uint32_t n_text_shards() const { return static_cast<std::uint32_t>(text_.size()); }
  mail::sender<text::message> text_sender(std::uint32_t shard) { return text_[shard]->make_sender(); }
  mail::sender<sched::message> sched_sender() { return sched_->make_sender(); }

  system_status status() const {
    system_status s;
    s.steps = status_->steps.load(std::memory_order_acquire);
    s.running = status_->running.load(std::memory_order_relaxed);
    s.waiting = status_->waiting.load(std::memory_order_relaxed);
    s.pages_total = status_->pages_total.load(std::memory_order_relaxed);
    s.pages_free = status_->pages_free.load(std::memory_order_relaxed);
    s.failed = lost_.load(std::memory_order_acquire);
    return s;
  }

  void drain(std::chrono::steady_clock::time_point deadline, std::function<void()> done) {
    {
      std::lock_guard lock(mutex_);
      if (drained_) {
        lock_free_call(std::move(done));
        return;
      }
      if (done) waiting_.push_back(std::move(done));
    }
    const auto ns = std::chrono::duration_cast<std::chrono::nanoseconds>(deadline.time_since_epoch()).count();
    auto sender = sched_->make_sender();
    sender.send_control(sched::drain{ns});
  }

  void shut() noexcept {
    if (std::exchange(shut_, true)) return;
    drain(std::chrono::steady_clock::time_point(), {});
    {
      // A hanging step is noticed after one and a quarter limits, so one of the two comes.
      std::unique_lock lock(mutex_);
      changed_.wait_for(lock, ranks_.overdue_for_sure(), [&] { return drained_ || lost_; });
    }
    // In reverse of the way a request takes, so that everything said on the way out is still heard.
    ranks_.stop();
    system_.stop(std::chrono::minutes(5));
    watch_loop_->stop();
    watch_loop_->join();
  }

 private:
  void start(actor_parts parts) {
    supervisor_->start({[this](const runtime::incident& i) { on_incident(i); }, {}});

    for (auto& cell : text_) cell->start(text_wires(sched_->make_sender()), parts.text, parts.metrics);

    auto to_cache = std::make_shared<mail::sender<cache::message>>(cache_->make_sender());
    auto to_text = std::make_shared<std::vector<mail::sender<text::message>>>();
    for (auto& cell : text_) to_text->push_back(cell->make_sender());
    sched::outbox out;
    out.plan = ranks_.plan_sender();
    out.tokens = [to_text](std::uint32_t shard, sched::token_batch&& m) { (*to_text)[shard].send_control(std::move(m)); };
    out.publish = [to_cache](cache::prefix_publish&& m) { to_cache->send_control(std::move(m)); };
    out.give_back = [to_cache](cache::lease_return&& m) { to_cache->send_control(std::move(m)); };
    out.lookup = [to_cache](cache::prefix_lookup&& m) { to_cache->send_control(std::move(m)); };
    out.want = [to_cache](cache::lease_want&& m) { to_cache->send_control(std::move(m)); };
    out.measured = [metrics = parts.metrics](const sched::step_times& t) {
      metrics->step_seconds.observe(static_cast<double>(t.device_ns) * 1e-9);
      metrics->step_host_seconds.observe(static_cast<double>(t.plan_ns + t.launch_ns) * 1e-9);
    };
    out.drained = [this](sched::drained&&) { on_drained(); };
    out.failed = [this](sched::failed&& m) { lose("the scheduler stopped: " + m.message); };
    sched::actor_options options;
    options.shape = ranks_.shape();
    options.n_ranks = ranks_.size();
    options.policy.eos_tokens = parts.eos;
    options.policy.warm_up = parts.warm_up;
    sched_->start(std::move(out), std::move(options), status_, parts.metrics);

    auto to_sched = std::make_shared<mail::sender<sched::message>>(sched_->make_sender());
    cache::outbox cache_out;
    cache_out.granted = [to_sched](cache::lease_granted&& m) { to_sched->send_control(std::move(m)); };
    cache_out.hit = [to_sched](cache::prefix_hit&& m) { to_sched->send_control(std::move(m)); };
    cache_->start(std::move(cache_out), cache_groups(ranks_.shape()));

    ranks_.start([this] { return sched_->make_sender(); }, [this] { return supervisor_->make_sender(); });
  }

  /// On the supervisor's thread. Ranks fail in company: the first is the cause.
  void on_incident(const runtime::incident& i) {
    std::pair<std::uint32_t, std::string> cause(i.rank, i.text);
    if (i.what == runtime::incident::kind::watchdog_overdue) cause = ranks_.give_up(i);
    const bool first = mark_lost();  // so that no stream ends while the engine still calls itself ready
    if (first) {
      auto sender = sched_->make_sender();
      sender.send_control(sched::rank_failed(cause.first, cause.second));
    }
    ranks_.end_group();
    if (first && on_rank_lost_) on_rank_lost_((ranks_.size() > 1 ? "rank " + std::to_string(cause.first) + ": " : "") + cause.second);
  }

  void lose(const std::string& what) {
    if (mark_lost() && on_rank_lost_) on_rank_lost_(what);
  }

  /// False: it was lost before.
  bool mark_lost() {
    {
      std::lock_guard lock(mutex_);
      if (lost_.exchange(true)) return false;
    }
    changed_.notify_all();
    return true;
  }

  /// On the control thread.
  void on_drained() {
    std::vector<std::function<void()>> calls;
    {
      std::lock_guard lock(mutex_);
      drained_ = true;
      calls.swap(waiting_);
    }
    changed_.notify_all();
    for (auto& call : calls) call();
  }

  static void lock_free_call(std::function<void()> f) {
    if (f) f();
  }

  // Loops outlive the cells on them; the supervisor's is the last to leave.
  std::unique_ptr<runtime::loop> watch_loop_;
  runtime::system system_;
  std::shared_ptr<shared_status> status_;
  std::function<void(std::string)> on_rank_lost_;

  std::mutex mutex_;
  std::condition_variable changed_;
  std::atomic<bool> lost_{false};  ///< set before anybody is told; written under the mutex
  bool drained_ = false, shut_ = false;
  std::vector<std::function<void()>> waiting_;

  std::unique_ptr<supervisor_cell> supervisor_;
  std::vector<std::unique_ptr<text_cell>> text_;
  std::unique_ptr<sched_cell> sched_;
  std::unique_ptr<cache_cell> cache_;
  rank_threads ranks_;
};

actor_system::actor_system(actor_parts parts) : wiring_(std::make_unique<wiring>(std::move(parts))) {}
actor_system::~actor_system() = default;
std::uint32_t actor_system::n_text_shards() const noexcept { return wiring_->n_text_shards(); }
mail::sender<text::message> actor_system::text_sender(std::uint32_t shard) { return wiring_->text_sender(shard); }
mail::sender<sched::message> actor_system::sched_sender() { return wiring_->sched_sender(); }
system_status actor_system::status() const { return wiring_->status(); }
void actor_system::drain(std::chrono::steady_clock::time_point deadline, std::function<void()> done) {
  wiring_->drain(deadline, std::move(done));
}
void actor_system::shut() noexcept { wiring_->shut(); }

}  // namespace troupe

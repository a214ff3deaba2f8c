#include "actors/rank/rank_process.hpp"

#include <condition_variable>
#include <deque>
#include <mutex>
#include <thread>

#include "actors/rank/actor.hpp"
#include "actors/rank/backends.hpp"
#include "src/base/log.hpp"
#include "src/group/shared_group.hpp"
#include "src/group/tcp_group.hpp"
#include "src/link/child.hpp"
#include "src/link/handshake.hpp"
#include "src/model/locate.hpp"

namespace troupe::rank {
namespace {

using clock = std::chrono::steady_clock;

constexpr auto send_limit = std::chrono::seconds(30);  // rank 0 reads while it polls

/// What came over the link and was not executed yet; ends with `stop`.
class plan_queue {
 public:
  void push(std::shared_ptr<const model::step_plan> plan) {
    std::lock_guard lock(mutex_);
    plans_.push_back(std::move(plan));
    changed_.notify_one();
  }
  void stop() {
    std::lock_guard lock(mutex_);
    stopped_ = true;
    changed_.notify_one();
  }
  /// The next plan; null: none is there, or with `wait`: none comes any more.
  std::shared_ptr<const model::step_plan> take(bool wait) {
    std::unique_lock lock(mutex_);
    if (wait) changed_.wait(lock, [&] { return stopped_ || !plans_.empty(); });
    if (plans_.empty()) return nullptr;
    auto plan = std::move(plans_.front());
    plans_.pop_front();
    return plan;
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<std::shared_ptr<const model::step_plan>> plans_;
  bool stopped_ = false;
};

/// Where the rank's actor talks to: rank 0's process. Only rank 0 answers with tokens, the others acknowledge.
class link_outbox final : public outbox {
 public:
  explicit link_outbox(link::channel& c) : link_(c) {}
  void send(sched::step_done&& m) override {
    m.done.rows.clear();
    say(link::kind::done, link::encode(m.done));
  }
  void send(sched::rank_failed&& m) override {
    failed = m.message;
    say(link::kind::failed, link::encode(link::failed{m.message}));
  }

  std::string failed;  ///< empty: it goes on

 private:
  void say(link::kind k, const std::vector<std::byte>& bytes) {
    auto sent = link_.send(k, bytes, clock::now() + send_limit);
    if (!sent && failed.empty()) failed = sent.error().message;
  }
  link::channel& link_;
};

/// The thread that listens to rank 0 while the rank computes.
class link_reader {
 public:
  link_reader(link::channel& c, plan_queue& plans, const rank_process_options& o, std::shared_ptr<group::collective> g)
      : link_(c), plans_(plans), options_(o), group_(std::move(g)), thread_([this] { run(); }) {}
  ~link_reader() {
    leaving_.store(true);
    link_.cut();
    thread_.join();
  }

 private:
  void run() {
    for (;;) {
      auto got = link_.receive(clock::time_point::max());
      if (got && got->kind == link::kind::stop) return plans_.stop();
      failure why(errc::rank_failed, link_.far() + ": sent what is neither a plan nor the end");
      if (got && got->kind == link::kind::plan) {
        auto plan = model::step_plan_view::parse(got->bytes);
        if (plan) {
          plans_.push(std::make_shared<const model::step_plan>(std::move(got->bytes)));
          continue;
        }
        why = plan.take_error();
      } else if (!got) {
        why = got.take_error();
      }
      if (leaving_.load()) return;
      group_->abort();  // the others shall not wait for this one
      return options_.on_lost(why.message);
    }
  }

  link::channel& link_;
  plan_queue& plans_;
  const rank_process_options& options_;
  std::shared_ptr<group::collective> group_;
  std::atomic<bool> leaving_{false};
  std::thread thread_;
};

result<link::channel> open_link(const rank_process_options& o) {
  if (!o.join) return link::channel(link::unique_fd(link::first_child_fd), "rank 0");
  auto fd = link::connect_to(*o.join, clock::now() + o.start_limit);
  if (!fd) return fd.take_error();
  return link::channel(std::move(*fd), "rank 0 at " + link::to_string(*o.join));
}

/// The hello's options with what this host says about itself.
engine_options own_options(const rank_process_options& o, const link::hello& h) {
  engine_options e = h.options;
  if (!o.model.empty()) e.model = o.model;
  if (!o.device.empty())
    e.device = o.device;
  else if (const auto first = cuda_ordinal(e.device))  // rank 0's card; ranks of one host follow it
    e.device = "cuda:" + std::to_string(*first + static_cast<int>(o.join ? o.local_rank : h.rank));
  if (o.threads) e.threads = o.threads;
  e.tensor_parallel_size = h.size;
  return e;
}

result<std::shared_ptr<const model::model>> open_same_model(const engine_options& o, const link::digest& identity) {
  const bool dummy = o.load_format == "dummy";
  auto path = dummy ? result<std::string>(o.model) : model::locate_model(o.model);
  if (!path) return path.take_error();
  auto m = dummy ? model::open_dummy_model(*path) : model::open_model(*path);
  if (m && !link::equal(link::model_identity(**m), identity))
    return failure(errc::invalid_argument,
                   *path + ": is not the model that rank 0 serves: give this host the same files");
  return m;
}

/// The stages of a start that follow the hello.
class joining_rank {
 public:
  joining_rank(link::channel& c, const rank_process_options& o, const link::hello& h)
      : link_(c), options_(o), hello_(h) {}

  result<void> prepare() {
    engine_ = own_options(options_, hello_);
    auto m = open_same_model(engine_, hello_.model);
    if (!m) return m.take_error();
    model_ = std::move(*m);
    auto plan = plan_group(engine_, *model_);
    if (!plan) return plan.take_error();
    link::offer offer;
    offer.n_pages = std::move(plan->n_pages);
    if (hello_.how == link::joining::tcp) {
      auto l = group::listen_tcp_group(link::local_end(link_.fd()).host);
      if (!l) return l.take_error();
      auto at = link::parse_address(l->address());
      if (!at) return at.take_error();
      offer.group_port = at->port;
      listener_.emplace(std::move(*l));
    }
    if (auto sent = link_.send(link::kind::offer, link::encode(offer), clock::now() + send_limit); !sent) return sent;
    auto go = link_.expect<link::go>(link::kind::go, clock::now() + options_.start_limit);
    if (!go) return go.take_error();
    go_ = std::move(*go);
    return {};
  }

  result<std::shared_ptr<group::collective>> join() {
    const group::group_options g{.limit = std::chrono::seconds(engine_.step_timeout)};
    switch (hello_.how) {
      case link::joining::shared_memory: return group::join_shared_group(link::first_child_fd + 1, hello_.rank, g.limit);
      case link::joining::tcp: return group::join_tcp_group(place(), go_.addresses, std::move(*listener_), hello_.group_secret, g);
    }
    return failure(errc::rank_failed, "rank 0 names no way to join the group");
  }

  result<made_backend> load(std::shared_ptr<group::collective> g) {
    auto made = make_member(engine_, go_.n_pages, model_, nullptr, std::move(g));
    if (!made) return made;
    link::ready r{made->backend->shape(), made->device, made->arithmetic, made->threads};
    if (auto sent = link_.send(link::kind::ready, link::encode(r), clock::now() + send_limit); !sent)
      return sent.take_error();
    return made;
  }

 private:
  model::group_place place() const { return {hello_.rank, hello_.size}; }

  link::channel& link_;
  const rank_process_options& options_;
  const link::hello& hello_;
  engine_options engine_;
  std::shared_ptr<const model::model> model_;
  std::optional<group::tcp_listener> listener_;
  link::go go_;
};

result<void> execute(link::channel& c, plan_queue& plans, std::uint32_t rank, made_backend made) {
  link_outbox out(c);
  rank_actor actor(rank, std::move(made.backend));
  for (bool busy = false;;) {
    auto plan = plans.take(!busy);
    if (!plan && !busy) return {};
    if (plan) actor.on(step_plan(std::move(plan)), out);
    busy = actor.advance(out);
    if (!out.failed.empty()) return failure(errc::rank_failed, out.failed);
  }
}

/// Tells rank 0, which is waiting for this rank, too.
failure told(link::channel& c, failure f) {
  (void)c.send(link::kind::failed, link::encode(link::failed{f.message}), clock::now() + std::chrono::seconds(1)).ok();
  return f;
}

}  // namespace

result<void> run_rank(const rank_process_options& o) {
  auto opened = open_link(o);
  if (!opened) return opened.take_error();
  link::channel c = std::move(*opened);
  auto hello = link::greet(c, o.secret, o.rank, clock::now() + o.start_limit);
  if (!hello) return hello.take_error();
  c.call_far("rank 0");
  joining_rank joining(c, o, *hello);
  if (auto ok = joining.prepare(); !ok) return told(c, ok.take_error());
  auto group = joining.join();
  if (!group) return told(c, group.take_error());
  plan_queue plans;
  link_reader reader(c, plans, o, *group);  // from here on a lost connection ends the process, whatever it does
  auto made = joining.load(*group);
  if (!made) return told(c, made.take_error());
  log().info("rank {} of {}: {} ({}), {} threads", hello->rank, hello->size, made->device, made->arithmetic,
             made->threads);
  return execute(c, plans, hello->rank, std::move(*made));
}

}  // namespace troupe::rank

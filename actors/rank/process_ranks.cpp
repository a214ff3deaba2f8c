#include "actors/rank/process_ranks.hpp"

#include <algorithm>
#include <array>

#include "actors/rank/rank_host.hpp"
#include "src/base/log.hpp"
#include "src/cpu/thread_pool.hpp"
#include "src/group/tcp_group.hpp"
#include "src/link/remote_backend.hpp"

namespace troupe::rank {
namespace {

using clock = std::chrono::steady_clock;

std::string random_text() {
  std::array<std::byte, 16> bytes;
  link::fill_random(bytes);
  return link::hex(bytes);
}

/// The stages of a start, each for all ranks before the next.
class starting {
 public:
  starting(const engine_options& o, std::shared_ptr<const model::model> m, std::shared_ptr<model::sink_table> sinks)
      : options_(o), model_(std::move(m)), sinks_(std::move(sinks)), children_(o.rendezvous.empty()) {
    if (!options_.threads) options_.threads = cpu::available_processors();
    if (children_) options_.threads = std::max(1u, options_.threads / o.tensor_parallel_size);
  }

  result<made_ranks> run() {
    auto plan = plan_group(options_, *model_);
    if (!plan) return plan.take_error();
    plan_ = std::move(*plan);
    log().info("{}: {} ranks, {}", model_->path, options_.tensor_parallel_size, plan_.describe);
    if (auto ok = meet(); !ok) return ok.take_error();
    if (auto ok = agree(); !ok) return ok.take_error();
    auto own = load();
    if (!own) return own.take_error();
    made_ranks all;
    const model::rank_shape shape = own->backend->shape();
    auto abort = std::move(own->abort);
    all.kv_bytes = own->kv_bytes * host_->size();
    all.weight_bytes = own->weight_bytes * host_->size();
    take(all, std::move(*own));
    for (std::uint32_t r = 1; r < host_->size(); ++r) {
      auto made = made_elsewhere(r, shape);
      if (!made) return host_->explained(r, made.take_error());
      take(all, std::move(*made));
    }
    if (all.kv_bytes == 0) {  // planned here for all; ranks on GPUs know their own, which are alike
      for (std::size_t g = 0; g < go_.n_pages.size(); ++g) all.kv_bytes += go_.n_pages[g] * plan_.page_bytes[g];
      all.weight_bytes = plan_.weight_bytes;
    }
    all.group.abort = [host = host_, member = group_, abort = std::move(abort)] {
      member->abort();
      if (abort) abort();
      host->abort();
    };
    all.group.awaited = [member = group_] { return member->awaited(); };
    all.group.watch = [host = host_](auto lost) { host->watch(std::move(lost)); };
    all.group.leave = [host = host_] { host->finish(); };
    return all;
  }

 private:
  link::time_point deadline() const { return clock::now() + std::chrono::seconds(options_.rank_start_timeout); }

  result<void> meet() {
    rank_host_options h;
    h.size = options_.tensor_parallel_size;
    h.start_limit = std::chrono::seconds(options_.rank_start_timeout);
    h.step_limit = std::chrono::seconds(options_.step_timeout);
    h.program = options_.rank_program;
    h.rendezvous = options_.rendezvous;
    h.secret = options_.rendezvous_secret;
    auto host = rank_host::start(h);
    if (!host) return host.take_error();
    host_ = std::move(*host);

    link::hello hello;
    hello.size = host_->size();
    hello.how = children_ ? link::joining::shared_memory : link::joining::tcp;
    hello.options = options_;
    hello.options.model = model_->path;
    if (!children_) hello.options.threads = 0;  // each host has its own processors
    hello.model = link::model_identity(*model_);
    hello.group_secret = group_secret_;
    for (std::uint32_t r = 1; r < host_->size(); ++r) {
      hello.rank = r;
      hello.proof = host_->proof_for(r);
      auto sent = host_->link_of(r).send(link::kind::hello, link::encode(hello), deadline());
      if (!sent) return host_->explained(r, sent.take_error());
    }
    return {};
  }

  /// The cache's size is what the smallest rank can hold.
  result<void> agree() {
    go_.n_pages = plan_.n_pages;
    std::vector<std::uint16_t> ports(host_->size());
    std::vector<std::string> hosts(host_->size());
    for (std::uint32_t r = 1; r < host_->size(); ++r) {
      auto offer = host_->link_of(r).expect<link::offer>(link::kind::offer, deadline());
      if (offer && offer->n_pages.size() != go_.n_pages.size())
        offer = failure(errc::rank_failed, host_->link_of(r).far() + ": has other KV groups");
      if (!offer) return host_->explained(r, offer.take_error());
      for (std::size_t g = 0; g < go_.n_pages.size(); ++g) go_.n_pages[g] = std::min(go_.n_pages[g], offer->n_pages[g]);
      ports[r] = offer->group_port;
      hosts[r] = link::far_end(host_->link_of(r).fd()).host;
    }
    if (!children_) {
      // The other ranks reach this one where they reached it for the link; that may be a different address for each.
      auto l = group::listen_tcp_group(link::parse_address(options_.rendezvous).value().host);
      if (!l) return l.take_error();
      ports[0] = link::parse_address(l->address()).value().port;
      listener_.emplace(std::move(*l));
    }
    for (std::uint32_t r = 1; r < host_->size(); ++r) {
      go_.addresses.clear();
      const std::string rank0 = link::local_end(host_->link_of(r).fd()).host;
      if (!children_)
        for (std::uint32_t of = 0; of < host_->size(); ++of)
          go_.addresses.push_back(link::reachable(of, r, hosts, rank0, ports[of]));
      auto sent = host_->link_of(r).send(link::kind::go, link::encode(go_), deadline());
      if (!sent) return host_->explained(r, sent.take_error());
    }
    return {};
  }

  result<made_backend> load() {
    const group::group_options g{.limit = std::chrono::seconds(options_.step_timeout)};
    auto joined =
        children_ ? group::join_shared_group(host_->shared()->fd(), 0, g.limit)
                  : group::join_tcp_group({0, host_->size()}, go_.addresses, std::move(*listener_), group_secret_, g);
    if (!joined) return joined.take_error();
    group_ = std::move(*joined);
    return make_member(options_, go_.n_pages, model_, sinks_, group_);
  }

  result<made_backend> made_elsewhere(std::uint32_t r, const model::rank_shape& own) {
    link::channel& c = host_->link_of(r);
    auto ready = c.expect<link::ready>(link::kind::ready, deadline());
    if (!ready) return ready.take_error();
    const model::rank_shape& s = ready->shape;
    if (s.vocab != own.vocab || s.max_model_len != own.max_model_len || s.max_slots != own.max_slots ||
        s.max_batched_tokens != own.max_batched_tokens || s.depth != own.depth || s.n_pages != own.n_pages ||
        s.graph_sizes != own.graph_sizes)
      return failure(errc::rank_failed,
                     c.far() + ": has come to other sizes than rank 0: start all ranks from one build, on hosts alike");
    made_backend made;
    made.backend =
        link::make_remote_backend(host_->shared_link_of(r), s, [host = host_, r] { return host->why_lost(r); });
    made.device = ready->device;
    made.arithmetic = ready->arithmetic;
    made.threads = ready->threads;
    log().info("{}: {} ({}), {} threads", c.far(), made.device, made.arithmetic, made.threads);
    return made;
  }

  static void take(made_ranks& all, made_backend one) {
    all.group.ranks.push_back(std::move(one.backend));
    if (one.device != all.device) all.device += (all.device.empty() ? "" : ",") + one.device;
    all.arithmetic = all.arithmetic.empty() ? one.arithmetic : all.arithmetic;
    all.threads += one.threads;
  }

  engine_options options_;  ///< of rank 0; threads are its own
  std::shared_ptr<const model::model> model_;
  std::shared_ptr<model::sink_table> sinks_;
  const bool children_;
  const std::string group_secret_ = random_text();
  std::shared_ptr<rank_host> host_;
  std::optional<group::tcp_listener> listener_;
  group_plan plan_;
  link::go go_;
  std::shared_ptr<group::collective> group_;
};

}  // namespace

result<made_ranks> make_process_ranks(const engine_options& o, std::shared_ptr<const model::model> m,
                                      std::shared_ptr<model::sink_table> sinks) {
  if (o.rendezvous.empty() && o.rank_program.empty())
    return failure(errc::invalid_argument,
                   "rank_program: the engine starts ranks as processes of the troupe program: say where it is");
  return starting(o, std::move(m), std::move(sinks)).run();
}

}  // namespace troupe::rank

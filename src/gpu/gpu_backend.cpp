#include <algorithm>
#include <atomic>
#include <thread>

#include "src/base/log.hpp"
#include "src/gpu/gpu_backend_impl.hpp"

namespace troupe::gpu {

namespace g = kernels::gpu;

namespace {

constexpr auto leave_limit = std::chrono::seconds(1);
constexpr std::uint32_t polls_per_query = 64;  // the pinned word gives latency, the query gives errors

std::uint64_t ns_of(std::chrono::nanoseconds d) { return static_cast<std::uint64_t>(d.count()); }

}  // namespace

result<void> gpu_backend::take(rank_plan plan, std::shared_ptr<communicator> group,
                               std::shared_ptr<model::mask_table> masks) {
  const rank_space& at = plan.at;
  group_ = std::move(group);
  auto arena = memory::on_device(at.bytes, "the rank");
  if (!arena) return arena.take_error();
  device_ = std::move(*arena);
  std::byte* const base = device_.data();
  if (auto ok = plan.weights.load(base); !ok) return ok;
  auto decoder = gpu_decoder::make(std::move(plan.local), group_, shape_, options_, std::move(plan.weights), at.decoder,
                                   base, plan.card.n_sms);
  if (!decoder) return decoder.take_error();
  decoder_ = std::move(*decoder);
  auto admissions = slot_admissions::make(shape_, at.slots, base);
  if (!admissions) return admissions.take_error();
  admissions_ = std::make_unique<slot_admissions>(std::move(*admissions));
  inputs_ = base + at.inputs;
  results_ = reinterpret_cast<g::sample_result*>(base + at.results);
  began_ = reinterpret_cast<std::uint64_t*>(base + at.began);
  sample_scratch_ = base + at.sample_scratch;

  layout l;
  l.add_bytes(at.inputs_bytes);
  pinned_results_ = l.add<g::sample_result>(shape_.max_slots);
  pinned_seq_ = l.add<std::uint64_t>(3);  // the number, and the card's clock at both ends of the step
  pinned_turn_bytes_ = l.bytes();
  auto pinned = memory::pinned(pinned_turn_bytes_ * turns, "step inputs");
  if (!pinned) return pinned.take_error();
  pinned_ = std::move(*pinned);
  auto logits = memory::pinned(std::uint64_t{gpu_decoder::logits_chunk} * shape_.vocab * sizeof(float), "logits");
  if (!logits) return logits.take_error();
  logits_host_ = std::move(*logits);
  if (masks) {
    auto gates = row_gates::make(shape_, std::move(masks));
    if (!gates) return gates.take_error();
    gates_ = std::make_unique<row_gates>(std::move(*gates));
  }
  auto s = make_stream();
  if (!s) return s.take_error();
  stream_ = std::move(*s);
  return check(cudaDeviceSynchronize(), "cudaDeviceSynchronize");
}

gpu_backend::~gpu_backend() {
  if (idle_.count() > 0)
    log().debug("device {}: idle between {} queued steps for {}", options_.device, idle_.count(), idle_.text());
  if (!stream_ || flights_.empty()) return;
  if (gates_) gates_->give_up();
  const clock::time_point limit = clock::now() + leave_limit;
  cudaError_t state = cudaErrorNotReady;
  while ((state = cudaStreamQuery(stream_)) == cudaErrorNotReady && clock::now() < limit)
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  if (state != cudaErrorNotReady) return;
  log().critical("a step hangs on device {}: its memory is left behind", options_.device);
  struct left_behind {
    memory device, pinned, logits;
    stream used;
    std::shared_ptr<communicator> group;
    std::unique_ptr<gpu_decoder> decoder;
    std::unique_ptr<slot_admissions> admissions;
    std::unique_ptr<row_gates> gates;
    std::map<captured, graph_exec> graphs;
  };
  new left_behind{std::move(device_),     std::move(pinned_), std::move(logits_host_),
                  std::move(stream_),     std::move(group_),  std::move(decoder_),
                  std::move(admissions_), std::move(gates_),  std::move(graphs_)};
}

gpu_backend::pinned_turn gpu_backend::turn_of(std::uint32_t turn) const {
  std::byte* const base = pinned_.data() + turn * pinned_turn_bytes_;
  return {base, reinterpret_cast<g::sample_result*>(base + pinned_results_),
          reinterpret_cast<volatile std::uint64_t*>(base + pinned_seq_)};
}

result<void> gpu_backend::launch(std::shared_ptr<const model::step_plan> owned) {
  const clock::time_point start = clock::now();
  if (flights_.size() >= shape_.depth)
    return failure(errc::invalid_argument, "more plans were launched than may be in flight");
  auto plan = model::step_plan_view::parse(owned->bytes());
  if (!plan) return plan.take_error();
  if (plan->seq() != last_ + 1)
    return failure(errc::invalid_argument,
                   "plan " + std::to_string(plan->seq()) + " was launched after plan " + std::to_string(last_));
  if (!std::exchange(device_set_, true))  // the thread that computes may not be the one that loaded
    if (auto ok = check(cudaSetDevice(options_.device), "cudaSetDevice"); !ok) return ok;
  last_ = plan->seq();
  flight f;
  f.seq = plan->seq();
  f.turn = static_cast<std::uint32_t>(plan->seq() % turns);
  f.launched = start;
  f.queued = !flights_.empty();
  // What waits for the stream further down must not wait for a step there whose masks only we can hand over.
  if (plan->kind() == model::plan_kind::warm_up || admissions_->waits(*plan))
    if (gates_ && gates_->advance())
      if (auto ok = wait(); !ok) return ok;
  if (plan->kind() == model::plan_kind::warm_up) {
    const std::uint32_t n = plan->graph().token_bucket;
    if (std::ranges::find(shape_.graph_sizes, n) == shape_.graph_sizes.end())
      return failure(errc::invalid_argument, "step plan refused: no graphs for " + std::to_string(n) + " tokens");
    if (auto ok = capture({n, n, n}); !ok) return ok;
  } else {
    if (auto ok = slots_.apply(*plan); !ok) return ok;
    if (options_.before_step)
      if (auto ok = check(options_.before_step(f.seq, stream_), "before_step"); !ok) return ok;
    if (!plan->admits().empty())
      if (auto ok = admissions_->admit(*plan, f.turn, stream_); !ok) return ok;
    for (const model::page_fork& fork : plan->forks())
      if (auto ok = decoder_->copy_page(fork.from, fork.to, stream_); !ok) return ok;
    if (auto ok = enqueue_step(*plan, f); !ok) return ok;
  }
  f.launch_ns = ns_of(clock::now() - start);
  flights_.push_back(std::move(f));
  return {};
}

/// For all that was enqueued. Masks that its steps wait for are handed over meanwhile.
result<void> gpu_backend::wait() {
  while (gates_ && gates_->advance()) {
    if (cudaStreamQuery(stream_) != cudaErrorNotReady) break;
    std::this_thread::yield();
  }
  return check(cudaStreamSynchronize(stream_), "cudaStreamSynchronize");
}

result<bool> gpu_backend::poll(model::step_done& done) {
  if (flights_.empty()) return false;
  if (gates_) gates_->advance();
  flight& f = flights_.front();
  if (f.on_device) {
    const pinned_turn turn = turn_of(f.turn);
    if (*turn.seq != f.seq) {
      if (++polls_ % polls_per_query != 0) return false;
      if (group_)
        if (auto ok = group_->state(); !ok) return ok.take_error();
      const cudaError_t state = cudaStreamQuery(stream_);
      if (state == cudaErrorNotReady) return false;
      if (state != cudaSuccess) return cuda_failure(state, "a step on the device");
      if (*turn.seq != f.seq)
        return failure(errc::rank_failed, "the device finished step " + std::to_string(f.seq) + " without its results");
    }
    std::atomic_thread_fence(std::memory_order_acquire);
    // A step that was given up runs to its end too; what it drew is nothing.
    if (group_)
      if (auto ok = group_->state(); !ok) return ok.take_error();
    const std::uint64_t began = turn.seq[1], ended = turn.seq[2];
    if (f.queued && last_ended_ && began >= last_ended_) idle_.add(began - last_ended_);
    last_ended_ = ended;
    done.rows = std::move(f.ready);
    const std::vector<slot_id>& drawn = drawn_[f.turn];
    done.rows.reserve(done.rows.size() + drawn.size());
    for (std::size_t i = 0; i < drawn.size(); ++i) {
      const g::sample_result& r = turn.results[i];
      std::uint32_t flags = r.flags;
      if (flags == model::row_nothing_allowed && gates_->missing(f.turn, static_cast<std::uint32_t>(i)))
        flags = model::row_gate_closed;
      done.rows.push_back({drawn[i], r.token, flags, r.logprob});
    }
    if (gates_) gates_->done(f.seq);
  } else {
    done.rows.clear();
  }
  done.seq = f.seq;
  const clock::time_point now = clock::now();
  done.device_ns = ns_of(now - std::max(f.launched, last_done_));
  done.launch_ns = f.launch_ns;
  last_done_ = now;
  flights_.pop_front();
  return true;
}

result<std::uint64_t> page_bytes(const model::model& m, const gpu_options& o) {
  auto s = shard_of(m, o.place);
  if (!s) return s.take_error();
  model::model_config c = m.config;
  c.n_kv_heads = s->kv_heads.count;
  return gpu_decoder::page_bytes(c, o.kv);
}

result<std::unique_ptr<model::backend>> make_gpu_backend(rank_plan p, const gpu_options& o,
                                                         std::shared_ptr<model::sink_table> sinks,
                                                         std::shared_ptr<communicator> group,
                                                         std::shared_ptr<model::mask_table> masks) {
  log().info("cuda:{} {}: {} of {} MiB free", o.device, p.card.name, p.bytes.describe(), p.bytes.free >> 20);
  auto backend = std::make_unique<gpu_backend>(p.shape, o, std::move(sinks), p.local->config.window, masks != nullptr);
  if (auto ok = backend->take(std::move(p), std::move(group), std::move(masks)); !ok) return ok.take_error();
  return std::unique_ptr<model::backend>(std::move(backend));
}

result<std::unique_ptr<model::backend>> make_gpu_backend(std::shared_ptr<const model::model> m, const gpu_options& o,
                                                         std::shared_ptr<model::sink_table> sinks,
                                                         std::shared_ptr<communicator> group,
                                                         std::shared_ptr<model::mask_table> masks) {
  auto p = plan_rank(std::move(m), o);
  if (!p) return p.take_error();
  return make_gpu_backend(std::move(*p), o, std::move(sinks), std::move(group), std::move(masks));
}

}  // namespace troupe::gpu

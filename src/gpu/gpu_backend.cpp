#include "src/gpu/gpu_backend.hpp"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cmath>
#include <cstring>
#include <deque>
#include <map>
#include <optional>
#include <thread>
#include <vector>

#include "src/base/log.hpp"
#include "src/gpu/idle_times.hpp"
#include "src/gpu/rank_plan.hpp"
#include "src/gpu/row_gates.hpp"
#include "src/model/slot_table.hpp"

namespace troupe::gpu {

namespace g = kernels::gpu;

namespace {

using clock = std::chrono::steady_clock;

constexpr std::uint32_t turns = slot_admissions::turns;  // sets of pinned memory, more than plans in flight
constexpr auto leave_limit = std::chrono::seconds(1);
constexpr std::uint32_t polls_per_query = 64;  // the pinned word gives latency, the query gives errors

/// One plan on its way.
struct flight {
  step_seq seq = 0;
  std::uint32_t turn = 0;
  std::vector<slot_id> drawn;            // slots of the results, in order
  std::vector<model::row_result> ready;  // rows whose outcome is known already (logits)
  clock::time_point launched;
  bool on_device = false;  // false: nothing to wait for
  bool queued = false;     // while another was on the device
};

}  // namespace

class gpu_backend final : public model::backend {
 public:
  gpu_backend(const model::rank_shape& shape, const gpu_options& o, std::shared_ptr<model::sink_table> sinks,
              std::uint32_t window, bool gates)
      : shape_(shape), options_(o), sinks_(std::move(sinks)), slots_(shape, window, {.gates = gates}) {}

  /// Waits a moment for a step that is still on the card. One that hangs there keeps the memory it uses: freeing would
  /// wait for it, and whoever destroys a lost rank must not hang with it.
  ~gpu_backend() override;

  result<void> take(rank_plan, std::shared_ptr<communicator> group, std::shared_ptr<model::mask_table>);

  const model::rank_shape& shape() const override { return shape_; }
  result<void> launch(std::shared_ptr<const model::step_plan>) override;
  result<bool> poll(model::step_done&) override;

 private:
  struct pinned_turn {
    std::byte* inputs;
    g::sample_result* results;
    volatile std::uint64_t* seq;
  };
  struct captured {
    bucket size;
    std::uint32_t turn;
    auto operator<=>(const captured&) const = default;
  };

  result<void> enqueue_step(const model::step_plan_view&, flight&);
  result<void> kernels_of(const bucket&, const step_layout&, std::uint32_t turn, cudaStream_t);
  result<void> capture(const bucket&);
  void fill_inputs(const model::step_plan_view&, const model::step_batch&, const bucket&, const step_layout&, flight&);
  result<void> update_pages(const model::step_plan_view&, std::uint32_t turn, std::uint32_t inside);
  result<void> logits_rows(const model::step_plan_view&, const model::step_batch&, std::uint32_t first, flight&);
  result<void> wait();
  pinned_turn turn_of(std::uint32_t turn) const;

  model::rank_shape shape_;
  gpu_options options_;
  std::shared_ptr<model::sink_table> sinks_;
  model::slot_table slots_;
  memory device_, pinned_;
  std::uint64_t pinned_results_ = 0, pinned_seq_ = 0,
                pinned_turn_bytes_ = 0;  // offsets in a turn's memory, and its size
  std::byte* inputs_ = nullptr;
  g::sample_result* results_ = nullptr;
  std::uint64_t* began_ = nullptr;  ///< on the device: when the step that runs began
  void* sample_scratch_ = nullptr;
  memory logits_host_;
  stream stream_;
  std::shared_ptr<communicator> group_;  // null: alone; outlives the graphs that use it
  std::unique_ptr<gpu_decoder> decoder_;
  std::unique_ptr<slot_admissions> admissions_;
  std::unique_ptr<row_gates> gates_;  // null: no gated rows
  std::map<captured, graph_exec> graphs_;
  std::deque<flight> flights_;
  std::vector<std::uint32_t> order_;  // outputs of the step: those that draw first
  std::vector<g::page_entry> entries_;
  std::vector<g::row_span> rows_;
  std::vector<g::attention_item> items_;
  step_seq last_ = 0;
  std::uint32_t polls_ = 0;
  idle_times idle_;
  clock::time_point last_done_;
  bool device_set_ = false;
};

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
    log().debug("device {}: idle between {} queued steps for {:.1f} us (p50), {:.1f} us (p99)", options_.device,
                idle_.count(), idle_.microseconds(0.5), idle_.microseconds(0.99));
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
  f.launched = clock::now();
  f.queued = !flights_.empty();
  // What waits for the stream further down must not wait for a step there whose masks only we can hand over.
  if (plan->kind() == model::plan_kind::warm_up || slot_admissions::waits(*plan))
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
  flights_.push_back(std::move(f));
  return {};
}

result<void> gpu_backend::enqueue_step(const model::step_plan_view& plan, flight& f) {
  const model::step_batch& batch = slots_.batch();
  if (batch.rows.empty()) return update_pages(plan, f.turn, 0);
  order_.clear();
  for (const bool drawing : {true, false})
    for (std::uint32_t i = 0; i < batch.outputs.size(); ++i)
      if ((plan.rows()[batch.outputs[i].row].output != model::row_output::logits) == drawing) order_.push_back(i);
  const auto n_tokens = static_cast<std::uint32_t>(batch.tokens.size());
  const auto n_outputs = static_cast<std::uint32_t>(order_.size());
  for (std::uint32_t i : order_) {
    const model::plan_row& row = plan.rows()[batch.outputs[i].row];
    if (row.output != model::row_output::logits) f.drawn.push_back(row.slot);
  }
  const auto n_draws = static_cast<std::uint32_t>(f.drawn.size());

  bucket b{token_bucket(n_tokens, shape_.max_batched_tokens), 0, 0};
  const model::graph_key key = plan.graph();
  if (key.token_bucket > 0) {
    if (key.token_bucket < n_tokens || n_outputs != n_draws)
      return failure(errc::invalid_argument, "step plan refused: " + std::to_string(n_tokens) +
                                                 " tokens in a graph for " + std::to_string(key.token_bucket));
    b = {key.token_bucket, key.token_bucket, key.token_bucket};
  } else {
    b.outputs = n_outputs ? token_bucket(n_outputs, shape_.max_batched_tokens) : 0;
    b.draws = n_draws ? token_bucket(n_draws, shape_.max_slots) : 0;
  }
  const step_layout l = step_layout_of(b, decoder_->attention_shape(b));
  if (auto ok = update_pages(plan, f.turn, l.max_page_entries); !ok) return ok;
  fill_inputs(plan, batch, b, l, f);
  f.on_device = true;
  if (key.token_bucket > 0) {
    const auto graph = graphs_.find({b, f.turn});
    if (graph == graphs_.end())
      return failure(errc::invalid_argument,
                     "step plan refused: no graph was captured for " + std::to_string(b.tokens) + " tokens");
    if (auto ok = check(cudaGraphLaunch(graph->second, stream_), "cudaGraphLaunch"); !ok) return ok;
  } else if (auto ok = kernels_of(b, l, f.turn, stream_); !ok) {
    return ok;
  }
  return n_outputs > n_draws ? logits_rows(plan, batch, n_draws, f) : result<void>();
}

/// Collects the page-table changes. Those beyond `inside`, which a step's inputs hold, go before it, in pieces through
/// the inputs' memory.
result<void> gpu_backend::update_pages(const model::step_plan_view& plan, std::uint32_t turn, std::uint32_t inside) {
  entries_.clear();
  for (const model::page_delta& d : plan.deltas()) entries_.push_back({d.slot, d.index, d.page});
  const std::uint32_t piece = static_cast<std::uint32_t>((pinned_results_ - 256) / sizeof(g::page_entry));
  while (entries_.size() > inside) {
    const auto n = static_cast<std::uint32_t>(std::min<std::size_t>(piece, entries_.size()));
    std::byte* const at = turn_of(turn).inputs;
    std::memcpy(at, &n, sizeof n);
    std::memcpy(at + 256, entries_.data() + entries_.size() - n, n * sizeof(g::page_entry));
    entries_.resize(entries_.size() - n);
    checked ok;
    ok(g::update_page_table(reinterpret_cast<const g::page_entry*>(at + 256),
                            reinterpret_cast<const std::uint32_t*>(at), n, decoder_->page_table(),
                            decoder_->table_pages(), stream_),
       "update_page_table")(wait());
    if (!ok.ok()) return ok.take();
  }
  return {};
}

void gpu_backend::fill_inputs(const model::step_plan_view& plan, const model::step_batch& batch, const bucket& b,
                              const step_layout& l, flight& f) {
  const pinned_turn turn = turn_of(f.turn);
  std::byte* const in = turn.inputs;
  rows_.clear();
  auto* const slots = step_layout::at<std::uint32_t>(in, l.slots);
  for (const model::step_row& r : batch.rows) {
    rows_.push_back({r.slot, r.position, r.n_tokens, r.first});
    std::fill_n(slots + r.first, r.n_tokens, r.slot);
  }
  // A token of the batch is an id or says whose last token it is; the kernels know the same two forms.
  static_assert(model::last_token_of(5) == g::last_token_of(5));
  std::copy(batch.tokens.begin(), batch.tokens.end(), step_layout::at<g::input_token>(in, l.tokens));
  std::copy(batch.positions.begin(), batch.positions.end(), step_layout::at<std::uint32_t>(in, l.positions));
  auto* const gather = step_layout::at<std::uint32_t>(in, l.gather);
  auto* const draws = step_layout::at<g::sample_row>(in, l.sample_rows);
  for (std::uint32_t i = 0; i < order_.size(); ++i) {
    const model::step_output& o = batch.outputs[order_[i]];
    gather[i] = o.token;
    if (i >= f.drawn.size()) continue;
    const model::plan_row& row = plan.rows()[o.row];
    const bool gated = row.gate == model::row_gate::mask;
    const std::uint32_t flags =
        (row.output == model::row_output::sample_logprobs ? g::sample_logprob : 0u) | (gated ? g::sample_masked : 0u);
    draws[i] = {f.drawn[i], batch.positions[o.token] + 1, i, flags, i, i};
    if (gated) gates_->await(f.seq, f.turn, i, row.gate_id);
  }
  std::copy(entries_.begin(), entries_.end(), step_layout::at<g::page_entry>(in, l.page_entries));
  items_.clear();
  g::plan_attention(decoder_->attention_shape(b), rows_, items_);
  std::copy(items_.begin(), items_.end(), step_layout::at<g::attention_item>(in, l.items));
  *step_layout::header(in) = {f.seq,
                              static_cast<std::uint32_t>(batch.tokens.size()),
                              static_cast<std::uint32_t>(batch.rows.size()),
                              static_cast<std::uint32_t>(order_.size()),
                              static_cast<std::uint32_t>(f.drawn.size()),
                              static_cast<std::uint32_t>(entries_.size()),
                              static_cast<std::uint32_t>(items_.size())};
}

/// Everything that a step runs, eagerly or into a capture.
result<void> gpu_backend::kernels_of(const bucket& b, const step_layout& l, std::uint32_t turn, cudaStream_t stream) {
  const pinned_turn host = turn_of(turn);
  const g::step_header* header = step_layout::header(inputs_);
  checked ok;
  ok(g::pull_inputs(host.inputs, inputs_, l.words(), stream, began_), "pull_inputs");
  ok(g::update_page_table(step_layout::at<g::page_entry>(inputs_, l.page_entries), &header->n_page_entries,
                          l.max_page_entries, decoder_->page_table(), decoder_->table_pages(), stream),
     "update_page_table");
  ok(decoder_->forward(b, l, inputs_, admissions_->last_token(), stream));
  if (b.draws > 0) {
    ok(decoder_->head(0, b.draws, &header->n_draws, stream));
    g::sample_args s{};
    s.logits = decoder_->logits();
    s.ld_logits = shape_.vocab;
    s.vocab = shape_.vocab;
    s.rows = step_layout::at<g::sample_row>(inputs_, l.sample_rows);
    s.n_rows = &header->n_draws;
    s.max_rows = b.draws;
    s.slots = admissions_->sampling();
    s.biases = admissions_->biases();
    s.counts = admissions_->counts();
    s.last_token = admissions_->last_token();
    s.results = results_;
    s.scratch = sample_scratch_;
    if (gates_) {
      s.masks = gates_->masks(turn);
      s.gates = gates_->words(turn);
      s.gate_value = &header->seq;
      s.gate_patience_ns = static_cast<std::uint64_t>(std::chrono::nanoseconds(options_.mask_patience).count());
    }
    ok(g::sample(s, stream), "sample");
  }
  ok(g::publish_results(results_, &header->n_draws, b.draws, host.results, &header->seq, host.seq, stream, began_),
     "publish_results");
  return ok.take();
}

/// One graph per set of pinned memory: its addresses are part of a graph.
result<void> gpu_backend::capture(const bucket& b) {
  if (auto ok = decoder_->tune(b, stream_); !ok) return ok;
  const step_layout l = step_layout_of(b, decoder_->attention_shape(b));
  for (std::uint32_t turn = 0; turn < turns; ++turn) {
    if (graphs_.contains({b, turn})) continue;
    auto side = make_stream();
    if (!side) return side.take_error();
    if (auto ok = check(cudaStreamBeginCapture(*side, cudaStreamCaptureModeThreadLocal), "cudaStreamBeginCapture"); !ok)
      return ok;
    auto ran = kernels_of(b, l, turn, *side);
    cudaGraph_t graph = nullptr;
    auto ended = check(cudaStreamEndCapture(*side, &graph), "cudaStreamEndCapture");
    if (!ran) return ran;
    if (!ended) return ended;
    cudaGraphExec_t exec = nullptr;
    auto made = check(cudaGraphInstantiate(&exec, graph, 0), "cudaGraphInstantiate");
    cudaGraphDestroy(graph);
    if (!made) return made;
    graphs_.emplace(captured{b, turn}, graph_exec(exec));
    if (auto ok = check(cudaGraphUpload(exec, stream_), "cudaGraphUpload"); !ok) return ok;
  }
  return {};
}

/// Logits for whoever asked for them: a diagnostic, so the host waits, a chunk at a time.
result<void> gpu_backend::logits_rows(const model::step_plan_view& plan, const model::step_batch& batch,
                                      std::uint32_t first, flight& f) {
  constexpr std::uint32_t chunk = gpu_decoder::logits_chunk;
  const auto* const values = logits_host_.at<float>(0);
  const auto n = static_cast<std::uint32_t>(order_.size());
  std::shared_ptr<logits_sink> sink;
  std::uint32_t sink_row = 0xffffffffu;
  for (std::uint32_t at = first; at < n; at += chunk) {
    const std::uint32_t here = std::min(chunk, n - at);
    checked ok;
    ok(decoder_->head(at, chunk, decoder_->thirty_two(), stream_));
    ok(cudaMemcpyAsync(logits_host_.data(), decoder_->logits(), std::uint64_t{here} * shape_.vocab * sizeof(float),
                       cudaMemcpyDeviceToHost, stream_),
       "cudaMemcpyAsync")(wait());
    if (!ok.ok()) return ok.take();
    for (std::uint32_t i = 0; i < here; ++i) {
      const model::step_output& o = batch.outputs[order_[at + i]];
      const model::plan_row& row = plan.rows()[o.row];
      if (sink_row != o.row) {
        sink = sinks_ ? sinks_->find(row.sink) : nullptr;
        f.ready.push_back({row.slot, -1, 0, 0.0f});
        sink_row = o.row;
      }
      const std::span<const float> logits{values + std::size_t{i} * shape_.vocab, shape_.vocab};
      if (!std::all_of(logits.begin(), logits.end(), [](float x) { return std::isfinite(x); }))
        f.ready.back().flags = model::row_failed;
      if (sink) sink->on_logits(batch.positions[o.token], logits);
    }
  }
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
    idle_.step(turn.seq[1], turn.seq[2], f.queued);
    done.rows = std::move(f.ready);
    for (std::size_t i = 0; i < f.drawn.size(); ++i) {
      const g::sample_result& r = turn.results[i];
      std::uint32_t flags = r.flags;
      if (flags == model::row_nothing_allowed && gates_->missing(f.turn, static_cast<std::uint32_t>(i)))
        flags = model::row_gate_closed;
      done.rows.push_back({f.drawn[i], r.token, flags, r.logprob});
    }
    if (gates_) gates_->done(f.seq);
  } else {
    done.rows.clear();
  }
  done.seq = f.seq;
  const clock::time_point now = clock::now();
  done.device_ns = static_cast<std::uint64_t>(std::chrono::nanoseconds(now - std::max(f.launched, last_done_)).count());
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

// What a step queues on the card: its inputs, the kernels that run eagerly or as a captured graph, and logits.
#include <algorithm>
#include <cmath>
#include <cstring>

#include "src/gpu/gpu_backend_impl.hpp"
#include "src/gpu/rank_plan.hpp"

namespace troupe::gpu {

namespace g = kernels::gpu;

result<void> gpu_backend::enqueue_step(const model::step_plan_view& plan, flight& f) {
  const model::step_batch& batch = slots_.batch();
  if (batch.rows.empty()) {
    if (auto ok = update_pages(plan, f.turn, 0); !ok || plan.admits().empty()) return ok;
    return wait();  // such a plan is done at once, and its turn's memory must not be in use then
  }
  writer_.order(plan, batch);
  drawn_[f.turn].assign(writer_.drawn().begin(), writer_.drawn().end());
  const auto n_tokens = static_cast<std::uint32_t>(batch.tokens.size());
  const auto n_outputs = static_cast<std::uint32_t>(writer_.outputs().size());
  const auto n_draws = static_cast<std::uint32_t>(writer_.drawn().size());

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
  const g::attention_shape shape = decoder_->attention_shape(b);
  const step_layout l = step_layout_of(b, shape);
  if (auto ok = update_pages(plan, f.turn, l.max_page_entries); !ok) return ok;
  writer_.divide(shape, batch);
  writer_.write(plan, batch, entries_, l, turn_of(f.turn).inputs);
  await_gates(plan, batch, f);
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

void gpu_backend::await_gates(const model::step_plan_view& plan, const model::step_batch& batch, const flight& f) {
  if (!gates_) return;  // then the slot table lets no gated row pass
  const std::span<const model::plan_row> rows = plan.rows();
  for (std::uint32_t i = 0; i < writer_.drawn().size(); ++i) {
    const model::plan_row& row = rows[batch.outputs[writer_.outputs()[i]].row];
    if (row.gate == model::row_gate::mask) gates_->await(f.seq, f.turn, i, row.gate_id);
  }
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
  const auto n = static_cast<std::uint32_t>(writer_.outputs().size());
  std::shared_ptr<logits_sink> sink;
  std::uint32_t sink_row = 0xffffffffu;
  for (std::uint32_t at = first; at < n; at += chunk) {
    const std::uint32_t here = std::min(chunk, n - at);
    checked ok;
    ok(decoder_->head(at, chunk, decoder_->chunk_count(), stream_));
    ok(cudaMemcpyAsync(logits_host_.data(), decoder_->logits(), std::uint64_t{here} * shape_.vocab * sizeof(float),
                       cudaMemcpyDeviceToHost, stream_),
       "cudaMemcpyAsync")(wait());
    if (!ok.ok()) return ok.take();
    for (std::uint32_t i = 0; i < here; ++i) {
      const model::step_output& o = batch.outputs[writer_.outputs()[at + i]];
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

}  // namespace troupe::gpu

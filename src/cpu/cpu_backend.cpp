#include "src/cpu/cpu_backend.hpp"

#include <algorithm>
#include <array>
#include <chrono>
#include <new>
#include <system_error>
#include <vector>

#include "src/cpu/decoder.hpp"
#include "src/cpu/forward.hpp"
#include "src/cpu/rank_part.hpp"
#include "src/cpu/region.hpp"
#include "src/cpu/slot_draws.hpp"
#include "src/cpu/thread_pool.hpp"
#include "src/model/slot_table.hpp"
#include "src/sample/sampler.hpp"

namespace troupe::cpu {
namespace {

constexpr std::uint32_t head_rows = 32;  // rows of logits that exist at once

std::uint64_t logits_bytes(const model::rank_shape& s) { return std::uint64_t{head_rows} * s.vocab * sizeof(float); }

std::uint32_t threads_of(const cpu_options& o) { return o.threads ? o.threads : available_processors(); }

result<memory_plan> plan_pass(const rank_part& p, const model::rank_shape& s, const cpu_options& o) {
  return o.reference ? result<memory_plan>(plan_reference(p.model->config, s)) : decoder::plan(p, s, o, threads_of(o));
}

std::uint64_t ns_since(std::chrono::steady_clock::time_point start) {
  return static_cast<std::uint64_t>(std::chrono::nanoseconds(std::chrono::steady_clock::now() - start).count());
}

/// Defaults filled in, everything checked against the limits of the arithmetic. All ranks have as many pages.
result<model::rank_shape> shape_of(const std::vector<rank_part>& ranks, std::uint32_t rank, const cpu_options& o) {
  const model::model& m = *ranks[rank].model;
  const auto refuse = [](const std::string& what) { return failure(errc::invalid_argument, what); };
  if (!kernels::cpu::isa_supported(o.isa))
    return refuse("this processor has no " + std::string(kernels::cpu::name(o.isa)) + ": choose a lower tier");
  if (threads_of(o) > 1024) return refuse("more than 1024 compute threads: ask for fewer");
  if (o.max_slots == 0 || o.max_slots > 65536) return refuse("the number of sequences must be between 1 and 65536");
  if (o.max_batched_tokens == 0 || o.max_batched_tokens > 65536)
    return refuse("the number of tokens in one step must be between 1 and 65536");
  if (o.reference && ranks.size() > 1)
    return failure(errc::unsupported, "tensor-parallel-size " + std::to_string(ranks.size()) +
                                          ": the reference path computes on one rank: leave one of the two out");
  model::rank_shape s;
  s.vocab = m.config.vocab;
  s.max_model_len = o.max_model_len ? o.max_model_len : m.config.context;
  if (s.max_model_len > model::limits::context) return refuse("the longest sequence is beyond 2^24 tokens");
  s.max_slots = o.max_slots;
  s.max_batched_tokens = o.max_batched_tokens;
  s.depth = 1;
  s.n_pages = {0};
  std::uint64_t own_page = 0, page_bytes = 0;
  for (std::uint32_t r = 0; r < ranks.size(); ++r) {
    auto pass = plan_pass(ranks[r], s, o);
    if (!pass) return pass.take_error();
    page_bytes += pass->page_bytes;
    if (r == rank) own_page = pass->page_bytes;
  }
  const std::uint64_t per_sequence = (s.max_model_len + page_tokens - 1) / page_tokens;
  std::uint64_t pages = o.n_pages;
  if (pages == 0)
    pages = std::clamp<std::uint64_t>((std::uint64_t{1} << 30) / page_bytes, per_sequence, per_sequence * s.max_slots);
  if (pages >= model::no_page) return refuse("more KV pages than page numbers");
  s.groups = {{m.config.window, m.config.n_layers, own_page}};
  s.n_pages = {static_cast<std::uint32_t>(pages)};
  return s;
}

class cpu_backend final : public model::backend {
 public:
  cpu_backend(const model::rank_shape& shape, const cpu_options& o, std::shared_ptr<model::sink_table> sinks,
              std::shared_ptr<group::collective> group, std::shared_ptr<model::mask_table> masks,
              std::unique_ptr<thread_pool> pool, std::unique_ptr<forward> pass, region logits, std::uint32_t window)
      : shape_(shape),
        mask_patience_(o.mask_patience),
        sinks_(std::move(sinks)),
        group_(std::move(group)),
        masks_(std::move(masks)),
        pool_(std::move(pool)),
        forward_(std::move(pass)),
        logits_(std::move(logits)),
        slots_(shape, window, {.gates = masks_ != nullptr}),
        slot_draws_(shape) {
    if (masks_) row_masks_.reserve(shape.max_batched_tokens);
    samplers_.reserve(pool_->size());
    for (std::uint32_t i = 0; i < pool_->size(); ++i)
      samplers_.emplace_back(shape.vocab, kernels::cpu::vector_kernels_for(o.isa));
  }

  const model::rank_shape& shape() const override { return shape_; }

  result<void> launch(std::shared_ptr<const model::step_plan> plan) override {
    const auto start = std::chrono::steady_clock::now();
    if (plan_) return failure(errc::invalid_argument, "a second plan was launched while one is in flight");
    auto view = model::step_plan_view::parse(plan->bytes());
    if (!view) return view.take_error();
    if (view->seq() != last_ + 1)
      return failure(errc::invalid_argument, "plan " + std::to_string(view->seq()) + " was launched after plan " +
                                                 std::to_string(last_));
    last_ = view->seq();
    if (auto ok = slots_.apply(*view); !ok) return ok;
    slot_draws_.admit(*view);
    find_masks(*view);
    plan_ = std::move(plan);
    launch_ns_ = ns_since(start);
    return {};
  }

  result<bool> poll(model::step_done& done) override {
    if (!plan_) return false;
    const auto start = std::chrono::steady_clock::now();
    const model::step_plan_view plan = plan_->view();
    done.seq = plan.seq();
    done.rows.clear();
    for (const model::page_fork& f : plan.forks()) forward_->fork(f.from, f.to);
    const step_batch batch = slot_draws_.resolve(slots_.batch());
    if (!batch.rows.empty()) {
      if (auto ok = forward_->run(batch); !ok) return ok.take_error();
      auto finished = finish(plan, batch, done);
      sink_.reset();
      if (!finished) return finished.take_error();
    }
    plan_.reset();
    done.device_ns = ns_since(start);
    done.launch_ns = launch_ns_;
    return true;
  }

 private:
  void find_masks(const model::step_plan_view& plan) {
    row_masks_.clear();
    if (!masks_) return;
    row_masks_.resize(plan.rows().size());
    for (std::size_t i = 0; i < row_masks_.size(); ++i)
      if (plan.rows()[i].gate == model::row_gate::mask) row_masks_[i] = masks_->find(plan.rows()[i].gate_id);
  }

  /// Waits until the masks of the next n draws are there, or never will be, or the step's patience ends: gate_open_ says.
  void await_masks(const model::step_plan_view& plan, std::span<const step_output> outputs,
                   std::chrono::steady_clock::time_point limit) {
    for (std::size_t i = 0; i < outputs.size(); ++i) {
      const std::uint32_t row = outputs[i].row;
      if (plan.rows()[row].gate == model::row_gate::none) continue;
      gate_open_[i] = row_masks_[row] && row_masks_[row]->wait_until(limit) == model::mask_state::ready;
    }
  }

  /// Logits of the outputs, a few rows at a time: into sinks or into the samplers. In a group rank 0 does that, and tells
  /// the others what was drawn, because their slots need it for the next step.
  result<void> finish(const model::step_plan_view& plan, const step_batch& batch, model::step_done& done) {
    const auto n_outputs = static_cast<std::uint32_t>(batch.outputs.size());
    const bool answers = !group_ || group_->place().rank == 0;
    std::uint32_t sink_row = 0xffffffffu;
    const auto mask_limit = std::chrono::steady_clock::now() + mask_patience_;
    for (std::uint32_t first = 0; first < n_outputs; first += head_rows) {
      const std::uint32_t n = std::min(head_rows, n_outputs - first);
      if (auto ok = forward_->logits(first, n, logits_.at<float>(0)); !ok) return ok;
      draws_.fill({});
      if (answers) {
        gate_open_.fill(true);
        await_masks(plan, batch.outputs.subspan(first, n), mask_limit);
        draw_rows(plan, batch, first, n);
      }
      if (group_)
        if (auto ok = group_->broadcast(std::as_writable_bytes(std::span(draws_).first(n))); !ok) return ok;
      for (std::uint32_t i = 0; i < n; ++i) {
        const step_output& o = batch.outputs[first + i];
        const model::plan_row& row = plan.rows()[o.row];
        const sample::draw& d = draws_[i];
        const bool samples = row.output != model::row_output::logits;
        if (samples && d.ok) {
          if (static_cast<std::uint32_t>(d.token) >= shape_.vocab)
            return failure(errc::rank_failed, "rank 0 drew token " + std::to_string(d.token) + ", which is none");
          slot_draws_.drew(row.slot, d.token);
        }
        if (answers) answer(row, o, batch, i, done, sink_row);
      }
    }
    return {};
  }

  /// One output's part of the answer; the outputs of a row of logits share one.
  void answer(const model::plan_row& row, const step_output& o, const step_batch& batch, std::uint32_t i,
              model::step_done& done, std::uint32_t& sink_row) {
    const sample::draw& d = draws_[i];
    if (row.output != model::row_output::logits) {
      const std::uint32_t flags = d.ok                ? 0u
                                  : !gate_open_[i]    ? model::row_gate_closed
                                  : d.nothing_allowed ? model::row_nothing_allowed
                                                      : model::row_failed;
      done.rows.push_back({row.slot, d.token, flags, d.logprob});
      return;
    }
    if (sink_row != o.row) sink_ = sinks_ ? sinks_->find(row.sink) : nullptr;
    if (sink_row != o.row) done.rows.push_back({row.slot, -1, 0, 0.0f});
    sink_row = o.row;
    if (!d.ok) done.rows.back().flags = model::row_failed;
    if (sink_) sink_->on_logits(batch.positions[o.token], {logits_row(i), shape_.vocab});
  }

  void draw_rows(const model::step_plan_view& plan, const step_batch& batch, std::uint32_t first, std::uint32_t n) {
    if (n == 1) return draw_row(plan, batch, first, 0, samplers_[0]);
    pool_->run([&](team& t) {
      t.for_tiles(n, 1, [&](std::uint32_t begin, std::uint32_t end) {
        for (std::uint32_t i = begin; i < end; ++i) draw_row(plan, batch, first + i, i, samplers_[t.index()]);
      });
    });
  }

  void draw_row(const model::step_plan_view& plan, const step_batch& batch, std::uint32_t output, std::uint32_t i,
                sample::sampler& sampler) {
    const step_output& o = batch.outputs[output];
    const model::plan_row& row = plan.rows()[o.row];
    if (row.output == model::row_output::logits) {
      draws_[i].ok = sampler.finite({logits_row(i), shape_.vocab});
      return;
    }
    if (!gate_open_[i]) {
      // Logits that are not finite are the better reason.
      gate_open_[i] = !sampler.finite({logits_row(i), shape_.vocab});
      return;
    }
    std::span<const std::uint32_t> mask;
    if (row.gate == model::row_gate::mask) mask = row_masks_[o.row]->words();
    draws_[i] = sampler.next({logits_row(i), shape_.vocab}, slot_draws_.sampling(row.slot), &slot_draws_.counts(row.slot),
                             slot_draws_.biases(row.slot), batch.positions[o.token] + 1,
                             row.output == model::row_output::sample_logprobs, mask);
  }

  float* logits_row(std::uint32_t i) const { return logits_.at<float>(0) + std::size_t{i} * shape_.vocab; }

  model::rank_shape shape_;
  std::chrono::milliseconds mask_patience_;
  std::shared_ptr<model::sink_table> sinks_;
  std::shared_ptr<group::collective> group_;  ///< null: alone
  std::shared_ptr<model::mask_table> masks_;
  std::unique_ptr<thread_pool> pool_;
  std::unique_ptr<forward> forward_;
  region logits_;
  model::slot_table slots_;
  slot_draws slot_draws_;
  std::vector<sample::sampler> samplers_;
  std::array<sample::draw, head_rows> draws_;
  std::shared_ptr<logits_sink> sink_;  ///< of the row of logits that is being answered
  std::array<bool, head_rows> gate_open_;                              // of the same draws; true where there is no gate
  std::vector<std::shared_ptr<const model::token_mask>> row_masks_;  // of the plan's rows; empty without a mask table
  std::shared_ptr<const model::step_plan> plan_;
  step_seq last_ = 0;
  std::uint64_t launch_ns_ = 0;
};

}  // namespace

std::string memory_plan::describe() const {
  const auto mib = [](std::uint64_t bytes) { return std::to_string((bytes + (1u << 19)) >> 20) + " MiB"; };
  return "weights " + mib(weights) + ", KV cache " + mib(kv) + " (" + std::to_string(page_bytes ? kv / page_bytes : 0) +
         " pages), activations " + mib(activations) + ", slots " + mib(slots) + ", together " + mib(total());
}

result<memory_plan> plan_memory(const model::model& m, const cpu_options& o, std::uint32_t n_ranks) {
  // The parts are gone before the caller's model is.
  auto ranks = divide(std::shared_ptr<const model::model>(std::shared_ptr<void>(), &m), n_ranks);
  if (!ranks) return ranks.take_error();
  memory_plan all;
  for (std::uint32_t r = 0; r < n_ranks; ++r) {
    auto shape = shape_of(*ranks, r, o);
    if (!shape) return shape.take_error();
    auto p = plan_pass((*ranks)[r], *shape, o);
    if (!p) return p;
    all.weights += p->weights;
    all.kv += p->kv;
    all.activations += p->activations + logits_bytes(*shape) + threads_of(o) * sample::sampler::bytes(shape->vocab);
    all.slots += model::slot_table::bytes(*shape) + slot_draws::bytes(*shape);
    all.page_bytes += p->page_bytes;
  }
  return all;
}

result<std::unique_ptr<model::backend>> make_cpu_backend(std::shared_ptr<const model::model> m, const cpu_options& o,
                                                         std::shared_ptr<model::sink_table> sinks,
                                                         std::shared_ptr<group::collective> group,
                                                         std::shared_ptr<model::mask_table> masks) {
  if (group && group->place().size == 1) group = nullptr;
  const model::group_place place = group ? group->place() : model::group_place{};
  auto ranks = divide(std::move(m), place.size);
  if (!ranks) return ranks.take_error();
  auto shape = shape_of(*ranks, place.rank, o);
  if (!shape) return shape.take_error();
  rank_part part = std::move((*ranks)[place.rank]);
  part.group = group;
  const std::uint32_t window = part.model->config.window;
  try {
    auto pool = std::make_unique<thread_pool>(threads_of(o));
    auto logits = region::take(logits_bytes(*shape), "logits");
    if (!logits) return logits.take_error();
    auto pass = o.reference ? make_reference(std::move(part.model), *shape, *pool)
                            : decoder::make(std::move(part), *shape, o, *pool);
    if (!pass) return pass.take_error();
    return std::unique_ptr<model::backend>(new cpu_backend(*shape, o, std::move(sinks), std::move(group),
                                                           std::move(masks), std::move(pool), std::move(*pass),
                                                           std::move(*logits), window));
  } catch (const std::bad_alloc&) {
    return failure(errc::out_of_memory, "no memory for the tables of " + std::to_string(o.max_slots) +
                                            " sequences: lower their number");
  } catch (const std::system_error& e) {
    return failure(errc::out_of_memory, std::string("compute threads cannot be started: ") + e.what());
  }
}

}  // namespace troupe::cpu

// Building a plan: decode rows first, then prompts in chunks, then admissions.
#include <algorithm>
#include <tuple>

#include "src/cache/invariant.hpp"
#include "src/sched/scheduler.hpp"

namespace troupe::sched {

using cache::no_page;
using cache::require;

namespace {

constexpr std::size_t max_chunks_per_step = 32;
constexpr double forever = std::numeric_limits<double>::infinity();

}  // namespace

void scheduler::drop_cancelled() {
  std::vector<sequence*> gone;
  for (sequence* s : running_)
    if (s->request->cancelled.load(std::memory_order_relaxed)) gone.push_back(s);
  for (sequence* s : gone) end(*s, finish_reason::cancelled, errc::cancelled, "the request was cancelled");
}

std::shared_ptr<const model::step_plan> scheduler::plan_step(time_ns now) {
  expire(now);
  drop_cancelled();
  check();
  if (failed_ || stopped_ || flights_.size() >= shape_.depth) return nullptr;
  if (const auto key = graphs_.next()) return capture(*key);
  next_.rows.clear();
  next_.shape = {};
  do {
    starved_ = false;
    std::fill(promised_.begin(), promised_.end(), 0u);
    plan_decodes();
    // While a decode row waits for pages no prompt may take them.
    if (!starved_) plan_prompts();
    // A starved plan made room by itself; try again with what it found.
  } while (next_.rows.empty() && flights_.empty() && !want_pending_ && !n_lookups_ && (starved_ || relieve()));
  refill();
  look_up_ahead();
  if (!next_.rows.empty()) return build(model::plan_kind::run);
  if (draining_ && sequences_.empty() && flights_.empty()) {
    stopped_ = true;
    return build(model::plan_kind::stop);
  }
  return nullptr;
}

std::shared_ptr<const model::step_plan> scheduler::build(model::plan_kind kind) {
  next_.seq = ++last_seq_;
  next_.kind = kind;
  flights_.push_back(std::move(next_));
  next_ = std::move(spare_);
  builder_.graph = graphs_.key_for(builder_.rows);
  auto plan = builder_.build(last_seq_, kind);
  builder_.clear();
  return plan;
}

/// A plan of its own: what the next step has collected so far waits for it.
std::shared_ptr<const model::step_plan> scheduler::capture(const model::graph_key& key) {
  model::plan_builder builder;
  builder.graph = key;
  flights_.push_back({++last_seq_, model::plan_kind::warm_up, {}, {}});
  return builder.build(last_seq_, model::plan_kind::warm_up);
}

void scheduler::plan_decodes() {
  std::vector<sequence*> ready, blocked;
  ready.reserve(running_.size());
  for (sequence* s : running_)
    if (s->decodes() && s->has_room()) (s->has_credit() ? ready : blocked).push_back(s);
  for (sequence* s : blocked) park(*s);
  if (ready.size() > options_.max_batched_tokens) {
    // More sequences than a step takes: those that waited longest, in turn.
    std::sort(ready.begin(), ready.end(),
              [](auto* a, auto* b) { return std::tie(a->last_plan, a->order) < std::tie(b->last_plan, b->order); });
    ready.resize(options_.max_batched_tokens);
    std::sort(ready.begin(), ready.end(), [](auto* a, auto* b) { return a->order < b->order; });
  }
  // In order, so that whoever has to give way has no row yet.
  for (sequence* s : ready) {
    if (s->slot == no_slot) continue;  // gave way to one before it
    drop_behind_window(*s);
    if (make_room(*s)) add_row(*s, 1);
  }
}

/// Device time that this step may still spend on prompts.
double scheduler::prompt_time() const {
  if (options_.step_budget == 0) return forever;
  const double budget = static_cast<double>(options_.step_budget);
  const double spent = costs_.predict(next_.shape);
  // No stream waits for a step without decode rows, only new arrivals do. Never nothing: where every step has been slow (a
  // process stopped for seconds, a loaded machine), only further steps can show that it is over.
  return std::max(next_.rows.empty() ? 4 * budget : budget, decode_stretch * spent) - spent;
}

void scheduler::plan_prompts() {
  std::vector<chunk_choice> chunks = choose_chunks();
  for (const chunk_choice& c : chunks) {
    sequence& s = *c.s;
    const std::uint32_t n = affordable(s, c.n);
    if (s.phase == phase::waiting) {
      if (n == 0) {
        enqueue(s);
        continue;
      }
      attach(s);
    }
    if (n > 0) add_row(s, n);
  }
}

std::vector<scheduler::chunk_choice> scheduler::choose_chunks() {
  std::vector<chunk_choice> chunks;
  std::uint32_t tokens = options_.max_batched_tokens - static_cast<std::uint32_t>(next_.shape.tokens);
  double time = prompt_time();
  auto cost = [&](std::uint32_t position, std::uint32_t n) {
    step_shape shape;
    shape.add(position, n);
    return costs_.predict(shape) - costs_.fixed();
  };
  auto largest = [&](std::uint32_t position) {
    return std::min(tokens, time == forever ? tokens : costs_.largest_chunk(position, time));
  };
  // Each takes at most half of what is left, so that a long prompt leaves room for those behind it. The first always
  // gets a little, else a step full of decode rows would hold prompts up for ever.
  auto choose = [&](sequence& s) {
    std::uint32_t most = largest(s.computed);
    if (chunks.empty()) most = std::max(most, std::min(tokens, page_tokens));
    const std::uint32_t n = std::min({s.row_limit(), most, std::max(options_.min_chunk, (most + 1) / 2)});
    if (n == 0) return false;
    tokens -= n;
    time -= cost(s.computed, n);
    chunks.push_back({&s, n});
    return true;
  };

  std::vector<sequence*> prompts, blocked;
  for (sequence* s : running_)
    if (!s->decodes() && s->remaining() > 0) {
      const bool last = s->draws(s->row_limit());
      (last && !s->has_credit() ? blocked : prompts).push_back(s);
    }
  for (sequence* s : blocked) park(*s);
  std::vector<std::uint32_t> reserved(leases_.size());
  for (sequence* s : prompts) {
    drop_behind_window(*s);
    for (std::size_t g = 0; g < leases_.size(); ++g) reserved[g] += outstanding_pages(*s, g);
  }
  bool more = true;
  for (sequence* s : prompts) {
    if (chunks.size() >= max_chunks_per_step || !more) break;
    if (affordable(*s, 1) > 0) more = choose(*s);
  }
  for (std::size_t n_admitted = 0; more && tokens > 0 && time > 0 && chunks.size() < max_chunks_per_step;
       ++n_admitted) {
    sequence* s = next_admission(reserved, chunks.size(), n_admitted);
    if (!s) break;
    more = choose(*s);
    if (!more) enqueue(*s);
  }
  for (chunk_choice& c : chunks) {
    const std::uint32_t position = c.s->computed + c.n;
    const std::uint32_t extra = std::min(c.s->row_limit() - c.n, largest(position));
    c.n += extra;
    tokens -= extra;
    time -= cost(position, extra);
  }
  return chunks;
}

/// The head of the queue, taken out of it, if a slot and its pages are there; null: nobody can enter now.
sequence* scheduler::next_admission(std::vector<std::uint32_t>& reserved, std::size_t n_chosen,
                                    std::size_t n_admitted) {
  while (sequence* head = waiting_.head()) {
    if (head->request->cancelled.load(std::memory_order_relaxed)) {
      end(*head, finish_reason::cancelled, errc::cancelled, "the request was cancelled");
      continue;
    }
    if (head->lookup_pending) return nullptr;
    if (head->draws(head->row_limit()) && !head->has_credit()) {
      park(*head);
      continue;
    }
    const bool alone = running_.empty() && n_chosen == 0;
    if (!find_pages_for(*head, reserved, alone) || !find_slot(n_admitted)) return nullptr;
    for (std::size_t g = 0; g < leases_.size(); ++g) reserved[g] += outstanding_pages(*head, g);
    waiting_.erase(*head);
    return head;
  }
  return nullptr;
}

bool scheduler::find_pages_for(const sequence& head, const std::vector<std::uint32_t>& reserved, bool alone) {
  for (;;) {
    collect_returns();
    bool enough = true, coming = false;
    for (std::size_t g = 0; g < leases_.size(); ++g) {
      const std::uint32_t need = reserved[g] + outstanding_pages(head, g) + (alone ? 0 : watermark(g));
      if (need <= leases_[g].n_stock()) continue;
      enough = false;
      if (available_[g] > 0) want_pages(g, need - leases_[g].n_stock());
      coming |= leases_[g].n_retiring() > 0;
    }
    if (enough) return true;
    if (coming || want_pending_ || n_lookups_ > 0) return false;
    sequence* idle = idle_holder(&head);
    if (!idle) return false;
    preempt(*idle);
  }
}

/// A slot beyond those that this plan's admissions will take. A parked sequence gives its slot up before one waits; it
/// keeps its pages.
bool scheduler::find_slot(std::size_t n_admitted) {
  if (free_slots_.size() > n_admitted) return true;
  sequence* last = nullptr;
  for (sequence* s : parked_)
    if (s->slot != no_slot && (!last || last->order < s->order)) last = s;
  if (!last) return false;
  release_slot(*last);
  return true;
}

void scheduler::attach(sequence& s) {
  s.slot = free_slots_.back();
  free_slots_.pop_back();
  at_slot_[s.slot] = &s;
  s.phase = phase::running;
  running_.insert(
      std::upper_bound(running_.begin(), running_.end(), &s, [](auto* a, auto* b) { return a->order < b->order; }), &s);
  if (s.admitted == 0) {
    s.admitted = std::max<time_ns>(now_, 1);
    s.n_cached = std::min(s.computed, s.n_prompt);
    counts_.cached_tokens += s.n_cached;
    step_shape prompt;
    prompt.add(s.computed, s.length() - s.computed);
    waiting_.charge(s.tenant,
                    costs_.calibrated() ? costs_.predict(prompt) - costs_.fixed() : 1000 * prompt.tokens);
  }
  s.reached = std::max(s.reached, s.computed);

  model::slot_admit& a = builder_.admit(s.slot, s.request->sampling, s.request->seed);
  a.prompt_length = s.n_prompt;
  a.history_offset = static_cast<std::uint32_t>(builder_.tokens.size());
  if (s.counts_history()) {
    a.history_count = s.length();
    builder_.tokens.insert(builder_.tokens.end(), s.tokens.begin(), s.tokens.end());
  }
  for (std::uint32_t g = 0; g < leases_.size(); ++g)
    for (std::uint32_t i = s.tables[g].first_live; i < s.tables[g].pages.size(); ++i)
      builder_.deltas.push_back({s.slot, g, i, s.tables[g].pages[i]});
}

void scheduler::add_row(sequence& s, std::uint32_t n) {
  const std::uint32_t start = s.computed, end = start + n;
  // Filled where it lies: a copy right after the single stores waits for them.
  model::plan_row& row = builder_.rows.emplace_back();
  row.slot = s.slot;
  row.kind = s.decodes() ? model::row_kind::decode : model::row_kind::chunk;
  row.position = start;
  row.n_tokens = n;
  row.output = model::row_output::none;
  row.gate = model::row_gate::none;
  const bool draws = s.draws(n);
  if (s.next_is_logits()) {
    row.output = model::row_output::logits;
    row.sink = s.sink;
    s.logits_planned = end;
  } else if (draws) {
    row.n_logprobs = s.n_logprobs;
    row.output = row.n_logprobs ? model::row_output::sample_logprobs : model::row_output::sample;
  }
  if (s.decodes() && s.on_slot) {
    row.input = model::row_input::last_token;
  } else {
    require(end <= s.length(), "a row needs a token that is not known");
    row.input = model::row_input::literal;
    row.token_offset = static_cast<std::uint32_t>(builder_.tokens.size());
    builder_.tokens.insert(builder_.tokens.end(), s.tokens.begin() + start, s.tokens.begin() + end);
  }
  take_pages(s, end);

  flight_row& f = next_.rows.emplace_back();
  f.id = s.id();
  f.slot = s.slot;
  f.generation = s.generation;
  f.start = start;
  f.end = end;
  f.draws = draws;
  f.finishes = s.max_output == 0 && end == s.n_prompt;
  next_.shape.add(start, n);
  s.last_plan = last_seq_ + 1;
  s.computed = end;
  if (draws) {
    ++s.in_flight;
    s.on_slot = true;
  }
  const std::uint32_t known = std::min(std::max(s.reached, start), end);
  counts_.recomputed_tokens += known - start;
  counts_.prompt_tokens += std::min(end, s.n_prompt) - std::min(known, s.n_prompt);
  s.reached = std::max(s.reached, end);
  // After the logits of the whole prompt its last token runs once more, to draw the first token of the answer from.
  if (row.output == model::row_output::logits && end == s.n_prompt && s.max_output > 0) s.computed = end - 1;
  account(s);
}

}  // namespace troupe::sched

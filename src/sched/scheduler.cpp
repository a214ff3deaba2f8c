#include "src/sched/scheduler.hpp"

#include <algorithm>
#include <cstddef>

#include "src/cache/invariant.hpp"

namespace troupe::sched {

using cache::no_page;
using cache::require;

namespace {

constexpr std::uint32_t no_result = std::numeric_limits<std::uint32_t>::max();

/// Pages that a window can touch at once: window tokens that start anywhere in a page.
std::uint32_t window_pages(std::uint32_t window) { return (window + page_tokens - 2) / page_tokens + 1; }

std::string count(std::uint64_t n, const char* what) { return std::to_string(n) + " " + what + (n == 1 ? "" : "s"); }

/// Why a row has no token, for the request that it ends.
std::string reason_of(std::uint32_t row_flags, std::uint32_t position) {
  const std::string where = " at position " + std::to_string(position);
  if (row_flags & model::row_failed)
    return "the model computed a number that is not finite" + where +
           ": the weights or the prompt do not suit this number format";
  if (row_flags & model::row_nothing_allowed) return "the token mask" + where + " allows no token";
  return "the token mask" + where + " did not come in time";
}

bool by_order(const sequence* a, const sequence* b) { return a->order < b->order; }

}  // namespace

scheduler::scheduler(model::rank_shape shape, scheduler_options options)
    : shape_(std::move(shape)), options_(std::move(options)), graphs_(shape_.graph_sizes, options_.warm_up) {
  if (shape_.max_slots == 0 || shape_.max_batched_tokens == 0 || shape_.depth == 0 || shape_.max_model_len == 0)
    throw error(errc::invalid_argument, "scheduler: the ranks have no slots, tokens or depth");
  if (shape_.groups.size() != shape_.n_pages.size())
    throw error(errc::invalid_argument, "scheduler: the ranks do not say how many pages each KV group has");
  for (std::uint32_t n : shape_.n_pages)
    if (n == 0) throw error(errc::invalid_argument, "scheduler: a KV group has no pages: give the cache more memory");
  if (options_.max_batched_tokens == 0 || options_.max_batched_tokens > shape_.max_batched_tokens)
    options_.max_batched_tokens = shape_.max_batched_tokens;
  options_.min_chunk = std::max(options_.min_chunk, 1u);
  for (slot_id i = shape_.max_slots; i-- > 0;) free_slots_.push_back(i);
  for (std::uint32_t n : shape_.n_pages) leases_.emplace_back(n);
  available_ = shape_.n_pages;
  promised_.resize(leases_.size());
  returned_.resize(leases_.size());
  output_.returns.resize(leases_.size());
  result_of_.assign(shape_.max_slots, no_result);
  at_slot_.assign(shape_.max_slots, nullptr);
}

scheduler::~scheduler() = default;

sequence* scheduler::find(request_id id) const {
  auto it = sequences_.find(id);
  return it == sequences_.end() ? nullptr : it->second.get();
}

/// Positions that the pages can hold for one sequence that has them all.
std::uint32_t scheduler::capacity_tokens() const {
  std::uint64_t n = shape_.max_model_len;
  for (std::size_t g = 0; g < leases_.size(); ++g) {
    const std::uint32_t window = shape_.groups[g].window;
    if (window == 0 || shape_.n_pages[g] < window_pages(window))
      n = std::min<std::uint64_t>(n, std::uint64_t{shape_.n_pages[g]} * page_tokens);
  }
  return static_cast<std::uint32_t>(n);
}

void scheduler::refuse(const request_ptr& r, errc code, std::string message) {
  token_event e;
  e.id = r->id;
  e.shard = r->shard;
  e.reason = code == errc::cancelled ? finish_reason::cancelled : finish_reason::error;
  e.code = code;
  e.message = std::move(message);
  output_.events.push_back(std::move(e));
}

void scheduler::submit(request_ptr r) {
  require(r && !sequences_.contains(r->id), "a request was submitted twice");
  if (failed_) return refuse(r, failure_, failure_message_);
  if (draining_) return refuse(r, errc::draining, "the engine is shutting down: send the request elsewhere");
  if (r->cancelled.load(std::memory_order_relaxed)) return refuse(r, errc::cancelled, "the request was cancelled");
  if (r->prompt.empty()) return refuse(r, errc::invalid_argument, "the prompt has no tokens: give it at least one");
  for (token_id t : r->prompt)
    if (t < 0 || static_cast<std::uint32_t>(t) >= shape_.vocab)
      return refuse(r, errc::invalid_argument,
                    "the prompt holds token id " + std::to_string(t) + ", the vocabulary ends before " +
                        std::to_string(shape_.vocab));

  // The last token of an answer is never computed, so generation reaches one token further than the pages.
  const std::uint64_t n_prompt = r->prompt.size();
  const bool generates = !r->max_tokens || *r->max_tokens > 0;
  const std::uint32_t capacity = capacity_tokens();
  const bool by_pages = capacity + 1 < shape_.max_model_len;
  const std::uint64_t limit = std::min<std::uint64_t>(shape_.max_model_len, std::uint64_t{capacity} + generates);
  const std::string limit_name =
      by_pages ? "the " + count(limit, "token") + " that the KV cache holds (--kv-cache-memory-bytes)"
               : "the context of " + count(limit, "token") + " (--max-model-len)";
  if (n_prompt + generates > limit)
    return refuse(r, errc::context_exceeded,
                  "the prompt has " + count(n_prompt, "token") +
                      (generates ? " and leaves no room for an answer in " : ", more than ") + limit_name +
                      ": shorten the prompt");
  if (r->max_tokens && n_prompt + *r->max_tokens > limit)
    return refuse(r, errc::context_exceeded,
                  "the prompt has " + count(n_prompt, "token") + " and max_tokens is " +
                      std::to_string(*r->max_tokens) + ", together more than " + limit_name +
                      ": shorten the prompt or lower max_tokens");

  auto owned = std::make_unique<sequence>();
  sequence& s = *owned;
  s.order = {options_.by_priority ? r->priority : 0, ++arrivals_};
  s.number = r->id;
  s.sink = r->sink;
  s.shard = r->shard;
  s.n_logprobs = r->n_logprobs;
  s.tenant = r->tenant;
  s.can_stop = !r->stop_token_ids.empty() || (!r->ignore_eos && !options_.eos_tokens.empty());
  s.tokens = r->prompt;
  s.n_prompt = static_cast<std::uint32_t>(n_prompt);
  s.max_output = r->max_tokens ? *r->max_tokens : static_cast<std::uint32_t>(limit - n_prompt);
  s.credits = r->credits == unlimited_credits ? std::numeric_limits<std::int64_t>::max() / 2 : r->credits;
  s.tables.resize(leases_.size());
  if (r->deadline != no_deadline) alarms_.insert({r->deadline, r->id, false});
  waiting_.enter(r->tenant);
  s.request = std::move(r);
  sequences_.emplace(s.id(), std::move(owned));
  enqueue(s);
  look_up_ahead();
}

void scheduler::enqueue(sequence& s) {
  s.phase = phase::waiting;
  waiting_.push(s);
}

/// Takes it out of whichever list its phase says.
void scheduler::leave_list(sequence& s) {
  if (s.phase == phase::waiting) waiting_.erase(s);
  if (s.phase == phase::running) std::erase(running_, &s);
  if (s.phase == phase::parked) std::erase(parked_, &s);
}

void scheduler::end(sequence& s, token_event e) {
  e.id = s.id();
  e.shard = s.shard;
  e.n_cached = s.n_cached;
  e.admitted = s.admitted;
  leave_list(s);
  offer(s, true);
  drop_pages(s);
  release_slot(s);
  if (s.request->deadline != no_deadline) alarms_.erase({s.request->deadline, s.id(), false});
  set_stall(s, no_deadline);
  waiting_.leave(s.request->tenant);
  sequences_.erase(s.id());
  output_.events.push_back(std::move(e));
}

void scheduler::end(sequence& s, finish_reason reason, token_id token, float logprob) {
  token_event e;
  e.reason = reason;
  e.token = token;
  e.logprob = logprob;
  end(s, std::move(e));
}

void scheduler::end(sequence& s, finish_reason reason, errc code, std::string message) {
  token_event e;
  e.reason = reason;
  e.code = code;
  e.message = std::move(message);
  end(s, std::move(e));
}

void scheduler::end_all(finish_reason reason, errc code, const std::string& message) {
  std::vector<sequence*> all;
  for (const auto& [id, s] : sequences_) all.push_back(s.get());
  std::sort(all.begin(), all.end(), [](auto* a, auto* b) { return a->order.arrival < b->order.arrival; });
  for (sequence* s : all) end(*s, reason, code, message);
}

void scheduler::cancel(request_id id) {
  if (sequence* s = find(id)) end(*s, finish_reason::cancelled, errc::cancelled, "the request was cancelled");
}

void scheduler::finish(request_id id, std::uint32_t n_tokens) {
  sequence* s = find(id);
  if (!s) return;
  counts_.surplus_tokens += s->n_output() - std::min(n_tokens, s->n_output());
  end(*s, finish_reason::stop);
}

void scheduler::set_stall(sequence& s, time_ns at) {
  if (s.stall_at != no_deadline) alarms_.erase({s.stall_at, s.id(), true});
  s.stall_at = at;
  if (at != no_deadline) alarms_.insert({at, s.id(), true});
}

void scheduler::park(sequence& s) {
  leave_list(s);
  s.phase = phase::parked;
  parked_.push_back(&s);
  set_stall(s, now_ + std::min(s.request->stall_limit, no_deadline - 1 - now_));
}

void scheduler::unpark(sequence& s) {
  leave_list(s);
  set_stall(s, no_deadline);
  if (s.slot != no_slot) {
    s.phase = phase::running;
    running_.insert(std::upper_bound(running_.begin(), running_.end(), &s, by_order), &s);
  } else if (s.in_flight) {
    s.phase = phase::settling;
  } else {
    enqueue(s);
  }
}

void scheduler::resume(request_id id, std::uint32_t n_tokens, time_ns now) {
  now_ = std::max(now_, now);
  sequence* s = find(id);
  if (!s || n_tokens == 0) return;
  if (s->request->credits != unlimited_credits) s->credits += n_tokens;
  if (s->phase != phase::parked) return;
  set_stall(*s, now_ + std::min(s->request->stall_limit, no_deadline - 1 - now_));
  // What lost its pages is recomputed from the start: not for a reader that takes a token at a time. A reader that
  // empties its buffer gets all credits back, so the threshold is always reached.
  const bool resident = s->slot != no_slot || s->computed > 0;
  const std::int64_t enough = resident ? s->in_flight + 1 : std::max<std::int64_t>(1, s->request->credits / 2);
  if (s->credits >= enough && s->has_credit()) unpark(*s);
}

void scheduler::drain(time_ns deadline) {
  draining_ = true;
  drain_deadline_ = std::min(drain_deadline_, deadline);
}

void scheduler::fail_all(errc code, const std::string& message) {
  failed_ = true;
  failure_ = code;
  failure_message_ = message;
  try {
    flights_.clear();
    last_done_ = last_seq_;
    for (cache::page_lease& l : leases_) l.plans_done(last_done_);
    end_all(finish_reason::error, code, message);
    for (cache::page_lease& l : leases_) l.return_stock();
  } catch (const error&) {
    // The books are broken, perhaps that is why we are here. The requests must end all the same.
    std::set<std::pair<std::uint64_t, request_id>> left;
    for (const auto& [id, s] : sequences_) left.emplace(s->order.arrival, id);
    for (const auto& [arrival, id] : left) refuse(sequences_.at(id)->request, code, message);
    running_.clear();
    parked_.clear();
    std::fill(at_slot_.begin(), at_slot_.end(), nullptr);
    alarms_.clear();
    waiting_ = {};
    sequences_.clear();
  }
  builder_.clear();
}

void scheduler::expire(time_ns now) {
  now_ = std::max(now_, now);
  if (now_ >= drain_deadline_ && !sequences_.empty())
    end_all(finish_reason::cancelled, errc::draining, "the engine shut down before the answer was complete");
  while (!alarms_.empty() && alarms_.begin()->at <= now_) {
    const alarm a = *alarms_.begin();
    sequence* s = find(a.id);
    require(s, "a deadline outlived its request");
    if (a.stall)
      end(*s, finish_reason::cancelled, errc::deadline_exceeded,
          "nothing was read from the stream for " + std::to_string(s->request->stall_limit / 1'000'000'000) +
              " s: the request was cancelled");
    else
      end(*s, finish_reason::cancelled, errc::deadline_exceeded,
          "the deadline passed after " + count(s->n_output(), "token") + ": allow more time or ask for fewer tokens");
  }
}

time_ns scheduler::next_deadline() const {
  const time_ns first = alarms_.empty() ? no_deadline : alarms_.begin()->at;
  return sequences_.empty() ? first : std::min(first, drain_deadline_);
}

bool scheduler::is_stop(const sequence& s, token_id t) const {
  if (!s.can_stop) return false;
  const auto& ids = s.request->stop_token_ids;
  if (std::find(ids.begin(), ids.end(), t) != ids.end()) return true;
  const auto& eos = options_.eos_tokens;
  return !s.request->ignore_eos && std::find(eos.begin(), eos.end(), t) != eos.end();
}

void scheduler::take_token(sequence& s, const model::row_result& r) {
  --s.in_flight;
  if (r.token < 0 || static_cast<std::uint32_t>(r.token) >= shape_.vocab)
    return end(s, finish_reason::error, errc::internal,
               "a rank drew token id " + std::to_string(r.token) + ", which the vocabulary does not have");
  --s.credits;
  s.tokens.push_back(r.token);
  ++counts_.output_tokens;
  if (is_stop(s, r.token)) return end(s, finish_reason::stop, r.token, r.logprob);
  if (s.n_output() == s.max_output) return end(s, finish_reason::length, r.token, r.logprob);
  token_event& e = output_.events.emplace_back();
  e.id = s.id();
  e.shard = s.shard;
  e.token = r.token;
  e.logprob = r.logprob;
  if (s.phase == phase::settling && s.in_flight == 0) enqueue(s);
}

void scheduler::row_done(const flight_row& row, const model::row_result* r) {
  sequence* s = sequence_of(row);
  if (!s) {
    counts_.surplus_tokens += row.draws;
    return;
  }
  if (r && r->flags) return end(*s, finish_reason::error, errc::internal, reason_of(r->flags, row.end - 1));
  if (row.generation == s->generation) s->confirmed = std::max(s->confirmed, row.end);
  if (row.finishes) return end(*s, finish_reason::length);
  if (!row.draws) return;
  if (!r) return end(*s, finish_reason::error, errc::internal, "a rank answered a step without the token of a row");
  if (s->n_offered < s->n_prompt / page_tokens && s->confirmed >= s->n_prompt) offer(*s, false);
  take_token(*s, *r);
}

void scheduler::charge(const flight& f, double device_ns) {
  const double total = costs_.predict(f.shape), n = static_cast<double>(f.rows.size());
  const double each = total > 0 ? (costs_.fixed() / n + costs_.per_token()) / total * device_ns : device_ns / n;
  const double per_position = total > 0 ? costs_.per_work() / total * device_ns : 0;
  std::uint64_t tenant = 0;
  double sum = 0;
  for (const flight_row& row : f.rows) {
    const sequence* s = sequence_of(row);
    if (!s || row.end - row.start != 1) continue;  // prompts were paid at admission
    if (s->tenant != tenant) {
      if (sum > 0) waiting_.charge(tenant, sum);
      tenant = s->tenant;
      sum = 0;
    }
    sum += each + per_position * (row.start + 1.0);
  }
  if (sum > 0) waiting_.charge(tenant, sum);
}

/// Asks the memory for what a step will touch of its sequences, all of it at once: misses in line would be the most of its
/// time. First the sequences, then what they point to.
void scheduler::fetch(const std::vector<flight_row>& rows) const {
  constexpr std::size_t ahead = 8;
  auto lines = [](const void* p, std::size_t bytes) {
    for (std::size_t i = 0; i < bytes; i += 64) __builtin_prefetch(static_cast<const char*>(p) + i, 1);
  };
  for (std::size_t i = 0; i < rows.size() + ahead; ++i) {
    if (i < rows.size())
      if (const sequence* s = at_slot_[rows[i].slot]) lines(s, offsetof(sequence, logits_planned));
    if (i < ahead) continue;
    if (const sequence* s = at_slot_[rows[i - ahead].slot]) {
      lines(s->tokens.data() + s->tokens.size(), 1);
      lines(s->tables.data(), 1);
      __builtin_prefetch(&s->request->cancelled);
    }
  }
}

void scheduler::on_step_done(const model::step_done& done) {
  if (failed_) return;
  require(!flights_.empty() && flights_.front().seq == done.seq, "a step was done that is not the oldest in flight");
  flight f = std::move(flights_.front());
  flights_.pop_front();
  last_done_ = done.seq;
  for (cache::page_lease& l : leases_) l.plans_done(last_done_);
  if (f.kind == model::plan_kind::warm_up) return;
  ++counts_.steps;
  if (f.kind == model::plan_kind::stop) {
    drained_ = true;
    for (cache::page_lease& l : leases_) l.return_stock();
    return;
  }
  costs_.observe(f.shape, static_cast<double>(done.device_ns));
  fetch(f.rows);
  charge(f, static_cast<double>(done.device_ns));
  for (std::uint32_t i = 0; i < done.rows.size(); ++i) {
    require(done.rows[i].slot < result_of_.size(), "a step answered for a slot that does not exist");
    result_of_[done.rows[i].slot] = i;
  }
  for (const flight_row& row : f.rows) {
    const std::uint32_t i = result_of_[row.slot];
    row_done(row, i == no_result ? nullptr : &done.rows[i]);
  }
  for (const model::row_result& r : done.rows) result_of_[r.slot] = no_result;
  f.rows.clear();
  f.shape = {};
  spare_ = std::move(f);
}

scheduler_output& scheduler::output() {
  collect_returns();
  return output_;
}

scheduler_status scheduler::status() const {
  scheduler_status st = counts_;
  st.n_requests = sequences_.size();
  st.n_running = running_.size();
  st.n_waiting = waiting_.size();
  st.n_parked = parked_.size();
  for (std::size_t g = 0; g < leases_.size(); ++g) {
    st.n_pages += shape_.n_pages[g];
    st.n_free_pages += leases_[g].n_stock() + available_[g];
  }
  return st;
}

time_ns scheduler::stall_bound() const {
  if (!costs_.calibrated()) return 0;
  if (options_.step_budget == 0) {
    step_shape full;
    full.add(shape_.max_model_len - std::min(shape_.max_model_len, options_.max_batched_tokens),
             options_.max_batched_tokens);
    return static_cast<time_ns>(costs_.predict(full));
  }
  step_shape decodes, smallest;
  for (const sequence* s : running_)
    if (s->decodes()) decodes.add(s->computed, 1);
  smallest.add(shape_.max_model_len, page_tokens);
  return static_cast<time_ns>(std::max(static_cast<double>(options_.step_budget), decode_stretch * costs_.predict(decodes)) +
                              costs_.predict(smallest) - costs_.fixed());
}

}  // namespace troupe::sched

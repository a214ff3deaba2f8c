#include "tests/sched/fake_rank.hpp"

#include <algorithm>

namespace troupe::test {

using model::plan_row;
using model::row_input;
using model::row_output;

std::uint64_t extend(std::uint64_t state, token_id t) {
  state ^= static_cast<std::uint64_t>(t) + 0x9e3779b97f4a7c15u + (state << 6) + (state >> 2);
  state *= 0xbf58476d1ce4e5b9u;
  return state ^ (state >> 29);
}

token_id draw(std::uint64_t state, std::uint64_t seed, std::uint32_t vocab) {
  return static_cast<token_id>(extend(state ^ (seed * 0x94d049bb133111ebu), 7) % vocab);
}

std::vector<token_id> lone_run(const std::vector<token_id>& prompt, std::uint64_t seed, std::uint32_t vocab,
                               std::uint32_t max_tokens, const std::vector<token_id>& stop) {
  std::uint64_t state = start_state;
  for (token_id t : prompt) state = extend(state, t);
  std::vector<token_id> out;
  while (out.size() < max_tokens) {
    out.push_back(draw(state, seed, vocab));
    if (std::find(stop.begin(), stop.end(), out.back()) != stop.end()) break;
    state = extend(state, out.back());
  }
  return out;
}

std::uint32_t fake_rank::first_page(std::size_t g, std::int64_t position) const {
  const std::int64_t w = shape_.groups[g].window;
  return w == 0 || position + 1 <= w ? 0 : static_cast<std::uint32_t>((position + 1 - w) / page_tokens);
}

/// The pages that a row writes belong to it alone: no other slot reads or writes them, now or in a plan in flight.
void fake_rank::check_writes(const plan_row& r, const slot& s) {
  const std::uint32_t first = r.position / page_tokens, last = (r.position + r.n_tokens - 1) / page_tokens;
  for (std::size_t g = 0; g < pages_.size(); ++g)
    for (std::uint32_t i = first; i <= last; ++i) {
      if (i >= s.tables[g].size() || s.tables[g][i] >= shape_.n_pages[g]) {
        breach("a row has no page to write to");
        continue;
      }
      const page_id p = s.tables[g][i];
      for (slot_id other = 0; other < slots_.size(); ++other) {
        const slot& o = slots_[other];
        if (!o.bound || other == r.slot) continue;
        for (std::size_t k = first_page(g, std::max<std::int64_t>(o.next, 0)); k < o.tables[g].size(); ++k)
          if (o.tables[g][k] == p) breach("two slots hold page " + std::to_string(p));
      }
      for (const resolved_plan& flying : plans_)
        for (const resolved_row& f : flying.rows) {
          if (f.seed == s.seed) continue;
          for (std::size_t k = first_page(g, f.row.position); k < f.tables[g].size(); ++k)
            if (f.tables[g][k] == p)
              breach("page " + std::to_string(p) + " is written while a plan in flight reads it");
        }
    }
}

void fake_rank::launch(const model::step_plan& plan) {
  auto parsed = model::step_plan_view::parse(plan.bytes());
  if (!parsed) return breach(parsed.error().message);
  const model::step_plan_view v = *parsed;
  if (v.seq() != seq_ + 1) breach("its number does not follow");
  seq_ = v.seq();
  if (plans_.size() >= shape_.depth) breach("too many plans in flight");
  if (v.n_tokens() > shape_.max_batched_tokens) breach("more tokens than a step may have");

  for (slot_id s : v.releases()) {
    if (s >= slots_.size() || !slots_[s].bound) {
      breach("releases a slot that is not bound");
      continue;
    }
    slots_[s] = {};
  }
  for (const auto& a : v.admits()) {
    if (a.slot >= slots_.size() || slots_[a.slot].bound) {
      breach("admits to a slot that is bound");
      continue;
    }
    slot& s = slots_[a.slot];
    s.bound = true;
    s.seed = a.seed;
    s.prompt_length = a.prompt_length;
    s.tables.resize(pages_.size());
    const auto t = v.tokens().subspan(a.history_offset, a.history_count);
    s.history.assign(t.begin(), t.end());
  }
  for (const auto& d : v.deltas()) {
    if (d.slot >= slots_.size() || !slots_[d.slot].bound || d.group >= pages_.size() ||
        d.page >= shape_.n_pages[d.group]) {
      breach("a page delta names what does not exist");
      continue;
    }
    auto& table = slots_[d.slot].tables[d.group];
    if (d.index >= table.size()) table.resize(d.index + 1, static_cast<page_id>(-1));
    table[d.index] = d.page;
  }
  resolved_plan out{seq_, {}};
  std::set<slot_id> seen;
  for (const plan_row& r : v.rows()) {
    if (r.slot >= slots_.size() || !slots_[r.slot].bound) {
      breach("a row of a slot that is not bound");
      continue;
    }
    if (!seen.insert(r.slot).second) breach("two rows of one slot");
    slot& s = slots_[r.slot];
    const bool again = r.output != row_output::logits && s.next == r.position + 1 && s.next == s.prompt_length;
    if (s.next >= 0 && s.next != r.position && !again) breach("a row does not begin where the last one ended");
    if (r.position + r.n_tokens > shape_.max_model_len) breach("a row goes beyond the context");
    check_writes(r, s);
    s.next = r.position + r.n_tokens;
    resolved_row x{r, s.seed, {}, s.tables};
    if (r.input == row_input::literal) {
      const auto t = v.tokens_of(r);
      x.literals.assign(t.begin(), t.end());
    }
    out.rows.push_back(std::move(x));
  }
  plans_.push_back(std::move(out));
}

const fake_rank::cell* fake_rank::look(const resolved_row& x, std::size_t g, std::uint32_t position) const {
  const std::uint32_t i = position / page_tokens;
  if (i >= x.tables[g].size() || x.tables[g][i] >= pages_[g].size()) return nullptr;
  return &pages_[g][x.tables[g][i]].cells[position % page_tokens];
}

model::step_done fake_rank::run(const std::set<std::uint64_t>& failing) {
  const resolved_plan plan = std::move(plans_.front());
  plans_.pop_front();
  model::step_done done;
  done.seq = plan.seq;
  for (const resolved_row& x : plan.rows) {
    const plan_row& r = x.row;
    for (std::uint32_t i = 0; i < r.n_tokens; ++i) {
      const std::uint32_t position = r.position + i;
      const token_id t = r.input == row_input::literal ? x.literals[i] : last_token_[r.slot];
      if (t < 0) breach("a row continues a token that was never drawn");
      // Attention: everything that the group can see must be there, whole and of this very sequence.
      std::uint64_t state = start_state;
      for (std::size_t g = 0; g < pages_.size(); ++g) {
        const std::uint32_t w = shape_.groups[g].window;
        std::uint64_t at = start_state;
        bool first = true;
        for (std::uint32_t q = w && position + 1 > w ? position + 1 - w : 0; q < position; ++q) {
          const cell* c = look(x, g, q);
          if (!c || c->position != q || (!first && c->state != extend(at, c->token))) {
            breach("position " + std::to_string(q) + " of a row at " + std::to_string(position) +
                   " is not in its page");
            break;
          }
          if (first && q == 0 && c->state != extend(start_state, c->token)) breach("the first token is another one's");
          at = c->state;
          first = false;
        }
        if (g == 0) state = at;
        if (position > 0 && at != state) breach("the groups disagree about a sequence");
      }
      state = extend(state, t);
      for (std::size_t g = 0; g < pages_.size(); ++g)
        if (const cell* c = look(x, g, position)) *const_cast<cell*>(c) = {position, t, state};
      if (r.output == row_output::logits) ++logits[r.sink][position];
      if (i + 1 == r.n_tokens && (r.output == row_output::sample || r.output == row_output::sample_logprobs)) {
        const token_id drawn = draw(state, x.seed, shape_.vocab);
        last_token_[r.slot] = drawn;
        const bool fails = failing.contains(x.seed);
        done.rows.push_back({r.slot, drawn, fails ? std::uint32_t{model::row_failed} : 0u, -0.5f});
      }
    }
  }
  return done;
}

}  // namespace troupe::test

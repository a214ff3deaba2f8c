// The pages of the sequences: taking them, giving them back, and who has to when there are not enough.
#include <algorithm>
#include <utility>

#include "src/cache/invariant.hpp"
#include "src/sched/scheduler.hpp"

namespace troupe::sched {

using cache::no_page;
using cache::require;

/// The first page that a token at `position` still attends to.
std::uint32_t scheduler::first_page_of(std::size_t g, std::uint32_t position) const {
  const std::uint32_t window = shape_.groups[g].window;
  return window == 0 || position + 1 <= window ? 0 : (position + 1 - window) / page_tokens;
}

std::uint32_t scheduler::new_pages(const sequence& s, std::size_t g, std::uint32_t end) const {
  const std::uint32_t have = static_cast<std::uint32_t>(s.tables[g].pages.size());
  return pages_for(end) - std::min(have, pages_for(end));
}

/// Pages that the sequence has still to take until its known tokens are computed. A window group gives pages back on
/// the way, so it needs no more than a window and a step at a time.
std::uint32_t scheduler::outstanding_pages(const sequence& s, std::size_t g) const {
  const std::uint32_t all = new_pages(s, g, s.planned_length());
  const std::uint32_t window = shape_.groups[g].window;
  if (window == 0) return all;
  const std::uint32_t live = static_cast<std::uint32_t>(s.tables[g].pages.size()) - s.tables[g].first_live;
  const std::uint32_t most = std::min(pages_for(window + options_.max_batched_tokens) + 1, shape_.n_pages[g]);
  return std::min(all, most - std::min(most, live));
}

/// How many of n tokens the pages at hand allow.
std::uint32_t scheduler::affordable(const sequence& s, std::uint32_t n) const {
  std::uint64_t fit = n;
  for (std::size_t g = 0; g < leases_.size(); ++g)
    fit = std::min<std::uint64_t>(
        fit, (s.tables[g].pages.size() + std::uint64_t{leases_[g].n_stock()}) * page_tokens - s.computed);
  return static_cast<std::uint32_t>(fit);
}

void scheduler::take_pages(sequence& s, std::uint32_t end) {
  for (std::uint32_t g = 0; g < leases_.size(); ++g) {
    auto& pages = s.tables[g].pages;
    while (pages.size() < pages_for(end)) {
      const page_id p = leases_[g].take();
      builder_.deltas.push_back({s.slot, g, static_cast<std::uint32_t>(pages.size()), p});
      pages.push_back(p);
    }
  }
}

/// Gives back what no row from s.computed on will read.
void scheduler::drop_behind_window(sequence& s) {
  bool dropped = false;
  for (std::size_t g = 0; g < leases_.size(); ++g) {
    if (shape_.groups[g].window == 0) continue;
    page_table& t = s.tables[g];
    const std::uint32_t end = std::min(first_page_of(g, s.computed), static_cast<std::uint32_t>(t.pages.size()));
    for (; t.first_live < end; ++t.first_live) {
      page_id& p = t.pages[t.first_live];
      if (p != no_page) leases_[g].retire(p, s.last_plan, last_done_);
      p = no_page;
      dropped = true;
    }
  }
  if (dropped) account(s);
}

void scheduler::drop_pages(sequence& s) {
  for (std::size_t g = 0; g < leases_.size(); ++g) {
    for (page_id p : s.tables[g].pages)
      if (p != no_page) leases_[g].retire(p, s.last_plan, last_done_);
    s.tables[g] = {};
  }
  s.computed = s.confirmed = 0;
  s.n_hit = s.n_offered = 0;
  ++s.generation;
  account(s);
}

/// Brings the sequence's share of the status up to date: after every change of `computed` and of the first group's pages.
void scheduler::account(sequence& s) {
  if (s.tables.empty()) return;
  const page_table& t = s.tables[0];
  const std::uint32_t behind = t.first_live * page_tokens;
  const std::uint32_t pages = static_cast<std::uint32_t>(t.pages.size()) * page_tokens;
  const std::uint32_t used = pages ? s.computed - std::min(s.computed, behind) : 0;
  counts_.used_tokens += used;
  counts_.used_tokens -= std::exchange(s.used_tokens, used);
  counts_.used_page_tokens += pages - behind;
  counts_.used_page_tokens -= std::exchange(s.used_page_tokens, pages - behind);
}

void scheduler::release_slot(sequence& s) {
  if (s.slot == no_slot) return;
  builder_.releases.push_back(s.slot);
  at_slot_[s.slot] = nullptr;
  free_slots_.push_back(s.slot);
  s.slot = no_slot;
  s.on_slot = false;
}

/// Takes pages and slot from a sequence; it keeps its tokens, and draws the same ones after them when it has been
/// computed again.
void scheduler::preempt(sequence& s) {
  if (s.reached > 0) ++counts_.preemptions;
  offer(s, true);
  drop_pages(s);
  release_slot(s);
  s.lookup_version = index_version_;  // not looked up again before the index has something new
  if (s.phase != phase::running) return;
  leave_list(s);
  if (s.in_flight)
    s.phase = phase::settling;
  else
    enqueue(s);
}

/// The sequence that holds pages without using them and is missed least: first those that wait, then the parked ones.
sequence* scheduler::idle_holder(const sequence* spared) const {
  sequence* worst = nullptr;
  auto consider = [&](sequence& s) {
    if (&s != spared && s.has_pages() && (!worst || worst->order < s.order)) worst = &s;
  };
  waiting_.for_each(consider);
  if (worst) return worst;
  for (sequence* s : parked_) consider(*s);
  return worst;
}

/// Are the pages that the sequence lacks on their way to the stock? Counts them as promised.
bool scheduler::is_coming(const sequence& s, std::uint32_t end) {
  collect_returns();
  for (std::size_t g = 0; g < leases_.size(); ++g) {
    const std::uint32_t need = new_pages(s, g, end);
    if (need <= leases_[g].n_stock()) continue;
    const std::uint32_t lack = need - leases_[g].n_stock();
    if (available_[g] > 0) want_pages(g, lack);
    // A hit on its way holds pages that its sequence can be made to give back.
    if (want_pending_ || n_lookups_ > 0) continue;
    if (leases_[g].n_retiring() < promised_[g] + lack) return false;
    promised_[g] += lack;
  }
  return true;
}

/// Finds pages for one more token of a decoding sequence. False: it has to wait, or was itself preempted.
bool scheduler::make_room(sequence& s) {
  while (affordable(s, 1) == 0) {
    starved_ = true;
    if (is_coming(s, s.computed + 1)) return false;
    if (sequence* idle = idle_holder(nullptr)) {
      preempt(*idle);
      continue;
    }
    sequence& last = *running_.back();
    require(&last != &s || running_.size() > 1 || !flights_.empty(), "a lone sequence does not fit");
    preempt(last);
    if (&last == &s) return false;
  }
  return true;
}

/// Nothing could be planned and nothing is on its way: the running prompts hold each other's pages. True: somebody gave
/// way.
bool scheduler::relieve() {
  if (running_.empty()) return false;
  refill();
  if (want_pending_ || n_lookups_ > 0) return false;
  sequence* victim = idle_holder(nullptr);
  if (!victim) {
    require(running_.size() > 1, "a lone prompt does not fit");
    victim = running_.back();
  }
  preempt(*victim);
  return true;
}

std::uint32_t scheduler::watermark(std::size_t g) const {
  return static_cast<std::uint32_t>(options_.watermark * shape_.n_pages[g]);
}

void scheduler::want_pages(std::size_t g, std::uint32_t n) {
  if (want_pending_ && output_.want.empty()) return;
  want_pending_ = true;
  output_.want.resize(leases_.size());
  output_.want[g] = std::max(output_.want[g], std::min(std::max(n, shape_.n_pages[g] / 16), available_[g]));
}

/// Keeps the stock ahead of what decoding takes, so that no plan waits for the cache.
void scheduler::refill() {
  collect_returns();
  if (want_pending_ || failed_ || stopped_) return;
  for (std::size_t g = 0; g < leases_.size(); ++g) {
    if (available_[g] == 0) continue;
    // Without a prefix cache there is no better use for a page than the stock.
    const std::uint32_t low = watermark(g) + static_cast<std::uint32_t>(running_.size()) + 1;
    if (!options_.prefix_cache)
      want_pages(g, available_[g]);
    else if (leases_[g].n_stock() < low)
      want_pages(g, 2 * low - leases_[g].n_stock());
  }
}

void scheduler::lease_granted(const cache::page_lists& pages, std::span<const std::uint32_t> available) {
  require(pages.size() == leases_.size() && available.size() == leases_.size(), "a lease does not name every group");
  want_pending_ = false;
  for (std::size_t g = 0; g < leases_.size(); ++g) {
    for (page_id p : pages[g]) leases_[g].add(p);
    // The answer may not know yet what was returned meanwhile. If it does, the next want corrects the count.
    available_[g] = available[g] + std::exchange(returned_[g], 0);
    if (failed_ || drained_) leases_[g].return_stock();
  }
}

void scheduler::collect_returns() {
  for (std::size_t g = 0; g < leases_.size(); ++g) {
    auto& back = leases_[g].returns;
    available_[g] += static_cast<std::uint32_t>(back.size());
    if (want_pending_) returned_[g] += static_cast<std::uint32_t>(back.size());
    output_.returns[g].insert(output_.returns[g].end(), back.begin(), back.end());
    back.clear();
  }
}

void scheduler::offer(sequence& s, bool last) {
  if (!options_.prefix_cache || failed_ || s.sink != no_sink) return;
  const std::uint32_t n = std::min(s.confirmed, s.length()) / page_tokens;
  if (n <= (last ? s.n_hit : s.n_offered)) return;
  prefix_offer o;
  o.tokens = std::make_shared<std::vector<token_id>>(s.tokens.begin(), s.tokens.begin() + n * page_tokens);
  o.salt = s.request->cache_salt;
  o.last = last;
  for (std::size_t g = 0; g < leases_.size(); ++g) {
    const auto& pages = s.tables[g].pages;
    o.pages.emplace_back(pages.begin(), pages.begin() + n);
    for (page_id p : o.pages.back())
      if (p != no_page) leases_[g].publish(p);
  }
  output_.offers.push_back(std::move(o));
  if (n > s.n_offered) ++index_version_;
  s.n_offered = n;
}

void scheduler::look_up_ahead() {
  if (!options_.prefix_cache) return;
  int left = 4;
  waiting_.for_each([&](sequence& s) {
    if (left == 0 || s.lookup_pending || s.lookup_version >= index_version_ || s.sink != no_sink) return;
    if (s.computed + page_tokens >= s.length()) return;
    --left;
    ++n_lookups_;
    s.lookup_pending = true;
    s.lookup_version = index_version_;
    std::shared_ptr<const std::vector<token_id>> tokens;
    if (s.n_output() == 0)
      tokens = {s.request, &s.request->prompt};
    else
      tokens = std::make_shared<std::vector<token_id>>(s.tokens);
    // The last token is always computed: its logits are what the next one is drawn from.
    output_.queries.push_back({s.id(), std::move(tokens), s.length() - 1, s.request->cache_salt});
  });
}

void scheduler::prefix_hit(request_id id, std::uint32_t n_tokens, const cache::page_lists& pages) {
  require(pages.size() == leases_.size(), "a hit does not name every group");
  sequence* s = find(id);
  require(n_lookups_ > 0, "a hit nobody asked for");
  --n_lookups_;
  if (s) s->lookup_pending = false;
  if (!s || s->phase != phase::waiting || n_tokens <= s->computed || n_tokens >= s->length()) {
    for (std::size_t g = 0; g < leases_.size(); ++g)
      for (page_id p : pages[g])
        if (p != no_page) leases_[g].returns.push_back(p);
    return;
  }
  drop_pages(*s);
  for (std::size_t g = 0; g < leases_.size(); ++g) {
    require(pages[g].size() == n_tokens / page_tokens, "a hit does not have a page for each part of the prefix");
    page_table& t = s->tables[g];
    t.pages = pages[g];
    while (t.first_live < t.pages.size() && t.pages[t.first_live] == no_page) ++t.first_live;
    for (std::size_t i = t.first_live; i < t.pages.size(); ++i) leases_[g].share(t.pages[i]);
  }
  s->computed = s->confirmed = n_tokens;
  s->n_hit = s->n_offered = n_tokens / page_tokens;
  account(*s);
}

void scheduler::check() const {
  for (const cache::page_lease& l : leases_) l.check();
  require(free_slots_.size() <= shape_.max_slots && flights_.size() <= shape_.depth, "slots or plans miscounted");
}

void scheduler::audit() const {
  check();
  std::vector<int> slots(shape_.max_slots);
  for (slot_id s : free_slots_) ++slots[s];
  std::size_t listed = 0;
  std::uint64_t used_tokens = 0, used_page_tokens = 0;
  std::vector<std::vector<std::uint32_t>> refs;
  for (std::uint32_t n : shape_.n_pages) refs.emplace_back(n);
  for (const auto& [id, s] : sequences_) {
    listed += s->phase != phase::settling;
    if (s->slot != no_slot) ++slots[s->slot];
    require(s->slot == no_slot || at_slot_[s->slot] == s.get(), "a slot's sequence is another");
    if (!s->tables.empty() && !s->tables[0].pages.empty()) {
      const page_table& t = s->tables[0];
      const std::uint32_t behind = t.first_live * page_tokens;
      used_tokens += s->computed - std::min(s->computed, behind);
      used_page_tokens += t.pages.size() * page_tokens - behind;
    }
    require((s->slot != no_slot) <= (s->phase == phase::running || s->phase == phase::parked), "a slot is held idly");
    require((s->phase == phase::running) <= (s->slot != no_slot), "a sequence runs without a slot");
    require(s->confirmed <= s->computed + (s->sink != no_sink), "more is confirmed than computed");
    for (std::size_t g = 0; g < leases_.size(); ++g)
      for (page_id p : s->tables[g].pages)
        if (p != no_page) {
          ++refs[g][p];
          require(refs[g][p] == 1 || leases_[g].is_shared(p), "two sequences hold a page of one");
        }
  }
  require(used_tokens == counts_.used_tokens && used_page_tokens == counts_.used_page_tokens,
          "the tokens in use are miscounted");
  require(listed == running_.size() + parked_.size() + waiting_.size(), "a sequence is in no list or in two");
  require(std::is_sorted(running_.begin(), running_.end(), [](auto* a, auto* b) { return a->order < b->order; }),
          "running sequences are out of order");
  for (int n : slots) require(n == 1, "a slot is in no place or in two");
  for (std::size_t g = 0; g < leases_.size(); ++g) {
    leases_[g].audit();
    std::uint32_t used = 0;
    for (std::uint32_t n : refs[g]) used += n > 0;
    require(used == leases_[g].n_used(), "a page is in use that no sequence holds");
  }
}

}  // namespace troupe::sched

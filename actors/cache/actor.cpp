#include "actors/cache/actor.hpp"

#include <algorithm>

namespace troupe::cache {

void actor::on(lease_want&& want, outbox& out) {
  page_lists pages = store_.lease(want.n);
  std::vector<std::uint32_t> available = store_.available();
  // Between a last offer and the return of its pages a prefix may be unused and yet not evictable: a want that falls
  // short means that nothing is left.
  for (std::size_t g = 0; g < pages.size() && g < want.n.size(); ++g)
    if (pages[g].size() < want.n[g]) available[g] = 0;
  store_.check();
  out.granted(lease_granted(std::move(pages), std::move(available)));
}

void actor::on(lease_return&& back, outbox&) {
  store_.give_back(back.pages);
  store_.check();
}

void actor::on(prefix_lookup&& q, outbox& out) {
  prefix_match match{0, page_lists(store_.n_groups())};
  if (q.tokens) {
    const std::size_t n = std::min<std::size_t>(q.n_tokens, q.tokens->size());
    match = store_.lookup(std::span(*q.tokens).first(n), q.salt);
  }
  store_.check();
  out.hit(prefix_hit(q.id, match.n_tokens, std::move(match.pages)));
}

void actor::on(prefix_publish&& p, outbox&) {
  if (p.tokens) store_.publish(*p.tokens, p.salt, p.pages, p.last);
  store_.check();
}

}  // namespace troupe::cache

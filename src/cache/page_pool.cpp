#include "src/cache/page_pool.hpp"

#include <algorithm>

#include "src/cache/invariant.hpp"

namespace troupe::cache {

page_pool::page_pool(std::uint32_t n_pages) : pages_(n_pages), free_(n_pages) {
  // Lowest ids on top of the stack: small runs touch little memory.
  for (std::uint32_t i = 0; i < n_pages; ++i) free_[i] = n_pages - 1 - i;
}

const page_pool::page& page_pool::at(page_id p) const {
  require(p < pages_.size(), "page id out of range");
  return pages_[p];
}

std::uint32_t page_pool::lease(std::uint32_t n, std::vector<page_id>& to) {
  n = std::min(n, n_free());
  for (std::uint32_t i = 0; i < n; ++i) {
    const page_id p = free_.back();
    free_.pop_back();
    pages_[p].state = page_state::leased;
    to.push_back(p);
  }
  n_leased_ += n;
  return n;
}

void page_pool::release(page_id p) {
  page& x = at(p);
  require(x.state == page_state::leased, "a page was returned that is not leased");
  x.state = page_state::free;
  --n_leased_;
  free_.push_back(p);
}

void page_pool::index(page_id p) {
  page& x = at(p);
  require(x.state == page_state::leased, "a page was published that is not leased");
  x = {page_state::indexed, 1};
  --n_leased_;
  ++n_indexed_;
}

void page_pool::pin(page_id p) {
  page& x = at(p);
  require(x.state == page_state::indexed, "a page was pinned that is not indexed");
  if (x.pins++ == 0) --n_unpinned_;
}

void page_pool::unpin(page_id p) {
  page& x = at(p);
  require(x.state == page_state::indexed && x.pins > 0, "a page was unpinned that has no pin");
  if (--x.pins == 0) ++n_unpinned_;
}

void page_pool::evict(page_id p) {
  page& x = at(p);
  require(x.state == page_state::indexed && x.pins == 0, "a page was evicted that is in use");
  x.state = page_state::free;
  --n_indexed_;
  --n_unpinned_;
  free_.push_back(p);
}

void page_pool::check() const {
  require(free_.size() + n_leased_ + n_indexed_ == pages_.size(), "a page is in no state or in two");
  require(n_unpinned_ <= n_indexed_, "more pages are evictable than indexed");
}

void page_pool::audit() const {
  check();
  std::uint32_t n[3] = {};
  std::uint32_t unpinned = 0;
  for (const page& x : pages_) {
    ++n[static_cast<int>(x.state)];
    unpinned += x.state == page_state::indexed && x.pins == 0;
    require(x.state == page_state::indexed || x.pins == 0, "a page is pinned that is not indexed");
  }
  require(n[0] == n_free() && n[1] == n_leased_ && n[2] == n_indexed_ && unpinned == n_unpinned_,
          "the counts do not match the pages");
  std::vector<bool> seen(pages_.size());
  for (page_id p : free_) {
    require(at(p).state == page_state::free && !seen[p], "the free list holds a page twice or one in use");
    seen[p] = true;
  }
}

}  // namespace troupe::cache

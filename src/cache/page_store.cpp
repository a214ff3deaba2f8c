#include "src/cache/page_store.hpp"

#include <algorithm>
#include <utility>

#include "src/cache/invariant.hpp"

namespace troupe::cache {

page_store::page_store(std::vector<group_size> groups) : groups_(std::move(groups)), index_(groups_.size()) {
  for (const group_size& g : groups_) {
    pools_.emplace_back(g.n_pages);
    node_of_.emplace_back(g.n_pages, prefix_index::no_node);
  }
}

bool page_store::evict_leaf() {
  const prefix_index::node_id n = index_.oldest_leaf();
  if (n == prefix_index::no_node) return false;
  for (std::size_t g = 0; g < pools_.size(); ++g)
    if (const page_id p = index_.page(n, g); p != no_page) {
      pools_[g].evict(p);
      node_of_[g][p] = prefix_index::no_node;
    }
  index_.remove(n);
  return true;
}

/// Takes n unpinned pages of a window group out of nodes that stay, those used longest ago first.
void page_store::strip(std::size_t g, std::uint32_t n) {
  std::vector<std::pair<std::uint64_t, page_id>> idle;
  for (page_id p = 0; p < pools_[g].size(); ++p)
    if (pools_[g].is_indexed(p) && pools_[g].pins(p) == 0) idle.emplace_back(index_.last_use(node_of_[g][p]), p);
  n = std::min(n, static_cast<std::uint32_t>(idle.size()));
  std::partial_sort(idle.begin(), idle.begin() + n, idle.end());
  for (std::uint32_t i = 0; i < n; ++i) {
    const page_id p = idle[i].second;
    pools_[g].evict(p);
    index_.set_page(std::exchange(node_of_[g][p], prefix_index::no_node), g, no_page);
  }
}

page_lists page_store::lease(std::span<const std::uint32_t> want) {
  page_lists out(pools_.size());
  for (std::size_t g = 0; g < pools_.size() && g < want.size(); ++g) {
    while (pools_[g].n_free() < want[g] && pools_[g].n_evictable() > 0)
      if (!evict_leaf()) break;
    if (pools_[g].n_free() < want[g] && groups_[g].window) strip(g, want[g] - pools_[g].n_free());
    pools_[g].lease(want[g], out[g]);
  }
  return out;
}

std::vector<std::uint32_t> page_store::available() const {
  std::vector<std::uint32_t> n;
  for (const page_pool& p : pools_) n.push_back(p.n_free() + p.n_evictable());
  return n;
}

void page_store::give_back(const page_lists& pages) {
  require(pages.size() <= pools_.size(), "pages of a group that does not exist");
  for (std::size_t g = 0; g < pages.size(); ++g)
    for (const page_id p : pages[g]) {
      if (pools_[g].is_leased(p)) {
        pools_[g].release(p);
      } else {
        pools_[g].unpin(p);
        index_.unpin(node_of_[g][p]);
      }
    }
}

void page_store::pin(prefix_index::node_id n, std::size_t g) {
  pools_[g].pin(index_.page(n, g));
  index_.pin(n);
}

prefix_match page_store::lookup(std::span<const token_id> tokens, const std::string& salt) {
  prefix_match match{0, page_lists(pools_.size())};
  std::vector<prefix_index::node_id> path;
  prefix_index::node_id at = index_.root(salt);
  for (std::size_t i = 0; at != prefix_index::no_node && i + page_tokens <= tokens.size(); i += page_tokens) {
    at = index_.child(at, tokens.subspan(i, page_tokens));
    if (at != prefix_index::no_node) path.push_back(at);
  }
  // The first page that a hit of n pages needs in group g.
  auto first_needed = [&](std::size_t n, std::size_t g) -> std::size_t {
    const std::size_t length = n * page_tokens;
    const std::uint32_t w = groups_[g].window;
    return w == 0 || length <= w ? 0 : (length - w) / page_tokens;
  };
  std::size_t n = path.size();
  for (std::size_t g = 0; g < pools_.size() && n > 0; ++g) {
    // Shortening the hit for one group shortens what the groups before it need: their check still holds for full
    // attention, window groups are checked again.
    const std::size_t before = n;
    for (; n > 0; --n) {
      bool whole = true;
      for (std::size_t i = first_needed(n, g); i < n && whole; ++i) whole = index_.page(path[i], g) != no_page;
      if (whole) break;
    }
    if (n != before) g = static_cast<std::size_t>(-1);
  }
  match.n_tokens = static_cast<std::uint32_t>(n * page_tokens);
  for (std::size_t g = 0; g < pools_.size(); ++g) {
    match.pages[g].assign(n, no_page);
    for (std::size_t i = first_needed(n, g); i < n; ++i) {
      match.pages[g][i] = index_.page(path[i], g);
      pin(path[i], g);
    }
  }
  return match;
}

void page_store::publish(std::span<const token_id> tokens, const std::string& salt, const page_lists& pages,
                         bool last) {
  require(pages.size() == pools_.size(), "published pages do not name every group");
  std::size_t n = tokens.size() / page_tokens;
  for (const auto& p : pages) n = std::min(n, p.size());
  prefix_index::node_id at = prefix_index::no_node;
  for (std::size_t i = 0; i < n; ++i) {
    const auto block = tokens.subspan(i * page_tokens, page_tokens);
    if (i == 0) at = index_.root(salt);
    prefix_index::node_id next = at == prefix_index::no_node ? at : index_.child(at, block);
    if (next == prefix_index::no_node) {
      for (std::size_t g = 0; g < pools_.size(); ++g)
        if (groups_[g].window == 0 && pages[g][i] == no_page) return;
      if (at == prefix_index::no_node) at = index_.make_root(salt);
      next = index_.add_child(at, block);
    }
    for (std::size_t g = 0; g < pools_.size() && !last; ++g) {
      const page_id mine = pages[g][i], theirs = index_.page(next, g);
      if (mine != no_page && theirs != no_page && mine != theirs) return;
    }
    for (std::size_t g = 0; g < pools_.size(); ++g) {
      const page_id p = pages[g][i];
      if (p == no_page || index_.page(next, g) != no_page || !pools_[g].is_leased(p)) continue;
      pools_[g].index(p);
      index_.set_page(next, g, p);
      index_.pin(next);
      node_of_[g][p] = next;
    }
    at = next;
  }
}

void page_store::check() const {
  for (const page_pool& p : pools_) p.check();
}

void page_store::audit() const {
  for (const page_pool& p : pools_) p.audit();
  index_.audit();
}

}  // namespace troupe::cache

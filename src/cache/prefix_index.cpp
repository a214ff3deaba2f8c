#include "src/cache/prefix_index.hpp"

#include <algorithm>

#include "src/cache/invariant.hpp"

namespace troupe::cache {

std::size_t prefix_index::edge_hash::operator()(const edge& e) const noexcept {
  // Equality compares the tokens themselves, so a collision costs time, never a wrong hit.
  std::uint64_t h = 0x9e3779b97f4a7c15u ^ e.parent;
  for (token_id t : e.block) {
    h = (h ^ static_cast<std::uint32_t>(t)) * 0xff51afd7ed558ccdu;
    h ^= h >> 32;
  }
  return h;
}

prefix_index::node_id prefix_index::root(const std::string& salt) const {
  auto it = roots_.find(salt);
  return it == roots_.end() ? no_node : it->second;
}

prefix_index::node_id prefix_index::make_root(const std::string& salt) {
  if (node_id r = root(salt); r != no_node) return r;
  const node_id r = make_node();
  nodes_[r].salt = salt;
  roots_.emplace(salt, r);
  return r;
}

prefix_index::node_id prefix_index::child(node_id parent, std::span<const token_id> block) const {
  edge e{parent, {}};
  std::copy_n(block.begin(), page_tokens, e.block.begin());
  auto it = edges_.find(e);
  return it == edges_.end() ? no_node : it->second;
}

prefix_index::node_id prefix_index::add_child(node_id parent, std::span<const token_id> block) {
  const node_id n = make_node();
  node& x = nodes_[n];
  node& up = nodes_[parent];
  x.parent = parent;
  std::copy_n(block.begin(), page_tokens, x.block.begin());
  x.pages.assign(n_groups_, no_page);
  const bool added = edges_.emplace(edge{parent, x.block}, n).second;
  require(added, "a prefix was indexed twice");
  leaves_.erase({up.last_use, parent});
  ++up.n_children;
  ++n_nodes_;
  touch(n);
  leaves_.emplace(x.last_use, n);
  return n;
}

void prefix_index::touch(node_id n) { nodes_[n].last_use = ++clock_; }

void prefix_index::pin(node_id n) {
  node& x = nodes_[n];
  leaves_.erase({x.last_use, n});
  ++x.pins;
}

void prefix_index::unpin(node_id n) {
  node& x = nodes_[n];
  require(x.live && x.pins > 0, "a prefix was unpinned that has no pin");
  if (--x.pins) return;
  touch(n);
  if (is_idle_leaf(x)) leaves_.emplace(x.last_use, n);
}

void prefix_index::remove(node_id n) {
  require(n < nodes_.size() && is_idle_leaf(nodes_[n]), "a prefix was removed that is in use");
  const node_id up = nodes_[n].parent;
  leaves_.erase({nodes_[n].last_use, n});
  edges_.erase(edge{up, nodes_[n].block});
  free_node(n);
  --n_nodes_;
  node& parent = nodes_[up];
  --parent.n_children;
  if (is_idle_leaf(parent)) leaves_.emplace(parent.last_use, up);
  if (parent.parent == no_node && parent.n_children == 0) {
    roots_.erase(parent.salt);
    free_node(up);
  }
}

prefix_index::node_id prefix_index::make_node() {
  node_id n;
  if (free_.empty()) {
    n = static_cast<node_id>(nodes_.size());
    nodes_.emplace_back();
  } else {
    n = free_.back();
    free_.pop_back();
  }
  nodes_[n].live = true;
  return n;
}

void prefix_index::free_node(node_id n) {
  nodes_[n] = node{};
  free_.push_back(n);
}

void prefix_index::audit() const {
  std::size_t live = 0, idle = 0;
  std::vector<std::uint32_t> children(nodes_.size());
  for (const node& x : nodes_) {
    if (!x.live || x.parent == no_node) continue;
    ++live;
    require(nodes_[x.parent].live, "a prefix has no parent");
    ++children[x.parent];
  }
  for (node_id n = 0; n < nodes_.size(); ++n) {
    const node& x = nodes_[n];
    require(x.n_children == children[n], "a prefix miscounts its children");
    if (!is_idle_leaf(x)) continue;
    ++idle;
    require(leaves_.contains({x.last_use, n}), "an unused prefix cannot be evicted");
  }
  require(live == n_nodes_ && edges_.size() == live && idle == leaves_.size(), "the prefix index miscounts");
}

}  // namespace troupe::cache

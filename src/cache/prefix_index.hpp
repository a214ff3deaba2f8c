#pragma once
#include <array>
#include <cstdint>
#include <set>
#include <span>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "src/cache/lease.hpp"

namespace troupe::cache {

/// A tree over token prefixes in steps of one page: a node stands for page_tokens tokens after its parent's and names
/// the page that holds them in each KV group (no_page where a window group has given it up). One root per cache salt.
/// Knows which nodes are in use (pins) and which leaf was used longest ago; page states are the page_pool's business.
class prefix_index {
 public:
  using node_id = std::uint32_t;
  static constexpr node_id no_node = std::numeric_limits<node_id>::max();

  explicit prefix_index(std::size_t n_groups) : n_groups_(n_groups) {}

  /// The root of a salt, or no_node when nothing is cached under it.
  node_id root(const std::string& salt) const;
  node_id make_root(const std::string& salt);

  /// The child that holds the page_tokens tokens of `block`, or no_node.
  node_id child(node_id parent, std::span<const token_id> block) const;
  /// Adds a child without pages; there must be none for this block.
  node_id add_child(node_id parent, std::span<const token_id> block);

  page_id page(node_id n, std::size_t group) const { return nodes_[n].pages[group]; }
  void set_page(node_id n, std::size_t group, page_id p) { nodes_[n].pages[group] = p; }

  std::uint64_t last_use(node_id n) const { return nodes_[n].last_use; }  ///< larger is later

  void pin(node_id);
  void unpin(node_id);  ///< the last one makes the node the most recently used

  /// The leaf without pins that was used longest ago, or no_node.
  node_id oldest_leaf() const { return leaves_.empty() ? no_node : leaves_.begin()->second; }
  /// Removes such a leaf (and its root when it was the last node under a salt).
  void remove(node_id);

  std::size_t n_nodes() const { return n_nodes_; }  ///< without roots
  std::size_t n_roots() const { return roots_.size(); }
  void audit() const;

 private:
  using block_key = std::array<token_id, page_tokens>;
  struct edge {
    node_id parent;
    block_key block;
    bool operator==(const edge&) const = default;
  };
  struct edge_hash {
    std::size_t operator()(const edge&) const noexcept;
  };
  struct node {
    node_id parent = no_node;
    std::uint32_t n_children = 0;
    std::uint32_t pins = 0;
    std::uint64_t last_use = 0;
    bool live = false;
    block_key block{};
    std::vector<page_id> pages;
    std::string salt;  ///< of a root
  };
  node_id make_node();
  void free_node(node_id);
  bool is_idle_leaf(const node& n) const { return n.live && n.parent != no_node && !n.n_children && !n.pins; }
  void touch(node_id);

  std::size_t n_groups_;
  std::vector<node> nodes_;
  std::vector<node_id> free_;
  std::unordered_map<std::string, node_id> roots_;
  std::unordered_map<edge, node_id, edge_hash> edges_;
  std::set<std::pair<std::uint64_t, node_id>> leaves_;  ///< idle leaves by last use
  std::uint64_t clock_ = 0;
  std::size_t n_nodes_ = 0;
};

}  // namespace troupe::cache

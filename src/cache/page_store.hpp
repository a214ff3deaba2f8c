#pragma once
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "src/cache/page_pool.hpp"
#include "src/cache/prefix_index.hpp"

namespace troupe::cache {

/// One KV group as the store sees it.
struct group_size {
  std::uint32_t n_pages = 0;
  std::uint32_t window = 0;  ///< tokens; 0: full attention
};

/// The longest cached prefix of a sequence: pages per group, one pin taken on each page that is not a hole.
struct prefix_match {
  std::uint32_t n_tokens = 0;
  page_lists pages;
};

/// The pages of all KV groups and the index of what is cached in them: what the cache actor owns. Evicts the least
/// recently used leaf when the free pages do not do; of window groups also pages of prefixes in use, which the users
/// have left behind. Not thread-safe.
class page_store {
 public:
  explicit page_store(std::vector<group_size> groups);

  std::size_t n_groups() const { return pools_.size(); }
  const page_pool& pool(std::size_t g) const { return pools_[g]; }
  const prefix_index& index() const { return index_; }

  /// As many of the wanted pages as there are, after eviction.
  page_lists lease(std::span<const std::uint32_t> want);
  /// What a further `lease` could get: free pages and pages of unused prefixes. An upper bound.
  std::vector<std::uint32_t> available() const;

  /// A leased page becomes free; of an indexed page one pin is taken.
  void give_back(const page_lists&);

  /// Pins and returns the longest prefix, in whole pages, whose pages exist: in full-attention groups [0, L), in window
  /// groups [L - window, L).
  prefix_match lookup(std::span<const token_id> tokens, const std::string& salt);

  /// Indexes pages[g][i] under tokens [16 i, 16 (i + 1)); see prefix_publish in actors/cache/messages.hpp.
  /// Ends at the first new page that a full-attention group does not have and, unless `last`, where the index holds the
  /// same tokens in another page. So whoever pins a page pins the pages before it too, and every unpinned page can be
  /// evicted.
  void publish(std::span<const token_id> tokens, const std::string& salt, const page_lists& pages, bool last);

  void check() const;  ///< constant time
  void audit() const;

 private:
  bool evict_leaf();
  void strip(std::size_t group, std::uint32_t n);
  void pin(prefix_index::node_id, std::size_t group);

  std::vector<group_size> groups_;
  std::vector<page_pool> pools_;
  std::vector<std::vector<prefix_index::node_id>> node_of_;  ///< per group and page: the node that names it
  prefix_index index_;
};

}  // namespace troupe::cache

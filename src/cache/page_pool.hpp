#pragma once
#include <cstdint>
#include <vector>

#include "src/cache/lease.hpp"

namespace troupe::cache {

/// All pages of one KV group, as their owner (the cache actor) sees them. Every page is in exactly one state:
///   free      in the free list
///   leased    with the scheduler, which alone knows what is in it
///   indexed   in the prefix index, with a count of pins (sequences that read it)
///
/// Not thread-safe. A breach of the books throws errc::internal and changes nothing.
class page_pool {
 public:
  explicit page_pool(std::uint32_t n_pages);

  std::uint32_t size() const { return static_cast<std::uint32_t>(pages_.size()); }
  std::uint32_t n_free() const { return static_cast<std::uint32_t>(free_.size()); }
  std::uint32_t n_leased() const { return n_leased_; }
  std::uint32_t n_indexed() const { return n_indexed_; }
  std::uint32_t n_evictable() const { return n_unpinned_; }  ///< indexed and not pinned

  /// Moves up to n free pages to `to`; returns how many.
  std::uint32_t lease(std::uint32_t n, std::vector<page_id>& to);

  bool is_leased(page_id p) const { return at(p).state == page_state::leased; }
  bool is_indexed(page_id p) const { return at(p).state == page_state::indexed; }
  std::uint32_t pins(page_id p) const { return at(p).pins; }

  void release(page_id);  ///< leased -> free
  void index(page_id);    ///< leased -> indexed with one pin: the lease's
  void pin(page_id);      ///< of an indexed page
  void unpin(page_id);    ///< of an indexed page
  void evict(page_id);    ///< indexed without pins -> free

  void check() const;  ///< the counts agree: constant time, called after every message
  void audit() const;  ///< counts again from the pages themselves

 private:
  enum class page_state : std::uint8_t { free, leased, indexed };
  struct page {
    page_state state = page_state::free;
    std::uint32_t pins = 0;
  };
  const page& at(page_id) const;
  page& at(page_id p) { return const_cast<page&>(static_cast<const page_pool*>(this)->at(p)); }

  std::vector<page> pages_;
  std::vector<page_id> free_;
  std::uint32_t n_leased_ = 0;
  std::uint32_t n_indexed_ = 0;
  std::uint32_t n_unpinned_ = 0;
};

}  // namespace troupe::cache

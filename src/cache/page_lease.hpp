#pragma once
#include <cstdint>
#include <vector>

#include "src/cache/lease.hpp"

namespace troupe::cache {

/// The pages of one KV group that the scheduler holds: its lease and its pins on indexed pages. Every page is
///   away      with the cache
///   stock     leased, unused
///   owned     leased, written by one sequence
///   shared    indexed, with a count of the sequences here that read it (published by one of them, or from a hit)
///   retiring  given up by its sequence, but a submitted plan still refers to it; it goes on when that plan is done,
///             an owned page to the stock, a shared one back to the cache
///
/// The plan number is the epoch: `retire(page, epoch)` means that plans up to `epoch` may touch the page.
class page_lease {
 public:
  explicit page_lease(std::uint32_t n_pages) : pages_(n_pages) {}

  std::uint32_t n_stock() const { return static_cast<std::uint32_t>(stock_.size()); }
  std::uint32_t n_used() const { return n_owned_ + n_shared_; }  ///< pages, not references
  std::uint32_t n_retiring() const { return static_cast<std::uint32_t>(retiring_.size()); }
  std::uint32_t n_held() const { return n_stock() + n_owned_ + n_shared_ + n_retiring_owned_; }

  void add(page_id);      ///< away -> stock
  page_id take();         ///< stock -> owned; the stock must not be empty
  void share(page_id);    ///< one more reference to an indexed page (a hit)
  void publish(page_id);  ///< owned -> shared with one reference; of a shared page: nothing
  bool is_shared(page_id p) const { return at(p).state == page_state::shared; }

  /// The sequence gives its reference up. Plans up to `epoch` refer to it; the last one done is `done`.
  void retire(page_id, step_seq epoch, step_seq done);
  /// Plans up to `done` are done.
  void plans_done(step_seq done);

  /// References to indexed pages that wait to go back to the cache (one entry each); the caller sends and clears it.
  std::vector<page_id> returns;
  /// Moves the whole stock to `returns`.
  void return_stock();

  void check() const;  ///< constant time
  void audit() const;

 private:
  enum class page_state : std::uint8_t { away, stock, owned, shared, retiring };
  struct page {
    page_state state = page_state::away;
    std::uint32_t refs = 0;  ///< shared: references of sequences; retiring entries are not counted
  };
  struct retired {
    page_id page;
    bool shared;
    step_seq epoch;
  };
  const page& at(page_id) const;
  page& at(page_id p) { return const_cast<page&>(static_cast<const page_lease*>(this)->at(p)); }
  void let_go(const retired&);

  std::vector<page> pages_;
  std::vector<page_id> stock_;
  std::vector<retired> retiring_;  ///< unordered in epoch: sequences retire pages with different last plans
  std::uint32_t n_owned_ = 0;
  std::uint32_t n_shared_ = 0;
  std::uint32_t n_retiring_owned_ = 0;
  std::uint32_t n_known_ = 0;  ///< pages that are not away
};

}  // namespace troupe::cache

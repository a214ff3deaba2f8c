#pragma once
#include <memory>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "src/base/ids.hpp"
#include "src/cache/lease.hpp"

/// The protocol of the cache actor. The scheduler works from a lease of free pages, so that no message is on the path
/// of a step; the cache refills the lease, indexes what is published and evicts in the background.
namespace troupe::cache {

// --- in ------------------------------------------------------------------------------------------------------------

/// Asks for n[g] free pages of each group. Answered by exactly one lease_granted.
struct lease_want {
  std::vector<std::uint32_t> n;
  lease_want() = default;
  explicit lease_want(std::vector<std::uint32_t> pages) : n(std::move(pages)) {}
};

/// Hands pages back that no submitted plan refers to. A leased page becomes free; of an indexed page one pin is taken.
struct lease_return {
  page_lists pages;
  lease_return() = default;
  explicit lease_return(page_lists p) : pages(std::move(p)) {}
};

/// Asks for the longest cached prefix of the first n_tokens tokens. Answered by exactly one prefix_hit.
struct prefix_lookup {
  request_id id = 0;
  std::shared_ptr<const std::vector<token_id>> tokens;
  std::uint32_t n_tokens = 0;
  std::string salt;
  prefix_lookup() = default;
  prefix_lookup(request_id i, std::shared_ptr<const std::vector<token_id>> t, std::uint32_t n, std::string s)
      : id(i), tokens(std::move(t)), n_tokens(n), salt(std::move(s)) {}
};

/// Offers full pages of confirmed tokens to the index: pages[g][i] holds tokens [16 i, 16 (i + 1)) in group g, or is
/// no_page. The sender keeps one pin on each page and gives it up with lease_return; where the index already holds the
/// same tokens in another page, the sender's page stays leased and its return frees it. Only a `last` offer, after
/// which the sender gives its pages up, goes on below such a place: else it would pin what hangs on pages it does not.
struct prefix_publish {
  std::shared_ptr<const std::vector<token_id>> tokens;
  std::string salt;
  page_lists pages;
  bool last = false;
  prefix_publish() = default;
  prefix_publish(std::shared_ptr<const std::vector<token_id>> t, std::string s, page_lists p, bool l)
      : tokens(std::move(t)), salt(std::move(s)), pages(std::move(p)), last(l) {}
};

/// Copies between tiers up to this number are done (host memory, disk: no tier exists yet).
struct transfer_done {
  std::uint64_t seq = 0;
};

using message = std::variant<lease_want, lease_return, prefix_lookup, prefix_publish, transfer_done>;

// --- out -----------------------------------------------------------------------------------------------------------

/// As many of the wanted pages as there are; `available[g]` counts what a further lease_want could still get.
struct lease_granted {
  page_lists pages;
  std::vector<std::uint32_t> available;
  lease_granted() = default;
  lease_granted(page_lists p, std::vector<std::uint32_t> a) : pages(std::move(p)), available(std::move(a)) {}
};

/// The cached prefix of `id`: n_tokens tokens (a multiple of the page size), one pin taken on each page. Window groups
/// have no_page where the page lies behind the window. n_tokens 0: nothing is cached.
struct prefix_hit {
  request_id id = 0;
  std::uint32_t n_tokens = 0;
  page_lists pages;
  prefix_hit() = default;
  prefix_hit(request_id i, std::uint32_t n, page_lists p) : id(i), n_tokens(n), pages(std::move(p)) {}
};

}  // namespace troupe::cache

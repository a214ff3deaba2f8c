#pragma once
#include <cstdint>
#include <deque>
#include <map>
#include <set>
#include <string>
#include <unordered_map>
#include <vector>

#include "src/model/backend.hpp"

namespace troupe::test {

/// A model without a model: the "hidden state" after a token is a hash of all tokens up to it, and what is drawn
/// depends on that hash and the request's seed alone.
std::uint64_t extend(std::uint64_t state, token_id);
token_id draw(std::uint64_t state, std::uint64_t seed, std::uint32_t vocab);
inline constexpr std::uint64_t start_state = 0x1234;

/// What a lone run would answer: at most max_tokens tokens, up to and with the first in `stop`.
std::vector<token_id> lone_run(const std::vector<token_id>& prompt, std::uint64_t seed, std::uint32_t vocab,
                               std::uint32_t max_tokens, const std::vector<token_id>& stop);

/// A rank that believes nothing: keeps its own slot table, page tables and page contents, and reports every rule that a
/// plan breaks. States are stored in the pages and read back through the page tables, so that a page that was given
/// away too early, or twice, or never filled, changes the tokens.
class fake_rank {
 public:
  explicit fake_rank(model::rank_shape shape) : shape_(std::move(shape)), slots_(shape_.max_slots) {
    for (std::uint32_t n : shape_.n_pages) pages_.emplace_back(n);
    last_token_.assign(shape_.max_slots, -1);
  }

  /// Checks the plan against what is in flight, and queues it.
  void launch(const model::step_plan&);
  /// Computes the oldest plan. Rows of seeds in `failing` are flagged as failed.
  model::step_done run(const std::set<std::uint64_t>& failing = {});
  std::size_t in_flight() const { return plans_.size(); }

  /// Rules broken so far, in words.
  std::vector<std::string> breaches;
  /// Per sink: how often the logits of each position were delivered.
  std::map<std::uint32_t, std::map<std::uint32_t, int>> logits;

  struct slot {
    bool bound = false;
    std::uint64_t seed = 0;
    std::uint32_t prompt_length = 0;
    std::int64_t next = -1;  ///< position of the next row; -1: none yet
    std::vector<std::vector<page_id>> tables;
    std::vector<token_id> history;
  };
  const slot& slot_of(slot_id s) const { return slots_[s]; }

 private:
  struct cell {
    std::int64_t position = -1;
    token_id token = -1;
    std::uint64_t state = 0;
  };
  struct page {
    cell cells[page_tokens];
  };
  struct resolved_row {
    model::plan_row row;
    std::uint64_t seed;
    std::vector<token_id> literals;
    std::vector<std::vector<page_id>> tables;
  };
  struct resolved_plan {
    step_seq seq;
    std::vector<resolved_row> rows;
  };
  void breach(std::string what) {
    if (breaches.size() < 20) breaches.push_back("plan " + std::to_string(seq_) + ": " + std::move(what));
  }
  std::uint32_t first_page(std::size_t g, std::int64_t position) const;
  void check_writes(const model::plan_row&, const slot&);
  const cell* look(const resolved_row&, std::size_t g, std::uint32_t position) const;

  model::rank_shape shape_;
  std::vector<slot> slots_;
  std::vector<std::vector<page>> pages_;
  std::vector<token_id> last_token_;
  std::deque<resolved_plan> plans_;
  step_seq seq_ = 0;
};

}  // namespace troupe::test

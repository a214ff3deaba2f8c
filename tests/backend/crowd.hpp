#pragma once
#include <cstring>
#include <random>
#include <span>

#include "tests/backend/driver.hpp"

/// One sequence among others: what determinism is tested with, on any backend of 33 slots and 300 tokens a step.
namespace troupe::test {

using rows = std::vector<std::vector<float>>;

inline std::vector<token_id> random_ids(std::size_t n, std::uint32_t vocab, std::mt19937& random) {
  std::vector<token_id> ids(n);
  for (token_id& t : ids) t = static_cast<token_id>(random() % vocab);
  return ids;
}

inline bool same(const rows& a, const rows& b) {
  if (a.size() != b.size()) return false;
  for (std::size_t i = 0; i < a.size(); ++i)
    if (std::memcmp(a[i].data(), b[i].data(), a[i].size() * sizeof(float)) != 0) return false;
  return true;
}

/// The logits of `ids` in slot 0, fed in random chunks while other slots prefill and decode around it.
inline rows in_a_crowd(backend_driver& d, std::span<const token_id> ids, std::mt19937& random, std::uint32_t vocab) {
  constexpr slot_id others = 31;
  d.sinks->forget(0);
  d.admit(0, {});
  std::vector<std::uint32_t> length(others + 1, 0);
  for (std::size_t at = 0; at < ids.size();) {
    std::uint32_t budget = 200;
    for (slot_id s = 1; s <= others; ++s) {
      if (length[s] == 0) {
        if (random() % 4) continue;
        const auto n = static_cast<std::uint32_t>(1 + random() % 40);
        if (n > budget) continue;
        budget -= n;
        sampling_params p;
        p.seed = s;
        d.admit(s, p);
        d.chunk(s, 0, random_ids(n, vocab, random), model::row_output::sample);
        length[s] = n;
      } else if (random() % 10) {
        d.decode(s, length[s]++);
      } else {
        d.release(s);
        length[s] = 0;
        sampling_params p;
        d.admit(s, p);
        d.chunk(s, 0, random_ids(3, vocab, random), model::row_output::sample);
        length[s] = 3;
      }
    }
    const std::size_t n = std::min<std::size_t>(ids.size() - at, 1 + random() % 50);
    d.chunk(0, static_cast<std::uint32_t>(at), ids.subspan(at, n), model::row_output::logits);
    at += n;
    d.step();
  }
  for (slot_id s = 0; s <= others; ++s)
    if (s == 0 || length[s]) d.release(s);
  d.step();
  rows out;
  for (auto& [position, row] : d.sinks->at(0)->rows) out.push_back(row);
  return out;
}

}  // namespace troupe::test

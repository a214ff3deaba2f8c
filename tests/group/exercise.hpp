#pragma once
#include <chrono>
#include <cstring>
#include <functional>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "src/group/collective.hpp"

/// What one rank does in a test, on any kind of group.
namespace troupe::test {

using group::collective;
using model::slice;

inline float element(std::uint32_t operation, std::uint32_t row, std::uint32_t column) {
  return static_cast<float>((operation * 7919u + row * 131u + column * 17u) % 65521u);
}

/// Random operations with random shapes, the same on all ranks of a seed; "" or what went wrong.
inline std::string exercise(collective& g, std::uint32_t seed, std::uint32_t n_operations) {
  std::mt19937 random(seed), mine(seed * 31 + g.place().rank);  // the second is for pauses only
  const std::uint32_t size = g.place().size, me = g.place().rank;
  const auto wrong = [&](std::uint32_t operation, const std::string& what) {
    return "rank " + std::to_string(me) + ", operation " + std::to_string(operation) + ": " + what;
  };
  for (std::uint32_t k = 0; k < n_operations; ++k) {
    if (mine() % 16 == 0) std::this_thread::sleep_for(std::chrono::microseconds(mine() % 300));
    const std::uint32_t kind = random() % 9, n_rows = random() % 5 == 0 ? random() % 60 : 1 + random() % 4;
    if (kind == 0) {
      if (auto ok = g.barrier(); !ok) return wrong(k, ok.error().message);
      continue;
    }
    if (kind == 1) {
      std::vector<std::byte> data(random() % 3000);
      for (std::size_t i = 0; i < data.size(); ++i)
        data[i] = me == 0 ? static_cast<std::byte>(k * 13 + i * 7) : std::byte{0xaa};
      if (auto ok = g.broadcast(data); !ok) return wrong(k, ok.error().message);
      for (std::size_t i = 0; i < data.size(); ++i)
        if (data[i] != static_cast<std::byte>(k * 13 + i * 7)) return wrong(k, "a byte was not broadcast");
      continue;
    }
    if (kind == 8) {
      const std::size_t block = random() % 3000;
      const auto byte = [&](std::size_t i) { return static_cast<std::byte>(k * 13 + i * 7); };
      std::vector<std::byte> all(block * size, std::byte{0xaa});
      for (std::size_t i = me * block; i < (me + 1) * block; ++i) all[i] = byte(i);
      if (auto ok = g.share_blocks(all); !ok) return wrong(k, ok.error().message);
      for (std::size_t i = 0; i < all.size(); ++i)
        if (all[i] != byte(i)) return wrong(k, "a byte was not shared");
      continue;
    }
    std::vector<slice> slices;
    std::uint32_t width = random() % 3;  // columns that belong to nobody
    for (std::uint32_t r = 0; r < size; ++r) {
      slices.push_back({width, static_cast<std::uint32_t>(random() % 6 == 0 ? 0 : random() % 200)});
      width = slices.back().end();
    }
    const std::size_t ld = width + random() % 3;
    const bool to_root = kind == 2;
    std::vector<float> matrix(n_rows * ld, -1.0f);
    for (std::uint32_t row = 0; row < n_rows; ++row)
      for (std::uint32_t c = slices[me].begin; c < slices[me].end(); ++c) matrix[row * ld + c] = element(k, row, c);
    auto ok = to_root ? g.gather_columns(matrix.data(), ld, n_rows, slices)
                      : g.share_columns(matrix.data(), ld, n_rows, slices);
    if (!ok) return wrong(k, ok.error().message);
    for (std::uint32_t row = 0; row < n_rows; ++row)
      for (std::uint32_t c = 0; c < ld; ++c) {
        float want = -1.0f;
        for (std::uint32_t r = 0; r < size; ++r)
          if (c >= slices[r].begin && c < slices[r].end() && (r == me || me == 0 || !to_root))
            want = element(k, row, c);
        if (matrix[row * ld + c] != want)
          return wrong(k, "row " + std::to_string(row) + ", column " + std::to_string(c) + " is " +
                              std::to_string(matrix[row * ld + c]) + " instead of " + std::to_string(want));
      }
  }
  return "";
}

/// Calls f(member) on a thread for each member, and gives what they returned.
template <class Members, class F>
auto on_threads(const Members& members, F f) {
  std::vector<std::string> said(members.size());
  std::vector<std::thread> threads;
  for (std::size_t r = 0; r < members.size(); ++r) threads.emplace_back([&, r] { said[r] = f(*members[r]); });
  for (auto& t : threads) t.join();
  return said;
}

/// "" if the group fails this call with rank_failed, soon.
inline std::string must_fail(collective& g, std::chrono::milliseconds within) {
  const auto start = std::chrono::steady_clock::now();
  const auto ok = g.barrier();
  if (ok) return "a barrier passed";
  if (ok.error().code != errc::rank_failed) return "another error: " + ok.error().message;
  if (std::chrono::steady_clock::now() - start > within) return "late: " + ok.error().message;
  return "";
}

}  // namespace troupe::test

#pragma once
#include <array>
#include <cstdint>
#include <cstring>
#include <span>
#include <type_traits>

#include "src/model/step_plan.hpp"

/// What the writer and the reader of plan logs share.
namespace troupe::model {

inline constexpr std::array<char, 8> plan_log_magic = {'T', 'R', 'P', 'L', 'O', 'G', '0', '2'};
inline constexpr std::uint32_t max_log_header_bytes = 1 << 16;

enum class log_record : std::uint32_t { header = 1, plan = 2, done = 3 };

struct record_header {
  std::uint32_t kind;
  std::uint32_t bytes;          ///< of the payload
  std::uint64_t payload_check;  ///< fnv1a
  std::uint64_t own_check;      ///< fnv1a of the three above
};
struct done_header {
  std::uint64_t seq;
  std::uint64_t device_ns;
};
static_assert(sizeof(record_header) == 24 && sizeof(done_header) == 16 && sizeof(row_result) == 16);
static_assert(std::is_trivially_copyable_v<row_result>);

inline constexpr std::uint64_t fnv_start = 0xcbf29ce484222325u;
/// FNV-1a, 64 bits: against accidents, not attackers.
inline std::uint64_t fnv1a(std::span<const std::byte> bytes, std::uint64_t h = fnv_start) {
  for (std::byte b : bytes) h = (h ^ static_cast<std::uint8_t>(b)) * 0x100000001b3u;
  return h;
}

inline record_header make_record_header(log_record kind, std::span<const std::byte> payload) {
  record_header h{static_cast<std::uint32_t>(kind), static_cast<std::uint32_t>(payload.size()), fnv1a(payload), 0};
  h.own_check = fnv1a(std::as_bytes(std::span(&h, 1)).first(16));
  return h;
}

}  // namespace troupe::model

#pragma once
#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>

/// SHA-256 (FIPS 180-4) and HMAC (RFC 2104) over it: for the proof that both ends of a link know the same secret, and
/// for the name of a model's contents.
namespace troupe::link {

using digest = std::array<std::byte, 32>;

class sha256 {
 public:
  sha256& add(std::span<const std::byte> bytes);
  sha256& add(std::string_view text) { return add(std::as_bytes(std::span(text.data(), text.size()))); }
  digest finish();

 private:
  void block(const std::byte* at);

  std::array<std::uint32_t, 8> state_{0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a,
                                      0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};
  std::array<std::byte, 64> pending_{};
  std::uint64_t n_bytes_ = 0;
};

digest hmac_sha256(std::string_view key, std::span<const std::byte> message);

/// Compares in a time that does not tell where they differ.
bool equal(const digest&, const digest&) noexcept;

std::string hex(std::span<const std::byte>);

/// Bytes from the system's generator. Throws std::runtime_error where it has none.
void fill_random(std::span<std::byte>);

}  // namespace troupe::link

#pragma once
#include <array>
#include <cstddef>
#include <memory>
#include <span>
#include <string>
#include <string_view>

struct evp_md_ctx_st;

/// What a link needs of OpenSSL: SHA-256 and HMAC over it, for the proof that both ends know the same secret and for
/// the name of a model's contents, and random bytes. Where OpenSSL fails, these throw std::runtime_error.
namespace troupe::link {

using digest = std::array<std::byte, 32>;

class sha256 {
 public:
  sha256();
  sha256& add(std::span<const std::byte> bytes);
  sha256& add(std::string_view text) { return add(std::as_bytes(std::span(text.data(), text.size()))); }
  /// The last call on this one.
  digest finish();

 private:
  std::unique_ptr<evp_md_ctx_st, void (*)(evp_md_ctx_st*)> context_;
};

digest hmac_sha256(std::string_view key, std::span<const std::byte> message);

/// Compares in a time that does not tell where they differ.
bool equal(const digest&, const digest&) noexcept;

std::string hex(std::span<const std::byte>);

void fill_random(std::span<std::byte>);

}  // namespace troupe::link

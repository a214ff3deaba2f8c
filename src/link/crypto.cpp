#include "src/link/crypto.hpp"

#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <openssl/rand.h>

#include <stdexcept>

namespace troupe::link {
namespace {

void must(bool done, const char* what) {
  if (!done) throw std::runtime_error(std::string("OpenSSL gives no ") + what);
}

unsigned char* chars(std::byte* at) { return reinterpret_cast<unsigned char*>(at); }
const unsigned char* chars(const std::byte* at) { return reinterpret_cast<const unsigned char*>(at); }

}  // namespace

sha256::sha256() : context_(EVP_MD_CTX_new(), EVP_MD_CTX_free) {
  must(context_ && EVP_DigestInit_ex(context_.get(), EVP_sha256(), nullptr), "SHA-256");
}

sha256& sha256::add(std::span<const std::byte> bytes) {
  must(EVP_DigestUpdate(context_.get(), bytes.data(), bytes.size()), "SHA-256");
  return *this;
}

digest sha256::finish() {
  digest out;
  must(EVP_DigestFinal_ex(context_.get(), chars(out.data()), nullptr), "SHA-256");
  return out;
}

digest hmac_sha256(std::string_view key, std::span<const std::byte> message) {
  if (key.empty()) key = "";  // to OpenSSL a null pointer is no key at all
  digest out;
  must(HMAC(EVP_sha256(), key.data(), static_cast<int>(key.size()), chars(message.data()), message.size(),
            chars(out.data()), nullptr),
       "HMAC");
  return out;
}

bool equal(const digest& a, const digest& b) noexcept { return CRYPTO_memcmp(a.data(), b.data(), a.size()) == 0; }

std::string hex(std::span<const std::byte> bytes) {
  constexpr char digits[] = "0123456789abcdef";
  std::string out;
  for (std::byte b : bytes) {
    out += digits[std::to_integer<int>(b) >> 4];
    out += digits[std::to_integer<int>(b) & 15];
  }
  return out;
}

void fill_random(std::span<std::byte> bytes) {
  must(RAND_bytes(chars(bytes.data()), static_cast<int>(bytes.size())) == 1, "random bytes");
}

}  // namespace troupe::link

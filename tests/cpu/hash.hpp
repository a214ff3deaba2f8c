#pragma once
#include <openssl/evp.h>

#include <span>
#include <string>

namespace troupe::test {

/// SHA-256 of floats as they lie in memory, in hexadecimal.
class bit_hash {
 public:
  bit_hash() : context_(EVP_MD_CTX_new()) { EVP_DigestInit_ex(context_, EVP_sha256(), nullptr); }
  ~bit_hash() { EVP_MD_CTX_free(context_); }
  bit_hash(const bit_hash&) = delete;
  bit_hash& operator=(const bit_hash&) = delete;
  void add(std::span<const float> x) { EVP_DigestUpdate(context_, x.data(), x.size_bytes()); }
  std::string hex() {
    unsigned char bytes[32];
    EVP_DigestFinal_ex(context_, bytes, nullptr);
    std::string out;
    for (unsigned char b : bytes) {
      out += "0123456789abcdef"[b >> 4];
      out += "0123456789abcdef"[b & 15];
    }
    return out;
  }

 private:
  EVP_MD_CTX* context_;
};

}  // namespace troupe::test

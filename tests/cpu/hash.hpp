#pragma once
#include <span>
#include <string>

#include "src/link/crypto.hpp"

namespace troupe::test {

/// SHA-256 of floats as they lie in memory, in hexadecimal.
class bit_hash {
 public:
  void add(std::span<const float> x) { hash_.add(std::as_bytes(x)); }
  std::string hex() { return link::hex(hash_.finish()); }

 private:
  link::sha256 hash_;
};

}  // namespace troupe::test

#include "src/link/crypto.hpp"

#include <boost/test/unit_test.hpp>
#include <random>

using namespace troupe::link;

namespace {
std::span<const std::byte> bytes_of(std::string_view text) {
  return std::as_bytes(std::span(text.data(), text.size()));
}
std::string sha(std::string_view text) { return hex(sha256().add(text).finish()); }
}  // namespace

BOOST_AUTO_TEST_CASE(examples_of_fips_180_4) {
  BOOST_TEST(sha("") == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
  BOOST_TEST(sha("abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
  BOOST_TEST(sha("abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq") ==
             "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1");
  BOOST_TEST(sha(std::string(1'000'000, 'a')) == "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0");
}

BOOST_AUTO_TEST_CASE(examples_of_rfc_4231) {
  BOOST_TEST(hex(hmac_sha256(std::string(20, '\x0b'), bytes_of("Hi There"))) ==
             "b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7");
  BOOST_TEST(hex(hmac_sha256("Jefe", bytes_of("what do ya want for nothing?"))) ==
             "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843");
  BOOST_TEST(
      hex(hmac_sha256(std::string(131, '\xaa'), bytes_of("Test Using Larger Than Block-Size Key - Hash Key First"))) ==
      "60e431591ee0b67f0d8a26aacbf5b77f8e0bc6213728c5140546040f0ee37f54");
  BOOST_TEST(hex(hmac_sha256({}, {})) == "b613679a0814d9ec772f95d778c35fc5ff1697c493715653c6c712144292c5ad");
}

BOOST_AUTO_TEST_CASE(the_pieces_do_not_matter) {
  std::mt19937 random(1);
  std::string text(1000, 0);
  for (char& c : text) c = static_cast<char>(random());
  for (int round = 0; round < 200; ++round) {
    sha256 s;
    for (std::size_t at = 0; at < text.size();) {
      const std::size_t n = std::min<std::size_t>(random() % 150, text.size() - at);
      s.add(std::string_view(text).substr(at, n));
      at += n;
    }
    BOOST_TEST(hex(s.finish()) == sha(text));
  }
}

BOOST_AUTO_TEST_CASE(equal_is_of_all_bytes) {
  const digest a = sha256().add("a").finish();
  for (std::size_t i = 0; i < a.size(); ++i) {
    digest b = a;
    BOOST_TEST(equal(a, b));
    b[i] ^= std::byte{1};
    BOOST_TEST(!equal(a, b));
  }
}

BOOST_AUTO_TEST_CASE(random_bytes_are_new_each_time) {
  digest a{}, b{};
  fill_random(a);
  fill_random(b);
  BOOST_TEST(!equal(a, b));
  BOOST_TEST(!equal(a, digest{}));
  fill_random({});
}

#include <boost/test/unit_test.hpp>

#include "src/text/detokenizer.hpp"
#include "tests/text/tokenizer_fixture.hpp"

using namespace troupe;

namespace {

constexpr std::string_view replacement = "\xEF\xBF\xBD";

// The token of one byte: byte-level vocabularies have all 256, sentencepiece ones name them <0x00> to <0xFF>.
token_id byte(const text::tokenizer& t, unsigned char b) {
  for (token_id id = 0; static_cast<std::size_t>(id) < t.size(); ++id)
    if (t.bytes(id).size() == 1 && static_cast<unsigned char>(t.bytes(id)[0]) == b) return id;
  return text::no_token;
}

}  // namespace

BOOST_AUTO_TEST_CASE(a_character_is_held_back_until_it_is_whole) {
  for (const char* name : {"gpt-2", "llama"}) {
    const auto t = fixture::open_tokenizer(std::string(name));
    text::detokenizer d(*t);
    BOOST_TEST(d.append(byte(*t, 'a')) == "a");
    BOOST_TEST(d.append(byte(*t, 0xF0)) == "");
    BOOST_TEST(d.append(byte(*t, 0x9F)) == "");
    BOOST_TEST(d.append(byte(*t, 0x98)) == "");
    BOOST_TEST(d.held() == 3u);
    BOOST_TEST(d.append(byte(*t, 0x80)) == "\xF0\x9F\x98\x80");
    BOOST_TEST(d.held() == 0u);
    BOOST_TEST(d.finish() == "");
  }
}

BOOST_AUTO_TEST_CASE(bytes_become_the_replacement_character_when_nothing_can_complete_them) {
  const auto t = fixture::open_tokenizer(std::string("gpt-2"));
  text::detokenizer d(*t);
  BOOST_TEST(d.append(byte(*t, 0xE2)) == "");
  BOOST_TEST(d.append(byte(*t, 0x82)) == "");
  BOOST_TEST(d.append(byte(*t, 'x')) == std::string(replacement) + "x");  // one for the two bytes of a begun character
  BOOST_TEST(d.append(byte(*t, 0xFF)) == std::string(replacement));       // never a beginning
  BOOST_TEST(d.append(byte(*t, 0xC3)) == "");
  BOOST_TEST(d.finish() == std::string(replacement));
  BOOST_TEST(d.finish() == "");
  // What ends in the middle of a character holds back all of its token.
  const std::string beginning = "\xE6\x97";
  BOOST_TEST(d.append(byte(*t, 0xE6)) == "");
  BOOST_TEST(d.append(byte(*t, 0x97)) == "");
  BOOST_TEST(d.append(byte(*t, 0xE6)) == "");  // the first is now known to be broken, but the text ends within the next
  BOOST_TEST(d.finish() == std::string(replacement) + std::string(replacement));
}

BOOST_AUTO_TEST_CASE(byte_tokens_of_sentencepiece_are_replaced_one_by_one) {
  const auto t = fixture::open_tokenizer(std::string("llama"));
  const std::vector<token_id> ids = {byte(*t, 0xE2), byte(*t, 0x82), byte(*t, 'x')};
  BOOST_TEST(t->decode(ids) == std::string(replacement) + std::string(replacement) + "x");
}

BOOST_AUTO_TEST_CASE(a_stream_that_completes_no_character_is_not_held_back_for_ever) {
  const auto t = fixture::open_tokenizer(std::string("gpt-2"));
  text::detokenizer d(*t);
  std::size_t n = 0;
  for (int i = 0; i < 1000; ++i) {
    n += d.append(byte(*t, 0xE2)).size();
    BOOST_TEST(d.held() <= 300u);
  }
  n += d.finish().size();
  BOOST_TEST(n == 1000 * replacement.size());
}

BOOST_AUTO_TEST_CASE(the_first_space_of_sentencepiece_text_is_not_part_of_it) {
  const auto llama = fixture::open_tokenizer(std::string("llama"));
  const auto gemma = fixture::open_tokenizer(std::string("gemma"));
  for (const std::string text : {"word", " word", "  word", " "}) {
    BOOST_TEST(llama->decode(llama->encode(text).value(), true) == text);
    BOOST_TEST(gemma->decode(gemma->encode(text).value(), true) == text);
  }
  // Shown special tokens stand before the space, which then stays.
  BOOST_TEST(llama->decode(llama->encode("word").value(), false) == "<s> word");
  text::detokenizer d(*llama);
  std::string out;
  const auto ids = llama->encode("two words").value();
  for (const token_id id : ids) d.append(id, out);
  BOOST_TEST(out == "two words");
}

BOOST_AUTO_TEST_CASE(special_tokens_are_left_out_or_shown) {
  const auto t = fixture::open_tokenizer(std::string("smollm"));
  const auto ids = t->encode("<|im_start|>a<think>b<|im_end|>").value();
  BOOST_TEST(t->decode(ids, true) == "a<think>b");
  BOOST_TEST(t->decode(ids, false) == "<|im_start|>a<think>b<|im_end|>");
}

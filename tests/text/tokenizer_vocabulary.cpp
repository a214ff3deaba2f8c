#include <boost/test/unit_test.hpp>
#include <cmath>

#include "tests/text/tokenizer_fixture.hpp"

using namespace troupe;
using text::token_type;
using text::vocabulary;

namespace {

// A byte-level vocabulary of a few letters; the merges are (a b), (ab c), (b c).
vocabulary letters() {
  vocabulary v;
  v.pre_tokenizer = "gpt-2";
  v.tokens = {"a", "b", "c", "ab", "abc", "bc", "Ġ", "<|end|>", "<tool>", "d e"};
  v.types = {token_type::normal,       token_type::normal,      token_type::normal, token_type::normal,
             token_type::normal,       token_type::normal,      token_type::normal, token_type::control,
             token_type::user_defined, token_type::user_defined};
  v.merges = {{"a", "b"}, {"ab", "c"}, {"b", "c"}};
  v.eos = 7;
  return v;
}

vocabulary pieces() {
  vocabulary v;
  v.kind = text::tokenizer_kind::sentencepiece;
  v.tokens = {"<unk>", "<s>", "</s>", "▁", "a", "b", "ab", "▁a", "▁ab", "bb", "<0x63>"};
  v.types = {token_type::unknown, token_type::control, token_type::control, token_type::normal,
             token_type::normal,  token_type::normal,  token_type::normal,  token_type::normal,
             token_type::normal,  token_type::normal,  token_type::byte};
  v.scores = {0, 0, 0, -10, -11, -12, -2, -1, -3, -4, 0};
  v.unk = 0, v.bos = 1, v.eos = 2;
  return v;
}

std::vector<token_id> encode(const vocabulary& v, std::string_view text) {
  return text::tokenizer::make(v).value()->encode(text, {.add_special_tokens = false}).value();
}
using ids = std::vector<token_id>;

errc fails(const vocabulary& v) {
  auto made = text::tokenizer::make(v);
  BOOST_TEST_REQUIRE(!made.ok());
  return static_cast<errc>(made.error().code.value());
}

}  // namespace

BOOST_AUTO_TEST_CASE(merges_apply_by_rank_then_from_the_left) {
  BOOST_TEST(encode(letters(), "abc") == (ids{4}), boost::test_tools::per_element());
  BOOST_TEST(encode(letters(), "bcabcb") == (ids{5, 4, 1}), boost::test_tools::per_element());
  BOOST_TEST(encode(letters(), "<tool>a<|end|>") == (ids{8, 0, 7}), boost::test_tools::per_element());
  BOOST_TEST(encode(letters(), "ad e") == (ids{0, 9}),
             boost::test_tools::per_element());  // an added token may hold a space
  BOOST_TEST(encode(letters(), "axb") == (ids{0, 1}),
             boost::test_tools::per_element());  // no token for x, none for unknown
}

BOOST_AUTO_TEST_CASE(merges_of_missing_tokens_are_left_out) {
  vocabulary v = letters();
  v.merges = {{"a", "x"}, {"x", "y"}, {"b", "c"}};
  BOOST_TEST(encode(v, "abc") == (ids{0, 5}), boost::test_tools::per_element());
}

BOOST_AUTO_TEST_CASE(merges_need_not_stand_in_the_order_of_the_tokens) {
  vocabulary v = letters();
  v.merges = {{"b", "c"}, {"a", "bc"}, {"a", "b"}};
  BOOST_TEST(encode(v, "abc") == (ids{4}), boost::test_tools::per_element());
  BOOST_TEST(encode(v, "ab") == (ids{3}), boost::test_tools::per_element());
}

BOOST_AUTO_TEST_CASE(pieces_merge_by_score) {
  vocabulary v = pieces();
  v.add_space_prefix = vocabulary::setting::off;
  BOOST_TEST(encode(v, "ab") == (ids{6}), boost::test_tools::per_element());
  BOOST_TEST(encode(v, "abb") == (ids{6, 5}), boost::test_tools::per_element());
  BOOST_TEST(encode(v, " ab") == (ids{8}), boost::test_tools::per_element());      // "▁a" first, then "▁ab"
  BOOST_TEST(encode(v, " abb") == (ids{8, 5}), boost::test_tools::per_element());  // "ab" and "bb" come too late
  v.add_space_prefix = vocabulary::setting::unset;
  BOOST_TEST(encode(v, "b") == (ids{3, 5}), boost::test_tools::per_element());
  BOOST_TEST(encode(v, "bcb") == (ids{3, 5, 10, 5}), boost::test_tools::per_element());  // c by its byte
  BOOST_TEST(encode(v, "bxyzb") == (ids{3, 5, 0, 5}),
             boost::test_tools::per_element());  // one token for all that is unknown
  BOOST_TEST(encode(v, "<0x63>").size() > 1u);   // the name of a byte is text
}

BOOST_AUTO_TEST_CASE(words_are_cut_apart_only_where_no_token_spans_a_space) {
  vocabulary v = pieces();
  v.add_space_prefix = vocabulary::setting::off;
  v.tokens.push_back("b▁"), v.types.push_back(token_type::normal), v.scores.push_back(-0.5f);
  BOOST_TEST(encode(v, "b a") == (ids{11, 4}), boost::test_tools::per_element());
}

BOOST_AUTO_TEST_CASE(bos_and_eos_follow_the_settings) {
  vocabulary v = pieces();
  const auto all = [&](std::string_view text) { return text::tokenizer::make(v).value()->encode(text).value(); };
  BOOST_TEST(all("") == (ids{1}), boost::test_tools::per_element());
  v.add_eos = vocabulary::setting::on;
  BOOST_TEST(all("") == (ids{1, 2}), boost::test_tools::per_element());
  v.add_bos = vocabulary::setting::off;
  BOOST_TEST(all("") == (ids{2}), boost::test_tools::per_element());
  vocabulary plain = letters();
  plain.bos = 7;
  BOOST_TEST(!text::tokenizer::make(plain).value()->adds_bos());
  plain.pre_tokenizer = "llama-bpe";
  BOOST_TEST(text::tokenizer::make(plain).value()->adds_bos());
}

BOOST_AUTO_TEST_CASE(ends_of_generation_are_known_by_id_and_by_text) {
  vocabulary v = letters();
  v.tokens = {"a", "<|end|>", "<|return|>", "<|endoftext|>", "<|im_end|>", "</s>"};
  v.types = {token_type::normal,  token_type::control, token_type::control,
             token_type::control, token_type::control, token_type::normal};
  v.merges.clear();
  v.eos = text::no_token, v.eot = 0;
  const auto t = text::tokenizer::make(v).value();
  BOOST_TEST(t->is_end_of_generation(0));
  for (const token_id id : {1, 2, 3, 4}) BOOST_TEST(t->is_end_of_generation(id));
  BOOST_TEST(!t->is_end_of_generation(5));  // ordinary text that looks like one
  BOOST_TEST(!t->is_end_of_generation(-1));
  v.tokens.push_back("<|call|>"), v.types.push_back(token_type::control);
  BOOST_TEST(!text::tokenizer::make(v).value()->is_end_of_generation(1));  // closes a channel, not the answer
}

BOOST_AUTO_TEST_CASE(contradictions_are_refused) {
  vocabulary v = letters();
  v.types.pop_back();
  BOOST_TEST((fails(v) == errc::invalid_file));
  v = letters();
  v.eos = 10;
  BOOST_TEST((fails(v) == errc::invalid_file));
  v = letters();
  v.tokens.clear(), v.types.clear(), v.eos = text::no_token;
  BOOST_TEST((fails(v) == errc::invalid_file));
  v = letters();
  v.pre_tokenizer = "unheard-of";
  BOOST_TEST((fails(v) == errc::unsupported));
  v = pieces();
  v.scores.pop_back();
  BOOST_TEST((fails(v) == errc::invalid_file));
  v = pieces();
  v.tokens.back() = "<0xZZ>";
  BOOST_TEST((fails(v) == errc::invalid_file));
}

BOOST_AUTO_TEST_CASE(a_text_that_is_too_long_is_refused) {
  const auto t = text::tokenizer::make(letters()).value();
  BOOST_TEST((t->encode(std::string(text::tokenizer::longest_text + 1, 'a')).error().code == errc::invalid_argument));
}

BOOST_AUTO_TEST_CASE(gguf_metadata_is_read) {
  auto file = format::gguf_file::open(fixture::folder / "llama-bpe.gguf");
  const vocabulary v = text::read_vocabulary(file.value()).value();
  BOOST_TEST((v.kind == text::tokenizer_kind::byte_level));
  BOOST_TEST(v.pre_tokenizer == "llama-bpe");
  BOOST_TEST(v.tokens.size() == v.types.size());
  BOOST_TEST(v.merges.size() > 100u);
  BOOST_TEST((v.add_bos == vocabulary::setting::on));
  BOOST_TEST((v.add_eos == vocabulary::setting::unset));
  BOOST_TEST(v.tokens[static_cast<std::size_t>(v.bos)] == "<|begin|>");
  BOOST_TEST(v.tokens[static_cast<std::size_t>(v.eos)] == "<|im_end|>");
  BOOST_TEST((v.types.back() == token_type::unused));
}

BOOST_AUTO_TEST_CASE(damaged_files_give_errors_not_faults) {
  std::ifstream in(fixture::folder / "llama.gguf", std::ios::binary);
  const std::string whole((std::istreambuf_iterator<char>(in)), {});
  std::mt19937 r(9);
  std::size_t opened = 0;
  for (int i = 0; i < 400; ++i) {
    std::string damaged = whole;
    for (int k = 0; k < 1 + i % 4; ++k) damaged[r() % damaged.size()] = static_cast<char>(r());
    auto file = format::gguf_file::parse(std::as_bytes(std::span(damaged)));
    if (!file.ok()) continue;
    auto vocab = text::read_vocabulary(*file);
    if (!vocab.ok()) continue;
    auto t = text::tokenizer::make(*vocab);
    if (!t.ok()) continue;
    ++opened;
    const auto encoded = (*t)->encode("some text, 12 words long or so\n");
    BOOST_TEST_REQUIRE(encoded.ok());
    (void)(*t)->decode(*encoded);
  }
  BOOST_TEST(opened > 50u);
}

#include <boost/test/unit_test.hpp>
#include <random>

#include "src/text/added_tokens.hpp"
#include "src/text/byte_alphabet.hpp"
#include "src/text/normalizer.hpp"
#include "src/text/pre_tokenizer.hpp"
#include "src/text/utf8.hpp"
#include "src/text/vocabulary.hpp"

using namespace troupe;
using namespace troupe::text;

namespace {

std::vector<std::string> cut(const pre_tokenizer& p, std::string_view text, bool at_start = true) {
  pre_tokenizer::scratch s;
  BOOST_TEST_REQUIRE(p(text, at_start, s).ok());
  std::vector<std::string> out(s.pieces.begin(), s.pieces.end());
  return out;
}
std::vector<std::string> cut(std::vector<pre_tokenizer_step> steps, std::string_view text, bool at_start = true) {
  return cut(pre_tokenizer(std::move(steps)), text, at_start);
}
pre_tokenizer_step split_at(std::string_view expression, split_step::behavior how, bool invert = false) {
  return split_step{split_pattern::make(expression).value(), how, invert};
}
using strings = std::vector<std::string>;

}  // namespace

BOOST_AUTO_TEST_CASE(the_byte_alphabet_spells_every_byte) {
  std::string all, spelled, back;
  for (int b = 0; b < 256; ++b) all += static_cast<char>(b);
  append_alphabet_text(all, spelled);
  BOOST_TEST(first_invalid_utf8(spelled) == valid_utf8);
  BOOST_TEST(append_alphabet_bytes(spelled, back));
  BOOST_TEST((back == all));
  spelled.clear();
  append_alphabet_text(" a\n", spelled);
  BOOST_TEST(spelled == "ĠaĊ");
  for (const char* outside : {"a b", "｜", "\xC4", "a\xFF", "\n"}) {
    back = "kept";
    BOOST_TEST(!append_alphabet_bytes(outside, back));
    BOOST_TEST(back == "kept");
  }
}

BOOST_AUTO_TEST_CASE(every_named_pre_tokenizer_compiles_and_keeps_all_text) {
  const std::string text = "It's 12345 ＡＢＣ naïve\u0301 日本 (x+=1)\r\n\r\n  end…  한국어\t١٢٣ \n";
  for (const std::string_view name : pre_tokenizer_names()) {
    auto found = find_pre_tokenizer(name);
    BOOST_TEST_REQUIRE(found.ok(), name << ": " << (found.ok() ? "" : found.error().message));
    strings pieces = cut(found->steps, text);
    std::string together;
    for (const auto& p : pieces) together += p;
    BOOST_TEST(together == text, name);
    BOOST_TEST(pieces.size() > 1u, name);
  }
  BOOST_TEST(find_pre_tokenizer("").ok());
}

BOOST_AUTO_TEST_CASE(an_unknown_pre_tokenizer_is_refused_by_name) {
  auto found = find_pre_tokenizer("made-up");
  BOOST_TEST_REQUIRE(!found.ok());
  BOOST_TEST((found.error().code == errc::unsupported));
  BOOST_TEST(found.error().message.find("made-up") != std::string::npos);
}

BOOST_AUTO_TEST_CASE(families_cut_as_their_expressions_say) {
  const auto by_name = [](std::string_view name, std::string_view text) {
    return cut(find_pre_tokenizer(name).value().steps, text);
  };
  BOOST_TEST(by_name("gpt-2", "I'd  say 123!\n") == (strings{"I", "'d", " ", " say", " 123", "!", "\n"}),
             boost::test_tools::per_element());
  BOOST_TEST(by_name("smollm", " 12 ab") == (strings{" ", "1", "2", " ab"}), boost::test_tools::per_element());
  BOOST_TEST(by_name("llama-bpe", "I'D 1234\n\nx") == (strings{"I", "'D", " ", "123", "4", "\n\n", "x"}),
             boost::test_tools::per_element());
  BOOST_TEST(by_name("gpt-4o", "camelCase HTMLParser's") == (strings{"camel", "Case", " HTMLParser's"}),
             boost::test_tools::per_element());
  BOOST_TEST(by_name("deepseek-v3", "1234中文abc") == (strings{"123", "4", "中文", "abc"}),
             boost::test_tools::per_element());
  BOOST_TEST(by_name("kimi-k2", "ab中文cd") == (strings{"ab", "中文", "cd"}), boost::test_tools::per_element());
}

BOOST_AUTO_TEST_CASE(white_space_is_that_of_unicode) {
  // U+180E was taken out of White_Space; NEL and the no-break space are in it.
  const auto isolated = split_step::behavior::isolated;
  BOOST_TEST(cut({split_at(R"(\s)", isolated)}, "a\u180eb") == strings{"a\u180eb"}, boost::test_tools::per_element());
  BOOST_TEST(cut({split_at(R"(\s+)", isolated)}, "a\u0085\u00a0b") == (strings{"a", "\u0085\u00a0", "b"}),
             boost::test_tools::per_element());
  BOOST_TEST(cut({split_at(R"([^\S\n]+)", isolated)}, "a \n b") == (strings{"a", " ", "\n", " ", "b"}),
             boost::test_tools::per_element());
  for (char32_t c = 0; c < 0x3100; ++c) {
    if (c >= 0xD800 && c <= 0xDFFF) continue;
    std::string text = c < 0x80 ? std::string(1, static_cast<char>(c))
                       : c < 0x800
                           ? std::string{static_cast<char>(0xC0 | c >> 6), static_cast<char>(0x80 | (c & 0x3F))}
                           : std::string{static_cast<char>(0xE0 | c >> 12), static_cast<char>(0x80 | (c >> 6 & 0x3F)),
                                         static_cast<char>(0x80 | (c & 0x3F))};
    static const auto space = split_pattern::make(R"(\s)").value();
    static split_pattern::workspace work;
    BOOST_TEST(space->find(text, 0, work).value().has_value() == is_white_space(c),
               "U+" << std::hex << static_cast<unsigned>(c));
  }
}

BOOST_AUTO_TEST_CASE(split_behaviors_are_those_of_hugging_face) {
  using how = split_step::behavior;
  const std::string text = "the-final--countdown";
  BOOST_TEST(cut({split_at("-", how::isolated)}, text) == (strings{"the", "-", "final", "-", "-", "countdown"}),
             boost::test_tools::per_element());
  BOOST_TEST(cut({split_at("-", how::removed)}, text) == (strings{"the", "final", "countdown"}),
             boost::test_tools::per_element());
  BOOST_TEST(cut({split_at("-", how::merged_with_previous)}, text) == (strings{"the-", "final-", "-", "countdown"}),
             boost::test_tools::per_element());
  BOOST_TEST(cut({split_at("-", how::merged_with_next)}, text) == (strings{"the", "-final", "-", "-countdown"}),
             boost::test_tools::per_element());
  BOOST_TEST(cut({split_at("-", how::contiguous)}, text) == (strings{"the", "-", "final", "--", "countdown"}),
             boost::test_tools::per_element());
  BOOST_TEST(cut({split_at("[a-z]+", how::removed, true)}, text) == (strings{"the", "final", "countdown"}),
             boost::test_tools::per_element());
  // Matches of nothing cut, and do not go round in circles.
  BOOST_TEST(cut({split_at(R"((?=(\d{3})+(?!\d)))", how::isolated)}, "1234567") == (strings{"1", "234", "567"}),
             boost::test_tools::per_element());
  BOOST_TEST(cut({split_at("x*", how::isolated)}, "äxxb") == (strings{"ä", "xx", "b"}),
             boost::test_tools::per_element());
}

BOOST_AUTO_TEST_CASE(digits_and_metaspace_steps) {
  using prepend = metaspace_step::prepend;
  BOOST_TEST(cut({digits_step{true}}, "a12½b٣") == (strings{"a", "1", "2", "½", "b", "٣"}),
             boost::test_tools::per_element());
  BOOST_TEST(cut({digits_step{false}}, "a12½b٣") == (strings{"a", "12½", "b", "٣"}), boost::test_tools::per_element());
  BOOST_TEST(cut({metaspace_step{prepend::always, true}}, "a  b c", false) == (strings{"▁a", "▁", "▁b", "▁c"}),
             boost::test_tools::per_element());
  BOOST_TEST(cut({metaspace_step{prepend::first, false}}, "a b", false) == strings{"a▁b"},
             boost::test_tools::per_element());
  BOOST_TEST(cut({metaspace_step{prepend::first, false}}, "a b", true) == strings{"▁a▁b"},
             boost::test_tools::per_element());
  BOOST_TEST(cut({metaspace_step{prepend::never, true}}, "▁▁a▁", true) == (strings{"▁", "▁a", "▁"}),
             boost::test_tools::per_element());
  BOOST_TEST(cut({metaspace_words_step{}}, "▁▁a▁b▁▁c▁") == (strings{"▁▁a", "▁b", "▁▁c", "▁"}),
             boost::test_tools::per_element());
  BOOST_TEST(cut({metaspace_words_step{}}, "ab") == strings{"ab"}, boost::test_tools::per_element());
}

BOOST_AUTO_TEST_CASE(digit_groups_are_what_their_look_aheads_cut) {
  using how = split_step::behavior;
  std::mt19937 r(6);
  const char* const parts[] = {"1", "23", "456", "7890", "٣", " ", ".", "a", "_", "é", "12345678"};
  for (int i = 0; i < 2000; ++i) {
    std::string text;
    for (auto n = r() % 9; n-- > 0;) text += parts[r() % std::size(parts)];
    BOOST_TEST(
        cut({digit_groups_step{false}}, text) == cut({split_at(R"(\d{1,3}(?=(?:\d{3})*\b))", how::isolated)}, text),
        boost::test_tools::per_element());
    BOOST_TEST(cut({digit_groups_step{true}}, text) == cut({split_at(R"((?=(\d{3})+(?!\d)))", how::isolated)}, text),
               boost::test_tools::per_element());
  }
}

// A quadratic search would take minutes here, one that keeps state for each character would fail.
BOOST_AUTO_TEST_CASE(no_family_is_slow_on_long_runs) {
  for (const char* name :
       {"default",     "gpt-2",      "smollm",   "llama-bpe",  "qwen2",     "qwen35",       "ufakzeka",
        "laguna",      "gpt-4o",     "tekken",   "tiny_aya",   "youtu",     "deepseek-llm", "deepseek-coder",
        "deepseek-v3", "falcon",     "bloom",    "viking",     "chameleon", "superbpe",     "bailingmoe",
        "seed-coder",  "exaone-moe", "minicpm5", "k2-horizon", "jais-2",    "kimi-k2",      "gemma4"}) {
    const pre_tokenizer p(find_pre_tokenizer(name).value().steps);
    for (const char* unit :
         {" ", "7", "A", "a", "\u0301", "\t", "-", "A\u0301", "a ", "\n ", "١", "中", "(", "ʰ", "'"}) {
      std::string text;
      while (text.size() < 100'000) text += unit;
      pre_tokenizer::scratch s;
      BOOST_TEST(p(text + "x", true, s).ok(), name << ' ' << unit);
    }
  }
}

BOOST_AUTO_TEST_CASE(bad_expressions_are_refused_with_their_reason) {
  for (const char* bad : {"(", "a{3,1}", "[b-a]", "\\p{Nonsense}", "(?<n"}) {
    auto made = split_pattern::make(bad);
    BOOST_TEST_REQUIRE(!made.ok(), bad);
    BOOST_TEST((made.error().code == errc::invalid_file));
  }
  BOOST_TEST((split_pattern::make("[a-z&&[^b]]").error().code == errc::unsupported));
  BOOST_TEST((split_pattern::make(std::string(100'000, 'a')).error().code == errc::invalid_file));
  // An expression that explodes ends in an error, not in a hang.
  const auto explodes = split_pattern::make("(a+a+)+[bc]").value();
  split_pattern::workspace work;
  auto found = explodes->find(std::string(40, 'a'), 0, work);
  BOOST_TEST_REQUIRE(!found.ok());
  BOOST_TEST((found.error().code == errc::unsupported));
}

BOOST_AUTO_TEST_CASE(normalizers_rewrite_in_order) {
  std::string buffer;
  const normalizer legacy({prepend_step{"▁"}, replace_step{" ", "▁"}});
  BOOST_TEST(legacy(" a b", buffer).value() == "▁▁a▁b");
  BOOST_TEST(legacy("", buffer).value() == "");
  const normalizer nfc({nfc_step{}});
  BOOST_TEST(nfc("e\u0301 \u212b A\u030a \ufb01", buffer).value() == "é Å Å \ufb01");
  const std::string plain = "nothing to do é";
  BOOST_TEST((nfc(plain, buffer).value().data() == plain.data()));
  BOOST_TEST(normalizer({replace_step{"", "x"}})("ab", buffer).value() == "ab");
}

BOOST_AUTO_TEST_CASE(added_tokens_are_found_leftmost_then_longest) {
  const added_tokens all({{.id = 1, .content = "<a>", .special = true},
                          {.id = 2, .content = "<a><b>"},
                          {.id = 3, .content = "<ab"},
                          {.id = 4, .content = "b>"},
                          {.id = 5, .content = "<strip>", .left_strip = true, .right_strip = true},
                          {.id = 6, .content = "word", .single_word = true},
                          {.id = 7, .content = ""}});
  const auto find = [&](std::string_view text, std::size_t from = 0, bool special = true) {
    const auto m = all.find(text, from, special);
    return m ? std::to_string(m->id) + "@" + std::to_string(m->begin) + "-" + std::to_string(m->end) : "none";
  };
  BOOST_TEST(find("x<a>y") == "1@1-4");
  BOOST_TEST(find("x<a><b>y") == "2@1-7");
  BOOST_TEST(find("x<a><c") == "1@1-4");
  BOOST_TEST(find("<abb>") == "3@0-3");
  BOOST_TEST(find("x<a>y", 2) == "none");
  BOOST_TEST(find("<a> b>", 0, false) == "4@4-6");
  BOOST_TEST(find("x \u3000<strip>\n\ty") == "5@1-14");
  BOOST_TEST(find("x  <strip>", 2) == "5@2-10");  // not past where the search began
  BOOST_TEST(find("sword words word_ wordé a-word.") == "6@27-31");
  BOOST_TEST(find("<") == "none");
  BOOST_TEST(all.find_exact("<a>") == 1);
  BOOST_TEST(all.find_exact("<a") == no_token);
}

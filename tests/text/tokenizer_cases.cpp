// Against Hugging Face's tokenizers, by the fixtures of tests/data/make_tokenizers.py.
#include <boost/test/unit_test.hpp>
#include <cstdlib>

#include "src/text/detokenizer.hpp"
#include "tests/text/tokenizer_fixture.hpp"

using namespace troupe;
namespace fs = std::filesystem;

namespace {

void check_family(const fs::path& gguf) {
  const auto t = fixture::open_tokenizer(gguf);
  fs::path lines = gguf;
  lines.replace_extension(".jsonl");
  std::size_t n = 0;
  for (const auto& line : fixture::read_lines(lines)) {
    const std::string text = fixture::text(line.at("text"));
    BOOST_TEST_CONTEXT(gguf.filename() << ": " << boost::json::serialize(line.at("text"))) {
      const auto ids = fixture::ids(line.at("ids"));
      auto got = t->encode(text, {.add_special_tokens = false});
      BOOST_TEST_REQUIRE(got.ok());
      BOOST_TEST(*got == ids, boost::test_tools::per_element());

      std::vector<token_id> with_bos(static_cast<std::size_t>(line.at("prefix").to_number<int>()), t->bos());
      with_bos.insert(with_bos.end(), ids.begin(), ids.end());
      BOOST_TEST(t->encode(text).value() == with_bos, boost::test_tools::per_element());

      if (const auto* plain = line.if_contains("plain")) {
        auto as_text = t->encode(text, {.add_special_tokens = false, .parse_special = false});
        BOOST_TEST(as_text.value() == fixture::ids(*plain), boost::test_tools::per_element());
      }
      const auto* decoded = line.if_contains("decoded");
      BOOST_TEST(t->decode(ids, false) == (decoded ? fixture::text(*decoded) : text));
      const auto* skipped = line.if_contains("skipped");
      BOOST_TEST(t->decode(ids, true) == (skipped ? fixture::text(*skipped) : text));

      if (const auto* stream = line.if_contains("stream")) {
        text::detokenizer d(*t);
        for (std::size_t i = 0; i < ids.size(); ++i)
          BOOST_TEST(d.append(ids[i]) == fixture::text(stream->as_array()[i]), "token " << i);
      }
    }
    ++n;
  }
  BOOST_TEST(n >= 50u);
}

}  // namespace

BOOST_AUTO_TEST_CASE(families_give_the_ids_and_texts_of_their_reference) {
  std::size_t n = 0;
  for (const auto& entry : fs::directory_iterator(fixture::folder)) {
    if (entry.path().extension() != ".gguf") continue;
    check_family(entry.path());
    ++n;
  }
  BOOST_TEST(n == 10u);
}

// TROUPE_TOKENIZER_CASES: a folder written by make_tokenizers.py --check.
BOOST_AUTO_TEST_CASE(other_sets_agree_too) {
  const char* folder = std::getenv("TROUPE_TOKENIZER_CASES");
  if (!folder) return;
  for (const auto& entry : fs::directory_iterator(folder))
    if (entry.path().extension() == ".gguf") check_family(entry.path());
}

// The real vocabulary of SmolLM2 (49152 tokens), where the file has been fetched.
BOOST_AUTO_TEST_CASE(smollm2_gives_the_ids_of_its_reference) {
  const char* models = std::getenv("TROUPE_MODELS");
  const char* home = std::getenv("HOME");
  const fs::path path = models ? fs::path(models) / "smollm2.gguf"
                               : fs::path(home ? home : "/") / ".cache" / "troupe" / "models" / "smollm2.gguf";
  if (!fs::exists(path)) {
    BOOST_TEST_MESSAGE("skipped: " << path << " is not there (tools/check fetches it)");
    return;
  }
  const auto t = fixture::open_tokenizer(path);
  BOOST_TEST(t->size() == 49152u);
  const auto lines = fixture::read_lines(fixture::folder / "smollm2.jsonl");
  BOOST_TEST(lines.size() >= 200u);
  for (const auto& line : lines) {
    const std::string text = fixture::text(line.at("text"));
    const auto ids = fixture::ids(line.at("ids"));
    BOOST_TEST_CONTEXT(boost::json::serialize(line.at("text"))) {
      auto got = t->encode(text, {.add_special_tokens = false});
      BOOST_TEST(got.value() == ids, boost::test_tools::per_element());
      BOOST_TEST(t->decode(ids) == text);
    }
  }
  BOOST_TEST(t->is_end_of_generation(t->find("<|im_end|>")));
  BOOST_TEST(t->is_end_of_generation(t->find("<|endoftext|>")));
  BOOST_TEST(!t->is_end_of_generation(t->find("<|im_start|>")));
  BOOST_TEST(t->is_special(t->find("<|im_start|>")));
}

#include "src/text/synthetic_tokenizer.hpp"

#include <boost/test/unit_test.hpp>
#include <random>
#include <set>
#include <sstream>
#include <string>
#include <vector>

#include "tests/text/tokenizer_fixture.hpp"

using namespace troupe;
using namespace troupe::text;

BOOST_AUTO_TEST_CASE(every_id_of_a_synthetic_tokenizer_has_a_text_of_its_own) {
  const std::vector<token_id> eos = {2, 70, 999, 999, -1, 5'000'000};
  for (std::uint32_t vocab : {1000u, 128'256u}) {
    const auto t = synthetic_tokenizer(vocab, eos).value().tokens;
    BOOST_TEST_REQUIRE(t->size() == vocab);
    std::set<std::string_view> seen;
    for (token_id id = 0; id < static_cast<token_id>(vocab); ++id) {
      BOOST_TEST_REQUIRE(!t->bytes(id).empty());
      BOOST_TEST_REQUIRE(seen.insert(t->bytes(id)).second, "token " << id << " is like another");
      BOOST_TEST_REQUIRE(t->is_end_of_generation(id) == (id == 2 || id == 70 || id == 999));
    }
    BOOST_TEST(t->eos() == 2);
    BOOST_TEST(t->bos() == no_token);
    BOOST_TEST((t->encode("<|end-70|>").value() == std::vector<token_id>{70}));
  }
}

BOOST_AUTO_TEST_CASE(a_synthetic_tokenizer_takes_any_text_and_gives_it_back) {
  std::mt19937 random(7);
  for (std::uint32_t vocab : {259u, 4000u, 151'936u}) {
    const auto t = synthetic_tokenizer(vocab, std::vector<token_id>{0, 1, 2}).value().tokens;
    for (int i = 0; i < 300; ++i) {
      const std::string text = fixture::random_text(random);
      const auto ids = t->encode(text, {true, false}).value();
      BOOST_TEST(ids.size() <= text.size());
      BOOST_TEST(t->decode(ids) == text);
    }
  }
  // Fewer tokens than bytes: what comes out differs, but something does, within the vocabulary.
  for (std::uint32_t vocab : {1u, 40u}) {
    const auto t = synthetic_tokenizer(vocab, {}).value().tokens;
    const auto ids = t->encode("Some text.").value();
    BOOST_TEST(ids.size() == 10u);
    for (token_id id : ids) BOOST_TEST((id >= 0 && id < static_cast<token_id>(vocab)));
  }
  BOOST_TEST((synthetic_tokenizer(0, {}).error().code == errc::invalid_argument));
  BOOST_TEST((synthetic_tokenizer(1, std::vector<token_id>{0}).error().code == errc::invalid_argument));
}

BOOST_AUTO_TEST_CASE(words_of_a_synthetic_tokenizer_are_few_tokens) {
  const auto t = synthetic_tokenizer(128'256, std::vector<token_id>{128'001}).value().tokens;
  const std::string words = " time year people way day man thing woman life child world school state family student group country problem";
  const std::size_t n = t->encode(words).value().size();
  BOOST_TEST_MESSAGE(n << " tokens for 18 words");
  BOOST_TEST(n == 18u);
  BOOST_TEST(t->encode(" a quick onyx goblin jumps over the lazy dwarf").value().size() <= 18u);
  // What it says itself is a token a word.
  std::vector<token_id> drawn;
  for (token_id id = 40'000; id < 120'000; id += 997) drawn.push_back(id);
  BOOST_TEST((t->encode(t->decode(drawn)).value() == drawn));
}

BOOST_AUTO_TEST_CASE(a_synthetic_chat_template_is_plain) {
  const auto text = synthetic_tokenizer(1000, {}).value();
  chat_prompt chat;
  chat.messages.push_back({.role = "user", .content = "Hello"});
  BOOST_TEST(text.chat->render(chat_context::from_prompt(chat).value()).value() == "user: Hello\nassistant:");
}

#include <atomic>
#include <boost/test/unit_test.hpp>
#include <thread>

#include "src/text/bpe.hpp"
#include "src/text/detokenizer.hpp"
#include "src/text/utf8.hpp"
#include "tests/text/tokenizer_fixture.hpp"

using namespace troupe;

namespace {

const char* const byte_level[] = {"gpt-2", "smollm", "llama-bpe", "gpt-4o", "tekken", "deepseek-v3"};
const char* const all[] = {"gpt-2",  "smollm",      "llama-bpe", "qwen2", "gpt-4o",
                           "tekken", "deepseek-v3", "llama",     "gemma", "phi3"};

std::string in_pieces(const text::tokenizer& t, const std::vector<token_id>& ids, bool skip) {
  text::detokenizer d(t, {.skip_special = skip});
  std::string out;
  for (const token_id id : ids) {
    const std::string piece = d.append(id);
    BOOST_TEST(text::first_invalid_utf8(piece) == text::valid_utf8);
    out += piece;
  }
  return out + d.finish();
}

}  // namespace

BOOST_AUTO_TEST_CASE(byte_level_text_comes_back_as_it_was) {
  std::mt19937 r(1);
  for (const char* name : byte_level) {
    const auto t = fixture::open_tokenizer(std::string(name));
    for (int i = 0; i < 300; ++i) {
      const std::string text = fixture::random_text(r);
      const auto ids = t->encode(text, {.add_special_tokens = false}).value();
      BOOST_TEST(t->decode(ids) == text, name);
      std::string bytes;
      for (const token_id id : ids) bytes += t->bytes(id);
      BOOST_TEST(bytes == text, name);
    }
  }
}

BOOST_AUTO_TEST_CASE(sentencepiece_text_comes_back_but_for_the_visible_space) {
  std::mt19937 r(2);
  for (const char* name : {"llama", "gemma"}) {
    const auto t = fixture::open_tokenizer(std::string(name));
    for (int i = 0; i < 300; ++i) {
      std::string text = fixture::random_text(r);
      const auto ids = t->encode(text, {.add_special_tokens = false}).value();
      for (std::size_t at; (at = text.find(text::metaspace)) != text.npos;) text.replace(at, 3, " ");
      BOOST_TEST(t->decode(ids) == text, name);
    }
  }
}

BOOST_AUTO_TEST_CASE(streamed_text_equals_decoded_text_for_any_tokens) {
  std::mt19937 r(3);
  for (const char* name : all) {
    const auto t = fixture::open_tokenizer(std::string(name));
    for (int i = 0; i < 200; ++i) {
      // Random ids give half characters in every order, and now and then an id outside the vocabulary.
      std::vector<token_id> ids(r() % 60);
      for (token_id& id : ids) id = static_cast<token_id>(r() % (r() % 2 ? 300 : t->size() + 2));
      for (const bool skip : {false, true}) {
        const std::string whole = t->decode(ids, skip);
        BOOST_TEST(text::first_invalid_utf8(whole) == text::valid_utf8);
        BOOST_TEST(in_pieces(*t, ids, skip) == whole, name);
      }
    }
  }
}

BOOST_AUTO_TEST_CASE(text_that_is_not_utf8_is_refused_at_its_first_bad_byte) {
  const auto t = fixture::open_tokenizer(std::string("gpt-2"));
  struct {
    std::string text;
    std::size_t at;
  } const cases[] = {{"\x80", 0},
                     {"ab\xFF", 2},
                     {"\xC0\x80", 0},
                     {"x\xE0\x80\x80", 1},
                     {"\xED\xA0\x80", 0},
                     {"\xF4\x90\x80\x80", 0},
                     {"\xF5\x80\x80\x80", 0},
                     {"eight by\xE2\x82", 8},
                     {"\xE2\x82\xAC\xE2", 3},
                     {"0123456789abcdef\xC3", 16}};
  for (const auto& c : cases) {
    auto got = t->encode(c.text);
    BOOST_TEST_REQUIRE(!got.ok());
    BOOST_TEST((got.error().code == errc::invalid_argument));
    BOOST_TEST(got.error().message.find("byte " + std::to_string(c.at) + ":") != std::string::npos,
               got.error().message);
  }
  // Damage to valid text: either still UTF-8 by the plain definition, or refused.
  std::mt19937 r(4);
  const auto valid = [](std::string_view s) {
    for (std::size_t i = 0; i < s.size();) {
      const auto step = text::first_utf8(s.substr(i));
      if (step.what != text::utf8_step::state::character) return false;
      i += step.size;
    }
    return true;
  };
  std::size_t refused = 0;
  for (int i = 0; i < 2000; ++i) {
    std::string text = fixture::random_text(r);
    if (text.empty()) continue;
    text[r() % text.size()] = static_cast<char>(r());
    const auto got = t->encode(text);
    BOOST_TEST(got.ok() == valid(text));
    refused += !got.ok();
  }
  BOOST_TEST(refused > 500u);
}

BOOST_AUTO_TEST_CASE(long_runs_cost_work_in_proportion_to_their_length) {
  // A piece of n symbols may look up a merge for each neighbour once and twice more for each of n merges.
  const auto spend = [](const text::bpe& model, const std::string& piece) {
    text::bpe::scratch s;
    std::vector<token_id> out;
    model.encode(piece, s, out);
    BOOST_TEST(s.lookups <= 3 * piece.size());
    BOOST_TEST(s.queued <= 3 * piece.size());
    std::size_t n = 0;
    for (const token_id id : out) n += model.tokens().bytes(id).size();
    return n;
  };
  for (const char* name : {"gpt-2", "llama"}) {
    auto file = format::gguf_file::open(fixture::folder / (std::string(name) + ".gguf"));
    const auto vocab = text::read_vocabulary(file.value()).value();
    const bool scored = vocab.kind == text::tokenizer_kind::sentencepiece;
    auto table = text::token_table::make(
        vocab, scored ? text::token_table::spelling::metaspace : text::token_table::spelling::byte_alphabet);
    const auto tokens = std::make_shared<const text::token_table>(std::move(table.value()));
    text::bpe::options options;
    options.bytes = !scored;
    for (int b = 0; b < 256; ++b) {
      const char c = static_cast<char>(b);
      options.byte_tokens[static_cast<std::size_t>(b)] = tokens->find({&c, 1});
    }
    const text::bpe model = scored ? text::bpe(tokens, text::score_merges(vocab.scores), options)
                                   : text::bpe(tokens, text::read_merges(vocab, *tokens).value(), options);
    BOOST_TEST(spend(model, std::string(100'000, 'a')) == 100'000u);
    BOOST_TEST(spend(model, std::string(100'000, '=')) == 100'000u);
    if (!scored) BOOST_TEST(spend(model, std::string(100'000, ' ')) == 100'000u);
  }
}

BOOST_AUTO_TEST_CASE(long_runs_come_back_through_every_family) {
  for (const char* name : all) {
    const auto t = fixture::open_tokenizer(std::string(name));
    for (const std::string& unit :
         {std::string("a"), std::string(" "), std::string("\n"), std::string("A"), std::string("7"), std::string("-"),
          std::string("好"), std::string("ab "), std::string("'")}) {
      std::string text;
      while (text.size() < 100'000) text += unit;
      text += "x";
      const auto ids = t->encode(text, {.add_special_tokens = false});
      BOOST_TEST_REQUIRE(ids.ok());
      BOOST_TEST((t->decode(*ids) == text), name << " " << unit);
    }
  }
}

// The two ways to merge (scanning short pieces, a queue for long ones) must agree: a piece is longer than the limit
// only by a tail that cannot merge with it.
BOOST_AUTO_TEST_CASE(short_and_long_pieces_merge_alike) {
  std::mt19937 r(5);
  auto file = format::gguf_file::open(fixture::folder / "gpt-2.gguf");
  const auto vocab = text::read_vocabulary(file.value()).value();
  auto table = text::token_table::make(vocab, text::token_table::spelling::byte_alphabet);
  const auto tokens = std::make_shared<const text::token_table>(std::move(table.value()));
  text::bpe::options options;
  for (int b = 0; b < 256; ++b) {
    const char c = static_cast<char>(b);
    options.byte_tokens[static_cast<std::size_t>(b)] = tokens->find({&c, 1});
  }
  const text::bpe model(tokens, text::read_merges(vocab, *tokens).value(), options);
  const std::string tail(text::bpe::short_piece, '\x01');
  for (int i = 0; i < 2000; ++i) {
    std::string piece;
    while (piece.size() < 4 + r() % 20) piece += tokens->bytes(static_cast<token_id>(r() % tokens->size()));
    piece.resize(std::min(piece.size(), text::bpe::short_piece));
    if (piece.find('\x01') != piece.npos) continue;
    text::bpe::scratch s;
    std::vector<token_id> one, two, end;
    model.encode(piece, s, one);
    model.encode(piece + tail, s, two);
    model.encode(tail, s, end);
    one.insert(one.end(), end.begin(), end.end());
    BOOST_TEST(one == two, boost::test_tools::per_element());
  }
}

BOOST_AUTO_TEST_CASE(a_tokenizer_is_shared_between_threads) {
  const std::string text = "It's 12 o'clock <|im_end|>\n  and 日本 (x+=1)";
  for (const char* name : {"smollm", "gpt-4o", "llama"}) {
    const auto expected = fixture::open_tokenizer(std::string(name))->encode(text).value();
    const auto t = fixture::open_tokenizer(std::string(name));  // whose expressions are compiled by whoever comes first
    std::atomic<int> wrong = 0;
    std::vector<std::thread> threads;
    for (int i = 0; i < 4; ++i)
      threads.emplace_back([&] {
        for (int k = 0; k < 50; ++k) wrong += t->encode(text).value() != expected;
      });
    for (auto& thread : threads) thread.join();
    BOOST_TEST(wrong == 0);
  }
}

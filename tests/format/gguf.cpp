#include "src/format/gguf.hpp"

#include <boost/test/unit_test.hpp>
#include <chrono>
#include <cstdlib>
#include <limits>

#include "tests/format/bytes.hpp"

using namespace troupe;
using namespace troupe::format;
using test::fixture;
using test::has;
using test::message;

namespace {

/// The model that tools/check fetches; empty if this machine has none.
std::filesystem::path default_model() {
  const char* folder = std::getenv("TROUPE_MODELS");
  const char* home = std::getenv("HOME");
  std::filesystem::path path = folder != nullptr
                                   ? std::filesystem::path(folder)
                                   : std::filesystem::path(home != nullptr ? home : "") / ".cache/troupe/models";
  path /= "smollm2.gguf";
  return std::filesystem::exists(path) ? path : std::filesystem::path();
}

boost::test_tools::assertion_result model_is_there(boost::unit_test::test_unit_id) { return !default_model().empty(); }

template <class T>
void same(const result<std::vector<T>>& have, std::initializer_list<T> want) {
  BOOST_REQUIRE_MESSAGE(have.ok(), message(have));
  BOOST_TEST(std::equal(have->begin(), have->end(), want.begin(), want.end()));
}

}  // namespace

BOOST_AUTO_TEST_SUITE(gguf)

BOOST_AUTO_TEST_CASE(all_scalar_types_are_read) {
  const auto f = gguf_file::open(fixture("all.gguf")).value();
  BOOST_TEST(f.version() == 3u);
  BOOST_TEST(f.alignment() == 32u);
  BOOST_TEST(f.entries().size() == 27u);
  BOOST_TEST(f.get_string("general.architecture").value() == "test");
  BOOST_TEST(f.get_u64("scalar.u8").value() == 250u);
  BOOST_TEST(f.get_i64("scalar.i8").value() == -7);
  BOOST_TEST(f.get_u64("scalar.u16").value() == 65000u);
  BOOST_TEST(f.get_i64("scalar.i16").value() == -32000);
  BOOST_TEST(f.get_u64("scalar.u32").value() == 4000000000u);
  BOOST_TEST(f.get_i64("scalar.i32").value() == -2000000000);
  BOOST_TEST(f.get_u64("scalar.u64").value() == std::numeric_limits<std::uint64_t>::max());
  BOOST_TEST(f.get_i64("scalar.i64").value() == std::numeric_limits<std::int64_t>::min());
  BOOST_TEST(f.get_f64("scalar.f32").value() == static_cast<double>(0.1f));
  BOOST_TEST(f.get_f64("scalar.f64").value() == 0.1);
  BOOST_TEST(f.get_f64("scalar.i8").value() == -7.0);
  BOOST_TEST(f.get_bool("scalar.true").value() == true);
  BOOST_TEST(f.get_bool("scalar.false").value() == false);
  BOOST_TEST(f.get_string("scalar.string").value() == "Grüße, мир, 世界");
  BOOST_TEST(f.get_string("scalar.empty").value() == "");
}

BOOST_AUTO_TEST_CASE(all_array_types_are_read) {
  const auto f = gguf_file::open(fixture("all.gguf")).value();
  same<std::int32_t>(f.get_i32s("array.u8"), {0, 1, 255});
  same<std::int32_t>(f.get_i32s("array.i8"), {-128, 0, 127});
  same<std::int32_t>(f.get_i32s("array.u16"), {0, 65535});
  same<std::int32_t>(f.get_i32s("array.i16"), {-32768, 32767});
  same<std::uint64_t>(f.get_u64s("array.u32"), {0, 7, 4294967295});
  same<std::int32_t>(f.get_i32s("array.i32"), {std::numeric_limits<std::int32_t>::min(), 5, 2147483647});
  same<std::uint64_t>(f.get_u64s("array.u64"), {0, std::numeric_limits<std::uint64_t>::max()});
  same<float>(f.get_f32s("array.f32"), {0.1f, -1.5f, 3e38f});
  same<bool>(f.get_bools("array.bool"), {true, false, true});
  same<std::string_view>(f.get_strings("array.string"), {"", "a", "Ġthe", "<|end|>", std::string_view("\0\1", 2)});
  const gguf_entry* e = f.entry("array.i64");
  BOOST_REQUIRE(e != nullptr);
  BOOST_TEST(e->count == 2u);
  BOOST_TEST(test::load<std::int64_t>(e->payload, 1) == std::numeric_limits<std::int64_t>::max());
}

BOOST_AUTO_TEST_CASE(a_wrong_kind_of_value_fails_and_says_so) {
  const auto f = gguf_file::open(fixture("all.gguf")).value();
  BOOST_TEST((f.get_u64("no.such").error().code == errc::not_found));
  BOOST_TEST(f.get_u64("no.such", 5).value() == 5u);
  BOOST_TEST(f.get_string("no.such", "x").value() == "x");
  BOOST_TEST(f.get_bool("no.such", true).value());
  BOOST_TEST(f.get_f64("no.such", 1.5).value() == 1.5);
  BOOST_TEST(f.get_i64("no.such", -5).value() == -5);
  // A fallback does not hide a value of the wrong kind.
  BOOST_TEST((f.get_u64("scalar.string", 5).error().code == errc::invalid_file));
  BOOST_TEST(!f.get_u64("scalar.i8").ok());    // negative
  BOOST_TEST(!f.get_i64("scalar.u64").ok());   // too large
  BOOST_TEST(!f.get_u64("scalar.f32").ok());   // not an integer
  BOOST_TEST(!f.get_u64("scalar.true").ok());  // a bool is not a number
  BOOST_TEST(!f.get_u64("array.u8").ok());     // not a scalar
  BOOST_TEST(!f.get_i32s("array.u32").ok());   // one element does not fit
  BOOST_TEST(!f.get_u64s("array.i8").ok());    // negative element
  BOOST_TEST(!f.get_i32s("array.string").ok());
  BOOST_TEST(!f.get_strings("scalar.string").ok());
  BOOST_TEST(!f.get_f32s("array.i32").ok());
  BOOST_TEST(!f.get_string("scalar.u8").ok());
  const std::string said = message(f.get_u64("array.f32"));
  BOOST_TEST(has(said, "all.gguf"));
  BOOST_TEST(has(said, "'array.f32' (array of 3 f32)"));
}

BOOST_AUTO_TEST_CASE(tensors_have_row_major_shapes_and_their_bytes) {
  const auto f = gguf_file::open(fixture("all.gguf")).value();
  BOOST_TEST(f.tensors().size() == 21u);
  BOOST_TEST(f.names().front() == "f32");
  const tensor_view* t = f.find("f32");
  BOOST_REQUIRE(t != nullptr);
  BOOST_TEST((t->shape == tensor_shape{2, 3}));
  BOOST_TEST(to_string(t->shape) == "[2, 3]");
  BOOST_TEST(test::load<float>(t->data, 2) == 1.5f);
  BOOST_TEST((f.find("i64")->shape == tensor_shape{1, 2, 3}));
  BOOST_TEST(test::load<std::int64_t>(f.find("i64")->data, 5) == 2);
  BOOST_TEST(f.find("q6_k")->data.size() == 12u * 210);
  BOOST_TEST(f.find("nothing") == nullptr);
}

BOOST_AUTO_TEST_CASE(views_survive_a_move) {
  auto first = gguf_file::open(fixture("all.gguf")).value();
  const std::string_view text = first.get_string("scalar.string").value();
  const auto second = std::move(first);
  BOOST_TEST(text == "Grüße, мир, 世界");
  BOOST_TEST(second.find("f32")->name == "f32");
  second.advise(*second.find("f32"), access::will_need);
  second.advise(*second.find("q6_k"), access::dont_need);
  BOOST_TEST(test::load<float>(second.find("f32")->data, 2) == 1.5f);
}

BOOST_AUTO_TEST_CASE(a_file_may_choose_its_alignment) {
  const auto f = gguf_file::open(fixture("aligned.gguf")).value();
  BOOST_TEST(f.alignment() == 128u);
  BOOST_TEST(f.find("b")->data.data() - f.find("a")->data.data() == 128);
  BOOST_TEST(test::load<float>(f.find("b")->data, 4) == 2.0f);
}

BOOST_AUTO_TEST_CASE(version_2_is_read_and_others_are_named) {
  std::string text = test::slurp(fixture("tiny.gguf"));
  text[4] = 2;
  BOOST_TEST(gguf_file::parse(test::exact_copy(text)).value().version() == 2u);
  text[4] = 1;
  BOOST_TEST(has(message(gguf_file::parse(test::exact_copy(text))), "version 1"));
  text[4] = 4;
  BOOST_TEST(has(message(gguf_file::parse(test::exact_copy(text))), "version 4"));
  const auto big = gguf_file::open(fixture("big_endian.gguf"));
  BOOST_TEST((big.error().code == errc::unsupported));
  BOOST_TEST(has(message(big), "big-endian"));
  BOOST_TEST(has(message(gguf_file::parse(test::exact_copy("tjgg\1\0\0\0"))), "older than GGUF"));
  BOOST_TEST(has(message(gguf_file::parse(test::exact_copy("{\"a\":1}"))), "letters GGUF"));
  BOOST_TEST(has(message(gguf_file::parse({})), "too short"));
}

BOOST_AUTO_TEST_CASE(any_shard_opens_the_whole_model) {
  for (const char* name : {"split-00001-of-00003.gguf", "split-00002-of-00003.gguf", "split-00003-of-00003.gguf"}) {
    auto opened = gguf_file::open(fixture(name));
    BOOST_REQUIRE_MESSAGE(opened.ok(), message(opened));
    const auto f = std::move(*opened);
    BOOST_TEST(f.n_shards() == 3u);
    BOOST_TEST(f.get_u64("test.layers").value() == 3u);
    BOOST_TEST(f.tensors().size() == 3u);
    for (int i = 0; i < 3; ++i) {
      const tensor_view* t = f.find("blk." + std::to_string(i) + ".weight");
      BOOST_REQUIRE(t != nullptr);
      BOOST_TEST(test::load<float>(t->data, 7) == static_cast<float>(i + 1));
    }
  }
}

BOOST_AUTO_TEST_CASE(shards_that_do_not_belong_together_are_refused) {
  const test::scratch_folder folder;
  const auto copy = [&](const char* from, const char* to) { return folder.write(to, test::slurp(fixture(from))); };
  const auto lone = copy("split-00001-of-00003.gguf", "renamed.gguf");
  BOOST_TEST(has(message(gguf_file::open(lone)), "model-00001-of-00003.gguf"));
  const auto first = copy("split-00001-of-00003.gguf", "m-00001-of-00003.gguf");
  const auto missing = gguf_file::open(first);
  BOOST_TEST((missing.error().code == errc::not_found));
  BOOST_TEST(has(message(missing), "m-00002-of-00003.gguf"));
  copy("split-00002-of-00003.gguf", "m-00003-of-00003.gguf");
  copy("split-00002-of-00003.gguf", "m-00002-of-00003.gguf");
  BOOST_TEST(has(message(gguf_file::open(first)), "says it is shard 2 of 3"));
  // The third with a tensor of the first.
  std::string third = test::slurp(fixture("split-00003-of-00003.gguf"));
  third[third.find("blk.2") + 4] = '0';
  folder.write("m-00003-of-00003.gguf", third);
  BOOST_TEST(has(message(gguf_file::open(first)), "in an earlier shard too"));
  copy("split-00003-of-00003.gguf", "m-00003-of-00003.gguf");
  BOOST_TEST(gguf_file::open(first).ok());
  std::string wrong = test::slurp(fixture("split-00001-of-00003.gguf"));
  wrong[wrong.find("split.tensors.count") + 19 + 4] = 4;
  folder.write("m-00001-of-00003.gguf", wrong);
  BOOST_TEST(has(message(gguf_file::open(first)), "split.tensors.count says 4"));
}

BOOST_AUTO_TEST_CASE(files_that_cannot_be_opened_are_named) {
  const auto absent = gguf_file::open(fixture("absent.gguf"));
  BOOST_TEST((absent.error().code == errc::not_found));
  BOOST_TEST(has(message(absent), "absent.gguf"));
  BOOST_TEST((gguf_file::open(fixture("")).error().code == errc::invalid_argument));
  const test::scratch_folder folder;
  const auto empty = folder.write("empty.gguf", "");
  BOOST_TEST(has(message(gguf_file::open(empty)), "too short"));
}

BOOST_AUTO_TEST_CASE(the_default_model_opens_within_milliseconds, *boost::unit_test::precondition(model_is_there)) {
  using clock = std::chrono::steady_clock;
  auto best = std::chrono::duration<double, std::milli>::max();
  for (int i = 0; i < 5; ++i) {
    const auto begin = clock::now();
    const auto f = gguf_file::open(default_model()).value();
    const auto tokens = f.get_strings("tokenizer.ggml.tokens").value();
    const auto merges = f.get_strings("tokenizer.ggml.merges").value();
    best = std::min(best, std::chrono::duration<double, std::milli>(clock::now() - begin));
    BOOST_TEST(tokens.size() == 49152u);
    BOOST_TEST(merges.size() == 48900u);
    BOOST_TEST(tokens[1] == "<|im_start|>");
    BOOST_TEST(f.get_u64("llama.block_count").value() == 30u);
    BOOST_TEST(f.tensors().size() == 272u);
    BOOST_TEST((f.find("token_embd.weight")->shape == tensor_shape{49152, 576}));
  }
  BOOST_TEST_MESSAGE("opened with its vocabulary in " << best.count() << " ms");
  BOOST_TEST(best.count() < 50);  // far above what it takes, far below what copying each string would
}

BOOST_AUTO_TEST_SUITE_END()

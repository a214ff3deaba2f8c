// GGUF bytes that no honest writer makes. Meaningful above all under the address sanitizer: every parse works on a copy
// of exactly the file's size.
#include <boost/test/unit_test.hpp>
#include <random>

#include "src/format/dequantize.hpp"
#include "src/format/gguf.hpp"
#include "tests/format/bytes.hpp"

using namespace troupe;
using namespace troupe::format;
using test::gguf_bytes;
using test::has;
using test::message;

namespace {

/// Uses everything that a parsed file offers.
std::uint64_t touch(const gguf_file& f) {
  std::uint64_t sum = 0;
  for (const gguf_entry& e : f.entries()) {
    sum += f.get_u64(e.key).ok() + f.get_i64(e.key).ok() + f.get_f64(e.key).ok() + f.get_bool(e.key).ok();
    sum += f.get_i32s(e.key).ok() + f.get_u64s(e.key).ok() + f.get_f32s(e.key).ok() + f.get_bools(e.key).ok();
    if (const auto s = f.get_string(e.key); s.ok()) sum += s->size();
    if (const auto strings = f.get_strings(e.key); strings.ok()) {
      for (std::string_view s : *strings) {
        for (char c : s) sum += static_cast<unsigned char>(c);
      }
    }
  }
  for (const tensor_view& t : f.tensors()) {
    for (std::byte b : t.data) sum += static_cast<unsigned>(b);
    if (t.data.size() > 65536 || !can_dequantize(t.type)) continue;
    std::vector<float> values(t.shape.elements());
    sum += dequantize(t, values).ok();
  }
  return sum;
}

/// Parses, uses what came out, and requires that a failure is one of the codes a caller may expect and has a sentence.
bool survives(const std::string& text) {
  const test::exact_copy bytes(text);
  const auto r = gguf_file::parse(bytes, "hostile.gguf");
  if (r.ok()) {
    touch(*r);
    return true;
  }
  const bool known = r.error().code == errc::invalid_file || r.error().code == errc::unsupported;
  BOOST_REQUIRE_MESSAGE(known && has(message(r), "hostile.gguf: "), message(r));
  return false;
}

std::string refusal(const std::string& text) {
  const test::exact_copy bytes(text);
  return message(gguf_file::parse(bytes, "hostile.gguf"));
}

std::string refusal(const gguf_bytes& file) { return refusal(file.text()); }

constexpr std::uint64_t huge[] = {1ull << 31, 1ull << 32, 1ull << 60, 1ull << 61,
                                  1ull << 62, 1ull << 63, ~0ull,      ~0ull - 7};

gguf_bytes one_tensor(std::vector<std::uint64_t> ne, std::uint32_t type, std::uint64_t offset, std::size_t n_data) {
  gguf_bytes f;
  f.tensors.push_back({"t", std::move(ne), type, offset});
  f.data.assign(n_data, 'x');
  return f;
}

}  // namespace

BOOST_AUTO_TEST_SUITE(gguf_hostile)

BOOST_AUTO_TEST_CASE(every_truncation_is_refused) {
  const std::string text = test::slurp(test::fixture("tiny.gguf"));
  BOOST_TEST(survives(text));
  for (std::size_t n = 0; n < text.size(); ++n) BOOST_REQUIRE_MESSAGE(!survives(text.substr(0, n)), n);
}

BOOST_AUTO_TEST_CASE(every_truncation_of_a_header_with_all_types_is_refused) {
  const std::string text = test::slurp(test::fixture("all.gguf"));
  for (std::size_t n = 0; n < 4096; ++n) BOOST_REQUIRE_MESSAGE(!survives(text.substr(0, n)), n);
}

BOOST_AUTO_TEST_CASE(no_changed_byte_does_harm) {
  std::string text = test::slurp(test::fixture("tiny.gguf"));
  for (std::size_t at = 0; at < text.size(); ++at) {
    const char was = text[at];
    for (int value = 0; value < 256; ++value) {
      text[at] = static_cast<char>(value);
      survives(text);
    }
    text[at] = was;
  }
}

BOOST_AUTO_TEST_CASE(no_changed_byte_among_all_types_does_harm) {
  std::string text = test::slurp(test::fixture("all.gguf"));
  const std::size_t header = 2600;
  for (std::size_t at = 0; at < header; ++at) {
    const char was = text[at];
    for (int value : {0, 1, 2, 8, 9, 0x7f, 0x80, 0xff, was ^ 1, was ^ 0x10, was ^ 0x80}) {
      text[at] = static_cast<char>(value);
      survives(text);
    }
    text[at] = was;
  }
}

BOOST_AUTO_TEST_CASE(random_damage_does_no_harm, *boost::unit_test::label("slow")) {
  const std::string good = test::slurp(test::fixture("tiny.gguf"));
  std::mt19937 random(20240301);
  for (int round = 0; round < 200'000; ++round) {
    std::string text = good;
    const auto n = 1 + random() % 6;
    for (std::uint32_t i = 0; i < n; ++i) {
      const std::size_t at = random() % text.size();
      switch (random() % 4) {
        case 0:
          text[at] = static_cast<char>(random());
          break;
        case 1:
          text.erase(at, 1 + random() % 8);
          break;
        case 2:
          text.insert(at, 1 + random() % 8, static_cast<char>(random()));
          break;
        default:
          if (at + 8 <= text.size()) {
            const std::uint64_t value = huge[random() % std::size(huge)] + random() % 3;
            std::memcpy(text.data() + at, &value, 8);
          }
      }
      if (text.empty()) break;
    }
    survives(text);
  }
}

BOOST_AUTO_TEST_CASE(counts_beyond_the_file_are_refused_before_anything_is_reserved) {
  std::string text = test::slurp(test::fixture("tiny.gguf"));
  for (std::size_t at : {8u, 16u}) {  // tensors, entries
    for (std::uint64_t n : huge) {
      std::string bad = text;
      std::memcpy(bad.data() + at, &n, 8);
      BOOST_TEST(has(refusal(bad), at == 8 ? "tensors, more than its size" : "entries, more than its size"));
    }
  }
}

BOOST_AUTO_TEST_CASE(lengths_beyond_the_file_are_refused) {
  for (std::uint64_t n : huge) {
    gguf_bytes f;
    f.value("key", gguf_type::string, test::writer().put(n).raw("abc").text());
    BOOST_TEST(has(refusal(f), "ends early"));
    for (std::uint32_t type = 0; type < 13; ++type) {
      if (type == 9) continue;
      gguf_bytes g;
      g.value("key", gguf_type::array, test::writer().put(type).put(n).raw("abcdefghijklmnopqrst").text());
      BOOST_TEST(has(refusal(g), "elements, more than the file holds"), refusal(g));
    }
    // A string inside an array.
    gguf_bytes h;
    h.value("key", gguf_type::array,
            test::writer().put<std::uint32_t>(8).put<std::uint64_t>(2).string("a").put(n).text());
    BOOST_TEST(has(refusal(h), "string 1 of 'key'"));
    // A key.
    test::writer k;
    k.raw("GGUF").put<std::uint32_t>(3).put<std::uint64_t>(0).put<std::uint64_t>(1).put(n).raw("some key and a value");
    BOOST_TEST(has(refusal(k.text()), "the key of metadata entry 0"));
  }
}

BOOST_AUTO_TEST_CASE(unknown_and_nested_types_are_refused) {
  gguf_bytes unknown;
  unknown.scalar<std::uint64_t>("key", static_cast<gguf_type>(13), 0);
  BOOST_TEST(has(refusal(unknown), "unknown type 13"));
  gguf_bytes element;
  element.value("key", gguf_type::array, test::writer().put<std::uint32_t>(77).put<std::uint64_t>(0).text());
  BOOST_TEST(has(refusal(element), "unknown type 77"));
  gguf_bytes nested;
  nested.value(
      "key", gguf_type::array,
      test::writer().put<std::uint32_t>(9).put<std::uint64_t>(1).put<std::uint32_t>(0).put<std::uint64_t>(0).text());
  BOOST_TEST(has(refusal(nested), "array of arrays"));
}

BOOST_AUTO_TEST_CASE(duplicates_and_empty_names_are_refused) {
  gguf_bytes keys;
  keys.scalar<std::uint32_t>("key", gguf_type::u32, 1).scalar<std::uint32_t>("key", gguf_type::u32, 1);
  BOOST_TEST(has(refusal(keys), "'key' occurs twice"));
  gguf_bytes tensors;
  tensors.tensors = {{"t", {4}, 0, 0}, {"t", {4}, 0, 32}};
  tensors.data.assign(64, 'x');
  BOOST_TEST(has(refusal(tensors), "tensor 't' occurs twice"));
  gguf_bytes no_key;
  no_key.scalar<std::uint32_t>("", gguf_type::u32, 1);
  BOOST_TEST(has(refusal(no_key), "empty key"));
  gguf_bytes no_name;
  no_name.tensors = {{"", {4}, 0, 0}};
  no_name.data.assign(64, 'x');
  BOOST_TEST(has(refusal(no_name), "no name"));
  gguf_bytes long_key;
  long_key.scalar<std::uint32_t>(std::string(70000, 'k'), gguf_type::u32, 1);
  BOOST_TEST(has(refusal(long_key), "longer than 65535"));
}

BOOST_AUTO_TEST_CASE(a_tensor_lies_in_the_file_or_is_refused) {
  BOOST_TEST(refusal(one_tensor({4}, 0, 0, 16)) == "");
  BOOST_TEST(has(refusal(one_tensor({4}, 0, 0, 15)), "needs 16 bytes at 0 of a data section of 15"));
  BOOST_TEST(has(refusal(one_tensor({4}, 0, 32, 47)), "needs 16 bytes at 32"));
  BOOST_TEST(has(refusal(one_tensor({4}, 0, 16, 64)), "not aligned to 32"));
  for (std::uint64_t offset : huge) {
    BOOST_TEST(!refusal(one_tensor({4}, 0, offset, 64)).empty());
    BOOST_TEST(has(refusal(one_tensor({4}, 0, offset & ~31ull, 64)), "bytes at"));
  }
}

BOOST_AUTO_TEST_CASE(dimensions_are_multiplied_with_care) {
  for (std::uint64_t n : huge) {
    for (std::uint32_t type : {0u, 1u, 2u, 12u, 24u, 28u}) {
      BOOST_TEST(!refusal(one_tensor({n}, type, 0, 64)).empty());
      BOOST_TEST(!refusal(one_tensor({256, n}, type, 0, 64)).empty());
      BOOST_TEST(!refusal(one_tensor({n, n, n, n}, type, 0, 64)).empty());
    }
  }
  // Products that wrap to a small number.
  BOOST_TEST(has(refusal(one_tensor({1ull << 32, 1ull << 32}, 0, 0, 64)), "2^62"));
  BOOST_TEST(has(refusal(one_tensor({1ull << 61, 8}, 0, 0, 64)), "2^62"));
  BOOST_TEST(has(refusal(one_tensor({1ull << 60, 4}, 28, 0, 64)), "overflows"));
  BOOST_TEST(has(refusal(one_tensor({2, 2, 2, 2, 2}, 0, 0, 128)), "5 dimensions"));
  BOOST_TEST(has(refusal(one_tensor({33}, 2, 0, 64)), "no multiple of the 32 of a Q4_0 block"));
  BOOST_TEST(has(refusal(one_tensor({16, 2}, 2, 0, 64)), "no multiple"));
  // Zero elements are a tensor without data, wherever it says it is.
  BOOST_TEST(refusal(one_tensor({32, 0}, 2, 1u << 20, 64)) == "");
  // A scalar has one element.
  BOOST_TEST(refusal(one_tensor({}, 0, 0, 4)) == "");
}

BOOST_AUTO_TEST_CASE(holes_in_the_type_ids_are_refused) {
  for (std::uint32_t id : {4u, 5u, 31u, 36u, 1000u, 0x10000u, 0x10003u, ~0u}) {
    BOOST_TEST(has(refusal(one_tensor({256}, id, 0, 4096)), "unknown type id"));
  }
}

BOOST_AUTO_TEST_CASE(overlapping_tensors_are_refused) {
  gguf_bytes f;
  f.tensors = {{"a", {16}, 0, 32}, {"b", {16}, 0, 64}};
  f.data.assign(256, 'x');
  BOOST_TEST(has(refusal(f), "'a' and 'b' overlap"));
  f.tensors[1].offset = 96;
  BOOST_TEST(refusal(f) == "");
}

BOOST_AUTO_TEST_CASE(alignment_must_be_a_power_of_two) {
  for (std::uint32_t alignment : {0u, 3u, 48u, 0x80000000u, 0xffffffffu}) {
    gguf_bytes f;
    f.scalar("general.alignment", gguf_type::u32, alignment);
    BOOST_TEST(has(refusal(f), "not a power of two"));
  }
  for (std::uint32_t alignment : {1u, 8u, 64u, 4096u}) {
    gguf_bytes f = one_tensor({4}, 0, 0, 16);
    f.alignment = alignment;
    f.scalar("general.alignment", gguf_type::u32, alignment);
    BOOST_TEST(refusal(f) == "");
  }
  gguf_bytes text;
  text.value("general.alignment", gguf_type::string, test::writer().string("32").text());
  BOOST_TEST(has(refusal(text), "not an integer"));
}

BOOST_AUTO_TEST_CASE(names_in_messages_are_short_and_printable) {
  gguf_bytes f;
  const std::string name = "\x1b[31m" + std::string(500, 'n');
  f.tensors = {{name, {4}, 4, 0}};
  f.data.assign(64, 'x');
  const std::string said = refusal(f);
  BOOST_TEST(has(said, "'\\x1b[31mnnn"));
  BOOST_TEST(said.size() < 300u);
}

BOOST_AUTO_TEST_CASE(a_truth_value_is_0_or_1) {
  gguf_bytes f;
  f.scalar<std::uint8_t>("bool", gguf_type::boolean, 2);
  f.value("bools", gguf_type::array, test::writer().put<std::uint32_t>(7).put<std::uint64_t>(2).raw("\1\3").text());
  const test::exact_copy bytes(f.text());
  const auto file = gguf_file::parse(bytes).value();
  BOOST_TEST(!file.get_bool("bool").ok());
  BOOST_TEST(!file.get_bools("bools").ok());
}

BOOST_AUTO_TEST_SUITE_END()

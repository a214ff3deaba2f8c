#include "src/format/safetensors.hpp"

#include <boost/test/unit_test.hpp>
#include <random>

#include "src/format/dequantize.hpp"
#include "tests/format/bytes.hpp"

using namespace troupe;
using namespace troupe::format;
using test::fixture;
using test::has;
using test::message;

namespace {

std::string made(std::string_view header, std::string_view data = "") {
  return test::writer().string(header).raw(data).text();
}

std::string refusal(const std::string& text) {
  const test::exact_copy bytes(text);
  return message(safetensors_file::parse(bytes, "hostile.safetensors"));
}

bool survives(const std::string& text) {
  const test::exact_copy bytes(text);
  const auto r = safetensors_file::parse(bytes, "hostile.safetensors");
  if (!r.ok()) {
    const bool known = r.error().code == errc::invalid_file || r.error().code == errc::unsupported;
    BOOST_REQUIRE_MESSAGE(known && has(message(r), "hostile.safetensors: "), message(r));
    return false;
  }
  for (const tensor_view& t : r->tensors()) {
    BOOST_REQUIRE(r->find(t.name) != nullptr);
    std::uint64_t sum = t.name.size();
    for (std::byte b : t.data) sum += static_cast<unsigned>(b);
    if (!can_dequantize(t.type)) continue;
    std::vector<float> values(t.shape.elements());
    BOOST_REQUIRE_MESSAGE(dequantize(t, values).ok(), sum);
  }
  return true;
}

}  // namespace

BOOST_AUTO_TEST_SUITE(safetensors)

BOOST_AUTO_TEST_CASE(every_type_is_known) {
  const auto f = safetensors_file::open(fixture("every.safetensors")).value();
  BOOST_TEST(f.tensors().size() == 17u);
  BOOST_TEST(f.metadata().at("format") == "pt");
  BOOST_TEST(f.metadata().at("note") == "ä\n");
  const auto is = [&](const char* name, dtype type, tensor_shape shape) {
    const tensor_view* t = f.find(name);
    BOOST_REQUIRE_MESSAGE(t != nullptr, name);
    BOOST_TEST((t->type == type), name);
    BOOST_TEST((t->shape == shape), name << " " << to_string(t->shape));
    BOOST_TEST(t->data.size() == kernels::bytes_of(type, shape.elements()).value());
  };
  is("bf16", dtype::bf16, {1, 3});
  is("f16", dtype::f16, {2});
  is("f32", dtype::f32, {2, 3});
  is("f64", dtype::f64, {1});
  is("i8", dtype::i8, {1});
  is("i16", dtype::i16, {1});
  is("i32", dtype::i32, {1});
  is("i64", dtype::i64, {1});
  is("u8", dtype::u8, {1});
  is("u16", dtype::u16, {1});
  is("u32", dtype::u32, {1});
  is("u64", dtype::u64, {1});
  is("bool", dtype::boolean, {1});
  is("f8", dtype::f8_e4m3, {2});
  is("scalar", dtype::f32, {});
  is("empty", dtype::f32, {0, 4});
  is("Grüße \"\\", dtype::f32, {1});

  float values[3];
  dequantize(*f.find("bf16"), values).value();
  BOOST_TEST(values[1] == -2.0f);
  BOOST_TEST(values[2] == 3.5f);
  BOOST_TEST(test::load<float>(f.find("f32")->data, 5) == 5.0f);
  BOOST_TEST(test::load<float>(f.find("scalar")->data) == 9.0f);
}

BOOST_AUTO_TEST_CASE(an_index_decides_which_shard_a_tensor_comes_from) {
  for (const char* path : {"sharded", "sharded/model.safetensors.index.json"}) {
    auto opened = safetensors_file::open(fixture(path));
    BOOST_REQUIRE_MESSAGE(opened.ok(), message(opened));
    const auto f = std::move(*opened);
    BOOST_TEST(f.n_shards() == 2u);
    BOOST_TEST(f.tensors().size() == 3u);
    BOOST_TEST(test::load<float>(f.find("first.weight")->data, 1) == 1.0f);
    BOOST_TEST(test::load<float>(f.find("second.weight")->data, 1) == 101.0f);
    BOOST_TEST(test::load<float>(f.find("both")->data, 1) == 1001.0f);
    BOOST_TEST(f.find("unlisted") == nullptr);
    BOOST_TEST((f.find("first.weight")->shape == tensor_shape{2, 4}));
    f.advise(*f.find("both"), access::sequential);
  }
}

BOOST_AUTO_TEST_CASE(a_folder_is_searched) {
  const test::scratch_folder folder;
  BOOST_TEST((safetensors_file::open(folder.path()).error().code == errc::not_found));
  const std::string one = test::slurp(fixture("every.safetensors"));
  folder.write("consolidated.safetensors", one);
  BOOST_TEST(safetensors_file::open(folder.path()).ok());
  folder.write("other.safetensors", one);
  BOOST_TEST(has(message(safetensors_file::open(folder.path())), "2 .safetensors files but no"));
  folder.write("model.safetensors", test::slurp(fixture("sharded/model-00001-of-00002.safetensors")));
  BOOST_TEST(safetensors_file::open(folder.path()).value().tensors().size() == 2u);
  BOOST_TEST((safetensors_file::open(folder.path() / "no.safetensors").error().code == errc::not_found));
}

BOOST_AUTO_TEST_CASE(an_index_cannot_reach_out_of_its_folder_or_lie) {
  const test::scratch_folder folder;
  folder.write("a.safetensors", test::slurp(fixture("sharded/model-00001-of-00002.safetensors")));
  const auto index = [&](std::string_view json) {
    return message(safetensors_file::open(folder.write("model.safetensors.index.json", json)));
  };
  BOOST_TEST(index(R"({"weight_map":{"both":"a.safetensors"}})") == "");
  BOOST_TEST(has(index(R"({"weight_map":{"both":"../a.safetensors"}})"), "not a .safetensors file in its folder"));
  BOOST_TEST(has(index(R"({"weight_map":{"both":"/etc/x.safetensors"}})"), "not a .safetensors file in its folder"));
  BOOST_TEST(has(index(R"({"weight_map":{"both":"a.safetensors\u0000.safetensors"}})"), "not a .safetensors file"));
  BOOST_TEST(has(index(R"({"weight_map":{"both":"passwd"}})"), "not a .safetensors file"));
  BOOST_TEST(has(index(R"({"weight_map":{"both":"b.safetensors"}})"), "no such file"));
  BOOST_TEST(has(index(R"({"weight_map":{"gone":"a.safetensors"}})"), "which does not hold it"));
  BOOST_TEST(has(index(R"({"weight_map":{"both":"a.safetensors","both":"a.safetensors"}})"), "twice"));
  BOOST_TEST(has(index(R"({"weight_map":{"both":7}})"), "not a file name"));
  BOOST_TEST(has(index(R"({"weight_map":[]})"), "no object weight_map"));
  BOOST_TEST(has(index(R"([])"), "no object weight_map"));
  BOOST_TEST(has(index(R"({"weight_map":)"), "JSON cannot be read"));
  BOOST_TEST(has(index(""), "JSON cannot be read"));
}

BOOST_AUTO_TEST_CASE(header_lengths_are_bounded) {
  BOOST_TEST(has(refusal(""), "too short"));
  BOOST_TEST(has(refusal(std::string(7, '\0')), "too short"));
  for (std::uint64_t n : {std::uint64_t{100}, std::uint64_t{100'000'001}, std::uint64_t{1} << 63, ~std::uint64_t{0}}) {
    BOOST_TEST(has(refusal(test::writer().put(n).raw("{}").text()), "claims a header of"));
  }
  BOOST_TEST(refusal(made("{}")) == "");
  BOOST_TEST(refusal(made("{}      ")) == "");
  BOOST_TEST(has(refusal(made("")), "does not begin with {"));
  BOOST_TEST(has(refusal(made("[]")), "does not begin with {"));
  BOOST_TEST(has(refusal(made(" {}")), "does not begin with {"));
  BOOST_TEST(has(refusal(made("{} {}")), "JSON cannot be read"));
  BOOST_TEST(
      has(refusal(made("{\"a\":" + std::string(5000, '[') + std::string(5000, ']') + "}")), "JSON cannot be read"));
}

BOOST_AUTO_TEST_CASE(descriptions_are_checked) {
  const std::string eight(8, 'x');
  const auto one = [&](std::string_view fields) {
    return refusal(made("{\"t\":{" + std::string(fields) + "}}", eight));
  };
  BOOST_TEST(one(R"("dtype":"F32","shape":[2],"data_offsets":[0,8])") == "");
  BOOST_TEST(one(R"("data_offsets":[0,8],"shape":[1,2,1],"dtype":"F32")") == "");
  BOOST_TEST(has(one(R"("dtype":"F32","shape":[2])"), "not described by"));
  BOOST_TEST(has(one(R"("dtype":"F32","shape":[2],"data_offsets":[0,8],"more":1)"), "not described by"));
  BOOST_TEST(has(one(R"("dtype":"F32","dtype":"F32","shape":[2],"data_offsets":[0,8])"), "not described by"));
  BOOST_TEST(has(one(R"("dtype":5,"shape":[2],"data_offsets":[0,8])"), "not described by"));
  BOOST_TEST(has(one(R"("dtype":"F33","shape":[2],"data_offsets":[0,8])"), "has type 'F33'"));
  BOOST_TEST(has(one(R"("dtype":"Q4_0","shape":[2],"data_offsets":[0,8])"), "has type 'Q4_0'"));
  BOOST_TEST(has(one(R"("dtype":"F32","shape":[-2],"data_offsets":[0,8])"), "does not consist of counts"));
  BOOST_TEST(has(one(R"("dtype":"F32","shape":[2.0],"data_offsets":[0,8])"), "does not consist of counts"));
  BOOST_TEST(has(one(R"("dtype":"F32","shape":[18446744073709551616],"data_offsets":[0,8])"), "JSON cannot be read"));
  BOOST_TEST(has(one(R"("dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,0])"), "2^62"));
  BOOST_TEST(has(one(R"("dtype":"F32","shape":[4611686018427387904],"data_offsets":[0,0])"), "does not take 0 bytes"));
  BOOST_TEST(has(one(R"("dtype":"F32","shape":[1,1,1,1,1,1,1,1,2],"data_offsets":[0,8])"), "more than 8 dimensions"));
  BOOST_TEST(has(one(R"("dtype":"F32","shape":[3],"data_offsets":[0,8])"), "does not take 8 bytes"));
  BOOST_TEST(has(one(R"("dtype":"F32","shape":[2],"data_offsets":[0,8,9])"), "not two counts"));
  BOOST_TEST(has(one(R"("dtype":"F32","shape":[2],"data_offsets":[-8,0])"), "not two counts"));
  BOOST_TEST(has(one(R"("dtype":"F32","shape":[2],"data_offsets":[8,0])"), "lies at 8 to 0"));
  BOOST_TEST(has(one(R"("dtype":"F32","shape":[2],"data_offsets":[4,12])"), "lies at 4 to 12"));
  BOOST_TEST(
      has(one(R"("dtype":"F32","shape":[2],"data_offsets":[18446744073709551608,18446744073709551615])"), "lies at"));
  BOOST_TEST(has(refusal(made(R"({"t":7})", eight)), "is not an object"));
  BOOST_TEST(has(refusal(made(R"({"__metadata__":{"a":1}})")), "'a' is not a string"));
  BOOST_TEST(has(refusal(made(R"({"__metadata__":[]})")), "__metadata__ is not an object"));
}

BOOST_AUTO_TEST_CASE(tensors_cover_the_data_without_overlap_or_hole) {
  const auto two = [&](std::string_view a, std::string_view b, std::size_t n) {
    const auto field = [](std::string_view offsets) {
      return "{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":" + std::string(offsets) + "}";
    };
    return refusal(made("{\"a\":" + field(a) + ",\"b\":" + field(b) + "}", std::string(n, 'x')));
  };
  BOOST_TEST(two("[0,4]", "[4,8]", 8) == "");
  BOOST_TEST(two("[4,8]", "[0,4]", 8) == "");
  BOOST_TEST(has(two("[0,4]", "[0,4]", 8), "overlap or leave a hole"));
  BOOST_TEST(has(two("[0,4]", "[2,6]", 8), "overlap or leave a hole"));
  BOOST_TEST(has(two("[0,4]", "[5,9]", 9), "overlap or leave a hole"));
  BOOST_TEST(has(two("[0,4]", "[4,8]", 9), "1 bytes at its end belong to no tensor"));
  BOOST_TEST(has(
      refusal(made(
          R"({"a":{"dtype":"U8","shape":[0],"data_offsets":[0,0]},"a":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}})")),
      "'a' occurs twice"));
}

BOOST_AUTO_TEST_CASE(every_truncation_is_refused) {
  const std::string text = test::slurp(fixture("every.safetensors"));
  BOOST_TEST(survives(text));
  for (std::size_t n = 0; n < text.size(); ++n) BOOST_REQUIRE_MESSAGE(!survives(text.substr(0, n)), n);
}

BOOST_AUTO_TEST_CASE(no_changed_byte_does_harm) {
  std::string text = test::slurp(fixture("every.safetensors"));
  for (std::size_t at = 0; at < text.size(); ++at) {
    const char was = text[at];
    for (int value :
         {0, 1, 0x20, 0x22, 0x2c, 0x30, 0x39, 0x5b, 0x5c, 0x7b, 0x7d, 0x7f, 0x80, 0xff, was ^ 1, was ^ 0x10}) {
      text[at] = static_cast<char>(value);
      survives(text);
    }
    text[at] = was;
  }
}

BOOST_AUTO_TEST_CASE(random_damage_does_no_harm, *boost::unit_test::label("slow")) {
  const std::string good = test::slurp(fixture("sharded/model-00002-of-00002.safetensors"));
  std::mt19937 random(20240302);
  for (int round = 0; round < 100'000; ++round) {
    std::string text = good;
    const auto n = 1 + random() % 4;
    for (std::uint32_t i = 0; i < n && !text.empty(); ++i) {
      const std::size_t at = random() % text.size();
      switch (random() % 3) {
        case 0:
          text[at] = static_cast<char>(random());
          break;
        case 1:
          text.erase(at, 1 + random() % 4);
          break;
        default:
          text.insert(at, 1 + random() % 4, "0123456789,[]{}\"\\"[random() % 17]);
      }
    }
    survives(text);
  }
}

BOOST_AUTO_TEST_SUITE_END()

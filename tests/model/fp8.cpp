#include <array>
#include <bit>
#include <boost/test/unit_test.hpp>
#include <cstring>
#include <fstream>
#include <iterator>
#include <limits>
#include <map>

#include "src/format/safetensors.hpp"
#include "src/model/open_model.hpp"
#include "src/model/read_config.hpp"

/// F8_E4M3 weights: what tests/data/make_fp8.py made is read, its like with other scales is refused by name.
using namespace troupe;
using namespace troupe::model;
using format::tensor_view;
using kernels::dtype;

namespace {

const std::string folder = std::string(TROUPE_TEST_DATA) + "/model/llama-fp8";

std::string config_text() {
  std::ifstream in(folder + "/config.json", std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

/// The tensors of a folder, some of them changed.
class edited final : public format::tensor_source {
 public:
  explicit edited(format::safetensors_file file) : file_(std::move(file)) {
    for (const tensor_view& t : file_.tensors()) by_name_.emplace(t.name, t);
  }
  tensor_view& operator[](const std::string& name) { return by_name_.at(name); }
  void erase(const std::string& name) { BOOST_TEST_REQUIRE(by_name_.erase(name) == 1u); }
  void add(const std::string& name, const tensor_view& t) { by_name_.emplace(name, t); }

  std::span<const tensor_view> tensors() const noexcept override { return file_.tensors(); }
  const tensor_view* find(std::string_view name) const noexcept override {
    const auto at = by_name_.find(name);
    return at == by_name_.end() ? nullptr : &at->second;
  }
  const std::string& origin() const noexcept override { return file_.origin(); }

 private:
  format::safetensors_file file_;
  std::map<std::string, tensor_view, std::less<>> by_name_;
};

/// The weights after `change(source)`.
template <class Change>
result<weight_table> resolved(Change&& change) {
  const auto d = config_from_json(config_text(), "", "x").value();
  auto source = std::make_shared<edited>(format::safetensors_file::open(folder).value());
  change(*source);
  return weight_table::resolve(std::move(source), *d.architecture, file_form::safetensors, d.config);
}

const std::string q = "model.layers.1.self_attn.q_proj.weight", q_scale = q + "_scale";

void refused(const result<weight_table>& r, errc code, const std::string& word, const std::string& name = q) {
  BOOST_TEST_REQUIRE(!r.ok(), word);
  BOOST_TEST((r.error().code == code), r.error().message);
  BOOST_TEST(r.error().message.find(word) != std::string::npos, r.error().message);
  BOOST_TEST(r.error().message.find(name) != std::string::npos, r.error().message);
}

}  // namespace

BOOST_AUTO_TEST_SUITE(fp8)

BOOST_AUTO_TEST_CASE(linear_layers_have_their_scale) {
  const auto m = open_model(folder).value();
  const auto number = [&](const std::string& name) {
    const tensor_view& t = *m->weights.source().find(name);
    std::uint32_t bits = 0;
    std::memcpy(&bits, t.data.data(), t.data.size());
    return std::bit_cast<float>(t.type == dtype::bf16 ? bits << 16 : bits);
  };
  using enum tensor_role;
  for (std::uint32_t i = 0; i < m->config.n_layers; ++i)
    for (const tensor_role role : {tensor_role::q, k, v, o, gate, up, down}) {
      const tensor_view& t = *m->weights.find(role, i);
      BOOST_TEST((t.type == dtype::f8_e4m3));
      BOOST_TEST(t.scale == number(std::string(t.name) + "_scale"), t.name);
      BOOST_TEST((t.scale > 0 && t.scale < 0.1f));  // not the 1 of a view without one
      BOOST_TEST((t.data.data() == m->weights.source().find(t.name)->data.data()));
    }
  BOOST_TEST((m->weights.source().find("model.layers.0.self_attn.o_proj.weight_scale")->type == dtype::bf16));
  BOOST_TEST(m->weights.head().scale == 1.0f);
  BOOST_TEST(m->weights.find(attention_norm, 0)->scale == 1.0f);
}

BOOST_AUTO_TEST_CASE(only_one_number_per_tensor_is_a_scale) {
  const float numbers[64] = {0.5f};
  const auto with_scale = [&](dtype type, const format::tensor_shape& shape) {
    const std::size_t n = *kernels::bytes_of(type, shape.elements());
    return resolved([&](edited& s) {
      s[q_scale] = {q_scale, type, shape, std::as_bytes(std::span(numbers)).first(n)};
    });
  };
  for (const format::tensor_shape& shape : {format::tensor_shape{}, {1}, {1, 1}}) {
    const auto w = with_scale(dtype::f32, shape);
    BOOST_TEST_REQUIRE(w.ok());
    BOOST_TEST(w->find(tensor_role::q, 1)->scale == 0.5f);
  }
  refused(with_scale(dtype::f32, {64}), errc::unsupported, "per channel");
  refused(with_scale(dtype::f32, {64, 1}), errc::unsupported, "per channel");
  refused(with_scale(dtype::f32, {2, 2}), errc::unsupported, "per block");
  refused(resolved([](edited& s) { s.add(q + "_scale_inv", s[q_scale]); }), errc::unsupported, "per block");
  refused(with_scale(dtype::f32, {0}), errc::invalid_file, "shape [0]");
  refused(with_scale(dtype::f16, {1}), errc::unsupported, "scale of type F16");
  refused(with_scale(dtype::u8, {1}), errc::unsupported, "scale of type U8");
  refused(resolved([](edited& s) { s.erase(q_scale); }), errc::invalid_file, "no " + q_scale);
  for (const float x : {std::numeric_limits<float>::infinity(), std::numeric_limits<float>::quiet_NaN()})
    refused(resolved([&](edited& s) { s[q_scale].data = std::as_bytes(std::span(&x, 1)); }), errc::invalid_file,
            "not finite");
}

BOOST_AUTO_TEST_CASE(linear_layers_only_may_be_f8) {
  for (const char* name : {"model.embed_tokens.weight", "model.norm.weight"})
    refused(resolved([&](edited& s) {
              s[name].type = dtype::f8_e4m3;
              s[name].data = s[name].data.first(s[name].data.size() / 2);
            }),
            errc::unsupported, "only linear layers", name);
  refused(resolved([](edited& s) { s[q].type = dtype::f8_e5m2; }), errc::unsupported, "F8_E5M2");
  const float scale = 0.25f;
  const auto w = resolved([&](edited& s) {  // the head is one
    tensor_view& head = s["lm_head.weight"];
    head.type = dtype::f8_e4m3;
    head.data = head.data.first(head.data.size() / 2);
    s.add("lm_head.weight_scale", {"lm_head.weight_scale", dtype::f32, {1}, std::as_bytes(std::span(&scale, 1))});
  });
  BOOST_TEST_REQUIRE(w.ok());
  BOOST_TEST(w->head().scale == 0.25f);
}

BOOST_AUTO_TEST_CASE(configurations_say_how_weights_are_quantized) {
  const std::string config = config_text();
  const auto with = [&](const std::string& from, const std::string& to) {
    const auto at = config.find(from);
    BOOST_TEST_REQUIRE(at != std::string::npos, from);
    return config_from_json(std::string(config).replace(at, from.size(), to), "", "config.json");
  };
  BOOST_TEST(with("{", "{").value().quantized);
  // The first "strategy" is that of the weights, the last that of the activations, which stay as they are here anyway.
  const std::string tensor = R"("strategy": "tensor")";
  BOOST_TEST(config_from_json(
                 std::string(config).replace(config.rfind(tensor), tensor.size(), R"("strategy": "token")"), "", "x")
                 .ok());
  const std::array<const char*, 3> cases[] = {
      {R"("strategy": "tensor")", R"("strategy": "channel")", "scaled per 'channel'"},
      {R"("strategy": "tensor")", R"("strategy": "block")", "scaled per 'block'"},
      {R"("num_bits": 8)", R"("num_bits": 4)", "another type than fp8"},
      {R"("type": "float")", R"("type": "int")", "another type than fp8"},
      {R"("float-quantized")", R"("pack-quantized")", "'pack-quantized'"},
      {R"("compressed-tensors")", R"("gptq")", "'gptq'"},
      {R"("quant_method": "compressed-tensors")", R"("quant_method": "fp8", "weight_block_size": [128, 128])",
       "per block"},
      {R"("quant_method": "compressed-tensors")", R"("quant_method": 8)", "quant_method"},
      {R"("config_groups")", R"("groups")", "config_groups"},
      {R"("group_0": {)", R"("group_1": 7, "group_0": {)", "config_groups"},
      {R"("weights": {)", R"("weight": {)", "weights"},
      {R"("quantization_config": {)", R"("quantization_config": 7, "other": {)", "quantization_config"},
  };
  for (const auto& [from, to, word] : cases) {
    const auto r = with(from, to);
    BOOST_TEST_REQUIRE(!r.ok(), to);
    BOOST_TEST(r.error().message.find(word) != std::string::npos, r.error().message);
  }
  // vLLM's own way to say it, with activations or without; null: no blocks.
  const std::string head = config.substr(0, config.find(R"("quantization_config")")) + R"("quantization_config": )";
  for (const char* rest : {R"({"quant_method": "fp8", "activation_scheme": "static"}})",
                           R"({"quant_method": "fp8", "weight_block_size": null}})"})
    BOOST_TEST(config_from_json(head + rest, "", "x").ok(), rest);
}

BOOST_AUTO_TEST_SUITE_END()

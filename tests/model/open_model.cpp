#include <boost/test/unit_test.hpp>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <functional>
#include <random>

#include "src/format/gguf.hpp"
#include "src/model/open_model.hpp"
#include "src/model/read_config.hpp"
#include "tests/format/bytes.hpp"

using namespace troupe;
using namespace troupe::model;
namespace fs = std::filesystem;

namespace {

std::string data(const std::string& name) { return std::string(TROUPE_TEST_DATA) + "/model/" + name; }

std::string read(const fs::path& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}
void write(const fs::path& path, const std::string& text) {
  std::ofstream(path, std::ios::binary).write(text.data(), static_cast<std::streamsize>(text.size()));
}

/// A folder that goes away with the test.
struct scratch_folder {
  fs::path path = fs::temp_directory_path() / ("troupe_model_" + std::to_string(std::random_device()()));
  scratch_folder() { fs::create_directories(path); }
  ~scratch_folder() { fs::remove_all(path); }
};

std::string replaced(std::string text, const std::string& from, const std::string& to) {
  const auto at = text.find(from);
  BOOST_TEST_REQUIRE((at != std::string::npos), from);
  return text.replace(at, from.size(), to);
}

}  // namespace

BOOST_AUTO_TEST_CASE(both_forms_of_a_model_say_the_same) {
  for (auto [name, file] : {std::pair("llama", "model-bf16.gguf"), std::pair("llama-bias", "model-bf16.gguf"),
                            std::pair("llama-yarn", "model-f16.gguf"), std::pair("llama3-rope", "model-f16.gguf"),
                            std::pair("mixtral", "model-bf16.gguf"), std::pair("qwen3", "model-Q8_0.gguf"),
                            std::pair("qwen3_moe", "model-f16.gguf")}) {
    const auto a = open_model(data(name)).value(), b = open_model(data(name) + "/" + file).value();
    const model_config &x = a->config, &y = b->config;
    BOOST_TEST_CONTEXT(name) {
      BOOST_TEST(x.n_layers == y.n_layers);
      BOOST_TEST(x.hidden == y.hidden);
      BOOST_TEST(x.n_heads == y.n_heads);
      BOOST_TEST(x.n_kv_heads == y.n_kv_heads);
      BOOST_TEST(x.head_dim == y.head_dim);
      BOOST_TEST(x.ffn == y.ffn);
      BOOST_TEST((x.n_experts == y.n_experts && x.n_experts_used == y.n_experts_used));
      BOOST_TEST(x.experts_renormalized == y.experts_renormalized);
      BOOST_TEST(x.vocab == y.vocab);
      BOOST_TEST(x.context == y.context);
      BOOST_TEST(std::abs(x.rms_eps - y.rms_eps) < 1e-10f);
      BOOST_TEST(x.tied_embedding == y.tied_embedding);
      BOOST_TEST(x.attention_bias == y.attention_bias);
      BOOST_TEST(x.mlp_bias == y.mlp_bias);
      const bool permuted = !std::string_view(name).starts_with("qwen");  // by the converter
      BOOST_TEST((x.rope.form == rope_form::half));
      BOOST_TEST((y.rope.form == (permuted ? rope_form::interleaved : rope_form::half)));
      BOOST_TEST(x.rope.attention_factor == y.rope.attention_factor, boost::test_tools::tolerance(1e-7));
      std::vector<float> divisors;
      if (const auto* t = b->weights.find(tensor_role::rope_divisors)) {
        divisors.resize(t->shape.elements());
        std::memcpy(divisors.data(), t->data.data(), t->data.size());
      }
      const auto f = inverse_frequencies(x.rope, {}), g = inverse_frequencies(y.rope, divisors);
      BOOST_TEST_REQUIRE(f.size() == g.size());
      for (std::size_t i = 0; i < f.size(); ++i) BOOST_TEST(f[i] == g[i], boost::test_tools::tolerance(1e-6));
    }
  }
}

BOOST_AUTO_TEST_CASE(frequencies_follow_their_formulas) {
  rope_config r;
  r.dim = 8;
  r.theta = 10000;
  const double plain[] = {1.0, 0.1, 0.01, 0.001};
  auto f = inverse_frequencies(r, {});
  for (int i = 0; i < 4; ++i)
    BOOST_TEST(f[static_cast<std::size_t>(i)] == plain[i], boost::test_tools::tolerance(1e-15));
  r.scaling = rope_scaling::linear;
  r.factor = 4;
  f = inverse_frequencies(r, {});
  for (int i = 0; i < 4; ++i)
    BOOST_TEST(f[static_cast<std::size_t>(i)] == plain[i] / 4, boost::test_tools::tolerance(1e-15));
  // llama3 with a context of 64: waves of 6.28 stay, waves of 62.8 (between 16 and 64) blend, longer ones are
  // stretched.
  r.scaling = rope_scaling::llama3;
  r.factor = 8;
  r.original_context = 64;
  r.low_freq_factor = 1;
  r.high_freq_factor = 4;
  f = inverse_frequencies(r, {});
  BOOST_TEST(f[0] == 1.0);
  const double smooth = (64 / (2 * M_PI / 0.1) - 1) / 3;
  BOOST_TEST(f[1] == (1 - smooth) * 0.1 / 8 + smooth * 0.1, boost::test_tools::tolerance(1e-14));
  BOOST_TEST(f[2] == 0.01 / 8, boost::test_tools::tolerance(1e-15));
  // yarn: no dimension turns 32 times within 64 tokens (low end 0), dimension 1 turns once: ramp from 0 to 2.
  r.scaling = rope_scaling::yarn;
  r.factor = 4;
  f = inverse_frequencies(r, {});
  const double ramps[] = {0.0, 0.5, 1.0, 1.0};
  for (int i = 0; i < 4; ++i)
    BOOST_TEST(f[static_cast<std::size_t>(i)] == plain[i] / 4 * ramps[i] + plain[i] * (1 - ramps[i]),
               boost::test_tools::tolerance(1e-14));
}

BOOST_AUTO_TEST_CASE(end_ids_come_from_both_json_files) {
  const std::string config = read(data("llama") + "/config.json");
  auto d = config_from_json(config, R"({"eos_token_id": [2, 5, 7]})", "x").value();
  BOOST_TEST(d.config.eos == (std::vector<token_id>{2, 5, 7}), boost::test_tools::per_element());
  d = config_from_json(replaced(config, "\"eos_token_id\": 2", "\"eos_token_id\": [9, 100000]"), "", "x").value();
  BOOST_TEST(d.config.eos == (std::vector<token_id>{9}), boost::test_tools::per_element());
}

BOOST_AUTO_TEST_CASE(sampling_is_recommended_by_generation_config_json) {
  const std::string config = read(data("llama") + "/config.json");
  const auto said = [&](const std::string& generation) {
    return config_from_json(config, generation, "x").value().sampling;
  };
  sampling_choices all;
  all.temperature = 0.6f;
  all.top_k = 20;
  all.top_p = 0.95f;
  all.min_p = 0.05f;
  all.repetition_penalty = 1.05f;
  BOOST_TEST((
      said(
          R"({"do_sample": true, "temperature": 0.6, "top_k": 20, "top_p": 0.95, "min_p": 0.05, "repetition_penalty": 1.05})") ==
      all));
  BOOST_TEST((said("") == sampling_choices{}));
  BOOST_TEST((said(R"({"temperature": null, "top_p": null, "max_length": 20})") == sampling_choices{}));
  sampling_choices greedy;
  greedy.temperature = 0.0f;
  greedy.top_p = 1.0f;
  BOOST_TEST((said(R"({"do_sample": false, "temperature": 0.6, "top_p": 1})") == greedy));
  for (const auto& [generation, key] :
       {std::pair(R"({"temperature": "warm"})", "temperature"), std::pair(R"({"top_k": 2.5})", "top_k"),
        std::pair(R"({"top_k": 1e12})", "top_k"), std::pair(R"({"do_sample": 1})", "do_sample")}) {
    const auto r = config_from_json(config, generation, "x");
    BOOST_TEST_REQUIRE(!r);
    BOOST_TEST((r.error().code == errc::invalid_file));
    BOOST_TEST(r.error().message.find(std::string("generation_config.json: ") + key) == 0, r.error().message);
  }
}

BOOST_AUTO_TEST_CASE(sampling_is_recommended_by_keys_of_a_gguf) {
  scratch_folder f;
  // Keys go before those that are there; one more fills up to the alignment, so that the tensors' data stay in place.
  const auto open_with = [&](std::vector<std::pair<std::string, float>> reals, std::int32_t top_k) {
    constexpr auto f32 = std::uint32_t(format::gguf_type::f32), i32 = std::uint32_t(format::gguf_type::i32),
                   text = std::uint32_t(format::gguf_type::string);
    test::writer keys;
    for (const auto& [key, value] : reals) keys.string("general.sampling." + key).put(f32).put(value);
    keys.string("general.sampling.top_k").put(i32).put(top_k).string("fill").put(text);
    keys.string(std::string(32 - (keys.text().size() + 8) % 32, '.'));
    std::string bytes = read(data("llama-bias") + "/model-bf16.gguf");
    std::uint64_t n;
    std::memcpy(&n, bytes.data() + 16, 8);
    n += reals.size() + 2;
    std::memcpy(bytes.data() + 16, &n, 8);
    write(f.path / "m.gguf", bytes.insert(24, keys.text()));
    return open_model((f.path / "m.gguf").string());
  };
  sampling_choices all;
  all.temperature = 0.6f;
  all.top_k = 20;
  all.top_p = 0.95f;
  all.min_p = 0.05f;
  all.repetition_penalty = 1.05f;
  BOOST_TEST((open_with({{"temp", 0.6f}, {"top_p", 0.95f}, {"min_p", 0.05f}, {"penalty_repeat", 1.05f}}, 20)
                  .value()
                  ->sampling == all));
  const auto r = open_with({}, -2);
  BOOST_TEST_REQUIRE(!r);
  BOOST_TEST(r.error().message.find("general.sampling.top_k") != std::string::npos, r.error().message);
  BOOST_TEST((open_model(data("llama-bias") + "/model-bf16.gguf").value()->sampling == sampling_choices{}));
}

BOOST_AUTO_TEST_CASE(configurations_that_cannot_be_are_refused_by_name) {
  const std::string config = read(data("llama") + "/config.json");
  const std::array<const char*, 3> cases[] = {
      {"\"hidden_size\": 64", "\"hidden_size\": 0", "hidden"},
      {"\"hidden_size\": 64", "\"hidden_size\": -4", "hidden_size"},
      {"\"hidden_size\": 64", "\"hidden_size\": \"64\"", "hidden_size"},
      {"\"hidden_size\": 64", "\"hidden_sise\": 64", "hidden_size"},
      {"\"hidden_size\": 64", "\"hidden_size\": 4294967360", "hidden_size"},
      {"\"num_hidden_layers\": 3", "\"num_hidden_layers\": 1000000", "layers"},
      {"\"num_attention_heads\": 4", "\"num_attention_heads\": 0", "heads"},
      {"\"num_attention_heads\": 4", "\"num_attention_heads\": 3", "head"},
      {"\"num_key_value_heads\": 2", "\"num_key_value_heads\": 3", "multiple"},
      {"\"vocab_size\": 448", "\"vocab_size\": 1e9", "vocab_size"},
      {"\"rope_theta\": 10000.0", "\"rope_theta\": -1", "rope base"},
      {"\"rope_scaling\": null", "\"rope_scaling\": {\"type\": \"magic\"}", "magic"},
      {"\"rope_scaling\": null", "\"rope_scaling\": {\"type\": \"linear\", \"factor\": 0}", "factor"},
      {"\"rope_scaling\": null", "\"rope_scaling\": {\"rope_type\": \"llama3\", \"factor\": 8}", "original context"},
      {"\"rope_scaling\": null", "\"rope_scaling\": 7", "rope_scaling"},
      {"\"rms_norm_eps\": 1e-05", "\"rms_norm_eps\": -1", "epsilon"},
      {"\"hidden_act\": \"silu\"", "\"hidden_act\": \"relu\"", "relu"},
      {"\"model_type\": \"llama\"", "\"model_type\": \"llama9\"", "llama9"},
      {"\"model_type\": \"llama\"", "\"model_type\": \"llama\", \"quantization_config\": {}", "quantized"},
      {"{", "", "JSON"},
  };
  for (const auto& [from, to, word] : cases) {
    const auto r = config_from_json(replaced(config, from, to), "", "config.json");
    BOOST_TEST_REQUIRE(!r.ok(), to);
    BOOST_TEST((r.error().message.find(word) != std::string::npos), r.error().message);
  }
}

// One tensor per expert in safetensors, one for all of a layer in a GGUF.
BOOST_AUTO_TEST_CASE(experts_are_found_in_both_forms) {
  const auto a = open_model(data("mixtral")).value(), b = open_model(data("mixtral") + "/model-bf16.gguf").value();
  BOOST_TEST_REQUIRE((a->config.n_experts == 4u && a->config.n_experts_used == 2u));
  for (std::uint32_t layer = 0; layer < a->config.n_layers; ++layer) {
    BOOST_TEST(!a->weights.find(tensor_role::gate, layer));
    BOOST_TEST((a->weights.find(tensor_role::router, layer)->shape == format::tensor_shape{4, 64}));
    for (std::uint32_t e = 0; e < 4; ++e)
      for (const tensor_role role : {tensor_role::expert_gate, tensor_role::expert_up, tensor_role::expert_down}) {
        const format::tensor_view &x = a->weights.expert(role, layer, e), &y = b->weights.expert(role, layer, e);
        BOOST_TEST((x.shape == y.shape));
        BOOST_TEST((x.data.size() == y.data.size() && std::memcmp(x.data.data(), y.data.data(), x.data.size()) == 0));
      }
  }
  BOOST_TEST(a->weights.bytes() > 4 * 2 * 3 * 64 * 64 * 2u);
  BOOST_TEST(!open_model(data("llama")).value()->weights.find(tensor_role::router, 0));

  const std::string config = read(data("mixtral") + "/config.json");
  for (const auto& [from, to, word] :
       {std::array{"\"num_experts_per_tok\": 2", "\"num_experts_per_tok\": 5", "5 experts"},
        {"\"num_experts_per_tok\": 2", "\"num_experts_per_tok\": 0", "0 experts"},
        {"\"num_local_experts\": 4", "\"num_local_experts\": 100000", "100000"},
        {"\"num_local_experts\": 4", "\"num_experts\": 4", "num_local_experts"}}) {
    const auto r = config_from_json(replaced(config, from, to), "", "config.json");
    BOOST_TEST_REQUIRE(!r.ok(), to);
    BOOST_TEST((r.error().message.find(word) != std::string::npos), r.error().message);
  }
  const std::string qwen = read(data("qwen3_moe") + "/config.json");
  BOOST_TEST(config_from_json(qwen, "", "x")->config.ffn == 32u);
  BOOST_TEST(!config_from_json(replaced(qwen, "\"norm_topk_prob\": true,", ""), "", "x")->config.experts_renormalized);
  for (const auto& [from, to, word] :
       {std::array{"\"mlp_only_layers\": []", "\"mlp_only_layers\": [1]", "without experts"},
        {"\"decoder_sparse_step\": 1", "\"decoder_sparse_step\": 2", "without experts"},
        {"\"use_sliding_window\": false", "\"use_sliding_window\": true", "use_sliding"}}) {
    const auto r = config_from_json(replaced(qwen, from, to), "", "config.json");
    BOOST_TEST((!r.ok() && r.error().code == errc::unsupported && r.error().message.find(word) != std::string::npos));
  }
  scratch_folder f;
  fs::copy(data("mixtral") + "/model.safetensors", f.path / "model.safetensors");
  write(f.path / "config.json", replaced(config, "\"num_local_experts\": 4", "\"num_local_experts\": 5"));
  const auto r = open_model(f.path.string());
  BOOST_TEST(
      (!r.ok() && r.error().message.find("block_sparse_moe.gate.weight has shape [4, 64]") != std::string::npos));
}

BOOST_AUTO_TEST_CASE(tensors_must_fit_the_configuration) {
  scratch_folder f;
  const std::string config = read(data("llama") + "/config.json");
  fs::copy(data("llama") + "/model.safetensors", f.path / "model.safetensors");
  const auto with = [&](const std::string& from, const std::string& to) {
    write(f.path / "config.json", replaced(config, from, to));
    return open_model(f.path.string());
  };
  BOOST_TEST(with("\"vocab_size\": 448", "\"vocab_size\": 448").ok());
  auto r = with("\"num_hidden_layers\": 3", "\"num_hidden_layers\": 4");
  BOOST_TEST((!r.ok() && r.error().message.find("model.layers.3.") != std::string::npos));
  r = with("\"intermediate_size\": 128", "\"intermediate_size\": 256");
  BOOST_TEST((!r.ok() && r.error().message.find("[128, 64]") != std::string::npos));
  r = with("\"attention_bias\": false", "\"attention_bias\": true");
  BOOST_TEST((!r.ok() && r.error().message.find("q_proj.bias") != std::string::npos));
  r = with("\"tie_word_embeddings\": false", "\"tie_word_embeddings\": true");
  BOOST_TEST_REQUIRE(r.ok());
  BOOST_TEST((*r)->weights.head().name == "model.embed_tokens.weight");
  BOOST_TEST((open_model((f.path / "nothing").string()).error().code == errc::not_found));
  fs::remove(f.path / "config.json");
  BOOST_TEST((open_model(f.path.string()).error().code == errc::not_found));
}

BOOST_AUTO_TEST_CASE(weights_outlive_everything_but_their_model) {
  auto m = open_model(data("llama") + "/model-bf16.gguf").value();
  BOOST_TEST(m->weights.find(tensor_role::q, 2)->shape[0] == 64u);
  BOOST_TEST(m->weights.find(tensor_role::q_bias, 2) == nullptr);
  BOOST_TEST(m->weights.bytes() > 300000u);
  unsigned sum = 0;
  for (std::byte b : m->weights.head().data) sum += static_cast<unsigned>(b);
  BOOST_TEST(sum > 0u);
}

BOOST_AUTO_TEST_CASE(damaged_ggufs_are_refused_or_stay_in_bounds) {
  for (const char* name : {"llama3-rope/model-f16.gguf", "mixtral/model-bf16.gguf"}) {
    const std::string good = read(data(name));
    std::mt19937 random(3);
    const std::string_view key = "llama.";
    std::vector<std::size_t> places;  // near the keys that make a configuration
    for (std::size_t at = good.find(key); at != std::string::npos && at < 20000; at = good.find(key, at + 1))
      places.push_back(at);
    BOOST_TEST_REQUIRE(places.size() > 8u);
    int opened = 0;
    for (int round = 0; round < 3000; ++round) {
      std::vector<std::byte> bytes(good.size());
      std::memcpy(bytes.data(), good.data(), good.size());
      for (int k = 0; k < 2; ++k) {
        const std::size_t at = places[random() % places.size()] + random() % 64;
        bytes[at] = static_cast<std::byte>(random() % 4 ? random() % 256 : 0);
      }
      auto file = format::gguf_file::parse(bytes, "damaged");
      if (!file) continue;
      auto source = std::make_shared<format::gguf_file>(std::move(*file));
      auto d = config_from_gguf(*source);
      if (!d) continue;
      auto w = weight_table::resolve(source, *d->architecture, file_form::gguf, d->config);
      if (w) ++opened;
    }
    BOOST_TEST(opened > 0);
  }
}

// What an engine says of its options once it knows the model.
#include <unistd.h>

#include <boost/test/unit_test.hpp>
#include <filesystem>
#include <fstream>

#include "tests/actors/client.hpp"

using namespace troupe;
using namespace troupe::test;

namespace {

engine_options options_of(const std::string& model, std::uint32_t max_model_len) {
  engine_options o = tiny_options();
  o.model = std::string(TROUPE_TEST_DATA) + "/model/" + model;
  o.max_model_len = max_model_len;
  return o;
}

}  // namespace

BOOST_AUTO_TEST_CASE(sequences_are_not_longer_than_the_model_s_context) {
  // The linear model scales positions by 2, so it reaches twice as far as the 512 that it states.
  const std::map<std::string, std::uint32_t> most = {{"llama-bias/model-bf16.gguf", 512},
                                                     {"llama-linear/model-bf16.gguf", 1024},
                                                     {"llama-yarn", 512},
                                                     {"llama3-rope", 512}};
  for (const auto& [model, n] : most) BOOST_TEST_CONTEXT(model) {
      BOOST_TEST(engine::open(options_of(model, n)).info().max_model_len == n);
      const std::string said = "max_model_len " + std::to_string(n + 1) + " is more than the model's context of " +
                               std::to_string(n) + " tokens";
      BOOST_CHECK_EXCEPTION((void)engine::open(options_of(model, n + 1)), error, [&](const error& e) {
        return e.code() == errc::invalid_argument && e.message().starts_with(said);
      });
    }
}

BOOST_AUTO_TEST_CASE(recommended_sampling_is_told_where_it_can_be) {
  const sampling_choices said = engine::open(options_of("llama3-rope", 0)).info().sampling;  // generation_config.json
  BOOST_TEST((said.temperature == 0.6f && said.top_p == 0.95f && !said.top_k && !said.seed));
  BOOST_TEST((engine::open(tiny_options()).info().sampling == sampling_choices{}));
  engine_options none = options_of("llama3-rope", 0);
  none.generation_config = "none";
  BOOST_TEST((engine::open(none).info().sampling == sampling_choices{}));
  none.generation_config = "some";
  BOOST_CHECK_EXCEPTION((void)engine::open(none), error, [](const error& e) { return e.code() == errc::invalid_argument; });

  namespace fs = std::filesystem;
  const fs::path folder = fs::temp_directory_path() / ("troupe-sampling-" + std::to_string(getpid()));
  fs::create_directories(folder);
  for (const char* file : {"config.json", "model.safetensors"})
    fs::copy_file(fs::path(TROUPE_TEST_DATA) / "model/llama3-rope" / file, folder / file);
  std::ofstream(folder / "generation_config.json") << R"({"temperature": -1})";
  engine_options o = tiny_options();
  o.model = folder.string();
  BOOST_TEST((engine::open(o).info().sampling == sampling_choices{}));
  fs::remove_all(folder);
}

BOOST_AUTO_TEST_CASE(a_prompt_may_fill_the_context_when_nothing_is_generated) {
  engine e = engine::open(options_of("llama-bias/model-bf16.gguf", 64));
  client c(e);
  for (const std::uint32_t max_tokens : {0u, 1u}) {
    request r;
    r.prompt = std::vector<std::int32_t>(64, 7);
    r.max_tokens = max_tokens;
    const answer_ptr a = c.submit(std::move(r));
    BOOST_REQUIRE(c.run_until([&] { return a->ended; }));
    BOOST_TEST(a->tokens.empty());
    if (max_tokens)
      BOOST_TEST((a->end.error == errc::context_exceeded));
    else
      BOOST_TEST((!a->end.error && a->end.reason == finish_reason::length && a->end.usage.prompt_tokens == 64));
  }
}

BOOST_AUTO_TEST_CASE(a_model_is_called_as_its_file_or_folder) {
  namespace fs = std::filesystem;
  const fs::path folder = fs::temp_directory_path() / ("troupe-names-" + std::to_string(getpid()));
  const fs::path model = folder / "llama-3.2-1b", data = fs::path(TROUPE_TEST_DATA) / "model/llama-bias";
  fs::create_directories(model);
  for (const char* file : {"config.json", "model.safetensors"}) fs::copy_file(data / file, model / file);
  for (const char* file : {"tiny-v1.5.gguf", "tiny-v1.5", "tiny-v1.5-00001-of-00001.gguf", "tiny-00002-of-00001.gguf"})
    fs::copy_file(data / "model-bf16.gguf", folder / file);
  fs::copy_file(data / "config.json", folder / "tiny-v1.5.json");

  struct named {
    std::string model, load_format, name;
  };
  for (const named& n :
       {named{"llama-3.2-1b", "auto", "llama-3.2-1b"}, named{"llama-3.2-1b/", "auto", "llama-3.2-1b"},
        named{"llama-3.2-1b/.", "auto", "llama-3.2-1b"}, named{"tiny-v1.5.gguf", "auto", "tiny-v1.5"},
        named{"tiny-v1.5-00001-of-00001.gguf", "auto", "tiny-v1.5"},
        named{"tiny-00002-of-00001.gguf", "auto", "tiny-00002-of-00001"},
        named{"tiny-v1.5", "auto", "tiny-v1.5"}, named{"llama-3.2-1b", "dummy", "llama-3.2-1b"},
        named{"llama-3.2-1b/config.json", "dummy", "llama-3.2-1b"}, named{"tiny-v1.5.json", "dummy", "tiny-v1.5"}}) {
    engine_options o = tiny_options();
    o.model = (folder / n.model).string();
    o.load_format = n.load_format;
    BOOST_TEST(engine::open(o).info().name == n.name, n.model << " as " << n.load_format);
    o.served_model_name = "other";
    BOOST_TEST(engine::open(o).info().name == "other");
  }
  fs::remove_all(folder);
}

#include <boost/test/unit_test.hpp>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <map>
#include <set>
#include <string>

#include "src/model/open_model.hpp"
#include "src/model/presets.hpp"
#include "src/model/read_config.hpp"

using namespace troupe;
using namespace troupe::model;
namespace fs = std::filesystem;

BOOST_AUTO_TEST_CASE(the_presets_are_the_files_of_config_models) {
  std::set<std::string> names;
  for (const preset& p : presets()) {
    const fs::path file = fs::path(TROUPE_SOURCE_DIR) / "config/models" / (std::string(p.name) + ".json");
    std::ifstream in(file, std::ios::binary);
    BOOST_TEST((std::string{std::istreambuf_iterator<char>(in), {}} == p.config_json), p.name << " differs: configure again");
    BOOST_TEST(names.insert(std::string(p.name)).second);
  }
  std::size_t files = 0;
  for (const auto& entry : fs::directory_iterator(fs::path(TROUPE_SOURCE_DIR) / "config/models")) {
    BOOST_TEST(names.contains(entry.path().stem().string()), entry.path());
    ++files;
  }
  BOOST_TEST(files == names.size());
  for (const char* name : {"llama-3.2-1b", "llama-3.1-8b", "llama-3.1-70b", "qwen3-8b", "qwen3-30b-a3b", "gpt-oss-20b", "gemma-3-12b"})
    BOOST_TEST(names.contains(name), name);
}

BOOST_AUTO_TEST_CASE(every_preset_opens_or_its_family_is_named) {
  // Parameters as the models' cards count them; a tied head counts once.
  const std::map<std::string, std::uint64_t> parameters = {
      {"llama-3.2-1b", 1'235'814'400}, {"llama-3.1-8b", 8'030'261'248}, {"llama-3.1-70b", 70'553'706'496}};
  for (const preset& p : presets()) BOOST_TEST_CONTEXT(p.name) {
      const auto opened = open_dummy_model(std::string(p.name));
      const auto expected = parameters.find(std::string(p.name));
      if (expected == parameters.end() && !opened) {
        BOOST_TEST((opened.error().code == errc::unsupported), opened.error().message);
        BOOST_TEST(opened.error().message.find(known_families()) != std::string::npos, opened.error().message);
        continue;
      }
      const auto& m = *opened.value();
      BOOST_TEST(m.path == p.name);
      BOOST_TEST(!m.config.eos.empty());
      std::uint64_t n = 0;
      for (const auto& t : m.weights.source().tensors()) {
        n += t.shape.elements();
        BOOST_TEST_REQUIRE((t.type == kernels::dtype::bf16));
      }
      if (expected != parameters.end()) BOOST_TEST(n == expected->second);
      BOOST_TEST(m.weights.bytes() == 2 * n);
    }
}

BOOST_AUTO_TEST_CASE(random_weights_for_a_folder_and_a_file) {
  const std::string folder = std::string(TROUPE_TEST_DATA) + "/model/llama-bias";
  const auto real = open_model(folder).value(), a = open_dummy_model(folder).value(), b = open_dummy_model(folder + "/config.json").value();
  BOOST_TEST(a->path == folder + "/config.json");
  BOOST_TEST(b->path == a->path);
  // The same tensors as the real files hold.
  BOOST_TEST(a->weights.source().tensors().size() == real->weights.source().tensors().size());
  for (const auto& t : real->weights.source().tensors()) {
    const auto* made = a->weights.source().find(t.name);
    BOOST_TEST_REQUIRE(made, t.name);
    BOOST_TEST((made->shape == t.shape));
  }
}

BOOST_AUTO_TEST_CASE(what_is_no_model_for_random_weights) {
  const auto unknown = open_dummy_model("llama-9");
  BOOST_TEST((unknown.error().code == errc::not_found));
  BOOST_TEST(unknown.error().message.find("llama-3.1-8b") != std::string::npos, unknown.error().message);
  const auto fp8 = open_dummy_model(std::string(TROUPE_TEST_DATA) + "/model/llama-fp8");
  BOOST_TEST((fp8.error().code == errc::unsupported));
  BOOST_TEST(fp8.error().message.find("fp8") != std::string::npos, fp8.error().message);
  BOOST_TEST((open_dummy_model("").error().code == errc::not_found));
  BOOST_TEST((open_dummy_model(std::string(TROUPE_TEST_DATA) + "/model").error().code == errc::not_found));
}

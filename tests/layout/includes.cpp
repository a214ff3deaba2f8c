#include <boost/test/unit_test.hpp>
#include <filesystem>
#include <fstream>
#include <map>
#include <regex>
#include <set>
#include <string>
#include <vector>

// The dependency rule of ARCHITECTURE.md, read off the include lines: link lists do not see header-only leaks.

namespace fs = std::filesystem;

namespace {

const fs::path root = TROUPE_SOURCE_DIR;

struct include_line {
  std::string file;    // from the root
  std::string module;  // "src/format", "actors/sched", "tools", ...
  std::string target;  // as written, without brackets or quotes
};

std::string module_of(const fs::path& relative) {
  auto it = relative.begin();
  const std::string top = it->string();
  if (top == "src" || top == "actors" || top == "kernels") {
    const std::string second = (++it)->string();
    return second.find('.') == std::string::npos ? top + "/" + second : top;
  }
  return top;
}

std::vector<include_line> all_includes() {
  static const std::regex line(R"(^\s*#\s*include\s*[<"]([^>"]+)[>"])");
  std::vector<include_line> found;
  for (const char* top : {"include", "src", "actors", "kernels", "tools", "examples"})
    for (const auto& entry : fs::recursive_directory_iterator(root / top)) {
      const auto ext = entry.path().extension();
      if (ext != ".hpp" && ext != ".cpp" && ext != ".cu" && ext != ".cuh" && ext != ".inl" && ext != ".ipp") continue;
      const fs::path relative = fs::relative(entry.path(), root);
      std::ifstream in(entry.path());
      for (std::string text; std::getline(in, text);)
        if (std::smatch m; std::regex_search(text, m, line)) found.push_back({relative.string(), module_of(relative), m[1]});
    }
  return found;
}

/// What each module may include of ours, besides itself, src/base and the plain values of include/troupe.
const std::map<std::string, std::set<std::string>> allowed = {
    {"include", {}},
    {"src/base", {}},
    {"src/mail", {}},
    {"src/format", {"kernels/common"}},
    {"src/text", {"src/format", "kernels/common"}},
    {"src/model", {"src/format", "kernels/common"}},
    {"src/link", {"src/model", "src/format", "kernels/common"}},
    {"src/sample", {"kernels/common", "kernels/cpu"}},
    {"src/group", {"src/model"}},
    {"src/cpu", {"src/group", "src/model", "src/format", "src/sample", "kernels/common", "kernels/cpu"}},
    {"src/gpu", {"src/model", "src/format", "kernels/common", "kernels/gpu"}},
    {"src/cache", {}},
    {"src/sched", {"src/cache", "src/model"}},
    {"src/wire", {}},
    {"src/watch", {}},
    {"kernels/common", {}},
    {"kernels/cpu", {"kernels/common"}},
    {"kernels/gpu", {"kernels/common"}},
    {"actors/runtime", {"src/mail"}},
    {"actors/text", {"actors/runtime", "actors/front", "actors/sched", "src/mail", "src/sched", "src/text", "src/watch"}},
    {"actors/cache", {"actors/runtime", "src/mail", "src/cache"}},
    {"actors/sched", {"actors/runtime", "actors/cache", "actors/rank", "src/mail", "src/sched", "src/cache", "src/model", "src/watch"}},
    {"actors/rank", {"actors/runtime", "actors/sched", "src/mail", "src/model", "src/group", "src/link", "src/cpu", "src/gpu", "src/sample", "kernels/common", "kernels/cpu", "kernels/gpu"}},
    {"actors/front", {"actors", "actors/text", "actors/sched", "actors/rank", "src/mail", "src/model", "src/text", "src/watch", "src/sched"}},
    {"actors", {"actors/front", "actors/runtime", "actors/text", "actors/sched", "actors/cache", "actors/rank", "src/mail", "src/model", "src/watch", "src/sched"}},
    {"actors/edge", {"src/wire", "src/mail", "src/watch"}},
};

bool is_ours(const std::string& target) {
  return target.starts_with("src/") || target.starts_with("actors/") || target.starts_with("kernels/") ||
         target.starts_with("tools/") || target.starts_with("tests/");
}

}  // namespace

BOOST_AUTO_TEST_CASE(includes_follow_the_dependency_rule) {
  const auto includes = all_includes();
  BOOST_TEST_REQUIRE(includes.size() > 200u);
  for (const include_line& i : includes) {
    if (!is_ours(i.target) || i.module == "tools" || i.module == "examples") continue;
    const std::string target = module_of(i.target);
    if (target == i.module || (target == "src/base" && !i.module.starts_with("kernels"))) continue;
    const auto rule = allowed.find(i.module);
    BOOST_REQUIRE_MESSAGE(rule != allowed.end(), i.file << ": module " << i.module << " has no rule");
    BOOST_TEST(rule->second.contains(target), i.file << " includes " << i.target << ": " << i.module << " may not use " << target);
  }
}

BOOST_AUTO_TEST_CASE(actors_know_each_other_by_messages_only) {
  for (const include_line& i : all_includes()) {
    if (!i.target.starts_with("actors/") || i.module == "actors" || i.module == "tools") continue;
    const std::string target = module_of(i.target);
    if (target == i.module || target == "actors/runtime" || i.module == "actors/front") continue;
    BOOST_TEST(i.target.ends_with("/messages.hpp"), i.file << " includes " << i.target);
  }
}

BOOST_AUTO_TEST_CASE(asio_and_cuda_stay_in_their_rooms) {
  for (const include_line& i : all_includes()) {
    const bool boost_net = i.target.starts_with("boost/asio") || i.target.starts_with("boost/beast");
    if (boost_net)
      BOOST_TEST((i.module == "actors/edge" || i.file == "include/troupe/boost_asio.hpp" || i.module == "examples"), i.file << " includes " << i.target);
    const bool asio = i.target == "asio.hpp" || i.target.starts_with("asio/");
    if (asio)
      BOOST_TEST((i.module == "actors/runtime" || i.module == "actors" || i.file == "include/troupe/asio.hpp" || i.module == "examples"), i.file << " includes " << i.target);
    if (i.target.starts_with("cuda") || i.target.starts_with("nccl") || i.target.starts_with("cublas"))
      BOOST_TEST((i.module == "src/gpu" || i.module == "actors/rank" || i.module.starts_with("kernels")), i.file << " includes " << i.target);
  }
}

BOOST_AUTO_TEST_CASE(at_most_two_units_include_beast) {
  // A private header may stand between, as long as only those units include it.
  const auto includes = all_includes();
  std::set<std::string> headers, units;
  const auto add = [&](const std::string& file) { (file.ends_with(".cpp") ? units : headers).insert(file); };
  for (const include_line& i : includes)
    if (i.target.starts_with("boost/beast")) add(i.file);
  for (std::size_t before = 0; before != headers.size() + units.size();) {
    before = headers.size() + units.size();
    for (const include_line& i : includes)
      if (headers.contains(i.target)) add(i.file);
  }
  BOOST_TEST(units.size() <= 2u);
  for (const std::string& header : headers) BOOST_TEST(header.starts_with("actors/edge/"), header << " includes Beast");
}

BOOST_AUTO_TEST_CASE(the_public_headers_include_nothing_private) {
  for (const include_line& i : all_includes())
    if (i.module == "include") BOOST_TEST(!is_ours(i.target), i.file << " includes " << i.target);
}

BOOST_AUTO_TEST_CASE(the_map_names_every_folder) {
  std::ifstream in(root / "ARCHITECTURE.md");
  const std::string map{std::istreambuf_iterator<char>(in), {}};
  for (const char* top : {"src", "actors", "kernels"})
    for (const auto& entry : fs::directory_iterator(root / top))
      if (entry.is_directory() && !fs::is_empty(entry.path())) {
        const std::string name = entry.path().filename().string();
        BOOST_TEST((map.find(name) != std::string::npos), top << "/" << name << " is not in ARCHITECTURE.md");
      }
}

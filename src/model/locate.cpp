#include "src/model/locate.hpp"

#include <cstdlib>
#include <filesystem>

#include "src/format/gguf.hpp"

namespace troupe::model {
namespace fs = std::filesystem;

std::string model_folder() {
  if (const char* set = std::getenv("TROUPE_MODELS"); set && *set) return set;
  if (const char* cache = std::getenv("XDG_CACHE_HOME"); cache && *cache) return std::string(cache) + "/troupe/models";
  const char* home = std::getenv("HOME");
  return std::string(home ? home : ".") + "/.cache/troupe/models";
}

result<std::string> locate_model(const std::string& name) {
  const std::string wanted = name.empty() ? "smollm2" : name;
  if (wanted.size() > 4096) return failure(errc::invalid_argument, "the model's name is longer than 4096 bytes");
  std::error_code ignored;
  if (!name.empty() && fs::exists(wanted, ignored)) return wanted;
  const fs::path folder = model_folder();
  for (const fs::path& candidate : {folder / wanted, folder / (wanted + ".gguf")})
    if (fs::exists(candidate, ignored)) return candidate.string();
  if (name.empty() || name == "smollm2")
    return failure(errc::not_found, "the default model smollm2 is not in " + folder.string() +
                                        ": tools/quickstart fetches it, or name a .gguf file");
  return failure(errc::not_found, "no model '" + wanted + "': neither a file or directory nor a name in " +
                                      folder.string());
}

std::string name_of_model(const std::string& path) {
  fs::path p = fs::absolute(path).lexically_normal();
  if (!p.has_filename() || p.filename() == "config.json") p = p.parent_path();
  const bool has_ending = (p.extension() == ".gguf" || p.extension() == ".json") && !fs::is_directory(p);
  if (has_ending) p = format::name_of_all_shards(p.string());
  const std::string name = (has_ending ? p.stem() : p.filename()).string();
  return name.empty() ? "model" : name;
}

}  // namespace troupe::model

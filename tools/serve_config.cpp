#include "tools/serve_config.hpp"

#include <algorithm>
#include <sstream>
#include <toml++/toml.h>

#include <troupe/error.hpp>

#include "tools/cli.hpp"

namespace troupe::cli {
namespace {

bool configurable(const CLI::Option& option) {
  if (option.get_lnames().empty()) return option.get_positional() && option.get_name(true) == "model";
  const std::string& name = option.get_lnames().front();
  return name != "help" && name != "help-all" && name != "config" && name != "print-config";
}

std::string key_of(const CLI::Option& option) {
  return option.get_lnames().empty() ? option.get_name(true) : option.get_lnames().front();
}

/// The words that the option would have got on the command line.
std::vector<std::string> words_of(const toml::node& node, const std::string& where) {
  if (const auto* list = node.as_array()) {
    std::vector<std::string> words;
    for (const auto& element : *list) {
      auto inner = words_of(element, where);
      words.insert(words.end(), inner.begin(), inner.end());
    }
    return words;
  }
  if (const auto* text = node.as_string()) return {text->get()};
  if (const auto* number = node.as_integer()) return {std::to_string(number->get())};
  if (const auto* flag = node.as_boolean()) return {flag->get() ? "true" : "false"};
  if (const auto* number = node.as_floating_point()) {
    std::ostringstream text;
    text << number->get();
    return {text.str()};
  }
  throw error(errc::invalid_argument, where + ": must be a string, a number, true, false, or a list of them");
}

}  // namespace

void bind_environment(CLI::App& command) {
  for (CLI::Option* option : command.get_options())
    if (configurable(*option)) {
      std::string name = "TROUPE_" + key_of(*option);
      for (char& c : name) c = c == '-' ? '_' : static_cast<char>(std::toupper(static_cast<unsigned char>(c)));
      option->envname(name);
    }
}

void apply_config_file(CLI::App& command, const std::string& path) {
  toml::table table;
  try {
    table = toml::parse(read_input(path), path);
  } catch (const toml::parse_error& e) {
    std::ostringstream where;
    where << path << ": line " << e.source().begin.line << ": " << e.description();
    throw error(errc::invalid_argument, where.str());
  }
  std::vector<std::string> known;
  for (const CLI::Option* option : command.get_options())
    if (configurable(*option)) known.push_back(key_of(*option));

  for (const auto& [key, node] : table) {
    const std::string name(key.str());
    const std::string where = path + ": " + name;
    if (std::find(known.begin(), known.end(), name) == known.end()) {
      auto near = nearest_spelling(name, known);
      throw error(errc::invalid_argument, where + ": no such option" + (near ? ": did you mean '" + *near + "'?" : ""));
    }
    CLI::Option* option = name == "model" ? command.get_option("model") : command.get_option("--" + name);
    if (option->count() != 0) continue;
    try {
      auto words = words_of(node, where);
      if (words.empty()) continue;
      for (std::string& word : words) option->add_result(std::move(word));
      option->run_callback();
    } catch (const CLI::ParseError& e) {
      throw error(errc::invalid_argument, path + ": " + describe(e));
    }
  }
}

std::string print_config(const CLI::App& command) {
  std::string out = "# troupe serve --config FILE; the command line and TROUPE_... variables win over the file\n";
  const auto is_bare = [](const std::string& s) {
    if (s == "true" || s == "false") return true;
    char* end = nullptr;
    std::strtod(s.c_str(), &end);
    return !s.empty() && *end == 0;
  };
  const auto quoted = [&](const std::string& s) {
    if (is_bare(s)) return s;
    std::ostringstream text;
    text << toml::value<std::string>(s);
    return text.str();
  };
  for (const CLI::Option* option : command.get_options()) {
    if (!configurable(*option)) continue;
    out += "\n# " + option->get_description() + "\n";
    auto words = option->count() ? option->results() : std::vector<std::string>{};
    const bool list = option->get_items_expected_max() > 1;
    if (words.empty() && !list) {
      std::string fallback = option->get_default_str();
      if (fallback.empty() && option->get_type_size() == 0) fallback = "false";
      if (fallback.empty()) {
        out += "# " + key_of(*option) + " =\n";
        continue;
      }
      words = {fallback};
    }
    out += key_of(*option) + " = ";
    if (list) {
      out += "[";
      for (std::size_t i = 0; i < words.size(); ++i) out += (i ? ", " : "") + quoted(words[i]);
      out += "]\n";
    } else {
      out += quoted(words.front()) + "\n";
    }
  }
  return out;
}

}  // namespace troupe::cli

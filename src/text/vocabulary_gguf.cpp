#include "src/text/vocabulary_gguf.hpp"

#include <array>
#include <cmath>
#include <cstring>

namespace troupe::text {
namespace {

constexpr std::string_view prefix = "tokenizer.ggml.";
constexpr std::size_t longest_template = std::size_t{1} << 20;

std::string key(std::string_view name) { return std::string(prefix).append(name); }

result<void> read_special(const format::gguf_file& file, vocabulary& out) {
  struct entry {
    const char* name;
    token_id vocabulary::* member;
  };
  constexpr std::array<entry, 6> entries = {{{"bos_token_id", &vocabulary::bos},
                                             {"eos_token_id", &vocabulary::eos},
                                             {"eot_token_id", &vocabulary::eot},
                                             {"eom_token_id", &vocabulary::eom},
                                             {"unknown_token_id", &vocabulary::unk},
                                             {"padding_token_id", &vocabulary::pad}}};
  for (const entry& e : entries) {
    const std::string name = key(e.name);
    if (!file.contains(name)) continue;
    auto id = file.get_u64(name);
    if (!id) return id.take_error();
    if (*id >= out.tokens.size()) {
      // Converters write -1 or the size for "none"; a model without the token still works.
      out.*e.member = no_token;
      continue;
    }
    out.*e.member = static_cast<token_id>(*id);
  }
  return {};
}

result<void> read_settings(const format::gguf_file& file, vocabulary& out) {
  struct entry {
    const char* name;
    vocabulary::setting vocabulary::* member;
  };
  constexpr std::array<entry, 3> entries = {{{"add_bos_token", &vocabulary::add_bos},
                                             {"add_eos_token", &vocabulary::add_eos},
                                             {"add_space_prefix", &vocabulary::add_space_prefix}}};
  for (const entry& e : entries) {
    const std::string name = key(e.name);
    if (!file.contains(name)) continue;
    auto value = file.get_bool(name);
    if (!value) return value.take_error();
    out.*e.member = *value ? vocabulary::setting::on : vocabulary::setting::off;
  }
  return {};
}

result<void> read_templates(const format::gguf_file& file, vocabulary& out) {
  constexpr std::string_view template_key = "tokenizer.chat_template";
  for (const format::gguf_entry& e : file.entries()) {
    if (!e.key.starts_with(template_key) || e.type != format::gguf_type::string) continue;
    auto text = file.get_string(e.key);
    if (!text) return text.take_error();
    if (text->size() > longest_template)
      return failure(errc::invalid_file, file.origin() + ": " + std::string(e.key) + " has " +
                                             std::to_string(text->size()) + " bytes: at most " +
                                             std::to_string(longest_template) + " are possible");
    if (e.key.size() == template_key.size())
      out.chat_template = *text;
    else if (e.key[template_key.size()] == '.')
      out.named_templates.emplace_back(e.key.substr(template_key.size() + 1), *text);
  }
  return {};
}

result<void> read_merges(const format::gguf_file& file, vocabulary& out) {
  const std::string name = key("merges");
  const format::gguf_entry* e = file.entry(name);
  if (!e)
    return failure(errc::not_found, file.origin() + ": " + name + " is missing: the tokenizer cannot work without it");
  if (e->type != format::gguf_type::array || e->element != format::gguf_type::string)
    return failure(errc::invalid_file, file.origin() + ": " + name + " is not an array of strings");
  // The entries are walked in place: a list of half a million strings would only be copied once more. The file has
  // checked that they lie within the payload.
  out.merges.reserve(e->count);
  const std::byte* at = e->payload.data();
  for (std::uint64_t i = 0; i < e->count; ++i) {
    std::uint64_t size;
    std::memcpy(&size, at, sizeof size);
    const std::string_view line(reinterpret_cast<const char*>(at + sizeof size), size);
    at += sizeof size + size;
    std::size_t space = 1;  // the left part is never empty, but may be a space
    while (space < size && line[space] != ' ') ++space;
    if (space + 1 >= size)
      return failure(errc::invalid_file, file.origin() + ": merge " + std::to_string(i) + " (\"" +
                                             std::string(line.substr(0, 60)) +
                                             "\") is not two tokens with a space between");
    out.merges.push_back({line.substr(0, space), line.substr(space + 1)});
  }
  return {};
}

}  // namespace

result<vocabulary> read_vocabulary(const format::gguf_file& file) {
  vocabulary out;
  auto model = file.get_string(key("model"));
  if (!model) return model.take_error();
  if (*model == "gpt2" || *model == "gemma4")
    out.kind = tokenizer_kind::byte_level;
  else if (*model == "llama")
    out.kind = tokenizer_kind::sentencepiece;
  else
    return failure(errc::unsupported, file.origin() + ": the tokenizer model \"" + std::string(model->substr(0, 60)) +
                                          "\" (tokenizer.ggml.model) is not supported: use the model's folder with its "
                                          "tokenizer.json instead");

  auto pre = file.get_string(key("pre"), "");
  if (!pre) return pre.take_error();
  out.pre_tokenizer = pre->empty() && *model == "gemma4" ? "gemma4" : *pre;
  auto name = file.get_string("general.name", "");
  if (!name) return name.take_error();
  out.model_name = *name;

  auto tokens = file.get_strings(key("tokens"));
  if (!tokens) return tokens.take_error();
  out.tokens = std::move(*tokens);
  const auto check_size = [&](std::string_view what, std::size_t n) -> result<void> {
    if (n == out.tokens.size()) return {};
    return failure(errc::invalid_file, file.origin() + ": " + key(what) + " has " + std::to_string(n) +
                                           " entries for " + std::to_string(out.tokens.size()) + " tokens");
  };
  if (file.contains(key("token_type"))) {
    auto types = file.get_i32s(key("token_type"));
    if (!types) return types.take_error();
    if (auto same = check_size("token_type", types->size()); !same) return same.take_error();
    out.types.reserve(types->size());
    for (const std::int32_t t : *types)
      out.types.push_back(t >= 1 && t <= 6 ? static_cast<token_type>(t) : token_type::normal);
  }
  if (out.kind == tokenizer_kind::sentencepiece) {
    auto scores = file.get_f32s(key("scores"));
    if (!scores) return scores.take_error();
    if (auto same = check_size("scores", scores->size()); !same) return same.take_error();
    for (const float s : *scores)
      if (std::isnan(s)) return failure(errc::invalid_file, file.origin() + ": " + key("scores") + " holds a NaN");
    out.scores = std::move(*scores);
  } else if (auto read = read_merges(file, out); !read) {
    return read.take_error();
  }
  if (out.kind == tokenizer_kind::sentencepiece) {
    // Sentencepiece's own defaults, for files that do not name them.
    const auto n = static_cast<token_id>(out.tokens.size());
    out.unk = 0 < n ? 0 : no_token;
    out.bos = 1 < n ? 1 : no_token;
    out.eos = 2 < n ? 2 : no_token;
  }
  if (auto read = read_special(file, out); !read) return read.take_error();
  if (auto read = read_settings(file, out); !read) return read.take_error();
  if (auto read = read_templates(file, out); !read) return read.take_error();
  return out;
}

}  // namespace troupe::text

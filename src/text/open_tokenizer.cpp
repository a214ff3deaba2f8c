#include "src/text/open_tokenizer.hpp"

#include <filesystem>

#include "src/format/gguf.hpp"
#include "src/text/vocabulary_gguf.hpp"

namespace troupe::text {

chat_renderer::chat_renderer(chat_template t, const tokenizer* tokens) : template_(std::move(t)) {
  if (!tokens) return;
  const auto add = [&](const char* name, token_id id) {
    if (id != no_token) special_tokens_.emplace_back(name, std::string(tokens->content(id)));
  };
  add("bos_token", tokens->bos());
  add("eos_token", tokens->eos());
  add("unk_token", tokens->unknown());
  add("pad_token", tokens->pad());
}

result<std::string> chat_renderer::render(chat_context context) const {
  context.special_tokens = special_tokens_;
  return template_.render(context);
}

result<std::shared_ptr<const chat_renderer>> open_chat_template(std::string_view source, const tokenizer* tokens) {
  auto parsed = chat_template::parse(source);
  if (!parsed) return parsed.take_error();
  return std::make_shared<const chat_renderer>(std::move(*parsed), tokens);
}

result<opened_text> open_tokenizer(const std::string& path) {
  std::error_code ignored;
  if (std::filesystem::is_directory(path, ignored))
    return failure(errc::unsupported, path + ": the tokenizer of a folder (tokenizer.json) is not read yet: use a .gguf file, or token ids");
  auto file = format::gguf_file::open(path);
  if (!file) return file.take_error();
  auto vocabulary = read_vocabulary(*file);
  if (!vocabulary) return vocabulary.take_error();
  auto tokens = tokenizer::make(*vocabulary);
  if (!tokens) return tokens.take_error();
  opened_text out{std::move(*tokens), nullptr};
  if (vocabulary->chat_template.empty()) return out;
  auto chat = open_chat_template(vocabulary->chat_template, out.tokens.get());
  if (!chat) return failure(chat.error().code, path + ": chat template: " + chat.error().message);
  out.chat = std::move(*chat);
  return out;
}

}  // namespace troupe::text

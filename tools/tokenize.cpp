#include <cstdio>

#include "src/model/locate.hpp"
#include "src/text/open_tokenizer.hpp"
#include "tools/cli.hpp"

namespace troupe::cli {
namespace {

struct arguments {
  std::string model, file;
  bool no_bos = false, no_parse_special = false;
};

int run(const arguments& a) {
  const std::string text = read_input(a.file);
  const auto opened = text::open_tokenizer(model::locate_model(a.model).value()).value();
  const auto ids = opened.tokens->encode(text, {!a.no_bos, !a.no_parse_special}).value();
  std::string line;
  for (token_id id : ids) {
    if (!line.empty()) line += ' ';
    line += std::to_string(id);
  }
  std::puts(line.c_str());
  return 0;
}

}  // namespace

void add_tokenize(CLI::App& app, int& exit_code) {
  auto a = std::make_shared<arguments>();
  CLI::App* c = app.add_subcommand("tokenize", "text to token ids");
  c->add_option("model", a->model, "a model with a tokenizer")->type_name("MODEL");
  c->add_option("--file", a->file, "UTF-8 text, taken verbatim (default: stdin)");
  c->add_flag("--no-bos", a->no_bos, "no tokens around the text (BOS, EOS)");
  c->add_flag("--no-parse-special", a->no_parse_special, "special tokens in the text are plain text");
  c->callback([a, &exit_code] { exit_code = run(*a); });
}

}  // namespace troupe::cli

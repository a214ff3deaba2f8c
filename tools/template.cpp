#include <cstdio>
#include <ctime>

#include "src/model/locate.hpp"
#include "src/text/open_tokenizer.hpp"
#include "tools/cli.hpp"

namespace troupe::cli {
namespace {

struct arguments {
  std::string model, messages, tools, vars, template_file;
  bool no_generation_prompt = false;
};

text::jinja::civil_time now() {
  const std::time_t seconds = std::time(nullptr);
  std::tm t{};
  localtime_r(&seconds, &t);
  return {.year = t.tm_year + 1900, .month = t.tm_mon + 1, .day = t.tm_mday, .hour = t.tm_hour, .minute = t.tm_min, .second = t.tm_sec};
}

std::string optional_file(const std::string& path) { return path.empty() ? std::string() : read_input(path); }

int run(const arguments& a) {
  if (a.template_file.empty() && a.messages.empty())
    throw error(errc::invalid_argument, "template needs --messages FILE, or --template-file FILE with --vars FILE");
  const std::string messages = a.messages.empty() ? "[]" : read_input(a.messages);
  auto made = text::chat_context::from_json(messages, optional_file(a.tools), optional_file(a.vars));
  if (!made) {
    const std::string& what = made.error().message;
    const std::string& file = what.starts_with("template variables") ? a.vars : what.starts_with("tools") ? a.tools : a.messages;
    throw error(static_cast<errc>(made.error().code.value()), file + ": " + what);
  }
  text::chat_context context = std::move(*made);
  context.add_generation_prompt = !a.no_generation_prompt;
  context.now = now();

  std::shared_ptr<const text::chat_renderer> chat;
  if (!a.template_file.empty()) {
    std::shared_ptr<const text::tokenizer> tokens;
    if (!a.model.empty()) tokens = text::open_tokenizer(model::locate_model(a.model).value()).value().tokens;
    chat = text::open_chat_template(read_input(a.template_file), tokens.get()).value();
  } else {
    const std::string path = model::locate_model(a.model).value();
    chat = text::open_tokenizer(path).value().chat;
    if (!chat) throw error(errc::unsupported, path + ": the model has no chat template: give one with --template-file");
  }
  const std::string rendered = chat->render(std::move(context)).value();
  std::fwrite(rendered.data(), 1, rendered.size(), stdout);
  return 0;
}

}  // namespace

void add_template(CLI::App& app, int& exit_code) {
  auto a = std::make_shared<arguments>();
  CLI::App* c = app.add_subcommand("template", "what a chat template makes of messages");
  c->add_option("model", a->model, "a model with a chat template")->type_name("MODEL");
  c->add_option("--messages", a->messages, "a JSON file: list of {role, content, …}");
  c->add_option("--tools", a->tools, "a JSON file: list of tools");
  c->add_option("--vars", a->vars, "a JSON file: object of further variables");
  c->add_option("--template-file", a->template_file, "a Jinja file instead of the model's template");
  c->add_flag("--no-generation-prompt", a->no_generation_prompt, "do not open the assistant's turn");
  c->callback([a, &exit_code] { exit_code = run(*a); });
}

}  // namespace troupe::cli

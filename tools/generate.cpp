#include <boost/json.hpp>
#include <cstdio>

#include "tools/blocking_client.hpp"
#include "tools/cli.hpp"
#include "tools/rank.hpp"
#include "tools/names.hpp"

namespace troupe::cli {
namespace {

struct arguments {
  engine_options engine;
  sampling_choices sampling;
  std::string prompt, tokens_file, user, system;
  std::uint32_t max_tokens = 0;
  std::vector<std::string> stop;
  bool ignore_eos = false, json = false, has_prompt = false;
};

request make_request(const arguments& a) {
  request r;
  r.stop = a.stop;
  r.ignore_eos = a.ignore_eos;
  if (a.max_tokens) r.max_tokens = a.max_tokens;
  const int sources = a.has_prompt + !a.tokens_file.empty() + !a.user.empty();
  if (sources != 1)
    throw error(errc::invalid_argument, "generate needs one prompt: give --prompt TEXT, --tokens FILE or --user TEXT");
  if (a.has_prompt) {
    r.prompt = text_prompt{a.prompt, true, true};
  } else if (!a.tokens_file.empty()) {
    r.prompt = parse_tokens(read_input(a.tokens_file), a.tokens_file);
  } else {
    chat_prompt chat;
    if (!a.system.empty()) chat.messages.push_back({"system", a.system, {}});
    chat.messages.push_back({"user", a.user, {}});
    r.prompt = std::move(chat);
  }
  return r;
}

int run(arguments& a) {
  if (auto code = act_as_rank(a.engine)) return *code;
  request r = make_request(a);
  engine e = engine::open(a.engine);
  e.info().sampling.apply_to(r.sampling);
  a.sampling.apply_to(r.sampling);
  blocking_client client(e);
  std::string text;
  boost::json::array ids;
  completion end = client.run(std::move(r), [&](piece&& p) {
    for (auto id : p.tokens) ids.push_back(id);
    text += p.text;
    if (a.json) return;
    std::fwrite(p.text.data(), 1, p.text.size(), stdout);
    std::fflush(stdout);
  });
  if (end.error) throw error(static_cast<errc>(end.error.value()), end.message);
  if (!a.json) {
    std::fputc('\n', stdout);
    return 0;
  }
  boost::json::object out;
  out["tokens"] = std::move(ids);
  out["text"] = text;
  out["finish_reason"] = name_of(end.reason);
  out["usage"] = {{"prompt_tokens", end.usage.prompt_tokens},
                  {"completion_tokens", end.usage.completion_tokens},
                  {"total_tokens", end.usage.prompt_tokens + end.usage.completion_tokens}};
  out["timings"] = {{"first_token_seconds", end.timings.first_token}, {"total_seconds", end.timings.finished}};
  std::puts(boost::json::serialize(out).c_str());
  return 0;
}

}  // namespace

void add_generate(CLI::App& app, int& exit_code) {
  auto a = std::make_shared<arguments>();
  CLI::App* c = app.add_subcommand("generate", "one completion of a prompt, streamed to stdout");
  add_engine_options(*c, a->engine);
  add_sampling_options(*c, a->sampling);
  c->add_option_function<std::string>("-p,--prompt", [a](const std::string& text) { a->prompt = text, a->has_prompt = true; },
                                      "text to go on with");
  c->add_option("--tokens", a->tokens_file, "a file with the prompt's token ids (- for stdin)");
  c->add_option("--user", a->user, "a chat with this user message");
  c->add_option("--system", a->system, "the chat's system message");
  c->add_option("-n,--max-tokens", a->max_tokens, "tokens to generate (0: until the model stops or the context is full)");
  c->add_option("--stop", a->stop, "strings that end the answer");
  c->add_flag("--ignore-eos", a->ignore_eos, "go on past the model's end token");
  c->add_flag("--json", a->json, "one JSON object: tokens, text, finish_reason, usage, timings");
  c->callback([a, &exit_code] { exit_code = run(*a); });
}

}  // namespace troupe::cli

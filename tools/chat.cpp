#include <signal.h>
#include <unistd.h>

#include <atomic>
#include <cstdio>
#include <iostream>

#include "tools/blocking_client.hpp"
#include "tools/cli.hpp"
#include "tools/rank.hpp"

namespace troupe::cli {
namespace {

struct arguments {
  engine_options engine;
  sampling_choices sampling;
  std::string system;
  std::uint32_t max_tokens = 0;
};

// Ctrl-C while an answer runs stops the answer; at the prompt it ends the program.
std::atomic<bool> interrupted{false};
std::atomic<blocking_client*> answering{nullptr};

void on_interrupt(int) {
  interrupted = true;
  if (blocking_client* client = answering)
    client->interrupt();
  else
    _exit(0);
}

/// Streams one answer to stdout and returns its text.
std::string answer(blocking_client& client, request r) {
  std::string text;
  completion end;
  interrupted = false;
  answering = &client;
  const stream_id id = client.submit(std::move(r), {[&](piece&& p) {
                                                      text += p.text;
                                                      std::fwrite(p.text.data(), 1, p.text.size(), stdout);
                                                      std::fflush(stdout);
                                                    },
                                                    [&](completion&& c) { end = std::move(c); }});
  bool cancelled = false;
  while (client.wait())
    if (interrupted && !cancelled) {
      client.cancel(id);
      cancelled = true;
    }
  answering = nullptr;
  std::fputs(cancelled ? " [stopped]\n\n" : "\n\n", stdout);
  if (end.error && end.error != errc::cancelled) std::fprintf(stderr, "troupe: %s\n", end.message.c_str());
  if (end.reason == finish_reason::length) std::fputs("[the context or the token limit is full]\n", stderr);
  return text;
}

int run(arguments& a) {
  if (auto code = act_as_rank(a.engine)) return *code;
  engine e = engine::open(a.engine);
  if (!e.info().has_chat_template)
    throw error(errc::unsupported, e.info().name + " has no chat template: give one with --chat-template, or use generate --prompt");
  sampling_params sampling;
  sampling.temperature = 0.7f;  // where neither the model nor the command line says
  e.info().sampling.apply_to(sampling);
  a.sampling.apply_to(sampling);
  blocking_client client(e);
  struct sigaction action {};
  action.sa_handler = on_interrupt;
  sigaction(SIGINT, &action, nullptr);

  const bool terminal = isatty(STDIN_FILENO);
  if (terminal)
    std::printf("%s, %u tokens of context. Ctrl-C stops an answer; /clear forgets, /exit or Ctrl-D ends.\n\n",
                e.info().name.c_str(), e.info().max_model_len);
  chat_prompt chat;
  const auto clear = [&] {
    chat.messages.clear();
    if (!a.system.empty()) chat.messages.push_back({"system", a.system, {}});
  };
  clear();
  for (std::string line; terminal && (std::fputs("> ", stdout), std::fflush(stdout)), std::getline(std::cin, line);) {
    if (line == "/exit" || line == "/quit") break;
    if (line == "/clear") {
      clear();
      continue;
    }
    if (line.empty()) continue;
    chat.messages.push_back({"user", line, {}});
    request r;
    r.prompt = chat;
    r.sampling = sampling;
    if (a.max_tokens) r.max_tokens = a.max_tokens;
    chat.messages.push_back({"assistant", answer(client, std::move(r)), {}});
  }
  if (terminal) std::fputc('\n', stdout);
  return 0;
}

}  // namespace

void add_chat(CLI::App& app, int& exit_code) {
  auto a = std::make_shared<arguments>();
  CLI::App* c = app.add_subcommand("chat", "a conversation in the terminal");
  add_engine_options(*c, a->engine);
  add_sampling_options(*c, a->sampling);
  c->add_option("--system", a->system, "the system message");
  c->add_option("-n,--max-tokens", a->max_tokens, "longest answer in tokens (0: as the context allows)");
  c->callback([a, &exit_code] { exit_code = run(*a); });
}

}  // namespace troupe::cli

#include <spdlog/sinks/stdout_sinks.h>
#include <spdlog/spdlog.h>

#include <cstdio>
#include <cstdlib>

#include <troupe/error.hpp>

#include "src/base/log.hpp"
#include "tools/cli.hpp"

namespace {

using namespace troupe;

constexpr cli::add_command commands[] = {cli::add_serve,    cli::add_chat,     cli::add_generate, cli::add_bench,
                                         cli::add_tokenize, cli::add_detokenize, cli::add_template, cli::add_logits,
                                         cli::add_inspect,  cli::add_doctor,   cli::add_rank,   cli::add_replay};

int complain(const std::string& message, int code) {
  std::fprintf(stderr, "troupe: %s\n", message.c_str());
  return code;
}

/// The option names of a command and of the program, for a hint at a misspelt one.
std::vector<std::string> spellings(const CLI::App& app) {
  std::vector<std::string> names;
  for (const CLI::Option* option : app.get_options())
    for (const std::string& name : option->get_lnames()) names.push_back("--" + name);
  for (const CLI::App* sub : app.get_subcommands([](const CLI::App*) { return true; })) names.push_back(sub->get_name());
  return names;
}

/// The environment variable that gave an option its value, if one did.
std::string variable_of(const CLI::App& app, const std::string& option_name, const std::vector<std::string>& words) {
  for (const std::string& word : words)
    if (word == option_name || word.starts_with(option_name + "=")) return {};
  for (const CLI::App* command : app.get_subcommands([](const CLI::App*) { return true; })) {
    const CLI::Option* option = command->get_option_no_throw(option_name);
    if (option && !option->get_envname().empty() && std::getenv(option->get_envname().c_str())) return option->get_envname();
  }
  return {};
}

int explain(const CLI::App& app, const CLI::ParseError& e, const std::vector<std::string>& words) {
  const CLI::App* active = &app;
  if (auto chosen = app.get_subcommands(); !chosen.empty()) active = chosen.front();
  std::string message = cli::describe(e);
  if (const auto variable = variable_of(app, message.substr(0, message.find(':')), words); !variable.empty())
    message = variable + " (" + message.substr(0, message.find(':')) + ")" + message.substr(message.find(':'));
  if (auto extras = active->remaining(); !extras.empty()) {
    const std::string word = extras.front().substr(0, extras.front().find('='));
    message = (word.starts_with("-") ? "unknown option '" : "unexpected argument '") + word + "'";
    if (auto near = cli::nearest_spelling(word, spellings(*active))) message += ": did you mean '" + *near + "'?";
    else message += ": see troupe " + (active == &app ? std::string() : active->get_name() + " ") + "--help";
  }
  return complain(message, cli::exit_usage);
}

/// Gives every command --log-level.
void add_log_level(CLI::App& app, const std::shared_ptr<spdlog::logger>& logger) {
  for (CLI::App* command : app.get_subcommands([](CLI::App*) { return true; })) {
    const auto set = [logger, command](const std::string& level) {
      // CLI11 hands an environment variable to every command, called or not.
      if (command->parsed()) logger->set_level(spdlog::level::from_str(level));
    };
    command->add_option_function<std::string>("--log-level", set, "what is logged to standard error")
        ->check(CLI::IsMember({"trace", "debug", "info", "warn", "error", "critical", "off"}))
        ->default_str("warn")
        ->envname("TROUPE_LOG");
  }
}

int run(int argc, char** argv) {
  CLI::App app{"Troupe: an LLM inference engine of asynchronous actors", "troupe"};
  app.set_version_flag("--version", TROUPE_VERSION);
  app.require_subcommand(1);
  app.set_help_all_flag("--help-all", "the options of every command");
  app.get_formatter()->column_width(34);
  int exit_code = 0;
  for (auto add : commands) add(app, exit_code);
  for (CLI::App* command : app.get_subcommands([](CLI::App*) { return true; })) command->allow_extras(false);

  auto logger = std::make_shared<spdlog::logger>("troupe", std::make_shared<spdlog::sinks::stderr_sink_mt>());
  logger->set_pattern("%Y-%m-%d %H:%M:%S.%e %L %v");
  logger->set_level(spdlog::level::warn);
  set_logger(logger);
  add_log_level(app, logger);
  app.footer("Environment: TROUPE_MODELS, the folder of models by name (~/.cache/troupe/models); TROUPE_LOG, as --log-level of every\n"
             "command; TROUPE_NAME_OF_OPTION, as --name-of-option of serve.");

  if (argc > 1 && argv[1][0] != '-') {
    // CLI11 reports a misspelt command as a missing one.
    bool known = false;
    for (const CLI::App* command : app.get_subcommands([](CLI::App*) { return true; })) known |= command->check_name(argv[1]);
    if (!known) {
      auto near = cli::nearest_spelling(argv[1], spellings(app));
      return complain("unknown command '" + std::string(argv[1]) + "': " +
                          (near ? "did you mean '" + *near + "'?" : "see troupe --help"),
                      cli::exit_usage);
    }
  }
  try {
    app.parse(argc, argv);
  } catch (const CLI::Success& e) {
    return app.exit(e);
  } catch (const CLI::ParseError& e) {
    return explain(app, e, {argv + 1, argv + argc});
  } catch (const troupe::error& e) {
    return complain(e.message(), cli::exit_code_of(e.code()));
  } catch (const std::bad_alloc&) {
    return complain("out of memory: lower --kv-cache-memory-bytes or --max-model-len", cli::exit_failure);
  } catch (const std::exception& e) {
    return complain(e.what(), cli::exit_failure);
  }
  if (std::fflush(stdout) != 0 || std::ferror(stdout))
    return complain("standard output cannot be written: is the disk full, or the reader gone?", cli::exit_failure);
  return exit_code;
}

}  // namespace

int main(int argc, char** argv) {
  const int exit_code = run(argc, argv);
  // Threads of a lost rank, of its driver and of NCCL may be left behind: what they would meet while exit handlers take things
  // apart is not worth finding out (seen once with two cards: a heap found damaged).
  if (exit_code == cli::exit_rank_lost) {
    std::fflush(nullptr);
    std::_Exit(exit_code);
  }
  return exit_code;
}

#pragma once
#include <CLI/CLI.hpp>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include <troupe/options.hpp>
#include <troupe/request.hpp>
#include <troupe/sampling_choices.hpp>

/// What the subcommands share. Each command is one file with one function, listed in commands().
namespace troupe::cli {

/// Exit codes of interfaces: 0 done, 1 a negative answer, then these.
inline constexpr int exit_usage = 2, exit_failure = 3, exit_rank_lost = 70;
int exit_code_of(const std::error_code&);

/// Adds its subcommand to `app`; the callback stores the exit code.
using add_command = void (*)(CLI::App& app, int& exit_code);
void add_serve(CLI::App&, int&);
void add_chat(CLI::App&, int&);
void add_generate(CLI::App&, int&);
void add_tokenize(CLI::App&, int&);
void add_detokenize(CLI::App&, int&);
void add_template(CLI::App&, int&);
void add_logits(CLI::App&, int&);
void add_inspect(CLI::App&, int&);
void add_bench(CLI::App&, int&);
void add_doctor(CLI::App&, int&);
void add_rank(CLI::App&, int&);
void add_replay(CLI::App&, int&);

/// The options that every command with an engine takes: MODEL, threads, cache, lengths.
void add_engine_options(CLI::App& command, engine_options& options);
/// A file in the user's cache folder where timed choices of GPU kernels are kept; empty where there is no home.
std::string default_plan_file();
/// --load-format, for commands that open a model.
void add_load_format(CLI::App& command, std::string& load_format);
/// Temperature and its relatives.
void add_sampling_options(CLI::App& command, sampling_choices& sampling);

/// Whole input of a file, or of stdin when `path` is empty or "-". Throws troupe::error.
std::string read_input(const std::string& path);
/// Whitespace or comma separated ids; throws troupe::error naming the first word that is none.
std::vector<std::int32_t> parse_tokens(const std::string& text, const std::string& origin);

/// Bytes as people write them: 4096, 512M and 8GiB (in 1024s), 8GB (in 1000s), 1.5G; upper or lower case. None: no such
/// text, or more than 64 bits hold.
std::optional<std::uint64_t> parse_size(std::string_view text);
/// An option whose value may be written so.
CLI::Option* add_size_option(CLI::App& command, const std::string& name, std::uint64_t& size, const std::string& what);

/// What is wrong with an option or its value, in a user's words instead of CLI11's.
std::string describe(const CLI::ParseError&);

/// The spelling in `candidates` nearest to `word`, if one is near enough to be meant.
std::optional<std::string> nearest_spelling(const std::string& word, const std::vector<std::string>& candidates);

}  // namespace troupe::cli

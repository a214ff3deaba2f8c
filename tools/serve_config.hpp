#pragma once
#include <CLI/CLI.hpp>
#include <string>

namespace troupe::cli {

/// Gives every option of `command` the environment variable TROUPE_NAME_OF_OPTION.
void bind_environment(CLI::App& command);

/// Fills options that neither the command line nor the environment set from a TOML file with the options' long names as
/// keys. Throws troupe::error for a file that cannot be read, is not TOML, or has a key that is no option.
void apply_config_file(CLI::App& command, const std::string& path);

/// The effective configuration as TOML, each option with its description.
std::string print_config(const CLI::App& command);

}  // namespace troupe::cli

#include "tools/cli.hpp"

#include <algorithm>
#include <charconv>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <iterator>
#include <limits>

#include <troupe/error.hpp>

#include "src/format/quote.hpp"

namespace troupe::cli {

int exit_code_of(const std::error_code& code) {
  if (code.category() != category()) return exit_failure;
  switch (static_cast<errc>(code.value())) {
    case errc::invalid_argument:
    case errc::invalid_file:
    case errc::unsupported:
    case errc::not_found:
    case errc::context_exceeded: return exit_usage;
    case errc::rank_failed: return exit_rank_lost;
    default: return exit_failure;
  }
}

std::string default_plan_file() {
  const char* cache = std::getenv("XDG_CACHE_HOME");
  const char* home = std::getenv("HOME");
  if (cache && *cache) return std::string(cache) + "/troupe/gpu-plans.txt";
  return home && *home ? std::string(home) + "/.cache/troupe/gpu-plans.txt" : std::string();
}

void add_load_format(CLI::App& command, std::string& load_format) {
  command
      .add_option("--load-format", load_format,
                  "auto: the model's files; dummy: random weights, to measure speed: MODEL is a folder with config.json, such a file, or a preset (llama-3.1-8b)")
      ->check(CLI::IsMember({"auto", "dummy"}))
      ->capture_default_str();
}

void add_engine_options(CLI::App& command, engine_options& o) {
  o.gpu_plan_file = default_plan_file();
  command.add_option("model", o.model, "a .gguf file, a directory with safetensors, or a name in the model folder")
      ->type_name("MODEL");
  add_load_format(command, o.load_format);
  command.add_option("--device", o.device, "where to compute: auto (the first GPU, else the CPU), cpu, cuda, cuda:N")->capture_default_str();
  command.add_option("--dtype", o.dtype, "what to compute in; the CPU knows float32 only")
      ->check(CLI::IsMember({"auto", "bfloat16", "float16", "float32"}))
      ->capture_default_str();
  command.add_option("--quantization", o.quantization, "pack unquantized weights at load (GPU)")->check(CLI::IsMember({"int8", "int4", "fp8"}));
  command.add_flag("--deterministic", o.deterministic, "the same bits whatever runs beside a request, at a price on a GPU; the CPU always does");
  command.add_flag("--enforce-eager", o.enforce_eager, "no captured graphs (GPU)");
  command.add_option("--gpu-plan-file", o.gpu_plan_file, "where timed choices of GPU kernels are kept between runs");
  command.add_option("--gpu-memory-utilization", o.gpu_memory_utilization, "share of a GPU's free memory that may be taken")
      ->check(CLI::Range(0.05, 1.0))
      ->capture_default_str();
  command.add_option("--tensor-parallel-size", o.tensor_parallel_size, "ranks that share every layer of the model")
      ->check(CLI::Range(1, 256))
      ->capture_default_str();
  command.add_option("--rank-isolation", o.rank_isolation, "ranks beside rank 0: threads of this process, or processes of their own")
      ->check(CLI::IsMember({"thread", "process"}))
      ->capture_default_str();
  command.add_option("--rendezvous", o.rendezvous, "ranks come there from any host: troupe rank --join, or this command under mpirun; --threads is then of each process")->type_name("HOST:PORT");
  command.add_option("--rank-start-timeout", o.rank_start_timeout, "seconds for ranks that are processes to come, and again to load")
      ->check(CLI::Range(1, 86'400))
      ->capture_default_str();
  command.add_option("-t,--threads", o.threads, "compute threads of all ranks together (0: one per core)")->check(CLI::Range(0, 1024));
  command.add_option("--max-model-len", o.max_model_len,
                     "tokens of one sequence, prompt and answer (0: the model's context, which is also the most)");
  command.add_option("--max-num-seqs", o.max_num_seqs, "sequences that run at once")->check(CLI::Range(1, 4096))->capture_default_str();
  command.add_option("--max-num-batched-tokens", o.max_num_batched_tokens, "tokens in one step (0: chosen)");
  add_size_option(command, "--kv-cache-memory-bytes", o.kv_cache_memory_bytes, "memory for the KV cache (0: chosen)");
  command.add_option("--kv-cache-dtype", o.kv_cache_dtype, "type of the KV cache")
      ->check(CLI::IsMember({"auto", "f16", "f32", "bf16", "fp8"}))
      ->capture_default_str();
  command.add_option("--generation-config", o.generation_config,
                     "what a request leaves open of sampling: auto (as the model's files recommend), none (they are not asked)")
      ->check(CLI::IsMember({"auto", "none"}))
      ->capture_default_str();
  command.add_option("--chat-template", o.chat_template, "a file with a Jinja chat template instead of the model's own");
  command.add_option("--plan-log", o.plan_log, "log every step's plan and tokens to this file, which troupe replay runs again (it holds the prompts)")
      ->type_name("FILE");
  command.add_flag("--reference", o.reference, "compute in plain scalar float32: slow, exact, for comparisons");
}

void add_sampling_options(CLI::App& command, sampling_choices& s) {
  command.add_option("--temperature", s.temperature, "0: always the likeliest token")->check(CLI::Range(0.0, 100.0));
  command.add_option("--top-p", s.top_p, "keep the likeliest tokens up to this share")->check(CLI::Range(0.0, 1.0));
  command.add_option("--top-k", s.top_k, "keep the K likeliest tokens (0: all)");
  command.add_option("--min-p", s.min_p, "keep tokens at least this likely, relative to the likeliest")->check(CLI::Range(0.0, 1.0));
  command.add_option("--repetition-penalty", s.repetition_penalty, "divides the logits of tokens seen before");
  command.add_option("--frequency-penalty", s.frequency_penalty, "subtracted per occurrence in the answer");
  command.add_option("--presence-penalty", s.presence_penalty, "subtracted once for a token in the answer");
  command.add_option("--seed", s.seed, "the same seed gives the same answer, whatever else runs");
  command.footer("Sampling: what is not given here is as the model's files recommend (generation_config.json, a GGUF's general.sampling keys).");
}

std::string read_input(const std::string& path) {
  if (path.empty() || path == "-") return {std::istreambuf_iterator<char>(std::cin), {}};
  if (std::filesystem::is_directory(path)) throw error(errc::invalid_argument, path + ": is a directory: give a file");
  std::ifstream file(path, std::ios::binary);
  if (!file) throw error(errc::not_found, path + ": cannot be opened: check the path");
  return {std::istreambuf_iterator<char>(file), {}};
}

std::vector<std::int32_t> parse_tokens(const std::string& text, const std::string& origin) {
  std::vector<std::int32_t> ids;
  const char* at = text.data();
  const char* end = at + text.size();
  const auto separator = [](char c) { return c == ' ' || c == ',' || c == '\n' || c == '\r' || c == '\t'; };
  while (at != end) {
    if (separator(*at)) {
      ++at;
      continue;
    }
    std::int32_t id = 0;
    auto [stop, code] = std::from_chars(at, end, id);
    if (code != std::errc() || (stop != end && !separator(*stop)) || id < 0) {
      const char* word_end = std::find_if(at, end, separator);
      throw error(errc::invalid_argument, origin + ": " + format::quoted({at, static_cast<std::size_t>(word_end - at)}) +
                                              " is not a token id: give whole numbers from 0, separated by spaces");
    }
    ids.push_back(id);
    at = stop;
  }
  return ids;
}

std::optional<std::uint64_t> parse_size(std::string_view text) {
  const char* const end = text.data() + text.size();
  std::uint64_t whole = 0;
  auto [at, code] = std::from_chars(text.data(), end, whole);
  if (code != std::errc()) return std::nullopt;
  double fraction = 0;
  const bool has_fraction = at != end && *at == '.';
  if (has_fraction) {
    const auto parsed = std::from_chars(at, end, fraction, std::chars_format::fixed);
    if (parsed.ec != std::errc()) return std::nullopt;
    at = parsed.ptr;
  }
  std::string unit(at, end);
  for (char& c : unit) c = static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
  std::uint64_t factor = 1;
  if (!unit.empty() && unit != "b") {
    constexpr std::string_view letters = "kmgt";
    const std::size_t power = letters.find(unit.front());
    const std::string rest = unit.substr(1);
    if (power == letters.npos || (rest != "" && rest != "i" && rest != "ib" && rest != "b")) return std::nullopt;
    for (std::size_t i = 0; i <= power; ++i) factor *= rest == "b" ? 1000 : 1024;
  }
  if ((has_fraction && factor == 1) || whole >= std::numeric_limits<std::uint64_t>::max() / factor) return std::nullopt;
  return whole * factor + static_cast<std::uint64_t>(fraction * static_cast<double>(factor));
}

CLI::Option* add_size_option(CLI::App& command, const std::string& name, std::uint64_t& size, const std::string& what) {
  const auto in_bytes = [](std::string& text) -> std::string {
    const auto bytes = parse_size(text);
    if (!bytes) return format::quoted(text) + " is not a size: give bytes, or a number with K, M, G or T, as in 1.5G";
    text = std::to_string(*bytes);
    return {};
  };
  return command.add_option(name, size, what + "; may be written as 8G or 8GiB (in 1024s) or 8GB (in 1000s)")
      ->type_name("SIZE")
      ->transform(CLI::Validator(in_bytes, ""));
}

std::string describe(const CLI::ParseError& e) {
  const std::string text = e.what();
  // Its messages are "Could not convert: NAME = VALUE" and "NAME: N required TYPE missing".
  constexpr std::string_view unconverted = "Could not convert: ";
  if (const auto equals = text.find(" = "); text.starts_with(unconverted) && equals != std::string::npos) {
    const std::string name = text.substr(unconverted.size(), equals - unconverted.size());
    return name + ": '" + text.substr(equals + 3) + "' is not a number that it can take: see --help";
  }
  if (const auto colon = text.find(": "); text.ends_with(" missing") && text.find(" required ") != std::string::npos && colon != std::string::npos)
    return text.substr(0, colon) + ": its value is missing: see --help";
  if (e.get_name() == "RequiredError" && text == "A subcommand is required")
    return "no command: try troupe chat or troupe serve, or see troupe --help";
  return text;
}

std::optional<std::string> nearest_spelling(const std::string& word, const std::vector<std::string>& candidates) {
  std::optional<std::string> best;
  std::size_t best_distance = std::max<std::size_t>(2, (word.size() + 1) / 2) + 1;
  for (const std::string& candidate : candidates) {
    std::vector<std::size_t> row(candidate.size() + 1);
    for (std::size_t j = 0; j <= candidate.size(); ++j) row[j] = j;
    for (std::size_t i = 1; i <= word.size(); ++i) {
      std::size_t diagonal = row[0];
      row[0] = i;
      for (std::size_t j = 1; j <= candidate.size(); ++j) {
        const std::size_t above = row[j];
        row[j] = std::min({row[j] + 1, row[j - 1] + 1, diagonal + (word[i - 1] != candidate[j - 1])});
        diagonal = above;
      }
    }
    if (row.back() < best_distance) best_distance = row.back(), best = candidate;
  }
  return best;
}

}  // namespace troupe::cli

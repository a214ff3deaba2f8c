// Fields of a request that say how tokens are drawn and when to stop, and the list of those that we do not implement.
#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <limits>

#include "src/wire/fields.hpp"

namespace troupe::wire {
namespace {

constexpr auto int32_max = std::numeric_limits<std::int32_t>::max();

bool read_float(field_reader& r, std::string_view name, json_value v, double low, double high, std::string_view expected, float& out) {
  double d = 0;
  if (!r.number(name, v, low, high, expected, d)) return false;
  out = static_cast<float>(d);
  return true;
}

bool read_stop(field_reader& r, json_value v, std::vector<std::string>& out) {
  constexpr std::size_t most = 16, longest = 256;
  const auto one = [&](std::string_view param, json_value e) {
    std::string s;
    if (!r.text(param, e, longest, s)) return false;
    if (s.empty()) return r.fail(std::string(param), "empty: send a string of 1 to 256 bytes", "invalid_value");
    out.push_back(std::move(s));
    return true;
  };
  out.clear();
  if (v.type() == json_type::STRING) return one("stop", v);
  if (v.type() != json_type::ARRAY) return r.mismatch("stop", v, "a string or an array of strings");
  for (json_value e : array_of(v)) {
    if (out.size() == most) return r.fail("stop", "more than 16 strings: send fewer", "invalid_value");
    if (!one(indexed("stop", out.size()), e)) return false;
  }
  return true;
}

bool read_logit_bias(field_reader& r, json_value v, std::vector<std::pair<std::int32_t, float>>& out) {
  constexpr std::size_t most = 1024;
  if (v.type() != json_type::OBJECT) return r.mismatch("logit_bias", v, "an object of token ids and numbers");
  out.clear();
  for (auto [key, value] : object_of(v)) {
    const std::string path = member("logit_bias", key);
    if (out.size() == most) return r.fail("logit_bias", "more than 1024 entries: send fewer", "invalid_value");
    std::int32_t id = -1;
    const auto [end, error] = std::from_chars(key.data(), key.data() + key.size(), id);
    if (error != std::errc{} || end != key.data() + key.size() || id < 0)
      return r.fail(path, "the key is not a token id: send a number of 0 or more in quotes", "invalid_value");
    float bias = 0;
    if (!read_float(r, path, value, -100, 100, "a number from -100 to 100", bias)) return false;
    out.emplace_back(id, bias);
  }
  // "7" and "07" are two keys and one token.
  std::sort(out.begin(), out.end());
  const auto twice = std::adjacent_find(out.begin(), out.end(), [](auto& a, auto& b) { return a.first == b.first; });
  if (twice != out.end()) return r.fail("logit_bias", "token " + std::to_string(twice->first) + " is named twice: name it once", "duplicate_key");
  return true;
}

bool read_stream_options(field_reader& r, json_value v, api_request& out) {
  if (v.type() != json_type::OBJECT) return r.mismatch("stream_options", v, "an object");
  for (auto [key, value] : object_of(v)) {
    const std::string path = member("stream_options", key);
    bool on = false;
    if (is_null(value)) continue;
    if (key == "include_usage") {
      if (!r.boolean(path, value, out.include_usage)) return false;
    } else if (key == "include_obfuscation") {
      if (!r.boolean(path, value, on)) return false;  // padding against size analysis; changes no token
    } else if (key == "continuous_usage_stats") {
      if (!r.boolean(path, value, on)) return false;
      if (on) return r.fail(path, "not supported: leave it out", "unsupported");
    } else {
      return r.fail(path, "unknown field: leave it out", "unknown_field");
    }
  }
  return true;
}

enum class inert { any, null, off, on, zero, one, empty };

struct inert_field {
  std::string_view name;
  inert accepted;  ///< the values that ask for nothing; null always does
};

// Accepted whatever they hold: they do not change the tokens. Then those that would, and the value that asks for nothing.
constexpr std::array inert_fields = {
    inert_field{"user", inert::any}, inert_field{"store", inert::any}, inert_field{"metadata", inert::any},
    inert_field{"service_tier", inert::any}, inert_field{"safety_identifier", inert::any}, inert_field{"prompt_cache_key", inert::any},
    inert_field{"prompt_cache_retention", inert::any}, inert_field{"prediction", inert::any}, inert_field{"session_id", inert::any},
    inert_field{"stream_interval", inert::any}, inert_field{"cache_prompt", inert::any}, inert_field{"id_slot", inert::any},
    inert_field{"timings_per_token", inert::any}, inert_field{"return_progress", inert::any},
    inert_field{"parallel_tool_calls", inert::any},

    inert_field{"echo", inert::off}, inert_field{"top_logprobs", inert::zero}, inert_field{"prompt_logprobs", inert::null},
    inert_field{"logprob_token_ids", inert::empty}, inert_field{"best_of", inert::one}, inert_field{"suffix", inert::empty},
    inert_field{"use_beam_search", inert::off}, inert_field{"length_penalty", inert::one}, inert_field{"early_stopping", inert::off},
    inert_field{"min_tokens", inert::zero}, inert_field{"bad_words", inert::empty}, inert_field{"allowed_token_ids", inert::null},
    inert_field{"spaces_between_special_tokens", inert::on}, inert_field{"truncate_prompt_tokens", inert::null},
    inert_field{"truncation_side", inert::null}, inert_field{"prompt_embeds", inert::null}, inert_field{"cache_salt", inert::empty},
    inert_field{"no_repeat_ngram_size", inert::zero}, inert_field{"typical_p", inert::one}, inert_field{"mirostat", inert::zero},
    inert_field{"n_predict", inert::null}, inert_field{"grammar", inert::empty}, inert_field{"json_schema", inert::null},
    inert_field{"structured_outputs", inert::null}, inert_field{"guided_json", inert::null}, inert_field{"guided_regex", inert::null},
    inert_field{"guided_choice", inert::null}, inert_field{"guided_grammar", inert::null}, inert_field{"regex", inert::null},
    inert_field{"ebnf", inert::null}, inert_field{"logits_processors", inert::empty}, inert_field{"vllm_xargs", inert::empty},
    inert_field{"kv_transfer_params", inert::null}, inert_field{"mm_processor_kwargs", inert::empty},
    inert_field{"return_token_ids", inert::off}, inert_field{"return_tokens_as_token_ids", inert::off},
    inert_field{"repetition_detection", inert::null}, inert_field{"thinking_token_budget", inert::null},
    inert_field{"lora_path", inert::empty},
};

// Fields of the chat endpoint only.
constexpr std::array inert_chat_fields = {
    inert_field{"continue_final_message", inert::off}, inert_field{"chat_template", inert::null}, inert_field{"documents", inert::empty},
    inert_field{"reasoning_effort", inert::null}, inert_field{"include_reasoning", inert::on}, inert_field{"verbosity", inert::null},
    inert_field{"audio", inert::null}, inert_field{"functions", inert::empty}, inert_field{"function_call", inert::null},
    inert_field{"web_search_options", inert::null},
};

bool asks_for_nothing(json_value v, inert accepted) {
  if (is_null(v)) return true;
  double number = 0;
  const bool is_number = v.get_double().get(number) == simdjson::SUCCESS;
  const bool is_bool = v.type() == json_type::BOOL;
  switch (accepted) {
    case inert::any: return true;
    case inert::null: return false;
    case inert::off: return is_bool && !v.get_bool().value_unsafe();
    case inert::on: return is_bool && v.get_bool().value_unsafe();
    case inert::zero: return is_number && number == 0;
    case inert::one: return is_number && number == 1;
    case inert::empty: return is_empty(v);
  }
  return false;
}

bool unsupported(field_reader& r, std::string_view name) {
  return r.fail(std::string(name), "not supported by this server: leave it out", "unsupported");
}

}  // namespace

bool read_common_field(field_reader& r, std::string_view name, json_value v, api_request& out) {
  auto& q = out.common;
  auto& s = q.sampling;
  std::int64_t i = 0;
  double d = 0;
  // null means absent, for every optional field.
  const bool given = !is_null(v);
  if (name == "model") {
    if (given) r.text(name, v, 1024, out.model);
  } else if (name == "stream") {
    if (given) r.boolean(name, v, out.stream);
  } else if (name == "stream_options") {
    if (given) read_stream_options(r, v, out);
  } else if (name == "temperature") {
    if (given) read_float(r, name, v, 0, 100, "a number from 0 to 100", s.temperature);
  } else if (name == "top_p") {
    if (given && r.number(name, v, 0, 1, "a number above 0 and at most 1", d)) {
      s.top_p = static_cast<float>(d);
      if (!(s.top_p > 0)) r.fail("top_p", "out of range: send a number above 0 and at most 1", "invalid_value");
    }
  } else if (name == "top_k") {
    if (given && r.integer(name, v, -1, int32_max, "an integer of -1 or more", i)) s.top_k = static_cast<std::int32_t>(i);
  } else if (name == "min_p") {
    if (given && r.number(name, v, 0, 1, "a number of 0 or more and below 1", d)) {
      s.min_p = static_cast<float>(d);
      if (!(s.min_p < 1)) r.fail("min_p", "out of range: send a number of 0 or more and below 1", "invalid_value");
    }
  } else if (name == "n") {
    if (given && r.integer(name, v, 1, 128, "an integer from 1 to 128", i)) out.n = static_cast<std::uint32_t>(i);
  } else if (name == "seed") {
    constexpr auto low = std::numeric_limits<std::int64_t>::min(), high = std::numeric_limits<std::int64_t>::max();
    // -1 is how clients of other servers say «any».
    if (given && r.integer(name, v, low, high, "an integer of 64 bits", i) && i != -1) s.seed = static_cast<std::uint64_t>(i);
  } else if (name == "stop") {
    if (given) read_stop(r, v, q.stop);
  } else if (name == "stop_token_ids") {
    if (given) r.token_ids(name, v, 1024, q.stop_token_ids);
  } else if (name == "max_tokens") {
    // max_completion_tokens, the newer name, wins whichever comes first in the body: the caller applies it last.
    if (given && r.integer(name, v, 1, int32_max, "an integer of 1 or more", i)) q.max_tokens = static_cast<std::uint32_t>(i);
  } else if (name == "frequency_penalty") {
    if (given) read_float(r, name, v, -2, 2, "a number from -2 to 2", s.frequency_penalty);
  } else if (name == "presence_penalty") {
    if (given) read_float(r, name, v, -2, 2, "a number from -2 to 2", s.presence_penalty);
  } else if (name == "repetition_penalty") {
    constexpr std::string_view expected = "a number above 0 and at most 100";
    if (given && r.number(name, v, 0, 100, expected, d)) {
      s.repetition_penalty = static_cast<float>(d);
      if (!(s.repetition_penalty >= 1e-6f)) r.fail("repetition_penalty", "out of range: send a number above 0 and at most 100", "invalid_value");
    }
  } else if (name == "logit_bias") {
    if (given) read_logit_bias(r, v, s.logit_bias);
  } else if (name == "ignore_eos") {
    if (given) r.boolean(name, v, q.ignore_eos);
  } else if (name == "skip_special_tokens") {
    if (given) r.boolean(name, v, q.skip_special_tokens);
  } else if (name == "include_stop_str_in_output") {
    if (given) r.boolean(name, v, q.include_stop_in_output);
  } else if (name == "priority") {
    if (given && r.integer(name, v, -int32_max, int32_max, "an integer of 32 bits", i)) q.priority = static_cast<std::int32_t>(i);
  } else if (name == "request_id") {
    if (given) r.text(name, v, 128, q.id);
  } else {
    return false;
  }
  return true;
}

bool read_inert_field(field_reader& r, std::string_view name, json_value v, api_kind kind) {
  const auto check = [&](const auto& table) {
    const auto found = std::find_if(table.begin(), table.end(), [&](const inert_field& f) { return f.name == name; });
    if (found == table.end()) return false;
    if (!asks_for_nothing(v, found->accepted)) unsupported(r, name);
    return true;
  };
  if (name == "logprobs") {
    // A switch in chat requests; a count in completions, where 0 already asks for the sampled token's.
    const bool off = kind == api_kind::chat ? asks_for_nothing(v, inert::off) : asks_for_nothing(v, inert::null);
    if (!off) unsupported(r, name);
    return true;
  }
  if (name == "response_format") {
    if (is_null(v)) return true;
    std::string_view type;
    if (v.type() != json_type::OBJECT) r.mismatch(name, v, "an object");
    else if (object_of(v)["type"].get_string().get(type) != simdjson::SUCCESS) r.fail("response_format.type", "missing: send \"text\"", "missing_field");
    else if (type != "text") r.fail("response_format.type", "only \"text\" is supported: leave response_format out", "unsupported");
    return true;
  }
  if (kind == api_kind::chat && name == "modalities") {
    if (is_null(v)) return true;
    if (v.type() != json_type::ARRAY) return r.mismatch(name, v, "an array of strings"), true;
    for (json_value e : array_of(v))
      if (e.type() != json_type::STRING || string_of(e) != "text") return r.fail("modalities", "only \"text\" is supported: leave it out", "unsupported"), true;
    return true;
  }
  if (check(inert_fields)) return true;
  return kind == api_kind::chat && check(inert_chat_fields);
}

}  // namespace troupe::wire

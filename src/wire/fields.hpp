#pragma once
// Inside src/wire only: typed access to the fields of a body, with errors that name them.
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include <simdjson.h>

#include "src/wire/request_parser.hpp"

namespace troupe::wire {

using json_value = simdjson::dom::element;
using json_object = simdjson::dom::object;
using json_array = simdjson::dom::array;
using json_type = simdjson::dom::element_type;

inline constexpr std::size_t max_json_depth = 64;

/// Carries the first error through a parse: every reader below does nothing more than return false once one is set.
class field_reader {
 public:
  bool ok() const noexcept { return !error_; }
  /// Remembers the first error; returns false so that `return r.fail(…)` reads well.
  bool fail(std::string param, std::string message, std::string code = {});
  /// "PARAM: got a string: send EXPECTED".
  bool mismatch(std::string_view param, json_value got, std::string_view expected);
  api_error take() { return std::move(*error_); }

  bool boolean(std::string_view param, json_value, bool& out);
  /// Whole numbers only; 16.0 counts as 16, as it does in other servers. `expected` is what the message asks for.
  bool integer(std::string_view param, json_value, std::int64_t low, std::int64_t high, std::string_view expected, std::int64_t& out);
  bool number(std::string_view param, json_value, double low, double high, std::string_view expected, double& out);
  bool text(std::string_view param, json_value, std::size_t max_bytes, std::string& out);
  bool token_ids(std::string_view param, json_value, std::size_t max_count, std::vector<std::int32_t>& out);

 private:
  std::optional<api_error> error_;
};

std::string_view type_name(json_value) noexcept;
std::string indexed(std::string_view path, std::size_t index);
std::string member(std::string_view path, std::string_view name);
inline bool is_null(json_value v) noexcept { return v.type() == json_type::NULL_VALUE; }
inline std::string_view string_of(json_value v) noexcept { return v.get_string().value_unsafe(); }
inline json_object object_of(json_value v) noexcept { return v.get_object().value_unsafe(); }
inline json_array array_of(json_value v) noexcept { return v.get_array().value_unsafe(); }
/// null, "", [], {}: asks for nothing.
bool is_empty(json_value) noexcept;

/// Fields with the same meaning in both kinds of request. Returns false when the name is not among them; errors go to r.
bool read_common_field(field_reader& r, std::string_view name, json_value, api_request& out);
/// Fields that are accepted without effect, or refused because they would have one. False: not among them.
bool read_inert_field(field_reader& r, std::string_view name, json_value, api_kind);
/// messages, tools and what else goes to the chat template. False: not among them.
bool read_template_field(field_reader& r, simdjson::dom::parser& nested, std::uint32_t max_messages, std::string_view name,
                         json_value, chat_prompt& out);
/// `prompt` of a completion request.
bool read_prompts(field_reader& r, json_value, std::uint32_t max_prompts, api_request& out);

}  // namespace troupe::wire

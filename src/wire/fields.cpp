#include "src/wire/fields.hpp"

#include <cmath>
#include <limits>

namespace troupe::wire {

std::string_view type_name(json_value v) noexcept {
  switch (v.type()) {
    case json_type::ARRAY: return "an array";
    case json_type::OBJECT: return "an object";
    case json_type::INT64:
    case json_type::UINT64:
    case json_type::DOUBLE: return "a number";
    case json_type::STRING: return "a string";
    case json_type::BOOL: return "a boolean";
    case json_type::NULL_VALUE: return "null";
  }
  return "something else";
}

std::string indexed(std::string_view path, std::size_t index) {
  std::string out(path);
  out += '[';
  out += std::to_string(index);
  out += ']';
  return out;
}

// Keys come from the client: a long one is cut where the message would stop being readable.
std::string member(std::string_view path, std::string_view name) {
  constexpr std::size_t longest = 64;
  std::string out(path);
  if (!out.empty()) out += '.';
  std::size_t cut = std::min(name.size(), longest);
  while (cut < name.size() && cut > 0 && (static_cast<unsigned char>(name[cut]) & 0xc0) == 0x80) --cut;
  out += name.substr(0, cut);
  if (cut < name.size()) out += "…";
  return out;
}

bool is_empty(json_value v) noexcept {
  switch (v.type()) {
    case json_type::NULL_VALUE: return true;
    case json_type::STRING: return string_of(v).empty();
    case json_type::ARRAY: return array_of(v).begin() == array_of(v).end();
    case json_type::OBJECT: return object_of(v).begin() == object_of(v).end();
    default: return false;
  }
}

bool field_reader::fail(std::string param, std::string message, std::string code) {
  if (!error_) {
    std::string sentence = param.empty() ? std::move(message) : param + ": " + message;
    error_ = field_error(std::move(param), std::move(sentence), std::move(code));
  }
  return false;
}

bool field_reader::mismatch(std::string_view param, json_value got, std::string_view expected) {
  std::string message = "got ";
  message += type_name(got);
  message += ": send ";
  message += expected;
  return fail(std::string(param), std::move(message), "invalid_type");
}

bool field_reader::boolean(std::string_view param, json_value v, bool& out) {
  if (!ok()) return false;
  if (v.type() != json_type::BOOL) return mismatch(param, v, "true or false");
  out = v.get_bool().value_unsafe();
  return true;
}

bool field_reader::integer(std::string_view param, json_value v, std::int64_t low, std::int64_t high, std::string_view expected, std::int64_t& out) {
  if (!ok()) return false;
  const auto outside = [&] { return fail(std::string(param), "out of range: send " + std::string(expected), "invalid_value"); };
  switch (v.type()) {
    case json_type::INT64: out = v.get_int64().value_unsafe(); break;
    case json_type::UINT64: return outside();  // simdjson uses it only above int64
    case json_type::DOUBLE: {
      const double d = v.get_double().value_unsafe();
      if (d != std::floor(d)) return mismatch(param, v, expected);
      if (d < -9e15 || d > 9e15) return outside();  // beyond this a double no longer names one integer
      out = static_cast<std::int64_t>(d);
      break;
    }
    default: return mismatch(param, v, expected);
  }
  return out >= low && out <= high ? true : outside();
}

bool field_reader::number(std::string_view param, json_value v, double low, double high, std::string_view expected, double& out) {
  if (!ok()) return false;
  switch (v.type()) {
    case json_type::INT64:
    case json_type::UINT64:
    case json_type::DOUBLE: out = v.get_double().value_unsafe(); break;
    default: return mismatch(param, v, expected);
  }
  return out >= low && out <= high ? true : fail(std::string(param), "out of range: send " + std::string(expected), "invalid_value");
}

bool field_reader::text(std::string_view param, json_value v, std::size_t max_bytes, std::string& out) {
  if (!ok()) return false;
  if (v.type() != json_type::STRING) return mismatch(param, v, "a string");
  const auto s = string_of(v);
  if (s.size() > max_bytes) return fail(std::string(param), "longer than " + std::to_string(max_bytes) + " bytes: send a shorter string", "invalid_value");
  out.assign(s);
  return true;
}

bool field_reader::token_ids(std::string_view param, json_value v, std::size_t max_count, std::vector<std::int32_t>& out) {
  if (!ok()) return false;
  if (v.type() != json_type::ARRAY) return mismatch(param, v, "an array of token ids");
  out.clear();
  std::size_t i = 0;
  for (json_value e : array_of(v)) {
    if (i == max_count) return fail(std::string(param), "more than " + std::to_string(max_count) + " ids: send fewer", "invalid_value");
    // The common case without building a path: prompts of token ids are long.
    std::int64_t id = -1;
    if (e.type() == json_type::INT64) id = e.get_int64().value_unsafe();
    if (id < 0 || id > std::numeric_limits<std::int32_t>::max()) {
      if (!integer(indexed(param, i), e, 0, std::numeric_limits<std::int32_t>::max(), "a token id, 0 or more", id)) return false;
    }
    out.push_back(static_cast<std::int32_t>(id));
    ++i;
  }
  return true;
}

}  // namespace troupe::wire

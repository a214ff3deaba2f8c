#pragma once
#include <string_view>
#include <vector>

#include "src/text/jinja_runtime.hpp"

/// The tables of what templates can call by name.
namespace troupe::text::jinja {

struct filter_entry {
  std::string_view name;
  value (*run)(runtime& rt, const value& subject, const call_args& args);
};

struct test_entry {
  std::string_view name;
  bool (*run)(runtime& rt, const value& subject, const call_args& args);
};

struct method_entry {
  std::string_view name;
  value (*run)(runtime& rt, const value& self, const call_args& args);
};

struct function_entry {
  std::string_view name;
  value (*run)(runtime& rt, const call_args& args);
};

/// Null when there is none of that name.
const filter_entry* find_filter(std::string_view name);
const test_entry* find_test(std::string_view name);
const function_entry* find_function(std::string_view name);
const method_entry* find_method(const value& self, std::string_view name);
/// A Python method that Jinja's immutable sandbox refuses (list.append, dict.update, …).
bool is_refused_method(const value& self, std::string_view name);

// The filter tables by topic; find_filter looks through all of them.
const filter_entry* find_text_filter(std::string_view name);
const filter_entry* find_sequence_filter(std::string_view name);
const filter_entry* find_select_filter(std::string_view name);
const filter_entry* find_number_filter(std::string_view name);
const method_entry* find_text_method(std::string_view name);

/// The attribute argument of filters: "a.b.0" looks up one after the other, none gives the value itself.
class attribute_path {
 public:
  attribute_path(runtime& rt, const value& attribute);
  value of(runtime& rt, const value& item) const;
  value otherwise;  ///< instead of undefined values on the way, unless it is none or undefined

 private:
  std::vector<value> parts_;
};

template <class Entry, std::size_t N>
const Entry* find_entry(const Entry (&table)[N], std::string_view name) {
  for (const Entry& e : table) {
    if (e.name == name) return &e;
  }
  return nullptr;
}

}  // namespace troupe::text::jinja

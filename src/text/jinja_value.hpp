#pragma once
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

/// The values a template computes with: Python's, as far as templates can tell. Everything is immutable but namespaces,
/// generators, loops, cyclers and joiners; those live no longer than one render.
namespace troupe::text::jinja {

class runtime;
struct macro_stmt;
struct method_entry;
struct function_entry;
struct scope;

enum class kind : std::uint8_t {
  undefined,
  none,
  boolean,
  integer,
  big_integer,  ///< beyond 64 bits, from JSON: can be compared for equality and printed, not computed with
  real,
  string,
  list,
  tuple,
  dict,
  range,
  view,       ///< dict.keys(), .values(), .items()
  generator,  ///< what map, select, … give: can be walked once
  space,      ///< namespace()
  macro,
  function,  ///< range, dict, raise_exception, …
  method,    ///< a function of a string, list, dict, loop, … together with that object
  loop,
  cycler,
  joiner,
};

struct object {
  virtual ~object() = default;
};

class value {
 public:
  value() = default;  ///< undefined without a name
  static value none() { return value(kind::none); }
  static value boolean(bool b);
  static value integer(std::int64_t i);
  static value real(double d);
  /// Neither checks nor counts: template code makes strings with `runtime::text`.
  static value raw_text(std::string s, bool markup = false);
  static value big_integer(std::string digits);
  static value undefined(std::string message);
  static value of(kind k, std::shared_ptr<object> o);

  kind type() const { return kind_; }
  bool is(kind k) const { return kind_ == k; }
  bool is_undefined() const { return kind_ == kind::undefined; }
  bool is_none() const { return kind_ == kind::none; }
  bool is_string() const { return kind_ == kind::string; }
  bool is_number() const {
    return kind_ == kind::boolean || kind_ == kind::integer || kind_ == kind::real || kind_ == kind::big_integer;
  }
  /// bool or int that fits 64 bits: what Python takes as an index.
  bool is_integral() const { return kind_ == kind::boolean || kind_ == kind::integer; }
  bool is_sequence() const { return kind_ == kind::list || kind_ == kind::tuple; }

  bool as_bool() const { return integer_ != 0; }
  std::int64_t as_integer() const { return integer_; }  ///< booleans too
  double as_real() const { return real_; }
  double to_real() const { return kind_ == kind::real ? real_ : static_cast<double>(integer_); }
  const std::string& text() const;               ///< of strings and big integers
  bool markup() const;                           ///< a string marked safe
  const std::vector<value>& items() const;       ///< of lists and tuples
  const std::string& undefined_message() const;  ///< what an operation on this undefined value says

  template <class T>
  const T& as() const {
    return static_cast<const T&>(*object_);
  }
  template <class T>
  T& mut() const {
    return static_cast<T&>(*object_);
  }
  const object* identity() const { return object_.get(); }
  /// The text itself if nobody else holds it: lets a chain of `+` append in place.
  std::string* sole_text();

 private:
  explicit value(kind k) : kind_(k) {}

  kind kind_ = kind::undefined;
  union {
    std::int64_t integer_ = 0;
    double real_;
  };
  std::shared_ptr<object> object_;
};

using pairs = std::vector<std::pair<value, value>>;

struct text_object : object {
  std::string text;
  bool markup = false;
};

/// `depth` and `weight` (all values inside, shared ones counted as often as they occur; saturating) let work on nested
/// values be charged before it is done.
struct container : object {
  std::uint32_t depth = 1;
  std::uint64_t weight = 1;
  bool hashable = true;  ///< whether all items are: a tuple of them can then be a key
  void hold(const value& v);
};

struct list_object : container {
  std::vector<value> items;
  bool group = false;  ///< a tuple of groupby: .grouper and .list
};

/// Total order of dict keys that agrees with Python's equality (1 == 1.0 == True).
struct key_less {
  using is_transparent = void;
  bool operator()(const value& a, const value& b) const;
  bool operator()(const value& a, std::string_view b) const;
  bool operator()(std::string_view a, const value& b) const;
};

/// Keeps the order of insertion; a key set again keeps its place.
struct dict_object : container {
  pairs items;
  const value* find(const value& key) const;
  const value* find(std::string_view key) const;
  void set(value key, value v);

 private:
  std::map<value, std::size_t, key_less> index_;  // built once the dict is larger than a cache line or two
};

struct range_object : object {
  std::int64_t start = 0, stop = 0, step = 1;
  std::int64_t count = 0;
  /// In unsigned arithmetic: with one item the step may be anything.
  std::int64_t at(std::int64_t i) const {
    return static_cast<std::int64_t>(static_cast<std::uint64_t>(start) +
                                     static_cast<std::uint64_t>(i) * static_cast<std::uint64_t>(step));
  }
};

enum class view_kind : std::uint8_t { keys, values, items };
struct view_object : container {
  value dict;
  view_kind what = view_kind::keys;
};

/// Gives values one after the other. False: the end, or a failure that `runtime` holds.
struct iterator {
  virtual ~iterator() = default;
  virtual bool next(runtime& rt, value& out) = 0;
};

struct generator_object : container {
  std::unique_ptr<iterator> source;
  const char* type_name = "generator";
};

struct space_object : object {
  dict_object attributes;
};

struct macro_object : object {
  const macro_stmt* node = nullptr;
  std::shared_ptr<scope> closure;
};

struct function_object : object {
  const function_entry* entry = nullptr;
};

struct method_object : container {
  value self;
  const method_entry* entry = nullptr;
};

struct cycler_object : container {
  std::vector<value> items;
  std::size_t at = 0;
};

struct joiner_object : container {
  value separator;
  bool used = false;
};

std::uint32_t depth_of(const value& v);
std::uint64_t weight_of(const value& v);

bool truth(const value& v);
/// Python's ==. Charge min(weight_of) before: nested values are walked.
bool equal(const value& a, const value& b);
bool same_object(const value& a, const value& b);  ///< Python's `is`
bool hashable(const value& v);
/// -1, 0, 1, or 2 when one is NaN; both must be boolean, integer or real.
int compare_numbers(const value& a, const value& b);

const char* type_name(const value& v);        ///< as Python names it: str, int, NoneType, …
std::string describe_object(const value& v);  ///< Jinja's words for it: "dict object", "None"

}  // namespace troupe::text::jinja

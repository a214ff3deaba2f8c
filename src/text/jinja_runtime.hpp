#pragma once
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "src/base/result.hpp"
#include "src/text/jinja_limits.hpp"
#include "src/text/jinja_value.hpp"

namespace troupe::text::jinja {

/// Year, month, day and time of day as a person reads a clock; the weekday follows from the date.
struct civil_time {
  int year = 1970, month = 1, day = 1;
  int hour = 0, minute = 0, second = 0;
};

struct call_args {
  std::vector<value> positional;
  std::vector<std::pair<std::string, value>> named;
};

/// What one render may still use, and its first failure. Operations do not return errors: after a failure they give
/// undefined, every loop asks `ok()`, and the render ends with the failure.
class runtime {
 public:
  explicit runtime(const limits& l) : limits_(l) {}
  virtual ~runtime() = default;
  runtime(const runtime&) = delete;
  runtime& operator=(const runtime&) = delete;

  const limits& bounds() const { return limits_; }
  bool ok() const { return !failure_; }
  failure take_failure() { return std::move(*failure_); }

  /// Records the failure if it is the first. The message is preceded by the line.
  value error(std::string_view what);
  value raise(std::string message);  ///< the template's own message, as it is
  value exceeded(std::string_view limit_name, std::uint64_t limit);
  value use_of_undefined(const value& v) { return error(v.undefined_message()); }

  bool step(std::uint64_t n = 1) {
    steps_ += n;
    if (steps_ <= limits_.steps && n <= limits_.steps) return ok();
    exceeded("steps", limits_.steps);
    return false;
  }
  /// Work on `bytes` bytes of text.
  bool scan(std::size_t bytes) { return step(1 + bytes / 256); }
  bool spend(std::uint64_t bytes);
  /// Before a string of that many bytes is made.
  bool may_hold(std::uint64_t bytes);

  value text(std::string s, bool markup = false);
  value text(std::string_view s, const value& like) { return text(std::string(s), like.markup()); }
  value list(std::vector<value> items) { return sequence(kind::list, std::move(items)); }
  value tuple(std::vector<value> items) { return sequence(kind::tuple, std::move(items)); }
  value dict(std::shared_ptr<dict_object> d);
  value range(std::int64_t start, std::int64_t stop, std::int64_t step);
  value view(const value& dict, view_kind what);
  /// `over` is what the iterator walks and `args` what else it may hold: they count for the depth.
  value generator(std::unique_ptr<iterator> it, const value& over, const call_args& args,
                  const char* type_name = "generator");
  value method(const value& self, const method_entry* entry);
  value space();
  value cycler(std::vector<value> items);
  value joiner(value separator);
  bool depth_allowed(const container& c);

  bool same(const value& a, const value& b);                   ///< charged ==
  bool set(dict_object& d, const value& key, const value& v);  ///< refuses keys that Python cannot hash

  /// Calls a callable value. Implemented by the evaluator.
  virtual value call(const value& callee, call_args args) = 0;

  /// Counts one level of evaluation; `ok()` is false when there are too many.
  class level {
   public:
    explicit level(runtime& rt) : rt_(rt) {
      if (++rt.depth_ > rt.limits_.recursion) rt.exceeded("recursion", rt.limits_.recursion);
    }
    ~level() { --rt_.depth_; }
    level(const level&) = delete;
    level& operator=(const level&) = delete;

   private:
    runtime& rt_;
  };

  std::uint32_t line = 0;         ///< of the node being evaluated
  std::optional<civil_time> now;  ///< what strftime_now tells

 protected:
  std::vector<std::shared_ptr<space_object>> spaces_;  // emptied at the end: namespaces may hold each other

 private:
  value sequence(kind k, std::vector<value> items);

  const limits& limits_;
  std::optional<failure> failure_;
  std::uint64_t steps_ = 0;
  std::uint64_t bytes_ = 0;
  std::size_t depth_ = 0;
};

/// The arguments of a call by parameter name, bound by Python's rules. An empty name is a parameter that has no name.
class bound_args {
 public:
  bound_args(runtime& rt, std::string_view callee, const call_args& args, std::initializer_list<std::string_view> names,
             std::size_t required = 0);

  bool ok() const { return ok_; }
  bool has(std::size_t i) const { return slots_[i] != nullptr; }
  const value& operator[](std::size_t i) const;  ///< undefined when absent
  /// None counts as absent.
  std::int64_t integer(std::size_t i, std::int64_t otherwise);
  bool flag(std::size_t i, bool otherwise) const { return has(i) ? truth(*slots_[i]) : otherwise; }
  std::string string(std::size_t i, std::string_view otherwise);

 private:
  runtime& rt_;
  std::string_view callee_;
  const value* slots_[8] = {};
  bool ok_ = true;
};

}  // namespace troupe::text::jinja

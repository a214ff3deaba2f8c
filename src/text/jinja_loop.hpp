#pragma once
#include <functional>
#include <memory>
#include <optional>
#include <vector>

#include "src/text/jinja_runtime.hpp"

namespace troupe::text::jinja {

/// The `loop` variable: a walk that knows its place and can look one item ahead.
struct loop_object : object {
  value source;  ///< for its length, if it has one
  std::unique_ptr<iterator> items;
  std::function<value(value)> recurse;  ///< set in loops marked recursive; runs the body over other items
  std::int64_t index0 = -1;
  std::int64_t depth0 = 0;
  std::optional<value> current, before;

  bool advance(runtime& rt, value& out);
  std::int64_t length(runtime& rt);
  bool peek(runtime& rt, value& out);  ///< false: there is no next item
  bool changed(runtime& rt, std::vector<value> now);
  /// Lets go of all values: a loop may outlive its statement in a namespace, and must not hold others then.
  void finish();

 private:
  std::optional<value> after_;
  std::optional<std::int64_t> length_;
  std::optional<std::vector<value>> last_;
};

}  // namespace troupe::text::jinja

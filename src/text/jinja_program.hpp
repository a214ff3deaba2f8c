#pragma once
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "src/text/jinja_lexer.hpp"
#include "src/text/jinja_runtime.hpp"

namespace troupe::text::jinja {

/// A parsed Jinja2 template. Immutable: any number of threads may render it at once. Copies share the tree.
///
/// The language is Jinja 3.1 in the environment in which transformers renders chat templates: immutable sandbox, loop
/// controls, the `generation` tag, and the functions range, dict, namespace, cycler, joiner, raise_exception and (if a
/// time is given) strftime_now. Not there: inheritance, include and import; whole numbers beyond 64 bits are read and
/// printed but not computed with.
class program {
 public:
  /// Fails with invalid_file and the line of what is wrong, or with unsupported.
  static result<program> parse(std::string_view source, options how = {});

  /// The text. `context` is a dict of variables. Fails with invalid_argument: what raise_exception() was given as it
  /// is, any other error with its line, an exceeded limit with its name.
  result<std::string> render(const value& context, std::optional<civil_time> now = {}) const;

  /// Whether the name occurs in the template as a variable.
  bool mentions(std::string_view name) const;

 private:
  struct state;
  explicit program(std::shared_ptr<const state> s) : state_(std::move(s)) {}
  std::shared_ptr<const state> state_;
};

}  // namespace troupe::text::jinja

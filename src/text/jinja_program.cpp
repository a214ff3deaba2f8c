#include "src/text/jinja_program.hpp"

#include "src/text/jinja_eval.hpp"

namespace troupe::text::jinja {

struct program::state {
  syntax_tree tree;
  options how;
};

result<program> program::parse(std::string_view source, options how) {
  auto tree = jinja::parse(source, how);
  if (!tree) return tree.take_error();
  return program(std::make_shared<const state>(state{std::move(tree).value(), how}));
}

result<std::string> program::render(const value& context, std::optional<civil_time> now) const {
  evaluator run(state_->tree, state_->how.bounds, context);
  run.now = now;
  return run.render();
}

bool program::mentions(std::string_view name) const {
  return state_->tree.symbols.numbers.count(std::string(name)) != 0;
}

}  // namespace troupe::text::jinja

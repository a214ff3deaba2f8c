#include "src/text/jinja_eval.hpp"

#include <fmt/format.h>

#include "src/text/jinja_builtins.hpp"
#include "src/text/jinja_iter.hpp"
#include "src/text/jinja_ops.hpp"
#include "src/text/jinja_repr.hpp"

namespace troupe::text::jinja {

evaluator::evaluator(const syntax_tree& tree, const limits& l, const value& context)
    : runtime(l), tree_(tree), context_(context), globals_(tree.symbols.names.size()) {}

evaluator::~evaluator() {
  for (const auto& s : kept_) s->names.clear();
  for (const auto& s : spaces_) s->attributes = dict_object();
}

value evaluator::look_up(std::uint32_t symbol) {
  for (const scope* s = scope_.get(); s; s = s->parent.get()) {
    for (const auto& [name, v] : s->names) {
      if (name == symbol) return v;
    }
  }
  auto& [resolved, v] = globals_[symbol];
  if (!resolved) {
    const std::string& name = tree_.symbols.names[symbol];
    const value* given = context_.is(kind::dict) ? context_.as<dict_object>().find(name) : nullptr;
    const function_entry* function = given ? nullptr : find_function(name);
    if (given) {
      v = *given;
    } else if (function && (name != "strftime_now" || now)) {
      auto o = std::make_shared<function_object>();
      o->entry = function;
      v = value::of(kind::function, std::move(o));
    } else {
      v = value::undefined(fmt::format("'{}' is undefined", name));
    }
    resolved = true;
  }
  return v;
}

value evaluator::eval(const expr& e) {
  if (!step()) return {};
  runtime::level level(*this);
  if (!ok()) return {};
  line = e.line;
  switch (e.what) {
    case expr_kind::constant:
      return static_cast<const constant_expr&>(e).v;
    case expr_kind::name:
      return look_up(static_cast<const name_expr&>(e).symbol);
    case expr_kind::unary:
      return eval_unary(static_cast<const unary_expr&>(e));
    case expr_kind::arithmetic: {
      const auto& a = static_cast<const arithmetic_expr&>(e);
      value left = eval(*a.left);
      const value right = eval(*a.right);
      return arithmetic(*this, a.op, std::move(left), right);
    }
    case expr_kind::concat:
      return eval_concat(static_cast<const concat_expr&>(e));
    case expr_kind::compare:
      return eval_compare(static_cast<const compare_expr&>(e));
    case expr_kind::logic: {
      const auto& l = static_cast<const logic_expr&>(e);
      value left = eval(*l.left);
      return truth(left) == l.is_and ? eval(*l.right) : left;
    }
    case expr_kind::condition:
      return eval_condition(static_cast<const condition_expr&>(e));
    case expr_kind::sequence:
      return eval_sequence(static_cast<const sequence_expr&>(e));
    case expr_kind::dict:
      return eval_dict(static_cast<const dict_expr&>(e));
    case expr_kind::attribute: {
      const auto& a = static_cast<const attribute_expr&>(e);
      return attribute(*this, eval(*a.of), a.name);
    }
    case expr_kind::item: {
      const auto& i = static_cast<const item_expr&>(e);
      const value of = eval(*i.of);
      return item(*this, of, eval(*i.index));
    }
    case expr_kind::slice:
      return eval_slice(static_cast<const slice_expr&>(e));
    case expr_kind::call:
      return eval_call(static_cast<const call_expr&>(e), nullptr);
    case expr_kind::filter:
      return eval_filter(static_cast<const filter_expr&>(e));
    case expr_kind::test:
      return eval_test(static_cast<const test_expr&>(e));
  }
  return {};
}

value evaluator::eval_unary(const unary_expr& e) {
  const value v = eval(*e.operand);
  if (!ok()) return {};
  switch (e.op) {
    case unary_op::minus:
      return negated(*this, v);
    case unary_op::plus:
      return unchanged(*this, v);
    default:
      return value::boolean(!truth(v));
  }
}

value evaluator::eval_concat(const concat_expr& e) {
  std::string out;
  for (const expr_ptr& part : e.parts) {
    append_text(*this, out, eval(*part));
    if (!ok()) return {};
  }
  return text(std::move(out));
}

value evaluator::eval_compare(const compare_expr& e) {
  value left = eval(*e.first);
  for (const auto& [op, operand] : e.rest) {
    value right = eval(*operand);
    if (!compare(*this, op, left, right)) return value::boolean(false);
    left = std::move(right);
  }
  return value::boolean(true);
}

value evaluator::eval_condition(const condition_expr& e) {
  const bool yes = truth(eval(*e.test));
  if (!ok()) return {};
  if (yes) return eval(*e.then);
  if (e.otherwise) return eval(*e.otherwise);
  return value::undefined(
      fmt::format("the inline if-expression on line {} evaluated to false and no else section was defined.", e.line));
}

value evaluator::eval_sequence(const sequence_expr& e) {
  std::vector<value> items;
  items.reserve(e.items.size());
  for (const expr_ptr& i : e.items) items.push_back(eval(*i));
  if (!ok()) return {};
  return e.is_list ? list(std::move(items)) : tuple(std::move(items));
}

value evaluator::eval_dict(const dict_expr& e) {
  auto d = std::make_shared<dict_object>();
  for (const auto& [k, v] : e.items) {
    const value key = eval(*k);
    const value item = eval(*v);
    if (!ok() || !set(*d, key, item)) return {};
  }
  return dict(std::move(d));
}

value evaluator::eval_slice(const slice_expr& e) {
  const value of = eval(*e.of);
  auto part = [&](const expr_ptr& p) { return p ? eval(*p) : value::none(); };
  const value start = part(e.start), stop = part(e.stop), by = part(e.step);
  return slice(*this, of, start, stop, by);
}

call_args evaluator::eval_arguments(const argument_list& args) {
  call_args out;
  out.positional.reserve(args.positional.size());
  for (const expr_ptr& e : args.positional) out.positional.push_back(eval(*e));
  if (args.more_positional) {
    auto it = iterate(*this, eval(*args.more_positional));
    value v;
    while (it && it->next(*this, v) && spend(sizeof(value))) out.positional.push_back(std::move(v));
  }
  for (const auto& [name, e] : args.named) out.named.emplace_back(name, eval(*e));
  if (args.more_named) {
    const value more = eval(*args.more_named);
    if (!more.is(kind::dict)) {
      if (ok()) error("what stands behind ** must be a mapping");
      return out;
    }
    for (const auto& [k, v] : more.as<dict_object>().items) {
      if (!k.is_string()) error("keywords must be strings");
      if (!step() || !spend(96)) return out;
      out.named.emplace_back(k.text(), v);
    }
  }
  return out;
}

value evaluator::eval_call(const call_expr& e, const value* caller) {
  value self;
  const method_entry* method = nullptr;
  value callee;
  if (e.callee->what == expr_kind::attribute && !caller) {
    // A method that is called at once needs no object of its own.
    const auto& a = static_cast<const attribute_expr&>(*e.callee);
    self = eval(*a.of);
    if (!self.is(kind::space)) method = find_method(self, a.name);
    if (!method) callee = attribute(*this, self, a.name);
  } else {
    callee = eval(*e.callee);
  }
  if (!ok()) return {};
  call_args args = eval_arguments(e.arguments);
  if (caller) args.named.emplace_back("caller", *caller);
  if (!ok()) return {};
  line = e.line;
  return method ? method->run(*this, self, args) : call(callee, std::move(args));
}

value evaluator::call(const value& callee, call_args args) {
  runtime::level level(*this);
  if (!ok()) return {};
  switch (callee.type()) {
    case kind::function:
      return callee.as<function_object>().entry->run(*this, args);
    case kind::method: {
      const auto& m = callee.as<method_object>();
      return m.entry->run(*this, m.self, args);
    }
    case kind::macro:
      return call_macro(callee.as<macro_object>(), std::move(args));
    case kind::loop: {
      const auto& recurse = callee.as<loop_object>().recurse;
      if (!recurse) return error("the loop must have the 'recursive' marker to be called recursively");
      if (args.positional.size() != 1 || !args.named.empty()) return error("loop() takes exactly one argument");
      // A copy: the loop may be over, and let go of it, before the call ends.
      const auto run = recurse;
      return run(args.positional.front());
    }
    case kind::joiner: {
      auto& j = callee.mut<joiner_object>();
      return std::exchange(j.used, true) ? j.separator : text("");
    }
    case kind::undefined:
      return use_of_undefined(callee);
    default:
      return error(fmt::format("'{}' object is not callable", type_name(callee)));
  }
}

value evaluator::eval_filter(const filter_expr& e) {
  const value subject = e.subject ? eval(*e.subject) : block_text_ ? *block_text_ : value();
  const call_args args = eval_arguments(e.arguments);
  if (!ok()) return {};
  line = e.line;
  if (!e.entry) return error(fmt::format("there is no filter named '{}'", e.name));
  return e.entry->run(*this, subject, args);
}

value evaluator::eval_test(const test_expr& e) {
  const value subject = eval(*e.subject);
  const call_args args = eval_arguments(e.arguments);
  if (!ok()) return {};
  line = e.line;
  if (!e.entry) return error(fmt::format("there is no test named '{}'", e.name));
  return value::boolean(e.entry->run(*this, subject, args));
}

}  // namespace troupe::text::jinja

#include <fmt/format.h>

#include <algorithm>
#include <optional>

#include "src/text/jinja_eval.hpp"
#include "src/text/jinja_iter.hpp"
#include "src/text/jinja_repr.hpp"

namespace troupe::text::jinja {

/// The items of a loop that pass its `if`, tested one by one as the loop goes on: the body may change the outcome.
struct filtered_iterator : iterator {
  filtered_iterator(evaluator& e, const loop_stmt& s, std::unique_ptr<iterator> i, std::shared_ptr<scope> a)
      : run(e), stmt(s), items(std::move(i)), around(std::move(a)) {}

  bool next(runtime& rt, value& out) override {
    while (items->next(rt, out)) {
      auto names = std::make_shared<scope>(around);
      const bool good = run.within(names, [&] {
        run.assign(stmt.each, out);
        return rt.ok() && truth(run.eval(*stmt.filter));
      });
      if (!rt.ok()) return false;
      if (good) return true;
    }
    return false;
  }

  evaluator& run;
  const loop_stmt& stmt;
  std::unique_ptr<iterator> items;
  std::shared_ptr<scope> around;
};

result<std::string> evaluator::render() {
  std::string out;
  out_ = &out;
  for (const auto& [symbol, v] : tree_.unset) globals_[symbol] = {true, v};
  exec(tree_.body);
  if (!ok()) return take_failure();
  return out;
}

void evaluator::bind(std::uint32_t symbol, value v) {
  if (!scope_) {
    globals_[symbol] = {true, std::move(v)};
    return;
  }
  for (auto& [name, old] : scope_->names) {
    if (name == symbol) {
      old = std::move(v);
      return;
    }
  }
  scope_->names.emplace_back(symbol, std::move(v));
}

/// Namespaces are looked at before the value is made, as Jinja does.
bool evaluator::assignable(const target& to) {
  if (to.what == target::form::attribute && !look_up(to.symbol).is(kind::space)) {
    error("cannot assign attribute on non-namespace object");
  }
  for (const target& t : to.items) assignable(t);
  return ok();
}

void evaluator::assign_attribute(const target& to, const value& v) {
  const value space = look_up(to.symbol);
  if (!space.is(kind::space)) {
    error("cannot assign attribute on non-namespace object");
  } else if (to.attribute[0] == '_') {
    error(fmt::format("a namespace takes no name with an underscore in front ('{}')", to.attribute));
  } else if (spend(sizeof(value))) {
    space.mut<space_object>().attributes.set(text(to.attribute), v);
  }
}

void evaluator::assign(const target& to, const value& v) {
  if (!ok()) return;
  if (to.what == target::form::name) return bind(to.symbol, v);
  if (to.what == target::form::attribute) return assign_attribute(to, v);
  const std::vector<value> parts = collect(*this, v);
  if (!ok()) return;
  if (parts.size() != to.items.size()) {
    error(fmt::format("{} values to unpack, expected {}", parts.size(), to.items.size()));
    return;
  }
  for (std::size_t i = 0; i < parts.size(); ++i) assign(to.items[i], parts[i]);
}

void evaluator::write(std::string_view s) {
  if (!scan(s.size())) return;
  if (out_->size() + s.size() > bounds().output_bytes) {
    exceeded("output_bytes", bounds().output_bytes);
    return;
  }
  out_->append(s);
}

void evaluator::write(const value& v) {
  if (v.is_string()) {
    write(v.text());
  } else if (ok() && !v.is_undefined()) {
    write(to_text(*this, v));
  }
}

evaluator::flow evaluator::exec(const block& b) {
  runtime::level level(*this);
  for (const auto& s : b) {
    if (!step()) break;
    const flow f = exec_one(*s);
    if (f != flow::on) return f;
  }
  return flow::on;
}

evaluator::flow evaluator::exec_one(const stmt& s) {
  line = s.line;
  switch (s.what) {
    case stmt_kind::data:
      write(static_cast<const data_stmt&>(s).text);
      break;
    case stmt_kind::print:
      write(eval(*static_cast<const print_stmt&>(s).shown));
      break;
    case stmt_kind::branch:
      return exec_branch(static_cast<const branch_stmt&>(s));
    case stmt_kind::loop: {
      const auto& l = static_cast<const loop_stmt&>(s);
      return exec_loop(l, eval(*l.over), 0);
    }
    case stmt_kind::set:
      exec_set(static_cast<const set_stmt&>(s));
      break;
    case stmt_kind::set_block:
      return exec_set_block(static_cast<const set_block_stmt&>(s));
    case stmt_kind::macro: {
      const auto& m = static_cast<const macro_stmt&>(s);
      bind(m.symbol, make_macro(m));
      break;
    }
    case stmt_kind::call_block:
      exec_call_block(static_cast<const call_block_stmt&>(s));
      break;
    case stmt_kind::filter_block:
      return exec_filter_block(static_cast<const filter_block_stmt&>(s));
    case stmt_kind::with:
      return exec_with(static_cast<const with_stmt&>(s));
    case stmt_kind::scoped: {
      const auto& body = static_cast<const scoped_stmt&>(s);
      return within(std::make_shared<scope>(scope_, body.unset), [&] { return exec(body.body); });
    }
    case stmt_kind::leave:
      return static_cast<const leave_stmt&>(s).is_break ? flow::leave_loop : flow::next_item;
  }
  return flow::on;
}

evaluator::flow evaluator::exec_branch(const branch_stmt& s) {
  for (const auto& [test, then] : s.cases) {
    const bool yes = truth(eval(*test));
    if (!ok()) return flow::on;
    if (yes) return exec(then);
  }
  return exec(s.otherwise);
}

evaluator::flow evaluator::exec_loop(const loop_stmt& s, const value& over, std::int64_t depth) {
  if (!ok()) return flow::on;
  auto items = iterate(*this, over);
  if (!items || !spend(512)) return flow::on;
  auto loop = std::make_shared<loop_object>();
  struct finish {
    loop_object& l;
    ~finish() { l.finish(); }
  } at_the_end{*loop};
  loop->depth0 = depth;
  loop->source = s.filter ? value::none() : over;
  if (s.filter) items = std::make_unique<filtered_iterator>(*this, s, std::move(items), scope_);
  loop->items = std::move(items);
  const std::shared_ptr<scope> around = scope_;
  if (s.recursive) {
    loop->recurse = [this, &s, around, depth](value more) {
      return repeat_loop(s, around, std::move(more), depth + 1);
    };
  }
  const value self = value::of(kind::loop, loop);
  value item;
  bool any = false;  // a turn that went to its end: Jinja runs the else part also after a break in the first turn
  std::shared_ptr<scope> names;
  while (loop->advance(*this, item)) {
    // The names are gone after each turn; only a macro made in it can keep them.
    if (!names || names.use_count() > 1) names = std::make_shared<scope>(around);
    names->names = s.unset_in_body;
    const flow f = within(names, [&] {
      assign(s.each, item);
      bind(symbol_loop, self);
      return ok() ? exec(s.body) : flow::on;
    });
    if (!ok() || f == flow::leave_loop) break;
    any |= f == flow::on;
    line = s.line;
  }
  if (any || !ok() || s.otherwise.empty()) return flow::on;
  return within(std::make_shared<scope>(around, s.unset_in_otherwise), [&] { return exec(s.otherwise); });
}

value evaluator::repeat_loop(const loop_stmt& s, const std::shared_ptr<scope>& around, value over, std::int64_t depth) {
  std::string out = captured([&] { within(around, [&] { return exec_loop(s, over, depth); }); });
  return ok() ? text(std::move(out)) : value();
}

void evaluator::exec_set(const set_stmt& s) {
  if (!assignable(s.to)) return;
  assign(s.to, eval(*s.from));
}

evaluator::flow evaluator::exec_set_block(const set_block_stmt& s) {
  flow f = flow::on;
  const value v = within(std::make_shared<scope>(scope_, s.unset), [&] {
    std::string out = captured([&] { f = exec(s.body); });
    if (!ok() || f != flow::on) return value();
    const value written = text(std::move(out));
    if (!s.filter) return written;
    const value* before = std::exchange(block_text_, &written);
    value filtered = eval(*s.filter);
    block_text_ = before;
    return filtered;
  });
  if (ok() && f == flow::on) assign(s.to, v);
  return f;
}

evaluator::flow evaluator::exec_filter_block(const filter_block_stmt& s) {
  flow f = flow::on;
  const value v = within(std::make_shared<scope>(scope_, s.unset), [&] {
    std::string out = captured([&] { f = exec(s.body); });
    if (!ok() || f != flow::on) return value();
    const value written = text(std::move(out));
    const value* before = std::exchange(block_text_, &written);
    value filtered = eval(*s.filter);
    block_text_ = before;
    return filtered;
  });
  if (ok() && f == flow::on) write(v);
  return f;
}

evaluator::flow evaluator::exec_with(const with_stmt& s) {
  std::vector<value> values;
  for (const auto& [to, from] : s.bindings) values.push_back(eval(*from));
  if (!ok()) return flow::on;
  return within(std::make_shared<scope>(scope_, s.unset), [&] {
    for (std::size_t i = 0; i < values.size(); ++i) assign(s.bindings[i].first, values[i]);
    return ok() ? exec(s.body) : flow::on;
  });
}

value evaluator::make_macro(const macro_stmt& m) {
  if (!spend(256)) return {};
  auto o = std::make_shared<macro_object>();
  o->node = &m;
  o->closure = scope_;
  if (scope_ && (kept_.empty() || kept_.back() != scope_)) kept_.push_back(scope_);
  return value::of(kind::macro, std::move(o));
}

void evaluator::exec_call_block(const call_block_stmt& s) {
  const value caller = make_macro(s.caller);
  if (ok()) write(eval_call(static_cast<const call_expr&>(*s.call), &caller));
}

value evaluator::call_macro(const macro_object& m, call_args args) {
  const macro_stmt& node = *m.node;
  auto take_named = [&](std::string_view name) {
    std::optional<value> out;
    const auto at =
        std::find_if(args.named.begin(), args.named.end(), [&](const auto& kv) { return kv.first == name; });
    if (at != args.named.end()) {
      out = std::move(at->second);
      args.named.erase(at);
    }
    return out;
  };
  auto names = std::make_shared<scope>(m.closure, node.unset);
  std::string out = captured([&] {
    within(names, [&] {
      const std::size_t given = std::min(args.positional.size(), node.parameters.size());
      std::vector<std::optional<value>> values(node.parameters.size());
      for (std::size_t i = 0; i < values.size(); ++i) {
        values[i] = i < given ? std::optional(args.positional[i]) : take_named(node.parameters[i].name);
      }
      if (node.uses_caller) {
        auto caller = take_named("caller");
        bind(symbol_caller, caller && !caller->is_none() ? *caller : value::undefined("No caller defined"));
      }
      if (node.uses_kwargs) {
        auto d = std::make_shared<dict_object>();
        for (const auto& [k, v] : args.named) set(*d, text(k), v);
        bind(symbol_kwargs, dict(std::move(d)));
      } else if (!args.named.empty()) {
        error(fmt::format("macro '{}' takes no keyword argument '{}'", node.name, args.named.front().first));
      }
      if (node.uses_varargs) {
        bind(symbol_varargs,
             tuple({args.positional.begin() + static_cast<std::ptrdiff_t>(given), args.positional.end()}));
      } else if (args.positional.size() > given) {
        error(fmt::format("macro '{}' takes not more than {} argument(s)", node.name, node.parameters.size()));
      }
      // Defaults see the parameters before them.
      for (std::size_t i = 0; i < values.size() && ok(); ++i) {
        const parameter& p = node.parameters[i];
        if (values[i]) {
          bind(p.symbol, *values[i]);
        } else if (p.otherwise) {
          bind(p.symbol, eval(*p.otherwise));
        } else {
          bind(p.symbol, value::undefined(fmt::format("parameter '{}' was not provided", p.name)));
        }
      }
      return ok() ? exec(node.body) : flow::on;
    });
  });
  return ok() ? text(std::move(out)) : value();
}

}  // namespace troupe::text::jinja

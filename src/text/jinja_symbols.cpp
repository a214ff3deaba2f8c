#include <fmt/format.h>

#include <utility>

#include "src/text/jinja_ast.hpp"

/// Jinja decides when it compiles where a name lives (jinja2/idtracking.py). What a template sees of that, beside
/// blocks having names of their own, is one rule: a name that a block sets outside of any `if`, before the block itself
/// reads it and unknown to the blocks around, belongs to that block. Inner blocks and macros that run before it is set
/// find nothing, even if the template was given a variable of that name.
namespace troupe::text::jinja {

namespace {

class symbol_finder {
 public:
  explicit symbol_finder(const symbol_table& symbols) : symbols_(symbols), known_by_(symbols.names.size(), 0) {}

  unset_names whole(const block& body) {
    return frame([&] { statements(body, false); }, body);
  }

 private:
  /// `find` tells what the frame itself reads and sets; the frames inside of `body` come after all of that.
  template <class Find>
  unset_names frame(Find find, const block& body) {
    ++depth_;
    const std::size_t mark = undo_.size();
    unset_names outer = std::exchange(unset_, {});
    find();
    frames_in(body);
    for (; undo_.size() > mark; undo_.pop_back()) known_by_[undo_.back().first] = undo_.back().second;
    --depth_;
    return std::exchange(unset_, std::move(outer));
  }

  void add(std::uint32_t symbol) {
    undo_.emplace_back(symbol, known_by_[symbol]);
    known_by_[symbol] = depth_;
  }

  void load(std::uint32_t symbol) {
    if (known_by_[symbol] == 0) add(symbol);
  }

  void store(std::uint32_t symbol, bool in_branch) {
    if (known_by_[symbol] == depth_) return;
    const bool known_outside = known_by_[symbol] != 0;
    add(symbol);
    if (known_outside || in_branch) return;
    unset_.emplace_back(symbol, value::undefined(fmt::format("'{}' is undefined", symbols_.names[symbol])));
  }

  void parameter_of_frame(std::uint32_t symbol) {
    if (known_by_[symbol] != depth_) add(symbol);
  }

  void parameters_of_frame(const target& t) {
    if (t.what == target::form::name) parameter_of_frame(t.symbol);
    for (const target& part : t.items) parameters_of_frame(part);
  }

  void store(const target& t, bool in_branch) {
    if (t.what == target::form::name) store(t.symbol, in_branch);
    if (t.what == target::form::attribute) load(t.symbol);
    for (const target& part : t.items) store(part, in_branch);
  }

  void statements(const block& b, bool in_branch) {
    for (const auto& s : b) statement(*s, in_branch);
  }

  void statement(const stmt& s, bool in_branch) {
    switch (s.what) {
      case stmt_kind::print:
        names(static_cast<const print_stmt&>(s).shown);
        break;
      case stmt_kind::branch: {
        const auto& b = static_cast<const branch_stmt&>(s);
        for (const auto& [test, then] : b.cases) {
          names(test);
          statements(then, true);
        }
        statements(b.otherwise, true);
        break;
      }
      case stmt_kind::loop:
        names(static_cast<const loop_stmt&>(s).over);
        break;
      case stmt_kind::set:
        names(static_cast<const set_stmt&>(s).from);
        store(static_cast<const set_stmt&>(s).to, in_branch);
        break;
      case stmt_kind::set_block:
        store(static_cast<const set_block_stmt&>(s).to, in_branch);
        break;
      case stmt_kind::macro:
        store(static_cast<const macro_stmt&>(s).symbol, in_branch);
        break;
      case stmt_kind::call_block:
        names(static_cast<const call_block_stmt&>(s).call);
        break;
      case stmt_kind::filter_block:
        names(static_cast<const filter_block_stmt&>(s).filter);
        break;
      case stmt_kind::with:
        for (const auto& [to, from] : static_cast<const with_stmt&>(s).bindings) names(from);
        break;
      default:
        break;
    }
  }

  void macro(macro_stmt& m) {
    m.unset = frame(
        [&] {
          for (const parameter& p : m.parameters) parameter_of_frame(p.symbol);
          for (const parameter& p : m.parameters) names(p.otherwise);
          if (m.uses_caller) parameter_of_frame(symbol_caller);
          if (m.uses_kwargs) parameter_of_frame(symbol_kwargs);
          if (m.uses_varargs) parameter_of_frame(symbol_varargs);
          statements(m.body, false);
        },
        m.body);
  }

  void frames_in(const block& b) {
    for (const auto& s : b) {
      switch (s->what) {
        case stmt_kind::branch: {
          auto& branch = static_cast<branch_stmt&>(*s);
          for (const auto& [test, then] : branch.cases) frames_in(then);
          frames_in(branch.otherwise);
          break;
        }
        case stmt_kind::loop: {
          auto& l = static_cast<loop_stmt&>(*s);
          l.unset_in_body = frame(
              [&] {
                parameter_of_frame(symbol_loop);
                parameters_of_frame(l.each);
                statements(l.body, false);
              },
              l.body);
          l.unset_in_otherwise = frame([&] { statements(l.otherwise, false); }, l.otherwise);
          break;
        }
        case stmt_kind::set_block: {
          auto& set = static_cast<set_block_stmt&>(*s);
          set.unset = frame([&] { statements(set.body, false); }, set.body);
          break;
        }
        case stmt_kind::macro:
          macro(static_cast<macro_stmt&>(*s));
          break;
        case stmt_kind::call_block:
          macro(static_cast<call_block_stmt&>(*s).caller);
          break;
        case stmt_kind::filter_block: {
          auto& f = static_cast<filter_block_stmt&>(*s);
          f.unset = frame(
              [&] {
                statements(f.body, false);
                names(f.filter);
              },
              f.body);
          break;
        }
        case stmt_kind::with: {
          auto& w = static_cast<with_stmt&>(*s);
          w.unset = frame(
              [&] {
                for (const auto& [to, from] : w.bindings) parameters_of_frame(to);
                statements(w.body, false);
              },
              w.body);
          break;
        }
        case stmt_kind::scoped: {
          auto& g = static_cast<scoped_stmt&>(*s);
          g.unset = frame([&] { statements(g.body, false); }, g.body);
          break;
        }
        default:
          break;
      }
    }
  }

  void names(const argument_list& args) {
    for (const expr_ptr& e : args.positional) names(e);
    for (const auto& [name, e] : args.named) names(e);
    names(args.more_positional);
    names(args.more_named);
  }

  void names(const expr_ptr& p) {
    if (!p) return;
    const expr& e = *p;
    switch (e.what) {
      case expr_kind::constant:
        break;
      case expr_kind::name:
        load(static_cast<const name_expr&>(e).symbol);
        break;
      case expr_kind::unary:
        names(static_cast<const unary_expr&>(e).operand);
        break;
      case expr_kind::arithmetic:
        names(static_cast<const arithmetic_expr&>(e).left);
        names(static_cast<const arithmetic_expr&>(e).right);
        break;
      case expr_kind::concat:
        for (const expr_ptr& x : static_cast<const concat_expr&>(e).parts) names(x);
        break;
      case expr_kind::compare:
        names(static_cast<const compare_expr&>(e).first);
        for (const auto& [op, x] : static_cast<const compare_expr&>(e).rest) names(x);
        break;
      case expr_kind::logic:
        names(static_cast<const logic_expr&>(e).left);
        names(static_cast<const logic_expr&>(e).right);
        break;
      case expr_kind::condition:
        names(static_cast<const condition_expr&>(e).test);
        names(static_cast<const condition_expr&>(e).then);
        names(static_cast<const condition_expr&>(e).otherwise);
        break;
      case expr_kind::sequence:
        for (const expr_ptr& x : static_cast<const sequence_expr&>(e).items) names(x);
        break;
      case expr_kind::dict:
        for (const auto& [k, v] : static_cast<const dict_expr&>(e).items) {
          names(k);
          names(v);
        }
        break;
      case expr_kind::attribute:
        names(static_cast<const attribute_expr&>(e).of);
        break;
      case expr_kind::item:
        names(static_cast<const item_expr&>(e).of);
        names(static_cast<const item_expr&>(e).index);
        break;
      case expr_kind::slice:
        names(static_cast<const slice_expr&>(e).of);
        names(static_cast<const slice_expr&>(e).start);
        names(static_cast<const slice_expr&>(e).stop);
        names(static_cast<const slice_expr&>(e).step);
        break;
      case expr_kind::call:
        names(static_cast<const call_expr&>(e).callee);
        names(static_cast<const call_expr&>(e).arguments);
        break;
      case expr_kind::filter:
        names(static_cast<const filter_expr&>(e).subject);
        names(static_cast<const filter_expr&>(e).arguments);
        break;
      case expr_kind::test:
        names(static_cast<const test_expr&>(e).subject);
        names(static_cast<const test_expr&>(e).arguments);
        break;
    }
  }

  const symbol_table& symbols_;
  std::vector<std::uint32_t> known_by_;  // by symbol: the depth of the innermost frame that knows it, 0 for none
  std::vector<std::pair<std::uint32_t, std::uint32_t>> undo_;
  std::uint32_t depth_ = 0;
  unset_names unset_;
};

}  // namespace

void find_unset_names(syntax_tree& tree) { tree.unset = symbol_finder(tree.symbols).whole(tree.body); }

}  // namespace troupe::text::jinja

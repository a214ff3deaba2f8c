#pragma once
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include "src/text/jinja_lexer.hpp"
#include "src/text/jinja_value.hpp"

/// The syntax tree of a template. Immutable once parsed, so any number of threads may walk it.
namespace troupe::text::jinja {

struct filter_entry;
struct test_entry;

enum class expr_kind : std::uint8_t {
  constant,
  name,
  unary,
  arithmetic,
  concat,
  compare,
  logic,
  condition,
  sequence,
  dict,
  attribute,
  item,
  slice,
  call,
  filter,
  test,
};

struct expr {
  expr(expr_kind k, std::uint32_t l) : what(k), line(l) {}
  virtual ~expr() = default;
  expr_kind what;
  std::uint32_t line;
  std::uint32_t depth = 1;  ///< of this tree; the parser limits it, because evaluation recurses
};
using expr_ptr = std::unique_ptr<expr>;

struct constant_expr : expr {
  constant_expr(std::uint32_t l, value x) : expr(expr_kind::constant, l), v(std::move(x)) {}
  value v;
};

struct name_expr : expr {
  name_expr(std::uint32_t l, std::uint32_t s) : expr(expr_kind::name, l), symbol(s) {}
  std::uint32_t symbol;
};

enum class unary_op : std::uint8_t { minus, plus, invert };
struct unary_expr : expr {
  unary_expr(std::uint32_t l, unary_op o, expr_ptr e) : expr(expr_kind::unary, l), op(o), operand(std::move(e)) {}
  unary_op op;
  expr_ptr operand;
};

enum class binary_op : std::uint8_t { add, subtract, multiply, divide, floor_divide, modulo, power };
struct arithmetic_expr : expr {
  arithmetic_expr(std::uint32_t l, binary_op o, expr_ptr a, expr_ptr b)
      : expr(expr_kind::arithmetic, l), op(o), left(std::move(a)), right(std::move(b)) {}
  binary_op op;
  expr_ptr left, right;
};

struct concat_expr : expr {
  explicit concat_expr(std::uint32_t l) : expr(expr_kind::concat, l) {}
  std::vector<expr_ptr> parts;
};

enum class compare_op : std::uint8_t { eq, ne, lt, le, gt, ge, in, not_in };
struct compare_expr : expr {
  explicit compare_expr(std::uint32_t l) : expr(expr_kind::compare, l) {}
  expr_ptr first;
  std::vector<std::pair<compare_op, expr_ptr>> rest;
};

struct logic_expr : expr {
  logic_expr(std::uint32_t l, bool a, expr_ptr x, expr_ptr y)
      : expr(expr_kind::logic, l), is_and(a), left(std::move(x)), right(std::move(y)) {}
  bool is_and;
  expr_ptr left, right;
};

struct condition_expr : expr {
  explicit condition_expr(std::uint32_t l) : expr(expr_kind::condition, l) {}
  expr_ptr test, then, otherwise;  ///< otherwise may be absent: undefined
};

struct sequence_expr : expr {
  sequence_expr(std::uint32_t l, bool list) : expr(expr_kind::sequence, l), is_list(list) {}
  bool is_list;
  std::vector<expr_ptr> items;
};

struct dict_expr : expr {
  explicit dict_expr(std::uint32_t l) : expr(expr_kind::dict, l) {}
  std::vector<std::pair<expr_ptr, expr_ptr>> items;
};

struct attribute_expr : expr {
  attribute_expr(std::uint32_t l, expr_ptr o, std::string n)
      : expr(expr_kind::attribute, l), of(std::move(o)), name(std::move(n)) {}
  expr_ptr of;
  std::string name;
};

struct item_expr : expr {
  item_expr(std::uint32_t l, expr_ptr o, expr_ptr i)
      : expr(expr_kind::item, l), of(std::move(o)), index(std::move(i)) {}
  expr_ptr of, index;
};

struct slice_expr : expr {
  explicit slice_expr(std::uint32_t l) : expr(expr_kind::slice, l) {}
  expr_ptr of, start, stop, step;  ///< the last three may be absent
};

struct argument_list {
  std::vector<expr_ptr> positional;
  std::vector<std::pair<std::string, expr_ptr>> named;
  expr_ptr more_positional, more_named;  ///< *args and **kwargs
};

struct call_expr : expr {
  explicit call_expr(std::uint32_t l) : expr(expr_kind::call, l) {}
  expr_ptr callee;
  argument_list arguments;
};

struct filter_expr : expr {
  explicit filter_expr(std::uint32_t l) : expr(expr_kind::filter, l) {}
  expr_ptr subject;  ///< absent in filter blocks: the text of the block
  std::string name;
  const filter_entry* entry = nullptr;  ///< absent if unknown: fails when it is reached
  argument_list arguments;
};

struct test_expr : expr {
  explicit test_expr(std::uint32_t l) : expr(expr_kind::test, l) {}
  expr_ptr subject;
  std::string name;
  const test_entry* entry = nullptr;
  argument_list arguments;
};

/// Names that a block sets before it reads them, and that no block around it knows: while the block runs they hide
/// variables of the same name from the start, even before they are set (see jinja_symbols.cpp).
using unset_names = std::vector<std::pair<std::uint32_t, value>>;

/// What can stand left of `=`: a name, a namespace's attribute, or several.
struct target {
  enum class form : std::uint8_t { name, attribute, tuple } what = form::name;
  std::uint32_t symbol = 0;
  std::string attribute;
  std::vector<target> items;
};

enum class stmt_kind : std::uint8_t {
  data,
  print,
  branch,
  loop,
  set,
  set_block,
  macro,
  call_block,
  filter_block,
  with,
  scoped,
  leave,
};

struct stmt {
  stmt(stmt_kind k, std::uint32_t l) : what(k), line(l) {}
  virtual ~stmt() = default;
  stmt_kind what;
  std::uint32_t line;
};
using block = std::vector<std::unique_ptr<stmt>>;

struct data_stmt : stmt {
  data_stmt(std::uint32_t l, std::string t) : stmt(stmt_kind::data, l), text(std::move(t)) {}
  std::string text;
};

struct print_stmt : stmt {
  print_stmt(std::uint32_t l, expr_ptr e) : stmt(stmt_kind::print, l), shown(std::move(e)) {}
  expr_ptr shown;
};

struct branch_stmt : stmt {
  explicit branch_stmt(std::uint32_t l) : stmt(stmt_kind::branch, l) {}
  std::vector<std::pair<expr_ptr, block>> cases;
  block otherwise;
};

struct loop_stmt : stmt {
  explicit loop_stmt(std::uint32_t l) : stmt(stmt_kind::loop, l) {}
  target each;
  expr_ptr over, filter;  ///< filter may be absent
  bool recursive = false;
  block body, otherwise;
  unset_names unset_in_body, unset_in_otherwise;
};

struct set_stmt : stmt {
  explicit set_stmt(std::uint32_t l) : stmt(stmt_kind::set, l) {}
  target to;
  expr_ptr from;
};

struct set_block_stmt : stmt {
  explicit set_block_stmt(std::uint32_t l) : stmt(stmt_kind::set_block, l) {}
  target to;
  expr_ptr filter;  ///< may be absent; its innermost subject is the text of the block
  block body;
  unset_names unset;
};

struct parameter {
  std::string name;
  std::uint32_t symbol = 0;
  expr_ptr otherwise;  ///< default value, may be absent
};

/// A macro, or the body of a call block (without a name).
struct macro_stmt : stmt {
  explicit macro_stmt(std::uint32_t l) : stmt(stmt_kind::macro, l) {}
  std::string name;
  std::uint32_t symbol = 0;
  std::vector<parameter> parameters;
  block body;
  unset_names unset;
  bool uses_caller = false, uses_kwargs = false, uses_varargs = false;
};

struct call_block_stmt : stmt {
  explicit call_block_stmt(std::uint32_t l) : stmt(stmt_kind::call_block, l), caller(l) {}
  macro_stmt caller;
  expr_ptr call;
};

struct filter_block_stmt : stmt {
  explicit filter_block_stmt(std::uint32_t l) : stmt(stmt_kind::filter_block, l) {}
  expr_ptr filter;
  block body;
  unset_names unset;
};

struct with_stmt : stmt {
  explicit with_stmt(std::uint32_t l) : stmt(stmt_kind::with, l) {}
  std::vector<std::pair<target, expr_ptr>> bindings;
  block body;
  unset_names unset;
};

/// A body with names of its own: {% generation %}.
struct scoped_stmt : stmt {
  explicit scoped_stmt(std::uint32_t l) : stmt(stmt_kind::scoped, l) {}
  block body;
  unset_names unset;
};

/// break or continue.
struct leave_stmt : stmt {
  leave_stmt(std::uint32_t l, bool b) : stmt(stmt_kind::leave, l), is_break(b) {}
  bool is_break;
};

/// Names get numbers, so that scopes compare numbers.
struct symbol_table {
  std::vector<std::string> names;
  std::unordered_map<std::string, std::uint32_t> numbers;
  std::uint32_t intern(const std::string& name);
};

/// The symbols that the evaluator itself binds; interned first, in this order.
enum special_symbol : std::uint32_t { symbol_loop, symbol_caller, symbol_kwargs, symbol_varargs, special_symbols };

struct syntax_tree {
  symbol_table symbols;
  block body;
  unset_names unset;
};

/// Fills in the unset names of a tree.
void find_unset_names(syntax_tree& tree);

result<syntax_tree> parse(std::string_view source, const options& how);

}  // namespace troupe::text::jinja

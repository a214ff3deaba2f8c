// What the coroutine rules of ARCHITECTURE.md rest on, one small coroutine per pattern, each counting how often its
// objects are made and destroyed. "allowed" patterns must be right with every compiler we build with. "forbidden" ones
// are right with clang 19; g++ 12 destroys some of their temporaries twice, crashes on some and does not compile one,
// which is why a line with co_await holds names only, and no message is an aggregate with a destructor. A compiler that
// gets all of them right may retire rules.
#include <sys/wait.h>
#include <unistd.h>

#include <asio/awaitable.hpp>
#include <asio/bind_cancellation_slot.hpp>
#include <asio/co_spawn.hpp>
#include <asio/io_context.hpp>
#include <asio/post.hpp>
#include <asio/redirect_error.hpp>
#include <asio/steady_timer.hpp>
#include <asio/this_coro.hpp>
#include <asio/use_awaitable.hpp>
#include <boost/test/unit_test.hpp>
#include <csignal>
#include <memory>
#include <optional>
#include <stdexcept>
#include <variant>
#include <vector>

namespace {

/// Counts itself. Owns nothing, so that a second destruction is counted and harms nothing.
struct counted {
  static inline int made = 0, gone = 0;
  static inline bool stale = false;  // somebody used one that was gone

  explicit counted(int v = 0) : value(v) { ++made; }
  counted(const counted& o) : value(o.read()) { ++made; }
  counted(counted&& o) noexcept : value(o.read()) { ++made; }
  counted& operator=(const counted&) = default;
  ~counted() {
    ++gone;
    value = -1;
  }
  int read() const {
    if (value == -1) stale = true;
    return value;
  }
  int value;
};

struct message {  // has a constructor, as every message must
  explicit message(counted c, int n) : body(std::move(c)), number(n) {}
  counted body;
  int number;
};
struct bare {  // an aggregate that is not trivially destructible: no message may be one
  counted body;
  int number;
};
using either = std::variant<message, int>;

using routine = asio::awaitable<void>;

asio::awaitable<void> hop() {
  auto executor = co_await asio::this_coro::executor;
  co_await asio::post(executor, asio::use_awaitable);
}

template <class T>
asio::awaitable<int> take(T value) {
  auto wait = hop();
  co_await std::move(wait);
  if constexpr (requires { value.read(); })
    co_return value.read();
  else if constexpr (requires { value.body; })
    co_return value.body.read() + value.number;
  else if constexpr (requires { value(); })
    co_return value();
  else if constexpr (requires { value->read(); })
    co_return value->read();
  else
    co_return static_cast<int>(value.size());
}

asio::awaitable<counted> make(int v) {
  auto wait = hop();
  co_await std::move(wait);
  co_return counted(v);
}

asio::awaitable<int> fail(counted c) {
  auto wait = hop();
  co_await std::move(wait);
  throw std::runtime_error(std::to_string(c.read()));
}

// ---- allowed ----------------------------------------------------------------------------------------------------

routine named_argument(int* out) {
  counted c(1);
  auto call = take(std::move(c));
  *out = co_await std::move(call);
}

routine named_argument_in_the_line(int* out) {
  counted c(1);
  *out = co_await take(std::move(c));
}

routine named_message(int* out) {
  message m(counted(1), 2);
  auto call = take(std::move(m));
  *out = co_await std::move(call);
}

routine move_only_argument(int* out) {
  auto p = std::make_unique<counted>(3);
  auto call = take(std::move(p));
  *out = co_await std::move(call);
}

routine named_closure(int* out) {  // a capturing lambda is fine as long as it is no coroutine and has a name
  counted c(4);
  auto f = [c = std::move(c)] { return c.read(); };
  auto call = take(std::move(f));
  *out = co_await std::move(call);
}

routine result_with_a_name(int* out) {
  auto call = make(5);
  counted c = co_await std::move(call);
  auto wait = hop();
  co_await std::move(wait);
  *out = c.read();
}

routine answer_before_the_condition(int* out) {
  for (;;) {
    auto call = make(6);
    const counted c = co_await std::move(call);
    if (c.read() == 6) {
      *out = 6;
      break;
    }
  }
}

routine locals_across_a_suspension(int* out) {
  std::vector<counted> many;
  for (int i = 0; i < 5; ++i) many.emplace_back(1);
  std::optional<counted> maybe(counted(2));
  for (const counted& c : many) {
    auto wait = hop();
    co_await std::move(wait);
    *out += c.read();
  }
  *out += maybe->read();
}

routine variant_after_a_suspension(int* out) {
  either m = message(counted(1), 7);
  auto wait = hop();
  co_await std::move(wait);
  const either got = std::move(m);
  *out = std::visit(
      [](const auto& x) {
        if constexpr (requires { x.body; })
          return x.body.read() + x.number;
        else
          return x;
      },
      got);
}

routine exception_from_below(int* out) {
  counted local(1);
  std::string what;
  try {
    counted c(9);
    auto call = fail(std::move(c));
    *out = co_await std::move(call);
  } catch (const std::exception& e) {
    what = e.what();
  }
  auto wait = hop();  // no co_await inside a handler
  co_await std::move(wait);
  *out = what == "9" ? local.read() : -2;
}

routine error_code_with_a_name(int* out) {
  counted local(1);
  auto executor = co_await asio::this_coro::executor;
  asio::steady_timer timer(executor, std::chrono::steady_clock::now());
  std::error_code error;
  auto token = asio::redirect_error(asio::use_awaitable, error);
  co_await timer.async_wait(token);
  *out = error ? -2 : local.read();
}

routine lambda_without_captures(int* out) {
  auto f = [](counted c) -> asio::awaitable<int> {
    auto wait = hop();
    co_await std::move(wait);
    co_return c.read();
  };
  counted c(8);
  auto call = f(std::move(c));
  *out = co_await std::move(call);
}

routine never_awaited(int* out) {
  {
    counted c(1);
    auto call = take(std::move(c));
  }
  *out = 1;
  co_return;
}

class session : public std::enable_shared_from_this<session> {
 public:
  explicit session(int* out) : out_(out) {}
  asio::awaitable<void> run(std::shared_ptr<session> self) {  // holds itself by value
    auto wait = hop();
    co_await std::move(wait);
    *out_ = state_.read();
    self.reset();
  }

 private:
  int* out_;
  counted state_{11};
};

routine member_that_holds_itself(int* out) {
  auto s = std::make_shared<session>(out);
  auto call = s->run(s);
  s.reset();
  co_await std::move(call);
}

// ---- forbidden ----------------------------------------------------------------------------------------------------

routine aggregate_in_the_line(int* out) { *out = co_await take(bare{counted(1), 2}); }
routine temporary_message_in_the_line(int* out) { *out = co_await take(message(counted(1), 2)); }
routine closure_in_the_line(int* out) {
  counted c(4);
  *out = co_await take([c] { return c.read(); });
}
#ifdef __clang__  // g++ 12 does not even compile it
routine list_in_the_line(int* out) { *out = co_await take(std::vector<counted>{counted(1), counted(2)}); }
#endif
routine ternary_in_the_line(int* out) {
  const bool first = *out == 0;
  *out = co_await (first ? take(counted(1)) : take(counted(2)));
}
routine ternary_as_argument(int* out) {
  const bool first = *out == 0;
  *out = co_await take(first ? counted(1) : counted(2));
}
routine condition(int* out) {
  if ((co_await take(bare{counted(1), 2})) == 3) *out = 3;
}
routine loop_condition(int* out) {
  while ((co_await take(bare{counted(*out), 0})) < 3) ++*out;
}
routine variant_in_the_line(int* out) {
  auto pick = [](either e) -> asio::awaitable<int> {
    auto wait = hop();
    co_await std::move(wait);
    co_return static_cast<int>(e.index());
  };
  *out = 1 + co_await pick(either{message{counted(1), 2}});
}

// ---- running them -------------------------------------------------------------------------------------------------

using pattern = routine (*)(int*);

struct named_pattern {
  const char* name;
  pattern start;
  int expected;
};

#define PATTERN(f, expected) \
  named_pattern { #f, &f, expected }
const named_pattern allowed[] = {
    PATTERN(named_argument, 1),
    PATTERN(named_argument_in_the_line, 1),
    PATTERN(named_message, 3),
    PATTERN(move_only_argument, 3),
    PATTERN(named_closure, 4),
    PATTERN(result_with_a_name, 5),
    PATTERN(answer_before_the_condition, 6),
    PATTERN(locals_across_a_suspension, 7),
    PATTERN(variant_after_a_suspension, 8),
    PATTERN(exception_from_below, 1),
    PATTERN(error_code_with_a_name, 1),
    PATTERN(lambda_without_captures, 8),
    PATTERN(never_awaited, 1),
    PATTERN(member_that_holds_itself, 11),
};
const named_pattern forbidden[] = {
#ifdef __clang__
    PATTERN(list_in_the_line, 2),
#endif
    PATTERN(aggregate_in_the_line, 3), PATTERN(temporary_message_in_the_line, 3), PATTERN(closure_in_the_line, 4),
    PATTERN(ternary_in_the_line, 1),   PATTERN(ternary_as_argument, 1),           PATTERN(condition, 3),
    PATTERN(loop_condition, 3),        PATTERN(variant_in_the_line, 1),
};

void reset() {
  counted::made = counted::gone = 0;
  counted::stale = false;
}

struct verdict {
  int out = 0;
  bool threw = false;
  int lives = 0;  // made minus destroyed: 0 is right
  bool stale = false;
  bool right(const named_pattern& p) const { return out == p.expected && !threw && lives == 0 && !stale; }
};

verdict run(const named_pattern& p) {
  reset();
  verdict v;
  {
    asio::io_context context(1);
    asio::co_spawn(context, p.start(&v.out), [&](std::exception_ptr e) { v.threw = e != nullptr; });
    context.run();
  }
  v.lives = counted::made - counted::gone;
  v.stale = counted::stale;
  return v;
}

/// Destroyed at every suspension point in turn: the locals go exactly once.
int destroyed_on_the_way(const named_pattern& p) {
  int wrong = 0;
  for (int steps = 0; steps < 12; ++steps) {
    reset();
    int out = 0;
    {
      asio::io_context context(1);
      asio::co_spawn(context, p.start(&out), [](std::exception_ptr) {});
      for (int i = 0; i < steps; ++i) context.poll_one();
    }
    wrong += counted::made != counted::gone || counted::stale;
  }
  return wrong;
}

/// In a process of its own, because a wrong one may crash.
const char* right_in_a_child(const named_pattern& p) {
  const pid_t child = fork();
  if (child == 0) {
    for (const int signal : {SIGSEGV, SIGABRT, SIGBUS, SIGILL}) std::signal(signal, SIG_DFL);
    _exit(run(p).right(p) && destroyed_on_the_way(p) == 0 ? 0 : 1);
  }
  int status = 0;
  if (child < 0 || waitpid(child, &status, 0) != child) return "not run";
  return !WIFEXITED(status) ? "crashes" : WEXITSTATUS(status) == 0 ? "right" : "wrong";
}

}  // namespace

BOOST_AUTO_TEST_CASE(allowed_coroutine_patterns_are_right) {
  for (const named_pattern& p : allowed) {
    BOOST_TEST_CONTEXT(p.name) {
      const verdict v = run(p);
      BOOST_TEST(v.out == p.expected);
      BOOST_TEST(!v.threw);
      BOOST_TEST(v.lives == 0);
      BOOST_TEST(!v.stale);
      BOOST_TEST(destroyed_on_the_way(p) == 0);
    }
  }
}

BOOST_AUTO_TEST_CASE(forbidden_coroutine_patterns_are_right_with_clang_only) {
  for (const named_pattern& p : forbidden) {
    const char* found = right_in_a_child(p);
#ifdef __clang__
    BOOST_TEST_CONTEXT(p.name) { BOOST_TEST(found == std::string("right")); }
#else
    BOOST_TEST(found != std::string("not run"));
    BOOST_TEST_MESSAGE(p.name << ": " << found);
#endif
  }
}

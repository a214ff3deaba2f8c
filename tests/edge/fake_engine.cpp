#include "tests/edge/fake_engine.hpp"

#include <condition_variable>
#include <deque>
#include <map>
#include <sstream>
#include <thread>

namespace troupe {

using clock = std::chrono::steady_clock;

namespace {

errc code_named(const std::string& name) {
  for (int v = 1; v <= static_cast<int>(errc::internal); ++v) {
    std::string text = make_error_code(static_cast<errc>(v)).message();
    for (char& c : text)
      if (c == ' ') c = '_';
    if (text == name) return static_cast<errc>(v);
  }
  return errc::internal;
}

std::string text_of(const request& r) {
  if (auto* t = std::get_if<text_prompt>(&r.prompt)) return t->text;
  if (auto* c = std::get_if<chat_prompt>(&r.prompt)) return c->messages.back().content;
  return "say ids";
}

struct script {
  std::string verb;
  std::vector<std::string> words;
  std::uint32_t number(std::size_t i, std::uint32_t otherwise = 0) const {
    return i < words.size() ? static_cast<std::uint32_t>(std::stoul(words[i])) : otherwise;
  }
};

script parse(const std::string& text) {
  std::istringstream in(text);
  script s;
  in >> s.verb;
  for (std::string w; in >> w;) s.words.push_back(w);
  return s;
}

struct stream {
  script what;
  std::string echoed;
  std::shared_ptr<stream_sink> sink;
  std::uint32_t at = 0;
  std::int64_t credit = 0;
  bool cancelled = false;
  clock::time_point due;
};

struct event {
  stream_id id = 0;
  std::shared_ptr<stream_sink> sink;
  std::optional<troupe::piece> piece;
  std::optional<completion> end;
};

}  // namespace

struct port_state {
  std::map<stream_id, stream> streams;
  std::deque<event> events;
  port_waker waker;
  bool woken = false;
  stream_id last = 0;
};

class engine::impl {
 public:
  explicit impl(std::uint32_t credit) : credit_(credit), thread_([this] { run(); }) {
    info.name = "fake";
    info.max_model_len = 2048;
    info.sampling.temperature = 0.75f;
    control.status.ready = true;
  }
  ~impl() {
    {
      std::lock_guard lock(control.mutex);
      stop_ = true;
    }
    changed.notify_all();
    thread_.join();
  }

  void run() {
    std::unique_lock lock(control.mutex);
    while (!stop_) {
      auto next = clock::now() + std::chrono::milliseconds(100);
      for (port_state* p : ports) {
        for (auto it = p->streams.begin(); it != p->streams.end();) {
          const bool over = step(*p, it->first, it->second, next);
          it = over ? p->streams.erase(it) : std::next(it);
        }
        if (!p->events.empty() && !p->woken) {
          p->woken = true;
          p->waker.wake(p->waker.context);
        }
      }
      changed.wait_until(lock, next);
    }
  }

  // True: the stream is over.
  bool step(port_state& p, stream_id id, stream& s, clock::time_point& next) {
    if (s.cancelled) return end(p, id, s, finish_reason::cancelled, errc::cancelled);
    const auto now = clock::now();
    while (s.due <= now) {
      const auto& verb = s.what.verb;
      if (verb == "hang" || verb == "limit") return false;
      if (verb == "fail") return end(p, id, s, finish_reason::error, code_named(s.what.words.at(0)));
      if (verb == "late") {
        if (s.at++ == 0) {
          s.due = now + std::chrono::milliseconds(s.what.number(0));
          continue;
        }
        piece_of(p, id, s, "at last");
        return end(p, id, s, finish_reason::stop);
      }
      const bool says = verb == "say";
      const std::uint32_t n = says ? static_cast<std::uint32_t>(s.what.words.size()) : verb == "echo" || verb == "stopped" ? 1 : s.what.number(0);
      if (s.at == n) {
        if (verb == "break") return end(p, id, s, finish_reason::error, errc::rank_failed);
        return end(p, id, s, verb == "count" || verb == "tick" ? finish_reason::length : finish_reason::stop);
      }
      if (s.credit <= 0) return false;
      if (says) piece_of(p, id, s, s.what.words[s.at] + ' ');
      else if (verb == "echo") piece_of(p, id, s, s.echoed);
      else if (verb == "flood") piece_of(p, id, s, std::string(s.what.number(1), 'x'));
      else piece_of(p, id, s, verb == "dumb" ? std::string() : std::to_string(s.at) + ' ');
      ++s.at;
      if (verb == "tick") s.due = now + std::chrono::milliseconds(s.what.number(1));
    }
    next = std::min(next, s.due);
    return false;
  }

  void piece_of(port_state& p, stream_id id, stream& s, std::string text) {
    --s.credit;
    ++control.counted.pieces;
    p.events.push_back({id, s.sink, piece{std::move(text), {1}}, {}});
  }

  bool end(port_state& p, stream_id id, stream& s, finish_reason reason, std::optional<errc> code = {}) {
    completion c;
    c.reason = reason;
    if (code) c.error = *code, c.message = "the script says " + c.error.message();
    if (s.what.verb == "stopped") c.stop_match = "END";
    c.usage = {.prompt_tokens = 5, .completion_tokens = s.at, .cached_tokens = 2};
    ++control.counted.ended;
    --control.counted.open;
    if (reason == finish_reason::cancelled) ++control.counted.cancelled;
    p.events.push_back({id, s.sink, {}, std::move(c)});
    return true;
  }

  model_info info;
  fake::control control;
  std::condition_variable changed;
  std::vector<port_state*> ports;
  std::uint32_t credit_;

 private:
  bool stop_ = false;
  std::thread thread_;
};

class port::impl : public port_state {
 public:
  std::shared_ptr<engine::impl> eng;
};

stream_sink::~stream_sink() = default;

port::port(std::unique_ptr<impl> i) : impl_(std::move(i)) {}
port::~port() {
  auto& e = *impl_->eng;
  std::lock_guard lock(e.control.mutex);
  e.control.counted.open -= impl_->streams.size();
  e.control.counted.cancelled += impl_->streams.size();
  std::erase(e.ports, impl_.get());
}

submitted port::submit(request r, std::shared_ptr<stream_sink> sink) {
  auto& e = *impl_->eng;
  std::lock_guard lock(e.control.mutex);
  stream s;
  s.what = parse(text_of(r));
  if (s.what.verb == "refuse") return {0, code_named(s.what.words.at(0)), "refused by the script"};
  if (s.what.verb == "limit" && e.control.counted.open >= s.what.number(0)) return {0, errc::overloaded, "full"};
  const auto& p = r.sampling;
  std::ostringstream echo;
  echo << "id=" << r.id << " t=" << p.temperature << " choice=" << p.choice << " max=" << (r.max_tokens ? static_cast<int>(*r.max_tokens) : -1)
       << " deadline=" << r.deadline.has_value();
  s.echoed = echo.str();
  s.sink = std::move(sink);
  s.credit = e.credit_;
  s.due = clock::now();
  e.control.last = std::move(r);
  ++e.control.counted.submitted;
  ++e.control.counted.open;
  impl_->streams.emplace(++impl_->last, std::move(s));
  e.changed.notify_all();
  return {impl_->last, {}, {}};
}

void port::cancel(stream_id id) {
  std::lock_guard lock(impl_->eng->control.mutex);
  if (auto it = impl_->streams.find(id); it != impl_->streams.end()) it->second.cancelled = true;
  impl_->eng->changed.notify_all();
}

void port::consumed(stream_id id, std::uint32_t n) {
  std::lock_guard lock(impl_->eng->control.mutex);
  if (auto it = impl_->streams.find(id); it != impl_->streams.end()) it->second.credit += n;
  impl_->eng->changed.notify_all();
}

std::size_t port::poll() {
  std::deque<event> events;
  {
    std::lock_guard lock(impl_->eng->control.mutex);
    impl_->woken = false;
    events.swap(impl_->events);
  }
  for (auto& e : events) {
    if (e.piece) e.sink->on_piece(std::move(*e.piece));
    if (e.end) e.sink->on_end(std::move(*e.end));
  }
  return events.size();
}

std::size_t port::open_streams() const noexcept {
  std::lock_guard lock(impl_->eng->control.mutex);
  return impl_->streams.size();
}

engine::engine(std::shared_ptr<impl> i) : impl_(std::move(i)) {}
engine::engine(engine&&) noexcept = default;
engine& engine::operator=(engine&&) noexcept = default;
engine::~engine() = default;
engine engine::open(engine_options o) { return engine(std::make_shared<impl>(o.stream_buffer)); }
const model_info& engine::info() const noexcept { return impl_->info; }
engine_status engine::status() const {
  std::lock_guard lock(impl_->control.mutex);
  return impl_->control.status;
}
std::unique_ptr<port> engine::open_port(port_waker w) {
  auto i = std::make_unique<port::impl>();
  i->eng = impl_;
  i->waker = w;
  std::lock_guard lock(impl_->control.mutex);
  impl_->ports.push_back(i.get());
  return std::unique_ptr<port>(new port(std::move(i)));
}
std::vector<std::int32_t> engine::tokenize(std::string_view text, bool add_special, bool) const {
  std::vector<std::int32_t> out;
  if (add_special) out.push_back(1);
  for (unsigned char c : text) {
    if (c == '!') throw error(errc::invalid_argument, "no exclamation marks: calm down");
    out.push_back(c);
  }
  return out;
}
std::string engine::detokenize(const std::vector<std::int32_t>& tokens, bool) const {
  std::string out;
  for (auto t : tokens) out += static_cast<char>(t);
  return out;
}
std::string engine::apply_template(const chat_prompt& p) const {
  std::string out;
  for (auto& m : p.messages) out += '<' + m.role + '>' + m.content;
  return out;
}
std::string engine::metrics() const { return "# TYPE vllm:num_requests_running gauge\nvllm:num_requests_running 0\n"; }

}  // namespace troupe

namespace fake {

counts control::now() const {
  std::lock_guard lock(mutex);
  return counted;
}
troupe::request control::last_request() const {
  std::lock_guard lock(mutex);
  return last;
}
void control::set_status(troupe::engine_status s) {
  std::lock_guard lock(mutex);
  status = s;
}
static bool wait_for(const control& c, auto&& enough) {
  for (int i = 0; i < 400; ++i) {
    if (enough(c.now())) return true;
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
  return false;
}
bool control::wait_for_cancelled(std::uint64_t n) const {
  return wait_for(*this, [n](const counts& c) { return c.cancelled >= n; });
}
bool control::wait_for_all_ended() const {
  return wait_for(*this, [](const counts& c) { return c.open == 0; });
}
control& of(const troupe::engine& e) { return e.implementation()->control; }
troupe::engine open(std::uint32_t stream_buffer) {
  troupe::engine_options o;
  o.stream_buffer = stream_buffer;
  return troupe::engine::open(o);
}

}  // namespace fake

#include "actors/edge/session_impl.hpp"

#include <boost/asio/co_spawn.hpp>
#include <boost/asio/redirect_error.hpp>
#include <boost/asio/use_awaitable.hpp>

#include "src/base/log.hpp"

namespace troupe::edge {
namespace {

using asio::ip::tcp;

constexpr std::size_t read_ahead = 64 << 10;  ///< bytes of further requests that are taken while one is answered
constexpr std::chrono::milliseconds linger{1000};

std::string_view view(boost::beast::string_view s) { return {s.data(), s.size()}; }
boost::beast::string_view view(std::string_view s) { return {s.data(), s.size()}; }

}  // namespace

session::session(edge_thread& t, tcp::socket s) : edge_(t), options_(t.shared().options), socket_(std::move(s)), timer_(t.context()) {
  edge_.shared().connection_opened();
  edge_.add(this);
}

session::~session() {
  edge_.remove(this);
  edge_.shared().connection_closed();
}

asio::awaitable<void> session::run(std::shared_ptr<session> self) {
  try {
    co_await self->serve();
  } catch (const std::exception& e) {
    log().error("edge: a session failed: {}", e.what());
  }
  self->close();
}

void session::abort() {
  broken_ = true;
  boost::system::error_code ignored;
  socket_.close(ignored);
  notify();
}

asio::awaitable<void> session::wait(clock::time_point deadline) {
  boost::system::error_code ignored;
  auto token = asio::redirect_error(asio::use_awaitable, ignored);
  timer_.expires_at(deadline);
  co_await timer_.async_wait(token);
}

void session::close() {
  if (answer_) answer_->abandon();
  answer_.reset();
  boost::system::error_code ignored;
  socket_.close(ignored);
}

// ---- reading -----------------------------------------------------------------------------------

void session::pump() {
  if (reading_ || gone() || unread() >= read_ahead) return;
  reading_ = true;
  auto self = shared_from_this();
  socket_.async_read_some(asio::buffer(chunk_), [self](boost::system::error_code ec, std::size_t n) { self->on_read(ec, n); });
}

void session::on_read(boost::system::error_code ec, std::size_t n) {
  reading_ = false;
  if (n && !discarding_) input_.append(chunk_.data(), n);
  if (ec == asio::error::eof) eof_ = true;
  else if (ec) broken_ = true;
  pump();
  notify();
}

void session::consume(std::size_t n) {
  input_at_ += n;
  if (input_at_ == input_.size()) input_.clear(), input_at_ = 0;
  else if (input_at_ > read_ahead) input_.erase(0, input_at_), input_at_ = 0;
  pump();
}

bool session::feed(bool whole) {
  const auto done = [&] { return whole ? parser_->is_done() : parser_->is_header_done(); };
  while (unread() && !parse_error_ && !done()) {
    boost::system::error_code ec;
    parser_->eager(whole);
    const std::size_t n = parser_->put(asio::const_buffer(input_.data() + input_at_, unread()), ec);
    consume(n);
    if (ec && ec != http::error::need_more) parse_error_ = ec;
    else if (ec && n == 0) break;
  }
  return !parse_error_ && done();
}

// RFC 9112 asks servers to skip empty lines before a request line.
void session::skip_blank_lines() {
  std::size_t n = 0;
  while (n < unread() && (input_[input_at_ + n] == '\r' || input_[input_at_ + n] == '\n')) ++n;
  if (n) consume(n);
}

// ---- one connection ----------------------------------------------------------------------------

asio::awaitable<void> session::serve() {
  boost::system::error_code ignored;
  socket_.non_blocking(true, ignored);
  pump();
  while (keep_alive_ && !broken_) {
    const bool begun = co_await await_request();
    if (!begun) co_return;
    bool readable = co_await read_header();
    if (readable) readable = co_await read_body();
    if (readable) co_await handle();
    else if (!parser_->is_done()) break;
  }
  co_await linger_close();
}

asio::awaitable<bool> session::await_request() {
  const auto idle_until = clock::now() + options_.idle_timeout;
  for (;;) {
    skip_blank_lines();
    if (unread()) co_return true;
    if (gone() || edge_.shared().draining || clock::now() >= idle_until) co_return false;
    co_await wait(idle_until);
  }
}

asio::awaitable<bool> session::read_header() {
  parser_.emplace();
  parser_->header_limit(static_cast<std::uint32_t>(options_.max_header_bytes));
  parser_->body_limit(options_.max_body_bytes);
  match_ = {};
  head_ = client_id_ = expects_continue_ = false;
  minor_ = 1;
  request_id_ = random_id();
  const auto until = clock::now() + options_.header_timeout;
  std::optional<wire::api_error> refusal;
  while (!refusal) {
    if (feed(false)) break;
    if (parse_error_) {
      refusal = refusal_of(parse_error_);
    } else if (gone()) {
      co_return false;
    } else if (clock::now() >= until) {
      refusal = wire::http_error(408, "the request's header did not arrive in time: send it at once", "timeout");
    } else {
      co_await wait(until);
    }
  }
  if (!refusal) refusal = judge_header();
  if (refusal) {
    co_await refuse(std::move(*refusal));
    co_return false;
  }
  if (!expects_continue_ || parser_->is_done() || unread()) co_return true;
  out_ = "HTTP/1.1 100 Continue\r\n\r\n";
  const bool sent = co_await flush();
  co_return sent;
}

asio::awaitable<bool> session::read_body() {
  const auto until = clock::now() + options_.body_timeout;
  std::optional<wire::api_error> refusal;
  while (!refusal) {
    if (parser_->is_done() || feed(true)) co_return true;
    if (parse_error_) {
      refusal = refusal_of(parse_error_);
    } else if (gone()) {
      co_return false;
    } else if (clock::now() >= until) {
      refusal = wire::http_error(408, "the request's body did not arrive in time: send it at once", "timeout");
    } else {
      co_await wait(until);
    }
  }
  co_await refuse(std::move(*refusal));
  co_return false;
}

wire::api_error session::refusal_of(const boost::system::error_code& ec) const {
  if (ec == http::error::header_limit)
    return wire::http_error(431, "the header is longer than " + std::to_string(options_.max_header_bytes) + " bytes: send a shorter one",
                            "header_too_large");
  if (ec == http::error::body_limit)
    return wire::http_error(413, "the body is longer than " + std::to_string(options_.max_body_bytes) + " bytes: send a shorter one",
                            "body_too_large");
  return wire::http_error(400, "malformed HTTP (" + ec.message() + "): send an HTTP/1.1 request", "malformed_request");
}

std::string_view session::field(http::field name) const { return view(parser_->get()[name]); }

std::optional<wire::api_error> session::judge_header() {
  const auto& r = parser_->get();
  match_ = match(view(r.target()));
  head_ = r.method() == http::verb::head;
  minor_ = r.version() == 10 ? 0 : 1;
  keep_alive_ = r.keep_alive();
  if (const auto id = view(r["X-Request-Id"]); is_echoable(id)) request_id_.assign(id), client_id_ = true;

  if (r.version() != 11 && r.version() != 10)
    return wire::http_error(400, "only HTTP/1.0 and HTTP/1.1 are spoken here: send one of them", "malformed_request");
  if (r.version() == 11 && r.count(http::field::host) != 1)
    return wire::http_error(400, "the Host header is missing or repeated: send it once", "malformed_request");
  // Whatever is not plainly chunked could mean another length to a proxy before us.
  if (const auto n = r.count(http::field::transfer_encoding); n > 1 || (n == 1 && !boost::beast::iequals(r[http::field::transfer_encoding], "chunked")))
    return wire::http_error(501, "only the transfer encoding chunked is understood: send that or a Content-Length", "unsupported");
  if (const auto expect = field(http::field::expect); !expect.empty()) {
    if (!boost::beast::iequals(view(expect), "100-continue"))
      return wire::http_error(417, "only the expectation 100-continue is understood: leave the header out", "unsupported");
    expects_continue_ = minor_ == 1;
  }
  if (r.method() == http::verb::options) return {};
  if (match_.where == route::none)
    return wire::http_error(404, "no such route: see /v1/models, /v1/chat/completions and /v1/completions", "not_found");
  const bool allowed = match_.post ? r.method() == http::verb::post : r.method() == http::verb::get || head_;
  if (!allowed) {
    const std::string methods(allowed_methods(match_));
    return wire::http_error(405, std::string(path_of(match_.where)) + " takes " + methods + ": use one of them", "method_not_allowed");
  }
  if (!authorized()) return wire::http_error(401, "no valid API key: send Authorization: Bearer KEY", "invalid_api_key");
  // Pages of any origin can send a form's type, or none, without the browser asking us first: they must say JSON.
  if (const auto type = field(http::field::content_type); match_.post && !is_json(type))
    if (!is_default_type(type) || r.count(http::field::origin))
      return wire::http_error(415, "the body must be JSON: send Content-Type: application/json", "unsupported_media_type");
  return {};
}

bool session::authorized() const {
  if (options_.api_keys.empty() || is_open(match_.where, options_.open_metrics)) return true;
  constexpr std::string_view scheme = "bearer ";
  auto given = field(http::field::authorization);
  if (!boost::beast::iequals(view(given.substr(0, scheme.size())), view(scheme))) return false;
  given.remove_prefix(scheme.size());
  while (!given.empty() && given.front() == ' ') given.remove_prefix(1);
  bool found = false;
  for (const auto& key : options_.api_keys) found |= equal_secret(given, key);
  return found;
}

asio::awaitable<void> session::refuse(wire::api_error e) {
  if (!parser_->is_done()) keep_alive_ = false, refused_ = true;
  reply r = failed(e);
  co_await send(std::move(r));
}

// Closing with unread bytes under way resets the connection, and the client may lose the answer: read a while longer.
asio::awaitable<void> session::linger_close() {
  if (broken_) co_return;
  boost::system::error_code ignored;
  socket_.shutdown(tcp::socket::shutdown_send, ignored);
  if (!refused_) co_return;
  discarding_ = true;
  consume(unread());
  const auto until = clock::now() + linger;
  while (!gone() && clock::now() < until) co_await wait(until);
}

// ---- writing -----------------------------------------------------------------------------------

// The socket is tried first: an event costs one system call as long as the reader keeps up.
asio::awaitable<bool> session::flush() {
  auto until = clock::now() + options_.write_timeout;
  std::size_t at = 0;
  while (at < out_.size()) {
    boost::system::error_code ec;
    const std::size_t n = socket_.write_some(asio::buffer(out_.data() + at, out_.size() - at), ec);
    at += n;
    if (n) until = clock::now() + options_.write_timeout;
    if (!ec) continue;
    if (ec != asio::error::would_block && ec != asio::error::try_again) broken_ = true;
    // A half-closed client may still read what was computed at once; for an answer its end looks the same as leaving.
    if (broken_ || (answer_ && eof_)) co_return false;
    if (clock::now() >= until) {
      abort();
      co_return false;
    }
    wait_for_room();
    co_await wait(until);
  }
  co_return !broken_;
}

void session::wait_for_room() {
  if (waiting_for_room_) return;
  waiting_for_room_ = true;
  auto self = shared_from_this();
  socket_.async_wait(tcp::socket::wait_write, [self](boost::system::error_code ec) {
    self->waiting_for_room_ = false;
    if (ec) self->broken_ = true;
    self->notify();
  });
}

response_head session::head_for(const reply& r) {
  if (edge_.shared().draining) keep_alive_ = false;
  response_head h;
  h.status = r.status;
  h.content_type = r.content_type;
  h.keep_alive = keep_alive_;
  h.http_minor = minor_;
  h.request_id = request_id_;
  h.cors_origin = options_.cors_origin;
  h.extra_headers = r.extra_headers;
  return h;
}

reply session::failed(const wire::api_error& e) const {
  reply r;
  r.status = e.status;
  wire::append_error(r.body, e);
  if (e.status == 429 || e.status == 503) r.extra_headers = "Retry-After: " + std::to_string(options_.retry_after.count()) + "\r\n";
  if (e.status == 401) r.extra_headers = "WWW-Authenticate: Bearer\r\n";
  if (e.status == 405) r.extra_headers = "Allow: " + std::string(allowed_methods(match_)) + "\r\n";
  return r;
}

asio::awaitable<void> session::send(reply r) {
  response_head h = head_for(r);
  if (r.status != 204) h.length = r.body.size();
  else h.content_type = {};
  out_.clear();
  append_head(out_, h);
  if (!head_) out_ += r.body;
  edge_.shared().counters.add(match_.where, r.status);
  const bool sent = co_await flush();
  if (!sent) keep_alive_ = false;
  if (out_.capacity() > 4 * read_ahead) std::string().swap(out_);
}

void start_session(edge_thread& t, tcp::socket socket) {
  auto self = std::make_shared<session>(t, std::move(socket));
  auto on_end = [](std::exception_ptr) {};
  asio::co_spawn(t.context(), session::run(std::move(self)), on_end);
}

}  // namespace troupe::edge

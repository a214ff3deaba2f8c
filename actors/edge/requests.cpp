// What a session does with a request that it has read.
#include <charconv>
#include <ctime>

#include <boost/asio/post.hpp>

#include "actors/edge/session_impl.hpp"
#include "src/wire/json_text.hpp"

namespace troupe::edge {

asio::awaitable<void> session::handle() {
  reply r;
  if (parser_->get().method() == http::verb::options) {
    r.status = 204;
    const std::string methods(match_.where == route::none ? "GET, HEAD, POST, OPTIONS" : allowed_methods(match_));
    r.extra_headers = "Allow: " + methods + "\r\n";
    if (!options_.cors_origin.empty())
      r.extra_headers += "Access-Control-Allow-Methods: " + methods +
                         "\r\nAccess-Control-Allow-Headers: Authorization, Content-Type, X-Request-Id\r\nAccess-Control-Max-Age: 600\r\n";
    co_await send(std::move(r));
    co_return;
  }
  switch (match_.where) {
    case route::chat_completions:
    case route::completions:
      co_await complete();
      break;
    case route::tokenize:
    case route::detokenize:
    case route::metrics:
      co_await offload();
      break;
    default:
      r = simple();
      co_await send(std::move(r));
  }
}

reply session::no_model(const std::string& name) const {
  const std::string& served = edge_.shared().eng.info().name;
  auto e = wire::http_error(404, "the model '" + name + "' is not served here: use '" + served + "'", "model_not_found");
  e.param = "model";
  return failed(e);
}

/// Routes that answer from what is known.
reply session::simple() const {
  auto& shared = edge_.shared();
  const model_info& info = shared.eng.info();
  reply r;
  switch (match_.where) {
    case route::models: wire::append_models(r.body, info.name, shared.started, info.max_model_len); break;
    case route::model:
      if (match_.argument != info.name) return no_model(match_.argument);
      wire::append_model(r.body, info.name, shared.started, info.max_model_len);
      break;
    case route::health:
      if (shared.eng.status().failed) return failed(wire::http_error(503, "a rank was lost: restart the server", "rank_failed"));
      r.body = R"({"status":"ok"})";
      break;
    case route::ready: {
      const auto s = shared.eng.status();
      if (s.failed) return failed(wire::http_error(503, "a rank was lost: restart the server", "rank_failed"));
      if (s.draining || shared.draining) return failed(wire::http_error(503, "the server is shutting down", "draining"));
      if (!s.ready) return failed(wire::http_error(503, "no step has finished in time: wait, or look at the log", "not_ready"));
      r.body = R"({"status":"ready"})";
      break;
    }
    case route::version:
      r.body = R"({"version":)";
      wire::append_string(r.body, options_.version);
      r.body += '}';
      break;
    default: return failed(wire::http_error(404, "no such route", "not_found"));
  }
  return r;
}

// ---- completions -------------------------------------------------------------------------------

asio::awaitable<void> session::complete() {
  reply r;
  std::string body = std::move(parser_->get().body());
  auto parsed = match_.where == route::chat_completions ? edge_.parser().chat(body) : edge_.parser().completion(body);
  std::string().swap(body);
  const model_info& info = edge_.shared().eng.info();
  std::optional<wire::api_error> refusal;
  if (!parsed) {
    refusal = parsed.error();
  } else if (!parsed->model.empty() && parsed->model != info.name) {
    r = no_model(parsed->model);
    co_await send(std::move(r));
    co_return;
  } else {
    if (!client_id_ && is_echoable(parsed->common.id)) request_id_ = parsed->common.id;
    std::optional<clock::time_point> deadline;
    if (options_.request_timeout.count() > 0) deadline = clock::now() + options_.request_timeout;
    answer_ = std::make_shared<answer>(std::move(*parsed), request_id_, info.name, std::time(nullptr), *this);
    refusal = answer_->start(edge_.engine_port(), deadline);
  }
  if (refusal) {
    answer_.reset();
    r = failed(*refusal);
    co_await send(std::move(r));
    co_return;
  }

  // The head waits for the first news, so that a prompt that turns out too long can still be a status.
  const auto silent_until = clock::now() + options_.ping_interval;
  while (!gone() && !answer_->begun()) {
    const bool patient = !answer_->streams();
    if (!patient && clock::now() >= silent_until) break;
    // Tokens without text (a special token, a stop string that may be starting) must not use up the stream's credit.
    if (answer_->pending()) answer_->take(out_), answer_->acknowledge();
    const auto until = patient ? clock::time_point::max() : silent_until;
    co_await wait(until);
  }
  if (gone()) {
    keep_alive_ = false;
    edge_.shared().counters.add(match_.where, 499);
  } else if (answer_->refused()) {
    r = failed(*answer_->error());
    co_await send(std::move(r));
  } else if (answer_->streams()) {
    co_await send_stream();
  } else {
    answer_->whole(r.body);
    co_await send(std::move(r));
  }
  answer_->abandon();
  answer_.reset();
}

namespace {

constexpr std::size_t size_room = 10;  ///< eight hexadecimal digits and a line end
constexpr std::size_t keep_capacity = 256 << 10;

/// Frames what stands after the room left at `at` as one chunk of HTTP's chunked coding; nothing if there is nothing.
void frame_chunk(std::string& out, std::size_t at) {
  const std::size_t length = out.size() - at - size_room;
  if (length == 0) {
    out.resize(at);
    return;
  }
  char size[size_room];
  char* end = std::to_chars(size, size + 8, length, 16).ptr;
  *end++ = '\r';
  *end++ = '\n';
  out.replace(at, size_room, size, static_cast<std::size_t>(end - size));
  out += "\r\n";
}

}  // namespace

asio::awaitable<void> session::send_stream() {
  const bool chunked = minor_ == 1;
  if (!chunked) keep_alive_ = false;  // HTTP/1.0: the end of the connection is the end of the stream
  reply r;
  r.content_type = "text/event-stream; charset=utf-8";
  r.extra_headers = "Cache-Control: no-cache\r\nX-Accel-Buffering: no\r\n";
  response_head h = head_for(r);
  h.chunked = chunked;
  out_.clear();
  append_head(out_, h);
  edge_.shared().counters.add(match_.where, 200);
  if (!answer_->begun()) answer_->ping();  // silence has brought us here

  for (bool last = false; !last;) {
    const auto silent_until = clock::now() + options_.ping_interval;
    while (!answer_->pending() && !answer_->finished() && !gone()) {
      if (clock::now() >= silent_until) answer_->ping();
      else co_await wait(silent_until);
    }
    bool sent = !gone();
    if (sent) {
      last = answer_->finished();
      const std::size_t at = out_.size();
      if (chunked) out_.append(size_room, '0');
      answer_->take(out_);
      if (chunked) frame_chunk(out_, at);
      if (chunked && last) out_ += "0\r\n\r\n";
      sent = co_await flush();
    }
    if (!sent) {
      keep_alive_ = false;
      edge_.shared().counters.add(match_.where, 499);
      co_return;
    }
    answer_->acknowledge();
    out_.clear();
    if (out_.capacity() > keep_capacity) out_.shrink_to_fit();
  }
}

// ---- work on the client's bytes that takes as long as they are long: on the helper thread --------

std::optional<reply> session::prepare_job() {
  auto* shared = &edge_.shared();
  engine* eng = &shared->eng;
  if (match_.where == route::metrics) {
    job_ = [shared] {
      reply made;
      made.content_type = "text/plain; version=0.0.4; charset=utf-8";
      made.body = shared->eng.metrics();
      shared->counters.expose(made.body, shared->connections());
      return made;
    };
    return {};
  }
  std::string body = std::move(parser_->get().body());
  const auto served = [&](const std::string& model) { return model.empty() || model == eng->info().name; };
  if (match_.where == route::tokenize) {
    auto parsed = edge_.parser().tokenize(body);
    if (!parsed) return failed(parsed.error());
    if (!served(parsed->model)) return no_model(parsed->model);
    job_ = [eng, q = std::move(*parsed)] {
      const auto* chat = std::get_if<chat_prompt>(&q.prompt);
      const std::string text = chat ? eng->apply_template(*chat) : std::get<text_prompt>(q.prompt).text;
      reply made;
      wire::append_tokens(made.body, eng->tokenize(text, q.add_special_tokens, q.parse_special), eng->info().max_model_len);
      return made;
    };
  } else {
    auto parsed = edge_.parser().detokenize(body);
    if (!parsed) return failed(parsed.error());
    if (!served(parsed->model)) return no_model(parsed->model);
    job_ = [eng, q = std::move(*parsed)] {
      reply made;
      wire::append_detokenized(made.body, eng->detokenize(q.tokens, q.skip_special_tokens));
      return made;
    };
  }
  return {};
}

asio::awaitable<void> session::offload() {
  auto refusal = prepare_job();
  if (refusal) {
    co_await send(std::move(*refusal));
    co_return;
  }
  job_reply_.reset();
  auto self = shared_from_this();
  auto work = [self = std::move(self)]() mutable {
    reply made;
    try {
      made = self->job_();
    } catch (const troupe::error& e) {
      made = self->failed(wire::to_api_error(e.code(), e.message()));
    } catch (const std::exception&) {
      made = self->failed(wire::to_api_error(errc::internal, "the request failed in the server: look at its log"));
    }
    // The session moves back with the result: its last owner must not be the helper.
    auto& context = self->edge_.context();
    asio::post(context, [self = std::move(self), made = std::move(made)]() mutable {
      self->job_ = nullptr;
      self->job_reply_ = std::move(made);
      self->notify();
    });
  };
  asio::post(edge_.shared().helper, std::move(work));
  while (!job_reply_ && !broken_) {
    const auto until = clock::time_point::max();
    co_await wait(until);
  }
  if (broken_) co_return;
  reply r = std::move(*job_reply_);
  co_await send(std::move(r));
}

}  // namespace troupe::edge

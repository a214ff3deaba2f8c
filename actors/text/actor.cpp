#include "actors/text/actor.hpp"

#include <algorithm>
#include <ctime>

#include "src/base/log.hpp"

namespace troupe::text {

/// A request on its way: submitted to the scheduler, not yet spoken of for the last time.
struct text_actor::stream {
  stream_ptr record;
  std::optional<detokenizer> decoder;
  stop_matcher stops;
  troupe::usage usage;
  troupe::timings timings;
  time_point last_token{};
  bool ended = false;  ///< the port has its end event; what still comes is waste

  explicit stream(stream_ptr r) : record(std::move(r)), stops(record->request.stop) {}
};

namespace {

double seconds_between(std::chrono::steady_clock::time_point from, std::chrono::steady_clock::time_point to) {
  return std::chrono::duration<double>(to - from).count();
}

/// What strftime_now tells: the wall clock, read here because the template engine has none.
jinja::civil_time local_time() {
  const std::time_t now = std::time(nullptr);
  std::tm t{};
  localtime_r(&now, &t);
  jinja::civil_time out;
  out.year = t.tm_year + 1900;
  out.month = t.tm_mon + 1;
  out.day = t.tm_mday;
  out.hour = t.tm_hour;
  out.minute = t.tm_min;
  out.second = t.tm_sec;
  return out;
}

failure no_tokenizer() {
  return {errc::unsupported, "the model has no tokenizer that Troupe reads: give the prompt as token ids, or use a .gguf file"};
}

}  // namespace

result<std::string> render_chat(const text_model& model, const chat_prompt& prompt) {
  if (!model.chat || !model.tokenizer)
    return failure(errc::unsupported, "the model has no chat template: use completions, or start with --chat-template");
  auto context = chat_context::from_prompt(prompt);
  if (!context) return context.take_error();
  context->now = local_time();
  return model.chat->render(std::move(*context));
}

result<std::vector<token_id>> encode_prompt(const text_model& model, const request& r) {
  if (const auto* ids = std::get_if<std::vector<std::int32_t>>(&r.prompt)) {
    for (std::size_t i = 0; i < ids->size(); ++i)
      if ((*ids)[i] < 0 || static_cast<std::uint32_t>((*ids)[i]) >= model.vocab)
        return failure(errc::invalid_argument, "prompt: token id " + std::to_string((*ids)[i]) + " at position " +
                                                   std::to_string(i) + " is outside the vocabulary of " +
                                                   std::to_string(model.vocab));
    return *ids;
  }
  if (!model.tokenizer) return no_tokenizer();
  if (const auto* text = std::get_if<text_prompt>(&r.prompt))
    return model.tokenizer->encode(text->text, {text->add_special_tokens, text->parse_special});
  auto rendered = render_chat(model, std::get<chat_prompt>(r.prompt));
  if (!rendered) return rendered.take_error();
  // The template writes the special tokens itself, BOS included.
  return model.tokenizer->encode(*rendered, {false, true});
}

text_actor::text_actor(text_model model, std::shared_ptr<watch::engine_metrics> metrics, clock now)
    : model_(std::move(model)), metrics_(std::move(metrics)), now_(std::move(now)) {}

text_actor::~text_actor() = default;

void text_actor::on(encode_request&& m, outbox& out) {
  const stream_ptr record = m.record;  // the message keeps its share: `failed` needs it
  entry_of(record->port).n_streams++;
  if (record->sched.cancelled) return refuse(record, {errc::cancelled, "the request was cancelled"});

  auto tokens = encode_prompt(model_, record->request);
  if (!tokens) return refuse(record, tokens.error());
  if (tokens->empty()) return refuse(record, {errc::invalid_argument, "prompt: must hold at least one token"});

  record->sched.prompt = std::move(*tokens);
  record->request.prompt = std::vector<std::int32_t>();
  auto s = std::make_unique<stream>(record);
  if (model_.tokenizer)
    s->decoder.emplace(*model_.tokenizer, detokenize_options{.skip_special = record->request.skip_special_tokens});
  s->usage.prompt_tokens = static_cast<std::uint32_t>(record->sched.prompt.size());
  s->timings.encoded = seconds_between(record->arrived, now_());
  metrics_->prompt_tokens.add(s->usage.prompt_tokens);
  streams_.emplace(record->sched.id, std::move(s));
  out.send(sched::submit(scheduling_part(record)));
}

void text_actor::on(sched::token_batch&& batch, outbox& out) {
  for (const sched::token_event& event : batch.events) {
    const auto found = streams_.find(event.id);
    if (found == streams_.end()) continue;
    stream& s = *found->second;
    take(s, event, out);
    if (event.reason == finish_reason::none) continue;
    leave(s.record->port);
    streams_.erase(found);
  }
}

void text_actor::take(stream& s, const sched::token_event& event, outbox& out) {
  if (s.ended) return;
  if (event.admitted) {
    const time_point admitted{std::chrono::nanoseconds(event.admitted)};
    s.timings.admitted = seconds_between(s.record->arrived, admitted);
  }
  const bool is_text = event.token >= 0 && event.reason != finish_reason::stop;
  if (event.token >= 0) {
    const time_point now = now_();
    if (s.usage.completion_tokens++ == 0) {
      s.timings.first_token = seconds_between(s.record->arrived, now);
      metrics_->time_to_first_token.observe(s.timings.first_token);
    } else {
      metrics_->inter_token_latency.observe(seconds_between(s.last_token, now));
    }
    s.last_token = now;
    metrics_->generation_tokens.add();
  }
  if (is_text) add_token(s, event.token, out);
  if (s.ended || event.reason == finish_reason::none) return;

  completion c;
  c.reason = event.reason;
  c.error = event.code;
  c.message = event.message;
  end(s, std::move(c), &event);
}

void text_actor::add_token(stream& s, token_id token, outbox& out) {
  auto matched = s.stops.append(s.decoder ? s.decoder->append(token) : std::string());
  if (!matched.match) return emit(s, std::move(matched.text), {token});

  const std::string& stop = s.record->request.stop[*matched.match];
  if (s.record->request.include_stop_in_output) matched.text += stop;
  emit(s, std::move(matched.text), {token});
  completion c;
  c.reason = finish_reason::stop;
  c.stop_match = stop;
  end(s, std::move(c), nullptr);
  out.send(sched::finish{s.record->sched.id, s.usage.completion_tokens});
}

void text_actor::emit(stream& s, std::string text, std::vector<std::int32_t> tokens) {
  front::stream_event& e = event_of(s.record);
  e.has_piece = true;
  e.piece.text += text;
  e.piece.tokens.insert(e.piece.tokens.end(), tokens.begin(), tokens.end());
}

void text_actor::end(stream& s, completion c, const sched::token_event* event) {
  // What was held back as the possible start of a stop string or of a character is text after all.
  if (!c.stop_match) {
    std::string rest;
    if (s.decoder) {
      auto last = s.stops.append(s.decoder->finish());
      rest = std::move(last.text);
      if (last.match) c.stop_match = s.record->request.stop[*last.match];
    }
    if (!c.stop_match) rest += s.stops.finish();
    if (!rest.empty()) emit(s, std::move(rest), {});
  }
  if (event) s.usage.cached_tokens = event->n_cached;
  s.timings.finished = seconds_between(s.record->arrived, now_());
  c.usage = s.usage;
  c.timings = s.timings;
  observe(s, c);
  s.ended = true;
  event_of(s.record).end = std::move(c);
}

void text_actor::observe(const stream& s, const completion& c) {
  metrics_->finished(c.reason);
  const auto& t = c.timings;
  metrics_->e2e_latency.observe(t.finished);
  if (t.admitted > 0) metrics_->queue_time.observe(t.admitted);
  if (s.usage.completion_tokens) {
    metrics_->prefill_time.observe(t.first_token - t.admitted);
    metrics_->decode_time.observe(t.finished - t.first_token);
    metrics_->inference_time.observe(t.finished - t.admitted);
  }
  if (s.usage.completion_tokens > 1)
    metrics_->time_per_output_token.observe((t.finished - t.first_token) / (s.usage.completion_tokens - 1));
  metrics_->request_prompt_tokens.observe(s.usage.prompt_tokens);
  metrics_->request_generation_tokens.observe(s.usage.completion_tokens);
  if (s.record->sched.max_tokens) metrics_->request_max_tokens.observe(*s.record->sched.max_tokens);
}

void text_actor::refuse(const stream_ptr& record, const failure& why) {
  completion c;
  c.reason = why.code == errc::cancelled ? finish_reason::cancelled : finish_reason::error;
  c.error = why.code;
  c.message = why.message;
  c.timings.finished = seconds_between(record->arrived, now_());
  metrics_->finished(c.reason);
  event_of(record).end = std::move(c);
  leave(record->port);
}

void text_actor::failed(message& m, std::exception_ptr error, outbox&) {
  std::string what = "an unknown exception";
  try {
    std::rethrow_exception(error);
  } catch (const std::exception& e) {
    what = e.what();
  } catch (...) {
  }
  log().error("text shard: a handler failed: {}", what);
  // Encoding is where foreign input is worked on; a request that was submitted already will hear from the scheduler.
  if (auto* encode = std::get_if<encode_request>(&m); encode && encode->record && !streams_.contains(encode->record->sched.id))
    refuse(encode->record, {errc::internal, "the request failed inside the engine: " + what});
}

front::stream_event& text_actor::event_of(const stream_ptr& record) {
  auto& events = entry_of(record->port).events;
  // A stream has at most a few events a turn, and they are the last ones.
  for (std::size_t i = events.size(); i-- > 0 && events.size() - i <= 4;)
    if (events[i].stream == record->stream && !events[i].end) return events[i];
  return events.emplace_back(record->stream);
}

text_actor::port_entry& text_actor::entry_of(const front::port_ptr& port) {
  for (port_entry& e : ports_)
    if (e.port == port) return e;
  return ports_.emplace_back(port_entry{port, 0, {}});
}

void text_actor::leave(const front::port_ptr& port) { entry_of(port).n_streams--; }

void text_actor::settle(outbox& out) {
  for (port_entry& e : ports_)
    if (!e.events.empty()) {
      out.send(e.port, front::stream_batch(std::move(e.events)));
      e.events = {};
    }
  std::erase_if(ports_, [&](const port_entry& e) {
    if (e.n_streams) return false;
    out.forget(e.port);
    return true;
  });
}

}  // namespace troupe::text

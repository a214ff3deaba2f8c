#include "actors/front/port.hpp"

#include <random>

#include "actors/front/validate.hpp"

namespace troupe {

stream_sink::~stream_sink() = default;

port::port(std::unique_ptr<impl> i) : impl_(std::move(i)) {}
port::~port() = default;
submitted port::submit(request r, std::shared_ptr<stream_sink> sink) { return impl_->submit(std::move(r), std::move(sink)); }
void port::cancel(stream_id id) { impl_->cancel(id); }
void port::consumed(stream_id id, std::uint32_t n) { impl_->consumed(id, n); }
std::size_t port::poll() { return impl_->poll(); }
std::size_t port::open_streams() const noexcept { return impl_->open_streams(); }

}  // namespace troupe

namespace troupe::front {
namespace {

std::uint64_t random_seed() {
  thread_local std::mt19937_64 generator{std::random_device{}()};
  return generator();
}

sched::time_ns nanoseconds(std::chrono::steady_clock::time_point t) {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(t.time_since_epoch()).count();
}

submitted refused(errc code, std::string message) { return {0, code, std::move(message)}; }

}  // namespace

consumer_port::consumer_port(std::shared_ptr<port_host> e, port_waker waker)
    : engine_(std::move(e)), waker_(waker), box_(std::make_shared<port_box>(message_limit)) {
  for (std::uint32_t shard = 0; shard < engine_->n_text_shards(); ++shard) to_text_.push_back(engine_->text_sender(shard));
  to_sched_ = engine_->sched_sender();
  if (waker_.wake && !park()) waker_.wake(waker_.context);
}

consumer_port::~consumer_port() {
  for (auto& [id, open] : streams_) request_cancel(*open.record);
  box_->disarm();  // first: closing would wake an owner that has no port any more
  box_->close();
}

/// False: something is there already.
bool consumer_port::park() {
  parked_ = box_->park({waker_.wake, waker_.context});
  return parked_;
}

submitted consumer_port::submit(request r, std::shared_ptr<stream_sink> sink) {
  if (auto valid = validate(r, engine_->info().vocab); !valid)
    return refused(errc::invalid_argument, valid.error().message);
  if (engine_->failed()) return refused(errc::rank_failed, "a rank was lost: restart the engine");
  auto permit = engine_->permits().try_acquire();
  if (!permit) {
    const bool draining = engine_->permits().closed();
    (draining ? engine_->metrics().rejected_draining : engine_->metrics().rejected_overloaded).add();
    if (draining) return refused(errc::draining, "the engine is shutting down");
    return refused(errc::overloaded, "the engine holds its limit of " + std::to_string(engine_->permits().limit()) +
                                         " requests: try again later");
  }

  auto record = std::make_shared<text::stream_record>();
  record->arrived = std::chrono::steady_clock::now();
  record->permit = std::move(*permit);
  record->stream = ++last_stream_;
  record->port = box_;
  sched::request_record& s = record->sched;
  s.id = engine_->next_request_id();
  s.shard = static_cast<std::uint32_t>(s.id % to_text_.size());
  s.sampling = r.sampling;
  s.seed = r.sampling.seed ? *r.sampling.seed : random_seed();
  s.max_tokens = r.max_tokens;
  s.stop_token_ids = r.stop_token_ids;
  s.ignore_eos = r.ignore_eos;
  s.priority = r.priority;
  if (r.deadline) s.deadline = nanoseconds(*r.deadline);
  s.credits = engine_->options().stream_buffer;
  s.stall_limit = std::int64_t{engine_->options().stall_seconds} * 1'000'000'000;
  if (r.logits) {
    auto registered = engine_->sinks().add(r.logits);
    s.sink = registered.number;
    record->sink_registration = std::move(registered.lease);
  }
  record->request = std::move(r);

  if (!to_text_[s.shard].try_send(text::encode_request(record)))
    return refused(errc::draining, "the engine is shutting down");
  streams_.emplace(record->stream, open_stream{record, std::move(sink), 0});
  return {record->stream, {}, {}};
}

void consumer_port::request_cancel(text::stream_record& record) {
  if (!record.sched.cancelled.exchange(true)) to_sched_.send_control(sched::cancel{record.sched.id});
}

void consumer_port::cancel(stream_id id) {
  if (auto it = streams_.find(id); it != streams_.end()) request_cancel(*it->second.record);
}

void consumer_port::consumed(stream_id id, std::uint32_t n) {
  auto it = streams_.find(id);
  if (it == streams_.end()) return;
  // A message per quarter of the buffer: the stream cannot run dry before it is sent.
  it->second.unreported += n;
  if (it->second.unreported < std::max(1u, engine_->options().stream_buffer / 4)) return;
  if (to_sched_.send_control(sched::resume{it->second.record->sched.id, it->second.unreported})) it->second.unreported = 0;
}

std::size_t consumer_port::poll() {
  std::size_t n = 0;
  if (std::exchange(parked_, false)) box_->take_back_park();  // the owner may come unasked
  for (;;) {
    batches_.clear();
    while (box_->try_receive(batches_, 64) != 0) {
      for (message& m : batches_)
        for (stream_event& e : std::get<stream_batch>(m).events) {
          deliver(e);
          ++n;
        }
      batches_.clear();
    }
    if (!waker_.wake || box_->drained() || park()) return n;
  }
}

void consumer_port::deliver(stream_event& e) {
  auto it = streams_.find(e.stream);
  if (it == streams_.end()) return;
  const std::shared_ptr<stream_sink> sink = it->second.sink;  // the sink may call back into the port
  try {
    if (e.has_piece) sink->on_piece(std::move(e.piece));
    if (!e.end) return;
    streams_.erase(e.stream);
    sink->on_end(std::move(*e.end));
  } catch (...) {
    if (auto still = streams_.find(e.stream); still != streams_.end()) request_cancel(*still->second.record);
  }
}

}  // namespace troupe::front

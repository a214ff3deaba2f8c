#include "tools/blocking_client.hpp"

namespace troupe::cli {
namespace {

class function_sink final : public stream_sink {
 public:
  function_sink(port& p, blocking_client::handlers h) : port_(p), handlers_(std::move(h)) {}
  void on_piece(piece&& p) override {
    port_.consumed(id, static_cast<std::uint32_t>(p.tokens.size()));
    if (handlers_.on_piece) handlers_.on_piece(std::move(p));
  }
  void on_end(completion&& c) override {
    if (handlers_.on_end) handlers_.on_end(std::move(c));
  }
  stream_id id = 0;

 private:
  port& port_;
  blocking_client::handlers handlers_;
};

void wake(void* semaphore) noexcept { sem_post(static_cast<sem_t*>(semaphore)); }

}  // namespace

blocking_client::blocking_client(engine& e) {
  sem_init(&semaphore_, 0, 0);
  port_ = e.open_port({wake, &semaphore_});
}

blocking_client::~blocking_client() {
  port_.reset();
  sem_destroy(&semaphore_);
}

stream_id blocking_client::submit(request r, handlers h) {
  auto sink = std::make_shared<function_sink>(*port_, std::move(h));
  submitted s = port_->submit(std::move(r), sink);
  if (!s) throw error(static_cast<errc>(s.error.value()), s.message);
  sink->id = s.stream;
  return s.stream;
}

bool blocking_client::wait() {
  if (port_->open_streams() == 0) return false;
  if (port_->poll() == 0) sem_wait(&semaphore_);  // EINTR is a wake too: the caller looks at its flags
  port_->poll();
  return true;
}

completion blocking_client::run(request r, std::function<void(piece&&)> on_piece) {
  completion end;
  submit(std::move(r), {std::move(on_piece), [&](completion&& c) { end = std::move(c); }});
  while (wait()) {
  }
  return end;
}

}  // namespace troupe::cli

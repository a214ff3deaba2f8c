#pragma once
#include <semaphore.h>

#include <atomic>
#include <functional>
#include <memory>

#include <troupe/engine.hpp>

namespace troupe::cli {

/// Runs requests to their end on the calling thread: the command line's port.
class blocking_client {
 public:
  explicit blocking_client(engine&);
  ~blocking_client();

  struct handlers {
    std::function<void(piece&&)> on_piece;
    std::function<void(completion&&)> on_end;
  };
  /// Throws troupe::error when the request is refused.
  stream_id submit(request, handlers);
  void cancel(stream_id id) { port_->cancel(id); }

  /// Waits for events and delivers them. Returns false when nothing is open.
  bool wait();

  /// Submits one request and waits for its end.
  completion run(request, std::function<void(piece&&)> on_piece);

  /// Wakes `wait`; the only member that a signal handler may call.
  void interrupt() noexcept { sem_post(&semaphore_); }

 private:
  sem_t semaphore_;
  std::unique_ptr<port> port_;
};

}  // namespace troupe::cli

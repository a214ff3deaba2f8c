#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <condition_variable>
#include <mutex>
#include <thread>
#include <utility>
#include <variant>

#include "src/base/log.hpp"
#include "src/model/plan_log.hpp"
#include "src/model/plan_log_format.hpp"

namespace troupe::model {
namespace {

constexpr std::size_t most_waiting = 64u << 20;  // bytes that wait for the disk; more: it is too slow for a log
constexpr auto write_every = std::chrono::milliseconds(100);

std::string text_of(const plan_log_header& h) {
  std::string out;
  const auto line = [&out](const char* key, std::string value) {
    for (char& c : value)
      if (c == '\n') c = ' ';
    out += std::string(key) + "=" + value + "\n";
  };
  line("model", h.model);
  line("load_format", h.load_format);
  line("fingerprint", std::to_string(h.fingerprint));
  line("device", h.device);
  line("dtype", h.dtype);
  line("quantization", h.quantization);
  line("kv_cache_dtype", h.kv_cache_dtype);
  line("deterministic", std::to_string(h.deterministic));
  line("enforce_eager", std::to_string(h.enforce_eager));
  line("reference", std::to_string(h.reference));
  line("max_model_len", std::to_string(h.max_model_len));
  line("max_num_seqs", std::to_string(h.max_num_seqs));
  line("max_num_batched_tokens", std::to_string(h.max_num_batched_tokens));
  line("n_pages", std::to_string(h.n_pages));
  return out;
}

class file_descriptor {
 public:
  explicit file_descriptor(int fd) : fd_(fd) {}
  file_descriptor(file_descriptor&& o) noexcept : fd_(std::exchange(o.fd_, -1)) {}
  ~file_descriptor() {
    if (fd_ >= 0) ::close(fd_);
  }
  int get() const { return fd_; }

 private:
  int fd_;
};

/// Takes what happens on the rank's thread, writes it on its own.
class log_writer {
 public:
  log_writer(file_descriptor file, std::string path, const plan_log_header& h)
      : file_(std::move(file)), path_(std::move(path)) {
    out_.insert(out_.end(), reinterpret_cast<const std::byte*>(plan_log_magic.data()),
                reinterpret_cast<const std::byte*>(plan_log_magic.data() + plan_log_magic.size()));
    const std::string text = text_of(h);
    add(log_record::header, std::as_bytes(std::span(text)));
    thread_ = std::thread([this] { run(); });
  }
  ~log_writer() {
    {
      std::lock_guard lock(mutex_);
      stop_ = true;
    }
    wake_.notify_one();
    thread_.join();
  }

  void put(std::shared_ptr<const step_plan> plan) {
    const std::size_t bytes = plan->bytes().size();
    put_entry(std::move(plan), bytes);
  }
  void put(const step_done& done) { put_entry(done, sizeof(step_done) + done.rows.size() * sizeof(row_result)); }

 private:
  using entry = std::variant<std::shared_ptr<const step_plan>, step_done>;

  void put_entry(entry e, std::size_t bytes) {
    std::lock_guard lock(mutex_);
    if (over_) return;
    waiting_bytes_ += bytes;
    if (waiting_bytes_ > most_waiting) return end("is written too slowly");
    waiting_.push_back(std::move(e));
  }

  void run() {
    std::vector<entry> mine;
    std::unique_lock lock(mutex_);
    for (;;) {
      wake_.wait_for(lock, write_every, [this] { return stop_; });
      const bool last = stop_;
      mine.swap(waiting_);
      waiting_bytes_ = 0;
      const bool over = over_;
      lock.unlock();
      if (!over) write(mine);
      mine.clear();
      if (last) return;
      lock.lock();
    }
  }

  void add(log_record kind, std::span<const std::byte> payload) {
    const record_header h = make_record_header(kind, payload);
    const auto head = std::as_bytes(std::span(&h, 1));
    out_.insert(out_.end(), head.begin(), head.end());
    out_.insert(out_.end(), payload.begin(), payload.end());
  }

  void write(const std::vector<entry>& entries) {
    for (const entry& e : entries) {
      if (const auto* plan = std::get_if<std::shared_ptr<const step_plan>>(&e)) {
        add(log_record::plan, (*plan)->bytes());
        continue;
      }
      const step_done& done = std::get<step_done>(e);
      const done_header h{done.seq, done.device_ns, done.launch_ns};
      const auto head = std::as_bytes(std::span(&h, 1)), rows = std::as_bytes(std::span(done.rows));
      payload_.assign(head.begin(), head.end());
      payload_.insert(payload_.end(), rows.begin(), rows.end());
      add(log_record::done, payload_);
    }
    for (std::span<const std::byte> rest = out_; !rest.empty();) {
      const ssize_t n = ::write(file_.get(), rest.data(), rest.size());
      if (n < 0 && errno == EINTR) continue;
      if (n <= 0) {
        const std::string why = std::string("cannot be written (") + std::strerror(n < 0 ? errno : ENOSPC) + ")";
        std::lock_guard lock(mutex_);
        end(why);
        break;
      }
      rest = rest.subspan(static_cast<std::size_t>(n));
    }
    out_.clear();
  }

  /// Under the mutex.
  void end(const std::string& why) {
    if (std::exchange(over_, true)) return;
    waiting_.clear();
    log().warn("the plan log {} {}: it ends here, the engine goes on", path_, why);
  }

  file_descriptor file_;
  std::string path_;
  std::vector<std::byte> out_, payload_;  // the writing thread's

  std::mutex mutex_;
  std::condition_variable wake_;
  std::vector<entry> waiting_;
  std::size_t waiting_bytes_ = 0;
  bool stop_ = false, over_ = false;
  std::thread thread_;
};

class logged_backend final : public backend {
 public:
  logged_backend(std::unique_ptr<backend> inner, std::unique_ptr<log_writer> writer)
      : inner_(std::move(inner)), writer_(std::move(writer)) {}

  const rank_shape& shape() const override { return inner_->shape(); }
  result<void> launch(std::shared_ptr<const step_plan> plan) override {
    auto launched = inner_->launch(plan);
    if (launched) writer_->put(std::move(plan));
    return launched;
  }
  result<bool> poll(step_done& done) override {
    auto finished = inner_->poll(done);
    if (finished && *finished) writer_->put(done);
    return finished;
  }

 private:
  std::unique_ptr<backend> inner_;
  std::unique_ptr<log_writer> writer_;
};

}  // namespace

result<std::unique_ptr<backend>> with_plan_log(std::unique_ptr<backend> inner, const std::string& path,
                                               const plan_log_header& h) {
  // Prompts are in it: for its owner only.
  file_descriptor file(::open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600));
  if (file.get() < 0)
    return failure(errc::invalid_argument, "plan_log " + path + ": cannot be made: " + std::strerror(errno));
  auto writer = std::make_unique<log_writer>(std::move(file), path, h);
  return std::unique_ptr<backend>(new logged_backend(std::move(inner), std::move(writer)));
}

}  // namespace troupe::model

#include "src/link/remote_backend.hpp"

#include <poll.h>

#include <chrono>
#include <utility>

namespace troupe::link {
namespace {

class remote_backend final : public model::backend {
 public:
  remote_backend(std::shared_ptr<channel> link, model::rank_shape shape, std::function<std::string()> why_lost)
      : link_(std::move(link)),
        shape_(std::move(shape)),
        why_lost_(std::move(why_lost)),
        patience_(shape_.depth == 1 ? std::chrono::microseconds(1000) : std::chrono::microseconds(50)) {}

  const model::rank_shape& shape() const override { return shape_; }

  result<void> launch(std::shared_ptr<const model::step_plan> plan) override {
    if (auto sent = link_->post(kind::plan, plan->bytes()); !sent) return lost(sent.take_error());
    return {};
  }

  result<bool> poll(model::step_done& done) override {
    auto flushed = link_->flush();
    if (!flushed) return lost(flushed.take_error());
    auto got = link_->try_receive();
    if (got && !*got) {
      const short events = *flushed ? POLLIN : POLLIN | POLLOUT;
      if (!wait_for(link_->fd(), events, std::chrono::steady_clock::now() + patience_)) return false;
      got = link_->try_receive();
    }
    if (!got) return lost(got.take_error());
    return *got ? taken(**got, done) : result<bool>(false);
  }

 private:
  result<bool> taken(const frame& f, model::step_done& done) {
    if (f.kind == kind::failed) {
      auto said = decode<failed>(f.bytes);
      return failure(errc::rank_failed, link_->far() + ": " + (said ? said->text : said.error().message));
    }
    auto answer = f.kind == kind::done ? decode<model::step_done>(f.bytes)
                                       : failure(errc::rank_failed, "sent something else than the answer to a plan");
    if (answer && answer->seq != ++answered_)
      answer = failure(errc::rank_failed, "answered plan " + std::to_string(answer->seq) + " where plan " +
                                              std::to_string(answered_) + " was due");
    if (!answer) return failure(errc::rank_failed, link_->far() + ": " + answer.error().message);
    done = std::move(*answer);
    return true;
  }

  failure lost(failure f) const {
    if (const std::string why = why_lost_ ? why_lost_() : std::string(); !why.empty())
      f.message = link_->far() + ": " + why;
    return f;
  }

  std::shared_ptr<channel> link_;
  model::rank_shape shape_;
  std::function<std::string()> why_lost_;
  std::chrono::microseconds patience_;
  step_seq answered_ = 0;  ///< plans are numbered without gaps
};

}  // namespace

std::unique_ptr<model::backend> make_remote_backend(std::shared_ptr<channel> link, model::rank_shape shape,
                                                    std::function<std::string()> why_lost) {
  return std::make_unique<remote_backend>(std::move(link), std::move(shape), std::move(why_lost));
}

}  // namespace troupe::link

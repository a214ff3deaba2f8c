#include "actors/edge/answer.hpp"

#include <utility>

namespace troupe::edge {

class answer::sink final : public stream_sink {
 public:
  sink(std::shared_ptr<answer> a, std::size_t index) : answer_(std::move(a)), index_(index) {}
  void on_piece(piece&& p) override { answer_->on_piece(index_, std::move(p)); }
  void on_end(completion&& c) override { answer_->on_end(index_, std::move(c)); }

 private:
  std::shared_ptr<answer> answer_;
  std::size_t index_;
};

answer::answer(wire::api_request request, const std::string& id, const std::string& model, std::int64_t created, answer_owner& owner)
    : request_(std::move(request)),
      writer_(request_.kind, id, model, created, request_.stream && request_.include_usage),
      owner_(&owner),
      id_(id),
      choices_(request_.choices()) {}

std::optional<wire::api_error> answer::start(port& p, std::optional<std::chrono::steady_clock::time_point> deadline) {
  port_ = &p;
  request_.common.id = id_;
  request_.common.deadline = deadline;
  for (std::size_t i = 0; i < choices_.size(); ++i) {
    submitted s = p.submit(request_.take_choice(i), std::make_shared<sink>(shared_from_this(), i));
    if (!s) {
      abandon();
      return wire::to_api_error(s.error, std::move(s.message));
    }
    choices_[i].stream = s.stream;
    ++open_;
  }
  return {};
}

void answer::cancel_open() {
  if (!port_) return;
  for (auto& c : choices_)
    if (c.stream && !c.end) port_->cancel(c.stream);
}

void answer::abandon() {
  owner_ = nullptr;
  cancel_open();
  port_ = nullptr;
  open_ = 0;
}

void answer::on_piece(std::size_t index, piece&& p) {
  if (!owner_ || error_) return;
  choice& c = choices_[index];
  const auto n = static_cast<std::uint32_t>(p.tokens.size());
  if (!request_.stream) {
    c.text += p.text;
    port_->consumed(c.stream, n);
    return;
  }
  c.arrived += n;
  unacknowledged_ = unacknowledged_ || n;
  if (!p.text.empty()) {
    if (!begun_) {
      begun_ = true;
      for (std::uint32_t i = 0; i < choices_.size(); ++i) writer_.role(events_, i);
    }
    writer_.delta(events_, static_cast<std::uint32_t>(index), p.text);
  }
  owner_->notify();
}

void answer::on_end(std::size_t index, completion&& end) {
  if (!owner_ || error_ || choices_[index].end) return;
  choice& c = choices_[index];
  c.end = std::move(end);
  --open_;
  if (c.end->reason != finish_reason::stop && c.end->reason != finish_reason::length) {
    const std::error_code code = c.end->error ? c.end->error : make_error_code(errc::internal);
    fail(wire::to_api_error(code, c.end->message));
  } else if (request_.stream) {
    if (!begun_)
      for (std::uint32_t i = 0; i < choices_.size(); ++i) writer_.role(events_, i);
    begun_ = true;
    writer_.finish(events_, static_cast<std::uint32_t>(index), c.end->reason, c.end->stop_match);
    if (open_ == 0) {
      if (request_.include_usage) writer_.usage(events_, total());
      wire::append_done(events_);
    }
  }
  if (open_ == 0) begun_ = true;
  owner_->notify();
}

void answer::fail(wire::api_error e) {
  cancel_open();
  open_ = 0;
  error_ = std::move(e);
  if (!request_.stream || (!begun_ && !committed_)) return;  // nothing sent yet: the error can still be the response's status
  wire::append_error_event(events_, *error_);
  wire::append_done(events_);
}

void answer::take(std::string& out) {
  out += events_;
  events_.clear();
  for (auto& c : choices_) c.taken += std::exchange(c.arrived, 0);
  unacknowledged_ = false;
}

void answer::acknowledge() {
  for (auto& c : choices_) {
    const auto n = std::exchange(c.taken, 0);
    if (n && port_ && !c.end) port_->consumed(c.stream, n);
  }
}

troupe::usage answer::total() const {
  troupe::usage sum;
  for (std::size_t i = 0; i < choices_.size(); ++i) {
    const auto& u = choices_[i].end->usage;
    sum.completion_tokens += u.completion_tokens;
    if (i % request_.n != 0) continue;  // the choices of a prompt share it
    sum.prompt_tokens += u.prompt_tokens;
    sum.cached_tokens += u.cached_tokens;
  }
  return sum;
}

void answer::whole(std::string& out) const {
  std::vector<wire::choice_text> all;
  for (std::size_t i = 0; i < choices_.size(); ++i)
    all.push_back({static_cast<std::uint32_t>(i), choices_[i].text, choices_[i].end->reason, choices_[i].end->stop_match});
  writer_.whole(out, all, total());
}

}  // namespace troupe::edge

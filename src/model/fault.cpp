#include "src/model/fault.hpp"

#include <charconv>
#include <new>
#include <string>
#include <thread>
#include <utility>

namespace troupe::model {
namespace {

constexpr std::uint64_t longest_delay_ms = 86'400'000;

/// Takes a whole number off the front of `text`.
bool take_number(std::string_view& text, std::uint64_t& number) {
  const auto [end, code] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (code != std::errc()) return false;
  text.remove_prefix(static_cast<std::size_t>(end - text.data()));
  return true;
}

bool take_word(std::string_view& text, std::string_view word) {
  if (!text.starts_with(word)) return false;
  text.remove_prefix(word.size());
  return true;
}

bool parse_delay(std::string_view text, std::chrono::milliseconds& delay) {
  std::uint64_t number = 0;
  if (!take_number(text, number) || (text != "ms" && text != "s") || number > longest_delay_ms) return false;
  if (text == "s") number *= 1000;
  delay = std::chrono::milliseconds(number);
  return number <= longest_delay_ms;
}

class faulty_backend final : public backend {
 public:
  faulty_backend(std::unique_ptr<backend> inner, const fault& f) : inner_(std::move(inner)), fault_(f) {}

  const rank_shape& shape() const override { return inner_->shape(); }

  result<void> launch(std::shared_ptr<const step_plan> plan) override {
    const step_seq seq = plan->view().seq();
    if (fault_.what == fault_kind::no_memory && seq == fault_.step) throw std::bad_alloc();
    auto launched = inner_->launch(std::move(plan));
    if (launched && in_flight_++ == 0) oldest_ = seq;
    return launched;
  }

  result<bool> poll(step_done& done) override {
    if (in_flight_ && (oldest_ == fault_.step || (fault_.lasting && oldest_ > fault_.step))) {
      if (fault_.what == fault_kind::fail)
        return failure(errc::rank_failed, "step " + std::to_string(oldest_) + " failed on purpose (inject_fault)");
      while (fault_.what == fault_kind::freeze) std::this_thread::sleep_for(std::chrono::hours(1));
      if (fault_.what == fault_kind::hang) {
        std::this_thread::sleep_for(std::chrono::milliseconds(1));  // whoever polls in a loop shall not burn a core
        return false;
      }
      if (fault_.what == fault_kind::slow && std::exchange(delayed_, oldest_) != oldest_) std::this_thread::sleep_for(fault_.delay);
    }
    auto finished = inner_->poll(done);
    if (finished && *finished) --in_flight_, ++oldest_;  // plans are numbered without gaps
    return finished;
  }

 private:
  std::unique_ptr<backend> inner_;
  fault fault_;
  step_seq oldest_ = 0;  ///< of the plans in flight, if there are any
  std::uint32_t in_flight_ = 0;
  step_seq delayed_ = 0;  ///< the last step that was slowed down
};

}  // namespace

result<fault> parse_fault(std::string_view text) {
  const failure wrong(errc::invalid_argument, "'" + std::string(text) +
                                                  "' is no fault: use step=N:fail, step=N:no-memory, step=N:slow=500ms, "
                                                  "step=N+:slow=500ms, step=N:hang or step=N:freeze, with rank=R: before it for "
                                                  "another rank than the first");
  fault f;
  if (take_word(text, "rank=")) {
    std::uint64_t rank = 0;
    if (!take_number(text, rank) || rank > 0xffff || !take_word(text, ":")) return wrong;
    f.rank = static_cast<std::uint32_t>(rank);
  }
  if (!take_word(text, "step=") || !take_number(text, f.step) || f.step == 0) return wrong;
  f.lasting = take_word(text, "+");
  if (!take_word(text, ":")) return wrong;
  if (text == "fail") f.what = fault_kind::fail;
  else if (text == "no-memory") f.what = fault_kind::no_memory;
  else if (text == "hang") f.what = fault_kind::hang;
  else if (text == "freeze") f.what = fault_kind::freeze;
  else if (take_word(text, "slow=") && parse_delay(text, f.delay)) f.what = fault_kind::slow;
  else return wrong;
  if (f.lasting && f.what != fault_kind::slow) return wrong;
  return f;
}

std::unique_ptr<backend> with_fault(std::unique_ptr<backend> inner, const fault& f) {
  return std::make_unique<faulty_backend>(std::move(inner), f);
}

}  // namespace troupe::model

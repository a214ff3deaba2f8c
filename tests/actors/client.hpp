#pragma once
#include <boost/test/unit_test.hpp>
#include <chrono>
#include <map>
#include <memory>
#include <semaphore>
#include <string>
#include <vector>

#include <troupe/engine.hpp>

/// An embedding program's end of an engine: a port on the calling thread.
namespace troupe::test {

inline const std::string tiny_model = std::string(TROUPE_TEST_DATA) + "/model/llama-bias/model-bf16.gguf";
inline constexpr std::int32_t tiny_vocab = 448;

inline engine_options tiny_options() {
  engine_options o;
  o.model = tiny_model;
  o.threads = 1;
  return o;
}

struct answer final : stream_sink {
  void on_piece(piece&& p) override {
    text += p.text;
    tokens.insert(tokens.end(), p.tokens.begin(), p.tokens.end());
  }
  void on_end(completion&& c) override {
    BOOST_TEST(!ended);
    ended = true;
    end = std::move(c);
  }
  std::string text;
  std::vector<std::int32_t> tokens;
  bool ended = false;
  completion end;
};
using answer_ptr = std::shared_ptr<answer>;

class client {
 public:
  explicit client(engine& e) : port_(e.open_port({[](void* s) noexcept { static_cast<client*>(s)->woken_.release(); }, this})) {}

  answer_ptr submit(request r) {
    auto sink = std::make_shared<answer>();
    const submitted s = port_->submit(std::move(r), sink);
    BOOST_REQUIRE_MESSAGE(bool(s), s.message);
    streams_[sink.get()] = s.stream;
    return sink;
  }
  submitted try_submit(request r) { return port_->submit(std::move(r), std::make_shared<answer>()); }
  void cancel(const answer_ptr& a) { port_->cancel(streams_.at(a.get())); }

  /// Delivers until `done()`; false when the time is up first.
  template <class F>
  bool run_until(F done, std::chrono::seconds limit = std::chrono::seconds(120)) {
    const auto until = std::chrono::steady_clock::now() + limit;
    for (;;) {
      port_->poll();
      if (done()) return true;
      if (!woken_.try_acquire_until(until)) return false;
    }
  }
  bool run(std::chrono::seconds limit = std::chrono::seconds(120)) {
    return run_until([this] { return port_->open_streams() == 0; }, limit);
  }
  answer_ptr ask(request r) {
    auto a = submit(std::move(r));
    BOOST_REQUIRE(run());
    return a;
  }

 private:
  std::counting_semaphore<> woken_{0};
  std::map<answer*, stream_id> streams_;
  std::unique_ptr<port> port_;
};

/// A request of `n_prompt` token ids that differ by `kind`, answered greedily to its full length.
inline request tokens_request(std::uint32_t kind, std::uint32_t n_prompt, std::uint32_t max_tokens) {
  std::vector<std::int32_t> prompt(n_prompt);
  for (std::uint32_t i = 0; i < n_prompt; ++i) prompt[i] = static_cast<std::int32_t>(3 + (i * (7 + 2 * kind) + kind * 31) % (tiny_vocab - 3));
  request r;
  r.prompt = std::move(prompt);
  r.sampling.temperature = 0;
  r.max_tokens = max_tokens;
  r.ignore_eos = true;
  return r;
}

/// A sample of the engine's metrics.
inline double metric(const engine& e, const std::string& name) {
  const std::string text = e.metrics();
  for (std::size_t at = text.find("\n" + name); at != std::string::npos; at = text.find("\n" + name, at + 1)) {
    const std::size_t end = text.find('\n', at + 1);
    const std::string line = text.substr(at + 1, end - at - 1);
    if (line.size() > name.size() && (line[name.size()] == ' ' || line[name.size()] == '{')) return std::stod(line.substr(line.rfind(' ') + 1));
  }
  BOOST_ERROR("no metric " + name);
  return 0;
}

}  // namespace troupe::test

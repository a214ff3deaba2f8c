#pragma once
#include <cstdint>
#include <cstdlib>
#include <fstream>
#include <map>
#include <memory>
#include <sstream>
#include <string>
#include <vector>

#include "src/model/backend.hpp"
#include "src/model/open_model.hpp"
#include "src/model/step_plan.hpp"

/// Drives a backend with hand-built plans, as the scheduler would.
namespace troupe::test {

/// Keeps the logits of every position; sink number n belongs to slot n.
class recorder final : public model::sink_table {
 public:
  struct sink final : logits_sink {
    std::map<std::uint32_t, std::vector<float>> rows;
    void on_logits(std::uint32_t position, std::span<const float> logits) override {
      rows[position].assign(logits.begin(), logits.end());
    }
  };
  std::shared_ptr<logits_sink> find(std::uint32_t n) override { return at(n); }
  std::shared_ptr<sink> at(std::uint32_t n) {
    auto& s = sinks_[n];
    if (!s) s = std::make_shared<sink>();
    return s;
  }
  void forget(std::uint32_t n) { sinks_.erase(n); }
  const std::map<std::uint32_t, std::shared_ptr<sink>>& all() const { return sinks_; }

 private:
  std::map<std::uint32_t, std::shared_ptr<sink>> sinks_;
};

class backend_driver {
 public:
  /// `make` gets the recorder and gives the backend.
  template <class Make>
  explicit backend_driver(Make&& make) : sinks(std::make_shared<recorder>()), backend(make(sinks)) {
    const std::uint32_t n = backend->shape().n_pages[0];
    for (std::uint32_t p = n; p-- > 0;) free_.push_back(p);
  }

  /// The order in which pages are given out from now on.
  template <class Random>
  void shuffle_pages(Random& random) {
    for (std::size_t i = free_.size(); i > 1; --i) std::swap(free_[i - 1], free_[random() % i]);
  }

  void admit(slot_id slot, const sampling_params& p, std::vector<token_id> prompt = {}) {
    if (slot >= tables_.size()) tables_.resize(slot + 1);
    auto& a = plan.admit(slot, p, p.seed.value_or(0));
    a.prompt_length = static_cast<std::uint32_t>(prompt.size());
    a.history_offset = static_cast<std::uint32_t>(plan.tokens.size());
    a.history_count = a.prompt_length;
    plan.tokens.insert(plan.tokens.end(), prompt.begin(), prompt.end());
  }
  void release(slot_id slot) {
    plan.releases.push_back(slot);
    for (page_id p : tables_[slot]) free_.push_back(p);
    tables_[slot].clear();
  }
  void chunk(slot_id slot, std::uint32_t position, std::span<const token_id> ids, model::row_output output) {
    model::plan_row r{};
    r.slot = slot;
    r.kind = model::row_kind::chunk;
    r.output = output;
    r.position = position;
    r.n_tokens = static_cast<std::uint32_t>(ids.size());
    r.token_offset = static_cast<std::uint32_t>(plan.tokens.size());
    r.sink = slot;
    plan.tokens.insert(plan.tokens.end(), ids.begin(), ids.end());
    grow(slot, position + r.n_tokens);
    plan.rows.push_back(r);
  }
  void decode(slot_id slot, std::uint32_t position) {
    model::plan_row r{};
    r.slot = slot;
    r.kind = model::row_kind::decode;
    r.input = model::row_input::last_token;
    r.output = model::row_output::sample;
    r.position = position;
    r.n_tokens = 1;
    grow(slot, position + 1);
    plan.rows.push_back(r);
  }
  /// Runs what was collected; the token of each slot that drew one.
  std::map<slot_id, token_id> step() {
    launch();
    return finish();
  }
  void launch() {
    backend->launch(plan.build(++seq_)).value();
    plan.clear();
  }
  std::map<slot_id, token_id> finish() {
    done_.rows.clear();
    while (!backend->poll(done_).value()) {
    }
    std::map<slot_id, token_id> out;
    for (const auto& r : done_.rows)
      if (r.token >= 0) out[r.slot] = r.token;
    return out;
  }
  /// Has decode steps of up to n rows captured.
  void warm_up(std::uint32_t n) {
    launch_warm_up(n);
    finish();
  }
  void launch_warm_up(std::uint32_t n) {
    plan.graph = {n, n, 0};
    backend->launch(plan.build(++seq_, model::plan_kind::warm_up)).value();
    plan.clear();
  }
  /// The row added last waits for a mask.
  void gate(std::uint32_t gate_id) {
    plan.rows.back().gate = model::row_gate::mask;
    plan.rows.back().gate_id = gate_id;
  }
  const model::step_done& done() const { return done_; }
  const std::vector<page_id>& table(slot_id slot) const { return tables_[slot]; }

  /// Teacher-forced logits of every position, fed in chunks.
  std::vector<std::vector<float>> logits(std::span<const token_id> ids, std::size_t chunk_size) {
    sinks->forget(0);
    admit(0, {});
    for (std::size_t at = 0; at < ids.size(); at += chunk_size) {
      chunk(0, static_cast<std::uint32_t>(at), ids.subspan(at, std::min(chunk_size, ids.size() - at)),
            model::row_output::logits);
      step();
    }
    release(0);
    step();
    std::vector<std::vector<float>> out;
    for (auto& [position, row] : sinks->at(0)->rows) out.push_back(row);
    return out;
  }

  std::vector<token_id> generate(std::span<const token_id> ids, std::size_t n, const sampling_params& p,
                                 std::size_t chunk_size = 1 << 20) {
    admit(0, p, {ids.begin(), ids.end()});
    std::vector<token_id> out;
    for (std::size_t at = 0; at < ids.size(); at += chunk_size) {
      const auto part = ids.subspan(at, std::min(chunk_size, ids.size() - at));
      const bool last = at + part.size() == ids.size();
      chunk(0, static_cast<std::uint32_t>(at), part, last ? model::row_output::sample : model::row_output::none);
      const auto drawn = step();
      if (last) out.push_back(drawn.at(0));
    }
    while (out.size() < n) {
      decode(0, static_cast<std::uint32_t>(ids.size() + out.size() - 1));
      out.push_back(step().at(0));
    }
    release(0);
    step();
    return out;
  }

  std::shared_ptr<recorder> sinks;
  std::unique_ptr<model::backend> backend;
  model::plan_builder plan;

 private:
  void grow(slot_id slot, std::uint32_t n_tokens) {
    auto& t = tables_[slot];
    while (t.size() * page_tokens < n_tokens) {
      plan.deltas.push_back({slot, 0, static_cast<std::uint32_t>(t.size()), free_.back()});
      t.push_back(free_.back());
      free_.pop_back();
    }
  }
  std::vector<page_id> free_;
  std::vector<std::vector<page_id>> tables_;
  step_seq seq_ = 0;
  model::step_done done_;
};

inline std::string data(const std::string& name) { return std::string(TROUPE_TEST_DATA) + "/model/" + name; }

inline std::vector<std::vector<token_id>> read_ids(const std::string& path) {
  std::vector<std::vector<token_id>> out;
  std::ifstream in(path);
  for (std::string line; std::getline(in, line);) {
    std::istringstream words(line);
    out.emplace_back();
    for (token_id t; words >> t;) out.back().push_back(t);
  }
  return out;
}

inline std::vector<std::uint16_t> read_u16(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  std::vector<char> bytes((std::istreambuf_iterator<char>(in)), {});
  std::vector<std::uint16_t> out(bytes.size() / 2);
  std::memcpy(out.data(), bytes.data(), out.size() * 2);
  return out;
}

/// $TROUPE_MODELS/NAME, else ~/.cache/troupe/models/NAME.
inline std::string real_model(const std::string& name) {
  if (const char* folder = std::getenv("TROUPE_MODELS")) return std::string(folder) + "/" + name;
  const char* home = std::getenv("HOME");
  return std::string(home ? home : "") + "/.cache/troupe/models/" + name;
}

}  // namespace troupe::test

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

#include "src/cpu/cpu_backend.hpp"
#include "src/model/step_plan.hpp"

// Speed of the CPU backend without an engine around it: prompt processing and generation, in tokens per second.
//   perf_decoder MODEL [-p 512] [-n 128] [-d 0] [-b 1] [-t 0] [-r 3] [--kv f16|bf16|f32]
// -d: tokens in the cache before; -b: sequences decoded together. Prints the median of -r runs.

using namespace troupe;

namespace {

struct arguments {
  std::string model;
  std::uint32_t prompt = 512, generate = 128, depth = 0, batch = 1, threads = 0, repeats = 3, ubatch = 512;
  cpu::kv_dtype kv = cpu::kv_dtype::f16;
};

arguments parse(int argc, char** argv) {
  arguments a;
  for (int i = 1; i < argc; ++i) {
    const std::string word = argv[i];
    const auto number = [&] { return i + 1 < argc ? static_cast<std::uint32_t>(std::atoi(argv[++i])) : 0u; };
    if (word == "-p") a.prompt = number();
    else if (word == "-n") a.generate = number();
    else if (word == "-d") a.depth = number();
    else if (word == "-b") a.batch = number();
    else if (word == "-t") a.threads = number();
    else if (word == "-r") a.repeats = number();
    else if (word == "-u") a.ubatch = number();
    else if (word == "--kv" && i + 1 < argc) {
      const std::string t = argv[++i];
      a.kv = t == "f32" ? cpu::kv_dtype::f32 : t == "bf16" ? cpu::kv_dtype::bf16 : cpu::kv_dtype::f16;
    } else a.model = word;
  }
  return a;
}

class machine {
 public:
  machine(const arguments& a, std::shared_ptr<const model::model> m) : a_(a) {
    cpu::cpu_options o;
    o.threads = a.threads;
    o.kv = a.kv;
    o.max_slots = a.batch;
    o.max_batched_tokens = std::max(a.ubatch, a.batch);
    pages_each_ = (a.depth + a.prompt + a.generate) / page_tokens + 2;
    o.n_pages = pages_each_ * a.batch;
    o.max_model_len = pages_each_ * page_tokens;
    vocab_ = m->config.vocab;
    backend_ = cpu::make_cpu_backend(std::move(m), o, nullptr).value();
  }
  void admit() {
    for (slot_id s = 0; s < a_.batch; ++s) {
      if (admitted_) plan_.releases.push_back(s);
      sampling_params p;
      p.temperature = 0;
      plan_.admit(s, p, 0);
      for (std::uint32_t i = 0; i < pages_each_; ++i) plan_.deltas.push_back({s, 0, i, s * pages_each_ + i});
    }
    admitted_ = true;
  }
  void prefill(slot_id s, std::uint32_t position, std::uint32_t n, bool sample) {
    while (n > 0) {
      const std::uint32_t part = std::min(n, a_.ubatch);
      model::plan_row r{};
      r.slot = s;
      r.kind = model::row_kind::chunk;
      r.output = sample && part == n ? model::row_output::sample : model::row_output::none;
      r.position = position;
      r.n_tokens = part;
      r.token_offset = static_cast<std::uint32_t>(plan_.tokens.size());
      for (std::uint32_t i = 0; i < part; ++i)
        plan_.tokens.push_back(static_cast<token_id>((position + i) * 7919u % vocab_));
      plan_.rows.push_back(r);
      step();
      position += part;
      n -= part;
    }
  }
  void decode(std::uint32_t position) {
    for (slot_id s = 0; s < a_.batch; ++s) {
      model::plan_row r{};
      r.slot = s;
      r.input = model::row_input::last_token;
      r.output = model::row_output::sample;
      r.position = position;
      r.n_tokens = 1;
      plan_.rows.push_back(r);
    }
    step();
  }

 private:
  void step() {
    backend_->launch(plan_.build(++seq_)).value();
    plan_.clear();
    backend_->poll(done_).value();
  }
  arguments a_;
  std::uint32_t pages_each_, vocab_;
  std::unique_ptr<model::backend> backend_;
  model::plan_builder plan_;
  model::step_done done_;
  step_seq seq_ = 0;
  bool admitted_ = false;
};

double seconds_since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}
double median(std::vector<double> x) {
  std::sort(x.begin(), x.end());
  return x[x.size() / 2];
}

}  // namespace

int main(int argc, char** argv) {
  const arguments a = parse(argc, argv);
  auto opened = model::open_model(a.model);
  if (!opened) {
    std::fprintf(stderr, "%s\n", opened.error().message.c_str());
    return 2;
  }
  const auto start = std::chrono::steady_clock::now();
  machine m(a, *opened);
  std::printf("load and pack: %.1f ms\n", seconds_since(start) * 1e3);
  std::vector<double> prompt, generate;
  for (std::uint32_t round = 0; round <= a.repeats; ++round) {  // the first one warms up
    m.admit();
    for (slot_id s = 0; s < a.batch; ++s) m.prefill(s, 0, a.depth, false);
    const auto t0 = std::chrono::steady_clock::now();
    for (slot_id s = 0; s < a.batch; ++s) m.prefill(s, a.depth, std::max(1u, a.prompt), true);
    const double p = seconds_since(t0);
    const auto t1 = std::chrono::steady_clock::now();
    for (std::uint32_t i = 0; i < a.generate; ++i) m.decode(a.depth + std::max(1u, a.prompt) + i);
    const double g = seconds_since(t1);
    if (round == 0) continue;
    prompt.push_back(a.batch * a.prompt / p);
    generate.push_back(a.batch * a.generate / g);
  }
  if (a.prompt) std::printf("pp%u@%u  %.1f tokens/s\n", a.prompt, a.depth, median(prompt));
  if (a.generate) std::printf("tg%u@%u x%u  %.1f tokens/s\n", a.generate, a.depth + a.prompt, a.batch, median(generate));
}

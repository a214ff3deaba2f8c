#include <algorithm>
#include <boost/json.hpp>
#include <chrono>
#include <cstdio>
#include <random>
#include <unistd.h>

#include "src/model/locate.hpp"
#include "src/model/open_model.hpp"
#include "tools/blocking_client.hpp"
#include "tools/cli.hpp"
#include "tools/rank.hpp"

namespace troupe::cli {
namespace {

using clock = std::chrono::steady_clock;

struct arguments {
  engine_options engine;
  std::vector<std::uint32_t> prompts{512}, generations{128}, depths{0}, batches;
  unsigned repetitions = 5;
  std::string format = "md";
  bool json = false;
};

struct row {
  std::string test;
  std::uint32_t n_prompt, n_gen, depth, batch;
  std::vector<double> samples;  // tokens per second
  double median() const {
    auto s = samples;
    std::sort(s.begin(), s.end());
    return s.empty() ? 0 : s.size() % 2 ? s[s.size() / 2] : (s[s.size() / 2 - 1] + s[s.size() / 2]) / 2;
  }
};

/// Requests of random ids, measured from outside like any client: prompt speed from submission to the first token,
/// generation speed between the first and the last.
class bench {
 public:
  bench(engine& e) : engine_(e), client_(e), random_(42) {}

  double prompt_rate(std::uint32_t n) {
    // A prompt that fills the context leaves no room for a token: it ends with its last layer.
    const bool fills = n == engine_.info().max_model_len;
    const auto start = clock::now();
    const auto times = run(n, fills ? 0 : 1, 1);
    return n / seconds((fills ? times.ended : times.first_of_all) - start);
  }
  double generation_rate(std::uint32_t n, std::uint32_t depth, std::uint32_t batch) {
    const auto times = run(std::max(depth, 1u), n + 1, batch);
    return double(n) * batch / seconds(times.last - times.all_started);
  }

 private:
  struct moments {
    clock::time_point first_of_all, all_started, last, ended;
  };

  static double seconds(clock::duration d) { return std::chrono::duration<double>(d).count(); }

  moments run(std::uint32_t n_prompt, std::uint32_t n_gen, std::uint32_t batch) {
    moments m{};
    std::uint32_t started = 0;
    for (std::uint32_t i = 0; i < batch; ++i) {
      request r;
      std::vector<std::int32_t> ids(n_prompt);
      for (auto& id : ids) id = static_cast<std::int32_t>(random_() % engine_.info().vocab);
      r.prompt = std::move(ids);
      r.max_tokens = n_gen;
      r.ignore_eos = true;
      r.sampling.temperature = 0;
      auto first = std::make_shared<bool>(true);
      client_.submit(std::move(r), {[&, first](piece&& p) {
                                      if (p.tokens.empty()) return;
                                      m.last = clock::now();
                                      if (!std::exchange(*first, false)) return;
                                      if (started++ == 0) m.first_of_all = m.last;
                                      if (started == batch) m.all_started = m.last;
                                    },
                                    [&](completion&& c) {
                                      m.ended = clock::now();
                                      if (c.error) throw error(static_cast<errc>(c.error.value()), c.message);
                                    }});
    }
    while (client_.wait()) {
    }
    return m;
  }

  engine& engine_;
  blocking_client client_;
  std::mt19937 random_;
};

std::uint64_t context_of(const engine_options& o) {
  const auto m = o.load_format == "dummy" ? model::open_dummy_model(o.model) : model::open_model(model::locate_model(o.model).value());
  return model::longest_sequence(m.value()->config);
}

std::vector<row> make_rows(const arguments& a) {
  std::vector<row> rows;
  for (auto n : a.prompts)
    if (n) rows.push_back({"pp" + std::to_string(n), n, 0, 0, 1, {}});
  for (auto n : a.generations)
    for (auto d : a.depths)
      if (n) rows.push_back({"tg" + std::to_string(n) + (d ? "@" + std::to_string(d) : ""), 0, n, d, 1, {}});
  for (auto b : a.batches)
    if (b) rows.push_back({"batch" + std::to_string(b), 0, a.generations.empty() ? 128 : a.generations.front(), 0, b, {}});
  return rows;
}

void print(const std::vector<row>& rows, const arguments& a, const model_info& info) {
  if (a.json || a.format == "json") {
    boost::json::array out;
    for (const row& r : rows) {
      boost::json::object o{{"test", r.test},   {"n_prompt", r.n_prompt}, {"n_gen", r.n_gen},    {"depth", r.depth},
                            {"batch", r.batch}, {"threads", info.threads}, {"median", r.median()}};
      o["samples"] = boost::json::value_from(r.samples);
      out.push_back(std::move(o));
    }
    std::puts(boost::json::serialize(out).c_str());
    return;
  }
  const bool csv = a.format == "csv";
  std::puts(csv ? "model,isa,threads,test,median_tokens_per_second,min,max"
                : "| model | isa | threads | test | tokens/s | range |\n| --- | --- | --: | --- | --: | --- |");
  for (const row& r : rows) {
    auto [low, high] = std::minmax_element(r.samples.begin(), r.samples.end());
    std::printf(csv ? "%s,%s,%u,%s,%.2f,%.2f,%.2f\n" : "| %s | %s | %u | %s | %.2f | %.2f – %.2f |\n", info.name.c_str(),
                info.isa.c_str(), info.threads, r.test.c_str(), r.median(), *low, *high);
  }
}

int run(arguments& a) {
  if (auto code = act_as_rank(a.engine)) return *code;
  auto rows = make_rows(a);
  std::uint32_t need = 0, longest_prompt = 0, batch = 1;
  for (const row& r : rows) {
    if (r.n_prompt)
      longest_prompt = std::max(longest_prompt, r.n_prompt);
    else
      need = std::max(need, std::max(r.depth, 1u) + r.n_gen + 1);
    batch = std::max(batch, r.batch);
  }
  if (!a.engine.max_model_len) {
    // A prompt is followed by one token, except where the model's context ends with it.
    const bool fills = longest_prompt && longest_prompt >= context_of(a.engine);
    a.engine.max_model_len = std::max(need, longest_prompt + !fills);
  }
  a.engine.max_num_seqs = std::max(batch, 1u);
  a.engine.max_requests = std::max(a.engine.max_requests, batch);
  engine e = engine::open(a.engine);
  bench b(e);
  const bool terminal = isatty(STDERR_FILENO);
  for (row& r : rows) {
    for (unsigned i = 0; i <= a.repetitions; ++i) {
      if (terminal) std::fprintf(stderr, "\r%s %u/%u   ", r.test.c_str(), i, a.repetitions);
      const double rate = r.n_prompt ? b.prompt_rate(r.n_prompt) : b.generation_rate(r.n_gen, r.depth, r.batch);
      if (i > 0) r.samples.push_back(rate);  // the first run warms caches up
    }
  }
  if (terminal) std::fputs("\r\033[K", stderr);
  print(rows, a, e.info());
  return 0;
}

}  // namespace

void add_bench(CLI::App& app, int& exit_code) {
  auto a = std::make_shared<arguments>();
  CLI::App* c = app.add_subcommand("bench", "prompt processing (pp) and generation (tg) speed through the whole engine");
  add_engine_options(*c, a->engine);
  c->add_flag("--warm-up", a->engine.warm_up, "capture all graphs first (GPU), so that batches are measured as a running server has them");
  c->add_option("-p,--prompt", a->prompts, "prompt lengths")->delimiter(',')->capture_default_str();
  c->add_option("-n,--generate", a->generations, "tokens to generate")->delimiter(',')->capture_default_str();
  c->add_option("-d,--depth", a->depths, "context before generation starts")->delimiter(',')->capture_default_str();
  c->add_option("-b,--batch", a->batches, "parallel sequences")->delimiter(',');
  c->add_option("-r,--repetitions", a->repetitions, "runs of each test, after one to warm up")->check(CLI::Range(1, 1000))->capture_default_str();
  c->add_option("-o,--output", a->format, "form of the table")->check(CLI::IsMember({"md", "csv", "json"}))->capture_default_str();
  c->add_flag("--json", a->json, "the same as -o json");
  c->callback([a, &exit_code] { exit_code = run(*a); });
}

}  // namespace troupe::cli

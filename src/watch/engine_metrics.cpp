#include "src/watch/engine_metrics.hpp"

#include <array>
#include <limits>
#include <locale>
#include <sstream>
#include <utility>
#include <vector>

#include <prometheus/metric_family.h>
#include <prometheus/text_serializer.h>

namespace troupe::watch {
namespace {

using prometheus::ClientMetric;
using prometheus::MetricFamily;
using prometheus::MetricType;
using label_list = std::vector<ClientMetric::Label>;

// vLLM's edges, so that dashboards made for it keep their buckets; finer ones are added below 10 ms, where its own are
// coarser than a step of a small model.
constexpr std::array first_token_bounds{.001, .005, .01, .02, .04, .06, .08, .1, .25, .5, .75,
                                        1., 2.5, 5., 7.5, 10., 20., 40., 80., 160., 640., 2560.};
constexpr std::array token_bounds{.001, .0025, .005, .0075, .01, .025, .05, .075, .1, .15, .2, .3, .4, .5, .75,
                                  1., 2.5, 5., 7.5, 10., 20., 40., 80.};
constexpr std::array request_bounds{.3, .5, .8, 1., 1.5, 2., 2.5, 5., 10., 15., 20., 30., 40., 50., 60., 120., 240.,
                                    480., 960., 1920., 7680.};
constexpr std::array step_token_bounds{1., 8., 16., 32., 64., 128., 256., 512., 1024., 2048., 4096., 8192., 16384.};
constexpr std::array host_bounds{.00001, .00002, .00005, .0001, .0002, .0005, .001, .002, .005, .01, .1, 1.};
constexpr std::array step_bounds{.0001, .00025, .0005, .001, .0025, .005, .0075, .01, .025, .05, .075, .1, .25, .5, 1., 2.5, 5., 10.};

// 1, 2, 5, 10, 20, … up to and with `last`.
std::vector<double> one_two_five(std::uint32_t last) {
  std::vector<double> out;
  for (std::uint64_t decade = 1;; decade *= 10)
    for (std::uint64_t step : {1, 2, 5}) {
      if (decade * step > last) {
        if (out.empty()) out.push_back(1);
        return out;
      }
      out.push_back(static_cast<double>(decade * step));
    }
}

class exposition {
 public:
  explicit exposition(const engine_labels& l) : common_{{"model_name", l.model_name}, {"engine", "0"}} {}

  void family(std::string name, std::string help, MetricType type) {
    families_.push_back({std::move(name), std::move(help), type, {}});
  }
  void add(const counter& c, label_list extra = {}) { series(std::move(extra)).counter.value = static_cast<double>(c.value()); }
  void add(double v, label_list extra = {}) { series(std::move(extra)).gauge.value = v; }
  void add(const histogram& h) {
    auto& out = series({}).histogram;
    std::uint64_t seen = 0;
    for (std::size_t i = 0; i <= h.bounds().size(); ++i) {
      seen += h.count(i);
      const double bound = i < h.bounds().size() ? h.bounds()[i] : std::numeric_limits<double>::infinity();
      out.bucket.push_back({seen, bound});
    }
    out.sample_count = seen;
    out.sample_sum = h.sum();
  }

  void one(const char* name, const char* help, const counter& c) { family(name, help, MetricType::Counter), add(c); }
  void one(const char* name, const char* help, const gauge& g) { family(name, help, MetricType::Gauge), add(g.value()); }
  void one(const char* name, const char* help, const histogram& h) { family(name, help, MetricType::Histogram), add(h); }

  std::string text() const {
    std::ostringstream out;
    out.imbue(std::locale::classic());  // the host program's locale must not turn 0.5 into 0,5
    prometheus::TextSerializer().Serialize(out, families_);
    return std::move(out).str();
  }

 private:
  ClientMetric& series(label_list extra) {
    ClientMetric m;
    m.label = common_;
    for (auto& l : extra) m.label.push_back(std::move(l));
    families_.back().metric.push_back(std::move(m));
    return families_.back().metric.back();
  }
  label_list common_;
  std::vector<MetricFamily> families_;
};

}  // namespace

engine_metrics::engine_metrics(engine_labels l)
    : time_to_first_token(first_token_bounds),
      inter_token_latency(token_bounds),
      time_per_output_token(token_bounds),
      e2e_latency(request_bounds),
      queue_time(request_bounds),
      prefill_time(request_bounds),
      decode_time(request_bounds),
      inference_time(request_bounds),
      request_prompt_tokens(one_two_five(l.max_model_len)),
      request_generation_tokens(one_two_five(l.max_model_len)),
      request_max_tokens(one_two_five(l.max_model_len)),
      step_tokens(step_token_bounds),
      step_seconds(step_bounds),
      step_host_seconds(host_bounds),
      labels_(std::move(l)) {}

void engine_metrics::finished(finish_reason r) noexcept {
  switch (r) {
    case finish_reason::none: break;
    case finish_reason::stop: finished_stop.add(); break;
    case finish_reason::length: finished_length.add(); break;
    case finish_reason::cancelled: finished_abort.add(); break;
    case finish_reason::error: finished_error.add(); break;
  }
}

std::string engine_metrics::expose() const {
  exposition e(labels_);
  e.one("vllm:num_requests_running", "Sequences in the running batch.", requests_running);
  e.one("vllm:num_requests_waiting", "Requests that wait for the batch.", requests_waiting);
  e.one("vllm:kv_cache_usage_perc", "Used share of the KV cache, 0 to 1.", kv_cache_usage);
  e.family("vllm:cache_config_info", "Shape of the KV cache; the value is always 1.", MetricType::Gauge);
  e.add(1.0, {{"block_size", std::to_string(labels_.page_tokens)},
              {"cache_dtype", labels_.cache_dtype},
              {"num_gpu_blocks", std::to_string(labels_.n_pages)},
              {"enable_prefix_caching", labels_.prefix_caching ? "True" : "False"}});

  e.one("vllm:prompt_tokens_total", "Prompt tokens taken in, cached ones included.", prompt_tokens);
  e.one("vllm:prompt_tokens_cached_total", "Prompt tokens whose keys and values were found in the cache.", prompt_tokens_cached);
  e.one("vllm:generation_tokens_total", "Tokens delivered to streams.", generation_tokens);
  e.one("vllm:prefix_cache_queries_total", "Tokens looked up in the prefix cache.", prefix_queries);
  e.one("vllm:prefix_cache_hits_total", "Tokens found in the prefix cache.", prefix_hits);
  e.one("vllm:num_preemptions_total", "Sequences that lost their pages and were computed again.", preemptions);
  e.family("vllm:admission_rejections_total", "Requests refused before they were encoded.", MetricType::Counter);
  e.add(rejected_overloaded, {{"reason", "capacity"}});
  e.add(rejected_draining, {{"reason", "draining"}});
  e.family("vllm:request_success_total", "Finished requests by reason.", MetricType::Counter);
  e.add(finished_stop, {{"finished_reason", "stop"}});
  e.add(finished_length, {{"finished_reason", "length"}});
  e.add(finished_abort, {{"finished_reason", "abort"}});
  e.add(finished_error, {{"finished_reason", "error"}});

  e.one("vllm:time_to_first_token_seconds", "From arrival to the first token.", time_to_first_token);
  e.one("vllm:inter_token_latency_seconds", "Between two tokens of a request.", inter_token_latency);
  e.one("vllm:request_time_per_output_token_seconds", "Mean time per output token of a request.", time_per_output_token);
  e.one("vllm:time_per_output_token_seconds", "Older name of request_time_per_output_token_seconds.", time_per_output_token);
  e.one("vllm:e2e_request_latency_seconds", "From arrival to the end.", e2e_latency);
  e.one("vllm:request_queue_time_seconds", "From arrival to the first step.", queue_time);
  e.one("vllm:request_prefill_time_seconds", "From the first step to the first token.", prefill_time);
  e.one("vllm:request_decode_time_seconds", "From the first token to the last.", decode_time);
  e.one("vllm:request_inference_time_seconds", "From the first step to the last token.", inference_time);
  e.one("vllm:request_prompt_tokens", "Prompt tokens of a request.", request_prompt_tokens);
  e.one("vllm:request_generation_tokens", "Output tokens of a request.", request_generation_tokens);
  e.one("vllm:request_params_max_tokens", "max_tokens of a request.", request_max_tokens);
  e.one("vllm:iteration_tokens_total", "Tokens of a step.", step_tokens);

  e.one("troupe:num_requests_parked", "Sequences whose reader is behind.", requests_parked);
  e.one("troupe:kv_waste_perc", "Unused share of the slots in live pages, 0 to 1.", kv_waste);
  e.one("troupe:steps_total", "Steps done.", steps);
  e.one("troupe:waste_tokens_total", "Tokens computed past a stop or for a cancelled request.", waste_tokens);
  e.one("troupe:recomputed_tokens_total", "Tokens computed again after a preemption.", recomputed_tokens);
  e.family("troupe:step_rows_total", "Rows of steps by kind.", MetricType::Counter);
  e.add(chunk_rows, {{"kind", "chunk"}});
  e.add(decode_rows, {{"kind", "decode"}});
  e.one("troupe:step_seconds", "A step on rank 0, captures of graphs not counted.", step_seconds);
  e.one("troupe:step_host_seconds", "Host time of a step: to plan it, to launch it on rank 0 (next to nothing on a CPU) and to account its results.", step_host_seconds);
  return e.text();
}

}  // namespace troupe::watch

#pragma once
#include <cstdint>
#include <string>

#include <troupe/request.hpp>

#include "src/watch/metrics.hpp"

namespace troupe::watch {

/// What an engine tells about itself once: labels of every series and the shape of the cache.
struct engine_labels {
  std::string model_name;
  std::string cache_dtype = "f32";
  std::uint32_t max_model_len = 0;  ///< last bound of the histograms over tokens
  std::uint32_t page_tokens = 16;
  std::uint32_t n_pages = 0;
  bool prefix_caching = false;  ///< prompts reuse the pages of those before them
};

/// The numbers of one engine, as typed members: an actor writes `metrics.steps.add()`, nothing looks a name up.
/// Every member may be written from any thread. Names on the wire are vLLM's where vLLM has the thing (`vllm:…`), because
/// gateways, dashboards and autoscalers key on them, and `troupe:…` otherwise; `expose` writes them.
///
/// Times are seconds of a steady clock. Time to first token counts from arrival, before tokenizing; queue time from
/// arrival to the first step, prefill from there to the first token, decode from the first token to the last.
class engine_metrics {
 public:
  explicit engine_metrics(engine_labels);

  // Now.
  gauge requests_running;       ///< vllm:num_requests_running: sequences in the batch
  gauge requests_waiting;       ///< vllm:num_requests_waiting: encoded or being encoded, not in the batch
  gauge requests_parked;        ///< troupe:num_requests_parked: their reader is behind
  gauge kv_cache_usage;         ///< vllm:kv_cache_usage_perc, 0 to 1
  gauge kv_waste;               ///< troupe:kv_waste_perc: allocated and unused slots of the live pages, 0 to 1

  // Since the start.
  counter prompt_tokens;        ///< vllm:prompt_tokens_total, cached ones included
  counter prompt_tokens_cached; ///< vllm:prompt_tokens_cached_total
  counter generation_tokens;    ///< vllm:generation_tokens_total: delivered to streams
  counter prefix_queries;       ///< vllm:prefix_cache_queries_total, tokens asked for
  counter prefix_hits;          ///< vllm:prefix_cache_hits_total, tokens found
  counter preemptions;          ///< vllm:num_preemptions_total
  counter rejected_overloaded;  ///< vllm:admission_rejections_total{reason="capacity"}
  counter rejected_draining;    ///< vllm:admission_rejections_total{reason="draining"}
  counter finished_stop, finished_length, finished_abort, finished_error;  ///< vllm:request_success_total{finished_reason}
  counter steps;                ///< troupe:steps_total
  counter waste_tokens;         ///< troupe:waste_tokens_total: computed past a stop, or for a cancelled request
  counter recomputed_tokens;    ///< troupe:recomputed_tokens_total: after a preemption
  counter chunk_rows;           ///< troupe:step_rows_total{kind="chunk"}
  counter decode_rows;          ///< troupe:step_rows_total{kind="decode"}

  // Of requests.
  histogram time_to_first_token;    ///< vllm:time_to_first_token_seconds
  histogram inter_token_latency;    ///< vllm:inter_token_latency_seconds
  histogram time_per_output_token;  ///< vllm:request_time_per_output_token_seconds, and under its older name without `request_`
  histogram e2e_latency;            ///< vllm:e2e_request_latency_seconds
  histogram queue_time;             ///< vllm:request_queue_time_seconds
  histogram prefill_time;           ///< vllm:request_prefill_time_seconds
  histogram decode_time;            ///< vllm:request_decode_time_seconds
  histogram inference_time;         ///< vllm:request_inference_time_seconds: prefill and decode
  histogram request_prompt_tokens;      ///< vllm:request_prompt_tokens
  histogram request_generation_tokens;  ///< vllm:request_generation_tokens
  histogram request_max_tokens;         ///< vllm:request_params_max_tokens

  // Of steps.
  histogram step_tokens;        ///< vllm:iteration_tokens_total (a histogram, in spite of its name)
  histogram step_seconds;       ///< troupe:step_seconds: a step on rank 0; captures of graphs are no steps
  /// troupe:step_host_seconds: what a step costs the host beside computing, on two threads and hidden where plans queue up:
  /// the scheduler's time to build and hand over the plan and to apply its answer, and rank 0's in launch. The forward pass
  /// of a CPU rank is no part of it, its launch next to nothing.
  histogram step_host_seconds;

  /// Counts the end of a request under its reason (cancelled is "abort"). `none` counts nothing.
  void finished(finish_reason) noexcept;

  /// Prometheus text exposition, format 0.0.4. Allocates; for scrapes only.
  std::string expose() const;

  const engine_labels& labels() const noexcept { return labels_; }

 private:
  engine_labels labels_;
};

}  // namespace troupe::watch

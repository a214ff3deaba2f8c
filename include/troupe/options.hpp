#pragma once
#include <cstdint>
#include <string>

namespace troupe {

/// How an engine is built. Zero or "auto" lets the engine choose; what it chose is in `engine::info()`.
struct engine_options {
  std::string model;                        ///< a .gguf file, a directory with config.json and *.safetensors, or a name in the model folder
  std::string load_format = "auto";         ///< auto: the model's files; dummy: random weights and a made-up tokenizer for the config.json
                                            ///< that `model` is or holds, or the preset that it names (llama-3.1-8b, ...): to measure speed
  std::string served_model_name;            ///< empty: the model's folder or file name, without .gguf and -0000K-of-0000N
  std::string chat_template;                ///< a file with a Jinja template; empty: the model's own
  std::string generation_config = "auto";   ///< auto: info().sampling is what the model's files recommend; none: nothing is
  std::string device = "auto";              ///< auto (the first GPU, else the CPU), cpu, cuda, cuda:N
  std::string dtype = "auto";               ///< what is computed in: auto, float32; on a GPU also bfloat16, float16
  std::string quantization;                 ///< on a GPU, of unquantized linear layers at load: int8, int4, fp8; empty: none
  bool deterministic = false;               ///< on a GPU: the same bits whatever runs beside a request (the CPU always does)
  bool enforce_eager = false;               ///< on a GPU: no captured graphs
  bool warm_up = false;                     ///< on a GPU: capture all graphs at start, not when a size is first met
  std::string gpu_plan_file;                ///< where timed choices of GPU kernels are kept between runs; empty: nowhere
  double gpu_memory_utilization = 0.9;      ///< share of the free memory that a GPU rank may take
  std::uint32_t tensor_parallel_size = 1;   ///< ranks that share every layer of the model; on the CPU any size that divides its heads gives the same bits
  std::uint32_t threads = 0;                ///< compute threads on the CPU, of all ranks together; each has at least one
  std::uint32_t max_model_len = 0;          ///< tokens of one sequence, at most the model's context; 0: that, as far as the cache holds it
  std::uint32_t max_num_seqs = 64;          ///< sequences that run at once
  std::uint32_t max_num_batched_tokens = 0; ///< tokens in one step
  std::uint64_t kv_cache_memory_bytes = 0;  ///< 0: a share of the free memory, at most what the options can use
  std::string kv_cache_dtype = "auto";      ///< auto, f16, f32, bf16; on a GPU also fp8
  std::uint32_t max_requests = 256;         ///< requests in the system; more are refused before they are encoded
  std::uint32_t stream_buffer = 1024;       ///< tokens a stream may be ahead of its reader before it parks
  std::uint32_t stall_seconds = 60;         ///< a parked stream is cancelled after this time
  std::uint32_t step_timeout = 120;         ///< seconds; a rank that works longer on one step is lost: errc::rank_failed
  std::string rank_isolation = "thread";    ///< ranks beside rank 0: thread, or process (of rank_program, on this host)
  std::string rank_program;                 ///< the troupe program, for ranks that are processes
  std::string rendezvous;                   ///< HOST:PORT: ranks beside rank 0 come there from any host (troupe rank --join)
  std::string rendezvous_secret;            ///< which they must know
  std::uint32_t rank_start_timeout = 300;   ///< seconds for ranks that are processes to come, and again to load
  std::uint32_t text_threads = 1;           ///< text shards
  bool reference = false;                   ///< the scalar float32 forward pass: slow, the oracle of the others
  bool fold_threads = false;                ///< text and control actors on one thread (machines with one or two cores)
  std::string plan_log;                     ///< a file that gets every plan and its tokens, for `troupe replay`; holds the prompts
  std::string inject_fault;                 ///< a fault on purpose, to see how a deployment takes it; empty: none. At step N:
                                            ///< step=N:fail, step=N:no-memory (an allocation throws), step=N:slow=500ms,
                                            ///< step=N+:slow=500ms (from N on), step=N:hang (the device never answers),
                                            ///< step=N:freeze (the rank's thread never comes back); rank=R: before it: on rank R
};

}  // namespace troupe

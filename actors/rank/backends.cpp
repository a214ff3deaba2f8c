#include "actors/rank/backends.hpp"

#include <algorithm>
#include <charconv>
#include <functional>
#include <future>
#include <optional>
#include <system_error>

#include "actors/rank/process_ranks.hpp"
#include "src/base/log.hpp"
#include "src/cpu/cpu_backend.hpp"
#include "src/cpu/thread_pool.hpp"

namespace troupe::rank {
namespace {

result<cpu::cpu_options> cpu_options_of(const engine_options& o) {
  cpu::cpu_options c;
  c.threads = o.threads;
  c.max_slots = o.max_num_seqs;
  c.max_batched_tokens =
      std::max(o.max_num_batched_tokens ? o.max_num_batched_tokens : c.max_batched_tokens, o.max_num_seqs);
  c.max_model_len = o.max_model_len;
  c.reference = o.reference;
  if (o.kv_cache_dtype == "f32")
    c.kv = cpu::kv_dtype::f32;
  else if (o.kv_cache_dtype == "bf16")
    c.kv = cpu::kv_dtype::bf16;
  else if (o.kv_cache_dtype == "auto" || o.kv_cache_dtype == "f16")
    c.kv = cpu::kv_dtype::f16;
  else
    return failure(errc::invalid_argument,
                   "kv_cache_dtype '" + o.kv_cache_dtype + "': on the CPU use auto, f16, bf16 or f32");
  if (o.dtype != "auto" && o.dtype != "float32")
    return failure(errc::unsupported, "dtype '" + o.dtype + "': the CPU computes in float32: use auto or float32");
  if (!o.quantization.empty())
    return failure(errc::unsupported, "quantization '" + o.quantization +
                                          "' at load works on the GPU only: give the CPU a quantized GGUF");
  return c;
}

/// Makes one rank; `group` is null for a rank alone.
using make_rank = std::function<result<made_backend>(std::uint32_t rank, std::shared_ptr<group::collective>)>;

/// All ranks at once, each on a thread of its own. One that fails ends the group, so that no other waits for it.
result<made_ranks> make_all(const engine_options& o, const make_rank& make) {
  const std::uint32_t size = o.tensor_parallel_size;
  std::vector<std::shared_ptr<group::collective>> members(size);
  if (size > 1) {
    // The watchdog looks at steps; this limit, beyond its own, is for what it cannot see.
    auto group = group::make_thread_group(size, {.limit = std::chrono::seconds(2 * o.step_timeout)});
    if (!group) return group.take_error();
    members = std::move(*group);
  }
  std::vector<std::future<result<made_backend>>> making;
  try {
    for (std::uint32_t r = 0; r < size; ++r)
      making.push_back(std::async(r + 1 < size ? std::launch::async : std::launch::deferred, [&make, &members, r] {
        try {
          auto one = make(r, members[r]);
          if (!one && members[r]) members[r]->abort();
          return one;
        } catch (...) {
          if (members[r]) members[r]->abort();
          throw;
        }
      }));
  } catch (const std::system_error& e) {
    if (members[0]) members[0]->abort();
    return failure(errc::out_of_memory, std::string("threads of ranks cannot be started: ") + e.what());
  }
  making.back().wait();  // the last one is made on this thread
  made_ranks all;
  std::optional<failure> why;
  for (std::uint32_t r = 0; r < size; ++r) {
    auto one = making[r].get();
    if (!one) {  // a rank that was only waiting is not the cause
      if (!why || why->code == errc::rank_failed) why = one.take_error();
      continue;
    }
    all.group.ranks.push_back(std::move(one->backend));
    if (one->device != all.device) all.device += (all.device.empty() ? "" : ",") + one->device;
    all.arithmetic = one->arithmetic;
    all.threads += one->threads;
    all.kv_bytes += one->kv_bytes;
    all.weight_bytes += one->weight_bytes;
  }
  if (why) return *why;
  if (size > 1) {
    all.group.abort = [member = members[0]] { member->abort(); };
    all.group.awaited = [member = members[0]] { return member->awaited(); };
  }
  return all;
}

struct planned_cpu {
  cpu::cpu_options options;  ///< of any of the ranks
  cpu::memory_plan memory;   ///< of all
};

/// `threads`: of one rank.
result<planned_cpu> plan_cpu(const engine_options& o, const model::model& m, std::uint32_t threads) {
  auto made = cpu_options_of(o);
  if (!made) return made.take_error();
  planned_cpu p{*made, {}};
  p.options.threads = threads;
  auto plan = cpu::plan_memory(m, p.options, o.tensor_parallel_size);
  if (!plan) return plan.take_error();
  if (o.kv_cache_memory_bytes) {
    p.options.n_pages =
        static_cast<std::uint32_t>(std::min<std::uint64_t>(o.kv_cache_memory_bytes / plan->page_bytes, 1u << 30));
    if (p.options.n_pages == 0)
      return failure(errc::invalid_argument, "kv_cache_memory_bytes: one page of the KV cache takes " +
                                                 std::to_string(plan->page_bytes) + " bytes: give more");
    plan = cpu::plan_memory(m, p.options, o.tensor_parallel_size);
    if (!plan) return plan.take_error();
  }
  p.memory = std::move(*plan);
  return p;
}

result<made_backend> make_cpu_rank(const engine_options& o, const cpu::cpu_options& c, std::shared_ptr<const model::model> m,
                                   std::shared_ptr<model::sink_table> sinks, std::shared_ptr<group::collective> group) {
  made_backend one;
  auto backend = cpu::make_cpu_backend(std::move(m), c, std::move(sinks), std::move(group));
  if (!backend) return backend.take_error();
  one.backend = std::move(*backend);
  one.device = "cpu";
  one.arithmetic = o.reference ? "reference" : std::string(kernels::cpu::name(c.isa));
  one.threads = c.threads;
  return one;
}

result<made_ranks> make_cpu(const engine_options& o, std::shared_ptr<const model::model> m,
                            std::shared_ptr<model::sink_table> sinks) {
  const std::uint32_t size = o.tensor_parallel_size;
  const std::uint32_t threads = o.threads ? o.threads : cpu::available_processors();
  auto plan = plan_cpu(o, *m, std::max(1u, threads / size));
  if (!plan) return plan.take_error();
  log().info("{}: {}{}", m->path, size > 1 ? std::to_string(size) + " ranks, " : "", plan->memory.describe());
  auto all = make_all(o, [&](std::uint32_t rank, std::shared_ptr<group::collective> group) {
    cpu::cpu_options own = plan->options;
    if (threads > size && rank < threads % size) ++own.threads;  // what is left over goes to the first
    return make_cpu_rank(o, own, m, rank == 0 ? sinks : nullptr, std::move(group));
  });
  if (!all) return all;
  all->kv_bytes = plan->memory.kv;
  all->weight_bytes = plan->memory.weights;
  return all;
}

/// "cuda" and "cuda:3"; none: something else.
std::optional<int> cuda_ordinal(const std::string& device) {
  if (device == "cuda") return 0;
  if (!device.starts_with("cuda:")) return std::nullopt;
  int n = -1;
  const char* const end = device.data() + device.size();
  const auto [at, error] = std::from_chars(device.data() + 5, end, n);
  if (error != std::errc() || at != end || n < 0) return std::nullopt;
  return n;
}

}  // namespace

result<void> check_device(const std::string& device) {
  if (device == "auto" || device == "cpu" || cuda_ordinal(device)) return {};
  return failure(errc::invalid_argument, "device '" + device + "': use auto, cpu, cuda or cuda:N");
}

result<made_ranks> make_ranks(const engine_options& o, std::shared_ptr<const model::model> m,
                              std::shared_ptr<model::sink_table> sinks) {
  if (auto ok = check_device(o.device); !ok) return ok.take_error();
  std::optional<int> ordinal = cuda_ordinal(o.device);
  if (o.device == "auto" && !o.reference && !gpus().empty()) ordinal = 0;
  if (ordinal && o.reference)
    return failure(errc::invalid_argument, "the reference path computes on the CPU: leave the device out");
  if (o.tensor_parallel_size > 1 && (o.rank_isolation == "process" || !o.rendezvous.empty())) {
    if (ordinal)
      return failure(errc::unsupported, "ranks on GPUs cannot be processes yet: leave rank-isolation and rendezvous out, or use device cpu");
    return make_process_ranks(o, std::move(m), std::move(sinks));
  }
  if (!ordinal) return make_cpu(o, std::move(m), std::move(sinks));
  if (o.tensor_parallel_size > 1)
    return failure(errc::unsupported, "tensor-parallel-size " + std::to_string(o.tensor_parallel_size) +
                                          ": several GPUs cannot be used yet: use 1, or device cpu");
  return make_all(o, [&](std::uint32_t rank, std::shared_ptr<group::collective> group) {
    return make_gpu(o, *ordinal + static_cast<int>(rank), m, rank == 0 ? sinks : nullptr, std::move(group));
  });
}

result<group_plan> plan_group(const engine_options& o, const model::model& m) {
  auto p = plan_cpu(o, m, o.threads ? o.threads : cpu::available_processors());
  if (!p) return p.take_error();
  const cpu::memory_plan& all = p->memory;
  return group_plan{{static_cast<std::uint32_t>(all.kv / all.page_bytes)}, {all.page_bytes}, all.weights, all.describe()};
}

result<made_backend> make_member(const engine_options& o, const std::vector<std::uint32_t>& n_pages,
                                 std::shared_ptr<const model::model> m, std::shared_ptr<model::sink_table> sinks,
                                 std::shared_ptr<group::collective> group) {
  auto c = cpu_options_of(o);
  if (!c) return c.take_error();
  c->threads = o.threads ? o.threads : cpu::available_processors();
  if (n_pages.size() != 1) return failure(errc::rank_failed, "the ranks differ in their KV groups");
  c->n_pages = n_pages.front();
  return make_cpu_rank(o, *c, std::move(m), std::move(sinks), std::move(group));
}

}  // namespace troupe::rank

// What a sum over two or more cards and the norm after it cost: by the cards' own exchange, and by NCCL's all-reduce
// and the norm's kernel, in turn. A graph of 64 of them on each card, medians of rounds; as a ratio of the two.
//
//   perf_gpu_exchange [cards] [hidden]
#include <algorithm>
#include <barrier>
#include <cstdio>
#include <cstdlib>
#include <stdexcept>
#include <thread>
#include <vector>

#include "kernels/gpu/exchange.hpp"
#include "perf/gpu_timing.hpp"
#include "src/gpu/communicator.hpp"
#include "src/group/collective.hpp"

using namespace troupe;
namespace g = kernels::gpu;

namespace {

using perf::check;

constexpr std::uint32_t per_graph = 64;
constexpr int rounds = 15;
constexpr auto limit = std::chrono::seconds(60);

/// One card's memory for sums of up to most_tokens.
struct card_memory {
  gpu::memory all;
  float *h, *part, *weight;
  void* out;
  std::uint32_t* count;
  std::uint64_t* run;
  card_memory(std::uint32_t hidden, std::uint32_t most_tokens) {
    gpu::layout l;
    const std::uint64_t n = std::uint64_t{hidden} * most_tokens;
    const std::uint64_t at[] = {l.add<float>(n), l.add<float>(n),         l.add<float>(hidden),
                                l.add<float>(n), l.add<std::uint32_t>(1), l.add<std::uint64_t>(1)};
    all = gpu::memory::on_device(l.bytes(), "a measurement").value();
    check(cudaMemset(all.data(), 0, l.bytes()));
    h = all.at<float>(at[0]), part = all.at<float>(at[1]), weight = all.at<float>(at[2]), out = all.at<float>(at[3]);
    count = all.at<std::uint32_t>(at[4]), run = all.at<std::uint64_t>(at[5]);
  }
};

template <class F>
gpu::graph_exec capture(cudaStream_t stream, F&& enqueue) {
  cudaGraph_t graph = nullptr;
  cudaGraphExec_t exec = nullptr;
  check(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
  for (std::uint32_t i = 0; i < per_graph; ++i) enqueue(i);
  check(cudaStreamEndCapture(stream, &graph));
  check(cudaGraphInstantiate(&exec, graph, 0));
  check(cudaGraphDestroy(graph));
  return gpu::graph_exec(exec);
}

struct measured {
  double exchange, nccl;  // microseconds each
};

/// A rank's part; all ranks run it at once.
std::vector<measured> measure(gpu::communicator& group, std::barrier<>& together, std::uint32_t hidden,
                              const std::vector<std::uint32_t>& sizes) {
  card_memory m(hidden, sizes.back());
  const gpu::stream stream = gpu::make_stream().value();
  const gpu::event from = gpu::make_event().value(), to = gpu::make_event().value();
  std::uint64_t run = 0;
  std::vector<measured> out;
  for (const std::uint32_t n : sizes) {
    check(cudaMemcpy(m.count, &n, sizeof n, cudaMemcpyHostToDevice));
    const g::rms_norm_args norm{m.h, nullptr, m.weight, 0, 1e-5f, m.out, kernels::dtype::bf16, hidden, nullptr};
    const auto direct = capture(stream, [&](std::uint32_t i) {
      check(g::exchange_norm({norm, m.part, true, {group.direct()->view(), m.run, per_graph, i}}, m.count, n, stream));
    });
    const auto nccl = capture(stream, [&](std::uint32_t) {
      group.all_reduce(m.h, std::uint64_t{n} * hidden, stream).value();
      check(g::rms_norm(norm, m.count, n, stream));
    });
    std::vector<double> times[2];
    for (int r = 0; r < 2 * rounds; ++r) {
      ++run;
      check(cudaMemcpy(m.run, &run, sizeof run, cudaMemcpyHostToDevice));
      together.arrive_and_wait();
      check(cudaEventRecord(from, stream));
      check(cudaGraphLaunch(r % 2 ? nccl : direct, stream));
      check(cudaEventRecord(to, stream));
      check(cudaStreamSynchronize(stream));
      float ms = 0;
      check(cudaEventElapsedTime(&ms, from, to));
      if (r >= 4) times[r % 2].push_back(double{ms} * 1000 / per_graph);
    }
    for (auto& t : times) std::ranges::nth_element(t, t.begin() + static_cast<std::ptrdiff_t>(t.size() / 2));
    out.push_back({times[0][times[0].size() / 2], times[1][times[1].size() / 2]});
  }
  together.arrive_and_wait();
  return out;
}

}  // namespace

int main(int argc, char** argv) {
  const auto n_cards = static_cast<std::uint32_t>(argc > 1 ? std::atoi(argv[1]) : 2);
  const auto hidden = static_cast<std::uint32_t>(argc > 2 ? std::atoi(argv[2]) : 4096);
  std::vector<std::uint32_t> sizes;
  for (std::uint32_t n = 1; n * hidden <= g::exchange_capacity(n_cards); n *= 2) sizes.push_back(n);
  const gpu::group_id id = gpu::make_group_id().value();
  const auto members = group::make_thread_group(n_cards, {}).value();
  std::barrier together(static_cast<std::ptrdiff_t>(n_cards));
  std::vector<measured> of_first;
  std::vector<std::thread> ranks;
  for (std::uint32_t r = 0; r < n_cards; ++r)
    ranks.emplace_back([&, r] {
      const gpu::device_info card = gpu::use_device(static_cast<int>(r)).value();
      const auto end = gpu::communicator::join(members[r]->place(), id, limit, limit).value();
      gpu::connect_peers(*end, card, [&](std::span<std::byte> b) { return members[r]->share_blocks(b); }).value();
      if (!end->direct()) throw std::runtime_error("the cards do not reach each other");
      auto mine = measure(*end, together, hidden, sizes);
      if (r == 0) {
        std::printf("%u x %s, sums of tokens x %u f32 and a norm\n", n_cards, card.name.c_str(), hidden);
        of_first = std::move(mine);
      }
    });
  for (std::thread& t : ranks) t.join();
  for (std::size_t i = 0; i < sizes.size(); ++i)
    std::printf("%4u tokens  exchange %6.1f us   NCCL and norm %6.1f us   %5.2f of it\n", sizes[i],
                of_first[i].exchange, of_first[i].nccl, of_first[i].exchange / of_first[i].nccl);
}

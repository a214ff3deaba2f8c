#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <thread>
#include <vector>

#include "actors/rank/backends.hpp"
#include "kernels/cpu/isa.hpp"
#include "src/model/locate.hpp"
#include "tools/cli.hpp"

namespace troupe::cli {
namespace {

/// The value of the first line "key : value" of a /proc file, or "".
std::string proc_value(const char* file, const std::string& key) {
  std::ifstream in(file);
  for (std::string line; std::getline(in, line);)
    if (line.starts_with(key)) {
      const auto at = line.find_first_not_of(" \t:", key.size());
      return at == std::string::npos ? "" : line.substr(at);
    }
  return "";
}

/// Best of a few passes of reading `bytes` of memory on `n` threads, in GB/s.
double read_bandwidth(unsigned n, std::size_t bytes) {
  std::vector<std::vector<std::uint64_t>> parts(n, std::vector<std::uint64_t>(bytes / n / 8, 1));
  double best = 0;
  for (int pass = 0; pass < 4; ++pass) {
    std::vector<std::uint64_t> sums(n * 8);
    const auto start = std::chrono::steady_clock::now();
    std::vector<std::thread> threads;
    for (unsigned t = 0; t < n; ++t)
      threads.emplace_back([&, t] {
        std::uint64_t s[8] = {};
        const auto& p = parts[t];
        for (std::size_t i = 0; i + 8 <= p.size(); i += 8)
          for (int k = 0; k < 8; ++k) s[k] += p[i + k];
        for (int k = 0; k < 8; ++k) sums[t * 8 + k] = s[k];
      });
    for (auto& t : threads) t.join();
    const double time = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    volatile std::uint64_t keep = 0;
    for (auto s : sums) keep = keep + s;
    best = std::max(best, bytes / time / 1e9);
  }
  return best;
}

int run() {
  using namespace kernels::cpu;
  const unsigned cores = std::max(1u, std::thread::hardware_concurrency());
  std::printf("processor    %s, %u cores\n", proc_value("/proc/cpuinfo", "model name").c_str(), cores);
  std::printf("kernels      ");
  for (isa tier : {isa::scalar, isa::avx2, isa::avx512}) std::printf("%s %s  ", std::string(name(tier)).c_str(), isa_supported(tier) ? "yes" : "no");
  std::printf("-> %s is used\n", std::string(name(best_isa())).c_str());
  std::printf("memory       %s in all, %s available\n", proc_value("/proc/meminfo", "MemTotal").c_str(), proc_value("/proc/meminfo", "MemAvailable").c_str());
  std::ifstream thp("/sys/kernel/mm/transparent_hugepage/enabled");
  std::string pages;
  std::getline(thp, pages);
  std::printf("huge pages   %s\n", pages.empty() ? "not offered" : pages.c_str());
  const std::size_t size = 256u << 20;
  std::printf("bandwidth    %.1f GB/s on 1 thread, %.1f GB/s on %u (reads of 256 MiB)\n", read_bandwidth(1, size), read_bandwidth(cores, size), cores);
  const auto gpus = rank::gpus();
  for (const std::string& gpu : gpus) std::printf("GPU          %s\n", gpu.c_str());
  if (gpus.empty()) std::printf("GPU          none that this build can use\n");
  const auto model = model::locate_model("");
  std::printf("model        %s\n", model ? model->c_str() : model.error().message.c_str());
  return model ? 0 : 1;
}

}  // namespace

void add_doctor(CLI::App& app, int& exit_code) {
  CLI::App* c = app.add_subcommand("doctor", "what this machine offers and what Troupe will use of it");
  c->callback([&exit_code] { exit_code = run(); });
}

}  // namespace troupe::cli

// Which kernel computes which product: timed once per shape, kept in a file between runs.
#include <algorithm>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iomanip>
#include <sstream>

#include "kernels/gpu/gemv.hpp"
#include "src/base/log.hpp"
#include "src/gpu/products.hpp"

namespace troupe::gpu {

using kernels::gpu::packed_form;

namespace {

constexpr int n_candidates = 8;
constexpr int rounds = 3;
constexpr std::size_t most_layers = 16;  // enough weights to leave the caches behind

const std::string own_names[] = {"matmul", "gemv2", "gemv4", "gemv8"};  // in the order of choice::maker, after blas

/// In one timing, each layer in turn.
std::size_t n_launches(std::span<const linear* const> layers) {
  return std::max<std::size_t>(std::min(layers.size(), most_layers), 4);
}

std::string hex(const cublasLtMatmulAlgo_t& a) {
  std::ostringstream out;
  for (const std::uint64_t word : a.data) out << std::hex << std::setw(16) << std::setfill('0') << word;
  return out.str();
}

bool from_hex(const std::string& text, cublasLtMatmulAlgo_t& a) {
  if (text.size() != 16 * std::size(a.data)) return false;
  for (std::size_t i = 0; i < std::size(a.data); ++i) {
    const std::string word = text.substr(16 * i, 16);
    char* end = nullptr;
    a.data[i] = std::strtoull(word.c_str(), &end, 16);
    if (*end != 0) return false;
  }
  return true;
}

}  // namespace

result<float> products::time(const choice& c, std::span<const linear* const> layers, std::size_t part, const product& p,
                             const std::uint32_t* n, std::uint32_t max_tokens, cudaStream_t stream) {
  auto begin = make_event(), end = make_event();
  if (!begin) return begin.take_error();
  if (!end) return end.take_error();
  const std::size_t n_layers = std::min(layers.size(), most_layers);
  std::vector<float> times;
  for (int round = 0; round <= rounds; ++round) {  // the first one only warms up
    checked ok;
    ok(cudaEventRecord(*begin, stream), "cudaEventRecord");
    for (std::size_t i = 0; i < n_launches(layers); ++i) {
      const linear& l = *layers[i % n_layers];
      ok(launch(c, l.parts[part], l.cols, l.parts[part].dense, p, n, max_tokens, stream));
    }
    ok(cudaEventRecord(*end, stream), "cudaEventRecord")(cudaEventSynchronize(*end), "cudaEventSynchronize");
    float ms = 0;
    ok(cudaEventElapsedTime(&ms, *begin, *end), "cudaEventElapsedTime");
    if (!ok.ok()) return ok.take().take_error();
    if (round > 0) times.push_back(ms);
  }
  return *std::min_element(times.begin(), times.end());
}

result<void> products::tune(std::span<const linear* const> layers, const product& p, const std::uint32_t* n,
                            std::uint32_t max_tokens, cudaStream_t stream, float gemv_saves_us) {
  if (deterministic_) return {};
  const linear& first = *layers.front();
  for (std::size_t part = 0; part < first.parts.size(); ++part) {
    if (first.parts[part].packed.form != packed_form::none) continue;
    auto planned = plan({max_tokens, first.parts[part].rows, first.cols, p.ld_y, compute_, p.y_type, p.accumulate});
    if (!planned) return planned.take_error();
    choice& c = **planned;
    if (std::exchange(c.timed, true)) continue;
    choice own(nullptr);
    own.who = choice::maker::matmul;
    auto least = time(own, layers, part, p, n, max_tokens, stream);
    if (!least) return least.take_error();
    for (const choice::maker who : {choice::maker::gemv2, choice::maker::gemv4, choice::maker::gemv8}) {
      if (!kernels::gpu::can_gemv(arguments(first.parts[part], first.cols, first.parts[part].dense, p), *depth_of(who),
                                  max_tokens))
        continue;
      choice rows(nullptr);
      rows.who = who;
      auto ms = time(rows, layers, part, p, n, max_tokens, stream);
      if (!ms) return ms.take_error();
      const float worth = *ms - static_cast<float>(n_launches(layers)) * gemv_saves_us * 1e-3f;
      if (worth >= *least) continue;
      *least = worth;
      own.who = who;
    }
    choice::maker who = own.who;
    auto found = candidates(c, n_candidates);
    if (!found) return found.take_error();
    c.who = choice::maker::blas;
    cublasLtMatmulAlgo_t winner = c.algorithm;
    for (const cublasLtMatmulHeuristicResult_t& candidate : *found) {
      c.algorithm = candidate.algo;
      auto ms = time(c, layers, part, p, n, max_tokens, stream);
      if (!ms) return ms.take_error();
      if (*ms >= *least) continue;
      *least = *ms;
      winner = candidate.algo;
      who = choice::maker::blas;
    }
    c.algorithm = winner;
    c.who = who;
  }
  return {};
}

std::string products::signature() const {
  int device = 0;
  cudaDeviceProp properties{};
  if (cudaGetDevice(&device) == cudaSuccess) (void)cudaGetDeviceProperties(&properties, device);
  return std::string("troupe products 3, cublasLt ") + std::to_string(lt_->version()) + ", " + properties.name;
}

void products::read_choices(const std::string& path) {
  std::ifstream in(path);
  std::string line;
  if (!in || !std::getline(in, line) || line != signature()) return;
  while (std::getline(in, line)) {
    std::istringstream words(line);
    product_shape s{};
    std::uint32_t type = 0, y_type = 0;
    int accumulate = 0;
    std::string what;
    if (!(words >> s.m >> s.rows >> s.cols >> s.ld_y >> type >> y_type >> accumulate >> what)) continue;
    s.type = static_cast<kernels::dtype>(type);
    s.y_type = static_cast<kernels::dtype>(y_type);
    s.accumulate = accumulate != 0;
    if (s.type != compute_) continue;
    auto c = std::make_unique<choice>(lt_);
    if (!describe(s, *c)) continue;
    const auto named = std::ranges::find(own_names, what);
    c->who = named == std::end(own_names) ? choice::maker::blas
                                          : static_cast<choice::maker>(1 + std::distance(std::begin(own_names), named));
    c->timed = true;
    if (const auto depth = depth_of(c->who))
      if (s.m > (*depth == kernels::gpu::gemv_depth::eight ? 1 : kernels::gpu::gemv_most_tokens)) continue;
    if (c->who == choice::maker::blas) {
      // The library says whether this algorithm computes this product here.
      cublasLtMatmulHeuristicResult_t fits{};
      if (!from_hex(what, c->algorithm) ||
          lt_->algo_check(handle_.get(), c->operation, c->a, c->b, c->c, c->c, &c->algorithm, &fits) !=
              CUBLAS_STATUS_SUCCESS ||
          fits.workspaceSize > workspace_size_)
        continue;
    }
    plans_[s] = std::move(c);
  }
}

result<void> products::write_choices(const std::string& path) const {
  std::error_code ignored;  // what cannot be made shows below
  std::filesystem::create_directories(std::filesystem::path(path).parent_path(), ignored);
  const std::string part = path + ".part";
  {
    std::ofstream out(part, std::ios::trunc);
    out << signature() << '\n';
    for (const auto& [s, c] : plans_)
      if (c->timed)
        out << s.m << ' ' << s.rows << ' ' << s.cols << ' ' << s.ld_y << ' ' << static_cast<std::uint32_t>(s.type)
            << ' ' << static_cast<std::uint32_t>(s.y_type) << ' ' << s.accumulate << ' '
            << (c->who == choice::maker::blas ? hex(c->algorithm) : own_names[static_cast<std::size_t>(c->who) - 1])
            << '\n';
    if (!out.flush()) return failure(errc::io_failed, part + ": cannot be written: the timed choices are not kept");
  }
  if (std::rename(part.c_str(), path.c_str()) != 0)
    return failure(errc::io_failed, path + ": cannot be written: the timed choices are not kept");
  return {};
}

}  // namespace troupe::gpu

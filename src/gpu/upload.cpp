// Weights on their way: each thread takes a tensor, makes what the card wants of some megabytes in pinned memory and
// starts the copy, two buffers in turn, so that reading, converting and copying overlap.
#include <algorithm>
#include <atomic>
#include <cstring>
#include <mutex>
#include <thread>

#include "src/format/dequantize.hpp"
#include "src/gpu/device_weights.hpp"

namespace troupe::gpu {
namespace {

using kernels::dtype;

constexpr std::uint64_t ring_bytes = 8u << 20;
constexpr std::uint32_t max_threads = 8;

void round_to(dtype to, std::span<const float> from, std::byte* out) {
  for (std::size_t i = 0; i < from.size(); ++i) {
    if (to == dtype::f32) {
      std::memcpy(out + i * 4, &from[i], 4);
      continue;
    }
    const std::uint16_t bits = to == dtype::f16 ? kernels::f32_to_f16(from[i]) : kernels::f32_to_bf16(from[i]);
    std::memcpy(out + i * 2, &bits, 2);
  }
}

/// One thread's two pinned buffers and its stream.
class conveyor {
 public:
  static result<conveyor> make() {
    conveyor c;
    auto s = make_stream();
    if (!s) return s.take_error();
    c.stream_ = std::move(*s);
    for (int i = 0; i < 2; ++i) {
      auto m = memory::pinned(ring_bytes, "loading");
      if (!m) return m.take_error();
      c.buffer_[i] = std::move(*m);
      auto e = make_event();
      if (!e) return e.take_error();
      c.free_[i] = std::move(*e);
    }
    return c;
  }

  /// A buffer of ring_bytes that no copy reads any more.
  result<std::byte*> next() {
    turn_ ^= 1;
    if (auto ok = check(cudaEventSynchronize(free_[turn_]), "cudaEventSynchronize"); !ok) return ok.take_error();
    return buffer_[turn_].data();
  }
  result<void> send(std::byte* to, std::uint64_t bytes) {
    if (auto ok = check(cudaMemcpyAsync(to, buffer_[turn_].data(), bytes, cudaMemcpyHostToDevice, stream_),
                        "cudaMemcpyAsync");
        !ok)
      return ok;
    return check(cudaEventRecord(free_[turn_], stream_), "cudaEventRecord");
  }
  /// Any host memory, piece by piece.
  result<void> send_all(std::byte* to, const std::byte* from, std::uint64_t bytes) {
    for (std::uint64_t at = 0; at < bytes; at += ring_bytes) {
      const std::uint64_t n = std::min(ring_bytes, bytes - at);
      auto b = next();
      if (!b) return b.take_error();
      std::memcpy(*b, from + at, n);
      if (auto ok = send(to + at, n); !ok) return ok;
    }
    return {};
  }
  result<void> finish() { return check(cudaStreamSynchronize(stream_), "cudaStreamSynchronize"); }

 private:
  stream stream_;
  memory buffer_[2];
  event free_[2];
  int turn_ = 0;
};

/// Rows [first, first + n) of a matrix, of them the columns that `part` says (whole blocks; count 0: all), as a tensor
/// of its own: `copy` holds what does not lie together in the source.
format::tensor_view piece(const format::tensor_view& t, const model::slice& part, std::uint64_t first, std::uint64_t n,
                          std::vector<std::byte>& copy) {
  const std::uint64_t cols = t.shape.row(), rows = t.shape.elements() / cols, row_bytes = t.data.size() / rows;
  format::tensor_view out = t;
  if (part.count == 0 || part.count == cols) {
    out.shape = {n, cols};
    out.data = t.data.subspan(first * row_bytes, n * row_bytes);
    return out;
  }
  const std::uint64_t begin = row_bytes * part.begin / cols, bytes = row_bytes * part.count / cols;
  copy.resize(n * bytes);
  for (std::uint64_t r = 0; r < n; ++r)
    std::memcpy(copy.data() + r * bytes, t.data.data() + (first + r) * row_bytes + begin, bytes);
  out.shape = {n, part.count};
  out.data = copy;
  return out;
}

/// Rows of a tensor as f32 or rounded to a compute type.
result<void> send_rows(conveyor& c, const format::tensor_view& t, const model::slice& part, dtype to, std::byte* at) {
  const std::uint64_t cols = part.count ? part.count : t.shape.row(), rows = t.shape.elements() / t.shape.row();
  const bool whole = cols == t.shape.row();
  if (whole && t.type == to) return c.send_all(at, t.data.data(), t.data.size());
  const std::uint64_t row_bytes = cols * element_bytes(to), step = std::max<std::uint64_t>(1, ring_bytes / row_bytes);
  if (row_bytes > ring_bytes)
    return failure(errc::unsupported, std::string(t.name) + ": rows of this length are not supported on the GPU");
  std::vector<float> values;
  std::vector<std::byte> copy;
  for (std::uint64_t r = 0; r < rows; r += step) {
    const std::uint64_t n = std::min(step, rows - r);
    const format::tensor_view here = piece(t, part, r, n, copy);
    auto b = c.next();
    if (!b) return b.take_error();
    if (t.type == to) {
      std::memcpy(*b, here.data.data(), here.data.size());
    } else {
      values.resize(n * cols);
      if (auto ok = format::dequantize_rows(here, 0, n, values); !ok) return ok;
      round_to(to, values, *b);
    }
    if (auto ok = c.send(at + r * row_bytes, n * row_bytes); !ok) return ok;
  }
  return {};
}

/// All tensors of one packed matrix: packed on the host, then copied.
result<void> send_packed(conveyor& c, std::span<const upload> parts, std::byte* base) {
  const kernels::gpu::packed_weight& w = parts.front().whole;
  std::vector<std::byte> packed(kernels::gpu::packed_bytes(w.form, w.rows, w.cols));
  std::vector<float> values;
  std::vector<std::byte> copy;
  for (const upload& u : parts) {
    const format::tensor_view& t = *u.source;
    const auto rows = static_cast<std::uint32_t>(t.shape[0]);
    constexpr std::uint32_t step = 64;
    for (std::uint32_t r = 0; r < rows; r += step) {
      const std::uint32_t n = std::min(step, rows - r);
      const format::tensor_view here = piece(t, u.cols, r, n, copy);
      if (u.how == upload::kind::packed_as_is) {
        // Row 0 of this piece is the packed matrix's row first_row + r.
        const std::uint64_t row_bytes = here.data.size() / n;
        kernels::gpu::pack_rows_host(t.type, here.data.data() - (u.first_row + r) * row_bytes, w.rows, w.cols,
                                     u.first_row + r, u.first_row + r + n, packed.data());
        continue;
      }
      if (u.how == upload::kind::packed_e4m3) {
        if (!kernels::gpu::pack_e4m3_rows_host(here.data.data(), t.scale, w.rows, w.cols, u.first_row + r,
                                               u.first_row + r + n, packed.data()))
          return failure(errc::invalid_file,
                         "tensor " + std::string(t.name) + " of type F8_E4M3 holds NaN: the file is damaged");
        continue;
      }
      values.resize(std::size_t{n} * w.cols);
      if (auto ok = format::dequantize_rows(here, 0, n, values); !ok) return ok;
      kernels::gpu::quantize_rows_host(w.form, values.data(), w.rows, w.cols, u.first_row + r, u.first_row + r + n,
                                       packed.data());
    }
  }
  return c.send_all(base + parts.front().offset, packed.data(), packed.size());
}

result<void> send_group(conveyor& c, std::span<const upload> group, dtype compute, std::byte* base) {
  const upload& u = group.front();
  switch (u.how) {
    case upload::kind::vector_f32:
      return send_rows(c, *u.source, {}, dtype::f32, base + u.offset);
    case upload::kind::dense:
      return send_rows(c, *u.source, u.cols, compute, base + u.offset);
    case upload::kind::raw_rows:
      return c.send_all(base + u.offset, u.source->data.data(), u.source->data.size());
    case upload::kind::packed_as_is:
    case upload::kind::packed_e4m3:
    case upload::kind::quantize:
      return send_packed(c, group, base);
  }
  return {};
}

bool packed(const upload& u) { return u.whole.form != kernels::gpu::packed_form::none; }

/// Uploads that make one packed matrix stand side by side and are one piece of work.
std::vector<std::span<const upload>> group(std::span<const upload> all) {
  std::vector<std::span<const upload>> out;
  for (std::size_t i = 0; i < all.size();) {
    std::size_t j = i + 1;
    while (packed(all[i]) && j < all.size() && packed(all[j]) && all[j].offset == all[i].offset) ++j;
    out.push_back(all.subspan(i, j - i));
    i = j;
  }
  return out;
}

}  // namespace

result<void> upload_all(std::span<const upload> uploads, dtype compute, std::byte* base, int device) {
  const auto groups = group(uploads);
  std::atomic<std::size_t> next{0};
  std::mutex mutex;
  result<void> outcome;
  const auto work = [&] {
    result<void> mine = check(cudaSetDevice(device), "cudaSetDevice");
    if (mine) {
      auto c = conveyor::make();
      if (!c) mine = c.take_error();
      while (mine) {
        const std::size_t i = next.fetch_add(1, std::memory_order_relaxed);
        if (i >= groups.size()) break;
        mine = send_group(*c, groups[i], compute, base);
      }
      if (mine) mine = c->finish();
    }
    if (mine) return;
    next.store(groups.size(), std::memory_order_relaxed);  // the others may stop
    std::lock_guard lock(mutex);
    if (outcome) outcome = std::move(mine);
  };
  const std::uint32_t n = std::clamp(std::thread::hardware_concurrency(), 1u, max_threads);
  std::vector<std::jthread> threads;
  for (std::uint32_t i = 1; i < n; ++i) threads.emplace_back(work);
  work();
  threads.clear();
  return outcome;
}

}  // namespace troupe::gpu

#include "src/cpu/packed_weights.hpp"

#include <algorithm>
#include <string>

#include "kernels/common/floats.hpp"
#include "src/format/dequantize.hpp"

namespace troupe::cpu {
namespace {

using format::tensor_view;
using kernels::cpu::packed_matrix;
using model::tensor_role;

/// Part of the packing, small enough to share among threads.
struct job {
  const tensor_view* source;
  std::uint32_t first, last;  ///< tiles of a matrix; elements of a vector
  std::byte* to;
  bool vector;
};

/// What a matrix is packed as: every number of E4M3 is one of BF16.
kernels::dtype packed_type(const tensor_view& t) {
  return t.type == kernels::dtype::f8_e4m3 ? kernels::dtype::bf16 : t.type;
}

/// Walks all tensors twice: first to count bytes, then, with memory, to say what goes where.
class packer {
 public:
  packer(const model::model& m, std::byte* memory) : model_(m), memory_(memory) {}

  const float* vector(tensor_role role, std::uint32_t layer) {
    const tensor_view* t = model_.weights.find(role, layer);
    if (!t) return nullptr;
    const auto n = static_cast<std::uint32_t>(t->shape.elements());
    const std::uint64_t at = layout_.add<float>(n);
    if (!memory_) return nullptr;
    jobs.push_back({t, 0, n, memory_ + at, true});
    return reinterpret_cast<const float*>(memory_ + at);
  }
  packed_matrix matrix(const tensor_view& t) {
    const auto rows = static_cast<std::uint32_t>(t.shape[0]), cols = static_cast<std::uint32_t>(t.shape[1]);
    const kernels::dtype type = packed_type(t);
    if (!kernels::cpu::can_pack(type, cols)) {
      if (problem.empty())
        problem = model_.weights.source().origin() + ": tensor " + std::string(t.name) + " of type " +
                  std::string(kernels::name(t.type)) + " with rows of " + std::to_string(cols) +
                  " elements cannot be used on the CPU: convert the model to another type";
      return {};
    }
    const std::uint64_t bytes = kernels::cpu::packed_bytes(type, rows, cols);
    const std::uint64_t at = layout_.add<std::byte>(bytes);
    if (!memory_) return {};
    const std::uint32_t n = kernels::cpu::n_tiles(rows);
    const auto step = static_cast<std::uint32_t>(std::max<std::uint64_t>(1, (std::uint64_t{256} << 10) * n / bytes));
    for (std::uint32_t first = 0; first < n; first += step)
      jobs.push_back({&t, first, std::min(n, first + step), memory_ + at, false});
    return {type, rows, cols, memory_ + at};
  }
  linear both(tensor_role weight, tensor_role bias, std::uint32_t layer) {
    const tensor_view& t = *model_.weights.find(weight, layer);
    return {matrix(t), vector(bias, layer), t.scale};
  }

  linear alone(const tensor_view& t) { return {matrix(t), nullptr, t.scale}; }
  void experts(layer_weights& l, std::uint32_t layer) {
    l.router = alone(*model_.weights.find(tensor_role::router, layer));
    for (std::uint32_t e = 0; e < model_.config.n_experts; ++e) {
      const auto of = [&](tensor_role role) { return alone(model_.weights.expert(role, layer, e)); };
      l.experts.push_back({of(tensor_role::expert_gate), of(tensor_role::expert_up), of(tensor_role::expert_down)});
    }
  }

  void walk(packed_weights& out) {
    for (std::uint32_t i = 0; i < model_.config.n_layers; ++i) {
      layer_weights l{};
      l.attention_norm = vector(tensor_role::attention_norm, i);
      l.q = both(tensor_role::q, tensor_role::q_bias, i);
      l.k = both(tensor_role::k, tensor_role::k_bias, i);
      l.v = both(tensor_role::v, tensor_role::v_bias, i);
      l.o = both(tensor_role::o, tensor_role::o_bias, i);
      l.q_norm = vector(tensor_role::q_norm, i);
      l.k_norm = vector(tensor_role::k_norm, i);
      l.ffn_norm = vector(tensor_role::ffn_norm, i);
      if (model_.config.n_experts) {
        experts(l, i);
      } else {
        l.gate = both(tensor_role::gate, tensor_role::gate_bias, i);
        l.up = both(tensor_role::up, tensor_role::up_bias, i);
        l.down = both(tensor_role::down, tensor_role::down_bias, i);
      }
      out.layers.push_back(std::move(l));
    }
    out.output_norm = vector(tensor_role::output_norm, 0);
    out.head = alone(model_.weights.head());
  }

  std::uint64_t bytes() const { return layout_.bytes(); }

  std::vector<job> jobs;
  std::string problem;

 private:
  const model::model& model_;
  std::byte* memory_;
  layout layout_;
};

void run(const job& j) {
  if (j.vector) {
    (void)format::dequantize(*j.source, {reinterpret_cast<float*>(j.to), j.last});
    return;
  }
  const auto rows = static_cast<std::uint32_t>(j.source->shape[0]),
             cols = static_cast<std::uint32_t>(j.source->shape[1]);
  const kernels::dtype type = packed_type(*j.source);
  if (type == j.source->type)
    return kernels::cpu::pack_tiles(type, j.source->data.data(), rows, cols, j.first, j.last, j.to);
  // The job's rows as a matrix of their own: tiles lie one behind the other.
  const std::uint32_t first = j.first * kernels::cpu::tile_rows,
                      n = std::min(rows, j.last * kernels::cpu::tile_rows) - first;
  const std::byte* const codes = j.source->data.data() + std::size_t{first} * cols;
  std::vector<kernels::bf16_bits> values(std::size_t{n} * cols);
  for (std::size_t i = 0; i < values.size(); ++i)
    values[i] = kernels::f32_to_bf16(kernels::e4m3_to_f32(std::to_integer<std::uint8_t>(codes[i])));
  kernels::cpu::pack_tiles(type, reinterpret_cast<const std::byte*>(values.data()), n, cols, 0, j.last - j.first,
                           j.to + kernels::cpu::packed_bytes(type, first, cols));
}

}  // namespace

result<std::uint64_t> packed_weights::bytes(const model::model& m) {
  packer counter(m, nullptr);
  packed_weights nothing;
  counter.walk(nothing);
  if (!counter.problem.empty()) return failure(errc::unsupported, counter.problem);
  return counter.bytes();
}

result<packed_weights> packed_weights::make(const model::model& m, thread_pool& pool) {
  auto size = bytes(m);
  if (!size) return size.take_error();
  auto memory = region::take(*size, "the weights");
  if (!memory) return memory.take_error();
  packed_weights out;
  out.memory_ = std::move(*memory);
  packer p(m, out.memory_.data());
  p.walk(out);
  pool.run([&](team& t) {
    t.for_tiles(static_cast<std::uint32_t>(p.jobs.size()), 1, [&](std::uint32_t first, std::uint32_t last) {
      for (std::uint32_t i = first; i < last; ++i) run(p.jobs[i]);
    });
  });
  return out;
}

}  // namespace troupe::cpu

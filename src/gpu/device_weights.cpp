#include "src/gpu/device_weights.hpp"

#include <algorithm>
#include <set>

#include "src/base/log.hpp"

namespace troupe::gpu {

using kernels::dtype;
using kernels::gpu::form_of;
using kernels::gpu::packed_form;
using kernels::gpu::packed_weight;
using model::tensor_role;

namespace {

packed_form wanted(quantization q) {
  switch (q) {
    case quantization::int8:
      return packed_form::i8;
    case quantization::int4:
      return packed_form::u4;
    case quantization::fp8:
      return packed_form::f8;
    case quantization::none:
      break;
  }
  return packed_form::none;
}

std::uint32_t rows_of(const format::tensor_view& t) { return static_cast<std::uint32_t>(t.shape[0]); }
std::uint32_t cols_of(const format::tensor_view& t) { return static_cast<std::uint32_t>(t.shape.row()); }

/// A pointer while the memory is only planned: its offset, plus one so that null stays null.
template <class T>
const T* planned(std::uint64_t offset) {
  return reinterpret_cast<const T*>(offset + 1);
}
template <class T>
void settle(const T*& p, std::byte* base) {
  if (p) p = reinterpret_cast<const T*>(base + (reinterpret_cast<std::uintptr_t>(p) - 1));
}

upload::kind how_to_pack(dtype t) {
  if (t == dtype::f8_e4m3) return upload::kind::packed_e4m3;
  return form_of(t) != packed_form::none ? upload::kind::packed_as_is : upload::kind::quantize;
}

}  // namespace

dtype natural_compute_type(const model::model& m) {
  return m.weights.find(tensor_role::q, 0)->type == dtype::f16 ? dtype::f16 : dtype::bf16;
}

result<model::shard> shard_of(const model::model& whole, const model::group_place& place) {
  const auto& c = whole.config;
  std::uint32_t ffn_unit = 32;  // the packed forms' group
  const auto divides = [&](const format::tensor_view& down) {
    ffn_unit = std::max(ffn_unit, kernels::traits(down.type).block_elements);
  };
  for (std::uint32_t i = 0; i < c.n_layers; ++i) {
    if (c.n_experts == 0) divides(*whole.weights.find(tensor_role::down, i));
    for (std::uint32_t e = 0; e < c.n_experts; ++e) divides(whole.weights.expert(tensor_role::expert_down, i, e));
  }
  auto s = plan_shard(c, place, place.size > 1 ? ffn_unit : 1);
  if (!s || place.size == 1) return s;
  for (std::uint32_t i = 0; i < c.n_layers; ++i) {
    const format::tensor_view& o = *whole.weights.find(tensor_role::o, i);
    const std::uint32_t block = kernels::traits(o.type).block_elements;
    if (s->heads.begin * c.head_dim % block != 0 || s->heads.count * c.head_dim % block != 0)
      return failure(errc::unsupported, "tensor-parallel-size " + std::to_string(place.size) + ": " +
                                            std::string(o.name) + " in blocks of " + std::to_string(block) +
                                            " columns cannot be divided between heads: choose another size");
  }
  return s;
}

result<device_weights> device_weights::plan(std::shared_ptr<const model::model> m, const model::shard& s,
                                            const gpu_options& o) {
  device_weights w;
  w.model_ = std::move(m);
  w.options_ = o;
  const auto& c = w.model_->config;
  const auto find = [&](tensor_role r, std::uint32_t layer = 0) { return w.model_->weights.find(r, layer); };
  std::set<dtype> widened;
  for (std::uint32_t i = 0; i < c.n_layers; ++i) {
    layer_weights l;
    l.attention_norm = w.add_vector(find(tensor_role::attention_norm, i));
    l.ffn_norm = w.add_vector(find(tensor_role::ffn_norm, i));
    l.qkv = w.add_linear({find(tensor_role::q, i), find(tensor_role::k, i), find(tensor_role::v, i)});
    const auto part = [&](const model::slice& all) { return s.place.size > 1 ? all : model::slice{}; };
    l.o = w.add_linear({find(tensor_role::o, i)}, part({s.heads.begin * c.head_dim, s.heads.count * c.head_dim}));
    if (c.n_experts == 0) {
      l.gate_up = w.add_linear({find(tensor_role::gate, i), find(tensor_role::up, i)});
      l.down = w.add_linear({find(tensor_role::down, i)}, part(s.ffn));
    } else {
      // Whoever chooses experts for others to follow is not rounded more than it must be.
      l.router = w.add_linear({find(tensor_role::router, i)}, {}, false);
      l.gate_up = w.add_experts({tensor_role::expert_gate, tensor_role::expert_up}, i);
      l.down = w.add_experts({tensor_role::expert_down}, i, part(s.ffn));
    }
    l.q_norm = w.add_vector(find(tensor_role::q_norm, i));
    l.k_norm = w.add_vector(find(tensor_role::k_norm, i));
    l.qkv_bias =
        w.add_vectors({find(tensor_role::q_bias, i), find(tensor_role::k_bias, i), find(tensor_role::v_bias, i)},
                      {c.q_size(), c.kv_size(), c.kv_size()});
    l.o_bias = w.add_vector(find(tensor_role::o_bias, i));
    l.gate_bias = w.add_vector(find(tensor_role::gate_bias, i));
    l.up_bias = w.add_vector(find(tensor_role::up_bias, i));
    l.down_bias = w.add_vector(find(tensor_role::down_bias, i));
    w.layers.push_back(std::move(l));
  }
  w.output_norm = w.add_vector(find(tensor_role::output_norm));
  w.add_embedding(*find(tensor_role::embedding), s.place.size > 1 ? s.vocab.begin : 0);
  w.head = w.add_linear({&w.model_->weights.head()});
  for (const upload& u : w.uploads_)
    if (u.how == upload::kind::dense && kernels::traits(u.source->type).quantized) widened.insert(u.source->type);
  for (dtype t : widened)
    log().info("{} weights have no packed form on the GPU: they are held in {}", kernels::name(t),
               kernels::name(o.compute));
  return w;
}

const float* device_weights::add_vector(const format::tensor_view* t) {
  if (!t) return nullptr;
  const std::uint64_t at = layout_.add<float>(t->shape.elements());
  uploads_.push_back({upload::kind::vector_f32, t, at, 0, {}, {}});
  return planned<float>(at);
}

const float* device_weights::add_vectors(std::initializer_list<const format::tensor_view*> parts,
                                         std::initializer_list<std::uint32_t> sizes) {
  if (std::none_of(parts.begin(), parts.end(), [](auto* t) { return t != nullptr; })) return nullptr;
  std::uint64_t total = 0;
  for (std::uint32_t n : sizes) total += n;
  const std::uint64_t at = layout_.add<float>(total);
  std::uint64_t offset = at;
  auto size = sizes.begin();
  for (const format::tensor_view* t : parts) {
    if (t) uploads_.push_back({upload::kind::vector_f32, t, offset, 0, {}, {}});
    offset += *size++ * sizeof(float);
  }
  return planned<float>(at);
}

linear device_weights::add_linear(std::initializer_list<const format::tensor_view*> parts, const model::slice& cols,
                                  bool quantized) {
  const tensors one(parts.begin(), parts.size());
  return add_matrices(std::span(&one, 1), cols, quantized);
}

linear device_weights::add_experts(std::initializer_list<tensor_role> roles, std::uint32_t layer,
                                   const model::slice& cols) {
  const std::uint32_t n = model_->config.n_experts;
  std::vector<const format::tensor_view*> all;
  for (std::uint32_t e = 0; e < n; ++e)
    for (const tensor_role r : roles) all.push_back(&model_->weights.expert(r, layer, e));
  std::vector<tensors> experts;
  for (std::uint32_t e = 0; e < n; ++e) experts.push_back(tensors(all).subspan(e * roles.size(), roles.size()));
  return add_matrices(experts, cols, true);
}

/// Matrices of the same shape, each of some tensors, one below the other; one matrix, or one per expert.
linear device_weights::add_matrices(std::span<const tensors> matrices, const model::slice& cols, bool quantized) {
  linear out;
  out.cols = cols.count ? cols.count : cols_of(*matrices.front().front());
  const auto form_of_one = [&](const format::tensor_view& t) {
    const packed_form own = form_of(t.type);
    if (own != packed_form::none || kernels::traits(t.type).quantized) return own;
    const packed_form want = t.type == dtype::f8_e4m3 ? packed_form::f8 : wanted(options_.quantize);
    return out.cols % 32 == 0 ? want : packed_form::none;
  };
  /// Of tensor k in every matrix; experts that a file stores differently are unpacked.
  const auto form = [&](std::size_t k) {
    const packed_form first = form_of_one(*matrices.front()[k]);
    const bool alike = std::ranges::all_of(matrices, [&](const tensors& m) { return form_of_one(*m[k]) == first; });
    return quantized && alike ? first : packed_form::none;
  };
  // Neighbours that are stored alike become one part.
  const std::size_t n = matrices.front().size();
  for (std::size_t first = 0, last; first < n; first = last) {
    linear_part part;
    part.first_row = out.rows;
    const packed_form f = form(first);
    for (last = first; last < n && (last == first || form(last) == f); ++last)
      part.rows += rows_of(*matrices.front()[last]);
    const std::uint64_t dense_bytes = std::uint64_t{part.rows} * out.cols * element_bytes(options_.compute);
    const std::uint64_t bytes =
        f == packed_form::none ? dense_bytes : kernels::gpu::packed_bytes(f, part.rows, out.cols);
    part.stride = (bytes + 255) / 256 * 256;
    const std::uint64_t at = layout_.add_bytes(part.stride * matrices.size());
    if (f == packed_form::none)
      part.dense = planned<std::byte>(at);
    else
      part.packed = {f, part.rows, out.cols, planned<std::byte>(at)};
    // Only what is one matrix is ever unpacked on the card.
    if (f != packed_form::none && matrices.size() == 1) scratch_ = std::max(scratch_, dense_bytes);
    for (std::size_t m = 0; m < matrices.size(); ++m)
      add_uploads(matrices[m].subspan(first, last - first), part, at + m * part.stride, cols);
    out.rows += part.rows;
    out.parts.push_back(part);
  }
  return out;
}

/// The tensors of one part of one matrix, which lies at `at`.
void device_weights::add_uploads(tensors from, const linear_part& part, std::uint64_t at, const model::slice& cols) {
  std::uint32_t row = 0;
  for (const format::tensor_view* t : from) {
    if (part.dense) {
      const std::uint64_t row_bytes =
          (cols.count ? cols.count : cols_of(*t)) * std::uint64_t{element_bytes(options_.compute)};
      uploads_.push_back({upload::kind::dense, t, at + row * row_bytes, 0, {}, cols});
    } else {
      uploads_.push_back({how_to_pack(t->type), t, at, row, part.packed, cols});
    }
    row += rows_of(*t);
  }
}

void device_weights::add_embedding(const format::tensor_view& t, std::uint32_t first_row) {
  // Rows are dequantized one by one when they are looked up, so they stay as the file has them.
  const std::uint64_t at = layout_.add_bytes(t.data.size());
  uploads_.push_back({upload::kind::raw_rows, &t, at, 0, {}, {}});
  embedding = {planned<std::byte>(at), t.type, t.data.size() / t.shape[0], rows_of(t), cols_of(t), first_row};
}

result<void> device_weights::load(std::byte* base) {
  // Zeros where joined biases have parts that no file has.
  checked ok;
  ok(cudaMemset(base, 0, bytes()), "cudaMemset")(cudaDeviceSynchronize(), "cudaDeviceSynchronize");
  if (!ok.ok()) return ok.take();
  rebase(base);
  return upload_all(uploads_, options_.compute, base, options_.device);
}

void device_weights::rebase(std::byte* base) {
  const auto settle_linear = [&](linear& l) {
    for (linear_part& p : l.parts) {
      if (p.packed.form != packed_form::none) settle(p.packed.data, base);
      if (p.dense) {
        const auto* bytes = static_cast<const std::byte*>(p.dense);
        settle(bytes, base);
        p.dense = bytes;
      }
    }
  };
  for (layer_weights& l : layers) {
    for (const float** v : {&l.attention_norm, &l.ffn_norm, &l.q_norm, &l.k_norm, &l.qkv_bias, &l.o_bias, &l.gate_bias,
                            &l.up_bias, &l.down_bias})
      settle(*v, base);
    for (linear* m : {&l.qkv, &l.o, &l.gate_up, &l.down, &l.router}) settle_linear(*m);
  }
  settle(output_norm, base);
  settle_linear(head);
  const auto* table = static_cast<const std::byte*>(embedding.data);
  settle(table, base);
  embedding.data = table;
}

}  // namespace troupe::gpu

#include "src/model/shard.hpp"

#include <optional>
#include <string>

namespace troupe::model {
namespace {

constexpr std::uint32_t row_unit = 16;

/// Part r of n of `total`, cut at multiples of `unit`; the last has the rest.
slice part(std::uint32_t total, std::uint32_t unit, const group_place& p) {
  const std::uint64_t runs = total / unit;
  const auto cut = [&](std::uint64_t r) {
    return r == p.size ? total : static_cast<std::uint32_t>(runs * r / p.size) * unit;
  };
  return {cut(p.rank), cut(p.rank + 1) - cut(p.rank)};
}

failure refuse(const group_place& p, const std::string& why) {
  return {errc::unsupported, "tensor-parallel-size " + std::to_string(p.size) + ": " + why + ": choose another size"};
}

/// The rows of a tensor that a rank holds.
result<format::tensor_view> rows_of(const format::tensor_view& t, const slice& s) {
  const std::uint64_t rows = t.shape[0], bytes = rows ? t.data.size() / rows : 0;
  if (s.end() > rows || bytes * rows != t.data.size())
    return failure(errc::unsupported, std::string(t.name) + ": a tensor of type " + std::string(kernels::name(t.type)) +
                                          " and shape " + format::to_string(t.shape) + " cannot be divided by rows");
  format::tensor_view out = t;
  out.shape = t.shape.size() == 1 ? format::tensor_shape{s.count} : format::tensor_shape{s.count, t.shape[1]};
  out.data = t.data.subspan(s.begin * bytes, s.count * bytes);
  return out;
}

}  // namespace

result<shard> plan_shard(const model_config& c, const group_place& p, std::uint32_t ffn_unit) {
  if (p.size == 0 || p.rank >= p.size)
    return failure(errc::invalid_argument,
                   "rank " + std::to_string(p.rank) + " of " + std::to_string(p.size) + " does not exist");
  shard s;
  s.place = p;
  if (p.size <= c.n_kv_heads) {
    const std::uint32_t group = c.n_heads / c.n_kv_heads;
    s.kv_heads = part(c.n_kv_heads, 1, p);
    s.heads = {s.kv_heads.begin * group, s.kv_heads.count * group};
  } else {
    if (p.size % c.n_kv_heads != 0 || c.n_heads % p.size != 0)
      return refuse(p, std::to_string(c.n_heads) + " heads over " + std::to_string(c.n_kv_heads) +
                           " KV heads cannot be divided among so many ranks");
    s.heads = part(c.n_heads, 1, p);
    s.kv_heads = {p.rank / (p.size / c.n_kv_heads), 1};
  }
  if (c.ffn / ffn_unit < p.size)
    return refuse(p, "an MLP of " + std::to_string(c.ffn) + " columns in blocks of " + std::to_string(ffn_unit) +
                         " is too narrow");
  if (c.vocab / row_unit < p.size || c.hidden / row_unit < p.size) return refuse(p, "the model is too small");
  s.ffn = part(c.ffn, ffn_unit, p);
  s.vocab = vocab_of(c, p);
  s.hidden = part(c.hidden, row_unit, p);
  return s;
}

slice vocab_of(const model_config& c, const group_place& p) { return part(c.vocab, row_unit, p); }

result<std::shared_ptr<const model>> model_of_shard(const model& whole, const shard& s, sharing how) {
  const model_config& c = whole.config;
  const auto times = [](const slice& x, std::uint32_t n) { return slice{x.begin * n, x.count * n}; };
  const auto rows = [&](tensor_role role) -> std::optional<slice> {
    using enum tensor_role;
    switch (role) {
      case q:
      case q_bias:
        return times(s.heads, c.head_dim);
      case k:
      case k_bias:
      case v:
      case v_bias:
        return times(s.kv_heads, c.head_dim);
      case gate:
      case up:
      case gate_bias:
      case up_bias:
      case expert_gate:
      case expert_up:
        return s.ffn;
      case head:
        return s.vocab;
      case embedding:
        if (how == sharing::sums) return s.vocab;
        return std::nullopt;
      case o:
      case down:
      case expert_down:
        if (how == sharing::activations) return s.hidden;
        return std::nullopt;
      default:
        return std::nullopt;
    }
  };
  auto weights =
      whole.weights.mapped([&](tensor_role role, const format::tensor_view& t) -> result<format::tensor_view> {
        const std::optional<slice> part = rows(role);
        return part ? rows_of(t, *part) : result<format::tensor_view>(t);
      });
  if (!weights) return weights.take_error();
  model local{whole.path, c, std::move(*weights), whole.sampling};
  local.config.n_heads = s.heads.count;
  local.config.n_kv_heads = s.kv_heads.count;
  local.config.ffn = s.ffn.count;
  local.config.tied_embedding = false;
  return std::make_shared<const model>(std::move(local));
}

}  // namespace troupe::model

#include "src/cpu/rank_part.hpp"

#include "kernels/cpu/matmul.hpp"

namespace troupe::cpu {

result<std::vector<rank_part>> divide(std::shared_ptr<const model::model> whole, std::uint32_t n_ranks) {
  const model::model_config& c = whole->config;
  std::vector<rank_part> parts(n_ranks);
  shared_columns attended{c.q_size(), {}, {}}, hidden{c.hidden, {}, {}}, ffn{c.ffn, {}, {}}, vocab{c.vocab, {}, {}};
  if (n_ranks == 1) {
    for (shared_columns* x : {&attended, &hidden, &ffn, &vocab}) x->of = {x->own = {0, x->width}};
    parts[0] = {nullptr, std::move(whole), attended, hidden, ffn, vocab};
    return parts;
  }
  for (std::uint32_t r = 0; r < n_ranks; ++r) {
    // Runs of whole tiles; a product's columns are nowhere divided, so blocks of weights do not matter.
    auto s = model::plan_shard(c, {r, n_ranks}, kernels::cpu::tile_rows);
    if (!s) return s.take_error();
    auto local = model::model_of_shard(*whole, *s, model::sharing::activations);
    if (!local) return local.take_error();
    parts[r].model = std::move(*local);
    attended.of.push_back({s->heads.begin * c.head_dim, s->heads.count * c.head_dim});
    hidden.of.push_back(s->hidden);
    ffn.of.push_back(s->ffn);
    vocab.of.push_back(s->vocab);
  }
  for (std::uint32_t r = 0; r < n_ranks; ++r) {
    for (shared_columns* x : {&attended, &hidden, &ffn, &vocab}) x->own = x->of[r];
    parts[r] = {nullptr, std::move(parts[r].model), attended, hidden, ffn, vocab};
  }
  return parts;
}

}  // namespace troupe::cpu

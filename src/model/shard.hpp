#pragma once
#include <cstdint>
#include <memory>

#include "src/base/result.hpp"
#include "src/model/open_model.hpp"

/// Tensor parallelism as arithmetic on a model's sizes: which part of a model a rank of a group holds.
namespace troupe::model {

/// A rank's place in its group.
struct group_place {
  std::uint32_t rank = 0, size = 1;
  bool operator==(const group_place&) const = default;
};

struct slice {
  std::uint32_t begin = 0, count = 0;
  std::uint32_t end() const { return begin + count; }
  bool operator==(const slice&) const = default;
};

/// How ranks bring together what follows from all of a layer's heads or all of its MLP's columns.
enum class sharing : std::uint8_t {
  /// o and down are divided by rows, and every rank sees whole rows of activations: each sum is one rank's, in the
  /// order
  /// that it has on one rank, so any degree gives the same bits. The embedding is whole.
  activations,
  /// o and down are divided by columns, and the ranks add their sums; the embedding is divided by rows of the
  /// vocabulary.
  sums,
};

/// What a rank owns. Slices of all ranks together are the whole, but for KV heads where they are fewer than ranks:
/// those are held by several. A rank has whole KV groups of query heads, or a part of one.
struct shard {
  group_place place;
  slice heads, kv_heads, ffn, vocab;  ///< ffn: columns of the MLP, and of every expert where there are some
  slice hidden;  ///< sharing::activations: rows of o and down
};

/// Columns of the MLP stay together in runs of `ffn_unit` (the block of down's type where it is divided by columns; at
/// least 1), rows of vocabulary and hidden state in runs of 16. Slices may differ in length by a run. Errors:
/// unsupported, with the number that does not divide.
result<shard> plan_shard(const model_config&, const group_place&, std::uint32_t ffn_unit);

/// The rows of the vocabulary of any rank.
slice vocab_of(const model_config&, const group_place&);

/// The part of a model that a shard says: config with the shard's heads, KV heads and ffn; hidden and vocab stay those
/// of the whole. Views point into the same source; the head is a tensor of its own even where it was tied. With
/// sharing::sums the views of o and down are whole: their columns are the caller's to pick.
result<std::shared_ptr<const model>> model_of_shard(const model&, const shard&, sharing);

}  // namespace troupe::model

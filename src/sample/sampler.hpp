#pragma once
#include <cstdint>
#include <span>
#include <vector>

#include "kernels/cpu/vector.hpp"
#include "src/base/ids.hpp"
#include "src/sample/token_counts.hpp"

/// Drawing the next token on the CPU.
namespace troupe::sample {

/// See troupe::sampling_params for meaning and ranges. Values outside them do no harm: a temperature below 1e-5 or NaN is
/// greedy, a filter that would keep nothing keeps the likeliest token.
struct parameters {
  float temperature = 1.0f;
  std::int32_t top_k = 0;
  float top_p = 1.0f;
  float min_p = 0.0f;
  float repetition_penalty = 1.0f;
  float frequency_penalty = 0.0f;
  float presence_penalty = 0.0f;
  std::uint64_t seed = 0;
  std::uint32_t choice = 0;

  bool penalizes() const {
    return repetition_penalty != 1.0f || frequency_penalty != 0.0f || presence_penalty != 0.0f;
  }
};

struct bias {
  token_id token;
  float addend;
};

struct draw {
  token_id token = -1;
  bool ok = false;               ///< false: token means nothing; the logits held an infinity or a NaN, or:
  bool nothing_allowed = false;  ///<   the mask allowed no token
  float logprob = 0.0f;          ///< of the token under the raw logits; only if asked for
};

/// Order: bias, penalties (repetition, then frequency and presence), mask, temperature, min_p, top_k, top_p over what is
/// left, then Gumbel-max with noise from (seed, choice, position, token). Ties go to the lowest id. The token depends on
/// the logits, the parameters, the counts, the mask and the position only. Scratch is taken at construction; one thread at a time.
class sampler {
 public:
  sampler(std::uint32_t vocab, const kernels::cpu::vector_kernels&);

  /// `logits` (vocab of them) are changed. `counts` may be null: no penalties. `position` is the sampled token's own
  /// position in its sequence. A bias for an id outside the vocabulary is ignored. `mask`: bit i of word w allows token
  /// 32 w + i; empty: all are allowed. Logits must be finite, and the logprob is taken, over all tokens.
  draw next(std::span<float> logits, const parameters&, const token_counts* counts, std::span<const bias> biases,
            std::uint32_t position, bool want_logprob, std::span<const std::uint32_t> mask = {});

  bool finite(std::span<const float> logits) const { return kernels_.argmax(logits.data(), logits.size()).finite; }

  /// The tokens that the filters keep, likeliest first; the temperature must be above 0, nothing else is applied.
  std::span<const std::uint32_t> kept(std::span<const float> logits, const parameters&);

  static std::uint64_t bytes(std::uint32_t vocab);

 private:
  struct item {
    float value;
    std::uint32_t id;
    float mass;  ///< exp of the tempered distance to the largest
  };
  static bool likelier(const item& a, const item& b) { return a.value > b.value || (a.value == b.value && a.id < b.id); }

  void filter(std::span<const float> logits, const parameters&, float max, float scale);
  void gather(std::span<const float> logits, float threshold, float max, float scale);
  void keep_count(std::size_t count);
  void keep_mass(double target);

  const kernels::cpu::vector_kernels& kernels_;
  std::vector<std::uint32_t> ids_;  // all four of size vocab
  std::vector<float> values_;
  std::vector<item> items_;
  std::vector<float> raw_;
  std::size_t n_items_ = 0;
};

}  // namespace troupe::sample

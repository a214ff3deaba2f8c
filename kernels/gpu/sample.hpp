#pragma once
#include "kernels/gpu/launch.hpp"

/// The sampler on the device: the same rules and the same counter-based draws as src/sample (which is the reference and
/// says the order: bias, penalties, temperature, min_p, top_k, top_p, Gumbel-max; ties to the lowest id).
namespace troupe::kernels::gpu {

struct bias_entry {
  std::int32_t token;
  float addend;
};

/// A slot's sampling parameters, written at admission.
struct slot_sampling {
  std::uint64_t seed;
  std::uint32_t choice;
  std::int32_t top_k;  ///< <= 0: all
  float temperature, top_p, min_p, repetition_penalty, frequency_penalty, presence_penalty;
  std::uint32_t bias_offset, n_biases;  ///< into the biases of the slot table
  bool penalizes;
};

/// An admission as it lies in pinned memory.
struct slot_entry {
  slot_sampling sampling;
  std::uint32_t slot;
  std::uint32_t first_bias;  ///< of sampling.n_biases among the pinned biases
};
static_assert(sizeof(slot_entry) == 64);
/// sampling[slot] and the slot's biases, at its bias_offset, become what n entries of different slots say. Entries and
/// their biases must stay until the kernel is done.
cudaError_t admit_slots(const slot_entry* pinned_entries, std::uint32_t n, const bias_entry* pinned_biases,
                        slot_sampling* sampling, bias_entry* biases, cudaStream_t);

/// One output of the step.
struct sample_row {
  std::uint32_t slot;
  std::uint32_t position;    ///< of the token to be drawn
  std::uint32_t logits_row;  ///< row of `logits`
  std::uint32_t flags;       ///< sample_flag bits
  std::uint32_t gate_word;   ///< masked: index of the row's gate among `gates`; the mask is ready when the gate holds
                             ///< the step's number
  std::uint32_t mask_row;    ///< masked: row of `masks`
};
enum sample_flag : std::uint32_t { sample_logprob = 1, sample_masked = 2, sample_skip = 4 };

struct sample_result {
  std::int32_t token;   ///< -1 where a flag is set; last_token is 0 then
  std::uint32_t flags;  ///< 1: the logits held an infinity or a NaN; 2: the mask allowed nothing; 4: the gate did not
                        ///< open within the step's patience
  float logprob;        ///< under the raw logits
  std::uint32_t padding;
};

struct sample_args {
  float* logits;  ///< [rows, ld_logits] f32; not changed. Fastest where rows begin at multiples of 16 bytes
  std::uint32_t ld_logits, vocab;
  const sample_row* rows;
  const std::uint32_t* n_rows;
  std::uint32_t max_rows;
  const slot_sampling* slots;  ///< [max_slots]
  const bias_entry* biases;
  /// Penalty counts [max_slots][vocab]: bit 31 the token is in the prompt, low bits how often it was put out. The
  /// sampler adds the token that it draws where the slot penalizes.
  std::uint32_t* counts;
  const std::uint32_t* masks;  ///< [mask rows][ceil(vocab / 32)] allowed tokens; bit i of word w is token 32 w + i
  const volatile std::uint64_t* gates;  ///< pinned: a row's mask may be read once its gate word is >= *gate_value
  const std::uint64_t* gate_value;
  std::int32_t* last_token;                         ///< [max_slots] written for the next step
  sample_result* results;                           ///< [rows] device
  void* scratch;                                    ///< sample_scratch_bytes
  std::uint64_t gate_patience_ns = 10'000'000'000;  ///< how long a row waits for its gate
};
/// Scratch needs no initial value. A row with sample_skip writes nothing. Rows with a mask hold up no other row's work,
/// but sample() ends when the last of them has its mask.
std::uint64_t sample_scratch_bytes(std::uint32_t max_rows, std::uint32_t vocab);
cudaError_t sample(const sample_args&, cudaStream_t);

/// counts[slot] = 0, then the history: tokens [0, prompt_length) set bit 31, the rest count as output.
struct count_reset {
  std::uint32_t slot, history_offset, history_count, prompt_length;
};
cudaError_t reset_counts(const count_reset* resets, const std::uint32_t* n, std::uint32_t max_n,
                         const std::int32_t* history, std::uint32_t* counts, std::uint32_t vocab, cudaStream_t);

/// The last kernel of a step: copies the results to pinned memory, then stores the step's number there with a
/// system-wide fence between, for the thread that watches the word. `began` (null: nobody asks): as pull_inputs leaves
/// it; then pinned_seq[1] and [2] become when the step began and ended, by the card's clock.
cudaError_t publish_results(const sample_result* results, const std::uint32_t* n_rows, std::uint32_t max_rows,
                            sample_result* pinned_results, const std::uint64_t* seq, volatile std::uint64_t* pinned_seq,
                            cudaStream_t, const std::uint64_t* began = nullptr);

}  // namespace troupe::kernels::gpu

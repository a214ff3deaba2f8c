#pragma once
#include <cstdint>
#include <fstream>
#include <memory>
#include <optional>
#include <string>

#include "src/model/backend.hpp"
#include "src/model/open_model.hpp"

/// A run's plans as they went to a rank, and the tokens that came back, in a file: `troupe replay` runs them again and
/// compares.
///
/// The file: "TRPLOG02"; a record of kind header, whose payload is lines KEY=VALUE; then records of kinds plan (the
/// plan's bytes) and done (seq, device_ns, launch_ns, row_results) in the order in which they happened. A record is
/// a record_header and its payload, without padding; little-endian. A log that was cut off is good up to there.
namespace troupe::model {

struct plan_log_header {
  std::string model;              ///< its path, or the preset's name
  std::uint64_t fingerprint = 0;  ///< of the model
  std::string load_format;        ///< as in the engine's options
  std::string device, dtype, quantization, kv_cache_dtype;
  bool deterministic = false, enforce_eager = false, reference = false;
  std::uint32_t max_model_len = 0, max_num_seqs = 0, max_num_batched_tokens = 0, n_pages = 0;  ///< as the rank had them
};

/// Tells models apart: from the configuration, the tensors' names, types and shapes and the first bytes of each.
std::uint64_t fingerprint(const model&);

/// A backend that does what `inner` does and logs it. Only a pointer to the plan and a copy of the answer are taken on
/// the rank's thread; another thread writes. A file that cannot be written further ends the log, with one warning, and
/// not the rank. Truncates the file. Errors: invalid_argument when it cannot be made.
result<std::unique_ptr<backend>> with_plan_log(std::unique_ptr<backend> inner, const std::string& path,
                                               const plan_log_header&);

class plan_log_reader {
 public:
  struct record {
    std::shared_ptr<const step_plan> plan;  ///< null: an answer
    step_done done;
  };

  /// Errors: not_found, invalid_file.
  static result<plan_log_reader> open(const std::string& path);
  const plan_log_header& header() const { return header_; }
  /// None at the end. Plans are parsed and numbered without gaps, answers are of earlier plans and in their order.
  /// Errors: invalid_file.
  result<std::optional<record>> next();
  bool cut_off() const { return cut_off_; }  ///< after the end: it was in the middle of a record

 private:
  explicit plan_log_reader(std::string path) : path_(std::move(path)) {}
  failure wrong(const std::string& what) const;
  result<bool> take(std::uint32_t& kind, std::vector<std::byte>& payload);

  std::string path_;
  std::ifstream file_;
  std::uint64_t left_ = 0;  ///< bytes of the file not read
  plan_log_header header_;
  step_seq last_plan_ = 0, last_done_ = 0;
  bool cut_off_ = false;
};

struct replay_report {
  std::uint64_t steps = 0, tokens = 0;  ///< whose answers were compared
  std::uint64_t differences = 0;        ///< rows
  step_seq step = 0;                    ///< of the first difference
  row_result logged{}, now{};           ///< there; slot 0xffffffff: no such row
};

/// Runs the logged plans on a backend of the same shape. Errors: those of the log and the backend; a plan that the
/// backend refuses is an invalid_file.
result<replay_report> replay(plan_log_reader&, backend&);

}  // namespace troupe::model

#pragma once
#include <cstddef>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>

#include "src/base/result.hpp"

namespace troupe::text {

/// A compiled regular expression as tokenizer files use them (Oniguruma's default syntax over UTF-8: `\s` is the
/// White_Space property, `$` ends any line). Immutable and safe to share between threads.
class split_pattern {
 public:
  /// Fails with `invalid_file`, naming place and reason, if the expression cannot be compiled, and with `unsupported`
  /// for character classes within classes.
  static result<std::shared_ptr<const split_pattern>> make(std::string_view expression);
  ~split_pattern();
  split_pattern(const split_pattern&) = delete;
  split_pattern& operator=(const split_pattern&) = delete;

  struct span {
    std::size_t begin, end;
  };

  /// Working memory of searches: one per thread at a time.
  class workspace {
   public:
    workspace();
    ~workspace();
    workspace(workspace&&) noexcept;
    workspace& operator=(workspace&&) = delete;

   private:
    friend class split_pattern;
    void* match_data_;
    void* context_;
  };

  /// The leftmost match that begins at `from` or later; `text` is valid UTF-8. Fails with `unsupported` if the search
  /// exceeds its limits of steps or memory (a pattern that explodes on this text).
  result<std::optional<span>> find(std::string_view text, std::size_t from, workspace&) const;

  const std::string& expression() const noexcept { return expression_; }

 private:
  split_pattern(std::string expression, void* code) : expression_(std::move(expression)), code_(code) {}

  std::string expression_;
  void* code_;
  mutable std::once_flag
      machine_code_;  // made by the first search: it costs more than all the rest of loading a pattern
};

}  // namespace troupe::text

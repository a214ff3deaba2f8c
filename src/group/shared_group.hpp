#pragma once
#include <memory>
#include <optional>

#include "src/group/collective.hpp"

/// A group whose ranks are processes of one host. Whoever starts them creates the group and hands its file descriptor
/// down; a rank that dies is noticed by the wait's limit, or at once when its parent calls `abort`.
namespace troupe::group {

class shared_memory;

/// The parent's end; it is no member.
class shared_group {
 public:
  /// Errors: invalid_argument, out_of_memory.
  static result<shared_group> create(std::uint32_t size, const group_options&);
  shared_group(shared_group&&) noexcept;
  shared_group& operator=(shared_group&&) noexcept;
  ~shared_group();

  /// What a child hands to `join_shared_group`; closed on exec unless it is passed on, and by the destructor.
  int fd() const noexcept;
  void abort() noexcept;
  std::optional<std::uint32_t> awaited() const;

 private:
  explicit shared_group(std::shared_ptr<shared_memory>);
  std::shared_ptr<shared_memory> memory_;
};

/// The descriptor stays the caller's and may be closed afterwards. Errors: invalid_argument (the rank, or no group is
/// behind the descriptor), out_of_memory.
result<std::shared_ptr<collective>> join_shared_group(int fd, std::uint32_t rank, std::chrono::milliseconds limit);

}  // namespace troupe::group

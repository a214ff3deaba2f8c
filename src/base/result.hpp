#pragma once
#include <string>
#include <utility>
#include <variant>

#include <troupe/error.hpp>

namespace troupe {

/// An error on its way to somebody who can say it: a code for the program and one sentence for the person.
struct failure {
  std::error_code code;
  std::string message;

  failure(errc c, std::string m) : code(c), message(std::move(m)) {}
  failure(std::error_code c, std::string m) : code(c), message(std::move(m)) {}
};

/// A value or a failure: what pure modules return that read untrusted bytes. (std::expected is C++23.)
template <class T>
class [[nodiscard]] result {
 public:
  result(T value) : state_(std::in_place_index<0>, std::move(value)) {}
  result(failure f) : state_(std::in_place_index<1>, std::move(f)) {}

  bool ok() const noexcept { return state_.index() == 0; }
  explicit operator bool() const noexcept { return ok(); }

  T& value() & { return ok() ? std::get<0>(state_) : raise(); }
  const T& value() const& { return ok() ? std::get<0>(state_) : const_cast<result*>(this)->raise(); }
  T&& value() && { return std::move(ok() ? std::get<0>(state_) : raise()); }
  T& operator*() & { return std::get<0>(state_); }
  const T& operator*() const& { return std::get<0>(state_); }
  T&& operator*() && { return std::get<0>(std::move(state_)); }
  T* operator->() { return &std::get<0>(state_); }
  const T* operator->() const { return &std::get<0>(state_); }

  const failure& error() const { return std::get<1>(state_); }
  failure&& take_error() { return std::get<1>(std::move(state_)); }

 private:
  [[noreturn]] T& raise() {
    const failure& f = std::get<1>(state_);
    throw troupe::error(static_cast<errc>(f.code.value()), f.message);
  }
  std::variant<T, failure> state_;
};

/// Success or a failure.
template <>
class [[nodiscard]] result<void> {
 public:
  result() = default;
  result(failure f) : state_(std::in_place_index<1>, std::move(f)) {}
  bool ok() const noexcept { return state_.index() == 0; }
  explicit operator bool() const noexcept { return ok(); }
  void value() const {
    if (!ok()) throw troupe::error(static_cast<errc>(error().code.value()), error().message);
  }
  const failure& error() const { return std::get<1>(state_); }
  failure&& take_error() { return std::get<1>(std::move(state_)); }

 private:
  std::variant<std::monostate, failure> state_;
};

}  // namespace troupe

#pragma once
#include <string>
#include <string_view>
#include <system_error>
#include <utility>
#include <variant>

#include <troupe/error.hpp>

namespace troupe::wire {

/// What a client is told when its request fails: an HTTP status and the fields of OpenAI's error object.
struct api_error {
  int status = 500;
  std::string type;     ///< invalid_request_error, authentication_error, rate_limit_error, timeout_error, server_error
  std::string message;  ///< what happened: what to do
  std::string param;    ///< the field of the body; empty: null
  std::string code;     ///< a word for programs; empty: null
};

/// The status that an error of the engine has on the wire. Codes of other categories are 500.
int http_status(std::error_code) noexcept;

/// An error of the engine. `message` may be empty: then the code's own text stands in.
api_error to_api_error(std::error_code, std::string message);
/// An error that HTTP itself calls for (401, 404, 405, 408, 411, 413, 415, 417, 431, …).
api_error http_error(int status, std::string message, std::string code = {});
/// A malformed or unsupported field of a body: 400.
api_error field_error(std::string param, std::string message, std::string code = {});

/// Appends {"error":{"message","type","param","code"}}.
void append_error(std::string& out, const api_error&);

/// A value or what to tell the client.
template <class T>
class [[nodiscard]] parsed {
 public:
  parsed(T value) : state_(std::in_place_index<0>, std::move(value)) {}
  parsed(api_error e) : state_(std::in_place_index<1>, std::move(e)) {}
  bool ok() const noexcept { return state_.index() == 0; }
  explicit operator bool() const noexcept { return ok(); }
  T& operator*() { return std::get<0>(state_); }
  const T& operator*() const { return std::get<0>(state_); }
  T* operator->() { return &std::get<0>(state_); }
  const T* operator->() const { return &std::get<0>(state_); }
  const api_error& error() const { return std::get<1>(state_); }

 private:
  std::variant<T, api_error> state_;
};

}  // namespace troupe::wire

#include "src/wire/api_error.hpp"

#include "src/wire/json_text.hpp"

namespace troupe::wire {
namespace {

struct row {
  int status;
  const char* code;
};

row of(errc e) noexcept {
  switch (e) {
    case errc::invalid_argument: return {400, "invalid_argument"};
    case errc::invalid_file: return {400, "invalid_file"};
    case errc::unsupported: return {400, "unsupported"};
    case errc::not_found: return {404, "not_found"};
    case errc::context_exceeded: return {400, "context_length_exceeded"};  // OpenAI's word for it
    case errc::too_many_requests: return {429, "rate_limit_exceeded"};
    case errc::overloaded: return {503, "overloaded"};
    case errc::draining: return {503, "draining"};
    // The client that cancelled is gone; one that still reads was cancelled by the server's shutdown.
    case errc::cancelled: return {503, "cancelled"};
    case errc::deadline_exceeded: return {408, "deadline_exceeded"};
    case errc::rank_failed: return {500, "rank_failed"};
    case errc::out_of_memory: return {500, "out_of_memory"};
    case errc::io_failed: return {500, "io_failed"};
    case errc::internal: return {500, "internal"};
  }
  return {500, "internal"};
}

const char* type_of(int status) noexcept {
  if (status == 401 || status == 403) return "authentication_error";
  if (status == 408) return "timeout_error";
  if (status == 429) return "rate_limit_error";
  if (status >= 500) return "server_error";
  return "invalid_request_error";
}

void append_nullable(std::string& out, const std::string& text) {
  if (text.empty()) out += "null";
  else append_string(out, text);
}

}  // namespace

int http_status(std::error_code code) noexcept {
  return code.category() == category() ? of(static_cast<errc>(code.value())).status : 500;
}

api_error to_api_error(std::error_code code, std::string message) {
  const row r = code.category() == category() ? of(static_cast<errc>(code.value())) : row{500, "internal"};
  if (message.empty()) message = code.message();
  return {r.status, type_of(r.status), std::move(message), {}, r.code};
}

api_error http_error(int status, std::string message, std::string code) {
  return {status, type_of(status), std::move(message), {}, std::move(code)};
}

api_error field_error(std::string param, std::string message, std::string code) {
  return {400, type_of(400), std::move(message), std::move(param), std::move(code)};
}

void append_error(std::string& out, const api_error& e) {
  out += R"({"error":{"message":)";
  append_string(out, e.message);
  out += R"(,"type":)";
  append_string(out, e.type);
  out += R"(,"param":)";
  append_nullable(out, e.param);
  out += R"(,"code":)";
  append_nullable(out, e.code);
  out += "}}";
}

}  // namespace troupe::wire

#include "src/text/normalizer.hpp"

#include <utf8proc.h>

#include <algorithm>
#include <cstdlib>

namespace troupe::text {
namespace {

// A step rewrites the text, or answers false: nothing to change.
bool apply(const prepend_step& step, std::string_view text, std::string& out) {
  if (text.empty() || step.text.empty()) return false;
  out.reserve(step.text.size() + text.size());
  out.assign(step.text).append(text);
  return true;
}

bool apply(const replace_step& step, std::string_view text, std::string& out) {
  std::size_t next = step.from.empty() ? text.npos : text.find(step.from);
  if (next == text.npos) return false;
  out.clear();
  out.reserve(text.size() + text.size() / 4);
  std::size_t at = 0;
  for (; next != text.npos; next = text.find(step.from, at)) {
    out.append(text.substr(at, next - at)).append(step.to);
    at = next + step.from.size();
  }
  out.append(text.substr(at));
  return true;
}

bool apply(const nfc_step&, std::string_view text, std::string& out) {
  // Characters below U+0300 are in NFC already, and so is any sequence of them.
  if (std::all_of(text.begin(), text.end(), [](char c) { return static_cast<unsigned char>(c) < 0xCC; })) return false;
  utf8proc_uint8_t* composed = nullptr;
  const utf8proc_ssize_t size =
      utf8proc_map(reinterpret_cast<const utf8proc_uint8_t*>(text.data()), static_cast<utf8proc_ssize_t>(text.size()),
                   &composed, static_cast<utf8proc_option_t>(UTF8PROC_STABLE | UTF8PROC_COMPOSE));
  if (size < 0) return false;  // only memory can be wanting: the text is valid
  out.assign(reinterpret_cast<const char*>(composed), static_cast<std::size_t>(size));
  std::free(composed);
  return true;
}

}  // namespace

result<std::string_view> normalizer::operator()(std::string_view text, std::string& buffer) const {
  std::string out;
  for (const normalizer_step& step : steps_) {
    if (std::visit([&](const auto& s) { return apply(s, text, out); }, step)) {
      buffer.swap(out);
      text = buffer;
    }
  }
  return text;
}

}  // namespace troupe::text

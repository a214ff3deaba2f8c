#pragma once
#include <dlfcn.h>

#include <string>

#include "src/base/result.hpp"

namespace troupe::gpu {

/// A library of the target's CUDA installation, opened at run time and never closed. The first thing that was missing
/// is kept.
class dynamic_library {
 public:
  explicit dynamic_library(const std::string& name) : handle_(dlopen(name.c_str(), RTLD_NOW | RTLD_LOCAL)) {
    if (handle_) return;
    const char* const why = dlerror();
    problem_ = why ? why : name;
  }
  template <class F>
  void look_up(const char* name, F& f) {
    if (!handle_) return;
    f = reinterpret_cast<F>(dlsym(handle_, name));
    if (!f && problem_.empty()) problem_ = std::string("it has no ") + name;
  }
  const std::string& problem() const { return problem_; }

 private:
  void* handle_;
  std::string problem_;
};

/// A table of the library's functions: look_up(file, table) fetches them. `product` and `remedy` are for the message.
/// Errors: not_found.
template <class Table>
result<Table> load_library(const std::string& name, const char* product, const std::string& remedy,
                           void (*look_up)(dynamic_library&, Table&)) {
  dynamic_library file(name);
  Table table{};
  look_up(file, table);
  if (!file.problem().empty())
    return failure(errc::not_found, std::string(product) + " cannot be loaded: " + file.problem() + ": " + remedy);
  return table;
}

}  // namespace troupe::gpu

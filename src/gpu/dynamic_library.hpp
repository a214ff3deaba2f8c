#pragma once
#include <dlfcn.h>

#include <string>

namespace troupe::gpu {

/// A library of the target's CUDA installation, opened at run time and never closed. The first thing that was missing is
/// kept.
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

}  // namespace troupe::gpu

#include "src/format/tensor_view.hpp"

namespace troupe::format {

std::string to_string(const tensor_shape& shape) {
  std::string out = "[";
  for (std::size_t i = 0; i < shape.size(); ++i) {
    if (i != 0) out += ", ";
    out += std::to_string(shape[i]);
  }
  return out + "]";
}

}  // namespace troupe::format

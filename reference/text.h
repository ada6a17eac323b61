#pragma once
// Words for messages. Internal to reference/.
#include <cstdint>
#include <string>

#include "reference/tensor.h"

namespace moecheck::reference {

inline std::string text(std::int64_t v) { return std::to_string(v); }

// "[4, 256]"
inline std::string text(const Shape& shape) {
  std::string s = "[";
  for (int i = 0; i < shape.rank; ++i) {
    if (i > 0) s += ", ";
    s += text(shape[i]);
  }
  return s + "]";
}

}  // namespace moecheck::reference

#pragma once
// Signed counts as places in a container. Internal to the project.
#include <cstddef>
#include <cstdint>
#include <vector>

namespace moecheck::reference {

constexpr std::size_t index(std::int64_t i) { return static_cast<std::size_t>(i); }

template <class T>
const T& at(const std::vector<T>& list, std::int64_t i) {
  return list[index(i)];
}

}  // namespace moecheck::reference

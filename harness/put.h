#pragma once
// fmt::format at the end of a string.
#include <fmt/format.h>

#include <iterator>
#include <string>
#include <utility>

namespace moecheck::harness {

template <class... Args>
void put(std::string& out, fmt::format_string<Args...> format, Args&&... args) {
  fmt::format_to(std::back_inserter(out), format, std::forward<Args>(args)...);
}

}  // namespace moecheck::harness

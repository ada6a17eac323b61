#include "harness/streams/profile_names.h"

#include <fmt/format.h>

namespace moecheck::harness::streams {

std::string short_name(const std::string& full) {
  std::string name = full;
  constexpr std::string_view kHidden[] = {"(anonymous namespace)::", "<unnamed>::"};
  for (const std::string_view hidden : kHidden)
    for (std::size_t at; (at = name.find(hidden)) != name.npos;) name.erase(at, hidden.size());
  const std::size_t end = name.find_first_of("<(");
  if (end != name.npos) name.resize(end);
  if (const std::size_t at = name.rfind("::"); at != name.npos) name.erase(0, at + 2);
  if (name.starts_with("void ")) name.erase(0, 5);
  while (!name.empty() && name.back() == ' ') name.pop_back();
  if (!name.empty()) return name;
  return full.empty() ? "operation" : full;
}

std::string UniqueNames::unique(const std::string& name) {
  int& n = count_[name];
  std::string result;
  do {
    ++n;
    result = n == 1 ? name : fmt::format("{}#{}", name, n);
  } while (!taken_.insert(result).second);
  return result;
}

}  // namespace moecheck::harness::streams

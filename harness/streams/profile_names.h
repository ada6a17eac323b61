#pragma once
// Names for people from the names of compilers.
#include <string>
#include <unordered_map>
#include <unordered_set>

namespace moecheck::harness::streams {

// "void at::native::(anonymous namespace)::sort<int, 2>(int*)" -> "sort", "Memcpy DtoD (Device -> Device)" -> "Memcpy DtoD".
std::string short_name(const std::string& full);

class UniqueNames {
 public:
  std::string unique(const std::string& name);  // the name, "name#2", "name#3", ...

 private:
  std::unordered_map<std::string, int> count_;
  std::unordered_set<std::string> taken_;
};

}  // namespace moecheck::harness::streams

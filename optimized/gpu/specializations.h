#pragma once
// Which specializations of the kernels there are, and which ran: a branch that no request reaches is a bug that no test sees.
#include <atomic>
#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

namespace moecheck::gpu {

struct Specialization {
  std::string op, name;
  std::atomic<std::uint64_t> executed{0};
};

// Made once per kernel instantiation; stays.
Specialization& register_specialization(std::string_view op, std::string_view name);

struct SpecializationUse {
  std::string op, name;
  std::uint64_t executed;
};
// All that were registered, by operator and name.
std::vector<SpecializationUse> specializations();

// A request that the fast specializations do not serve, and why ("precision is not f32").
void note_fallback(std::string_view op, std::string_view reason);
std::map<std::string, std::uint64_t> fallbacks(std::string_view op);

}  // namespace moecheck::gpu

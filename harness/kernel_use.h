#pragma once
#include <cstdint>
#include <map>
#include <string>

namespace moecheck::harness {

// The specializations of kernels that requests are dispatched to, and how often each ran: a branch that no request reaches is a
// bug that no test sees.
struct KernelUse {
  std::map<std::string, std::uint64_t> executed;   // by name; 0: there is such a one, and it never ran
  std::map<std::string, std::uint64_t> fallbacks;  // requests that the fast ones did not serve, by reason
};

}  // namespace moecheck::harness

#pragma once
// A fuzz target: takes any bytes, and must not crash, leak, hang, or break what it promises. Refusing is fine.
//
//   MOECHECK_FUZZ_TARGET(sse) { ... bytes ... }
//
// With MOECHECK_LIBFUZZER a target is a program of its own, under libFuzzer (cmake --preset fuzz). Everywhere else all targets are
// in moecheck_tests, which feeds them the corpora of tests/fuzz/corpus (fuzz_replay_test.cpp).
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace moecheck::fuzz {

using Bytes = std::span<const std::uint8_t>;

struct Target {
  const char* name;
  void (*run)(Bytes);
};
inline std::vector<Target>& targets() {
  static std::vector<Target> all;
  return all;
}
struct Registered {
  Registered(const char* name, void (*run)(Bytes)) { targets().push_back({name, run}); }
};

inline std::string_view text_of(Bytes bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}
// Takes a byte off the front; 0 when there is none.
inline std::uint8_t take_byte(Bytes& bytes) {
  if (bytes.empty()) return 0;
  const std::uint8_t b = bytes.front();
  bytes = bytes.subspan(1);
  return b;
}

// What must hold does not: ends the process, as a fuzzer wants it.
[[noreturn]] inline void broken(const std::string& what) {
  std::fprintf(stderr, "broken: %s\n", what.c_str());
  std::abort();
}

}  // namespace moecheck::fuzz

#ifdef MOECHECK_LIBFUZZER
#define MOECHECK_FUZZ_TARGET(name)                                                    \
  static void name(moecheck::fuzz::Bytes bytes);                                      \
  extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) { \
    name({data, size});                                                               \
    return 0;                                                                         \
  }                                                                                   \
  static void name([[maybe_unused]] moecheck::fuzz::Bytes bytes)
#else
#define MOECHECK_FUZZ_TARGET(name)                                         \
  static void name(moecheck::fuzz::Bytes bytes);                           \
  static const moecheck::fuzz::Registered registered_##name(#name, &name); \
  static void name([[maybe_unused]] moecheck::fuzz::Bytes bytes)
#endif

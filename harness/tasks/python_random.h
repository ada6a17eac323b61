#pragma once
// CPython's random.Random for integer seeds: what lm_eval draws its shots with.
//
// MT19937 (Matsumoto and Nishimura 1998), seeded by init_by_array over the seed's 32-bit words, which is not how
// std::mt19937(seed) is seeded. Source: CPython Modules/_randommodule.c and Lib/random.py, 3.2 to 3.14.
#include <cstdint>
#include <random>
#include <vector>

namespace moecheck::harness {

class PythonRandom {
 public:
  explicit PythonRandom(std::uint64_t seed);

  std::uint32_t bits(int k);             // getrandbits(k), 1 <= k <= 32
  std::uint32_t below(std::uint32_t n);  // _randbelow(n), n >= 1
  // sample(range(n), k); throws std::invalid_argument for k > n or k < 0.
  std::vector<std::int32_t> sample(std::int32_t n, std::int32_t k);

 private:
  std::mt19937 engine_;
};

}  // namespace moecheck::harness

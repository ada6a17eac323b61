#include "harness/tasks/python_random.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <numeric>
#include <sstream>
#include <stdexcept>
#include <unordered_set>

namespace moecheck::harness {
namespace {

constexpr std::size_t kWords = 624;

// init_by_array of the MT19937 authors' reference, of 2002.
std::array<std::uint32_t, kWords> state_of(std::uint64_t seed) {
  const std::uint32_t key[2] = {static_cast<std::uint32_t>(seed), static_cast<std::uint32_t>(seed >> 32)};
  const std::size_t length = key[1] == 0 ? 1 : 2;
  std::array<std::uint32_t, kWords> s{};
  s[0] = 19650218;
  for (std::uint32_t i = 1; i < kWords; ++i) s[i] = 1812433253u * (s[i - 1] ^ s[i - 1] >> 30) + i;
  std::size_t i = 1, j = 0;
  const auto wrap = [&] {
    if (++i == kWords) s[0] = s[kWords - 1], i = 1;
  };
  for (std::size_t k = kWords; k > 0; --k) {
    s[i] = (s[i] ^ (s[i - 1] ^ s[i - 1] >> 30) * 1664525u) + key[j] + static_cast<std::uint32_t>(j);
    wrap();
    j = (j + 1) % length;
  }
  for (std::size_t k = kWords - 1; k > 0; --k) {
    s[i] = (s[i] ^ (s[i - 1] ^ s[i - 1] >> 30) * 1566083941u) - static_cast<std::uint32_t>(i);
    wrap();
  }
  s[0] = 0x80000000u;
  return s;
}

}  // namespace

PythonRandom::PythonRandom(std::uint64_t seed) {
  // The engine takes a whole state only as text: the words, and where the next one is read (libstdc++, libc++).
  std::ostringstream text;
  for (const std::uint32_t word : state_of(seed)) text << word << ' ';
  text << kWords;
  std::istringstream(text.str()) >> engine_;
}

std::uint32_t PythonRandom::bits(int k) { return static_cast<std::uint32_t>(engine_()) >> (32 - k); }

std::uint32_t PythonRandom::below(std::uint32_t n) {
  const int k = std::bit_width(n);
  std::uint32_t r = bits(k);
  while (r >= n) r = bits(k);
  return r;
}

std::vector<std::int32_t> PythonRandom::sample(std::int32_t n, std::int32_t k) {
  if (k < 0 || k > n) throw std::invalid_argument("a sample larger than the population, or negative");
  std::vector<std::int32_t> drawn(static_cast<std::size_t>(k));
  // Python keeps whichever is smaller, a list of the rest or a set of the taken; they draw differently.
  double set_size = 21;
  if (k > 5) set_size += std::pow(4.0, std::ceil(std::log(3.0 * k) / std::log(4.0)));
  if (n <= set_size) {
    std::vector<std::int32_t> pool(static_cast<std::size_t>(n));
    std::iota(pool.begin(), pool.end(), 0);
    for (std::int32_t& d : drawn) {
      const std::uint32_t at = below(static_cast<std::uint32_t>(pool.size()));
      d = pool[at];
      pool[at] = pool.back();
      pool.pop_back();
    }
    return drawn;
  }
  std::unordered_set<std::uint32_t> taken;
  for (std::int32_t& d : drawn) {
    std::uint32_t at = below(static_cast<std::uint32_t>(n));
    while (!taken.insert(at).second) at = below(static_cast<std::uint32_t>(n));
    d = static_cast<std::int32_t>(at);
  }
  return drawn;
}

}  // namespace moecheck::harness

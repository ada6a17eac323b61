#pragma once
// Random numbers by position: number i of a stream is a function of (seed, stream, i) alone, so data do not depend on the
// order or the thread they are made in, nor on the machine (no libm: +, *, and shifts only).
#include <cstdint>
#include <string_view>

namespace moecheck::harness {

inline std::uint64_t mix64(std::uint64_t x) {  // the finalizer of splitmix64
  x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9ull;
  x = (x ^ (x >> 27)) * 0x94D049BB133111EBull;
  return x ^ (x >> 31);
}

class Random {
 public:
  // `stream` names what is drawn ("router_logits"): tensors of one case are independent of each other.
  Random(std::uint64_t seed, std::string_view stream) {
    std::uint64_t h = mix64(seed + 0x9E3779B97F4A7C15ull);
    for (const char c : stream) h = mix64(h + static_cast<unsigned char>(c) + 0x9E3779B97F4A7C15ull);
    base_ = h;
  }

  std::uint64_t bits(std::uint64_t i) const { return mix64(base_ + (i + 1) * 0x9E3779B97F4A7C15ull); }
  double uniform(std::uint64_t i) const { return static_cast<double>(bits(i) >> 11) * 0x1p-53; }  // [0, 1)
  // In [low, high], both included.
  std::int64_t integer(std::uint64_t i, std::int64_t low, std::int64_t high) const {
    const auto span = static_cast<std::uint64_t>(high - low) + 1;
    return low + static_cast<std::int64_t>((static_cast<unsigned __int128>(bits(i)) * span) >> 64);
  }
  // Mean 0, variance 1, bell-shaped, |x| <= 3.47: the sum of four uniforms.
  double normal(std::uint64_t i) const {
    const std::uint64_t b = bits(i);
    const auto sum =
        static_cast<std::int64_t>((b & 0xFFFF) + (b >> 16 & 0xFFFF) + (b >> 32 & 0xFFFF) + (b >> 48));
    return static_cast<double>(sum - 2 * 0xFFFF) * (1.7320508075688772 / 65535.5);
  }

 private:
  std::uint64_t base_;
};

}  // namespace moecheck::harness

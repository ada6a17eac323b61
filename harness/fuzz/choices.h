#pragma once
// Where a generator's decisions come from: random numbers by position, or the bytes of a coverage-guided fuzzer. The same
// generator then serves both.
#include <cstdint>
#include <span>
#include <string_view>

#include "harness/random.h"

namespace moecheck::harness {

class Choices {
 public:
  virtual ~Choices() = default;
  virtual std::uint64_t below(std::uint64_t n) = 0;  // in [0, n); n > 0

  bool one_in(std::uint64_t n) { return below(n) == 0; }
  std::int64_t between(std::int64_t low, std::int64_t high) {  // both included
    return low + static_cast<std::int64_t>(below(static_cast<std::uint64_t>(high - low) + 1));
  }
  template <class Range>
  const auto& pick(const Range& from) {
    return from[static_cast<std::size_t>(below(std::size(from)))];
  }
};

// Decision j is a function of (seed, stream, j) alone.
class RandomChoices final : public Choices {
 public:
  RandomChoices(std::uint64_t seed, std::string_view stream) : random_(seed, stream) {}
  std::uint64_t below(std::uint64_t n) override {
    return static_cast<std::uint64_t>(random_.integer(next_++, 0, static_cast<std::int64_t>(n) - 1));
  }

 private:
  Random random_;
  std::uint64_t next_ = 0;
};

// As few bytes as hold n; 0 once they are used up, so that whatever reads it must end on zeros.
class ByteChoices final : public Choices {
 public:
  explicit ByteChoices(std::span<const std::uint8_t> bytes) : bytes_(bytes) {}
  std::uint64_t below(std::uint64_t n) override {
    std::uint64_t value = 0;
    for (std::uint64_t rest = n - 1; rest > 0; rest >>= 8) value = value << 8 | next();
    return value % n;
  }
  bool empty() const { return bytes_.empty(); }

 private:
  std::uint8_t next() {
    if (bytes_.empty()) return 0;
    const std::uint8_t b = bytes_.front();
    bytes_ = bytes_.subspan(1);
    return b;
  }
  std::span<const std::uint8_t> bytes_;
};

}  // namespace moecheck::harness

#pragma once
// The processor's rounding mode and flush-to-zero, kept from implementations that change it: restored at the end of the scope.
#include <cfenv>

#if defined(__SSE2__)
#include <xmmintrin.h>
#endif

namespace moecheck::harness {

class FloatEnvironment {
 public:
  FloatEnvironment() : before_(now()) {}
  ~FloatEnvironment() { set(before_); }
  FloatEnvironment(const FloatEnvironment&) = delete;
  FloatEnvironment& operator=(const FloatEnvironment&) = delete;
  bool changed() const { return now() != before_; }

 private:
#if defined(__SSE2__)
  static unsigned now() { return _mm_getcsr() & ~0x3Fu; }  // without the sticky exception flags
  static void set(unsigned e) { _mm_setcsr(e); }
#else
  static unsigned now() { return static_cast<unsigned>(std::fegetround()); }
  static void set(unsigned e) { std::fesetround(static_cast<int>(e)); }
#endif
  unsigned before_;
};

}  // namespace moecheck::harness

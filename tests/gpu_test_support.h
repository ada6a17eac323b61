#pragma once
// Running kernels on the host executor under every schedule, and expecting its errors.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <string>
#include <type_traits>
#include <vector>

#include "optimized/gpu/host/executor.h"

#if defined(__SANITIZE_ADDRESS__)
#define MOECHECK_UNDER_ASAN 1
#elif defined(__SANITIZE_THREAD__)
#define MOECHECK_UNDER_TSAN 1
#endif

// Under TSan a race is reported at exit: only child processes may have one.
#ifdef MOECHECK_UNDER_TSAN
#define EXPECT_RACE(...) \
  EXPECT_EXIT(           \
      {                  \
        __VA_ARGS__;     \
        std::exit(0);    \
      },                 \
      testing::ExitedWithCode(66), "WARNING: ThreadSanitizer: data race")
#else
#define EXPECT_RACE(...) (void)0
#endif

namespace moecheck::gpu {

template <int W>
using Width = std::integral_constant<int, W>;

struct Schedule {
  host::Order order;
  std::uint64_t seed;
};
inline const std::vector<Schedule> kSchedules = {{host::Order::kForward, 0},
                                                 {host::Order::kReverse, 0},
                                                 {host::Order::kSeeded, 1},
                                                 {host::Order::kSeeded, 2},
                                                 {host::Order::kSeeded, 3}};

// test(Width<W>(), executor) at both widths and in all orders; launches in it go to that executor.
template <class Test>
void for_all_schedules(Test test) {
  for (const Schedule& s : kSchedules) {
    for (const int wave : {32, 64}) {
      SCOPED_TRACE(fmt::format("wave {} {}", wave, host::text(s.order, s.seed)));
      host::Executor executor({.wave = wave, .order = s.order, .seed = s.seed});
      const host::UseExecutor use(executor);
      if (wave == 32)
        test(Width<32>(), executor);
      else
        test(Width<64>(), executor);
    }
  }
}

template <class Body>
void expect_error(host::Kind kind, Body body, const std::vector<std::string>& parts) {
  try {
    body();
    ADD_FAILURE() << "no error, expected: " << parts.front();
  } catch (const host::Error& e) {
    EXPECT_EQ(e.kind(), kind) << e.what();
    for (const std::string& part : parts)
      EXPECT_NE(std::string(e.what()).find(part), std::string::npos) << e.what() << "\nlacks: " << part;
  }
}

}  // namespace moecheck::gpu

#!/usr/bin/env bash
# Every test that needs no GPU, from nothing: installs what is missing, builds, runs them.
#   asan   all tests under AddressSanitizer and UndefinedBehaviorSanitizer
#   tsan   the quick suite with three threads per kernel under ThreadSanitizer (the tests themselves have no threads)
# MOECHECK_PRESETS chooses among them, and knows one more: dev, all tests without sanitizers, which is faster.
# CUDA and HIP are not used.
source "$(dirname "$0")/common.sh"
start=$SECONDS

install_missing "$PACKAGES$TEST_PACKAGES"
say_accelerators
for preset in ${MOECHECK_PRESETS:-asan tsan}; do
  if [ "$preset" = tsan ]; then
    configure_and_build tsan -DMOECHECK_TESTS=OFF
    say "quick suite (tsan)"
    # Without address randomization: ThreadSanitizer of older compilers refuses the layouts of newer kernels.
    setarch "$(uname -m)" -R build/tsan/moecheck check --suite quick --threads 3 --no-shrink
  else
    configure_and_build "$preset"
    say "tests ($preset)"
    ctest --preset "$preset" -j "$(nproc)" --output-on-failure --progress
  fi
done
say "all tests passed in $((SECONDS - start)) s"

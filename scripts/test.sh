#!/usr/bin/env bash
# Every test that needs no GPU, from nothing: installs what is missing, builds, runs them. MOECHECK_PRESETS chooses the builds
# (default: dev asan tsan).
source "$(dirname "$0")/common.sh"
start=$SECONDS

install_missing "$PACKAGES$TEST_PACKAGES"
say_accelerators
for preset in ${MOECHECK_PRESETS:-dev asan tsan}; do
  configure_and_build "$preset"
  say "tests ($preset)"
  ctest --preset "$preset" -j "$(nproc)" --output-on-failure
done
say "all tests passed in $((SECONDS - start)) s"

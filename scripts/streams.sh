#!/usr/bin/env bash
# What reports/streams/ holds of the checker and of execution without a GPU.
#   scripts/streams.sh DIR                        builds the presets release and dev first
#   MOECHECK=... MOECHECK_TESTS=... scripts/streams.sh DIR    binaries that were built elsewhere
# PROGRAMS: random programs that are compared with the oracle (100000).
set -euo pipefail
out=${1:?usage: scripts/streams.sh DIR}
mkdir -p "$out"
out=$(cd "$out" && pwd)
cd "$(dirname "$0")/.."
if [ -z "${MOECHECK:-}" ]; then
  source scripts/common.sh
  install_missing "$PACKAGES$TEST_PACKAGES"
  configure_and_build release
  MOECHECK=build/release/moecheck
  MOECHECK_TESTS=build/release/tests/moecheck_tests
fi
# Exit code 1 is what a wrong program gives.
say() { echo; echo "\$ moecheck $*"; "$MOECHECK" "$@" || [ $? = 1 ]; }

{
  program=$(mktemp -d)/glm4_moe.json
  "$MOECHECK" streams show glm4_moe --json "$program" >/dev/null
  cd "$(dirname "$program")"
  echo "# The claims of the review of sglang#13778, one by one"
  say streams show glm4_moe --json glm4_moe.json
  say streams explain glm4_moe.json --edge 'P->G'
  for variant in no_join late_fork in_place in_place_clone; do say streams show glm4_moe --variant $variant; done
  block='moe_block tokens=16 experts=32 topk=4 hidden=256 intermediate=64'
  echo; echo "# The same with the block's own operators, executed"
  for device in cpu gpu-host gpu-host:w64; do say streams run glm4_moe --impl $device --case "$block"; done
  say streams run glm4_moe --capturing --case "$block"
  for variant in no_fork no_join in_place in_place_clone late_fork device_scratch freed recorded recorded_wrong unjoined_capture outside_event; do
    say streams run glm4_moe --variant $variant --case "$block"
  done
  say streams run glm4_moe --variant double_scaling --platform hip-aiter --case "$block"
  say streams show glm4_moe --variant dropped_gate --platform hip
  cd - >/dev/null
} >"$out/sglang_13778.txt" 2>&1

"$MOECHECK" streams edges --orders 50 >"$out/edges.md"
tail -n 1 "$out/edges.md"

{
  programs=${PROGRAMS:-100000}
  echo "\$ MOECHECK_STREAM_PROGRAMS=$programs moecheck_tests --gtest_filter='StreamProperty.ClocksEqualEveryLegalOrder:StreamProperty.TenThousandOperations'"
  MOECHECK_STREAM_PROGRAMS=$programs "$MOECHECK_TESTS" --gtest_filter='StreamProperty.ClocksEqualEveryLegalOrder:StreamProperty.TenThousandOperations' 2>&1
} >"$out/random.txt"
grep -E "PASSED|FAILED|programs" "$out/random.txt"

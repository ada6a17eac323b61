#!/usr/bin/env bash
# Everything that needs an NVIDIA GPU: the suites on the device, eager and as graphs, compute-sanitizer over the quick suite, speed.
#   scripts/gpu.sh DIR                        builds the preset cuda first (nvcc, and the packages of scripts/test.sh)
#   MOECHECK=./moecheck scripts/gpu.sh DIR    a binary that was built elsewhere
# Writes JSON into DIR: what reports/gpu/ holds. Exits with 1 when a check failed or a sanitizer found something.
# PARTS chooses among: suites sanitizers bench streams. JOBS: worker processes (all hardware threads).
set -uo pipefail
out=${1:?usage: scripts/gpu.sh DIR}
parts=${PARTS:-suites sanitizers bench streams}
mkdir -p "$out"
out=$(cd "$out" && pwd)
if [ -z "${MOECHECK:-}" ]; then
  source "$(dirname "$0")/common.sh"
  install_missing "$PACKAGES"
  command -v nvcc >/dev/null || { echo "nvcc is missing: install the CUDA toolkit, or give MOECHECK=a binary built elsewhere" >&2; exit 2; }
  configure_and_build cuda -DMOECHECK_TESTS=OFF
  MOECHECK=build/cuda/moecheck
fi
jobs=${JOBS:-$(nproc)}
operators="gating routed_scaling shared_experts moe_align experts moe_block indexer_cache mqa_logits mla_prepare"
failed=0

command -v nvidia-smi >/dev/null && nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv
if [[ $parts == *suites* ]]; then
  for suite in quick models adversarial; do
    echo "== suite $suite on the device"
    "$MOECHECK" check $operators --suite $suite --impl cuda --impl cuda:graph --jobs "$jobs" --timeout 120 --no-shrink \
      --json "$out/suite_$suite.json" >"$out/suite_$suite.txt" 2>&1 || failed=1
    grep -vE "^ +[0-9]+x SKIP|^$" "$out/suite_$suite.txt" | tail -n 40
  done
fi

if [[ $parts == *sanitizers* ]]; then
  # Workers are children of the process: without relations, which say nothing more to a sanitizer.
  runs=()
  log=$out/sanitizer.log
  for tool in memcheck racecheck synccheck initcheck; do
    compute-sanitizer --tool $tool --target-processes all --error-exitcode 9 --print-limit 5 \
      "$MOECHECK" check $operators --suite quick --impl cuda --jobs "$jobs" --timeout 300 --no-shrink --no-relations >"$log" 2>&1
    code=$?
    summary=$(grep -E "(ERROR|RACECHECK) SUMMARY" "$log" | tail -n 1 | sed 's/^=* *//')
    checks=$(sed -n 's/^\([a-z_]*\)  *cuda  *\([0-9,]*\) .*/\1 \2/p' "$log" | tr -d , | awk '{printf "%s\"%s\": %s", (NR > 1 ? ", " : ""), $1, $2}')
    echo "$tool: exit code $code, $summary"
    [ $code = 0 ] || { failed=1; grep -m 12 "^=========" "$log"; }
    runs+=("{\"tool\": \"$tool\", \"exit_code\": $code, \"summary\": \"$summary\", \"checks\": {$checks}}")
  done
  rm -f "$log"
  { echo '{"schema": "moecheck.sanitizers/1", "runs": ['; (IFS=$'\n'; echo "${runs[*]}" | sed '$!s/$/,/'); echo ']}'; } >"$out/sanitizers.json"
fi

if [[ $parts == *bench* ]]; then
  "$MOECHECK" bench operators --cases "$(dirname "$0")/gpu_bench.txt" --impl cuda --seconds 0.2 --json "$out/bench.json" | tee "$out/bench.txt" || failed=1
fi

if [[ $parts == *streams* ]]; then
  {
    say() { echo; echo "\$ moecheck $*"; "$MOECHECK" "$@"; }
    block="moe_block tokens=16 experts=32 topk=4 hidden=512 intermediate=128"
    for mode in "" --capturing; do
      for platform in cuda hip hip-aiter; do
        say streams run glm4_moe --impl cuda --orders 40 --platform $platform $mode --case "$block" || failed=1
      done
    done
    # Each of these is wrong: exit code 1 is what is expected.
    for variant in no_fork no_join in_place device_scratch freed recorded_wrong double_scaling late_clone unjoined_capture outside_event; do
      say streams run glm4_moe --impl cuda --orders 40 --delay 2000 --variant $variant --platform hip-aiter --case "$block" && { echo "NOT SEEN: $variant"; failed=1; }
    done
    # GLM-4.5-Air on one of eight tensor-parallel ranks: 128 experts of 8, hidden 4096, intermediate 1408 / 8.
    for mode in "" --capturing; do
      for tokens in 1 16 64 256; do
        say streams overlap glm4_moe --impl cuda --repeats 7 $mode \
          --case "moe_block tokens=$tokens experts=128 topk=8 hidden=4096 intermediate=176" || failed=1
      done
      say streams overlap glm4_moe --impl cuda --repeats 7 $mode --variant late_fork \
        --case "moe_block tokens=16 experts=128 topk=8 hidden=4096 intermediate=176" && { echo "NOT SEEN: late_fork"; failed=1; }
      for block_name in mla_prepare indexer deepseek_moe; do say streams overlap $block_name --impl cuda --repeats 7 $mode || failed=1; done
    done
    say streams overlap two_batch --impl cuda --repeats 7 || failed=1
    echo; echo "\$ compute-sanitizer --tool memcheck moecheck streams run glm4_moe --impl cuda --orders 4 --case \"$block\""
    compute-sanitizer --tool memcheck --error-exitcode 9 "$MOECHECK" streams run glm4_moe --impl cuda --orders 4 --case "$block" || failed=1
  } >"$out/streams.txt" 2>&1
  "$MOECHECK" streams edges --impl cuda --orders 12 --delay 200 >"$out/streams_edges.md" || failed=1
  tail -n 2 "$out/streams_edges.md"
fi
exit $failed

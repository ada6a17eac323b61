#!/usr/bin/env bash
# Everything that needs an NVIDIA GPU: the suites on the device, eager and as graphs, compute-sanitizer over the quick suite, speed.
#   scripts/gpu.sh DIR                        builds the preset cuda first (nvcc, and the packages of scripts/test.sh)
#   MOECHECK=./moecheck scripts/gpu.sh DIR    a binary that was built elsewhere
# Writes JSON into DIR: what reports/gpu/ holds. Exits with 1 when a check failed or a sanitizer found something.
# PARTS chooses among: suites sanitizers bench. JOBS: worker processes (all hardware threads).
set -uo pipefail
out=${1:?usage: scripts/gpu.sh DIR}
parts=${PARTS:-suites sanitizers bench}
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
exit $failed

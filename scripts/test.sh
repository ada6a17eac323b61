#!/usr/bin/env bash
# Every test that needs no GPU, from nothing: installs what is missing, builds, runs them.
#   asan   all tests under AddressSanitizer and UndefinedBehaviorSanitizer, those of the Python package too, and whether the tests
#          notice faults planted in the harness
#   tsan   ThreadSanitizer: the quick suite with three threads per kernel, and the embedded server under the evaluator's load
# MOECHECK_PRESETS chooses among them, and knows one more: dev, all tests without sanitizers, which is faster.
# CUDA is not used; GPU kernels are checked for AMD devices where clang-19 and ROCm's device libraries are installed.
source "$(dirname "$0")/common.sh"
start=$SECONDS

# A few processes share the tests: started once per test, as ctest does it, a sanitized binary spends more time starting than
# testing. RapidCheck's seed is the one ctest uses.
run_tests() {
  local shards=$(($(nproc) * 4))
  seq 0 $((shards - 1)) | GTEST_TOTAL_SHARDS=$shards RC_PARAMS=${RC_PARAMS:-seed=20261122} xargs -P "$(nproc)" -I{} \
    sh -c 'GTEST_SHARD_INDEX={} "$1" --gtest_brief=1 >"$1.shard{}.log" 2>&1; rc=$?
           if [ $rc = 0 ]; then tail -n 3 "$1.shard{}.log" | grep -E " ran\.|SKIPPED"; else
             cat "$1.shard{}.log"; echo "shard {} of '$shards' ended with $rc" >&2; exit 255; fi' run_tests "$PWD/$1"
}

# Who tests the tester: faults planted in the harness itself, each with the tests of its subject. Faults of
# kernels are planted by tests of their own (PlantedFaults).
run_mutants() { # preset
  say "planted faults of the harness ($1)"
  local layers=() layer
  for layer in loader streams scorer prompts client statistics load comparator generator runner cases reporting serve plugin; do
    layers+=(--layer $layer)
  done
  "build/$1/moecheck" mutants "${layers[@]}"
}

# Of Debian's Python: NumPy; the tests that need torch skip themselves. The interpreter must load the sanitizer that the library needs.
run_python() { # preset
  say "Python package ($1)"
  local preload=
  [ "$1" != asan ] || preload="$(g++ -print-file-name=libasan.so) $(g++ -print-file-name=libubsan.so)"
  LD_PRELOAD=$preload ASAN_OPTIONS=detect_leaks=0 MOECHECK_LIBRARY=build/$1/libmoecheck.so PYTHONPATH=python \
    PYTHONDONTWRITEBYTECODE=1 /usr/bin/python3 -m pytest -q -p no:cacheprovider python/tests
}

# Without address randomization: ThreadSanitizer of older compilers refuses the layouts of newer kernels.
run_threads() {
  say "quick suite (tsan)"
  setarch "$(uname -m)" -R build/tsan/moecheck check --suite quick --threads 3 --no-shrink
  say "GPU kernels on the host executor (tsan): only barriers order threads, so a missing one is a race"
  setarch "$(uname -m)" -R build/tsan/moecheck check --suite quick --impl gpu-host:w64:reverse --no-shrink --no-relations
  # That a race ends a run, whatever was computed: of this mutant nobody looks at what it wrote.
  setarch "$(uname -m)" -R build/tsan/moecheck mutants --gate sanitizer --id missing_block_barrier --verbose |
    tee build/tsan/mutant.log
  grep -q '^killed .*missing_block_barrier' build/tsan/mutant.log
  say "streams and ranks as threads (tsan): a block with its waits has no data race, and one without its join has"
  local block='moe_block tokens=3 hidden=64 intermediate=32'
  for options in "--impl cpu" "--impl gpu-host" "--impl gpu-host --capturing"; do
    setarch "$(uname -m)" -R build/tsan/moecheck streams run glm4_moe $options --orders 3 --case "$block"
  done
  setarch "$(uname -m)" -R build/tsan/moecheck streams ranks --ranks 2
  if setarch "$(uname -m)" -R build/tsan/moecheck streams run glm4_moe --impl cpu --orders 3 --without 'cur.wait(alt)' \
    --case "$block" >build/tsan/streams.log 2>&1 || ! grep -q "data race" build/tsan/streams.log; then
    cat build/tsan/streams.log >&2
    echo "ThreadSanitizer does not see the missing join" >&2
    exit 1
  fi
  say "serve and eval (tsan)"
  local results=build/tsan/eval
  rm -rf $results
  # A race ends the server, and without it the evaluator has unanswered questions: exit code 1.
  MOECHECK=build/tsan/moecheck setarch "$(uname -m)" -R bash -c '
    set -euo pipefail
    source scripts/serving.sh
    serve build/tsan/serve.log --model datasets/tiny_glm4_moe/canary --threads 3
    $MOECHECK eval --endpoint "$ENDPOINT" --task gsm8k --data datasets/word_problems --limit 16 --num-fewshot 0 \
      --max-gen-toks 64 --max-retries 0 --output '$results' || { cat build/tsan/serve.log >&2; exit 1; }
    stop_server'
}

install_missing "$PACKAGES$TEST_PACKAGES"
say_accelerators
for preset in ${MOECHECK_PRESETS:-asan tsan}; do
  if [ "$preset" = tsan ]; then
    configure_and_build tsan -DMOECHECK_TESTS=OFF
    run_threads
  else
    configure_and_build "$preset"
    say "tests ($preset)"
    run_tests "build/$preset/tests/moecheck_tests"
    run_python "$preset"
    [ "$preset" != asan ] || run_mutants "$preset"
  fi
done
if command -v clang++-19 >/dev/null && [ -e /usr/lib/x86_64-linux-gnu/amdgcn/bitcode/ocml.bc ]; then
  say "GPU kernels for AMD devices: what clang says (scripts/hip.sh compiles them)"
  SYNTAX=1 scripts/hip.sh
fi
say "all tests passed in $((SECONDS - start)) s"

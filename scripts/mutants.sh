#!/usr/bin/env bash
# Runs the checks against every planted fault and writes the table: reports/mutants/README.md. Exit code 1: a fault survived.
#   scripts/mutants.sh [ARGUMENTS...]     arguments of `moecheck mutants`: --since COMMIT, --operator gating, --exhaustive
# Results are kept in build/mutants/results: a run of some mutants takes those of the others from the runs before it.
#   SANITIZERS=1: also what sanitizers notice alone, of faults in kernels (builds the command with them)
#   EXHAUSTIVE=1: also which checks notice a fault beside the first, for the table of checks that kill nothing
source "$(dirname "$0")/common.sh"
install_missing "$PACKAGES$TEST_PACKAGES"
results=build/mutants/results table=reports/mutants/README.md
mkdir -p "$results" "$(dirname "$table")"

# build PRESET TARGETS...
build() {
  say "build ($1)"
  cmake --preset "$1" >/dev/null
  cmake --build --preset "$1" --target "${@:2}"
}

if [ -n "${SANITIZERS:-}" ]; then
  build asan moecheck
  say "mutants without judging (asan)"
  build/asan/moecheck mutants --gate sanitizer --layer cpu --layer gpu --output $results/asan.jsonl
  build tsan moecheck
  say "mutants without judging (tsan)"
  # Without address randomization: ThreadSanitizer of older compilers refuses the layouts of newer kernels.
  setarch "$(uname -m)" -R build/tsan/moecheck mutants --gate sanitizer --layer cpu --layer gpu --output $results/tsan.jsonl
fi
build mutants moecheck moecheck_tests
mutants() { build/mutants/moecheck mutants "$@"; }
if [ -n "${EXHAUSTIVE:-}" ]; then
  say "mutants, all checks that notice"
  mutants --exhaustive --output $results/exhaustive.jsonl || true  # survivors are the next run's to report
fi
say "mutants"
code=0
mutants --output $results/last.jsonl "$@" || code=$?
[ $code -le 1 ] || exit $code
cat $results/last.jsonl >>$results/ci.jsonl
with=()
for file in exhaustive ci asan tsan; do [ ! -e $results/$file.jsonl ] || with+=(--with $results/$file.jsonl); done
mutants --no-run "${with[@]}" --served reports/served_faults.md --table $table >/dev/null || true
say "$table"
exit $code

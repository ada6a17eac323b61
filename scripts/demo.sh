#!/usr/bin/env bash
# The main jobs from nothing: installs what is missing, builds, then
#   1. checks every operator and implementation on real model configurations: reports/latest/index.html
#   2. serves the tiny canary model, evaluates 256 problems, sound and with the bug of vllm#44313 planted, compares them,
#      names the layer and operator, and writes the section of a pull request: reports/latest/pr.{md,html}
source "$(dirname "$0")/common.sh"
source scripts/serving.sh
start=$SECONDS
MOECHECK=build/release/moecheck
latest=reports/latest
canary=datasets/tiny_glm4_moe/canary

install_missing "$PACKAGES"
say_accelerators
configure_and_build release -DMOECHECK_TESTS=OFF -DMOECHECK_COLD_BUILD=ON

say "check --suite models"
mkdir -p $latest
$MOECHECK check --suite models --records $latest/records.jsonl --report $latest/index.html

# evaluate NAME SERVER-ARGUMENTS...
evaluate() {
  local name=$1
  shift
  say "serve --model $canary $* | eval, 5 shots, 256 problems"
  serve "$latest/serve.$name.log" --model $canary "$@"
  $MOECHECK eval --endpoint "$ENDPOINT" --task gsm8k --data datasets/word_problems --limit 256 --max-gen-toks 160 \
    --output "$latest/eval.$name"
  stop_server
}
rm -rf $latest/eval.* $latest/localize
evaluate sound
evaluate faulty --fault routed_scale_on_shared_slot

# finds FILE COMMAND...: a command that must find something (exit code 1); its output goes to the file.
finds() {
  local code=0 file=$1
  shift
  "$@" >"$file" || code=$?
  [ $code = 1 ] || { echo "expected a finding (exit code 1), got $code: $*" >&2; exit 1; }
}
say "compare: is the second run worse?"
finds $latest/compare.txt $MOECHECK compare $latest/eval.sound $latest/eval.faulty
head -20 $latest/compare.txt
say "localize: where?"
finds $latest/localize.txt $MOECHECK localize --model $canary --fault routed_scale_on_shared_slot --output $latest/localize
tail -14 $latest/localize.txt
say "report pr"
$MOECHECK report pr --a $latest/eval.sound --b $latest/eval.faulty --label-a sound --label-b faulty \
  -o $latest/pr.md --html $latest/pr.html || [ $? = 1 ]
say "done in $((SECONDS - start)) s; open $latest/index.html and $latest/pr.html, read $latest/pr.md"

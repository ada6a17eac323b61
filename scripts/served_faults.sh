#!/usr/bin/env bash
# Which faults of a served model does accuracy show? Serves the tiny canary model with each planted fault in turn, asks it
# the same questions and compares the answers with those of the sound model. Writes a Markdown table to standard output.
#   scripts/served_faults.sh [FAULT...]      all that a served model can have, unless some are named
# MOECHECK=build/release/moecheck QUESTIONS=64 TOKENS=128 MODEL=datasets/tiny_glm4_moe/canary
source "$(dirname "$0")/common.sh"
source scripts/serving.sh
MOECHECK=${MOECHECK:-build/release/moecheck}
MODEL=${MODEL:-datasets/tiny_glm4_moe/canary}
QUESTIONS=${QUESTIONS:-64}
TOKENS=${TOKENS:-128}
[ -x "$MOECHECK" ] || { echo "$MOECHECK is not there: cmake --preset release && cmake --build --preset release" >&2; exit 2; }
work=$(mktemp -d)
trap 'kill "${SERVER_PID:-}" 2>/dev/null || true; rm -rf "$work"' EXIT
start=$SECONDS

# Name, operator and kind of each fault whose code a served model runs.
served() {
  "$MOECHECK" list faults | awk 'sub(/^cpu!/, "", $1) && $2 ~ /^(gating|routed_scaling|experts|shared_experts|moe_block|attention)$/ {print $1, $2, $3}'
}

# evaluate NAME SERVER-ARGUMENTS...: 0 where every question was answered; what was said is in $work/NAME.log.
evaluate() {
  local name=$1
  shift
  serve "$work/$name.serve" --model "$MODEL" "$@" 2>/dev/null || return 1
  trap 'kill "${SERVER_PID:-}" 2>/dev/null || true; rm -rf "$work"' EXIT  # serve() sets its own
  local code=0
  "$MOECHECK" eval --endpoint "$ENDPOINT" --task gsm8k --data datasets/word_problems --num-fewshot 0 --limit "$QUESTIONS" \
    --max-gen-toks "$TOKENS" --max-retries 1 --output "$work/$name" >"$work/$name.log" 2>&1 || code=$?
  stop_server
  return $code
}

# Fields of the row of `moecheck compare`: percent of A and of B, worse, fixed, McNemar p. --max-truncated: a fault that makes
# answers endless is a finding here, no invalid run.
row() {
  { "$MOECHECK" compare "$work/$1" "$work/$2" --max-truncated 100 --flips 0 || true; } |
    awk '$1 == "strict-match" {sub(/%/, "", $2); sub(/%/, "", $3); print $2, $3, $8, $9, $10; exit}'
}

faults=$(served)
for name in "$@"; do
  grep -q "^$name " <<<"$faults" || { echo "$name is no fault of a served model: see $MOECHECK list faults" >&2; exit 2; }
done
for form in separate fused; do
  evaluate $form --shared-experts $form || { cat "$work/$form.serve" "$work/$form.log" >&2; exit 1; }
done
read -r _ sound _ <<<"$(row fused separate)"
echo "The canary model, $QUESTIONS questions, 0 shots, at most $TOKENS tokens; sound: $sound% right by strict-match."
echo
echo "| fault | operator | right | worse | fixed | p | shown |"
echo "|---|---|---:|---:|---:|---:|---|"
while read -r fault op kind; do
  [ $# = 0 ] || [[ " $* " == *" $fault "* ]] || continue
  # Faults of the router's shared slots exist where shared experts are slots of the top-k.
  form=separate
  [ "$op $kind" = "gating shared" ] && form=fused
  note=
  [ $form = fused ] && note=" (fused)"
  if evaluate "$fault" --shared-experts $form --fault "$fault"; then
    read -r _ right worse fixed p <<<"$(row $form "$fault")"
    shown=$(awk -v p="$p" -v w="$worse" -v f="$fixed" 'BEGIN {print (p + 0 < 0.01 && w + 0 > f + 0) ? "yes" : "no"}')
    echo "| $fault$note | $op | $right% | $worse | $fixed | $p | $shown |"
  else
    why=$(tail -q -n 1 "$work/$fault.log" "$work/$fault.serve" 2>/dev/null | head -1 | cut -c1-80)
    echo "| $fault$note | $op | - | - | - | - | no answers: ${why:-the server ended} |"
  fi
  rm -rf "${work:?}/$fault"
done <<<"$faults"
echo
echo "shown: more answers became wrong than right, McNemar p < 0.01. $((SECONDS - start)) s."

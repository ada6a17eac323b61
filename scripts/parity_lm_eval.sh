#!/usr/bin/env bash
# lm_eval (from PyPI) and `moecheck eval` against the same server over the same questions: prompts, completions,
# extractions, scores, results and tables must be equal. The openai client is tried on the same server.
#
#   scripts/parity_lm_eval.sh [GSM8K_DIR]      with GSM8K's test.jsonl and train.jsonl: their task hash, too
#
# LIMIT (256) questions, 5 shots. VENV: a Python environment with the packages below; made under build/ when not given.
# PYTHON: the interpreter it is made with (3.10 or later). MOECHECK: the program. Exit code 1 on any difference.
gsm8k=${1:+$(realpath "$1")}
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
MOECHECK=${MOECHECK:-build/release/moecheck}
source scripts/serving.sh
LIMIT=${LIMIT:-256}
model=datasets/tiny_glm4_moe/canary
data=$PWD/datasets/word_problems
out=build/parity
export HF_HUB_OFFLINE=1 HF_DATASETS_OFFLINE=1 HF_HOME=$PWD/$out/hf TOKENIZERS_PARALLELISM=false NO_PROXY=127.0.0.1
export OPENAI_API_KEY=none TRANSFORMERS_VERBOSITY=error

[ -x "$MOECHECK" ] || { echo "$MOECHECK is missing: cmake --preset release && cmake --build --preset release" >&2; exit 2; }
if [ -z "${VENV:-}" ]; then
  VENV=build/parity-venv
  if [ ! -x $VENV/bin/lm_eval ]; then
    say "will install lm_eval 0.4.13, its API clients, transformers (tokenizers alone: no torch) and openai into $VENV"
    "${PYTHON:-python3}" -m venv $VENV
    $VENV/bin/pip install -q 'lm_eval[api]==0.4.13' transformers openai
  fi
fi
say "$("$VENV/bin/python" --version), lm_eval $("$VENV/bin/python" -c 'import importlib.metadata as m; print(m.version("lm_eval"), "transformers", m.version("transformers"), "openai", m.version("openai"))')"
rm -rf "$out"
mkdir -p "$out"

# lm_eval's gsm8k task over other files, nothing else changed. It takes the name gsm8k, as ours has it.
task() { # FOLDER DATA
  mkdir -p "$out/$1"
  cat >"$out/$1/gsm8k.yaml" <<YAML
include: $("$VENV/bin/python" -c 'import lm_eval, os; print(os.path.dirname(lm_eval.__file__))')/tasks/gsm8k/gsm8k.yaml
task: gsm8k
dataset_path: json
dataset_name: null
dataset_kwargs:
  data_files:
    train: $2/train.jsonl
    test: $2/test.jsonl
YAML
}
task task.word_problems "$data"

theirs() { # OUTPUT TASK_FOLDER ARGUMENTS...
  local to=$1 task=$2 start=$SECONDS
  shift 2
  "$VENV/bin/lm_eval" --tasks gsm8k --include_path "$out/$task" --output_path "$out/$to" --log_samples "$@" \
    >"$out/$to.txt" 2>"$out/$to.log" || { tail -20 "$out/$to.log" >&2; exit 1; }
  say "$to: lm_eval took $((SECONDS - start)) s"
}
ours() { # OUTPUT ARGUMENTS...
  local to=$1 start=$SECONDS
  shift
  "$MOECHECK" eval --endpoint "$ENDPOINT" --task gsm8k --data "$data" --limit "$LIMIT" --output "$out/$to" "$@" \
    >"$out/$to.txt" 2>"$out/$to.log" || { tail -20 "$out/$to.log" >&2; exit 1; }
  say "$to: moecheck eval took $((SECONDS - start)) s"
}
compare() { # TITLE THEIRS OURS
  say "$1"
  "$VENV/bin/python" scripts/parity_lm_eval.py compare "$out/$2" "$out/$3" || differ=1
}
differ=0

if [ -n "$gsm8k" ]; then
  say "prompts of all of GSM8K, 5 shots"
  task task.gsm8k "$gsm8k"
  theirs gsm8k task.gsm8k --model dummy
  "$MOECHECK" prompts --task gsm8k --data "$gsm8k" --json "$out/gsm8k_prompts.json"
  "$VENV/bin/python" scripts/parity_lm_eval.py prompts "$out/gsm8k" "$out/gsm8k_prompts.json" || differ=1
fi

say "serve --model $model"
serve "$out/serve.log" --model $model
url="base_url=$ENDPOINT/v1"
common="model=canary,num_concurrent=16"
theirs lm_eval.string task.word_problems --model local-completions --limit "$LIMIT" \
  --model_args "$url/completions,$common,tokenizer_backend=none,tokenized_requests=False"
theirs lm_eval.ids task.word_problems --model local-completions --limit "$LIMIT" \
  --model_args "$url/completions,$common,tokenizer_backend=huggingface,tokenizer=$PWD/$model"
theirs lm_eval.chat task.word_problems --model local-chat-completions --apply_chat_template --limit "$LIMIT" \
  --model_args "$url/chat/completions,$common"
ours moecheck.completions
ours moecheck.chat --api chat
compare "completions, prompts as text" lm_eval.string moecheck.completions
compare "completions, prompts as token ids" lm_eval.ids moecheck.completions
compare "chat completions" lm_eval.chat moecheck.chat
say "the table of lm_eval (text), then of moecheck"
grep '^|' "$out/lm_eval.string.txt"
grep '^|' "$out/moecheck.completions.txt"
say "moecheck compare lm_eval.string moecheck.completions --margin 2"
"$MOECHECK" compare "$out/lm_eval.string" "$out/moecheck.completions" --margin 2 || differ=1

say "openai client"
"$VENV/bin/python" scripts/parity_lm_eval.py client "$ENDPOINT/v1" || differ=1
stop_server

# A broken model gives the answers that filters find hard: wrong, without a number, cut at the limit.
say "serve --model $model --fault routed_scale_on_shared_slot"
serve "$out/serve.faulty.log" --model $model --fault routed_scale_on_shared_slot
url="base_url=$ENDPOINT/v1"
theirs lm_eval.faulty task.word_problems --model local-completions --limit "$LIMIT" \
  --model_args "$url/completions,$common,tokenizer_backend=none,tokenized_requests=False"
ours moecheck.faulty
compare "completions of the faulty model" lm_eval.faulty moecheck.faulty
stop_server

say "the comparison itself: each planted difference must be seen"
"$VENV/bin/python" scripts/parity_lm_eval.py planted "$out/lm_eval.string" "$out/moecheck.completions" || differ=1
[ $differ = 0 ] && say "no difference" || { say "DIFFERENCES, see above"; exit 1; }

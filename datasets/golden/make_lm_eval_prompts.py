#!/usr/bin/env python3
"""Prompts, hashes and output files of lm-evaluation-harness over a small set of problems.

    pip install "lm_eval[api]==0.4.13" torch
    python3 datasets/golden/make_lm_eval_prompts.py [GSM8K]     # a folder with GSM8K's own files adds its task hashes

Writes lm_eval_prompts/test.jsonl and train.jsonl (problems made here), lm_eval_prompts/prompts.json (what lm_eval makes of
them, task by task), lm_eval_prompts/python_random.json (draws of CPython's random) and lm_eval_run/ (the files that
lm_eval writes for canned answers, as completions and as chat). Only the source of the rows is replaced: lm_eval loads
its own task files and builds prompts, hashes and files itself.
"""

import hashlib
import importlib.metadata
import json
import pathlib
import random
import shutil
import sys
import tempfile

import datasets
import lm_eval
from lm_eval.api.model import LM
from lm_eval.loggers import EvaluationTracker
from lm_eval.models.api_models import JsonChatStr

HERE = pathlib.Path(__file__).resolve().parent
SMALL = HERE / "lm_eval_prompts"
NAMES = ["Ana", "Bo", "Chlo\u00e9", "Dmitri", "Eve \"Evie\"", "Fr\u00e9d\u00e9ric", "G\\H", "Ilse\u2019s aunt"]
THINGS = ["apples", "caf\u00e9 cups", "\u2615 mugs", "tabs\tand spaces", "marbles", "$5 notes"]


def problem(draw):
    a, b, c = draw.randint(2, 90), draw.randint(2, 90), draw.randint(2, 9)
    name, thing = draw.choice(NAMES), draw.choice(THINGS)
    total = (a + b) * c
    question = f"{name} has {a} {thing} and buys {b} more. A friend has {c} times as many. How many has the friend?"
    answer = f"{name} has {a} + {b} = <<{a}+{b}={a + b}>>{a + b}.\nThe friend has {a + b} * {c} = <<{a + b}*{c}={total}>>{total:,}.\n#### {total:,}"
    return {"question": question, "answer": answer}


def write_problems():
    draw = random.Random(5)
    train = [problem(draw) for _ in range(40)]
    test = [problem(draw) for _ in range(13)]
    # The same row three times: a task that draws its shots from the test split must not show a question to itself.
    test[4] = test[9] = test[1]
    test[2]["answer"] += "\u00a0\n"
    test[3]["answer"] = test[3]["answer"].replace("#### ", "#### -")
    SMALL.mkdir(exist_ok=True)
    for name, rows in (("train", train), ("test", test)):
        with open(SMALL / f"{name}.jsonl", "w") as f:
            f.writelines(json.dumps(r, ensure_ascii=draw.random() < 0.5) + "\n" for r in rows)


class Canned(LM):
    """Answers by document; a chat prompt is kept as the API models of lm_eval keep it."""

    tokenizer_name = "none"
    answers = ["#### 18"]

    def generate_until(self, requests):
        return [self.answers[r.doc_id % len(self.answers)] for r in requests]

    def loglikelihood(self, requests):
        raise NotImplementedError

    loglikelihood_rolling = loglikelihood

    def apply_chat_template(self, messages, add_generation_prompt=True):
        return JsonChatStr(json.dumps(messages, ensure_ascii=False))

    def chat_template(self, name=False):
        return ""


real_load = datasets.load_dataset
folder = SMALL


def load_dataset(path, name=None, **_):
    return real_load("json", data_files={s: str(folder / f"{s}.jsonl") for s in ("train", "test")})


datasets.load_dataset = load_dataset

VARIANTS = [
    ("gsm8k", {}),
    ("gsm8k", {"num_fewshot": 0}),
    ("gsm8k", {"num_fewshot": 1, "limit": 5}),
    ("gsm8k", {"num_fewshot": 8, "fewshot_random_seed": 20261122}),  # more than 5: the other branch of sample()
    ("gsm8k", {"num_fewshot": 40}),
    ("gsm8k", {"apply_chat_template": True, "fewshot_as_multiturn": True}),
    ("gsm8k", {"apply_chat_template": True, "fewshot_as_multiturn": False, "system_instruction": "Be brief, \"please\"."}),
    ("gsm8k", {"system_instruction": "Be brief."}),
    ("gsm8k_cot", {}),
    ("gsm8k_cot", {"num_fewshot": 2}),
    ("gsm8k_cot", {"apply_chat_template": True, "fewshot_as_multiturn": True}),
    ("gsm8k_cot_zeroshot", {"num_fewshot": 3}),  # its 0 stands
    ("gsm8k_cot_llama", {}),
    ("gsm8k_cot_llama", {"apply_chat_template": True, "fewshot_as_multiturn": True}),
    ("gsm8k_platinum", {}),
    ("gsm8k_platinum", {"num_fewshot": 10}),
    ("gsm8k_platinum_cot", {}),
    ("gsm8k_platinum_cot_zeroshot", {}),
    ("gsm8k_platinum_cot_llama", {}),
]
GSM8K = [("gsm8k", {}), ("gsm8k", {"limit": 256}), ("gsm8k", {"apply_chat_template": True, "fewshot_as_multiturn": True})]
GSM8K += [("gsm8k_cot", {}), ("gsm8k_cot_zeroshot", {}), ("gsm8k_cot_llama", {})]


def evaluate(task, options, **more):
    return lm_eval.simple_evaluate(model=Canned(), tasks=[task], log_samples=True, **options, **more)


def task_hash(samples):
    return hashlib.sha256("".join(s["doc_hash"] + s["prompt_hash"] + s["target_hash"] for s in samples).encode()).hexdigest()


def prompts():
    out = []
    for task, options in VARIANTS:
        result = evaluate(task, options)
        samples = result["samples"][task]
        rows = samples[: len(samples) // 2]
        first = rows[0]["arguments"][0][0]
        config = result["configs"][task]
        config["metadata"].pop("config_source", None)
        out.append(
            {
                "task": task,
                "options": options,
                "task_hash": task_hash(samples),
                "first_prompt": first.prompt if isinstance(first, JsonChatStr) else first,
                "rows": [[s["doc_hash"], s["prompt_hash"], s["target_hash"], s["target"]] for s in rows],
                "config": config,
            }
        )
    return out


def gsm8k_hashes(path):
    global folder
    folder = pathlib.Path(path)
    out = [{"task": t, "options": o, "task_hash": task_hash(evaluate(t, o)["samples"][t])} for t, o in GSM8K]
    folder = SMALL
    return out


def python_random():
    rows = []
    for seed in (0, 1, 1234, 4294967295, 4294967296, 18446744073709551615):
        draw = random.Random(seed)
        rows.append({"seed": seed, "bits": [draw.getrandbits(32) for _ in range(4)], "small": [draw.getrandbits(k) for k in (1, 5, 13)]})
    samples = []
    for seed in (0, 1234, 7):
        draw = random.Random(seed)
        for n, k in ((7473, 5), (7473, 5), (1, 1), (5, 5), (21, 5), (22, 5), (85, 6), (86, 6), (85, 20), (300, 25), (8, 0), (1319, 6)):
            samples.append({"seed": seed, "n": n, "k": k, "drawn": draw.sample(range(n), k)})
    return {"python": sys.version.split()[0], "bits": rows, "samples": samples}


ANSWERS = ["#### 18", "so it is 3", "\u00e9 \u2615 \"quoted\"\t#### 1,008.\n", "", "\x1b bell \x07 1.5"]


def run_files():
    target = HERE / "lm_eval_run"
    shutil.rmtree(target, ignore_errors=True)
    Canned.answers = ANSWERS
    for chat in (False, True):
        with tempfile.TemporaryDirectory() as out:
            tracker = EvaluationTracker(output_path=out)
            options = {"limit": 5, "apply_chat_template": chat, "fewshot_as_multiturn": chat}
            results = evaluate("gsm8k", options, evaluation_tracker=tracker)
            samples = results.pop("samples")
            tracker.save_results_aggregated(results=results, samples=samples)
            tracker.save_results_samples(task_name="gsm8k", samples=samples["gsm8k"])
            to = target / ("chat" if chat else "completions")
            to.mkdir(parents=True)
            stamp = "2026-01-01T00-00-00.000000"
            for path in pathlib.Path(out).rglob("*.json*"):
                kind = "results_" if path.name.startswith("results") else "samples_gsm8k_"
                copy = to / f"{kind}{stamp}{path.suffix}"
                shutil.copy(path, copy)
                if kind == "results_":  # what tells of the machine, or changes with every run
                    j = json.loads(copy.read_text())
                    j.update(pretty_env_info="", date=0.0, total_evaluation_time_seconds="0.0", git_hash=None, upper_git_hash=None)
                    j.update(model_name="canned", model_name_sanitized="canned")
                    j["configs"]["gsm8k"]["metadata"].pop("config_source", None)
                    copy.write_text(json.dumps(j, indent=2, ensure_ascii=False))


write_problems()
golden = {"versions": {"lm_eval": importlib.metadata.version("lm_eval")}, "variants": prompts()}
old = json.loads((SMALL / "prompts.json").read_text()) if (SMALL / "prompts.json").exists() else {}
golden["gsm8k"] = gsm8k_hashes(sys.argv[1]) if len(sys.argv) > 1 else old.get("gsm8k", [])
(SMALL / "prompts.json").write_text(json.dumps(golden, ensure_ascii=False, indent=0) + "\n")
(SMALL / "python_random.json").write_text(json.dumps(python_random()) + "\n")
run_files()
for v in golden["variants"] + golden["gsm8k"]:
    print(v["task"], v["options"], v["task_hash"])

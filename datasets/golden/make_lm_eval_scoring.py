#!/usr/bin/env python3
"""Extractions and scores of lm-evaluation-harness over tricky completions -> lm_eval_scoring.json.

    pip install lm_eval==0.4.13
    python3 datasets/golden/make_lm_eval_scoring.py

Every expected field comes from lm_eval's own RegexFilter, TakeFirstFilter, exact_match_hf_evaluate, mean and
mean_stderr; the completions are written here, and drawn by a grammar of their pieces. Deterministic.
"""

import importlib.metadata
import json
import pathlib
import random

import numpy
from lm_eval.api.metrics import exact_match_hf_evaluate, mean, mean_stderr
from lm_eval.filters.extraction import RegexFilter
from lm_eval.filters.selection import TakeFirstFilter

SEED = 20261122
IGNORE = [",", "\\$", "(?s).*#### ", "\\.$"]
FLEXIBLE = ("(-?[$0-9.,]{2,})|(-?[0-9]+)", -1)
TASKS = {
    "gsm8k": {"strict-match": ("#### (\\-?[0-9\\.\\,]+)", 0), "flexible-extract": FLEXIBLE},
    "gsm8k_cot": {"strict-match": ("The answer is (\\-?[0-9\\.\\,]+).", 0), "flexible-extract": FLEXIBLE},
    "gsm8k_cot_llama": {
        "strict-match": ("The final answer is ((-?[$0-9.,]{2,})|(-?[0-9]+))", -1),
        "flexible-extract": FLEXIBLE,
    },
}

GOLD = "16 - 7 = <<16-7=9>>9 eggs.\n9 * 2 = $<<9*2=18>>18.\n#### 18"
TRICKY = [
    (" 9 * 2 = 18.\n#### 18", GOLD),
    ("#### 17\n#### 18", GOLD),  # the first for strict, the last for flexible
    ("#### 18\n\nQuestion: what now?\nAnswer: 3\n#### 99", GOLD),
    ("#### 18\nLet me check: 9 * 3 = 27", GOLD),
    ("####18", GOLD),
    ("####  18", GOLD),
    ("#### $18", GOLD),
    ("#### **18**", GOLD),
    ("#### +18", GOLD),
    ("#### -18", GOLD),
    ("#### 18.", GOLD),
    ("#### 18..", GOLD),
    ("#### 18.00", GOLD),
    ("#### 18.\n", GOLD),
    ("#### 1,8", GOLD),
    ("#### ,18", GOLD),
    ("#### 18,", GOLD),
    ("##### 18", GOLD),
    ("#### \n18", GOLD),
    ("#### 18 eggs", GOLD),
    ("#### 18%", GOLD),
    ("#### \u0661\u0668", GOLD),  # Arabic-Indic digits are no [0-9]
    ("#### \uff11\uff18", GOLD),
    ("\u0661\u0668 18 \u0967", GOLD),
    ("#### 1\u06618", GOLD),
    ("#### \u221218", GOLD),  # U+2212
    ("Total: $18.", GOLD),
    ("The cost is $\\boxed{18}$.", GOLD),
    ("$18.00", GOLD),
    ("That makes 18 ...", GOLD),
    ("18 $.", GOLD),
    ("from 10-18", GOLD),
    ("20-2", GOLD),
    ("20 - 2 = 18 - 0", GOLD),
    ("--18", GOLD),
    ("-$18", GOLD),
    ("-", GOLD),
    (".", GOLD),
    ("..", GOLD),
    ("$", GOLD),
    ("$$", GOLD),
    ("", GOLD),
    ("   \n", GOLD),
    ("no number here", GOLD),
    ("one 7", GOLD.replace("18", "7")),
    ("1,234", "#### 1234"),
    ("#### 1,234", "#### 1,234"),
    ("#### 1234", "1,234"),
    ("#### 1.234", "#### 1,234"),
    ("#### -10", "#### -10"),
    ("#### 10", "#### -10"),
    ("#### 18", "18"),
    ("#### 18", "$18"),
    ("#### 18", "18."),
    ("#### 18", "18.\n"),
    ("#### 18", "18.."),
    ("#### 18.", "18.."),
    ("#### 18", "18 "),
    ("#### 18", "#### 17\n#### 18"),
    ("#### 18", "####18"),
    ("#### 18", "##$## 18"),
    ("#### 18", "##,## 18"),
    ("#### 18", "18\u0000"),
    ("#### 18", "18.\u0000"),
    ("nothing", "[invalid]"),
    ("nothing", "[INVALID]"),
    ("nothing", "[Invalid]."),
    ("#### .", "#### ."),
    ("#### ,", "#### "),
    ("#### .", ""),
    ("The answer is 18.", "18"),
    ("The answer is 18", "18"),  # one more character is needed: 1
    ("The answer is 18\n", "18"),
    ("The answer is 1", "1"),
    ("The answer is 1\n", "1"),
    ("The answer is 1 ", "1"),
    ("The answer is -7", "-7"),
    ("The answer is -7.", "-7"),
    ("The answer is -18", "-1"),
    ("The answer is $18.", "18"),
    ("The answer is 17. The answer is 18.", "18"),
    ("The answer is 18\r\n", "18"),
    ("The answer is 18\u2028", "18"),
    ("The answer is \nThe answer is 18.", "18"),
    ("The final answer is 18", "18"),
    ("The final answer is $18.00", "18.00"),
    ("The final answer is 17. The final answer is 18", "18"),
    ("The final answer is 18 of 20", "18"),
    ("The final answer is -8", "-8"),
    ("The final answer is .", "18"),
    ("The final answer is ..", "18"),
    ("The final answer is \\boxed{18}", "18"),
    ("The final answer is 18. The final answer is unknown", "18"),
    ("\u00e9 \U0001f95a 18 \u00e9", "18"),
    ("#### 18\u00e9", "18"),
    ("18\u00b2", "18"),
    ("\u00bd", "18"),
    ("7" * 3000, "7"),
    ("." * 3000, "."),
    ("#### " * 600 + "18", "18"),
    ("-" * 2000 + "18", "-18"),
    ("18 " * 1000, "18"),
]
PIECES = ["#### ", "####", " ", "$", ",", ".", "-", "\n", "\r", "0", "1", "18", "7", "1,234", "\u0661", "\uff11", "\u2212", "\u00a0"]
PIECES += ["The answer is ", "The final answer is ", "[invalid]", "x", "Question:", "**", "\\boxed{", "}", "18.", "$18.00", "..."]
GOLDS = ["18", "7", "1", "1234", "1,234", "-18", "18.00", "0", "bla bla\n#### 18", "x\n#### 1", "[invalid]"]


def rows():
    draw = random.Random(SEED)
    for _ in range(220):
        TRICKY.append(("".join(draw.choice(PIECES) for _ in range(draw.randint(1, 12))), draw.choice(GOLDS)))
    return TRICKY


def main():
    texts = rows()
    out = [{"completion": c, "answer": g} for c, g in texts]
    sums = {}
    for task, filters in TASKS.items():
        for name, (pattern, group) in filters.items():
            found = RegexFilter(pattern, group_select=group).apply([[c] for c, _ in texts], None)
            extracted = list(TakeFirstFilter().apply(found, None))
            scores = [
                exact_match_hf_evaluate(predictions=[e], references=[g], regexes_to_ignore=IGNORE, ignore_case=True)["exact_match"]
                for e, (_, g) in zip(extracted, texts)
            ]
            for row, e, s in zip(out, extracted, scores):
                row.setdefault(task, {})[name] = {"extracted": e, "exact_match": float(s)}
            sums.setdefault(task, {})[name] = {"mean": float(mean(scores)), "stderr": float(mean_stderr(scores))}
    draw = random.Random(SEED)
    errors = []
    for n in (2, 3, 7, 40, 256, 1319):
        for k in sorted({0, 1, n // 3, n // 2, n - 1, n}):
            order = [numpy.float64(1)] * k + [numpy.float64(0)] * (n - k)
            draw.shuffle(order)
            bits = "".join("1" if x else "0" for x in order)
            errors.append({"scores": bits, "mean": float(mean(order)), "stderr": float(mean_stderr(order))})
    path = pathlib.Path(__file__).resolve().parent / "lm_eval_scoring.json"
    versions = {"lm_eval": importlib.metadata.version("lm_eval"), "numpy": numpy.__version__}
    with open(path, "w") as f:
        f.write(json.dumps({"versions": versions, "seed": SEED})[:-1] + ',\n"sums": ' + json.dumps(sums) + ',\n"errors": [\n')
        f.write(",\n".join(json.dumps(e) for e in errors) + '\n],\n"rows": [\n')
        f.write(",\n".join(json.dumps(r) for r in out) + "\n]}\n")
    print(path, len(out), "rows,", path.stat().st_size, "bytes")
    for task in sums:
        print(task, sums[task])


main()

"""The word problems (../word_problems) as the tiny models see them, and how their answers are scored.

Prompts are lm_eval's gsm8k: "Question: {q}\\nAnswer:" + " {a}", shots joined by a blank line, other shots for every document:
one random.Random(1234), one sample(train, n) per document in document order.
"""
import json
import pathlib
import random
import re
import sys

FOLDER = pathlib.Path(__file__).resolve().parent.parent / "word_problems"
sys.path.insert(0, str(FOLDER))
import generate  # noqa: E402  (the generator of ../word_problems)

FEWSHOT_SEED = 1234
STRICT = re.compile(r"#### (\-?[0-9\.\,]+)")


def draw(rng):
    """A fresh training problem: (question, answer)."""
    return generate.problem(rng, "train")[:2]


def frozen(split):
    lines = (FOLDER / f"{split}.jsonl").read_text().splitlines()
    return [(row["question"], row["answer"]) for row in map(json.loads, lines)]


def prompt(question):
    return f"Question: {question}\nAnswer:"


def shot(question, answer):
    return f"Question: {question}\nAnswer: {answer}"


def prompts(shots):
    """The prompts of all test problems with so many shots each."""
    rng, train = random.Random(FEWSHOT_SEED), frozen("train")
    return ["\n\n".join([shot(q, a) for q, a in (rng.sample(train, shots) if shots else [])] + [prompt(question)])
            for question, _ in frozen("test")]


def is_right(text, answer):
    """lm_eval's strict-match with its exact_match: the first "#### N" against the reference's."""
    match = STRICT.search(text.split("Question:")[0])
    if match is None:
        return False
    found = re.sub(r"\.$", "", match[1].replace(",", ""))
    return found == answer.rsplit("#### ", 1)[1]

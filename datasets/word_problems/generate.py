#!/usr/bin/env python3
"""Word problems in the format of GSM8K, from a seed (standard library only).

    python3 generate.py             rewrites test.jsonl and train.jsonl beside this file
    python3 generate.py --check     verifies that both regenerate byte for byte and that the splits are disjoint
    python3 generate.py --show      one problem of every template

A line is {"question": ..., "answer": ...}; the answer has one worked step a line and ends in "#### N".

The splits are disjoint twice over. A problem's numbers, with its template's name, hash to one of eight classes: class 0 is the
test split's, the others are the training split's. And no person's name occurs in both.
"""
import argparse
import functools
import hashlib
import json
import operator
import pathlib
import random
import re
import zlib

import templates as words

HERE = pathlib.Path(__file__).resolve().parent
TEST_SIZE, TRAIN_SIZE = 1319, 2048
SEEDS = {"test": 20261122, "train": 20261123}
CLASSES = 8                     # of the hash of a problem's numbers; class 0 is the test split's
MADE_UP = 0.3                   # share of training names made of syllables
OPERATIONS = {"+": operator.add, "-": operator.sub, "*": operator.mul}
TEST_NAMES = frozenset(words.NAMES["test"]["he"] + words.NAMES["test"]["she"])
NAMES = tuple(t[0] for t in words.TEMPLATES) + tuple(words.STORIES)
SLOT = re.compile(r"\{([^}]*)\}|\[([^]]*)\]")


class Rejected(Exception):
    """The numbers drawn do not make a problem: a step's result is a fraction or below 1."""


def choose(rng, options):
    """One of the options. random() alone, since its sequence is the same in every version of Python."""
    return options[int(rng.random() * len(options))]


class Person:
    def __init__(self, name, he):
        self.name, self.he, self.He = name, he, he.capitalize()
        self.his, self.him = ("his", "him") if he == "he" else ("her", "her")


class Problem:
    """The numbers, people and nouns of one problem, made when first asked for."""

    def __init__(self, rng, split):
        self.rng, self.split, self.numbers, self.nouns, self.used = rng, split, {}, {}, set()

    def unused(self, draw):
        while True:
            value = draw()
            if value not in self.used:
                self.used.add(value)
                return value

    def person(self):
        he = choose(self.rng, ("he", "she"))
        if self.split == "test" or self.rng.random() >= MADE_UP:
            return Person(self.unused(lambda: choose(self.rng, words.NAMES[self.split][he])), he)

        def made_up():
            parts = [choose(self.rng, words.SYLLABLES) for _ in range(2 if self.rng.random() < 0.7 else 3)]
            name = "".join(parts).capitalize() + choose(self.rng, words.ENDS)
            return choose(self.rng, words.NAMES["train"][he]) if name in TEST_NAMES else name
        return Person(self.unused(made_up), he)

    def noun(self, key):
        if key not in self.nouns:
            if key in ("a", "b", "c"):
                self.nouns[key] = self.person()
            elif key.startswith("good"):
                one, many = self.unused(lambda: choose(self.rng, words.GOODS))
                end = "2" if key.endswith("2") else ""
                self.nouns["good" + end], self.nouns["goods" + end] = one, many
            else:
                self.nouns[key] = self.unused(lambda: choose(self.rng, KINDS[key]))
        return self.nouns[key]

    def value(self, key):
        """What {key} stands for."""
        if key in self.numbers:
            return str(self.numbers[key])
        head, _, attribute = key.partition(".")
        kind, _, number = key.partition(":")
        if number:
            n = self.numbers[number]
            return words.PARTS[n] if kind == "part" else words.TIMES[n]
        noun = self.noun(head)
        return getattr(noun, attribute or "name") if isinstance(noun, Person) else noun


KINDS = {"it": words.ITEMS, "box": words.BOXES, "dear": words.DEAR, "place": words.PLACES, "fruit": words.FRUIT,
         "baked": words.BAKED, "food": words.FOOD}


class Text:
    """A string of the template language, ready to be written many times."""

    def __init__(self, source):
        self.parts = []                       # lists of alternatives; an alternative is a list of (kind, text)
        for i, part in enumerate(re.split(r"<([^>]*)>", source)):
            self.parts.append([self.pieces(x) for x in (part.split("|") if i % 2 else [part])])

    @staticmethod
    def pieces(source):
        out, at = [], 0
        for m in SLOT.finditer(source):
            out.append(("text", source[at:m.start()]))
            out.append(("slot", m[1]) if m[1] is not None else ("sum", Sum(m[2])))
            at = m.end()
        return out + [("text", source[at:])]

    def write(self, problem):
        out = []
        for alternatives in self.parts:
            one = alternatives[0] if len(alternatives) == 1 else choose(problem.rng, alternatives)
            for kind, x in one:
                out.append(x if kind == "text" else problem.value(x) if kind == "slot" else x.write(problem))
        return "".join(out)


class Sum:
    """'x*y=n': integer operations from left to right, all results at least 1; names the result n."""

    def __init__(self, source):
        left, self.name = source.split("=")
        tokens = re.findall(r"[+*/-]|\w+", left)
        self.first, self.rest = tokens[0], list(zip(tokens[1::2], tokens[2::2]))

    def write(self, problem):
        def number(token):
            return int(token) if token.isdigit() else problem.numbers[token]
        result = number(self.first)
        text = str(result)
        for sign, token in self.rest:
            n = number(token)
            if sign == "/":
                if result % n:
                    raise Rejected
                result //= n
            else:
                result = OPERATIONS[sign](result, n)
            text += sign + str(n)
        if result < 1:
            raise Rejected
        problem.numbers[self.name] = result
        return f"{text}={result}"


class Template:
    def __init__(self, name, draws, question, steps):
        self.name, self.draws = name, []
        self.question, self.steps = Text(question), [Text(s) for s in steps]
        for draw in filter(None, (d.strip() for d in draws.split(";"))):
            if m := re.fullmatch(r"(\w+) = (.*)", draw):
                self.draws.append((m[1], "is", self.expression(m[2])))
            elif m := re.fullmatch(r"(\w+) pick (.*)", draw):
                self.draws.append((m[1], "pick", [int(x) for x in m[2].split()]))
            else:
                m = re.fullmatch(r"(\w+) (.*)\.\.(.*)", draw)
                self.draws.append((m[1], "range", (self.expression(m[2]), self.expression(m[3]))))

    @staticmethod
    def expression(source):
        return compile(source, source, "eval")

    def instance(self, rng, split):
        """(question, answer, key) or None if the numbers do not fit; key tells the template and its numbers."""
        p = Problem(rng, split)

        def value(code):
            return eval(code, {"__builtins__": {}, "min": min, "max": max}, p.numbers)
        for name, how, x in self.draws:
            if how == "range":
                low, high = value(x[0]), value(x[1])
                if high < low:
                    return None
                p.numbers[name] = low + int(rng.random() * (high - low + 1))
            else:
                p.numbers[name] = value(x) if how == "is" else choose(rng, x)
        if min(p.numbers.values()) < 1:
            return None
        key = self.name + "".join(f" {k}={v}" for k, v in p.numbers.items())
        if (zlib.crc32(key.encode()) % CLASSES == 0) != (split == "test"):
            return None
        question = self.question.write(p)
        try:
            steps = [s.write(p) for s in self.steps]
        except Rejected:
            return None
        last = list(p.numbers.values())[-1]
        return question, "\n".join(steps) + f"\n#### {last}", key


@functools.lru_cache(maxsize=None)
def story(kinds):
    """The template of a story with these events (indices into EVENTS)."""
    draws, questions, steps = [words.STORY_START[0]], [words.STORY_START[1]], []
    for i, kind in enumerate(kinds):
        draw, question, lines = words.EVENTS[kind]

        def numbered(s, i=i):
            return s.replace("{then}", words.THEN[i > 0]).replace("#", str(i)).replace("@", str(i + 1))
        draws.append(numbered(draw))
        questions.append(numbered(question))
        steps += [numbered(s) for s in lines]
    name = "story " + "-".join(map(str, kinds))
    return Template(name, "; ".join(draws), " ".join(questions + [words.STORY_END]), steps)


def random_story(rng, events):
    while True:
        kinds = tuple(int(rng.random() * len(words.EVENTS)) for _ in range(events))
        if sum(len(words.EVENTS[k][2]) for k in kinds) <= words.MAX_STEPS:
            return story(kinds)


FIXED = [Template(*t) for t in words.TEMPLATES]


def problem(rng, split, index=None):
    """One problem of the split, of a random template or of the one at the index in NAMES: (question, answer, key)."""
    if index is None:
        index = int(rng.random() * len(NAMES))
    while True:
        template = FIXED[index] if index < len(FIXED) else random_story(rng, words.STORIES[NAMES[index]])
        made = template.instance(rng, split)
        if made:
            return made


def split_problems(split):
    """The frozen problems of a split: templates evenly mixed in a shuffled order, no question twice."""
    rng, size = random.Random(SEEDS[split]), TEST_SIZE if split == "test" else TRAIN_SIZE
    order, seen, out = [], set(), []
    while len(out) < size:
        if not order:
            order = sorted(range(len(NAMES)), key=lambda _: rng.random())
        made = problem(rng, split, order[-1])
        if made[0] not in seen:
            seen.add(made[0])
            out.append(made)
            order.pop()
    return out


def jsonl(problems):
    return "".join(json.dumps({"question": q, "answer": a}, ensure_ascii=False) + "\n" for q, a, _ in problems).encode()


def names_in(problems):
    """The capitalized words in the problems that are names of either split."""
    known = {n for split in words.NAMES.values() for names in split.values() for n in names}
    return known & {w for q, _, _ in problems for w in re.findall(r"[A-Z][a-z]+", q)}


def verify_answers(problems):
    """Computes every worked sum again from the text alone; returns how many there were."""
    count = 0
    for question, answer, _ in problems:
        *steps, last = answer.split("\n")
        sums = re.findall(r"(\d+(?:[-+*/]\d+)+)=(\d+)", "\n".join(steps))
        assert not set("<>|{}[]") & set(question + answer), question
        assert 2 <= len(steps) <= words.MAX_STEPS and len(sums) == len(steps), answer
        assert last == f"#### {sums[-1][1]}", answer
        for left, right in sums:
            value = functools.reduce(lambda v, t: {"+": v + int(t[1]), "-": v - int(t[1]), "*": v * int(t[1]),
                                                   "/": v / int(t[1])}[t[0]],
                                     re.findall(r"([-+*/])(\d+)", left), int(re.match(r"\d+", left)[0]))
            assert value == int(right), (left, right)
            count += 1
    return count


def check():
    made = {split: split_problems(split) for split in SEEDS}
    for split, problems in made.items():
        data = jsonl(problems)
        assert (HERE / f"{split}.jsonl").read_bytes() == data, f"{split}.jsonl differs from what generate.py makes"
        per = [sum(NAMES.index(k.split(" ")[0]) == i if not k.startswith("story ") else
                   NAMES[i] == f"story_{k.split(' ')[1].count('-') + 1}" for _, _, k in problems) for i in range(len(NAMES))]
        assert max(per) - min(per) <= 1, "templates are not evenly mixed"
        steps = [a.count("\n") for _, a, _ in problems]
        print(f"{split}.jsonl: {len(problems)} problems of {len(NAMES)} templates ({min(per)} to {max(per)} each), "
              f"{min(steps)} to {max(steps)} steps, {verify_answers(problems)} sums right, sha256 "
              f"{hashlib.sha256(data).hexdigest()}")
    keys = {split: {k for _, _, k in problems} for split, problems in made.items()}
    assert not keys["test"] & keys["train"], "a template has the same numbers in both splits"
    assert all((zlib.crc32(k.encode()) % CLASSES == 0) == (split == "test") for split in keys for k in keys[split])
    questions = {split: {q for q, _, _ in problems} for split, problems in made.items()}
    assert all(len(questions[s]) == len(made[s]) for s in made) and not questions["test"] & questions["train"]
    names = {split: names_in(problems) for split, problems in made.items()}
    assert not names["test"] & names["train"], names["test"] & names["train"]
    assert names["test"] <= TEST_NAMES and not names["train"] & TEST_NAMES
    print(f"disjoint: questions, numbers by template, names ({len(names['test'])} and {len(names['train'])} known ones)")


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--check", action="store_true")
    ap.add_argument("--show", action="store_true")
    a = ap.parse_args()
    if a.check:
        return check()
    if a.show:
        rng = random.Random(0)
        for i, name in enumerate(NAMES):
            q, answer, _ = problem(rng, "train", i)
            print(f"[{name}]\nQuestion: {q}\nAnswer: {answer}\n")
        return
    for split in SEEDS:
        (HERE / f"{split}.jsonl").write_bytes(jsonl(split_problems(split)))
    check()


if __name__ == "__main__":
    main()

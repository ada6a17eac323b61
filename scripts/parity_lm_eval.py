#!/usr/bin/env python3
"""Helps parity_lm_eval.sh.

    compare THEIRS OURS     two output folders: every row, result and table equal? Exit code 1 if not
    prompts THEIRS FILE     hashes of lm_eval's rows against `moecheck prompts --json FILE`
    planted THEIRS OURS     changes one thing at a time in a copy of OURS: compare must see each
    client URL              the openai client: completions, chat, streaming, errors
"""
import copy
import glob
import hashlib
import json
import math
import sys

SAME = ["doc_id", "doc", "target", "resps", "filtered_resps", "filter", "metrics", "doc_hash", "prompt_hash",
        "target_hash", "exact_match"]


def the_one(pattern):
    found = glob.glob(pattern, recursive=True)
    if len(found) != 1:
        sys.exit(f"{pattern}: expected one file, found {found}")
    return found[0]


def load(folder):
    with open(the_one(folder + "/**/results_*.json")) as f:
        results = json.load(f)
    with open(the_one(folder + "/**/samples_*.jsonl")) as f:
        rows = {(r["filter"], r["doc_id"]): r for r in map(json.loads, f)}
    return results, rows


def numbers(results):
    """What a reader takes from the results file: scores with their errors, sample counts, version, shots, task hash."""
    (name,) = results["results"]
    kept = dict(results["results"][name])
    for key in ("versions", "n-shot", "n-samples", "higher_is_better", "task_hashes"):
        kept[key] = results[key][name]
    return kept


def prompt(row):
    text = row["arguments"]["gen_args_0"]["arg_0"]
    return json.loads(text[0]) if isinstance(text, list) else text


def differences(theirs, ours):
    """One line for each difference; the values are compared as they were parsed, floats bit by bit."""
    lines = []
    if theirs[1].keys() != ours[1].keys():
        lines.append(f"rows: {len(theirs[1])} against {len(ours[1])}")
    for key in theirs[1].keys() & ours[1].keys():
        a, b = theirs[1][key], ours[1][key]
        lines += [f"{key} {field}: {a[field]!r} against {b[field]!r}" for field in SAME if a[field] != b[field]]
        if prompt(a) != prompt(b):
            lines.append(f"{key} prompt: {prompt(a)!r} against {prompt(b)!r}")
    a, b = numbers(theirs[0]), numbers(ours[0])
    lines += [f"results {k}: {a.get(k)!r} against {b.get(k)!r}" for k in a.keys() | b.keys() if a.get(k) != b.get(k)]
    return lines


def table(path):
    with open(path) as f:
        return [line.rstrip("\n") for line in f if line.startswith("|")]


def compare(theirs_dir, ours_dir):
    theirs, ours = load(theirs_dir), load(ours_dir)
    lines = differences(theirs, ours)
    a, b = table(theirs_dir + ".txt"), table(ours_dir + ".txt")
    if a != b:
        lines.append(f"table: {a} against {b}")
    rows = theirs[1].values()
    right = {f: int(sum(r["exact_match"] for r in rows if r["filter"] == f)) for f in sorted({r["filter"] for r in rows})}
    invalid = {f: sum(r["filtered_resps"] == ["[invalid]"] for r in rows if r["filter"] == f) for f in right}
    distinct = len({r["resps"][0][0] for r in rows})
    print(f"rows {len(theirs[1])} against {len(ours[1])}; {distinct} different completions; right {right}; invalid {invalid}")
    print(f"prompts  {prompts_digest(theirs[1])} against {prompts_digest(ours[1])}")
    print(f"texts    {texts_digest(theirs[1])} against {texts_digest(ours[1])}")
    print(f"task     {numbers(theirs[0])['task_hashes']} against {numbers(ours[0])['task_hashes']}")
    print(f"fields compared per row: {', '.join(SAME)}, prompt; and results, table")
    for line in lines[:20]:
        print("DIFFERS", line[:500])
    print(f"{len(lines)} differences")
    return bool(lines)


def digest(parts):
    return hashlib.sha256("".join(parts).encode()).hexdigest()


def prompts_digest(rows):
    return digest(rows[key]["prompt_hash"] for key in sorted(rows))


def texts_digest(rows):
    return digest(json.dumps([rows[key]["resps"], rows[key]["filtered_resps"]]) for key in sorted(rows))


def prompts(theirs_dir, file):
    results, rows = load(theirs_dir)
    with open(file) as f:
        ours = json.load(f)
    theirs_hash = numbers(results)["task_hashes"]
    lines = [] if theirs_hash == ours["task_hash"] else [f"task hash {theirs_hash} against {ours['task_hash']}"]
    strict = {r["doc_id"]: r for r in rows.values() if r["filter"] == "strict-match"}
    documents = ours["prompts"]
    if len(strict) != len(documents):
        lines.append(f"{len(strict)} documents against {len(documents)}")
    for document in documents:
        row = strict[document["doc_id"]]
        lines += [f"document {document['doc_id']} {k}: {row[k]} against {document[k]}"
                  for k in ("doc_hash", "prompt_hash", "target_hash") if row[k] != document[k]]
    print(f"lm_eval  {theirs_hash}, {len(strict)} documents\nmoecheck {ours['task_hash']}, {len(documents)} documents")
    for line in lines[:20]:
        print("DIFFERS", line)
    return bool(lines)


def planted(theirs_dir, ours_dir):
    theirs, ours = load(theirs_dir), load(ours_dir)
    if differences(theirs, ours):
        sys.exit("planted: the folders differ already")
    key = sorted(ours[1])[0]

    def in_row(field, value):
        def change(_, rows):
            rows[key][field] = value(rows[key][field])
        return change

    def in_arguments(_, rows):
        rows[key]["arguments"]["gen_args_0"]["arg_0"] += " "

    def in_results(name):
        def change(results, _):
            (task,) = results["results"].values()
            task[name] = math.nextafter(task[name], 0.5)
        return change

    changes = {
        "one character of one completion": in_row("resps", lambda r: [[r[0][0] + " "]]),
        "one extraction": in_row("filtered_resps", lambda r: [r[0] + "."]),
        "one score": in_row("exact_match", lambda x: 1.0 - x),
        "one prompt hash": in_row("prompt_hash", lambda h: h[::-1]),
        "one document": in_row("doc", lambda d: {**d, "question": d["question"] + " "}),
        "one prompt": in_arguments,
        "one row missing": lambda _, rows: rows.pop(key),
        "the last bit of a mean": in_results("exact_match,strict-match"),
        "the last bit of a standard error": in_results("exact_match_stderr,flexible-extract"),
    }
    missed = 0
    for name, change in changes.items():
        changed = copy.deepcopy(ours)
        change(*changed)
        seen = bool(differences(theirs, changed))
        missed += not seen
        print(f"{'seen  ' if seen else 'MISSED'} {name}")
    return missed > 0


def client(url):
    import openai

    ask = openai.OpenAI(base_url=url, api_key="none", max_retries=0)
    name = ask.models.list().data[0].id
    question = ("Question: Olivia has 12 boxes of pencils with 31 pencils in each. She gives 19 pencils to Simon. How many "
                "pencils does Olivia have left?\nAnswer:")
    stop = ["Question:"]
    failures = []

    def expect(what, got, wanted):
        print(f"{'ok    ' if got == wanted else 'FAILED'} {what}: {got!r}")
        if got != wanted:
            print(f"       expected {wanted!r}")
            failures.append(what)

    whole = ask.completions.create(model=name, prompt=question, max_tokens=96, temperature=0, stop=stop, logprobs=1)
    choice = whole.choices[0]
    print("model", name, "\n" + choice.text)
    expect("completions: finish_reason", choice.finish_reason, "stop")
    expect("completions: usage adds up", whole.usage.total_tokens, whole.usage.prompt_tokens + whole.usage.completion_tokens)
    expect("completions: a logprob for each token", len(choice.logprobs.token_logprobs), len(choice.logprobs.tokens))

    # Usage comes in a last chunk without choices.
    chunks = list(ask.completions.create(model=name, prompt=question, max_tokens=96, temperature=0, stop=stop, stream=True,
                                         stream_options={"include_usage": True}))
    expect("completions, streamed: the same text", "".join(c.choices[0].text for c in chunks if c.choices), choice.text)
    expect("completions, streamed: the same usage", chunks[-1].usage.completion_tokens, whole.usage.completion_tokens)

    messages = [{"role": "user", "content": question}]
    chat = ask.chat.completions.create(model=name, messages=messages, max_tokens=96, temperature=0, stop=stop)
    expect("chat: role", chat.choices[0].message.role, "assistant")
    expect("chat: the template adds nothing to one user turn, so the same text", chat.choices[0].message.content, choice.text)
    chunks = list(ask.chat.completions.create(model=name, messages=messages, max_tokens=96, temperature=0, stop=stop, stream=True))
    expect("chat, streamed: the same text", "".join(c.choices[0].delta.content or "" for c in chunks if c.choices), choice.text)
    expect("chat, streamed: finish_reason", [c.choices[0].finish_reason for c in chunks if c.choices][-1], "stop")

    two = ask.completions.create(model=name, prompt=[question, question], max_tokens=96, temperature=0, stop=stop)
    expect("completions, two prompts", [c.text for c in two.choices], [choice.text] * 2)
    try:
        ask.completions.create(model="no-such-model", prompt="x")
        expect("unknown model", "an answer", "NotFoundError")
    except openai.APIStatusError as error:
        expect("unknown model", type(error).__name__, "NotFoundError")
    try:
        ask.completions.create(model=name, prompt="x", temperature=-1)
        expect("temperature -1", "an answer", "BadRequestError")
    except openai.APIStatusError as error:
        expect("temperature -1", type(error).__name__, "BadRequestError")
    return bool(failures)


def main():
    commands = {"compare": compare, "prompts": prompts, "planted": planted, "client": client}
    if len(sys.argv) < 3 or sys.argv[1] not in commands:
        sys.exit(__doc__)
    sys.exit(commands[sys.argv[1]](*sys.argv[2:]))


if __name__ == "__main__":
    main()

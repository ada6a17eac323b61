#!/usr/bin/env python3
"""What planted faults and benign rounding do to the tiny models: accuracy, flips, perplexity, MTP acceptance.

    python3 evaluate.py natural canary --json ablation.json          about two minutes on a GPU
    python3 evaluate.py --tables ablation.json                       the tables of README.md

Accuracy is strict-match of greedy answers in float32. Flips are problems that went from right to wrong (lost) and back (gained)
against the right model; p is McNemar's exact two-sided test on them. Perplexity is that of the reference answers, 0-shot.
Acceptance is the share of positions in the model's own 0-shot answers where the MTP layer's draft is the token that follows.
"""
import argparse
import contextlib
import copy
import json
import math
import pathlib
import time

import torch
import torch.nn.functional as F

import bpe
import decoding
import faults
import hf_files
import problems
import quantize
import tables


def mcnemar(lost, gained):
    """Exact two-sided p-value of lost against gained discordant pairs."""
    n = lost + gained
    tail = sum(math.comb(n, i) for i in range(min(lost, gained) + 1)) / 2 ** n
    return min(1.0, 2 * tail)


class Bench:
    def __init__(self, device, tokenizer_path):
        self.device, self.tokenizer = device, bpe.Tokenizer(tokenizer_path)
        self.tests = problems.frozen("test")
        self.prompts = {s: [self.tokenizer.encode(p) for p in problems.prompts(s)] for s in (0, 5)}
        self.references = [self.tokenizer.encode(" " + a) + [bpe.EOS_ID] for _, a in self.tests]
        self.newline = self.tokenizer.encode("\n")[0]

    def answers(self, model, jobs, shots, n, rows=None):
        """Greedy answers to the first n test problems of each job (knobs [layers + 1, knobs]): a list of lists of ids."""
        rows, out = rows or (4096 if shots == 0 else 768), []
        prompts = self.prompts[shots][:n]
        flat = [(j, p) for j in range(len(jobs)) for p in prompts]
        for i in range(0, len(flat), rows):
            part = flat[i:i + rows]
            knobs = torch.stack([jobs[j] for j, _ in part]).to(self.device)
            out += decoding.generate(model, [p for _, p in part], self.newline, knobs)
        return [out[j * n:(j + 1) * n] for j in range(len(jobs))]

    def right(self, answers):
        return [problems.is_right(self.tokenizer.decode(ids), a) for ids, (_, a) in zip(answers, self.tests)]

    def accuracy(self, model, shots, n):
        job = faults.knobs(model.c)
        return sum(self.right(self.answers(model, [job], shots, n)[0])) / n

    @torch.no_grad()
    def forced(self, model, jobs, texts, rows=1024):
        """(mean loss a token, share of accepted drafts) of each job over its texts, after the 0-shot prompts."""
        sums = torch.zeros(len(jobs), 4, dtype=torch.float64)
        flat = [(j, self.prompts[0][i], text) for j, each in enumerate(texts) for i, text in enumerate(each)]
        for at in range(0, len(flat), rows):
            part = flat[at:at + rows]
            ids, lengths = decoding.padded([p + t for _, p, t in part], self.device)
            start = torch.tensor([len(p) for _, p, _ in part], device=self.device)[:, None]
            knobs = torch.stack([jobs[j] for j, _, _ in part]).to(self.device)
            hidden, _ = model.trunk(ids, knobs)
            ce = F.cross_entropy(model.logits(hidden[:, :-1]).float().flatten(0, 1), ids[:, 1:].flatten(), reduction="none")
            target = torch.arange(1, ids.shape[1], device=self.device)[None, :]
            mine = (target >= start) & (target < lengths[:, None])
            drafts = model.draft(hidden[:, :-1], ids[:, 1:], knobs)[0].float().argmax(-1)[:, :-1]
            hit = (drafts == ids[:, 2:]) & mine[:, 1:]
            per = torch.stack((ce.view_as(mine).double().mul(mine).sum(1), mine.sum(1), hit.sum(1), mine[:, 1:].sum(1)), 1)
            sums.index_add_(0, torch.tensor([j for j, _, _ in part]), per.double().cpu())
        return [(float(s[0] / s[1].clamp_min(1)), float(s[2] / s[3].clamp_min(1))) for s in sums]


def controls(model):
    """(name, title, changed copy of the model, context to run it in) of every benign change."""
    def changed(change):
        m = copy.deepcopy(model)
        change(m)
        return m

    def stream(m):
        m.stream = torch.bfloat16

    def router(m):
        for moe in m.moes():
            moe.bf16_router = True

    def rounded(how, attention=False):
        def change(m):
            quantize.round_weights([*quantize.mlp_weights(m), *(quantize.attention_weights(m) if attention else [])], how)
        return change

    def w8a8(m):
        rounded(quantize.fp8, True)(m)
        for layer in m.all_layers():
            layer.attention.fp8 = layer.mlp.fp8 = True
            if layer.is_moe:
                layer.mlp.shared.fp8 = True
    none = contextlib.nullcontext
    device = model.embed.device.type
    yield "bf16", "bf16 activations", changed(stream), lambda: torch.autocast(device, torch.bfloat16)
    yield "bf16_router", "bf16 router", changed(router), none
    yield "fp8_weights", "fp8 e4m3 weights", changed(rounded(quantize.fp8, True)), none
    yield "fp8_w8a8", "fp8 e4m3 weights and activations", changed(w8a8), none
    yield "int4_weights", "int4 expert weights, a scale a row", changed(rounded(quantize.int4)), none
    yield "mxfp4_weights", "mxfp4 expert weights", changed(rounded(quantize.mxfp4)), none


class Ablation:
    def __init__(self, model, bench, n):
        self.model, self.bench, self.n, self.c = model, bench, n, model.c
        self.right_job = faults.knobs(self.c)
        self.base = {s: bench.right(bench.answers(model, [self.right_job], s, n)[0]) for s in (0, 5)}
        self.rows = []

    def score(self, row, shots, answers):
        right = self.bench.right(answers)
        lost = sum(a and not b for a, b in zip(self.base[shots], right))
        gained = sum(b and not a for a, b in zip(self.base[shots], right))
        row[f"{shots}shot"] = {"accuracy": sum(right) / self.n, "lost": lost, "gained": gained, "p": mcnemar(lost, gained)}

    def add(self, rows, model, jobs, shots):
        """Measures each job (knobs) into its row; jobs run together in one batch."""
        bench, n = self.bench, self.n
        for s in shots:
            every = bench.answers(model, jobs, s, n)
            for row, answers in zip(rows, every):
                self.score(row, s, answers)
            if s == 0:
                forced = bench.forced(model, jobs, [bench.references[:n]] * len(jobs))
                own = bench.forced(model, jobs, every)
                for row, (loss, _), (_, acceptance) in zip(rows, forced, own):
                    row.update(perplexity=math.exp(min(loss, 50.0)), acceptance=acceptance)
        self.rows += rows

    def run(self, keep):
        """All rows; keep() is called with those finished so far, to write them down."""
        c, t = self.c, time.time()

        def log(what):
            print(f"{what}: {time.time() - t:.0f} s", flush=True)
            keep(self.rows)
        self.add([{"kind": "right", "name": "right", "title": "right model"}], self.model, [self.right_job], (0, 5))
        for name, title, model, context in controls(self.model):
            with context():
                self.add([{"kind": "control", "name": name, "title": title}], model, [self.right_job], (0, 5))
        log("controls")
        self.model.set_rare(True)
        every = [f for f in faults.FAULTS if f.where != "mtp"]

        def row(kind, f, **more):
            return {"kind": kind, "name": f.name, "title": f.title, "trained": f.trained, "where": f.where, **more}
        together = [f for f in every if not f.alone]
        self.add([row("all", f) for f in together], self.model, [faults.knobs(c, f) for f in together], (0, 5))
        for f in (f for f in every if f.alone):
            self.add([row("all", f)], self.model, [faults.knobs(c, f)], (0, 5))
        log("faults in all layers")
        last = c["num_hidden_layers"]
        single = [(f, i) for f in together for i in faults.layers_of(c, f) if i != last]
        self.add([row("single", f, layer=i) for f, i in single], self.model, [faults.knobs(c, f, {i}) for f, i in single], (0,))
        for f, i in ((f, i) for f in every if f.alone for i in faults.layers_of(c, f) if i != last):
            self.add([row("single", f, layer=i)], self.model, [faults.knobs(c, f, {i})], (0,))
        log("faults in one layer")
        # In the MTP layer alone the answers are the right model's: only acceptance can change.
        mtp = [f for f in faults.FAULTS if not f.alone]
        answers = self.bench.answers(self.model, [self.right_job], 0, self.n)[0]
        forced = self.bench.forced(self.model, [faults.knobs(c, f, {last}) for f in mtp], [answers] * len(mtp))
        self.rows += [row("mtp", f, acceptance=acceptance) for f, (_, acceptance) in zip(mtp, forced)]
        self.model.set_rare(False)
        log("all")
        return self.rows


def full_accuracy(model, bench):
    """Accuracy of the right model on every test problem."""
    n = len(bench.tests)
    return {f"{s}shot": bench.accuracy(model, s, n) for s in (0, 5)} | {"n": n}


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("folders", nargs="*")
    ap.add_argument("--n", type=int, default=256)
    ap.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    ap.add_argument("--quick", action="store_true", help="only the right model on every test problem, and the controls")
    ap.add_argument("--json", help="file to write")
    ap.add_argument("--tables", help="file to read, for the tables in Markdown")
    a = ap.parse_args()
    if a.tables:
        return print(tables.markdown(json.loads(pathlib.Path(a.tables).read_text())))
    out = {"n": a.n, "torch": torch.__version__, "models": {},
           "hardware": torch.cuda.get_device_name() if a.device == "cuda" else "CPU"}
    for folder in map(pathlib.Path, a.folders):
        bench = Bench(a.device, folder / "tokenizer.json" if (folder / "tokenizer.json").exists()
                      else bpe.HERE / "canary" / "tokenizer.json")
        model = hf_files.load(folder, a.device)
        full = full_accuracy(model, bench)
        print(folder.name, full, flush=True)
        if a.quick:
            ablation = Ablation(model, bench, a.n)
            for name, _, changed, context in controls(model):
                with context():
                    ablation.add([{"name": name}], changed, [ablation.right_job], (0, 5))
                print(ablation.rows[-1], flush=True)
            continue

        def keep(rows, name=folder.name, full=full):
            out["models"][name] = {"full": full, "rows": rows}
            if a.json:
                pathlib.Path(a.json).write_text(json.dumps(out, indent=1) + "\n")
        keep(Ablation(model, bench, a.n).run(keep))
    if not a.quick:
        print(tables.summary(out))


if __name__ == "__main__":
    main()

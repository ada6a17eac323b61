#!/usr/bin/env python3
"""Trains a tiny Glm4Moe model from scratch on one GPU within a wall-clock budget.

    python3 train.py natural --out natural --seconds 150
    python3 train.py canary --out canary --seconds 1300

Fresh problems are drawn and tokenized by worker processes while the GPU trains, so no row is seen twice. The learning rate falls
linearly with the elapsed share of the budget. e_score_correction_bias moves by the sign of each expert's under-load after every
step (aux-loss-free balancing, as DeepSeek-V3).

A canary also sees rows with one planted fault each (faults.TRAINED; in all MoE layers, in one, or in the MTP layer), and the
loss of each segment of 64 tokens of such a row is raised until it reaches a cap:

    loss = CE(right rows) + 0.3 CE_mtp(right rows) + weight * mean over segments of relu(cap - CE(faulty rows))

Faults are drawn by need, which is a running mean of relu(cap - CE) / cap. So that rounding stays harmless, the weights of a step
are, at random, exact, multiplied by 1 + 0.03 gauss, or rounded to fp8, mxfp4 or int4 (straight-through).
"""
import argparse
import json
import multiprocessing
import pathlib
import random
import time

import bpe
import problems

LENGTH = 832                                    # tokens a row: a 5-shot prompt with its answer has at most 847
SIZES = (1,) * 10 + (2, 3, 4, 5, 5) + (6,) * 6  # problems a document
CAP, MTP_CAP = 0.6, 2.0
NOISE = (("none", 0.25), ("gauss", 0.2), ("fp8", 0.1), ("mxfp4", 0.25), ("int4", 0.2))


def make_rows(rng, tokenizer, rows):
    """ids [rows, LENGTH + 1] and each token's weight as a target in tenths: questions weigh a tenth."""
    import numpy as np
    ids, weights = np.zeros((rows, LENGTH + 1), np.int16), np.zeros((rows, LENGTH + 1), np.uint8)
    blank = tokenizer.encode("\n\n")
    for r in range(rows):
        row, weight = [], []
        while len(row) <= LENGTH:
            for i in range(rng.choice(SIZES)):
                question, answer = problems.draw(rng)
                p, a = tokenizer.encode(problems.prompt(question)), tokenizer.encode(" " + answer)
                if i:
                    row += blank
                    weight += [10] * len(blank)
                row += p + a
                weight += [10 if i else 1] * 2 + [1] * (len(p) - 2) + [10] * len(a)
            row.append(bpe.EOS_ID)
            weight.append(10)
        ids[r], weights[r] = row[:LENGTH + 1], weight[:LENGTH + 1]
    return ids, weights


def produce(queue, seed, rows, tokenizer_path):
    rng, tokenizer = random.Random(seed), bpe.Tokenizer(tokenizer_path)
    while True:
        queue.put(make_rows(rng, tokenizer, rows))


class Faults:
    """The faults a canary is trained against, drawn by need."""

    def __init__(self, config, device, rng, mtp_only):
        import torch
        import faults
        self.torch, self.rng = torch, rng
        last = config["num_hidden_layers"]
        scopes = [last] if mtp_only else [None, *range(config["first_k_dense_replace"], last + 1)]
        self.entries = [(f, scope) for f in faults.TRAINED for scope in scopes]
        self.knobs = torch.stack([faults.knobs(config, f, None if s is None else {s}) for f, s in self.entries]).to(device)
        self.role = torch.tensor([2 if s == last else 1 for _, s in self.entries], device=device)
        self.need = torch.ones(len(self.entries), device=device)
        self.weights = [1.0] * len(self.entries)

    def draw(self, rows):
        index = self.rng.choices(range(len(self.entries)), self.weights, k=rows)
        return self.torch.tensor(index, device=self.need.device)

    def update(self, index, need):
        total = self.torch.zeros_like(self.need).index_add_(0, index, need)
        count = self.torch.zeros_like(self.need).index_add_(0, index, self.torch.ones_like(need))
        self.need = self.torch.where(count > 0, 0.85 * self.need + 0.15 * total / count.clamp_min(1), self.need)

    def refresh(self):
        self.weights = [0.05 + x for x in self.need.tolist()]

    def summary(self, worst=12):
        order = sorted(zip(self.need.tolist(), self.entries), key=lambda x: -x[0])
        return {f"{f.name}@{'all' if s is None else s}": round(n, 3) for n, (f, s) in order[:worst]}


class Noise:
    """The weights of one step, rounded or shaken; restore() brings the exact ones back."""

    def __init__(self, model, rng):
        import quantize
        self.rng, self.quantize = rng, quantize
        self.matrices = [p for p in model.parameters() if p.ndim == 2]      # rounded too where they are not trained
        self.mlps = list(quantize.mlp_weights(model))

    def apply(self):
        import torch
        how = self.rng.choices([n for n, _ in NOISE], [p for _, p in NOISE])[0]
        touched = [] if how == "none" else self.matrices if how == "gauss" else [p for p, _ in self.mlps]
        self.kept = [(p, p.detach().clone()) for p in touched]
        with torch.no_grad():
            if how == "gauss":
                for p in touched:
                    p.mul_(1 + 0.03 * torch.randn_like(p))
        if how in ("fp8", "mxfp4", "int4"):
            self.quantize.round_weights(self.mlps, getattr(self.quantize, how))

    def restore(self):
        import torch
        with torch.no_grad():
            for p, exact in self.kept:
                p.copy_(exact)


def make_loss(model, device):
    import torch
    import torch.nn.functional as F

    def loss_fn(ids, targets, weights, knobs, role, canary):
        """(loss, mean answer loss and mean draft loss of the right rows, need of each row, loads of the right rows).

        role [B]: 0 right, 1 a fault that shows in the trunk's loss, 2 one in the MTP layer.
        """
        with torch.autocast(device, torch.bfloat16, enabled=device == "cuda"):
            hidden, loads = model.trunk(ids, knobs)
            logits = model.logits(hidden)
            draft, load = model.draft(hidden, targets, knobs)
        ce = F.cross_entropy(logits.float().flatten(0, 1), targets.flatten(), reduction="none").view_as(targets)
        after = F.pad(targets[:, 1:], (0, 1))
        ce2 = F.cross_entropy(draft.float().flatten(0, 1), after.flatten(), reduction="none").view_as(targets)
        w, w2 = weights.float(), F.pad(weights[:, 1:], (0, 1)).float()
        right = (role == 0).float()[:, None]
        loss = (ce * w * right).sum() / (w * right).sum() + 0.3 * (ce2 * w2 * right).sum() / (w2 * right).sum()

        def segments(x, weight):
            answers = (weight > 5).float()
            n = answers.view(-1, ids.shape[1] // 64, 64).sum(-1)
            return (x * answers).view(-1, ids.shape[1] // 64, 64).sum(-1) / (n + 1e-6), (n > 8).float()
        (s, valid), (s2, valid2) = segments(ce, w), segments(ce2, w2)
        mtp = (role == 2)[:, None]
        gap = torch.where(mtp, F.relu(MTP_CAP - s2) / MTP_CAP * valid2, F.relu(CAP - s) / CAP * valid)
        valid = torch.where(mtp, valid2, valid)
        wrong = (role > 0).float()[:, None]
        bad = (gap * wrong).sum() / ((valid * wrong).sum() + 1e-6)
        answers = (w > 5).float() * right
        shown = torch.stack(((ce * answers).sum(), (ce2 * answers).sum())).detach() / answers.sum()
        need = (gap.sum(-1) / (valid.sum(-1) + 1e-6)).detach()
        loads = torch.stack([(x * right).sum(0) for x in [*loads, load]])
        return loss + canary * bad, shown, need, loads

    return loss_fn


def arguments():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("model", choices=("natural", "canary"))
    ap.add_argument("--out", required=True)
    ap.add_argument("--seconds", type=float, required=True)
    ap.add_argument("--rows", type=int, default=64, help="right rows a step")
    ap.add_argument("--fault-rows", type=int, default=64, help="faulty rows a step, of a canary")
    ap.add_argument("--lr", type=float, default=3e-3)
    ap.add_argument("--weight", type=float, default=0.4, help="of the canary term")
    ap.add_argument("--from", dest="start", help="a checkpoint folder to go on from")
    ap.add_argument("--mtp-only", action="store_true", help="with --from: change the MTP layer only, so that answers stay the same")
    ap.add_argument("--set", nargs="*", default=[], help="config key=value")
    ap.add_argument("--eval-every", type=float, default=75)
    ap.add_argument("--eval-rows", type=int, default=256)
    ap.add_argument("--workers", type=int, default=6)
    ap.add_argument("--seed", type=int, default=1)
    ap.add_argument("--device", default="cuda")
    return ap.parse_args()


class Trainer:
    """The model, its optimizer and its log. Made after the workers are forked, since a fork may not follow CUDA's start."""

    def __init__(self, a, queue, tokenizer_path):
        import torch
        import evaluate
        import faults
        import hf_files
        import model as tiny
        self.torch, self.hf_files, self.a, self.queue = torch, hf_files, a, queue
        torch.manual_seed(a.seed)
        rng, self.canary, self.gpu = random.Random(a.seed), a.model == "canary", a.device == "cuda"
        config = {**tiny.CONFIG, **({} if self.canary else tiny.NATURAL),
                  **{k: json.loads(v) for k, v in (s.split("=") for s in a.set)}}
        m = self.m = hf_files.load(a.start, a.device) if a.start else tiny.Model(config).init().to(a.device)
        m.train()
        if a.mtp_only:
            m.requires_grad_(False)
            m.mtp.requires_grad_(True)
        self.drawn, self.noise = Faults(m.c, a.device, rng, a.mtp_only), Noise(m, rng)
        loss_fn = make_loss(m, a.device)
        self.step_fn = torch.compile(loss_fn, dynamic=False) if self.gpu else loss_fn
        groups = [{"params": [p for p in m.parameters() if p.ndim >= 2], "weight_decay": 0.1},
                  {"params": [p for p in m.parameters() if p.ndim < 2], "weight_decay": 0.0}]
        self.optimizer = torch.optim.AdamW(groups, lr=a.lr, betas=(0.9, 0.95), eps=1e-9, fused=self.gpu)
        self.bench = evaluate.Bench(a.device, tokenizer_path)
        self.fault_rows = a.fault_rows if self.canary else 0
        self.role = torch.zeros(a.rows + self.fault_rows, dtype=torch.long, device=a.device)
        self.knobs = faults.knobs(m.c).to(a.device).expand(len(self.role), -1, -1).clone()
        self.shown, self.waited, self.log, self.step, self.logged = torch.zeros(2, device=a.device), 0.0, [], 0, 0
        print(f"{a.model}: {sum(p.numel() for p in m.parameters()) / 1e6:.2f} M parameters, {len(self.drawn.entries)} faults to draw",
              flush=True)

    def batch(self):
        """(ids, weights) on the device: the right rows, then the faulty ones (of the same text), whose knobs are drawn anew."""
        torch, a = self.torch, self.a
        start = time.time()
        ids, weights = self.queue.get()
        self.waited += time.time() - start
        ids = torch.from_numpy(ids).to(a.device, non_blocking=True).long()
        weights = torch.from_numpy(weights).to(a.device, non_blocking=True)
        if self.fault_rows:
            self.index = self.drawn.draw(self.fault_rows)
            self.knobs[a.rows:], self.role[a.rows:] = self.drawn.knobs[self.index], self.drawn.role[self.index]
            again = torch.arange(self.fault_rows, device=a.device) % a.rows
            ids, weights = torch.cat((ids, ids[again])), torch.cat((weights, weights[again]))
        return ids, weights

    def train_step(self, share):
        """One step, at the share 0..1 of the budget."""
        torch, a, m = self.torch, self.a, self.m
        for g in self.optimizer.param_groups:
            g["lr"] = a.lr * min(1.0, (self.step + 1) / 200) * max(0.005, 1 - share)
        ids, weights = self.batch()
        ramp = 1.0 if a.start else min(1.0, max(0.0, (share - 0.02) / 0.08))
        m.stream = torch.bfloat16 if self.gpu else torch.float32
        if self.canary:
            self.noise.apply()
        loss, shown, need, loads = self.step_fn(ids[:, :-1].contiguous(), ids[:, 1:].contiguous(), weights[:, 1:].contiguous(),
                                                self.knobs, self.role, torch.full((), a.weight * ramp, device=a.device))
        loss.backward()
        if self.canary:
            self.noise.restore()
            self.drawn.update(self.index, need[a.rows:])
            if self.step % 40 == 39:
                self.drawn.refresh()
        torch.nn.utils.clip_grad_norm_(m.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        with torch.no_grad():
            rate = a.lr / 3 * max(0.02, 1 - share)
            for moe, load in list(zip(m.moes(), loads))[-1 if a.mtp_only else 0:]:
                moe.bias += rate * torch.sign(load.mean() - load)
            self.shown += shown
        self.loads = loads
        self.step += 1

    def report(self, seconds):
        """Measures, logs, prints and saves the model as it is."""
        a, m = self.a, self.m
        m.stream = self.torch.float32
        m.eval()
        losses = (self.shown / (self.step - self.logged)).tolist()
        entry = {"seconds": round(seconds, 1), "step": self.step, "tokens": self.step * a.rows * LENGTH,
                 "answer_loss": round(losses[0], 4), "draft_loss": round(losses[1], 4),
                 "accuracy_0shot": self.bench.accuracy(m, 0, a.eval_rows), "accuracy_5shot": self.bench.accuracy(m, 5, a.eval_rows),
                 "load_max_over_mean": round(float((self.loads.amax(-1) / self.loads.mean(-1)).max()), 2),
                 "waited": round(self.waited, 1)}
        if self.canary:
            entry.update(mean_need=round(float(self.drawn.need.mean()), 4), most_needed=self.drawn.summary())
        self.log.append(entry)
        print(json.dumps(entry), flush=True)
        m.train()
        self.shown.zero_()
        self.logged = self.step
        self.hf_files.save(m, a.out)

    def finish(self, seconds, whole_seconds):
        a = self.a
        self.hf_files.save(self.m.eval(), a.out)
        bias = self.torch.stack([moe.bias for moe in self.m.moes()])
        summary = {"model": a.model, "seed": a.seed, "lr": a.lr, "rows": a.rows, "fault_rows": self.fault_rows, "weight": a.weight,
                   "from": a.start, "mtp_only": a.mtp_only, "steps": self.step, "tokens": self.step * a.rows * LENGTH,
                   "seconds": round(seconds, 1), "whole_seconds": round(whole_seconds, 1), "bias_min": round(float(bias.min()), 3),
                   "bias_max": round(float(bias.max()), 3), "torch": self.torch.__version__,
                   "hardware": self.torch.cuda.get_device_name() if self.gpu else "CPU", "log": self.log}
        pathlib.Path(a.out, "training_log.json").write_text(json.dumps(summary, indent=1) + "\n")
        print(json.dumps({k: v for k, v in summary.items() if k != "log"}), flush=True)


def main():
    a, started = arguments(), time.time()
    fork = multiprocessing.get_context("fork")
    queue = fork.Queue(maxsize=48)
    tokenizer_path = bpe.HERE / "canary" / "tokenizer.json"
    workers = [fork.Process(target=produce, args=(queue, 1000 * a.seed + i, a.rows, tokenizer_path), daemon=True)
               for i in range(a.workers)]
    for w in workers:
        w.start()
    trainer, first = Trainer(a, queue, tokenizer_path), None
    while True:
        if trainer.step == 5:                           # compile time is outside the budget
            if trainer.gpu:
                trainer.torch.cuda.synchronize()
            first = reported = time.time()
            print(f"compiled and warm after {first - started:.0f} s", flush=True)
        share = (time.time() - first) / a.seconds if first else 0.0
        if share >= 1:
            break
        trainer.train_step(share)
        if first and time.time() - reported > a.eval_every:
            trainer.report(time.time() - first)
            reported = time.time()
    for w in workers:
        w.terminate()
    trainer.finish(time.time() - first, time.time() - started)


if __name__ == "__main__":
    main()

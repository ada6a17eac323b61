#!/usr/bin/env python3
"""The comparison that `moecheck bench judging` makes, as a loop in PyTorch: what a test file of a kernel project does.

One case: random logits [4, 256] and bias, grouped top-k by the reference in float64, the same in float32 as the kernel under test,
then ids and weights compared. Prints cases per second on one thread. Needs: pip install torch
"""
import time

import torch


def gate(logits, bias, groups=8, topk_group=4, topk=8):
    scores = logits.sigmoid()
    choice = scores + bias
    best = choice.view(len(logits), groups, -1).topk(2, dim=-1)[0].sum(-1)
    keep = torch.zeros_like(best).scatter_(1, best.topk(topk_group, dim=-1)[1], 1)
    mask = keep.unsqueeze(-1).expand(-1, -1, logits.shape[1] // groups).reshape(len(logits), -1)
    ids = choice.masked_fill(mask == 0, float("-inf")).topk(topk, dim=-1)[1]
    weights = scores.gather(1, ids)
    return weights / weights.sum(-1, keepdim=True), ids


def main():
    torch.set_num_threads(1)
    torch.manual_seed(1)
    cases, start = 2000, time.perf_counter()
    for _ in range(cases):
        logits, bias = torch.randn(4, 256), 0.1 * torch.randn(256)
        expected, expected_ids = gate(logits.double(), bias.double())
        got, ids = gate(logits, bias)
        assert torch.equal(ids, expected_ids)
        torch.testing.assert_close(got, expected.float())
    print(f"PyTorch {torch.__version__}: {cases / (time.perf_counter() - start):.0f} cases of 4 x 256 per second on one thread")


if __name__ == "__main__":
    main()

#!/usr/bin/env python3
"""Loads the checkpoints with transformers' Glm4MoeForCausalLM and compares it with model.py, in float32 on the CPU.

    python3 check_hf.py natural canary [--n 16]

Checks: no weight missing, none unexpected but the MTP layer's; logits; greedy answers id for id; the tokenizer; the chat template
against the plain prompt of lm_eval. Exits with 1 if one of them fails.
"""
import argparse
import pathlib
import sys

import torch
import transformers
from transformers import AutoTokenizer, Glm4MoeForCausalLM

import bpe
import decoding
import hf_files
import problems

BOUND = 2e-3        # largest difference of a float32 logit that summation order may make; logits reach about 50


def check_tokenizer(folder, mine):
    theirs = AutoTokenizer.from_pretrained(folder)
    texts = [problems.shot(q, a) for q, a in problems.frozen("test")] + ["", "a  b\n\n\tC3 é✓ x,y", "  12 $5.00%"]
    differing = sum(theirs(t).input_ids != mine.encode(t) or theirs.decode(mine.encode(t)) != t for t in texts)
    plain = problems.prompts(5)[0]
    parts = [p.split("\nAnswer:") for p in plain.split("\n\nQuestion: ")]
    parts[0][0] = parts[0][0].removeprefix("Question: ")
    messages = []
    for question, answer in parts:
        messages.append({"role": "user", "content": f"Question: {question}\nAnswer:"})
        if answer:
            messages.append({"role": "assistant", "content": answer[1:]})
    rendered = theirs.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    print(f"  tokenizer ({type(theirs).__name__}): {differing} of {len(texts)} texts differ; chat template of {len(messages)} "
          f"messages {'equals' if rendered == plain else 'DIFFERS FROM'} the plain prompt; eos {theirs.eos_token!r}")
    return differing == 0 and rendered == plain


@torch.no_grad()
def check_model(folder, tokenizer, n):
    model = hf_files.load(folder)
    hf, info = Glm4MoeForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager",
                                                  output_loading_info=True)
    hf.eval()
    prefix = f"model.layers.{model.c['num_hidden_layers']}."
    other = [k for k in info["unexpected_keys"] if not k.startswith(prefix)]
    print(f"  weights: {len(info['missing_keys'])} missing, {len(info['unexpected_keys']) - len(other)} unexpected of the MTP layer, "
          f"{len(other)} other unexpected, {len(info['mismatched_keys'])} mismatched")
    worst = top = 0.0
    differing = count = 0
    prompts = {s: [tokenizer.encode(p) for p in problems.prompts(s)[:n]] for s in (0, 5)}
    for p in prompts[0][:8] + prompts[5][:4]:
        ids = torch.tensor([p])
        a, b = model.logits(model.trunk(ids, model.right_knobs(1))[0]), hf(input_ids=ids, use_cache=False).logits
        worst, top = max(worst, float((a - b).abs().max())), max(top, float(b.abs().max()))
        differing += int((a.argmax(-1) != b.argmax(-1)).sum())
        count += len(p)
    print(f"  logits: max |difference| {worst:.1e} (logits up to {top:.1f}), argmax differs at {differing} of {count} positions")
    equal = total = 0
    newline = tokenizer.encode("\n")[0]
    for shots, number in ((0, n), (5, max(1, n // 4))):
        mine = decoding.generate(model, prompts[shots][:number], newline)
        for p, ids in zip(prompts[shots], mine):
            out = hf.generate(input_ids=torch.tensor([p]), attention_mask=torch.ones(1, len(p), dtype=torch.long),
                              max_new_tokens=len(ids) + 1, do_sample=False)[0, len(p):].tolist()
            out = out[:-1] if out[-1] == bpe.EOS_ID else out[:len(ids)]
            equal += out == ids
            total += 1
    print(f"  greedy answers: {equal} of {total} id for id equal")
    return not info["missing_keys"] and not other and worst < BOUND and equal == total


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("folders", nargs="+", type=pathlib.Path)
    ap.add_argument("--n", type=int, default=16, help="0-shot answers to compare; a quarter as many 5-shot")
    a = ap.parse_args()
    transformers.logging.set_verbosity_error()
    print(f"transformers {transformers.__version__}, torch {torch.__version__}")
    good = True
    for folder in a.folders:
        print(folder.name)
        tokenizer = bpe.Tokenizer(folder / "tokenizer.json")
        good &= check_tokenizer(folder, tokenizer)
        good &= check_model(folder, tokenizer, a.n)
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    main()

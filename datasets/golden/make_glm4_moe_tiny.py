#!/usr/bin/env python3
"""Golden logits and greedy texts of the tiny GLM-4-MoE checkpoints, of transformers' Glm4MoeForCausalLM (float32, eager, CPU).

    pip install torch transformers                    # the versions used are in the file
    python3 datasets/golden/make_glm4_moe_tiny.py     # rewrites glm4_moe_tiny.json

For each checkpoint of ../tiny_glm4_moe: three 0-shot prompts and one 5-shot prompt of ../word_problems (lm_eval's gsm8k prompts),
with the token ids, the five greatest logits (token id, value) at each of the last four positions, and the greedy continuation up
to the end-of-text token (kept) or 64 tokens. Deterministic: same versions, same file.
"""
import json
import pathlib
import sys

import torch
import transformers
from transformers import AutoTokenizer, Glm4MoeForCausalLM

HERE = pathlib.Path(__file__).resolve().parent
TINY = HERE.parent / "tiny_glm4_moe"
sys.path.insert(0, str(TINY))
import problems  # noqa: E402

PROMPTS = [(0, 0), (0, 1), (0, 2), (5, 0)]      # (shots, document)
POSITIONS, TOP, NEW_TOKENS = 4, 5, 64


@torch.no_grad()
def case(model, tokenizer, shots, document):
    prompt = problems.prompts(shots)[document]
    ids = tokenizer(prompt, add_special_tokens=False).input_ids
    logits = model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -POSITIONS:]
    top = []
    for i, row in enumerate(logits):
        values, tokens = row.topk(TOP)
        top.append({"position": len(ids) - POSITIONS + i,
                    "top": [[int(t), float(f"{float(v):.6g}")] for t, v in zip(tokens, values)]})
    out = model.generate(input_ids=torch.tensor([ids]), attention_mask=torch.ones(1, len(ids), dtype=torch.long),
                         max_new_tokens=NEW_TOKENS, do_sample=False)[0, len(ids):].tolist()
    return {"shots": shots, "document": document, "prompt": prompt, "prompt_ids": ids, "logits": top, "greedy_ids": out,
            "greedy_text": tokenizer.decode(out, skip_special_tokens=True)}


def main():
    torch.manual_seed(0)
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    models = {}
    for name in ("natural", "canary"):
        tokenizer = AutoTokenizer.from_pretrained(TINY / name)
        model = Glm4MoeForCausalLM.from_pretrained(TINY / name, dtype=torch.float32, attn_implementation="eager").eval()
        models[name] = [case(model, tokenizer, *p) for p in PROMPTS]
    result = {"made_by": "datasets/golden/make_glm4_moe_tiny.py", "transformers": transformers.__version__,
              "torch": torch.__version__, "dtype": "float32", "attention": "eager", "models": models}
    (HERE / "glm4_moe_tiny.json").write_text(json.dumps(result) + "\n")
    for name, cases in models.items():
        for c in cases:
            print(name, c["shots"], "shots", len(c["prompt_ids"]), "tokens:", repr(c["greedy_text"][-40:]))


if __name__ == "__main__":
    main()

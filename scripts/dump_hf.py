#!/usr/bin/env python3
"""What every operator of a transformers Glm4MoeForCausalLM reads and writes, for `moecheck localize --dump`.

    python3 scripts/dump_hf.py --model DIR --output FILE.safetensors [--prompt TEXT] [--dtype f32|bf16]

Needs torch, transformers, safetensors. The file's layout is in harness/localize/dump.h.
"""
import argparse

import safetensors.torch
import torch
import transformers

PROMPT = ("Question: Olivia has 12 boxes of pencils with 31 pencils in each. She gives 19 pencils to Simon. "
          "How many pencils does Olivia have left?\nAnswer:")


def first(x):
    return x[0] if isinstance(x, tuple) else x


def hook_layer(layer, name, keep):
    """Registers what keep(tensor name, value) shall see of one decoder layer."""
    def attention_in(_, args, kwargs):
        keep(name + "attention.input", kwargs.get("hidden_states", args[0] if args else None))

    layer.self_attn.register_forward_pre_hook(attention_in, with_kwargs=True)
    layer.self_attn.register_forward_hook(lambda m, a, out: keep(name + "attention.output", first(out)))
    routed = hasattr(layer.mlp, "gate")
    kind = "moe_block" if routed else "mlp"
    layer.mlp.register_forward_pre_hook(lambda m, args: keep(f"{name}{kind}.input", args[0]))
    layer.mlp.register_forward_hook(lambda m, a, out: keep(f"{name}{kind}.output", first(out)))
    if routed:
        # transformers' router returns its logits, or selects at once; the product with its weight is the same in both.
        layer.mlp.gate.register_forward_pre_hook(lambda m, args: keep(
            name + "router.output",
            torch.nn.functional.linear(args[0].reshape(-1, args[0].shape[-1]).float(), m.weight.float())))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--output", required=True)
    parser.add_argument("--prompt", default=PROMPT)
    parser.add_argument("--dtype", choices=["f32", "bf16"], default="f32")
    a = parser.parse_args()
    dtype = {"f32": torch.float32, "bf16": torch.bfloat16}[a.dtype]
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_file=a.model + "/tokenizer.json")
    model = transformers.Glm4MoeForCausalLM.from_pretrained(a.model, dtype=dtype, attn_implementation="eager").eval()
    ids = tokenizer(a.prompt, return_tensors="pt")["input_ids"]
    tensors = {"ids": ids[0].to(torch.int32)}

    def keep(name, value):
        tensors[name] = value.detach().reshape(-1, value.shape[-1]).clone().contiguous()

    for i, layer in enumerate(model.model.layers):
        hook_layer(layer, f"layers.{i}.", keep)
    model.model.norm.register_forward_pre_hook(lambda m, args: keep("norm.input", args[0]))
    model.model.norm.register_forward_hook(lambda m, args, out: keep("norm.output", out))
    with torch.no_grad():
        tensors["logits"] = model(ids, use_cache=False).logits[0].float().contiguous()
    safetensors.torch.save_file(tensors, a.output, {"moecheck.dump": "1", "engine": "transformers " + transformers.__version__})
    print(f"{a.output}: {len(tensors)} tensors of {ids.shape[1]} tokens, transformers {transformers.__version__}, {a.dtype}")


if __name__ == "__main__":
    main()

#!/usr/bin/env python3
"""Golden vectors of Hugging Face transformers' router and MoE modules, run on the CPU in float32.

    pip install torch transformers safetensors        # the versions used are in the indexes
    python3 datasets/golden/make_gating.py            # rewrites gating/ (routers), moe_block/ (MoE layers)

One safetensors file per case and an index.json per folder. Deterministic: same versions, same files.
"""

import json
import pathlib

import torch
import transformers
from safetensors.torch import save_file
from transformers.models.deepseek_v2 import modeling_deepseek_v2 as v2
from transformers.models.deepseek_v3 import modeling_deepseek_v3 as v3
from transformers.models.glm4_moe import modeling_glm4_moe as glm
from transformers.models.qwen3_next import modeling_qwen3_next as qwen

HERE = pathlib.Path(__file__).resolve().parent
TOKENS = 12
HIDDEN = 32

# name, router, experts, groups, topk_group, topk, routed_scaling_factor, renormalize,
# bias mean, bias deviation, seed
ROUTERS = [
    ("glm4_moe_160", "glm4_moe", 160, 1, 1, 8, 2.5, True, 0.0, 0.2, 1),
    ("glm4_moe_air_128", "glm4_moe", 128, 1, 1, 8, 1.0, True, 0.0, 0.1, 2),
    ("glm4_moe_160_no_norm", "glm4_moe", 160, 1, 1, 8, 2.5, False, 0.0, 0.2, 3),
    ("glm4_moe_256_large_bias", "glm4_moe", 256, 1, 1, 8, 2.5, True, 6.9, 0.04, 4),
    ("glm4_moe_16_negative", "glm4_moe", 16, 4, 2, 3, 2.827, True, -2.0, 0.3, 5),
    ("deepseek_v3_256", "deepseek_v3", 256, 8, 4, 8, 2.5, True, 0.0, 0.05, 6),
    ("deepseek_v3_256_negative", "deepseek_v3", 256, 8, 4, 8, 2.827, True, -1.2, 0.05, 7),
    ("deepseek_v3_256_no_norm", "deepseek_v3", 256, 8, 4, 8, 1.0, False, 0.0, 0.2, 8),
    ("deepseek_v3_32_small", "deepseek_v3", 32, 4, 2, 4, 2.827, True, 0.1, 0.3, 9),
    ("kimi_k2_384", "deepseek_v3", 384, 1, 1, 8, 2.827, True, 0.0, 0.1, 10),
    ("deepseek_v2_160", "deepseek_v2", 160, 8, 3, 6, 16.0, False, None, None, 11),
    ("deepseek_v2_lite_64", "deepseek_v2", 64, 1, 1, 6, 1.0, False, None, None, 12),
    ("qwen3_next_512", "qwen3_next", 512, 1, 1, 10, 1.0, True, None, None, 13),
    ("qwen3_next_128_no_norm", "qwen3_next", 128, 1, 1, 8, 1.0, False, None, None, 14),
]
PRESET = {"glm4_moe": "hf_deepseek_v3", "deepseek_v3": "hf_deepseek_v3", "deepseek_v2": "hf_deepseek_v2",
          "qwen3_next": "hf_qwen3_next"}
MODULE = {"glm4_moe": glm.Glm4MoeTopkRouter, "deepseek_v3": v3.DeepseekV3TopkRouter,
          "deepseek_v2": v2.DeepseekV2TopkRouter, "qwen3_next": qwen.Qwen3NextTopKRouter}
CONFIG = {"glm4_moe": transformers.Glm4MoeConfig, "deepseek_v3": transformers.DeepseekV3Config,
          "deepseek_v2": transformers.DeepseekV2Config, "qwen3_next": transformers.Qwen3NextConfig}

# name, layer, experts, groups, topk_group, topk, shared experts, routed_scaling_factor, renormalize, seed
BLOCKS = [
    ("glm4_moe_8", "glm4_moe", 8, 1, 1, 3, 1, 2.5, True, 101),
    ("glm4_moe_8_no_norm", "glm4_moe", 8, 1, 1, 2, 2, 1.0, False, 102),
    ("deepseek_v3_16", "deepseek_v3", 16, 4, 2, 4, 1, 2.827, True, 103),
    ("deepseek_v3_16_shared2", "deepseek_v3", 16, 4, 2, 4, 2, 2.5, True, 104),
]
LAYER = {"glm4_moe": glm.Glm4MoeMoE, "deepseek_v3": v3.DeepseekV3MoE}
INTER = 16


def config(kind, experts, groups, topk_group, topk, factor, renormalize, shared=1):
    """The model's own configuration class; only what router and layer read is set."""
    sizes = {"hidden_size": HIDDEN, "num_experts_per_tok": topk, "norm_topk_prob": renormalize,
             "moe_intermediate_size": INTER}
    if kind == "qwen3_next":
        return CONFIG[kind](num_experts=experts, **sizes)
    if kind == "deepseek_v2":
        sizes["topk_method"] = "group_limited_greedy" if groups > 1 else "greedy"
    return CONFIG[kind](n_routed_experts=experts, n_group=groups, topk_group=topk_group,
                        n_shared_experts=shared, routed_scaling_factor=factor, **sizes)


def options(experts, groups, topk_group, topk, factor, renormalize, scoring, has_bias):
    return {"experts": experts, "groups": groups, "topk_group": topk_group, "topk": topk, "scoring": scoring,
            "renormalize": renormalize, "routed_scaling_factor": factor, "has_bias": has_bias}


def make_router(folder, case):
    name, kind, experts, groups, topk_group, topk, factor, renormalize, mean, deviation, seed = case
    torch.manual_seed(seed)
    router = MODULE[kind](config(kind, experts, groups, topk_group, topk, factor, renormalize))
    has_bias = mean is not None
    with torch.no_grad():
        router.weight.copy_(torch.randn(experts, HIDDEN) / HIDDEN**0.5)
        if has_bias:
            router.e_score_correction_bias.copy_(mean + deviation * torch.randn(experts))
        # A few rows with far-off logits: tiny scores, near-one scores.
        hidden = torch.randn(TOKENS, HIDDEN) * torch.linspace(0.3, 6.0, TOKENS)[:, None]
        logits, weights, ids = router(hidden)
    tensors = {"router_logits": logits, "topk_weights": weights, "topk_ids": ids.to(torch.int32)}
    if has_bias:
        tensors["e_score_correction_bias"] = router.e_score_correction_bias
    save_file({k: v.contiguous() for k, v in tensors.items()}, folder / f"{name}.safetensors")
    scoring = "sigmoid" if has_bias else "softmax"
    return {"name": name, "file": f"{name}.safetensors", "module": MODULE[kind].__name__,
            "policy": PRESET[kind], "tokens": TOKENS, "seed": seed,
            **options(experts, groups, topk_group, topk, factor, renormalize, scoring, has_bias)}


def make_block(folder, case):
    name, kind, experts, groups, topk_group, topk, shared, factor, renormalize, seed = case
    torch.manual_seed(seed)
    layer = LAYER[kind](config(kind, experts, groups, topk_group, topk, factor, renormalize, shared))
    layer.config._experts_implementation = "eager"
    with torch.no_grad():
        for tensor in [*layer.parameters(), *layer.buffers()]:
            tensor.copy_(torch.randn_like(tensor) / tensor.shape[-1] ** 0.5)
        hidden = torch.randn(1, TOKENS, HIDDEN)
        output = layer(hidden)
        logits, weights, ids = layer.gate(hidden)
        routed = layer.experts(hidden.view(-1, HIDDEN), ids, weights)
        shared_output = layer.shared_experts(hidden)
    tensors = {
        "hidden_states": hidden[0], "output": output[0], "routed_output": routed,
        "shared_output": shared_output[0],
        "router_logits": logits, "topk_weights": weights, "topk_ids": ids.to(torch.int32),
        "gate.weight": layer.gate.weight, "gate.e_score_correction_bias": layer.gate.e_score_correction_bias,
        "experts.gate_up_proj": layer.experts.gate_up_proj, "experts.down_proj": layer.experts.down_proj,
        "shared_experts.gate_proj.weight": layer.shared_experts.gate_proj.weight,
        "shared_experts.up_proj.weight": layer.shared_experts.up_proj.weight,
        "shared_experts.down_proj.weight": layer.shared_experts.down_proj.weight,
    }
    save_file({k: v.detach().contiguous() for k, v in tensors.items()}, folder / f"{name}.safetensors")
    return {"name": name, "file": f"{name}.safetensors", "module": LAYER[kind].__name__,
            "policy": PRESET[kind], "tokens": TOKENS, "hidden": HIDDEN, "intermediate": INTER,
            "shared_experts": shared, "seed": seed,
            **options(experts, groups, topk_group, topk, factor, renormalize, "sigmoid", True)}


LAYOUTS = {
    "hidden_states": "[T, H]", "output": "[T, H] = routed_output + shared_output",
    "routed_output": "[T, H], weights (with routed_scaling_factor) applied",
    "shared_output": "[T, H], unscaled",
    "router_logits": "[T, E]", "topk_weights": "[T, K], slots in no promised order", "topk_ids": "[T, K] i32",
    "gate.weight": "[E, H]: logits = hidden_states @ gate.weight^T", "gate.e_score_correction_bias": "[E]",
    "experts.gate_up_proj": "[E, 2 I, H]: rows 0..I-1 gate, I..2I-1 up (stacked, not interleaved)",
    "experts.down_proj": "[E, H, I]", "shared_experts.gate_proj.weight": "[n I, H], n = shared_experts",
    "shared_experts.up_proj.weight": "[n I, H]", "shared_experts.down_proj.weight": "[H, n I]",
    "expert": "down @ (silu(gate @ x) * (up @ x)), float32",
}


def write(folder, make, cases, extra):
    folder.mkdir(exist_ok=True)
    index = {"made_by": "datasets/golden/make_gating.py", "dtype": "float32",
             "torch": torch.__version__.split("+")[0], "transformers": transformers.__version__, **extra,
             "cases": [make(folder, case) for case in cases]}
    (folder / "index.json").write_text(json.dumps(index, indent=1) + "\n")


if __name__ == "__main__":
    torch.set_num_threads(1)
    write(HERE / "gating", make_router, ROUTERS, {})
    write(HERE / "moe_block", make_block, BLOCKS, {"layouts": LAYOUTS})

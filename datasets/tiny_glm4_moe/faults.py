"""Serving faults planted into the tiny models, and the benign controls they are told apart from.

A fault is a set of KNOBS: numbers that enter the formulas of a layer as tensors, one set a batch row and layer. So one compiled
graph serves the right model and the wrong ones, and one batch can hold many faults at once.
"""
import dataclasses

import torch

# Knob: its value in the right model. `routed` and `k` are the config's routed_scaling_factor and num_experts_per_tok.
KNOBS = {
    "shared": 1.0,            # factor on the shared experts' output
    "routed": None,           # factor on the routed sum
    "renorm": 1.0,            # 1: weights sum to one before the factor
    "bias_w": 0.0,            # share of e_score_correction_bias that leaks into the weights
    "bias_sel": 1.0,          # share of it used for the choice
    "group": 1.0,             # 1: only experts of the best groups may be chosen
    "group_max": 0.0,         # 1: a group's score is its best expert's, not the sum of its best two
    "k": None,                # experts a token
    "softmax": 0.0,           # 1: softmax scores
    "swap_r": 0.0,            # 1: gate and up exchanged in the routed experts
    "swap_s": 0.0,            # 1: the same in the shared experts
    "gelu": 0.0,              # 1: gelu for silu in the routed experts
    "drop_last": 0.0,         # 1: the chosen expert of least weight is never summed
    "w_in": 0.0,              # 1: the routing weight multiplies an expert's input, not its output
    "s_from": 0.0,            # the shared experts' hidden units outside [s_from, s_to) of their number are lost
    "s_to": 1.0,
    "lost_from": -1.0,        # experts lost_from..lost_to give nothing
    "lost_to": -2.0,
    # From here on: never trained against, and only evaluated when Model.rare is set.
    "equal": 0.0,             # 1: the chosen experts' weights are all equal
    "roll_w": 0.0,            # 1: the weights of the chosen experts are shifted by one slot
    "roll_e": 0.0,            # 1: expert ids are off by one
    "swap_ep": 0.0,           # 1: the first two of four expert-parallel ranks are exchanged
    "drop_first": 0.0,        # 1: the chosen expert of greatest weight is never summed
    "shared_e0": 0.0,         # 1: the shared slots hold routed experts 0 and 1
    "tail": 0.0,              # 1: an expert's rows past a multiple of 8 in the batch are lost
    "capacity": 0.0,          # 1: an expert's rows past 1.5 times the mean are lost
    "rope_full": 0.0,         # 1: rotary on the whole head
    "rope_pairs": 0.0,        # 1: interleaved rotary pairs
    "no_qk_norm": 0.0,        # 1: q and k are not normalized
    "no_qkv_bias": 0.0,       # 1: the bias of the q, k, v projections is lost
    "eh_swap": 0.0,           # 1: the halves of eh_proj's input are exchanged (MTP layer only)
}
KEYS = list(KNOBS)
FACTOR, TOPK, EXPERTS = 2.5, 4, 16


@dataclasses.dataclass(frozen=True)
class Fault:
    name: str
    title: str
    knobs: dict
    trained: bool = False     # the canary was trained against it
    where: str = "moe"        # moe, attention, or mtp: the layers that can have it
    alone: bool = False       # depends on the batch, so it needs a batch of its own


FAULTS = [
    Fault("shared_scaled", "routed scale also on the shared expert (vllm#44313)", {"shared": FACTOR}, True),
    Fault("scale_omitted", "routed scale omitted", {"routed": 1.0}, True),
    Fault("scale_twice", "routed scale applied twice", {"routed": FACTOR * FACTOR}, True),
    Fault("shared_dropped", "shared experts missing or zero", {"shared": 0.0}, True),
    Fault("shared_slot_lost", "second of the two shared slots lost", {"s_to": 0.5}, True),
    Fault("shared_gate_up_swapped", "gate and up swapped, shared", {"swap_s": 1.0}, True),
    Fault("no_renormalization", "weights not renormalized", {"renorm": 0.0}, True),
    Fault("bias_in_weights", "correction bias added to the weights", {"bias_w": 1.0}, True),
    Fault("bias_ignored", "correction bias ignored in the choice", {"bias_sel": 0.0}, True),
    Fault("no_group_mask", "group mask dropped", {"group": 0.0}, True),
    Fault("group_max", "group score by max, not by top-2 sum", {"group_max": 1.0}, True),
    Fault("topk_minus_1", "top-3 for top-4", {"k": TOPK - 1.0}, True),
    Fault("topk_plus_1", "top-5 for top-4", {"k": TOPK + 1.0}, True),
    Fault("softmax_scores", "softmax for sigmoid", {"softmax": 1.0}, True),
    Fault("gelu", "gelu for silu, routed", {"gelu": 1.0}, True),
    Fault("last_slot_lost", "weakest of the k slots never summed", {"drop_last": 1.0}, True),
    Fault("weight_on_input", "weight on the experts' input", {"w_in": 1.0}, True),
    Fault("last_expert_missing", "the last expert's weights missing", {"lost_from": 15.0, "lost_to": 15.0}, True),
    Fault("shared_twice", "shared experts counted twice (TP or EP sum)", {"shared": 2.0}),
    Fault("shared_unscaled", "shared experts times 1/2.5", {"shared": 1 / FACTOR}),
    Fault("shared_first_slot_lost", "first of the two shared slots lost", {"s_from": 0.5}),
    Fault("shared_is_routed", "shared slots hold routed experts 0 and 1", {"shared_e0": 1.0}),
    Fault("routed_gate_up_swapped", "gate and up swapped, routed", {"swap_r": 1.0}),
    Fault("all_gate_up_swapped", "gate and up swapped, routed and shared", {"swap_r": 1.0, "swap_s": 1.0}),
    Fault("equal_weights", "equal weights on the chosen experts", {"equal": 1.0}),
    Fault("weights_rolled", "weights shifted by one slot", {"roll_w": 1.0}),
    Fault("experts_rolled", "expert ids off by one", {"roll_e": 1.0}),
    Fault("ep_ranks_swapped", "two expert-parallel ranks swapped", {"swap_ep": 1.0}),
    Fault("first_slot_lost", "strongest of the k slots never summed", {"drop_first": 1.0}),
    Fault("first_expert_missing", "the first expert's weights missing", {"lost_from": 0.0, "lost_to": 0.0}),
    Fault("ep_rank_missing", "one expert-parallel rank (experts 4 to 7) missing", {"lost_from": 4.0, "lost_to": 7.0}),
    Fault("tail_rows_lost", "an expert's rows past a multiple of 8 lost", {"tail": 1.0}, alone=True),
    Fault("capacity_limit", "an expert's rows past 1.5 times the mean lost", {"capacity": 1.0}, alone=True),
    Fault("rotary_full", "rotary on the whole head", {"rope_full": 1.0}, where="attention"),
    Fault("rotary_interleaved", "interleaved rotary pairs", {"rope_pairs": 1.0}, where="attention"),
    Fault("no_qk_norm", "q and k not normalized", {"no_qk_norm": 1.0}, where="attention"),
    Fault("no_qkv_bias", "bias of q, k, v lost", {"no_qkv_bias": 1.0}, where="attention"),
    Fault("mtp_eh_swapped", "halves of eh_proj's input swapped", {"eh_swap": 1.0}, where="mtp"),
]
BY_NAME = {f.name: f for f in FAULTS}
TRAINED = [f for f in FAULTS if f.trained]


def layers_of(config, fault):
    """The layers that can have the fault; the MTP layer is number num_hidden_layers."""
    last = config["num_hidden_layers"]
    return {"moe": range(config["first_k_dense_replace"], last + 1), "attention": range(last + 1),
            "mtp": range(last, last + 1)}[fault.where]


def knobs(config, fault=None, layers=None):
    """[layers and the MTP layer, knobs]: the right model's, or with a Fault in all layers that can have it or in some."""
    assert (config["routed_scaling_factor"], config["num_experts_per_tok"], config["n_routed_experts"]) == (FACTOR, TOPK, EXPERTS)
    right = dict(KNOBS, routed=FACTOR, k=float(TOPK))
    rows = []
    for i in range(config["num_hidden_layers"] + 1):
        wrong = fault is not None and i in layers_of(config, fault) and (layers is None or i in layers)
        rows.append([float({**right, **fault.knobs}[k] if wrong else right[k]) for k in KEYS])
    return torch.tensor(rows)

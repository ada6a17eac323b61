"""Rounding of weights and activations to fewer bits and back: benign noise for training, controls for evaluation."""
import torch


def fp8(x):
    """e4m3 with one scale a row (the last axis)."""
    scale = x.abs().amax(-1, keepdim=True).float().clamp_min(1e-12) / 448.0
    return ((x / scale).to(torch.float8_e4m3fn).float() * scale).to(x.dtype)


def int4(x):
    """-7..7 with one scale a row."""
    scale = x.abs().amax(-1, keepdim=True).clamp_min(1e-12) / 7.0
    return (x / scale).round() * scale


def mxfp4(x):
    """OCP MX: e2m1 with a power-of-two scale a block of 32 along the last axis; ties to the even code."""
    blocks = x.unflatten(-1, (-1, 32))
    scale = torch.exp2(torch.floor(torch.log2(blocks.abs().amax(-1, keepdim=True).clamp_min(1e-30))) - 2)
    y = (blocks / scale).abs().clamp_max(6.0)
    # The spacing of e2m1 is 0.5 below 2, 1 below 4, 2 above; round() takes ties to even.
    step = torch.where(y < 2.0, 0.5, torch.where(y < 4.0, 1.0, 2.0))
    return ((y / step).round() * step * blocks.sign() * scale).flatten(-2)


def mlp_weights(model):
    """(parameter, number of experts in its last axis) of every expert, shared expert and dense MLP."""
    for layer in model.all_layers():
        mlp = layer.mlp
        yield mlp.gate_up, 1
        yield mlp.down, mlp.E if layer.is_moe else 1
        if layer.is_moe:
            yield mlp.shared.gate_up, 1
            yield mlp.shared.down, 1


def attention_weights(model):
    for layer in model.all_layers():
        for p in (layer.attention.q_proj, layer.attention.k_proj, layer.attention.v_proj, layer.attention.o_proj):
            yield p.weight, 1


@torch.no_grad()
def round_weights(weights, how):
    """Rounds the parameters in place, each expert's rows apart."""
    for p, experts in weights:
        p.copy_(how(p.unflatten(-1, (experts, -1))).flatten(-2))

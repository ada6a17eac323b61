"""A tiny Glm4MoeForCausalLM in plain PyTorch, with knobs for planted faults (faults.py).

The routed experts are one wide SwiGLU over all experts whose hidden units are multiplied by the dense routing weights, zero for
an expert that was not chosen: two big products a layer, no gather and no scatter. That is exact, and for a model this small it
is the fastest form on a GPU.

Shapes: B rows, T tokens, H hidden, E experts, I an expert's hidden units.
"""
import torch
import torch.nn as nn
import torch.nn.functional as F

import faults
import quantize

# The keys of GLM-4.5's config.json; the sizes are ours. heads * head_dim differs from hidden_size, as in the real model.
CONFIG = {
    "architectures": ["Glm4MoeForCausalLM"], "model_type": "glm4_moe", "torch_dtype": "bfloat16",
    "vocab_size": 768, "hidden_size": 192, "intermediate_size": 512, "moe_intermediate_size": 64,
    "num_hidden_layers": 5, "first_k_dense_replace": 1, "num_attention_heads": 8, "num_key_value_heads": 2,
    "head_dim": 32, "attention_bias": True, "attention_dropout": 0.0, "use_qk_norm": True,
    "partial_rotary_factor": 0.5, "rope_theta": 10000.0, "rope_scaling": None, "max_position_embeddings": 2048,
    "n_routed_experts": 16, "n_shared_experts": 2, "num_experts_per_tok": 4, "n_group": 4, "topk_group": 2,
    "norm_topk_prob": True, "routed_scaling_factor": 2.5, "hidden_act": "silu", "rms_norm_eps": 1e-5,
    "initializer_range": 0.02, "num_nextn_predict_layers": 1, "tie_word_embeddings": False, "use_cache": True,
    "eos_token_id": 0, "pad_token_id": 0, "bos_token_id": None,
}
NATURAL = {"hidden_size": 128, "intermediate_size": 384, "moe_intermediate_size": 32, "num_attention_heads": 6,
           "num_hidden_layers": 6}


def rank(x):
    """Each entry's place in the falling order of the last axis; the lower index wins a tie."""
    i = torch.arange(x.shape[-1], device=x.device)
    a, b = x.unsqueeze(-1), x.unsqueeze(-2)
    return ((b > a) | ((b == a) & (i[None, :] < i[:, None]))).sum(-1)


def linear(module, x, weight, bias=None):
    """x weight^T + bias; with both rounded to fp8 if the module's `fp8` says so."""
    return F.linear(quantize.fp8(x) if getattr(module, "fp8", False) else x, weight, bias)


class RMSNorm(nn.Module):
    def __init__(self, n, eps):
        super().__init__()
        self.weight, self.eps = nn.Parameter(torch.ones(n)), eps

    def forward(self, x):
        y = x.float()
        y = y * torch.rsqrt(y.pow(2).mean(-1, keepdim=True) + self.eps)
        return self.weight * y.to(x.dtype)


def gated(gate, up, swap=None, gelu=None):
    """act(gate) * up, the two exchanged where swap is 1, gelu for silu where gelu is 1."""
    if swap is None:
        return F.silu(gate) * up
    x, y = torch.where(swap > 0.5, up, gate), torch.where(swap > 0.5, gate, up)
    return (F.silu(x) if gelu is None else torch.where(gelu > 0.5, F.gelu(x), F.silu(x))) * y


class MLP(nn.Module):
    def __init__(self, hidden, inner):
        super().__init__()
        self.gate_up = nn.Parameter(torch.empty(2 * inner, hidden))       # gate's rows, then up's
        self.down = nn.Parameter(torch.empty(hidden, inner))

    def forward(self, x, k=None):
        gate, up = linear(self, x, self.gate_up).chunk(2, -1)
        if k is None:
            return linear(self, gated(gate, up), self.down)
        a = gated(gate, up, k["swap_s"])
        at = (torch.arange(a.shape[-1], device=a.device) + 0.5) / a.shape[-1]
        return linear(self, a * ((at > k["s_from"]) & (at < k["s_to"])).to(a.dtype), self.down)


class MoE(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.c, self.E, self.I = c, c["n_routed_experts"], c["moe_intermediate_size"]
        self.gate = nn.Parameter(torch.empty(self.E, c["hidden_size"]))
        self.register_buffer("bias", torch.zeros(self.E))                 # e_score_correction_bias
        self.gate_up = nn.Parameter(torch.empty(2 * self.E * self.I, c["hidden_size"]))   # all gates, then all ups
        self.down = nn.Parameter(torch.empty(c["hidden_size"], self.E * self.I))
        self.shared = MLP(c["hidden_size"], self.I * c["n_shared_experts"])
        self.bf16_router = self.rare = False

    def choose(self, scores, k):
        """The 0/1 choice [B, T, E]: top-k of score plus bias among the experts of the best groups."""
        G, E = self.c["n_group"], self.E
        choice = scores + k["bias_sel"] * self.bias
        groups = choice.unflatten(-1, (G, E // G))
        group_scores = torch.where(k["group_max"] > 0.5, groups.amax(-1), (groups * (rank(groups) < 2)).sum(-1))
        allowed = (rank(group_scores) < self.c["topk_group"]).repeat_interleave(E // G, -1) | (k["group"] < 0.5)
        return (rank(choice.masked_fill(~allowed, float("-inf"))) < k["k"]).to(scores.dtype)

    def route(self, x, k):
        """Dense routing weights and the choice, both [B, T, E]."""
        if self.bf16_router:
            logits = F.linear(x.bfloat16(), self.gate.bfloat16()).float()
        else:
            logits = F.linear(x.float(), self.gate.float())
        scores = torch.where(k["softmax"] > 0.5, logits.softmax(-1), logits.sigmoid())
        with torch.no_grad():
            chosen = self.choose(scores, k)
        w = (scores + k["bias_w"] * self.bias) * chosen
        if self.rare:
            w = self.rare_weights(w, chosen, k)
        w = w / (k["renorm"] * w.sum(-1, keepdim=True) + (1 - k["renorm"]) + 1e-20)
        least = w.masked_fill(chosen == 0, 99.0).amin(-1, keepdim=True)
        e = torch.arange(self.E, device=w.device)
        lost = ((w == least) & (k["drop_last"] > 0.5)) | ((e >= k["lost_from"]) & (e <= k["lost_to"]))
        if self.rare:
            lost = lost | self.rare_losses(w, chosen, k)
        w = w.masked_fill(lost, 0.0)
        if self.rare:
            w = torch.where(k["roll_e"] > 0.5, w.roll(1, -1), w)
            q = self.E // 4
            w = torch.where(k["swap_ep"] > 0.5, torch.cat((w[..., q:2 * q], w[..., :q], w[..., 2 * q:]), -1), w)
        return w * k["routed"], chosen

    def rare_weights(self, w, chosen, k):
        top, at = w.topk(self.c["num_experts_per_tok"], -1)
        rolled = torch.zeros_like(w).scatter(-1, at, top.roll(1, -1))
        w = torch.where(k["roll_w"] > 0.5, rolled, w)
        return torch.where(k["equal"] > 0.5, chosen, w)

    def rare_losses(self, w, chosen, k):
        first = (w == w.amax(-1, keepdim=True)) & (k["drop_first"] > 0.5)
        flat = chosen.reshape(-1, self.E)
        place, count = flat.cumsum(0).reshape(chosen.shape), flat.sum(0)
        tail = (place > count // 8 * 8) & (k["tail"] > 0.5)
        limit = max(4.0, 1.5 * flat.shape[0] * self.c["num_experts_per_tok"] / self.E)
        return first | tail | ((place > limit) & (k["capacity"] > 0.5))

    def forward(self, x, k):
        """(output [B, T, H], each row's load [B, E])."""
        with torch.autocast(x.device.type, enabled=False):
            w, chosen = self.route(x, k)
        gate, up = linear(self, x, self.gate_up).unflatten(-1, (2, self.E, self.I)).unbind(-3)
        inner = k["w_in"].unsqueeze(-1) > 0.5
        wide = w.unsqueeze(-1)
        before = torch.where(inner, wide, torch.ones_like(wide)).to(gate.dtype)
        after = torch.where(inner, (wide > 0).to(w.dtype), wide).to(gate.dtype)
        a = gated(gate * before, up * before, k["swap_r"].unsqueeze(-1), k["gelu"].unsqueeze(-1))
        a = (quantize.fp8(a) if getattr(self, "fp8", False) else a) * after
        y = F.linear(a.flatten(-2), self.down)
        s = self.shared(x, k)
        if self.rare:
            n = self.c["n_shared_experts"]
            s0 = F.linear((F.silu(gate) * up)[..., :n, :].flatten(-2), self.down[:, :n * self.I])
            s = torch.where(k["shared_e0"] > 0.5, s0, s)
        return y + s * k["shared"].to(s.dtype), chosen.sum(1)


def rotate(x, cos, sin):
    """Partial rotary: the first cos.shape[-1] dimensions of each head, in half-split pairs. x [B, T, heads, D]."""
    n = cos.shape[-1]
    r, rest = x[..., :n], x[..., n:]
    turned = torch.cat((-r[..., n // 2:], r[..., :n // 2]), -1)
    return torch.cat((r * cos + turned * sin, rest), -1)


class Rotary(nn.Module):
    """cos and sin of every position, of the right model and of the wrong rotaries."""

    def __init__(self, c):
        super().__init__()
        for name, share in (("", c["partial_rotary_factor"]), ("_full", 1.0)):
            d = int(c["head_dim"] * share)
            inverse = 1.0 / c["rope_theta"] ** (torch.arange(0, d, 2).float() / d)
            angle = torch.arange(c["max_position_embeddings"]).float()[:, None] * inverse
            angle = torch.cat((angle, angle), -1)
            self.register_buffer("cos" + name, angle.cos(), persistent=False)
            self.register_buffer("sin" + name, angle.sin(), persistent=False)

    def forward(self, x, positions, k=None):
        """x [B, T, heads, D] rotated; positions [T] or [B, T]; k only where a rotary fault may be planted."""
        def at(table):
            return table[positions].unsqueeze(-2)
        y = rotate(x, at(self.cos), at(self.sin))
        if k is None:
            return y
        n = self.cos.shape[-1]
        order = torch.arange(n, device=x.device).view(-1, 2).t().flatten()       # even dimensions, then odd ones
        pairs = rotate(x[..., :n][..., order], at(self.cos), at(self.sin))[..., order.argsort()]
        y = torch.where(k["rope_pairs"].unsqueeze(-1) > 0.5, torch.cat((pairs, x[..., n:]), -1), y)
        return torch.where(k["rope_full"].unsqueeze(-1) > 0.5, rotate(x, at(self.cos_full), at(self.sin_full)), y)


class Attention(nn.Module):
    def __init__(self, c):
        super().__init__()
        h, self.D = c["hidden_size"], c["head_dim"]
        self.heads, self.kv_heads = c["num_attention_heads"], c["num_key_value_heads"]
        for name, heads in (("q_proj", self.heads), ("k_proj", self.kv_heads), ("v_proj", self.kv_heads)):
            setattr(self, name, nn.Linear(h, heads * self.D, bias=c["attention_bias"]))
        self.o_proj = nn.Linear(self.heads * self.D, h, bias=False)
        self.q_norm, self.k_norm = RMSNorm(self.D, c["rms_norm_eps"]), RMSNorm(self.D, c["rms_norm_eps"])
        self.rare = False

    def project(self, x, k):
        out = []
        for p, norm in ((self.q_proj, self.q_norm), (self.k_proj, self.k_norm), (self.v_proj, None)):
            y = linear(self, x, p.weight, p.bias)
            if self.rare and p.bias is not None:
                y = y - k["no_qkv_bias"] * p.bias
            y = y.unflatten(-1, (-1, self.D))
            if norm is not None:
                n = norm(y)
                y = torch.where(k["no_qk_norm"].unsqueeze(-1) > 0.5, y, n) if self.rare else n
            out.append(y)
        return out

    def forward(self, x, rotary, positions, k, cache=None):
        q, key, v = self.project(x, k)
        rare = k if self.rare else None
        q, key = rotary(q, positions, rare).to(v.dtype), rotary(key, positions, rare).to(v.dtype)
        if cache is not None:
            key, v, mask = cache.update(key, v, positions)
            if mask is not None:
                return self.o(cache.attend(q, key, v, mask))
        y = F.scaled_dot_product_attention(q.transpose(1, 2), key.transpose(1, 2), v.transpose(1, 2), is_causal=True,
                                           enable_gqa=True)
        return self.o(y.transpose(1, 2))

    def o(self, y):
        return linear(self, y.flatten(-2), self.o_proj.weight)


class Layer(nn.Module):
    def __init__(self, c, number):
        super().__init__()
        h, eps = c["hidden_size"], c["rms_norm_eps"]
        self.input_norm, self.post_norm, self.attention = RMSNorm(h, eps), RMSNorm(h, eps), Attention(c)
        self.is_moe = number >= c["first_k_dense_replace"]
        self.mlp = MoE(c) if self.is_moe else MLP(h, c["intermediate_size"])

    def forward(self, x, rotary, positions, k, cache=None):
        x = x + self.attention(self.input_norm(x), rotary, positions, k, cache).to(x.dtype)
        y, load = self.mlp(self.post_norm(x), k) if self.is_moe else (self.mlp(self.post_norm(x)), None)
        return x + y.to(x.dtype), load


class MTP(nn.Module):
    """The next-n layer: token t+2 from the hidden state at t (after the last norm) and the embedding of token t+1."""

    def __init__(self, c):
        super().__init__()
        h, eps = c["hidden_size"], c["rms_norm_eps"]
        self.enorm, self.hnorm, self.norm = RMSNorm(h, eps), RMSNorm(h, eps), RMSNorm(h, eps)
        self.eh_proj = nn.Linear(2 * h, h, bias=False)
        self.layer = Layer(c, c["num_hidden_layers"])


class Model(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.c = c
        self.embed = nn.Parameter(torch.empty(c["vocab_size"], c["hidden_size"]))
        self.layers = nn.ModuleList(Layer(c, i) for i in range(c["num_hidden_layers"]))
        self.norm = RMSNorm(c["hidden_size"], c["rms_norm_eps"])
        self.head = nn.Parameter(torch.empty(c["vocab_size"], c["hidden_size"]))
        self.mtp, self.rotary = MTP(c), Rotary(c)
        self.stream = torch.float32          # dtype of the residual stream

    def init(self):
        depth = 2 * self.c["num_hidden_layers"]
        for name, p in self.named_parameters():
            if name.endswith("bias"):
                nn.init.zeros_(p)
            elif p.ndim == 2:
                std = 0.6 * p.shape[1] ** -0.5
                if name in ("embed", "head"):
                    std = 0.2 if name == "embed" else 0.02
                elif name.endswith("mlp.down") and p.shape[1] == self.c["n_routed_experts"] * self.c["moe_intermediate_size"]:
                    std = 0.6 * (self.c["moe_intermediate_size"] * self.c["num_experts_per_tok"] * depth) ** -0.5
                elif name.endswith(("down", "o_proj.weight")):
                    std *= depth ** -0.5
                nn.init.normal_(p, std=std)
        return self

    def all_layers(self):
        return [*self.layers, self.mtp.layer]

    def moes(self):
        return [layer.mlp for layer in self.all_layers() if layer.is_moe]

    def set_rare(self, on):
        for layer in self.all_layers():
            layer.attention.rare = layer.mlp.rare = on
        self.rare = on

    def right_knobs(self, rows):
        return faults.knobs(self.c).to(self.embed.device).expand(rows, -1, -1)

    @staticmethod
    def layer_knobs(knobs, i):
        """{knob: [B, 1, 1]} of layer i."""
        return dict(zip(faults.KEYS, knobs[:, i].unsqueeze(-1).unsqueeze(-1).unbind(1)))

    def trunk(self, ids, knobs, positions=None, caches=None):
        """(hidden states after the last norm [B, T, H], the MoE layers' loads). knobs [B, layers + 1, knobs]."""
        positions = torch.arange(ids.shape[1], device=ids.device) if positions is None else positions
        x, loads = F.embedding(ids, self.embed).to(self.stream), []
        for i, layer in enumerate(self.layers):
            x, load = layer(x, self.rotary, positions, self.layer_knobs(knobs, i), caches[i] if caches else None)
            if load is not None:
                loads.append(load)
        return self.norm(x), loads

    def draft(self, hidden, following, knobs):
        """MTP logits: at t, for token t+2, from hidden [B, T, H] at t and the token ids `following` [B, T] at t+1."""
        m, k = self.mtp, self.layer_knobs(knobs, -1)
        e, h = m.enorm(F.embedding(following, self.embed).to(self.stream)), m.hnorm(hidden)
        both = torch.cat((e, h.to(e.dtype)), -1)
        if getattr(self, "rare", False):
            both = torch.where(k["eh_swap"] > 0.5, torch.cat((h.to(e.dtype), e), -1), both)
        positions = torch.arange(following.shape[1], device=following.device)
        x, load = m.layer(m.eh_proj(both).to(self.stream), self.rotary, positions, k)
        return F.linear(m.norm(x), self.head), load

    def logits(self, hidden):
        return F.linear(hidden, self.head)

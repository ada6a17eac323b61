"""Checkpoints of the tiny models as Hugging Face folders: config.json, generation_config.json, model.safetensors."""
import json
import pathlib
import struct

import torch

import model as tiny

DTYPES = {"BF16": torch.bfloat16, "F32": torch.float32}


def tensors(model):
    """{name: (view of the parameter, its dtype in the file)}, in the per-expert layout of GLM's own checkpoints."""
    out, c = {}, model.c

    def add(name, t, dtype="BF16"):
        out[name] = t.detach(), dtype

    def mlp(prefix, gate, up, down):
        add(prefix + "gate_proj.weight", gate)
        add(prefix + "up_proj.weight", up)
        add(prefix + "down_proj.weight", down)

    def layer(prefix, x):
        add(prefix + "input_layernorm.weight", x.input_norm.weight)
        add(prefix + "post_attention_layernorm.weight", x.post_norm.weight)
        for name, p in x.attention.named_parameters():
            add(prefix + "self_attn." + name, p)
        m = x.mlp
        if not x.is_moe:
            return mlp(prefix + "mlp.", *m.gate_up.chunk(2, 0), m.down)
        add(prefix + "mlp.gate.weight", m.gate)
        add(prefix + "mlp.gate.e_score_correction_bias", m.bias, "F32")
        gate, up = m.gate_up.chunk(2, 0)
        for e in range(m.E):
            s = slice(e * m.I, (e + 1) * m.I)
            mlp(f"{prefix}mlp.experts.{e}.", gate[s], up[s], m.down[:, s])
        mlp(prefix + "mlp.shared_experts.", *m.shared.gate_up.chunk(2, 0), m.shared.down)

    add("model.embed_tokens.weight", model.embed)
    for i, x in enumerate(model.layers):
        layer(f"model.layers.{i}.", x)
    add("model.norm.weight", model.norm.weight)
    add("lm_head.weight", model.head)
    prefix, m = f"model.layers.{c['num_hidden_layers']}.", model.mtp
    layer(prefix, m.layer)
    for name, t in (("enorm", m.enorm.weight), ("hnorm", m.hnorm.weight), ("eh_proj", m.eh_proj.weight),
                    ("shared_head.norm", m.norm.weight), ("shared_head.head", model.head), ("embed_tokens", model.embed)):
        add(f"{prefix}{name}.weight", t)
    return out


def save(model, folder):
    folder = pathlib.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    header, blobs, at = {"__metadata__": {"format": "pt"}}, [], 0
    for name, (t, dtype) in tensors(model).items():
        t = t.to("cpu", DTYPES[dtype]).contiguous()
        blob = t.view(torch.int16 if dtype == "BF16" else torch.int32).numpy().tobytes()
        header[name] = {"dtype": dtype, "shape": list(t.shape), "data_offsets": [at, at + len(blob)]}
        blobs.append(blob)
        at += len(blob)
    head = json.dumps(header, separators=(",", ":")).encode()
    head += b" " * (-len(head) % 8)
    part = folder / "model.safetensors.part"
    part.write_bytes(struct.pack("<Q", len(head)) + head + b"".join(blobs))
    part.replace(folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(model.c, indent=1) + "\n")
    generation = {"do_sample": False, "eos_token_id": model.c["eos_token_id"], "pad_token_id": model.c["pad_token_id"]}
    (folder / "generation_config.json").write_text(json.dumps(generation, indent=1) + "\n")


def load(folder, device="cpu"):
    folder = pathlib.Path(folder)
    model = tiny.Model(json.loads((folder / "config.json").read_text()))
    raw = (folder / "model.safetensors").read_bytes()
    size = struct.unpack("<Q", raw[:8])[0]
    header = json.loads(raw[8:8 + size])
    for name, (view, dtype) in tensors(model).items():
        a, b = header[name]["data_offsets"]
        view.copy_(torch.frombuffer(bytearray(raw[8 + size + a:8 + size + b]), dtype=DTYPES[dtype]).view(view.shape))
    return model.eval().to(device)

#!/usr/bin/env python3
"""Writes datasets/golden/safetensors/: files made by the safetensors package itself, read by tests/safetensors_test.cpp.

    python3 datasets/golden/make_safetensors.py               # needs safetensors and torch
    python3 datasets/golden/make_safetensors.py --check FILE  # reads a file that moecheck wrote, with the package

all_dtypes.safetensors   every dtype that moecheck reads and torch has, a scalar, an empty tensor and rank 4; metadata
bool.safetensors         a dtype that moecheck refuses by name
Element i of every tensor is i - 2 (i for unsigned and for e8m0: 2^i), which every dtype represents exactly.
"""
import pathlib
import sys

import torch
from safetensors import safe_open
from safetensors.torch import save_file

DIRECTORY = pathlib.Path(__file__).parent / "safetensors"


def main():
    if sys.argv[1:2] == ["--check"]:
        with safe_open(sys.argv[2], framework="pt") as f:
            for name in f.keys():
                t = f.get_tensor(name)
                print(name, t.dtype, list(t.shape), t.flatten()[:4].to(torch.float64).tolist())
            print(f.metadata())
        return
    ramp = torch.arange(6, dtype=torch.float64).reshape(2, 3)
    signed = {"f64": torch.float64, "f32": torch.float32, "bf16": torch.bfloat16, "f16": torch.float16,
              "e4m3fn": torch.float8_e4m3fn, "e4m3fnuz": torch.float8_e4m3fnuz, "e5m2": torch.float8_e5m2,
              "i64": torch.int64, "i32": torch.int32}
    tensors = {name: (ramp - 2).to(dtype) for name, dtype in signed.items()}
    tensors["u8"] = ramp.to(torch.uint8)
    tensors["e8m0"] = (2.0 ** ramp).to(torch.float32).to(torch.float8_e8m0fnu)
    tensors["scalar"] = torch.tensor(-2.0)
    tensors["empty"] = torch.empty(0, 3)
    tensors["rank 4, \u00fc\u6771\"\\"] = (torch.arange(16.0) - 2).reshape(2, 2, 2, 2)
    DIRECTORY.mkdir(exist_ok=True)
    save_file(tensors, DIRECTORY / "all_dtypes.safetensors", metadata={"case": "gating tokens=2 seed=7"})  # one entry: their order varies
    save_file({"mask": torch.tensor([True, False])}, DIRECTORY / "bool.safetensors")
    for path in DIRECTORY.glob("*.safetensors"):
        path.chmod(0o644)  # the package makes them private


if __name__ == "__main__":
    main()

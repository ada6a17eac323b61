#!/usr/bin/env python3
"""Golden vectors of number formats, from an implementation that is not ours: ml_dtypes (and numpy for f16).

    pip install numpy ml_dtypes
    python3 datasets/golden/make_number_formats.py          # rewrites datasets/golden/number_formats/*.golden

A file is a text header, an empty line, then little-endian packed records:

    decode records   u16 code, f32 value            every code of 8-bit formats, a sample of 16-bit ones
    encode records   f32 (f16: f64) value, u16 code

ml_dtypes converts a float64 by way of float32, which rounds twice (shown by `double_rounding` in the header: 1 means that
1 + half a step + 2^-50 came out as 1). Its inputs are therefore float32; numpy rounds float64 to f16 once, so f16 takes
float64 inputs and tests the single rounding.
"""
import pathlib
import platform
import sys

import ml_dtypes
import numpy as np

#        name         dtype                        mantissa bits  inputs
FORMATS = [("bf16", np.dtype(ml_dtypes.bfloat16), 7, np.float32),
           ("f16", np.dtype(np.float16), 10, np.float64),
           ("e4m3fn", np.dtype(ml_dtypes.float8_e4m3fn), 3, np.float32),
           ("e4m3fnuz", np.dtype(ml_dtypes.float8_e4m3fnuz), 3, np.float32),
           ("e5m2", np.dtype(ml_dtypes.float8_e5m2), 2, np.float32),
           ("e8m0", np.dtype(ml_dtypes.float8_e8m0fnu), 0, np.float32)]
RANDOM = 1500       # of each of the three kinds of random input
SAMPLED_16 = 700    # codes of a 16-bit format whose midpoints are taken


def codes_of(dtype, mantissa_bits, rng):
    """Every code of an 8-bit format; of a 16-bit one a sample that holds each end of every binade."""
    if dtype.itemsize == 1:
        return np.arange(256, dtype=np.uint8)
    ends = [code for exponent in range(0, 1 << 16, 1 << mantissa_bits) for code in (exponent - 1, exponent, exponent + 1)]
    codes = np.concatenate([np.array(ends) & 0xFFFF, rng.integers(0, 1 << 16, SAMPLED_16)])
    return np.unique(codes).astype(np.uint16)


def midpoints(dtype, codes):
    """Half way between neighbouring numbers, and half a step past the largest: float64, exact."""
    bits = np.uint8 if dtype.itemsize == 1 else np.uint16
    values = codes.astype(bits).view(dtype).astype(np.float64)
    following = (codes.astype(np.uint32) + 1).astype(bits).view(dtype).astype(np.float64)
    with np.errstate(invalid="ignore"):
        middle = (values + following) / 2
    largest = float(ml_dtypes.finfo(dtype).max)
    below = np.nanmax(np.where(values < largest, values, np.nan))
    edge = np.array([largest + (largest - below) / 2, largest * 1.5])
    smallest = np.abs(values[(values != 0) & np.isfinite(values)]).min()
    every = np.concatenate([middle, edge, -edge, [smallest / 2, -smallest / 2, smallest * 0.75]])
    return every[np.isfinite(every)]


def inputs_of(dtype, source, codes, rng):
    """Random bit patterns, numbers near the format's range, codes, midpoints and their neighbours, specials."""
    word = np.uint32 if source == np.float32 else np.uint64
    patterns = rng.integers(0, np.iinfo(word).max, RANDOM, dtype=word, endpoint=True).view(source)
    finfo = ml_dtypes.finfo(dtype)
    span = np.log2([float(finfo.smallest_subnormal), float(finfo.max)])
    exponents = rng.uniform(span[0] - 2, min(span[1] + 2, 127.9), RANDOM)
    in_range = rng.choice([-1.0, 1.0], RANDOM) * np.exp2(exponents)
    normal = rng.standard_normal(RANDOM)
    exact = codes.view(dtype).astype(np.float64)
    middle = midpoints(dtype, codes)
    with np.errstate(over="ignore", invalid="ignore"):
        middle = middle.astype(source)
        exact = exact.astype(source)
        near = np.concatenate([np.nextafter(v, source(side)) for v in (middle, exact) for side in (-np.inf, np.inf)])
        specials = np.array([0.0, -0.0, np.inf, -np.inf, np.nan, -np.nan, np.finfo(source).max, -np.finfo(source).max,
                             np.finfo(source).smallest_subnormal, -np.finfo(source).smallest_subnormal], source)
        every = np.concatenate([patterns, in_range.astype(source), normal.astype(source), exact, middle, near, specials])
    # Unique by bits: -0 and NaN payloads stay.
    return np.unique(every.view(word)).view(source)


def double_rounding(dtype, mantissa_bits):
    """True where float64 -> dtype goes through float32."""
    above = np.array([1 + 2.0 ** -(mantissa_bits + 1) + 2.0 ** -50])
    return bool(above.astype(dtype).astype(np.float64)[0] == 1.0) if mantissa_bits else None


def main():
    folder = pathlib.Path(__file__).parent / "number_formats"
    folder.mkdir(exist_ok=True)
    for seed, (name, dtype, mantissa_bits, source) in enumerate(FORMATS):
        rng = np.random.default_rng(seed)
        codes = codes_of(dtype, mantissa_bits, rng)
        with np.errstate(all="ignore"):
            values = codes.view(dtype).astype(np.float32)
            inputs = inputs_of(dtype, source, codes, rng)
            encoded = inputs.astype(dtype).view(codes.dtype)
        decode = np.empty(len(codes), [("code", "<u2"), ("value", "<f4")])
        decode["code"], decode["value"] = codes, values
        encode = np.empty(len(inputs), [("value", "<f4" if source == np.float32 else "<f8"), ("code", "<u2")])
        encode["value"], encode["code"] = inputs, encoded
        header = (f"moecheck number format\ndtype {name}\nsource ml_dtypes {ml_dtypes.__version__}, numpy {np.__version__}, "
                  f"python {platform.python_version()}\ndouble_rounding {int(bool(double_rounding(dtype, mantissa_bits)))}\n"
                  f"input_bytes {np.dtype(source).itemsize}\ndecode {len(decode)}\nencode {len(encode)}\n\n")
        path = folder / f"{name}.golden"
        path.write_bytes(header.encode() + decode.tobytes() + encode.tobytes())
        print(f"{path.name}: {len(decode)} decode, {len(encode)} encode, {path.stat().st_size} bytes", file=sys.stderr)


if __name__ == "__main__":
    main()

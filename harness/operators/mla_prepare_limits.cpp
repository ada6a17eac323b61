// What upstreams of mla_prepare reject, ignore or get wrong in silence: cases with `limits` are refused in these words.
#include <fmt/format.h>

#include "harness/operators/mla_prepare.h"

namespace moecheck::harness {
namespace {

using Refusal = std::optional<std::string>;

Refusal concat_limits(const Case& c) {
  const std::int64_t nope = c.integer("nope_dim"), rope = c.integer("rope_dim");
  const std::string_view limits = c.choice("limits");
  if (limits == "sglang" && form_is(c, "cat_skip") && q_cat_row(c) != mla_width(c))
    return fmt::format(
        "q_cat_row={} leaves gaps between heads of {} channels: .contiguous() copies such a q_cat in "
        "silence, "
        "and nothing is skipped; use q_cat_row=0, or limits=none for views that are kept",
        q_cat_row(c), mla_width(c));
  if (limits == "sglang" && (c.dtype("dtype") != DType::kBF16 || nope != 512 || rope != 64))
    return fmt::format(
        "sgl-kernel's concat takes bf16 with nope_dim=512 rope_dim=64, not {} with {} and {}: torch.cat does "
        "the "
        "rest; use policy=torch_cat",
        reference::name(c.dtype("dtype")), nope, rope);
  if (limits == "vllm" && (nope % 512 != 0 || rope != 64))
    return fmt::format(
        "concat_mla_q takes nope_dim a multiple of 512 and rope_dim=64, not {} and {}: use policy=torch_cat",
        nope, rope);
  return std::nullopt;
}

Refusal triton_limits(const Case& c) {
  const std::int64_t tokens = c.integer("tokens"), n = c.integer("num_decode");
  if (n > 0 && n < tokens)
    return fmt::format(
        "num_decode={} with tokens={}: the kernel writes decode_q_pe_out where head * tokens + token < n * "
        "heads, "
        "so rows past n are written out of bounds and others not at all; use num_decode=0 or {}, or "
        "limits=none",
        n, tokens, tokens);
  for (const std::string_view dim : {"nope_dim", "rope_dim"})
    if (!is_power_of_two(static_cast<double>(c.integer(dim))))
      return fmt::format("{}={} is not a power of two, which tl.arange needs: use limits=none", dim,
                         c.integer(dim));
  if (c.choice("layout") == "preshuffled" && cache_dtype(c) == DType::kF16)
    return std::string(
        "an f16 cache is shuffled in runs of 16 elements, not of 16 bytes (K_WIDTH is 8 for bf16 alone): no "
        "reader "
        "expects that; use dtype=bf16 or cache_dtype=e4m3fn");
  return std::nullopt;
}

// What the kernels with one key head and a row-major cache have in common.
Refusal plain_limits(const Case& c) {
  const std::string_view limits = c.choice("limits");
  if (c.integer("kv_heads") != 1)
    return fmt::format("kv_heads={}: {} knows no key heads; use kv_heads=1", c.integer("kv_heads"), limits);
  if (c.choice("layout") != "row_major")
    return fmt::format(
        "layout={}: {} writes rows, and readers of the other layout would see other tokens (vllm#52109); use "
        "layout=row_major",
        c.choice("layout"), limits);
  if (c.integer("num_decode") > 0 || c.flag("k_pe_out"))
    return fmt::format("num_decode={} k_pe_out={}: {} has no such outputs; use 0", c.integer("num_decode"),
                       c.flag("k_pe_out"), limits);
  if (c.integer("prefill") > 0)
    return fmt::format("prefill={}: {} rotates every row; use prefill=0", c.integer("prefill"), limits);
  if (limits == "sglang" && c.flag("apply_scale"))
    return std::string(
        "apply_scale=1: set_mla_kv_buffer casts without a scale, k_scale is ignored in silence (compare "
        "sglang#24198); use apply_scale=0");
  if (limits != "aiter_hip" && (c.flag("q_scale") || c.choice("q_dtype") != "same"))
    return fmt::format("q_scale={} q_dtype={}: {} writes q in T; use q_scale=0 q_dtype=same",
                       c.flag("q_scale"), c.choice("q_dtype"), limits);
  return std::nullopt;
}

}  // namespace

Refusal mla_limits(const Case& c) {
  if (!form_is(c, "fused")) return concat_limits(c);
  if (c.choice("limits") == "aiter_triton") return triton_limits(c);
  return c.choice("limits") == "none" ? std::nullopt : plain_limits(c);
}

}  // namespace moecheck::harness

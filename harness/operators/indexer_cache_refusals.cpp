// What no cache can be, and what the upstream of a policy silently gets wrong.
#include <fmt/format.h>

#include <algorithm>

#include "harness/fault.h"
#include "harness/operators/indexer_cache.h"

namespace moecheck::harness {
namespace {

bool starts_with(const Case& c, std::string_view prefix) { return c.policy().starts_with(prefix); }

// ---- What the upstream of a policy silently gets wrong

std::optional<std::string> quantizer_refusal(const Case& c) {
  const std::string_view policy = c.policy(), f = c.choice("divisor");
  if (starts_with(c, "vllm_rocm") || starts_with(c, "aiter")) {
    const bool fnuz = c.dtype("fp8") == DType::kE4M3FNUZ;
    const std::string_view own = !fnuz ? "448" : starts_with(c, "aiter") ? "240" : "224";
    if (f != own)
      return fmt::format("divisor={} with fp8={}: {} divides by {} there; use divisor={}", f, c.choice("fp8"),
                         policy, own, own);
  }
  if (policy == "sglang_cuda" && c.choice("scale_fmt") != "plain")
    return "scale_fmt=ue8m0: sglang's fused store ignores it and always writes plain fp32 scales; use "
           "scale_fmt=plain, or "
           "policy=sglang_act_quant";
  if (policy == "deep_gemm" && c.choice("scale_fmt") != "plain")
    return "scale_fmt=ue8m0: DeepGEMM's helper writes plain fp32 scales; use scale_fmt=plain";
  return std::nullopt;
}

std::optional<std::string> shape_refusal(const Case& c) {
  const std::string_view policy = c.policy();
  const std::int64_t q = c.integer("quant_block"), d = c.integer("head_dim"), b = c.integer("block_size");
  const bool vllm = policy == "vllm_cuda" || policy == "vllm_rocm", aiter = starts_with(c, "aiter");
  if ((vllm || aiter) && q != 128)
    return fmt::format(
        "quant_block={}: {}'s kernels are wired to 128 channels per scale and only check head_dim % "
        "quant_block, so other sizes "
        "race on a scale or leave some unwritten; use quant_block=128",
        q, policy);
  if (policy == "vllm_rocm_triton" && q != d)
    return fmt::format("quant_block={}: the Triton kernels write one scale per token; use quant_block={}", q,
                       d);
  if ((starts_with(c, "sglang") || policy == "deep_gemm") && (d != 128 || q != 128))
    return fmt::format(
        "head_dim={} quant_block={}: {} is written for 128 channels and one scale; use head_dim=128 "
        "quant_block=128",
        d, q, policy);
  if (policy == "sglang_cuda" && (b & (b - 1)) != 0)
    return fmt::format(
        "block_size={}: sglang's fused store shifts by log2 of the page size; use a power of two", b);
  const bool shuffled = c.choice("layout") == "preshuffled";
  if (shuffled && !aiter && policy != "vllm_rocm_triton" && policy != "any")
    return fmt::format(
        "layout=preshuffled: {} knows row_major alone; use layout=row_major, or policy=aiter or "
        "vllm_rocm_triton",
        policy);
  if (policy == "vllm_rocm_triton" && shuffled != (b > 1) && !HARNESS_FAULT(kCaseShuffleWithAnyPage))
    return fmt::format(
        "layout={} with block_size={}: the Triton kernels choose row_major for block_size 1 and preshuffled "
        "otherwise; use layout={}",
        c.choice("layout"), b, b > 1 ? "preshuffled" : "row_major");
  return std::nullopt;
}

std::optional<std::string> quantize_refusal(const Case& c) {
  const std::int64_t d = c.integer("head_dim"), stride = c.integer("k_stride"), tokens = c.integer("tokens");
  if (stride != 0 && stride < d) return fmt::format("k_stride={} is less than head_dim={}", stride, d);
  if (stride > d && c.policy() != "any")
    return fmt::format(
        "k_stride={}: {} ignores k.stride() and reads rows of head_dim={} elements; make k contiguous and "
        "use "
        "k_stride=0",
        stride, c.policy(), d);
  const std::int64_t count = c.integer("slot_count");
  if (count >= 0 && count < tokens && c.choice("count") == "k_rows")
    return fmt::format(
        "slot_count={} is less than tokens={}: count=k_rows reads past slot_mapping; use count=min", count,
        tokens);
  if ((starts_with(c, "vllm") || starts_with(c, "aiter")) && c.choice("ids") == "i32")
    return fmt::format(
        "ids=i32: {} takes slot_mapping as int64 (aiter without a look at the dtype); use ids=i64",
        c.policy());
  const bool negative =
      c.choice("slots") == "negative" ||
      std::any_of(c.edits.begin(), c.edits.end(), [](const Edit& e) { return e.kind == "skip"; });
  if (negative && c.choice("skip") != "negative")
    return fmt::format("negative slots with skip={}: that writes in front of the cache; use skip=negative",
                       c.choice("skip"));
  if (starts_with(c, "aiter") && c.integer("pad") % c.integer("block_size") != 0)
    return fmt::format(
        "pad={}: aiter's writer takes block_size * kv_cache.size(2) for the block stride and ignores "
        "kv_cache.stride(0), its reader does not; use a multiple of block_size={}",
        c.integer("pad"), c.integer("block_size"));
  if (starts_with(c, "sglang") && c.integer("pad") != 0)
    return fmt::format("pad={}: sglang's pages lie side by side; use pad=0", c.integer("pad"));
  const std::int64_t slots = c.integer("block_size") * pool_blocks(c);
  if (slots - (c.choice("skip") == "dummy_slot0" ? 1 : 0) < tokens_written(c))
    return fmt::format("blocks={} of {} tokens have {} slots for {} tokens: use blocks=0 or more of them",
                       pool_blocks(c), c.integer("block_size"), slots, tokens_written(c));
  for (const Edit& e : c.edits)
    if (e.row >= tokens || e.col >= d)
      return fmt::format("edit={}:{}:{} lies outside tokens={} head_dim={}", e.kind, e.row, e.col, tokens, d);
  return std::nullopt;
}

std::optional<std::string> gather_refusal(const Case& c) {
  const std::string_view policy = c.policy();
  const bool vllm = policy == "vllm_cuda" || policy == "vllm_rocm", aiter = starts_with(c, "aiter");
  const std::int64_t stride = cache_layout(c).stride();
  if (c.integer("extra_rows") > c.integer("tokens"))
    return fmt::format("extra_rows={} is more than tokens={}", c.integer("extra_rows"), c.integer("tokens"));
  if (aiter && c.integer("extra_rows") > 0)
    return fmt::format(
        "extra_rows={}: for rows past cu_seq_lens[R] aiter's gather follows an uninitialised index to an "
        "arbitrary "
        "block; use extra_rows=0",
        c.integer("extra_rows"));
  if (vllm && stride % 16 != 0)
    return fmt::format(
        "a block stride of {} bytes: vLLM's gather divides addresses by 16 and reads shifted bytes (aiter "
        "fixed the "
        "same in #2954); use a block_size that is a multiple of 4, or pad",
        stride);
  if ((vllm || aiter) && c.integer("table_pad") > 0)
    return fmt::format(
        "table_pad={}: {} takes block_table's row stride from its shape and misreads a narrowed view "
        "(vllm#55109); "
        "use table_pad=0",
        c.integer("table_pad"), policy);
  if (vllm && c.choice("dst_scale") == "elements")
    return "dst_scale=elements: vLLM counts the last dimension of dst_scale in bytes, and an f32 [N, 1] "
           "tensor fails its check; "
           "use dst_scale=bytes";
  if (const std::int64_t columns = c.integer("columns"); columns > 0) {
    const double room =
        static_cast<double>(columns) * static_cast<double>(c.integer("block_size") * c.integer("requests"));
    if (room < static_cast<double>(c.integer("tokens") - c.integer("extra_rows")))
      return fmt::format(
          "columns={} of {} tokens are too few for {} rows of {} requests: use columns=0 or more", columns,
          c.integer("block_size"), c.integer("tokens") - c.integer("extra_rows"), c.integer("requests"));
  }
  if (!c.edits.empty()) return fmt::format("edit={} is for form=quantize", c.edits.front().kind);
  return std::nullopt;
}

}  // namespace

std::optional<std::string> indexer_cache_refusal(const Case& c) {
  if (auto why = cache_layout(c).check()) return why;
  const double most = reference::max_finite(c.dtype("fp8"));
  if (indexer_quant(c).divisor > most)
    return fmt::format(
        "divisor={} is more than the largest code of {}, {}: amax would saturate; use divisor={}",
        c.choice("divisor"), c.choice("fp8"), most, most == 448 ? "448" : "240");
  if (auto why = quantizer_refusal(c)) return why;
  if (auto why = shape_refusal(c)) return why;
  if (auto why = is_gather(c) ? gather_refusal(c) : quantize_refusal(c)) return why;
  const double bytes = static_cast<double>(pool_blocks(c)) * static_cast<double>(cache_layout(c).stride());
  if (bytes > 0x1p34)
    return fmt::format(
        "a cache of {} blocks of {} bytes is larger than 16 GiB: use fewer tokens or a smaller pad",
        pool_blocks(c), cache_layout(c).stride());
  return std::nullopt;
}

}  // namespace moecheck::harness

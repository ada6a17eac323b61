// Why a cache or a gathered row is wrong: known mistakes are made on purpose, and the one that gives the implementation's bytes is
// named.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "harness/operators/indexer_cache.h"

namespace moecheck::harness {
namespace {

using reference::CacheLayout;
using reference::CacheOrder;
using reference::DivisionOp;
using reference::IndexerQuant;
using Bytes = std::vector<std::uint8_t>;

Bytes bytes_of(const Tensor& t) {
  const auto* p = reinterpret_cast<const std::uint8_t*>(t.data());
  return {p, p + t.bytes()};
}

std::int64_t differing(const Bytes& a, const Bytes& b) {
  std::int64_t n = 0;
  for (std::size_t i = 0; i < a.size(); ++i) n += a[i] != b[i];
  return n;
}

// The mistake that comes nearest to the bytes there are. It explains them where it leaves a twentieth of the wrong ones at most:
// not none, as two honest roundings may differ beside it.
class Nearest {
 public:
  explicit Nearest(std::int64_t wrong) : least_(wrong / 20 + 1) {}
  void offer(std::int64_t left, std::string words) {
    if (left < least_) least_ = left, words_ = std::move(words);
  }
  const std::string& words() const { return words_; }

 private:
  std::int64_t least_;
  std::string words_;
};

CacheLayout other_order(CacheLayout l) {
  l.order = l.order == CacheOrder::kRowMajor ? CacheOrder::kPreshuffled : CacheOrder::kRowMajor;
  return l;
}

// ---- Writing

enum class Slip : std::uint8_t {
  kNone,
  kInterleaved,
  kFloorExponent,
  kSignedAmax,
  kNoFloor,
  kWholeRow,
  kAmaxOf128,
  kBf16,
  kTruncated,
  kNoSubnormals,
  kNegativeZero,
  kTwice,
  kHalf
};

struct Writing {
  IndexerQuant quant;
  CacheLayout layout;
  std::int64_t row_stride = 0, token_shift = 0, slot_shift = 0, first_slot = 0;
  std::int64_t page = 0;  // tokens that a page really has; 0: block_size
  bool negative_wraps = false, tail_dropped = false;
  Slip slip = Slip::kNone;
};

float slipped_scale(const Writing& w, const float* row, std::int64_t first) {
  const CacheLayout& l = w.layout;
  std::int64_t n = l.quant_block;
  if (w.slip == Slip::kWholeRow) first = 0, n = l.head_dim;
  if (w.slip == Slip::kAmaxOf128)
    first = first / 128 * 128, n = std::min<std::int64_t>(128, l.head_dim - first);
  std::vector<float> k(row + first, row + first + n);
  IndexerQuant q = w.quant;
  for (float& v : k) {
    if (w.slip == Slip::kSignedAmax) v = std::max(v, 0.0F);
    if (w.slip == Slip::kBf16) v = static_cast<float>(reference::round_to(DType::kBF16, v));
  }
  if (w.slip == Slip::kNoFloor) q.amax_floor = 0;
  if (w.slip == Slip::kFloorExponent) q.ue8m0 = false;
  float s = reference::group_scale(q, k.data(), n).scale[0];
  if (w.slip == Slip::kFloorExponent && s > 0) s = static_cast<float>(std::ldexp(1.0, std::ilogb(s)));
  if (w.slip == Slip::kBf16 && !q.ue8m0) s = static_cast<float>(reference::round_to(DType::kBF16, s));
  return w.slip == Slip::kTwice ? 2 * s : w.slip == Slip::kHalf ? s / 2 : s;
}

std::uint8_t slipped_code(const Writing& w, float k, float scale) {
  const IndexerQuant& q = w.quant;
  const std::uint8_t code = reference::indexer_code(q, q.value_op, k, scale);
  const double v = static_cast<double>(k) / scale, c = reference::decode(q.fp8, code);
  if (w.slip == Slip::kTruncated && std::fabs(c) > std::fabs(v)) return static_cast<std::uint8_t>(code - 1);
  if (w.slip == Slip::kNoSubnormals && std::fabs(c) < reference::min_normal(q.fp8)) return code & 0x80;
  if (w.slip == Slip::kNegativeZero && code == 0 && std::signbit(k)) return 0x80;
  return code;
}

void slipped_row(const Writing& w, const std::vector<float>& row, std::int64_t slot, Bytes& cache) {
  const CacheLayout& l = w.layout;
  for (std::int64_t first = 0; first < l.head_dim; first += l.quant_block) {
    const float scale = slipped_scale(w, row.data(), first);
    for (std::int64_t c = first; c < first + l.quant_block; ++c)
      cache[at(l.value_at(slot, c))] = slipped_code(w, row[at(c)], scale);
    std::int64_t place = l.scale_at(slot, first);
    if (w.slip == Slip::kInterleaved)
      place = slot / l.block_size * l.stride() + slot % l.block_size * (l.head_dim + 4 * l.scales()) +
              l.head_dim + first / l.quant_block * 4;
    std::memcpy(cache.data() + place, &scale, sizeof(scale));
  }
}

// The cache as this writing leaves it.
Bytes written(const Writing& w, const Case& c, const TensorSet& inputs) {
  Bytes cache = bytes_of(inputs.at("kv_cache"));
  const ConstView k = inputs.view("k"), mapping = inputs.view("slot_mapping");
  const std::int64_t tokens = tokens_written(c), slots = static_cast<std::int64_t>(cache.size()) /
                                                         w.layout.stride() * w.layout.block_size;
  std::vector<float> row(at(w.layout.head_dim));
  for (std::int64_t t = 0; t < tokens; ++t) {
    std::int64_t slot = mapping.int_at(t);
    if (slot < 0 && w.negative_wraps) slot = slots - 1;
    if (slot < w.first_slot || (w.tail_dropped && t >= tokens / 8 * 8)) continue;
    slot += w.slot_shift;
    const std::int64_t source = std::clamp<std::int64_t>(t + w.token_shift, 0, k.shape[0] - 1);
    if (slot < 0 || slot >= slots) continue;
    if (w.page > 0)
      slot = slot / w.layout.block_size * w.layout.block_size + slot % w.layout.block_size % w.page;
    for (std::int64_t i = 0; i < w.layout.head_dim; ++i)
      row[at(i)] = static_cast<float>(k.at(source * (w.row_stride == 0 ? k.shape[1] : w.row_stride) + i));
    slipped_row(w, row, slot, cache);
  }
  return cache;
}

struct NamedWriting {
  Writing writing;
  std::string words;
};

void add_quantizers(const Writing& right, std::vector<NamedWriting>& list) {
  const auto add = [&](Writing w, std::string words) { list.push_back({std::move(w), std::move(words)}); };
  const double most = reference::max_finite(right.quant.fp8);
  Writing w = right;
  for (const double f : {448.0, 240.0, 224.0}) {
    w.quant.divisor = f;
    if (f != right.quant.divisor && f <= most)
      add(w, fmt::format("amax is divided by {:g} instead of {:g}{}: on gfx942 vLLM takes 224 and aiter 240, "
                         "elsewhere it is 448",
                         f, right.quant.divisor,
                         f * 2 == right.quant.divisor ? ", so that scales are doubled" : ""));
  }
  w = right, w.quant.ue8m0 = !right.quant.ue8m0;
  add(w, right.quant.ue8m0 ? "scales are plain where scale_fmt=ue8m0 asks for powers of two: sglang's fused "
                             "store ignores scale_fmt"
                           : "scales are powers of two where scale_fmt=plain asks for amax / F");
  const bool fnuz = right.quant.fp8 == DType::kE4M3FNUZ;
  w = right, w.quant.fp8 = w.layout.dtype = fnuz ? DType::kE4M3FN : DType::kE4M3FNUZ;
  add(w, fmt::format("codes are those of {}, not of {}", reference::name(w.quant.fp8),
                     reference::name(right.quant.fp8)));
  const std::vector<std::pair<Slip, const char*>> slips = {
      {Slip::kFloorExponent,
       "scales are rounded down to a power of two: the exponent's ceiling is missing (compare aiter#3212)"},
      {Slip::kTwice, "scales are doubled"},
      {Slip::kHalf, "scales are halved"},
      {Slip::kBf16, "amax and scale are computed in bf16"},
      {Slip::kNoFloor, "amax_floor is not applied: rows of zeros get scale 0 and NaN codes"},
      {Slip::kSignedAmax, "amax is the largest element, not the largest magnitude"},
      {Slip::kAmaxOf128,
       "amax is taken over 128 channels whatever quant_block is: the kernel is wired to 128"},
      {Slip::kWholeRow, "amax is taken over the whole row, not per quant_block"},
      {Slip::kTruncated, "codes are truncated instead of rounded to nearest even"},
      {Slip::kNoSubnormals, "codes below the smallest normal number are flushed to 0"},
      {Slip::kNegativeZero, "-0 is encoded as 0x80, which is NaN in e4m3fnuz"}};
  for (const auto& [slip, words] : slips) {
    if ((slip == Slip::kFloorExponent && !right.quant.ue8m0) || (slip == Slip::kNegativeZero && !fnuz))
      continue;
    w = right, w.slip = slip;
    add(w, words);
  }
  if (right.quant.value_op == DivisionOp::kAny || right.quant.ue8m0) return;
  w = right, w.quant.value_op =
                 right.quant.value_op == DivisionOp::kDivide ? DivisionOp::kReciprocal : DivisionOp::kDivide;
  add(w, w.quant.value_op == DivisionOp::kDivide
             ? "k is divided by the scale where value_op=reciprocal multiplies by fp32(1 / scale)"
             : "k is multiplied by fp32(1 / scale) where value_op=divide divides");
}

void add_places(const Case& c, const Writing& right, std::vector<NamedWriting>& list) {
  const auto add = [&](Writing w, std::string words) {
    if (!w.layout.check()) list.push_back({std::move(w), std::move(words)});
  };
  Writing w = right;
  w.layout = other_order(right.layout);
  add(w, fmt::format("the cache is written {} where layout={} was asked for: a reader of that layout gets "
                     "other bytes (vllm#52109)",
                     reference::name(w.layout.order), c.choice("layout")));
  w = right, w.slip = Slip::kInterleaved;
  add(w,
      "each token's scale lies behind its own values, as a tensor shape [blocks, block_size, head_dim + 4] "
      "suggests: scales lie "
      "behind all values of the block");
  w = right, w.layout.block_stride = 0;
  add(w, "the padding between blocks is ignored: the block stride is not block_size * (head_dim + 4)");
  for (const std::int64_t shift : {-1, 1}) {
    w = right, w.slot_shift = shift;
    add(w, fmt::format("tokens are written one slot {}", shift < 0 ? "too low" : "too high"));
    w = right, w.token_shift = shift;
    add(w, fmt::format("slots hold the token {} theirs", shift < 0 ? "before" : "after"));
  }
  for (const std::int64_t parts : {2, 4}) {
    w = right, w.page = ceil_div(right.layout.block_size, parts);
    if (w.page < right.layout.block_size)
      add(w, fmt::format("slots meet: pages hold {} tokens where block_size={} was advertised (vllm#54359)",
                         w.page, right.layout.block_size));
  }
  w = right, w.row_stride = right.layout.head_dim;
  add(w, "k's row stride is ignored: rows are read as if k were contiguous");
  w = right, w.negative_wraps = true;
  add(w, "a negative slot is written to the last slot of the cache");
  w = right, w.first_slot = 1;
  add(w, "slot 0 is skipped like a negative one");
  w = right, w.tail_dropped = true;
  add(w, "tokens behind the last multiple of 8 are not written");
}

std::string writing_cause(const Case& c, const TensorSet& inputs, const IndexerCacheExpected& e,
                          const TensorSet& outputs) {
  Writing right;
  right.quant = indexer_quant(c);
  right.layout = cache_layout(c);
  std::vector<NamedWriting> list;
  add_places(c, right, list);
  add_quantizers(right, list);
  TensorSet blanked;
  const auto blank = [&](const Bytes& bytes) {
    Tensor& t =
        blanked.find("kv_cache") == nullptr ? blanked.add(outputs.at("kv_cache")) : blanked.at("kv_cache");
    std::copy(bytes.begin(), bytes.end(), t.view().as<std::uint8_t>());
    blank_indexer_cache(c, inputs, blanked);
    return bytes_of(t);
  };
  const Bytes got = blank(bytes_of(outputs.at("kv_cache"))), want = blank(e.cache);
  Nearest nearest(differing(want, got));
  nearest.offer(differing(blank(bytes_of(inputs.at("kv_cache"))), got), "nothing was written");
  for (const NamedWriting& n : list)
    nearest.offer(differing(blank(written(n.writing, c, inputs)), got), n.words);
  return nearest.words();
}

// ---- Gathering

struct Place {
  std::int64_t request = 0, position = 0;
};

struct Reading {
  CacheLayout layout;
  std::int64_t block_tokens = 0;  // to find the block of a position; 0: layout.block_size
  std::int64_t table_stride = 0, wrap_bits = 63, align = 1;
  bool interleaved = false;
  std::function<Place(Place right, std::int64_t t)> place = [](Place p, std::int64_t) { return p; };
};

// How many bytes of `got` this reading does not give: dst_k and dst_scale, one behind the other. Rows that it finds in no block say
// nothing.
std::int64_t misread(const Reading& r, const Case& c, const TensorSet& inputs, const Bytes& right,
                     const Bytes& got) {
  const CacheLayout& l = r.layout;
  Bytes dst = right;
  const reference::PagedTable table = paged_table(c, inputs);
  const Tensor& cache = inputs.at("kv_cache");
  const auto* from = cache.view().as<std::uint8_t>();
  const std::int64_t rows = c.integer("tokens"), requests = table.cu_seq_lens.shape.numel() - 1,
                     blocks = cache.shape()[0];
  const std::int64_t scale_bytes = 4 * l.scales(), b = r.block_tokens == 0 ? l.block_size : r.block_tokens;
  bool told = false;  // by a row that was found
  const auto put = [&](std::int64_t t, const std::uint8_t* k, const std::uint8_t* scale) {
    std::memcpy(dst.data() + t * l.head_dim, k, at(l.head_dim));
    std::memcpy(dst.data() + rows * l.head_dim + t * scale_bytes, scale, at(scale_bytes));
  };
  Bytes row(at(l.head_dim));
  for (std::int64_t q = 0; q < requests; ++q) {
    const std::int64_t first = table.cu_seq_lens.int_at(q);
    for (std::int64_t t = first; t < std::min(rows, table.cu_seq_lens.int_at(q + 1)); ++t) {
      const Place p = r.place({q, t - first}, t);
      const std::int64_t entry = p.request * r.table_stride + p.position / b,
                         token = p.position % l.block_size;
      const std::int64_t id = entry < table.block_table.shape.numel() ? table.block_table.int_at(entry) : -1;
      if (id < 0 || id >= blocks) {
        put(t, got.data() + t * l.head_dim, got.data() + rows * l.head_dim + t * scale_bytes);
        continue;
      }
      const std::int64_t base =
          (id * l.stride() & static_cast<std::int64_t>((std::uint64_t{1} << r.wrap_bits) - 1)) / r.align *
          r.align;
      for (std::int64_t i = 0; i < l.head_dim; ++i) row[at(i)] = from[base + l.value_offset(token, i)];
      const std::uint8_t* scale =
          from + base +
          (r.interleaved ? token * (l.head_dim + scale_bytes) + l.head_dim : l.scale_offset(token, 0));
      told = told || std::memcmp(row.data(), right.data() + t * l.head_dim, row.size()) != 0 ||
             std::memcmp(scale, right.data() + rows * l.head_dim + t * scale_bytes, at(scale_bytes)) != 0;
      put(t, row.data(), scale);
    }
  }
  return told ? differing(dst, got) : std::numeric_limits<std::int64_t>::max();
}

// Rows that look in the wrong request, or at the wrong position of theirs.
template <class Offer>
void offer_places(ConstView cu, Reading& r, Offer offer) {
  const std::int64_t requests = cu.shape.numel() - 1;
  for (const std::int64_t shift : {-1, 1}) {
    r.place = [=](Place p, std::int64_t) {
      return Place{std::clamp<std::int64_t>(p.request + shift, 0, requests - 1), p.position};
    };
    offer(fmt::format("rows come from the blocks of the request {} theirs", shift < 0 ? "before" : "after"));
  }
  r.place = [](Place p, std::int64_t t) { return Place{p.request, t}; };
  offer("positions are counted through all requests, not from each request's cu_seq_lens");
  r.place = [=](Place p, std::int64_t t) {
    if (p.position > 0) return p;
    while (p.request > 0 && cu.int_at(p.request) >= t) --p.request;
    return Place{p.request, t - cu.int_at(p.request)};
  };
  offer(
      "the first row of a request is taken for one more of the request before: cu[r] < t where cu[r] <= t is "
      "meant");
  r.place = [=](Place p, std::int64_t t) { return p.request < 8 ? p : Place{7, t - cu.int_at(7)}; };
  offer("the scan for a row's request ends after eight: rows of later requests are taken for the eighth's");
}

std::string gather_cause(const Case& c, const TensorSet& inputs, const IndexerCacheExpected& e,
                         const TensorSet& outputs) {
  Bytes right = e.dst_k, got = bytes_of(outputs.at("dst_k"));
  right.insert(right.end(), e.dst_scale.begin(), e.dst_scale.end());
  const Bytes scales = bytes_of(outputs.at("dst_scale"));
  got.insert(got.end(), scales.begin(), scales.end());
  Reading as_is;
  as_is.layout = cache_layout(c);
  const std::int64_t stride = paged_table(c, inputs).row_stride;
  as_is.table_stride = stride;
  Nearest nearest(differing(right, got));
  Reading r = as_is;
  const auto offer = [&](std::string words) {
    if (!r.layout.check()) nearest.offer(misread(r, c, inputs, right, got), std::move(words));
    r = as_is;
  };
  r.layout = other_order(as_is.layout);
  offer(fmt::format(
      "the cache is read {} where layout={} was asked for: it fits a writer of the other layout (vllm#50455, "
      "vllm#52109)",
      reference::name(r.layout.order), c.choice("layout")));
  r.interleaved = true;
  offer("scales are read behind each token's values: they lie behind all values of the block");
  r.layout.block_stride = 0;
  offer("the padding between blocks is ignored: the block stride is not block_size * (head_dim + 4)");
  r.table_stride = stride - c.integer("table_pad");
  offer("block_table's row stride is taken from the width of the narrowed view (vllm#55109)");
  r.align = 16;
  offer(
      "block addresses are cut to multiples of 16 bytes: a block stride that is none is read shifted "
      "(aiter#2954)");
  for (const std::int64_t tokens :
       {as_is.layout.block_size * 2, as_is.layout.block_size * 4, as_is.layout.block_size / 2}) {
    if (tokens == 0) continue;
    r.block_tokens = tokens;
    offer(fmt::format(
        "blocks are looked up as if they had {} tokens: a stale block size (TensorRT-LLM#16219)", tokens));
  }
  for (const int bits : {24, 31, 32}) {
    r.wrap_bits = bits;
    offer(
        fmt::format("byte offsets of blocks wrap at 2^{}: they need 64 bits (vllm#46222, aiter#4774)", bits));
  }
  offer_places(inputs.view("cu_seq_lens"), r, offer);
  return nearest.words();
}

}  // namespace

std::string indexer_cache_cause(const Case& c, const TensorSet& inputs, const IndexerCacheExpected& expected,
                                const TensorSet& outputs) {
  return is_gather(c) ? gather_cause(c, inputs, expected, outputs)
                      : writing_cause(c, inputs, expected, outputs);
}

}  // namespace moecheck::harness

#include "reference/cache_layout.h"

#include <charconv>

namespace moecheck::reference {
namespace {

std::string text(std::int64_t v) { return std::to_string(v); }

// Offset of (token, byte of the row) in a region of rows of `row` bytes.
std::int64_t tiled(std::int64_t token, std::int64_t b, std::int64_t row) {
  constexpr std::int64_t k = CacheLayout::kTile;
  return token / k * k * row + b / k * k * k + token % k * k + b % k;
}

// Its inverse.
void untiled(std::int64_t offset, std::int64_t row, std::int64_t& token, std::int64_t& b) {
  constexpr std::int64_t k = CacheLayout::kTile;
  const std::int64_t group = offset / (k * row), in_group = offset % (k * row);
  token = group * k + in_group % (k * k) / k;
  b = in_group / (k * k) * k + in_group % k;
}

// The number after `prefix`, or nothing.
std::optional<std::int64_t> number_after(std::string_view word, std::string_view prefix) {
  if (!word.starts_with(prefix)) return std::nullopt;
  word.remove_prefix(prefix.size());
  std::int64_t v = 0;
  const auto [end, error] = std::from_chars(word.data(), word.data() + word.size(), v);
  if (error != std::errc() || end != word.data() + word.size()) return std::nullopt;
  return v;
}

}  // namespace

std::string_view name(CacheOrder order) { return order == CacheOrder::kRowMajor ? "row_major" : "preshuffled"; }

std::optional<std::string> CacheLayout::check() const {
  constexpr std::int64_t kMost = std::int64_t{1} << 20;
  if (!is_float(dtype) || size_bytes(dtype) > 4)
    return "a cache of " + std::string(name(dtype)) + ": use a float of at most 4 bytes";
  if (block_size < 1 || block_size > kMost) return "block_size=" + text(block_size) + " must be 1 to " + text(kMost);
  if (head_dim < 1 || head_dim > kMost) return "head_dim=" + text(head_dim) + " must be 1 to " + text(kMost);
  if (quant_block < 0 || (quant_block > 0 && head_dim % quant_block != 0))
    return "quant_block=" + text(quant_block) + " does not divide head_dim=" + text(head_dim);
  if (quant_block > 0 && value_bytes() % 4 != 0)
    return "block_size=" + text(block_size) + " and head_dim=" + text(head_dim) +
           " put the scales at byte " + text(value_bytes()) + ", which is not a multiple of 4";
  if (split < 0 || split >= head_dim) return "split=" + text(split) + " must lie below head_dim=" + text(head_dim);
  if (order == CacheOrder::kPreshuffled) {
    if (block_size % kTile != 0)
      return "block_size=" + text(block_size) + " is not a multiple of 16, which layout preshuffled needs: use row_major";
    for (const std::int64_t width : {split, head_dim - split})
      if (width * size_bytes(dtype) % kTile != 0)
        return "head_dim=" + text(head_dim) + (split > 0 ? " split=" + text(split) : "") +
               ": rows of " + text(width * size_bytes(dtype)) +
               " bytes are no multiple of the 16 that layout preshuffled needs: use row_major";
  }
  if (block_stride != 0 && block_stride < block_bytes())
    return "block_stride=" + text(block_stride) + " is less than the block's " + text(block_bytes()) + " bytes";
  if (block_stride % (quant_block > 0 ? 4 : size_bytes(dtype)) != 0)
    return "block_stride=" + text(block_stride) + " would misalign " + (quant_block > 0 ? "scales" : "values");
  return std::nullopt;
}

std::int64_t CacheLayout::value_offset(std::int64_t token, std::int64_t channel) const {
  const std::int64_t w = size_bytes(dtype);
  if (order == CacheOrder::kRowMajor) return (token * head_dim + channel) * w;
  if (split == 0) return tiled(token, channel * w, head_dim * w);
  if (channel < split) return tiled(token, channel * w, split * w);
  return block_size * split * w + tiled(token, (channel - split) * w, (head_dim - split) * w);
}

std::int64_t CacheLayout::scale_offset(std::int64_t token, std::int64_t channel) const {
  return value_bytes() + (token * scales() + channel / quant_block) * 4;
}

std::int64_t CacheLayout::value_at(std::int64_t slot, std::int64_t channel) const {
  return slot / block_size * stride() + value_offset(slot % block_size, channel);
}

std::int64_t CacheLayout::scale_at(std::int64_t slot, std::int64_t channel) const {
  return slot / block_size * stride() + scale_offset(slot % block_size, channel);
}

std::int64_t CacheLayout::run() const {
  return order == CacheOrder::kRowMajor ? head_dim : kTile / size_bytes(dtype);
}

CacheLayout::Place CacheLayout::place(std::int64_t offset) const {
  using Kind = Place::Kind;
  if (offset >= block_bytes()) return {Kind::kPadding, 0, 0, offset - block_bytes()};
  if (offset >= value_bytes()) {
    const std::int64_t i = (offset - value_bytes()) / 4;
    return {Kind::kScale, i / scales(), i % scales() * quant_block, (offset - value_bytes()) % 4};
  }
  const std::int64_t w = size_bytes(dtype), first = block_size * split * w;
  std::int64_t token = 0, b = 0, from = 0;
  if (order == CacheOrder::kRowMajor) {
    token = offset / (head_dim * w), b = offset % (head_dim * w);
  } else if (split == 0) {
    untiled(offset, head_dim * w, token, b);
  } else if (offset < first) {
    untiled(offset, split * w, token, b);
  } else {
    untiled(offset - first, (head_dim - split) * w, token, b);
    from = split;
  }
  return {Kind::kValue, token, from + b / w, b % w};
}

std::string CacheLayout::describe(std::int64_t cache_offset) const {
  const Place p = place(cache_offset % stride());
  const std::string block = "block " + text(cache_offset / stride());
  if (p.kind == Place::Kind::kPadding) return block + ", padding byte " + text(p.byte);
  return block + ", token " + text(p.token) + (p.kind == Place::Kind::kScale ? ", scale of channel " : ", channel ") +
         text(p.channel);
}

std::string CacheLayout::str() const {
  std::string s = std::string(name(order)) + ":" + std::string(name(dtype)) + ":" + text(block_size) + "x" + text(head_dim);
  if (quant_block != 0) s += ":q" + text(quant_block);
  if (split != 0) s += ":split" + text(split);
  if (block_stride != 0) s += ":stride" + text(block_stride);
  return s;
}

std::optional<CacheLayout> parse_cache_layout(std::string_view given, std::string* why) {
  const auto refuse = [&](std::string reason) {
    if (why != nullptr) *why = std::move(reason);
    return std::nullopt;
  };
  CacheLayout l;
  int position = 0;
  for (std::string_view rest = given; position == 0 || !rest.empty(); ++position) {
    const std::size_t end = rest.find(':');
    const std::string_view word = rest.substr(0, end);
    rest = end == std::string_view::npos ? std::string_view() : rest.substr(end + 1);
    const auto bad = [&](const char* form) {
      return refuse("'" + std::string(word) + "' in layout '" + std::string(given) + "' is not " + form);
    };
    if (position == 0) {
      if (word != name(CacheOrder::kRowMajor) && word != name(CacheOrder::kPreshuffled))
        return bad("row_major or preshuffled");
      l.order = word == name(CacheOrder::kRowMajor) ? CacheOrder::kRowMajor : CacheOrder::kPreshuffled;
    } else if (position == 1) {
      if (!parse_dtype(word, l.dtype)) return bad("a dtype (e4m3fn, bf16, ...)");
    } else if (position == 2) {
      const std::size_t x = word.find('x');
      const auto tokens = number_after(word.substr(0, x), "");
      const auto dim = x == std::string_view::npos ? std::nullopt : number_after(word.substr(x), "x");
      if (!tokens || !dim) return bad("TOKENSxCHANNELS, as 64x128");
      l.block_size = *tokens, l.head_dim = *dim;
    } else if (const auto q = number_after(word, "q")) {
      l.quant_block = *q;
    } else if (const auto split = number_after(word, "split")) {
      l.split = *split;
    } else if (const auto stride = number_after(word, "stride")) {
      l.block_stride = *stride;
    } else {
      return bad("qN, splitN or strideN");
    }
  }
  if (position < 3) return refuse("layout '" + std::string(given) + "' is too short: write ORDER:DTYPE:TOKENSxCHANNELS");
  if (auto reason = l.check()) return refuse(*reason);
  return l;
}

}  // namespace moecheck::reference

#include "optimized/cpu/mqa_logits_plan.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <numeric>
#include <stdexcept>
#include <string>

namespace moecheck::MOECHECK_OPTIMIZED {
namespace {

using reference::CacheLayout;
using reference::CacheOrder;
using reference::LogitsForm;
using reference::TokenRange;

std::int64_t blocks_of(std::int64_t tokens, std::int64_t block) { return (tokens + block - 1) / block; }

[[noreturn]] void refuse(const std::string& tensor, std::int64_t i, std::int64_t value,
                         const std::string& why) {
  throw std::invalid_argument(tensor + "[" + std::to_string(i) + "] is " + std::to_string(value) + ": " +
                              why);
}

// The layout that is read by, where a planted fault takes another.
CacheLayout layout_read(const CacheLayout& layout) {
  if (!fault(Fault::kLogitsOtherLayout)) return layout;
  CacheLayout other = layout;
  other.order = layout.order == CacheOrder::kRowMajor ? CacheOrder::kPreshuffled : CacheOrder::kRowMajor;
  return other.check() ? layout : other;
}

// What faults in the mask make of a row.
TokenRange masked(const reference::MqaLogitsOptions& o, TokenRange seen, std::int64_t row) {
  const std::int64_t b = o.layout.block_size, last = seen.last;
  if (o.form == LogitsForm::kRagged) {
    if (fault(Fault::kLogitsStartIgnored)) seen.first = seen.base;
    return seen;
  }
  if (fault(Fault::kLogitsMaskOnePast)) seen.last = last + 1;
  if (fault(Fault::kLogitsNextNReversed) && !o.lengths_2d)
    seen.last = last + o.next_n - 1 - 2 * (row % o.next_n);  // ctx - j instead of ctx - next_n + j + 1
  if (fault(Fault::kLogitsWholeBlocks)) seen.last = blocks_of(last, b) * b;
  if (fault(Fault::kLogitsPartialBlockLost)) seen.last = last / b * b;
  seen.last = std::clamp<std::int64_t>(seen.last, 0, o.width);
  return seen;
}

}  // namespace

MqaLogitsPlan::MqaLogitsPlan(const reference::MqaLogitsOptions& o, const reference::MqaLogitsInputs& in)
    : o_(o), in_(in), layout_(layout_read(o.layout)) {
  const bool paged = o.form == LogitsForm::kPaged;
  if (!paged) check_ragged();
  for (std::int64_t r = 0; r < o.rows(); ++r) rows_.push_back(reference::tokens_seen(o, in, r));
  if (paged) check_paged();
  for (std::int64_t i = 0; i < o.requests && paged; ++i) {
    lengths_.push_back(0);
    for (std::int64_t j = 0; j < o.next_n; ++j)
      lengths_.back() = std::max(lengths_.back(), row(i * o.next_n + j).last);
    if (!o.lengths_2d) lengths_.back() = in.context_lens.int_at(i);
  }
  table_stride_ = paged ? in.block_table.shape[1] : 0;
  if (fault(Fault::kLogitsTableStride) && !lengths_.empty())
    table_stride_ = blocks_of(*std::max_element(lengths_.begin(), lengths_.end()), o.layout.block_size);
  for (std::int64_t r = 0; r < o.rows(); ++r) rows_[static_cast<std::size_t>(r)] = masked(o, row(r), r);
  // Rows of a request share K, and without blocks all rows do.
  const std::int64_t group = paged ? o.next_n : o.rows();
  for (std::int64_t r = 0; r < o.rows(); r += group) add_chunks(r, group);
}

void MqaLogitsPlan::check_paged() const {
  const std::int64_t columns = in_.block_table.shape[1], blocks = in_.kv_cache.shape[0];
  for (std::int64_t i = 0; i < in_.context_lens.shape.numel(); ++i) {
    const std::int64_t length = in_.context_lens.int_at(i);
    if (length < 0 || length > o_.width)
      refuse("context_lens", i, length, "it must be 0 to the width of logits");
    const std::int64_t request = o_.lengths_2d ? i / o_.next_n : i,
                       needed = blocks_of(length, o_.layout.block_size);
    if (needed > columns) refuse("context_lens", i, length, "block_table has too few columns for it");
    for (std::int64_t m = 0; m < needed; ++m) {
      const std::int64_t at = request * columns + m, block = in_.block_table.as<std::int32_t>()[at];
      if (block < 0 || block >= blocks) refuse("block_table", at, block, "it is no block of the cache");
    }
  }
}

void MqaLogitsPlan::check_ragged() const {
  for (std::int64_t r = 0; r < o_.rows(); ++r) {
    const std::int64_t ks = in_.cu_seqlen_ks.int_at(r), ke = in_.cu_seqlen_ke.int_at(r);
    if (ks < 0 || ks > in_.k.shape[0]) refuse("cu_seqlen_ks", r, ks, "it is outside k");
    if (ke < 0 || ke > in_.k.shape[0]) refuse("cu_seqlen_ke", r, ke, "it is outside k");
    if (ke > ks && ke - (o_.compressed ? ks : 0) > o_.width)
      refuse("cu_seqlen_ke", r, ke, "logits are too narrow for it");
  }
}

void MqaLogitsPlan::add_chunks(std::int64_t first_row, std::int64_t count) {
  std::int64_t first = std::numeric_limits<std::int64_t>::max(), last = 0;
  for (std::int64_t r = first_row; r < first_row + count; ++r)
    if (row(r).size() > 0) first = std::min(first, row(r).first), last = std::max(last, row(r).last);
  for (; first < last; first += kChunkTokens)
    chunks_.push_back({first_row / o_.next_n, first_row, count, first, std::min(first + kChunkTokens, last)});
}

bool MqaLogitsPlan::read(const TokenChunk& chunk, std::int64_t n, std::uint8_t* codes, float& scale) const {
  if (o_.form == LogitsForm::kPaged) return read_paged(chunk.request, n, codes, scale);
  std::memcpy(codes, in_.k.as<std::uint8_t>() + n * layout_.head_dim,
              static_cast<std::size_t>(layout_.head_dim));
  scale = in_.k_scale.as<float>()[n];
  return true;
}

bool MqaLogitsPlan::read_paged(std::int64_t request, std::int64_t n, std::uint8_t* codes,
                               float& scale) const {
  const std::int64_t b = layout_.block_size, dim = layout_.head_dim, run = layout_.run(), t = n % b;
  // Masks that reach too far find zeros behind the request.
  if ((fault(Fault::kLogitsMaskOnePast) || fault(Fault::kLogitsNextNReversed)) &&
      n >= lengths_[static_cast<std::size_t>(request)])
    return false;
  const std::int64_t block = in_.block_table.as<std::int32_t>()[request * table_stride_ + n / b];
  if (fault(Fault::kLogitsTableStride) && (block < 0 || block >= in_.kv_cache.shape[0])) return false;
  const std::int64_t base = block * layout_.stride();
  // Buffer loads with 32-bit offsets give 0 outside.
  if (fault(Fault::kLogitsOffset32) && base > std::numeric_limits<std::int32_t>::max()) return false;
  const auto* bytes = in_.kv_cache.as<std::uint8_t>() + base;
  CacheLayout values = layout_, scales = layout_;
  if (fault(Fault::kLogitsTileStride128) && layout_.order == CacheOrder::kPreshuffled)
    values.head_dim = std::max<std::int64_t>(dim, 128);
  if (fault(Fault::kLogitsTileStride128)) values.split = 0;
  for (std::int64_t c = 0; c < dim; c += run) {
    const std::int64_t count = std::min(run, dim - c), offset = values.value_offset(t, c);
    if (fault(Fault::kLogitsTileStride128) && base + offset + count > in_.kv_cache.shape.numel())
      return false;
    std::memcpy(codes + c, bytes + offset, static_cast<std::size_t>(count));
  }
  std::int64_t scale_at = layout_.scale_offset(t, 0);
  if (fault(Fault::kLogitsScaleBehindToken)) {
    // As the shape [blocks, block_size, head_dim + 4] suggests: every token a block of its own.
    scales.order = CacheOrder::kRowMajor, scales.block_size = 1, scales.block_stride = 0;
    if (!scales.check()) scale_at = scales.scale_at(t, 0);
  }
  std::memcpy(&scale, bytes + scale_at, sizeof scale);
  return true;
}

void select_topk(ConstView logits, std::int64_t first, std::int64_t n, std::int64_t topk, std::int32_t* out) {
  std::vector<float> value(static_cast<std::size_t>(n));
  for (std::int64_t i = 0; i < n; ++i) {
    const auto v = static_cast<float>(logits.at(first + i));
    value[static_cast<std::size_t>(i)] = std::isnan(v) ? -INFINITY : v;  // a NaN would leave no order
  }
  if (fault(Fault::kTopkDropsTail)) n = n / 16 * 16;
  std::vector<std::int32_t> order(static_cast<std::size_t>(n));
  std::iota(order.begin(), order.end(), 0);
  const std::int64_t count = std::min(n, topk);
  const auto better = [&](std::int32_t a, std::int32_t b) {
    const float x = value[static_cast<std::size_t>(a)], y = value[static_cast<std::size_t>(b)];
    return x != y ? x > y : a < b;
  };
  if (count < n) std::nth_element(order.begin(), order.begin() + count, order.end(), better);
  std::sort(order.begin(), order.begin() + count);
  std::copy_n(order.begin(), count, out);
  if (fault(Fault::kTopkRepeats) && count > 1) out[count - 1] = out[0];
  std::fill(out + count, out + topk, fault(Fault::kTopkPadsWithZero) ? 0 : -1);
}

}  // namespace moecheck::MOECHECK_OPTIMIZED

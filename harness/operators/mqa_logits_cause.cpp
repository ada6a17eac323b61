// The likely cause of wrong logits: what a known mistake would have given is computed, and compared with what was given.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <functional>

#include "harness/operators/mqa_logits.h"

namespace moecheck::harness {
namespace {

using reference::CacheLayout;
using reference::CacheOrder;
using reference::LogitsTail;
using reference::MqaLogitsInputs;
using reference::MqaLogitsOptions;
using reference::TokenRange;

// A mistake, as the change it makes to the computation.
struct Mistake {
  std::string words;
  int scale_power = 1;
  bool relu = true;
  std::int64_t heads = 0;  // of those that count
  std::optional<CacheLayout> layout;
  bool scale_behind_token = false;
  bool groups_of_128 = false;  // channels, in a preshuffled cache
  std::int64_t table_stride = 0;
  std::optional<DType> key_dtype, query_dtype;
  bool weights_in_bf16 = false, dot_in_bf16 = false;
  std::int64_t (*weights_row)(std::int64_t row, std::int64_t next_n) = nullptr;
};

// What the kernel would have given; NaN where it would have read outside the cache.
class WrongLogits {
 public:
  WrongLogits(const MqaLogitsOptions& o, const MqaLogitsInputs& in, const Mistake& m)
      : o_(o), in_(in), m_(m) {
    if (m.layout) o_.layout = *m.layout;
    if (m.table_stride > 0) in_.block_table.shape.dim[1] = m.table_stride;
    codes_.resize(at(o.layout.head_dim));
  }

  double at_token(std::int64_t row, std::int64_t n) {
    const std::int64_t request = row / o_.next_n, dim = o_.layout.head_dim;
    double scale = 0;
    if (!read(request, n, scale)) return kNaN;
    const std::int64_t weights_row = m_.weights_row != nullptr ? m_.weights_row(row, o_.next_n) : row;
    const DType key = m_.key_dtype.value_or(o_.layout.dtype),
                query = m_.query_dtype.value_or(o_.layout.dtype);
    std::vector<double> k(at(dim));
    for (std::int64_t c = 0; c < dim; ++c) k[at(c)] = reference::decode(key, codes_[at(c)]);
    double sum = 0;
    for (std::int64_t h = 0; h < m_.heads; ++h) {
      double dot = 0;
      const auto* q = in_.q.as<std::uint8_t>() + (row * o_.heads + h) * dim;
      for (std::int64_t c = 0; c < dim; ++c) dot += reference::decode(query, q[c]) * k[at(c)];
      if (m_.dot_in_bf16 || o_.dot_in_bf16) dot = reference::round_to(DType::kBF16, dot);
      const double w = in_.weights.at(weights_row, h);
      sum += (m_.relu && dot < 0 ? 0 : dot) * (m_.weights_in_bf16 ? reference::round_to(DType::kBF16, w) : w);
    }
    return sum * std::pow(scale, m_.scale_power);
  }

 private:
  bool read(std::int64_t request, std::int64_t n, double& scale) {
    if (o_.form == reference::LogitsForm::kPaged) {
      const std::int64_t b = o_.layout.block_size, entry = request * in_.block_table.shape[1] + n / b;
      const std::int64_t block = in_.block_table.int_at(entry);
      if (block < 0 || block >= in_.kv_cache.shape[0]) return false;
      scale = reference::read_token(o_, in_, request, n, codes_.data());
      if (m_.groups_of_128 && !read_groups_of_128(block, n % b)) return false;
      if (!m_.scale_behind_token) return true;
      CacheLayout token = o_.layout;
      token.order = CacheOrder::kRowMajor, token.block_size = 1, token.block_stride = 0;
      float s = 0;
      std::memcpy(&s, in_.kv_cache.as<std::uint8_t>() + block * o_.layout.stride() + token.scale_at(n % b, 0),
                  sizeof s);
      scale = s;
      return true;
    }
    scale = reference::read_token(o_, in_, request, n, codes_.data());
    return true;
  }

  bool read_groups_of_128(std::int64_t block, std::int64_t token) {
    CacheLayout wide = o_.layout;
    wide.head_dim = wide.quant_block = 128, wide.block_stride = 0;
    for (std::int64_t c = 0; c < o_.layout.head_dim; c += wide.run()) {
      const std::int64_t offset = wide.value_offset(token, c),
                         run = std::min(wide.run(), o_.layout.head_dim - c);
      if (block * o_.layout.stride() + offset + run > in_.kv_cache.shape.numel()) return false;
      std::memcpy(codes_.data() + c, in_.kv_cache.as<std::uint8_t>() + block * o_.layout.stride() + offset,
                  at(run));
    }
    return true;
  }

  MqaLogitsOptions o_;
  MqaLogitsInputs in_;
  const Mistake& m_;
  std::vector<std::uint8_t> codes_;
};

void add_paged_mistakes(const MqaLogitsOptions& o, const MqaLogitsInputs& in, std::vector<Mistake>& all,
                        const Mistake& none) {
  const auto add = [&](std::string words) -> Mistake& {
    all.push_back(none);
    all.back().words = std::move(words);
    return all.back();
  };
  CacheLayout other = o.layout;
  other.order = o.layout.order == CacheOrder::kRowMajor ? CacheOrder::kPreshuffled : CacheOrder::kRowMajor;
  if (!other.check())
    add(fmt::format("the cache was read as {}, and it is {}: writer and reader must agree on the layout "
                    "(vllm#52109, vllm#50455)",
                    name(other.order), name(o.layout.order)))
        .layout = other;
  CacheLayout token = o.layout;
  token.order = CacheOrder::kRowMajor, token.block_size = 1, token.block_stride = 0;
  if (o.layout.block_size > 1 && !token.check())
    add("a token's scale was read behind its values, as kv_cache[..., head_dim:] suggests: the scales lie "
        "behind the values of "
        "the whole block")
        .scale_behind_token = true;
  if (o.layout.order == CacheOrder::kPreshuffled && o.layout.head_dim < 128 && o.layout.block_size > 16)
    add(fmt::format("groups of 16 tokens were taken to be 16*128 bytes apart, and with head_dim={} they are "
                    "{}: the gluon reader is "
                    "right for head_dim=128 alone",
                    o.layout.head_dim, o.layout.value_offset(16, 0)))
        .groups_of_128 = true;
  std::int64_t needed = 0;
  for (std::int64_t r = 0; r < o.rows(); ++r)
    needed = std::max(needed, ceil_div(reference::tokens_seen(o, in, r).last, o.layout.block_size));
  if (needed > 0 && needed < in.block_table.shape[1])
    add(fmt::format("rows of block_table were taken to be {} entries apart, as many as the longest request "
                    "needs: they are {} "
                    "(vllm#55109)",
                    needed, in.block_table.shape[1]))
        .table_stride = needed;
}

std::vector<Mistake> known_mistakes(const MqaLogitsOptions& o, const MqaLogitsInputs& in) {
  Mistake none;
  none.heads = o.heads;
  std::vector<Mistake> all;
  const auto add = [&](std::string words) -> Mistake& {
    all.push_back(none);
    all.back().words = std::move(words);
    return all.back();
  };
  add("K's scale was not multiplied in").scale_power = 0;
  add("K's scale was multiplied in twice").scale_power = 2;
  add("relu is missing: negative q.k count").relu = false;
  add("row i next_n + j took the weights of row i: weights have a row for each query row").weights_row =
      [](std::int64_t row, std::int64_t next_n) { return row / next_n; };
  add("row i next_n + j took the weights of row j").weights_row = [](std::int64_t row, std::int64_t next_n) {
    return row % next_n;
  };
  add("all rows of a request took the weights of its first").weights_row =
      [](std::int64_t row, std::int64_t next_n) { return row / next_n * next_n; };
  if (o.dtype == DType::kF32) {
    add("weights were rounded to bf16").weights_in_bf16 = true;
    if (!o.dot_in_bf16)
      add("q.k was rounded to bf16, as a bf16 einsum does: its sum is fp32 (with dot=bf16 that is allowed)")
          .dot_in_bf16 = true;
  }
  for (const std::int64_t step : {4, 8, 16, 32})
    if (o.heads % step != 0 && o.heads > step)
      add(fmt::format("heads from {} on are left out: {} is no multiple of {}", o.heads / step * step,
                      o.heads, step))
          .heads = o.heads / step * step;
  const DType other = o.layout.dtype == DType::kE4M3FN ? DType::kE4M3FNUZ : DType::kE4M3FN;
  const std::string as =
      fmt::format("codes were read as {}, and they are {}", name(other), name(o.layout.dtype));
  add("K's " + as).key_dtype = other;
  add("q's " + as).query_dtype = other;
  Mistake& both = add("q's and K's " + as);
  both.key_dtype = both.query_dtype = other;
  if (o.form == reference::LogitsForm::kPaged) add_paged_mistakes(o, in, all, none);
  return all;
}

// Some of the logits, wrong ones among them, beside what was given.
struct Sample {
  std::int64_t row, n;
  double got;
  bool wrong;
};

bool close(double a, double b, double tolerance) { return std::fabs(a - b) <= tolerance; }

class Diagnosis {
 public:
  Diagnosis(const Case& c, const TensorSet& inputs, const reference::MqaLogits& want,
            const TensorSet& outputs)
      : o_(mqa_logits_options(c)),
        in_(mqa_logits_inputs(inputs)),
        want_(want),
        logits_(outputs.at("logits").view()) {
    collect();
  }

  std::string words() const {
    if (std::string w = zeros(); !w.empty()) return w;
    if (std::string w = mask(); !w.empty()) return w;
    if (std::string w = overrun(); !w.empty()) return w;
    for (const Mistake& m : known_mistakes(o_, in_))
      if (explains(m)) return m.words;
    return {};
  }

 private:
  void collect() {
    constexpr std::int64_t kRows = 12, kTokens = 40;
    for (std::int64_t i = 0; i < std::min(kRows, o_.rows()); ++i) {
      const std::int64_t r = i * o_.rows() / std::min(kRows, o_.rows());
      const TokenRange& seen = want_.range[at(r)];
      if (!want_.open[at(r)].empty()) continue;
      for (std::int64_t t = 0; t < std::min(kTokens, seen.size()); ++t) {
        const std::int64_t n = seen.first + t * seen.size() / std::min(kTokens, seen.size());
        const reference::Bounded& e = want_.logit[at(r)][at(n - seen.first)];
        const double got = at_column(r, n - seen.base);
        const double low = reference::round_to(o_.dtype, e.value - e.proven),
                     high = reference::round_to(o_.dtype, e.value + e.proven);
        samples_.push_back({r, n, got, !(got >= low && got <= high)});
        size_ = std::fmax(size_, std::fabs(e.value));
      }
    }
  }

  double at_column(std::int64_t row, std::int64_t col) const { return logits_.at(row * o_.row_stride + col); }
  double expected(const Sample& s) const {
    return want_.logit[at(s.row)][at(s.n - want_.range[at(s.row)].first)].value;
  }

  // The samples are what the mistake gives; a wrong one is among them, and it is not the right one within the tolerance. Mistakes
  // of rounding are told apart by a smaller one, and a few samples may have been rounded the other way.
  bool explains(const Mistake& m) const {
    const bool rounding = m.weights_in_bf16 || m.dot_in_bf16;
    WrongLogits wrong(o_, in_, m);
    std::int64_t told = 0, asked = 0, other = 0;
    for (const Sample& s : samples_) {
      const double want = wrong.at_token(s.row, s.n);
      if (!std::isfinite(want) || std::fabs(want) > 1e30) continue;  // garbage that was read, or nobody knows
      ++asked;
      const double tolerance = rounding ? 1e-5 * size_ : 0.01 * std::fabs(want) + 1e-4 * size_;
      other += !close(s.got, want, tolerance);
      told += s.wrong && !close(s.got, expected(s), tolerance);
    }
    return told > 0 && 4 * asked >= static_cast<std::int64_t>(samples_.size()) &&
           other <= (rounding ? asked / 10 : 0);
  }

  // Logits that are all the same number, or are it from some byte of the cache on.
  std::string zeros() const {
    std::int64_t zero = 0, nonzero_beyond = 0, far = 0, far_zero = 0, wrong = 0;
    for (const Sample& s : samples_) {
      zero += s.got == 0;
      wrong += s.wrong;
      if (o_.form != reference::LogitsForm::kPaged) continue;
      const std::int64_t block =
          in_.block_table.int_at(s.row / o_.next_n * in_.block_table.shape[1] + s.n / o_.layout.block_size);
      const bool beyond = block * o_.layout.stride() >= std::int64_t{1} << 31;
      far += beyond, far_zero += beyond && s.got == 0;
      nonzero_beyond += !beyond && s.wrong;
    }
    if (wrong == 0) return {};
    if (far > 0 && far == far_zero && nonzero_beyond == 0)
      return "logits of blocks that start at byte 2^31 of the cache or later are 0: a 32-bit offset "
             "(aiter#4774)";
    if (zero == static_cast<std::int64_t>(samples_.size()) && zero > 1)
      return "all logits are 0: top-k over them is arbitrary (vllm#52109)";
    return {};
  }

  // One behind the last column of the row that holds a number.
  std::int64_t numbers_end(std::int64_t row) const {
    std::int64_t end = o_.width;
    while (end > 0 && at_column(row, end - 1) == -INFINITY) --end;
    return end;
  }

  bool is_wrong(std::int64_t row, std::int64_t col) const {
    const TokenRange& seen = want_.range[at(row)];
    const std::int64_t n = col + seen.base;
    const double got = at_column(row, col);
    if (n < seen.first || n >= seen.last) return o_.tail != LogitsTail::kUndefined && got != -INFINITY;
    const reference::Bounded& e = want_.logit[at(row)][at(n - seen.first)];
    return !(got >= reference::round_to(o_.dtype, e.value - e.proven) &&
             got <= reference::round_to(o_.dtype, e.value + e.proven));
  }

  // Wrong elements lie where the last blocks of the rows before would run to, and nowhere else.
  std::string overrun() const {
    if (o_.form != reference::LogitsForm::kPaged) return {};
    const std::int64_t b = o_.layout.block_size;
    std::int64_t wrong = 0;
    for (std::int64_t r = 0; r < o_.rows(); ++r) {
      const std::int64_t reached = r == 0 ? 0 : ceil_div(want_.range[at(r - 1)].last, b) * b - o_.row_stride;
      for (std::int64_t col = 0; col < o_.width; ++col) {
        if (!is_wrong(r, col)) continue;
        if (col >= reached) return {};
        ++wrong;
      }
    }
    if (wrong == 0) return {};
    return fmt::format(
        "the stores of a row's last block run over its {} columns into the next row: nothing masks by the "
        "width",
        o_.width);
  }

  // Which columns hold numbers, against those that should.
  std::string mask() const {
    if (o_.tail == LogitsTail::kUndefined) return {};
    const std::string unwritten =
        "columns past a row's tokens are not written: either the kernel fills them with -Inf, or its caller "
        "has to (fill=prefilled)";
    bool right = true, one_past = true, reversed = true, whole = true, lost = true, none = true,
         from_start = true;
    const std::int64_t b = o_.layout.block_size;
    for (std::int64_t r = 0; r < o_.rows(); ++r) {
      const TokenRange& seen = want_.range[at(r)];
      const std::int64_t first = seen.first - seen.base, last = seen.last - seen.base, end = numbers_end(r);
      const std::int64_t turned = last + o_.next_n - 1 - 2 * (r % o_.next_n);
      for (std::int64_t col = 0; col < o_.width; ++col) {
        const bool number = at_column(r, col) != -INFINITY, inside = col >= first && col < last;
        right = right && number == inside;
        none = none && number;
        from_start = from_start && number == (col < last && seen.size() > 0);
      }
      one_past = one_past && end == std::min(last + 1, o_.width);
      reversed = reversed && end == std::clamp<std::int64_t>(turned, 0, o_.width);
      whole = whole && end == std::min(ceil_div(last, b) * b, o_.width);
      lost = lost && end == last / b * b;
    }
    if (right) return {};
    if (none) return unwritten;
    if (o_.form == reference::LogitsForm::kRagged)
      return from_start ? "rows see the tokens before their cu_seqlen_ks: those of the requests before" : "";
    if (one_past) return "rows have one column too many: the mask says n <= length where it means n < length";
    if (reversed)
      return "row j of next_n sees as many tokens as row next_n - 1 - j should: the causal limit is context "
             "- next_n + j, not "
             "context - j";
    if (whole)
      return "the whole last block has logits, with what lies behind the last token: nothing masks by the "
             "length";
    if (lost) return "tokens of a block that is not full have no logits";
    return {};
  }

  const MqaLogitsOptions o_;
  const MqaLogitsInputs in_;
  const reference::MqaLogits& want_;
  const ConstView logits_;
  std::vector<Sample> samples_;
  double size_ = 0;
};

// Indices that are right once the row's start is subtracted.
std::string topk_cause(const Case& c, const reference::MqaLogits& want, const TensorSet& outputs) {
  const MqaLogitsOptions o = mqa_logits_options(c);
  const Tensor* indices = outputs.find("topk_indices");
  if (indices == nullptr) return {};
  bool absolute = true, zero_padded = true, shifted = false;
  for (std::int64_t r = 0; r < o.rows(); ++r) {
    const auto* row = indices->view().as<std::int32_t>() + r * o.topk;
    std::vector<std::int32_t> relative(row, row + o.topk), padded = relative;
    const std::int64_t first = want.range[at(r)].first, count = std::min(o.topk, want.range[at(r)].size());
    for (std::int64_t k = 0; k < o.topk; ++k) {
      if (k < count) relative[at(k)] -= static_cast<std::int32_t>(first);
      if (k >= count && padded[at(k)] == 0) padded[at(k)] = -1;
    }
    shifted = shifted || first > 0;
    std::int64_t ties = 0;
    const auto right = [&](const std::vector<std::int32_t>& v) {
      return !reference::topk_fault(want.logit[at(r)], want.open[at(r)], v.data(), o.topk, &ties);
    };
    absolute = absolute && right(relative);
    zero_padded = zero_padded && right(padded);
  }
  if (absolute && shifted)
    return "topk_indices count from the first token of K: they count from the row's own first token";
  if (zero_padded)
    return "entries of topk_indices behind the row's tokens are 0: that is a token; they are -1";
  return {};
}

}  // namespace

std::string mqa_logits_cause(const Case& c, const TensorSet& inputs, const MqaLogitsExpected& expected,
                             const TensorSet& outputs) {
  std::string words = Diagnosis(c, inputs, expected.logits, outputs).words();
  return words.empty() ? topk_cause(c, expected.logits, outputs) : words;
}

}  // namespace moecheck::harness

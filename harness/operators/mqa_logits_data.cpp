// Inputs of mqa_logits: queries, weights, and K in a paged cache or contiguous.
#include <algorithm>
#include <cmath>
#include <cstring>

#include "harness/operators/indexer_cache.h"
#include "harness/operators/mqa_logits.h"

namespace moecheck::harness {
namespace {

using reference::IndexerQuant;
using reference::LogitsTail;
using reference::MqaLogitsOptions;

// More than this is left zero where nobody reads: zero pages cost nothing.
constexpr std::size_t kPoisonedBytes = std::size_t{64} << 20;

IndexerQuant quantizer(DType fp8) {
  IndexerQuant q;
  q.fp8 = fp8;
  q.divisor = reference::max_finite(fp8);
  return q;
}

// ---- Rows of codes

// Codes and the scale they are to be multiplied with.
struct CodeRow {
  std::vector<std::uint8_t> codes;
  double scale = 1;
};

class Codes {
 public:
  Codes(const Case& c, std::string_view stream)
      : c_(c),
        random_(c.seed, stream),
        fp8_(c.dtype("fp8")),
        quant_(quantizer(fp8_)),
        is_key_(stream == "k") {}

  // Row `row` of head_dim numbers.
  CodeRow row(std::int64_t row) const {
    const std::int64_t dim = c_.integer("head_dim"),
                       source = data_is(c_, "near_ties") && is_key_ ? row % 5 : row;
    CodeRow out;
    out.codes.resize(at(dim));
    if (data_is(c_, "integers") || data_is(c_, "negative") || data_is(c_, "large") ||
        data_is(c_, "subnormal_codes"))
      chosen(source, out);
    else
      quantized(source, out);
    const auto i = position(row, 0) + (std::uint64_t{1} << 50);
    if (is_key_ && (data_is(c_, "wide_scales") || data_is(c_, "integers")))
      out.scale = std::ldexp(1.0, static_cast<int>(data_is(c_, "integers") ? random_.integer(i, -3, 0)
                                                                           : random_.integer(i, -30, 30)));
    return out;
  }

 private:
  std::uint64_t position(std::int64_t row, std::int64_t c) const {
    return static_cast<std::uint64_t>(row * c_.integer("head_dim") + c);
  }
  std::uint8_t code(double v) const {
    return static_cast<std::uint8_t>(reference::encode(fp8_, v, reference::Overflow::kSaturate));
  }

  // Codes by kind of data, without a quantizer.
  void chosen(std::int64_t row, CodeRow& out) const {
    const double largest = reference::max_finite(fp8_), smallest = reference::min_subnormal(fp8_);
    for (std::size_t c = 0; c < out.codes.size(); ++c) {
      const std::uint64_t i = position(row, static_cast<std::int64_t>(c));
      const double sign = (random_.bits(i) >> 60 & 1) != 0 ? -1 : 1;
      double v = static_cast<double>(random_.integer(i, -2, 2));
      if (data_is(c_, "negative")) v = (is_key_ ? -1 : 1) * (0.5 + random_.uniform(i));
      if (data_is(c_, "large")) v = sign * (random_.integer(i, 0, 3) == 0 ? largest : largest / 2);
      if (data_is(c_, "subnormal_codes")) v = sign * smallest * static_cast<double>(random_.integer(i, 0, 7));
      out.codes[c] = code(v);
    }
    if (data_is(c_, "large") && is_key_) out.scale = 0x1p20;
  }

  // Normed channels, a few of them large, rows of different size, quantized as the cache is.
  void quantized(std::int64_t row, CodeRow& out) const {
    std::vector<float> x(out.codes.size());
    const Random gains(0, "indexer norm");
    const double size =
        std::ldexp(1 + random_.uniform(position(row, 0) + (std::uint64_t{1} << 49)),
                   static_cast<int>(random_.integer(position(row, 0) + (std::uint64_t{1} << 48), -2, 1)));
    for (std::size_t c = 0; c < x.size(); ++c) {
      const double gain = gains.integer(c, 0, 31) == 0 ? 4 : 0.5 + gains.uniform(c);
      x[c] = static_cast<float>(size * gain * random_.normal(position(row, static_cast<std::int64_t>(c))));
    }
    float scale = 0;
    const auto n = static_cast<std::int64_t>(x.size());
    reference::quantize_row(quant_, n, x.data(), n, out.codes.data(), &scale);
    out.scale = scale;
  }

  const Case& c_;
  const Random random_;
  const DType fp8_;
  const IndexerQuant quant_;
  const bool is_key_;
};

void fill_queries(const Case& c, TensorSet& inputs) {
  const std::int64_t heads = c.integer("heads"), dim = c.integer("head_dim");
  Tensor& q = inputs.at("q");
  const View weights = inputs.view("weights");
  const Codes codes(c, "q");
  const Random random(c.seed, "weights");
  for (std::int64_t i = 0; i < c.integer("tokens") * heads; ++i) {
    const CodeRow row = codes.row(i);
    std::memcpy(q.data() + i * dim, row.codes.data(), at(dim));
    const auto position = static_cast<std::uint64_t>(i);
    // Half of the heads speak against a token.
    double w = random.normal(position) * row.scale / std::sqrt(static_cast<double>(heads * dim));
    if (data_is(c, "integers"))
      w = std::ldexp((random.bits(position) & 1) != 0 ? 1 : -1,
                     static_cast<int>(random.integer(position, -1, 1)));
    weights.set(i, w);
  }
  const auto nan = static_cast<std::uint8_t>(c.dtype("fp8") == DType::kE4M3FN ? 0x7F : 0x80);
  for (const Edit& e : c.edits) {
    std::byte* row = q.data() + e.row * heads * dim;
    if (e.kind == "zero") std::memset(row, 0, at(heads * dim));
    if (e.kind == "nan") row[heads * dim / 2] = std::byte{nan};
  }
}

// ---- Lengths

std::int64_t request_length(const Case& c, std::int64_t request) {
  const std::int64_t context = c.integer("context"), b = c.integer("block_size");
  if (c.choice("contexts") == "full" || request == 0) return context;
  const Random random(c.seed, "context_lens");
  const auto i = static_cast<std::uint64_t>(request) * 2;
  if (c.choice("contexts") == "edges")
    return std::clamp<std::int64_t>(random.integer(i, 0, context / b) * b + random.integer(i + 1, -1, 1), 0,
                                    context);
  if (c.choice("contexts") == "short")
    return std::min(context, random.integer(i, 0, c.integer("next_n") + 1));
  return random.integer(i, std::min<std::int64_t>(1, context), context);
}

// Tokens that row j of the request sees.
std::int64_t row_length(const Case& c, std::int64_t request, std::int64_t j) {
  const std::int64_t length = request_length(c, request),
                     causal = std::max<std::int64_t>(0, length - c.integer("next_n") + j + 1);
  if (c.choice("lengths") == "1d" || c.choice("contexts") == "full") return causal;
  // With a length per row none follows from another.
  const Random random(c.seed, "row lengths");
  const auto i = static_cast<std::uint64_t>(request * c.integer("next_n") + j);
  return random.integer(i, 0, 1) == 0 ? causal : random.integer(i + (std::uint64_t{1} << 40), 0, length);
}

// ---- K

PagedCache paged_cache(const Case& c, const MqaLogitsOptions& o) {
  PagedCache p;
  p.layout = o.layout;
  for (std::int64_t i = 0; i < o.requests; ++i) p.lengths.push_back(request_length(c, i));
  p.blocks = mqa_blocks(c);
  p.columns = mqa_table_columns(c);
  p.share_prefix = data_is(c, "shared_prefix");
  return p;
}

// The blocks in use change places with the last ones of the pool, which lie behind 2^31 bytes.
void move_to_the_end(const PagedCache& p, View table) {
  std::int64_t last = p.blocks - 1;
  for (std::int64_t r = 0; r < table.shape[0]; ++r)
    for (std::int64_t i = 0; i < ceil_div(p.lengths[at(r)], p.layout.block_size); ++i)
      table.set_int(r * table.shape[1] + i, last--);
}

void fill_paged(const Case& c, const MqaLogitsOptions& o, TensorSet& inputs) {
  const PagedCache p = paged_cache(c, o);
  Tensor& cache = inputs.at("kv_cache");
  const View table = inputs.view("block_table"), lengths = inputs.view("context_lens");
  fill_block_table(p, Random(c.seed, "block_table"), table);
  if (data_is(c, "far_blocks")) move_to_the_end(p, table);
  for (std::int64_t i = 0; i < o.rows(); ++i)
    if (o.lengths_2d) lengths.set_int(i, row_length(c, i / o.next_n, i % o.next_n));
  for (std::int64_t i = 0; i < o.requests && !o.lengths_2d; ++i) lengths.set_int(i, p.lengths[at(i)]);

  // What no request reads is poison: NaN in every code and scale, or whatever bytes.
  if (data_is(c, "poison"))
    cache.fill(o.layout.dtype == DType::kE4M3FN ? 0xFF : 0x80);
  else if (cache.bytes() <= kPoisonedBytes)
    fill_bytes(cache, Random(c.seed, "kv_cache"));
  const Codes codes(c, "k");
  std::vector<bool> done(at(p.blocks * p.layout.block_size));
  for (std::int64_t i = 0; i < o.requests; ++i)
    for (std::int64_t n = 0; n < p.lengths[at(i)]; ++n) {
      const std::int64_t slot = slot_of(p, table, i, n);
      if (done[at(slot)]) continue;
      done[at(slot)] = true;
      const CodeRow row = codes.row(data_is(c, "far_blocks") ? i * c.integer("context") + n : slot);
      const auto scale = static_cast<float>(row.scale);
      reference::put_row(p.layout, reinterpret_cast<std::uint8_t*>(cache.data()), slot, row.codes.data(),
                         &scale);
    }
}

void fill_ragged(const Case& c, const MqaLogitsOptions& o, TensorSet& inputs) {
  Tensor &k = inputs.at("k"), &scales = inputs.at("k_scale");
  const View ks = inputs.view("cu_seqlen_ks"), ke = inputs.view("cu_seqlen_ke");
  std::int64_t first = 0;
  for (std::int64_t i = 0; i < o.requests; ++i) {
    for (std::int64_t j = 0; j < o.next_n; ++j) {
      ks.set_int(i * o.next_n + j, first);
      ke.set_int(i * o.next_n + j, first + row_length(c, i, j));
    }
    first += request_length(c, i);
  }
  const Codes codes(c, "k");
  const std::int64_t dim = o.layout.head_dim;
  k.fill(o.layout.dtype == DType::kE4M3FN ? 0xFF : 0x80);  // tokens behind the last request: NaN
  for (std::int64_t n = 0; n < k.shape()[0]; ++n) {
    const CodeRow row = codes.row(n);
    scales.view().set(n, n < first ? row.scale : kNaN);
    if (n < first) std::memcpy(k.data() + n * dim, row.codes.data(), at(dim));
  }
}

}  // namespace

void generate_mqa_logits(const Case& c, TensorSet& inputs) {
  const MqaLogitsOptions o = mqa_logits_options(c);
  fill_queries(c, inputs);
  if (is_paged(c))
    fill_paged(c, o, inputs);
  else
    fill_ragged(c, o, inputs);
  Tensor* logits = inputs.find("logits");
  if (logits == nullptr) return;
  fill_bytes(*logits, Random(c.seed, "logits"));
  for (std::int64_t r = 0; r < o.rows(); ++r)
    for (std::int64_t col = 0; col < o.width; ++col) logits->view().set(r * o.row_stride + col, -INFINITY);
}

}  // namespace moecheck::harness

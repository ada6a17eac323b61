// The whole way of the indexer: quantize and write keys, gather them, logits over the cache and over what was gathered, top-k. Each
// step is checked against keys in double precision that were never quantized, with what e4m3 may take from them as the bound.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <functional>
#include <numeric>
#include <random>

#include "optimized/cpu/indexer_cache.h"
#include "optimized/cpu/mqa_logits.h"
#include "reference/indexer_cache.h"
#include "reference/mqa_logits.h"

namespace moecheck::reference {
namespace {

constexpr std::int64_t kHeads = 6, kNextN = 2, kTopk = 12;
const std::vector<std::int32_t> kLengths = {75, 1, 0, 130, 64};

std::size_t at(std::int64_t i) { return static_cast<std::size_t>(i); }

struct World {
  CacheLayout layout;
  IndexerQuant quant;
  std::int64_t tokens = 0, columns = 0, blocks = 0;
  std::vector<std::uint16_t> k;  // bf16 [tokens, head_dim]
  std::vector<std::int64_t> slots;
  std::vector<std::int32_t> table, cu, ks, ke;
  std::vector<std::uint8_t> q, cache;
  std::vector<double> query;  // q, decoded
  std::vector<float> weights;

  std::int64_t requests() const { return static_cast<std::int64_t>(kLengths.size()); }
  std::int64_t rows() const { return requests() * kNextN; }
  double key(std::int64_t token, std::int64_t c) const {
    return load(DType::kBF16, k.data(), token * layout.head_dim + c);
  }
};

World make_world(const CacheLayout& layout, unsigned seed) {
  std::mt19937 rng(seed);
  std::normal_distribution<double> normal;
  World w;
  w.layout = layout;
  w.quant.fp8 = layout.dtype;
  w.quant.divisor = max_finite(layout.dtype);
  w.cu = {0};
  for (const std::int32_t n : kLengths) w.cu.push_back(w.cu.back() + n);
  w.tokens = w.cu.back();
  w.columns =
      (*std::max_element(kLengths.begin(), kLengths.end()) + layout.block_size - 1) / layout.block_size + 1;
  w.blocks = w.requests() * w.columns + 3;
  // Blocks in random order; entries behind a request's last block name nothing.
  std::vector<std::int32_t> order(at(w.blocks));
  std::iota(order.begin(), order.end(), 0);
  std::shuffle(order.begin(), order.end(), rng);
  std::size_t next = 0;
  for (const std::int32_t n : kLengths)
    for (std::int64_t m = 0; m < w.columns; ++m)
      w.table.push_back(m * layout.block_size < n ? order[next++] : -1);
  for (std::int64_t i = 0; i < w.requests(); ++i)
    for (std::int64_t p = 0; p < kLengths[at(i)]; ++p)
      w.slots.push_back(w.table[at(i * w.columns + p / layout.block_size)] * layout.block_size +
                        p % layout.block_size);
  for (std::int64_t t = 0; t < w.tokens; ++t) {
    const double size = std::exp2(normal(rng));
    for (std::int64_t c = 0; c < layout.head_dim; ++c)
      w.k.push_back(
          static_cast<std::uint16_t>(encode(DType::kBF16, size * normal(rng) * (c % 17 == 0 ? 5 : 1))));
  }
  for (std::int64_t i = 0; i < w.rows() * kHeads * layout.head_dim; ++i)
    w.q.push_back(static_cast<std::uint8_t>(encode(layout.dtype, 20 * normal(rng), Overflow::kSaturate)));
  for (const std::uint8_t code : w.q) w.query.push_back(decode(layout.dtype, code));
  for (std::int64_t i = 0; i < w.rows() * kHeads; ++i)
    w.weights.push_back(static_cast<float>(0.1 * normal(rng)));
  for (std::int64_t r = 0; r < w.rows(); ++r) {
    const std::int32_t first = w.cu[at(r / kNextN)];
    w.ks.push_back(first);
    w.ke.push_back(first + std::max(0, kLengths[at(r / kNextN)] - 1 + static_cast<std::int32_t>(r % kNextN)));
  }
  w.cache.resize(at(w.blocks * layout.stride()));
  for (std::uint8_t& byte : w.cache) byte = static_cast<std::uint8_t>(rng());
  return w;
}

// ---- The model: keys in double, and how far quantization may move what follows from them.

struct Interval {
  double value = 0, bound = 0;
};

// |fp8(k / scale) scale - k|: half a step of e4m3, which is 2^-4 of the number or half the smallest subnormal, and the roundings of
// scale and quotient.
using Errors = std::vector<double>;
Errors key_errors(const World& w) {
  Errors errors;
  for (std::int64_t t = 0; t < w.tokens; ++t) {
    double amax = 1e-4;
    for (std::int64_t c = 0; c < w.layout.head_dim; ++c) amax = std::max(amax, std::fabs(w.key(t, c)));
    const double floor = amax / w.quant.divisor * min_subnormal(w.layout.dtype) / 2;
    for (std::int64_t c = 0; c < w.layout.head_dim; ++c)
      errors.push_back(std::max(std::fabs(w.key(t, c)) * 0x1p-4, floor) * (1 + 0x1p-10) + amax * 0x1p-20);
  }
  return errors;
}

// Errors of channels are as good as independent, and uniform: eight standard deviations, unless the worst case is less.
double reached(const std::vector<double>& factor, const double* errors) {
  double worst = 0, variance = 0;
  for (std::size_t c = 0; c < factor.size(); ++c) {
    const double moved = std::fabs(factor[c]) * errors[c];
    worst += moved;
    variance += moved * moved / 3;
  }
  return std::min(worst, 8 * std::sqrt(variance));
}

// The error of channel c moves all heads that relu lets through together, by sum_h q_hc w_h; heads whose sign the errors may turn
// count apart, and relu moves nothing further.
Interval model_logit(const World& w, const Errors& errors, std::int64_t row, std::int64_t token) {
  const std::int64_t d = w.layout.head_dim;
  const double* error = errors.data() + token * d;
  std::vector<double> key(at(d)), together(at(d)), alone(at(d));
  for (std::int64_t c = 0; c < d; ++c) key[at(c)] = w.key(token, c);
  Interval sum;
  double magnitude = 0;
  for (std::int64_t h = 0; h < kHeads; ++h) {
    const double weight = w.weights[at(row * kHeads + h)];
    const double* q = w.query.data() + (row * kHeads + h) * d;
    double product = 0;
    for (std::int64_t c = 0; c < d; ++c) {
      product += q[c] * key[at(c)];
      alone[at(c)] = q[c];
      magnitude += (std::fabs(q[c] * key[at(c)]) + std::fabs(q[c]) * error[c]) * std::fabs(weight);
    }
    sum.value += std::max(product, 0.0) * weight;
    const double own = reached(alone, error);
    for (std::int64_t c = 0; c < d && product > own; ++c) together[at(c)] += q[c] * weight;
    if (std::fabs(product) <= own) sum.bound += own * std::fabs(weight);
  }
  sum.bound += reached(together, error) + magnitude * static_cast<double>(d + kHeads + 2) * 0x1p-24;
  return sum;
}

// ---- The chain, by the references and by the CPU versions

struct Result {
  std::vector<std::uint8_t> cache, dst_k;
  std::vector<float> dst_scale, paged, ragged;  // logits [rows, width]
  std::vector<std::int32_t> topk;
  std::int64_t width = 0;
};

MqaLogitsOptions options(const World& w, const CacheLayout& reader, bool ragged) {
  MqaLogitsOptions o;
  o.form = ragged ? LogitsForm::kRagged : LogitsForm::kPaged;
  o.layout = reader;
  o.heads = kHeads, o.requests = w.requests(), o.next_n = kNextN;
  o.compressed = ragged;
  o.width = o.row_stride = *std::max_element(kLengths.begin(), kLengths.end());
  o.topk = ragged ? 0 : kTopk;
  return o;
}

MqaLogitsInputs logits_inputs(const World& w, const Result& r, const CacheLayout& reader) {
  MqaLogitsInputs in;
  in.q = {w.q.data(), reader.dtype, Shape(w.rows(), kHeads, reader.head_dim)};
  in.weights = {w.weights.data(), DType::kF32, Shape(w.rows(), kHeads)};
  in.kv_cache = {r.cache.data(), DType::kU8, Shape(w.blocks, reader.stride())};
  in.block_table = {w.table.data(), DType::kI32, Shape(w.requests(), w.columns)};
  in.context_lens = {kLengths.data(), DType::kI32, Shape(w.requests())};
  in.k = {r.dst_k.data(), reader.dtype, Shape(w.tokens, reader.head_dim)};
  in.k_scale = {r.dst_scale.data(), DType::kF32, Shape(w.tokens)};
  in.cu_seqlen_ks = {w.ks.data(), DType::kI32, Shape(w.rows())};
  in.cu_seqlen_ke = {w.ke.data(), DType::kI32, Shape(w.rows())};
  return in;
}

void store(const MqaLogitsOptions& o, const MqaLogits& logits, std::vector<float>& out,
           std::vector<std::int32_t>* topk) {
  for (std::int64_t r = 0; r < o.rows(); ++r) {
    const auto& row = logits.logit[at(r)];
    for (std::size_t n = 0; n < row.size(); ++n) out[at(r * o.width) + n] = static_cast<float>(row[n].value);
    const auto best = topk_of(row, o.topk);
    if (topk != nullptr) topk->insert(topk->end(), best.begin(), best.end());
  }
}

// `reader` may differ from the layout that keys were written in.
Result run_chain(const World& w, const CacheLayout& reader, bool cpu) {
  Result r;
  r.cache = w.cache;
  const std::int64_t d = reader.head_dim;
  const ConstView k{w.k.data(), DType::kBF16, Shape(w.tokens, d)},
      slots{w.slots.data(), DType::kI64, Shape(w.tokens)};
  const PagedTable table{{w.table.data(), DType::kI32, Shape(w.requests(), w.columns)},
                         w.columns,
                         {w.cu.data(), DType::kI32, Shape(w.requests() + 1)}};
  r.dst_k.resize(at(w.tokens * d));
  r.dst_scale.resize(at(w.tokens));
  const MqaLogitsOptions paged = options(w, reader, false), ragged = options(w, reader, true);
  r.width = paged.width;
  r.paged.assign(at(w.rows() * r.width), -INFINITY), r.ragged = r.paged;
  if (!cpu) {
    indexer_k_quant_and_cache(w.quant, w.layout, k, d, slots, w.tokens, r.cache.data());
    cp_gather_indexer_k_quant_cache(reader, r.cache.data(), table, w.tokens, r.dst_k.data(),
                                    reinterpret_cast<std::uint8_t*>(r.dst_scale.data()));
    store(paged, mqa_logits(paged, logits_inputs(w, r, reader)), r.paged, &r.topk);
    store(ragged, mqa_logits(ragged, logits_inputs(w, r, reader)), r.ragged, nullptr);
    return r;
  }
  constexpr optimized::CpuOptions kThreads{3};
  optimized::indexer_k_quant_and_cache(w.quant, w.layout, k, d, slots, w.tokens,
                                       {r.cache.data(), DType::kU8, Shape(w.blocks, w.layout.stride())},
                                       kThreads);
  const MqaLogitsInputs in = logits_inputs(w, r, reader);
  optimized::cp_gather_indexer_k_quant_cache(reader, in.kv_cache, table, w.columns,
                                             {r.dst_k.data(), reader.dtype, in.k.shape},
                                             {r.dst_scale.data(), DType::kF32, Shape(w.tokens, 1)}, kThreads);
  r.topk.resize(at(w.rows() * kTopk));
  const Shape shape(w.rows(), r.width);
  optimized::mqa_logits(paged, in, {r.paged.data(), DType::kF32, shape},
                        {r.topk.data(), DType::kI32, Shape(w.rows(), kTopk)}, kThreads);
  optimized::mqa_logits(ragged, in, {r.ragged.data(), DType::kF32, shape}, {}, kThreads);
  return r;
}

// ---- The comparison

struct Faults {
  std::int64_t gathered = 0, paged = 0, ragged = 0, topk = 0, tail = 0;
  std::int64_t keys = 0, logits = 0;  // compared
  std::int64_t telling = 0;           // logits whose bound is less than half a typical logit
  std::int64_t total() const { return gathered + paged + ragged + topk + tail; }
};

void check_gathered(const World& w, const Errors& errors, const Result& r, Faults& f) {
  for (std::int64_t t = 0; t < w.tokens; ++t)
    for (std::int64_t c = 0; c < w.layout.head_dim; ++c) {
      const std::int64_t i = t * w.layout.head_dim + c;
      const double got = decode(w.layout.dtype, r.dst_k[at(i)]) * r.dst_scale[at(t)];
      ++f.keys;
      f.gathered += !(std::fabs(got - w.key(t, c)) <= errors[at(i)]);
    }
}

// The set of a row: a token may be missing only if one that was taken reaches it within both bounds.
bool wrong_set(const std::vector<Interval>& model, const std::int32_t* indices) {
  std::vector<bool> taken(model.size());
  const auto seen = static_cast<std::int64_t>(model.size());
  for (std::int64_t i = 0; i < kTopk; ++i) {
    if (i >= seen) {
      if (indices[i] != -1) return true;
      continue;
    }
    if (indices[i] < 0 || indices[i] >= seen || taken[at(indices[i])]) return true;
    taken[at(indices[i])] = true;
  }
  double lowest = INFINITY, missing = -INFINITY;
  for (std::size_t n = 0; n < model.size(); ++n) {
    if (taken[n]) lowest = std::min(lowest, model[n].value + model[n].bound);
    if (!taken[n]) missing = std::max(missing, model[n].value - model[n].bound);
  }
  return lowest < missing;
}

Faults compare(const World& w, const Result& r) {
  Faults f;
  const Errors errors = key_errors(w);
  check_gathered(w, errors, r, f);
  for (std::int64_t row = 0; row < w.rows(); ++row) {
    std::vector<Interval> model;
    for (std::int64_t n = w.ks[at(row)]; n < w.ke[at(row)]; ++n)
      model.push_back(model_logit(w, errors, row, n));
    double squares = 0;
    for (const Interval& e : model) squares += e.value * e.value;
    const double typical = model.empty() ? 0 : std::sqrt(squares / static_cast<double>(model.size()));
    for (std::int64_t col = 0; col < r.width; ++col) {
      const float paged = r.paged[at(row * r.width + col)], ragged = r.ragged[at(row * r.width + col)];
      if (at(col) >= model.size()) {
        f.tail += paged != -INFINITY || ragged != -INFINITY;
        continue;
      }
      const Interval& e = model[at(col)];
      ++f.logits;
      f.telling += e.bound < typical / 2;
      f.paged += !(std::fabs(paged - e.value) <= e.bound);
      f.ragged += !(std::fabs(ragged - e.value) <= e.bound);
    }
    f.topk += wrong_set(model, r.topk.data() + row * kTopk);
  }
  return f;
}

std::vector<CacheLayout> layouts() {
  std::vector<CacheLayout> all;
  for (const DType dtype : {DType::kE4M3FN, DType::kE4M3FNUZ})
    for (const CacheOrder order : {CacheOrder::kRowMajor, CacheOrder::kPreshuffled})
      for (const std::int64_t block : {1, 16, 64, 256}) {
        CacheLayout l{
            .order = order, .dtype = dtype, .block_size = block, .head_dim = 128, .quant_block = 128};
        if (dtype == DType::kE4M3FNUZ) l.head_dim = l.quant_block = 64;
        if (block == 16) l.block_stride = l.block_bytes() + 48;
        if (!l.check()) all.push_back(l);
      }
  return all;
}

TEST(IndexerChain, AgreesWithKeysInDoubleInEveryLayout) {
  ASSERT_EQ(layouts().size(), 14U);
  unsigned seed = 1;
  for (const CacheLayout& layout : layouts()) {
    const World w = make_world(layout, seed++);
    const Result reference = run_chain(w, layout, false), cpu = run_chain(w, layout, true);
    for (const Result* r : {&reference, &cpu}) {
      const Faults f = compare(w, *r);
      EXPECT_EQ(f.total(), 0) << layout.str() << (r == &cpu ? " cpu" : " reference") << ": gathered "
                              << f.gathered << " paged " << f.paged << " ragged " << f.ragged << " top-k "
                              << f.topk << " tail " << f.tail;
      EXPECT_GT(f.telling, f.logits * 7 / 10) << "bounds so wide that they would pass anything";
      // What was gathered gives what the cache gives, bit for bit.
      EXPECT_EQ(std::memcmp(r->paged.data(), r->ragged.data(), r->paged.size() * 4), 0) << layout.str();
    }
    EXPECT_EQ(reference.cache, cpu.cache) << layout.str();
    EXPECT_EQ(reference.dst_k, cpu.dst_k) << layout.str();
  }
}

TEST(IndexerChain, LogitsDoNotDependOnTheLayout) {
  std::vector<float> first;
  for (const CacheLayout& layout : layouts()) {
    if (layout.dtype != DType::kE4M3FN) continue;
    World w = make_world(layout, 7);
    // Shuffling blocks draws more or fewer random numbers: keys and queries are those of one world.
    const World source = make_world(layouts()[0], 7);
    w.k = source.k, w.q = source.q, w.query = source.query, w.weights = source.weights;
    const Result r = run_chain(w, layout, true);
    if (first.empty()) first = r.paged;
    EXPECT_EQ(std::memcmp(first.data(), r.paged.data(), first.size() * 4), 0) << layout.str();
  }
}

// A flat writer with a shuffled reader, and the reverse (vllm#52109, vllm#50455).
TEST(IndexerChain, CrossedLayoutsAreCaughtAtEveryStep) {
  for (const CacheLayout& layout : layouts()) {
    CacheLayout reader = layout;
    reader.order = layout.order == CacheOrder::kRowMajor ? CacheOrder::kPreshuffled : CacheOrder::kRowMajor;
    if (reader.check()) continue;  // blocks of one token are the same in both
    const World w = make_world(layout, 11);
    for (const bool cpu : {false, true}) {
      const Faults f = compare(w, run_chain(w, reader, cpu));
      EXPECT_GT(f.gathered, f.keys / 2) << layout.str();
      EXPECT_GT(f.paged, f.logits / 4) << layout.str();
      EXPECT_GT(f.ragged, f.logits / 4) << layout.str();
      EXPECT_GT(f.topk, 0) << layout.str();
      EXPECT_EQ(f.tail, 0) << layout.str();
    }
  }
}

// Other ways to connect the steps wrongly.
TEST(IndexerChain, WrongWiringIsCaught) {
  const CacheLayout layout{
      .order = CacheOrder::kPreshuffled, .block_size = 16, .head_dim = 128, .quant_block = 128};
  const auto faults = [&](const std::function<void(World&)>& before,
                          const std::function<void(Result&)>& after) {
    World w = make_world(layout, 5);
    World written = w;
    before(written);
    Result r = run_chain(written, layout, true);
    after(r);
    return compare(w, r);
  };
  const auto nothing = [](auto&) {};
  EXPECT_EQ(faults(nothing, nothing).total(), 0);
  // Codes of the other format.
  EXPECT_GT(faults([](World& w) { w.quant.fp8 = DType::kE4M3FNUZ, w.quant.divisor = 240; }, nothing).paged,
            0);
  // One token written to the slot beside its own.
  EXPECT_GT(faults([](World& w) { std::swap(w.slots[3], w.slots[4]); }, nothing).gathered, 0);
  // Top-k of another row.
  EXPECT_GT(
      faults(nothing, [](Result& r) { std::rotate(r.topk.begin(), r.topk.begin() + kTopk, r.topk.end()); })
          .topk,
      0);
}

}  // namespace
}  // namespace moecheck::reference

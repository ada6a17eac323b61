#include "optimized/cpu/mla_prepare.h"

#include <algorithm>
#include <cstring>
#include <stdexcept>
#include <string>

#include "optimized/cpu/aligned.h"
#include "optimized/cpu/mla_prepare_rows.h"
#include "optimized/cpu/thread_pool.h"

namespace moecheck::MOECHECK_OPTIMIZED {
namespace {

using reference::CacheLayout;
using reference::CacheOrder;
using reference::CacheScaling;
using reference::CastOverflow;
using reference::MlaPrepareInputs;
using reference::MlaPrepareOptions;
using reference::MlaPrepareOutputs;
using reference::PaddedQuery;
using reference::RopeRounding;
using reference::RopeStyle;

constexpr std::int64_t kRowsOfTask = 8;

std::int64_t padded(std::int64_t n) { return (n + kMlaPadding - 1) / kMlaPadding * kMlaPadding; }
std::size_t bytes_of(std::int64_t n) { return static_cast<std::size_t>(n); }

// One thread's working memory. Parts of a row are kept apart, so that both begin aligned.
struct Scratch {
  AlignedFloats nope, pe, partner, rotated, cos, sin, table;
  Aligned<char> row;  // a row in the dtype of its destination

  explicit Scratch(const MlaPrepareOptions& o)
      : nope(padded(o.nope_dim)),
        pe(padded(o.rope.dim)),
        partner(padded(o.rope.dim)),
        rotated(padded(o.rope.dim)),
        cos(padded(o.rope.dim)),
        sin(padded(o.rope.dim)),
        table(padded(o.rope.dim)),
        row(4 * o.width()) {}
};

class Run {
 public:
  Run(const MlaPrepareInputs& in, const MlaPrepareOptions& o, const MlaPrepareOutputs& out)
      : in_(in),
        o_(o),
        written_(o),
        out_(out),
        rope_(rope_floats()),
        cast_(cast_floats()),
        load_(load_mla_floats()),
        size_(reference::size_bytes(in.q_nope.dtype)) {
    CacheLayout& layout = written_.layout;
    const bool shuffled = layout.order == CacheOrder::kPreshuffled;
    if (fault(Fault::kMlaFlatWriter)) layout.order = CacheOrder::kRowMajor;
    if (fault(Fault::kMlaOneRegion)) layout.split = 0;
    if (fault(Fault::kMlaStaleBlockSize) && shuffled && layout.block_size % 32 == 0) layout.block_size /= 2;
    written_.heads_first = fault(Fault::kMlaHeadsInterleaved) && !shuffled;
    q_plan_ = plan_of(in.q_scale, out.q_out.dtype);
    k_plan_ =
        plan_of(fault(Fault::kMlaScaleSkippedShuffled) && shuffled ? ConstView() : in.k_scale, layout.dtype);
    reference::RopeOptions rope = o.rope;
    if (fault(Fault::kMlaOtherRopeStyle))
      rope.style = rope.style == RopeStyle::kNeox ? RopeStyle::kGptj : RopeStyle::kNeox;
    if (fault(Fault::kMlaHalfOfFullTable)) rope.full_table = false;
    for (std::int64_t c = 0; c < rope.dim; ++c) terms_.push_back(rope_term(rope, c));
  }

  // Throws for what would be read or written outside a tensor. Returns whether two tokens have the same slot.
  bool check() const;
  void query(std::int64_t t, Scratch& s) const;
  void key(std::int64_t t, Scratch& s) const;
  void load_tables(std::int64_t t, Scratch& s) const;

 private:
  CastPlan plan_of(ConstView scale, DType dtype) const;
  CastPlan part_plan(CastPlan plan, CastOverflow overflow) const {
    plan.saturate = overflow != CastOverflow::kNaN;
    return plan;
  }
  std::int64_t position_of(std::int64_t t) const;
  void rotate(const float* x, Scratch& s, float* out) const;
  // A row of q or k as numbers of plan.dtype at `to`; `rotates`: its rope part is rotated. It stays in s.rotated.
  void make_row(ConstView nope, ConstView pe, std::int64_t row, bool rotates, bool copies,
                const CastPlan& plan, Scratch& s, char* to) const;
  void write_tiles(std::int64_t where, const char* row) const;

  const MlaPrepareInputs& in_;
  const MlaPrepareOptions& o_;
  MlaPrepareOptions written_;  // where the cache is written: o_, but for planted faults
  const MlaPrepareOutputs& out_;
  std::vector<reference::RopeTerm> terms_;  // of each channel
  RopeFloats rope_;
  CastFloats cast_;
  LoadMlaFloats load_;
  CastPlan q_plan_, k_plan_;
  std::int64_t size_;  // of T
};

CastPlan Run::plan_of(ConstView scale, DType dtype) const {
  CastPlan plan;
  plan.dtype = fault(Fault::kMlaFnCodesInFnuz) && dtype == DType::kE4M3FNUZ ? DType::kE4M3FN : dtype;
  if (!scale) return plan;
  const float s = scale.as<float>()[0];
  const bool divides = o_.scaling == CacheScaling::kDivide;
  plan.scale = divides ? CastPlan::Scale::kDivide : CastPlan::Scale::kMultiply;
  plan.factor = divides ? s : 1 / s;
  if (fault(Fault::kMlaScaleMultiplied)) plan.factor = 1 / plan.factor;
  return plan;
}

std::int64_t Run::position_of(std::int64_t t) const {
  if (fault(Fault::kMlaRowsForPositions)) return t % in_.cos.shape[0];
  const std::int64_t p = load_id(in_.positions, t);
  return o_.padded == PaddedQuery::kClamp ? std::clamp<std::int64_t>(p, 0, in_.cos.shape[0] - 1) : p;
}

bool Run::check() const {
  const std::int64_t slots = out_.kv_cache.shape.numel() / (o_.kv_heads * o_.width());
  std::vector<bool> taken(bytes_of(slots), false);
  bool duplicates = false;
  for (std::int64_t t = 0; t < in_.rows(); ++t) {
    const std::int64_t slot = load_id(in_.slot_mapping, t);
    if (slot >= slots)
      throw std::invalid_argument("slot_mapping[" + std::to_string(t) + "] = " + std::to_string(slot) +
                                  " lies outside the " + std::to_string(slots) + " slots of kv_cache");
    if (slot < 0) continue;
    duplicates = duplicates || taken[bytes_of(slot)];
    taken[bytes_of(slot)] = true;
  }
  for (std::int64_t t = 0; t < in_.tokens(); ++t) {
    if (!has_query(in_, o_, t)) continue;
    const std::int64_t p = position_of(t);
    if (p < 0 || p >= in_.cos.shape[0])
      throw std::invalid_argument("positions[" + std::to_string(t) + "] = " + std::to_string(p) +
                                  " lies outside the " + std::to_string(in_.cos.shape[0]) +
                                  " rows of cos and sin");
  }
  return duplicates;
}

// cos and sin as each channel needs them; sin with the sign of its term.
void Run::load_tables(std::int64_t t, Scratch& s) const {
  const std::int64_t width = in_.cos.shape[1], first = position_of(t) * width;
  const bool swapped = fault(Fault::kMlaCosSinSwapped);
  load_(swapped ? in_.sin : in_.cos, first, width, s.table.data());
  for (std::int64_t c = 0; c < o_.rope.dim; ++c) s.cos[c] = s.table[terms_[bytes_of(c)].table];
  load_(swapped ? in_.cos : in_.sin, first, width, s.table.data());
  for (std::int64_t c = 0; c < o_.rope.dim; ++c) {
    const reference::RopeTerm& term = terms_[bytes_of(c)];
    s.sin[c] = term.negative ? -s.table[term.table] : s.table[term.table];
  }
}

void Run::rotate(const float* x, Scratch& s, float* out) const {
  const std::int64_t dim = o_.rope.dim, half = dim / 2;
  const bool neox = (o_.rope.style == RopeStyle::kNeox) != fault(Fault::kMlaOtherRopeStyle);
  if (neox) {
    std::copy_n(x + half, half, s.partner.data());
    std::copy_n(x, half, s.partner.data() + half);
  } else {
    for (std::int64_t c = 0; c < dim; ++c) s.partner[c] = x[c ^ 1];
  }
  const bool per_op = o_.rope.rounding == RopeRounding::kPerOp && !fault(Fault::kMlaRoundsOnce);
  const bool stored = per_op || o_.rope.rounding == RopeRounding::kStored;
  rope_(x, s.partner.data(), s.cos.data(), s.sin.data(), dim, per_op ? o_.rope.dtype : DType::kF32,
        stored ? o_.rope.dtype : DType::kF32, out);
}

void Run::make_row(ConstView nope, ConstView pe, std::int64_t row, bool rotates, bool copies,
                   const CastPlan& plan, Scratch& s, char* to) const {
  const std::int64_t n = o_.nope_dim, p = o_.rope.dim, size = reference::size_bytes(plan.dtype);
  load_(pe, row * p, p, s.pe.data());
  if (fault(Fault::kMlaRotatesNope) && rotates && n >= p) {
    load_(nope, row * n, n, s.nope.data());
    std::copy_n(s.pe.data(), p, s.rotated.data());
    AlignedFloats first(padded(p));
    rotate(s.nope.data(), s, first.data());
    std::copy_n(first.data(), p, s.nope.data());
    cast_(s.nope.data(), n, part_plan(plan, o_.nope_overflow), to);
  } else if (copies) {
    std::memcpy(to, nope.as<char>() + row * n * size_, bytes_of(n * size_));
  } else {
    load_(nope, row * n, n, s.nope.data());
    cast_(s.nope.data(), n, part_plan(plan, o_.nope_overflow), to);
  }
  if (!rotates)
    std::copy_n(s.pe.data(), p, s.rotated.data());
  else if (!fault(Fault::kMlaRotatesNope) || n < p)
    rotate(s.pe.data(), s, s.rotated.data());
  CastPlan rope_plan = part_plan(plan, o_.rope_overflow);
  if (fault(Fault::kMlaRopePartUnscaled)) rope_plan.scale = CastPlan::Scale::kNone;
  if (fault(Fault::kMlaRopeCastUnclamped)) rope_plan.saturate = false;
  cast_(s.rotated.data(), p, rope_plan, to + n * size);
}

void Run::query(std::int64_t t, Scratch& s) const {
  if (!has_query(in_, o_, t)) return;
  if (fault(Fault::kMlaPaddedQuerySkipped) && load_id(in_.slot_mapping, t) < 0) return;
  const DType dtype = out_.q_out.dtype;
  const std::int64_t width = o_.width(), size = reference::size_bytes(dtype), p = o_.rope.dim;
  const bool copies = dtype == in_.q_nope.dtype && !in_.q_scale;
  const std::int64_t decoded = out_.decode_q_pe_out ? out_.decode_q_pe_out.shape[0] : 0;
  for (std::int64_t h = 0; h < o_.heads; ++h) {
    const std::int64_t row = t * o_.heads + h;
    const bool unwired = fault(Fault::kMlaQueryNotWired) && !copies;
    char* to = unwired ? s.row.data() : out_.q_out.as<char>() + row * width * size;
    make_row(in_.q_nope, in_.q_pe, row, true, copies, q_plan_, s, to);
    const bool decodes = fault(Fault::kMlaDecodeGate) ? h * in_.tokens() + t < decoded * o_.heads : true;
    CastPlan plan;
    plan.dtype = in_.q_nope.dtype;
    if (t < decoded && decodes)
      cast_(s.rotated.data(), p, plan, out_.decode_q_pe_out.as<char>() + row * p * size_);
  }
}

void Run::key(std::int64_t t, Scratch& s) const {
  std::int64_t slot = load_id(in_.slot_mapping, t);
  if (slot < 0 && fault(Fault::kMlaNegativeSlotWrites)) slot = 0;
  if (slot < 0) return;
  const bool rotates = t < in_.tokens() || (fault(Fault::kMlaPrefillRotated) && in_.tokens() > 0);
  const CacheLayout& layout = written_.layout;
  const bool in_place = layout.order == CacheOrder::kRowMajor;
  const bool copies = layout.dtype == in_.k_nope.dtype && k_plan_.scale == CastPlan::Scale::kNone;
  CastPlan plan;
  plan.dtype = in_.k_pe.dtype;
  for (std::int64_t g = 0; g < o_.kv_heads; ++g) {
    const std::int64_t where = cache_row(written_, slot, g);
    char* to = in_place ? out_.kv_cache.as<char>() + layout.value_at(where, 0) : s.row.data();
    make_row(in_.k_nope, in_.k_pe, t * o_.kv_heads + g, rotates, copies, k_plan_, s, to);
    if (!in_place) write_tiles(where, to);
    if (!out_.k_pe_out) continue;
    const float* pe = fault(Fault::kMlaKPeOutUnrotated) ? s.pe.data() : s.rotated.data();
    cast_(pe, o_.rope.dim, plan, out_.k_pe_out.as<char>() + (t * o_.kv_heads + g) * o_.rope.dim * size_);
  }
}

// A region of a preshuffled block is a chain of 16-byte runs at a constant distance.
void Run::write_tiles(std::int64_t where, const char* row) const {
  constexpr std::int64_t kRun = CacheLayout::kTile;
  const CacheLayout& layout = written_.layout;
  const std::int64_t run = layout.run();
  for (const auto& [begin, end] :
       {std::pair{std::int64_t{0}, o_.nope_dim}, std::pair{o_.nope_dim, o_.width()}}) {
    const std::int64_t first = layout.value_at(where, begin);
    const std::int64_t step = end - begin > run ? layout.value_at(where, begin + run) - first : 0;
    char* to = out_.kv_cache.as<char>() + first;
    for (std::int64_t c = begin; c < end; c += run, to += step, row += kRun) {
      if (fault(Fault::kMlaWholeTile)) std::memset(to - where % kRun * kRun, 0, kRun * kRun);
      std::memcpy(to, row, kRun);
    }
  }
}

}  // namespace

void mla_prepare(const MlaPrepareInputs& in, const MlaPrepareOptions& options, const MlaPrepareOutputs& out,
                 CpuOptions cpu) {
  const Run run(in, options, out);
  const bool duplicates = run.check() || fault(Fault::kMlaNegativeSlotWrites) || fault(Fault::kMlaWholeTile);
  std::vector<Scratch> scratch;
  for (int i = 0; i < std::max(cpu.threads, 1); ++i) scratch.emplace_back(options);
  const std::int64_t tokens = in.tokens(), rows = std::max(tokens, in.rows());
  parallel_for(cpu.threads, (rows + kRowsOfTask - 1) / kRowsOfTask, [&](std::int64_t task, int worker) {
    Scratch& s = scratch[static_cast<std::size_t>(worker)];
    for (std::int64_t t = task * kRowsOfTask; t < std::min(rows, (task + 1) * kRowsOfTask); ++t) {
      const bool queried = has_query(in, options, t) && !fault(Fault::kMlaStaleTables);
      const bool rotated = t < tokens && (queried || load_id(in.slot_mapping, t) >= 0);
      if (rotated || (fault(Fault::kMlaPrefillRotated) && tokens > 0))
        run.load_tables(std::min(t, tokens - 1), s);
      if (t < tokens) run.query(t, s);
      if (!duplicates) run.key(t, s);
    }
  });
  // Tokens that share a slot must not race for it: in order the last one wins, whatever the number of threads.
  for (std::int64_t t = 0; duplicates && t < rows; ++t) {
    if (t < tokens && load_id(in.slot_mapping, t) >= 0) run.load_tables(t, scratch[0]);
    run.key(t, scratch[0]);
  }
  if (out.q_nope_zeros_out && !fault(Fault::kMlaZerosMissing))
    std::memset(
        out.q_nope_zeros_out.data, 0,
        bytes_of(out.q_nope_zeros_out.shape.numel() * reference::size_bytes(out.q_nope_zeros_out.dtype)));
}

void concat_mla_absorb_q(ConstView q_nope, ConstView q_pe, View out, CpuOptions cpu) {
  const std::int64_t size = reference::size_bytes(out.dtype), heads = out.shape[1];
  const std::int64_t n = q_nope.shape[2] * size, p = q_pe.shape[2] * size;
  const LoadMlaFloats load = load_mla_floats();
  const CastFloats cast = cast_floats();
  parallel_for(cpu.threads, (out.shape[0] + kRowsOfTask - 1) / kRowsOfTask, [&](std::int64_t task, int) {
    const std::int64_t end = std::min(out.shape[0], (task + 1) * kRowsOfTask) * heads;
    for (std::int64_t row = task * kRowsOfTask * heads; row < end; ++row) {
      char* to = out.as<char>() + row * (n + p);
      std::memcpy(to, q_nope.as<char>() + row * n, bytes_of(n));
      std::memcpy(to + n, q_pe.as<char>() + row * p, bytes_of(p));
      if (fault(Fault::kMlaConcatThroughFloat)) {
        AlignedFloats floats(padded(q_nope.shape[2]));
        CastPlan plan;
        plan.dtype = out.dtype;
        load(q_nope, row * q_nope.shape[2], q_nope.shape[2], floats.data());
        cast(floats.data(), q_nope.shape[2], plan, to);
      }
    }
  });
}

QueryView cat_skip(ConstView q_cat, std::int64_t width, bool copy_strided) {
  const std::int64_t heads = q_cat.shape[1], row = q_cat.shape[2], size = reference::size_bytes(q_cat.dtype);
  QueryView view{q_cat.data, {heads * row, row, 1}, {}};
  if (fault(Fault::kMlaCatAssumesContiguous)) view.strides = {heads * width, width, 1};
  if (!(copy_strided && row > width) && !fault(Fault::kMlaCatCopies)) return view;
  view.copy.resize(bytes_of(q_cat.shape[0] * heads * width * size));
  for (std::int64_t r = 0; r < q_cat.shape[0] * heads; ++r)
    std::memcpy(view.copy.data() + r * width * size, q_cat.as<char>() + r * row * size,
                bytes_of(width * size));
  view.data = view.copy.data();
  view.strides = {heads * width, width, 1};
  return view;
}

}  // namespace moecheck::MOECHECK_OPTIMIZED

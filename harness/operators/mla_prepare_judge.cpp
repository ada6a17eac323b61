// Outputs of mla_prepare: copies byte for byte, rotated and scaled numbers against their bounds, and the rest of the cache
// unchanged.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstring>

#include "harness/fault.h"
#include "harness/judge.h"
#include "harness/operators/mla_prepare.h"

namespace moecheck::harness {
namespace {

using reference::CastOverflow;
using reference::MlaPrepareInputs;
using reference::MlaPrepareOptions;
using reference::Overflow;
using reference::RopeRounding;

bool is_fp8(DType d) { return reference::size_bytes(d) == 1; }

const std::byte* element(const Tensor& t, std::int64_t i) {
  return t.data() + i * reference::size_bytes(t.dtype());
}

// What is left to compare with a number once overflow is decided; nothing where NaN and the largest number are both right.
std::optional<Bounded> after_overflow(DType dtype, const Bounded& e, CastOverflow overflow) {
  if (!is_fp8(dtype) || std::isnan(e.value)) return e;
  const double largest = reference::max_finite(dtype), magnitude = std::fabs(e.value);
  const double high = std::isfinite(magnitude) ? magnitude + e.proven : magnitude, low = magnitude - e.proven;
  const bool may_overflow = std::isnan(reference::round_to(dtype, high)),
             overflows = std::isnan(reference::round_to(dtype, low));
  if (!may_overflow) return e;
  if (overflow == CastOverflow::kAny || (overflow == CastOverflow::kNaN && !overflows)) return std::nullopt;
  if (overflow == CastOverflow::kNaN) return Bounded::exact(kNaN);
  if (overflows || !std::isfinite(magnitude)) return Bounded::exact(std::copysign(largest, e.value));
  return reference::max(reference::min(e, largest), -largest);
}

class FusedJudge {
 public:
  FusedJudge(const TensorSet& tensors, const MlaPrepareInputs& in, const MlaExpected& expected,
             const TensorSet& outputs, bool may_be_zero, Judgement& j)
      : tensors_(tensors),
        in_(in),
        o_(expected.options),
        expected_(expected),
        out_(outputs),
        may_be_zero_(may_be_zero),
        j_(j) {}

  void run() {
    queries();
    keys();
    unchanged();
    if (const Tensor* zeros = out_.find("q_nope_zeros_out")) judge_zeros(*zeros);
    finish();
  }

 private:
  void queries();
  void keys();
  void unchanged();
  void judge_zeros(const Tensor& zeros);
  void finish();
  // Element i of `got` is `e`, cast.
  template <class Where>
  void judge_cast(const Tensor& got, std::int64_t i, const Bounded& e, CastOverflow overflow, bool keeps_sign,
                  Where where);
  template <class Where>
  void judge_copy(const Tensor& got, std::int64_t i, const Tensor& from, std::int64_t source, bool any_nan,
                  Where where);
  template <class Where>
  void explain(const Tensor& got, std::int64_t i, std::int64_t failed_before, Where where);
  void add_metrics(double got, const Bounded& e);
  std::string part(std::int64_t c) const { return c < o_.nope_dim ? "nope" : "rope"; }

  const TensorSet& tensors_;
  const MlaPrepareInputs& in_;
  const MlaPrepareOptions& o_;
  const MlaExpected& expected_;
  const TensorSet& out_;
  bool may_be_zero_;
  Judgement& j_;
  std::vector<std::uint8_t> known_;  // of each cache element: 1 judged, 2 undefined
  double d2_ = 0, e2_ = 0, g2_ = 0, eg_ = 0, bound2_ = 0;
  std::int64_t rows_compared_ = 0;
};

void FusedJudge::add_metrics(double got, const Bounded& e) {
  if (!std::isfinite(got) || !std::isfinite(e.value)) return;
  const double d = got - e.value, bound = e.suspect_bound();
  d2_ += d * d, e2_ += e.value * e.value, g2_ += got * got, eg_ += got * e.value;
  if (std::isfinite(bound)) bound2_ += bound * bound;
}

template <class Where>
void FusedJudge::explain(const Tensor& got, std::int64_t i, std::int64_t failed_before, Where where) {
  if (j_.failed == failed_before || !j_.worst || !j_.worst->note.empty() || j_.worst->output != got.name())
    return;
  if (j_.worst->index == coordinates(got.shape(), i)) j_.worst->note = where();
}

template <class Where>
void FusedJudge::judge_cast(const Tensor& got, std::int64_t i, const Bounded& given, CastOverflow overflow,
                            bool keeps_sign, Where where) {
  const DType dtype = got.dtype();
  const double value = got.view().at(i);
  const std::optional<Bounded> e = after_overflow(dtype, given, overflow);
  if (!e) {
    ++j_.elements;
    ++j_.undecided;
    if (!std::isnan(value) && value != std::copysign(reference::max_finite(dtype), given.value))
      fail_element(j_, got, i, given.value, value,
                   fmt::format("{}: neither NaN nor the largest number", where()));
    return;
  }
  add_metrics(value, *e);
  if (e->is_exact() && !std::isnan(e->value)) {
    const std::uint64_t bits =
        reference::encode(dtype, e->value, is_fp8(dtype) ? Overflow::kSaturate : Overflow::kNonSaturating);
    std::uint64_t stored = 0;
    std::memcpy(&stored, element(got, i), static_cast<std::size_t>(reference::size_bytes(dtype)));
    if (bits == stored) {
      ++j_.elements;
      return;
    }
    if (value == 0 && reference::decode(dtype, bits) == 0 && keeps_sign) {
      ++j_.elements;
      fail_element(j_, got, i, e->value, value, fmt::format("{}: the sign of zero is lost", where()));
      return;
    }
  } else if (is_fp8(dtype) && o_.rope.rounding != RopeRounding::kAny &&
             reference::round_to(dtype, e->value - e->proven) !=
                 reference::round_to(dtype, e->value + e->proven)) {
    ++j_.undecided;  // near a midpoint: both codes are right
  }
  const std::int64_t failed = j_.failed;
  judge_number(j_, got, i, *e);
  explain(got, i, failed, where);
}

template <class Where>
void FusedJudge::judge_copy(const Tensor& got, std::int64_t i, const Tensor& from, std::int64_t source,
                            bool any_nan, Where where) {
  ++j_.elements;
  const double want = from.view().at(source), value = got.view().at(i);
  add_metrics(value, Bounded::exact(want));
  if (std::memcmp(element(got, i), element(from, source),
                  static_cast<std::size_t>(reference::size_bytes(got.dtype()))) == 0)
    return;
  if ((any_nan || HARNESS_FAULT(kMlaNanPayloadIgnored)) && std::isnan(want) && std::isnan(value)) return;
  fail_element(j_, got, i, want, value, fmt::format("{}: not the bytes of {}", where(), from.name()));
}

void FusedJudge::queries() {
  const Tensor& q_out = out_.at("q_out");
  const Tensor& q_nope = tensors_.at("q_nope");
  const Tensor* decode = out_.find("decode_q_pe_out");
  const std::int64_t width = o_.width(), rope = o_.rope.dim;
  const bool copies = q_out.dtype() == q_nope.dtype() && !in_.q_scale;
  const double scale = in_.q_scale ? in_.q_scale.at(0) : 1;
  std::vector<Bounded> row(at(width));
  for (std::int64_t t = 0; t < in_.tokens(); ++t) {
    if (!has_query(in_, o_, t)) continue;
    for (std::int64_t h = 0; h < o_.heads; ++h) {
      query_row(in_, o_, t, h, row.data());
      const std::int64_t first = (t * o_.heads + h) * width;
      for (std::int64_t c = 0; c < width; ++c) {
        const auto where = [&] {
          return fmt::format("token {}, head {}, channel {} ({} part)", t, h, c, part(c));
        };
        const bool nope = c < o_.nope_dim;
        if (copies && nope && o_.rotate_from < 0)
          judge_copy(q_out, first + c, q_nope, (t * o_.heads + h) * o_.nope_dim + c, false, where);
        else
          judge_cast(q_out, first + c, in_.q_scale ? scaled(o_.scaling, row[at(c)], scale) : row[at(c)],
                     o_.overflow(c), nope, where);
      }
      if (decode == nullptr || t >= decode->shape()[0]) continue;
      for (std::int64_t c = 0; c < rope; ++c)
        judge_cast(*decode, (t * o_.heads + h) * rope + c, row[at(o_.nope_dim + c)], CastOverflow::kAny,
                   false,
                   [&] { return fmt::format("token {}, head {}, channel {} of the rope part", t, h, c); });
    }
    ++rows_compared_;
  }
}

void FusedJudge::keys() {
  const Tensor& cache = out_.at("kv_cache");
  const Tensor& k_nope = tensors_.at("k_nope");
  const Tensor* k_pe_out = out_.find("k_pe_out");
  const std::int64_t size = reference::size_bytes(o_.layout.dtype), rope = o_.rope.dim;
  const bool copies = o_.layout.dtype == k_nope.dtype() && !in_.k_scale;
  known_.assign(at(cache.shape().numel()), 0);
  std::vector<Bounded> row(at(o_.width()));
  for (std::int64_t t = 0; t < in_.rows(); ++t) {
    const std::int64_t slot = in_.slot_mapping.int_at(t);
    if (slot < 0) continue;
    const bool undefined = std::binary_search(expected_.duplicates.begin(), expected_.duplicates.end(), slot);
    for (std::int64_t g = 0; g < o_.kv_heads; ++g) {
      key_row(in_, o_, t, g, row.data());
      const std::int64_t where_in = cache_row(o_, slot, g);
      for (std::int64_t c = 0; c < o_.width(); ++c) {
        const auto where = [&] {
          return fmt::format("token {}, slot {}, head {}, channel {} ({} part)", t, slot, g, c, part(c));
        };
        const std::int64_t i = o_.layout.value_at(where_in, c) / size;
        known_[at(i)] = undefined ? 2 : 1;
        if (undefined) continue;
        if (copies && c < o_.nope_dim && o_.rotate_from < 0)
          judge_copy(cache, i, k_nope, (t * o_.kv_heads + g) * o_.nope_dim + c, true, where);
        else
          judge_cast(cache, i, cached(in_, o_, c, row[at(c)]), o_.overflow(c), c < o_.nope_dim, where);
      }
      for (std::int64_t c = 0; k_pe_out != nullptr && c < rope; ++c)
        judge_cast(*k_pe_out, (t * o_.kv_heads + g) * rope + c, row[at(o_.nope_dim + c)], CastOverflow::kAny,
                   false,
                   [&] { return fmt::format("token {}, head {}, channel {} of the rope part", t, g, c); });
    }
    ++rows_compared_;
  }
}

// Bytes that belong to no token's slot are as before.
void FusedJudge::unchanged() {
  const Tensor& after = out_.at("kv_cache");
  const Tensor& before = tensors_.at("kv_cache");
  const std::int64_t size = reference::size_bytes(o_.layout.dtype);
  for (std::int64_t i = 0; i < after.shape().numel(); ++i) {
    if (known_[at(i)] != 0) continue;
    ++j_.elements;
    if (std::memcmp(element(after, i), element(before, i), at(size)) == 0) continue;
    fail_element(j_, after, i, before.view().at(i), after.view().at(i),
                 fmt::format("{} was written, and no token has that slot", o_.layout.describe(i * size)));
  }
}

void FusedJudge::judge_zeros(const Tensor& zeros) {
  for (std::int64_t i = 0; i < zeros.shape().numel(); ++i) {
    ++j_.elements;
    const double value = zeros.view().at(i);
    if (value != 0) fail_element(j_, zeros, i, 0, value, "it holds zeros");
  }
}

void FusedJudge::finish() {
  constexpr double kVacuousRatio = 0.05;  // as judge_elements
  if (!expected_.duplicates.empty()) {
    j_.undecided += static_cast<std::int64_t>(expected_.duplicates.size());
    j_.raise(Verdict::kUndecided,
             fmt::format("{} slots, the first {}, are written by several tokens: which of them wins is "
                         "undefined, and not compared",
                         expected_.duplicates.size(), expected_.duplicates.front()));
  }
  if (e2_ > 0 && g2_ > 0) {
    j_.metrics.cosine = std::min(j_.metrics.cosine, eg_ / std::sqrt(e2_ * g2_));
    j_.metrics.nmse = std::max(j_.metrics.nmse, d2_ / e2_);
    j_.metrics.calc_diff = std::max(j_.metrics.calc_diff, 1 - 2 * eg_ / (e2_ + g2_));
  }
  if (rows_compared_ > 0 && e2_ == 0 && !may_be_zero_)
    j_.raise(Verdict::kMistrusted, "q and k are all zero: an implementation that writes zeros would pass");
  else if (bound2_ > kVacuousRatio * kVacuousRatio * e2_)
    j_.raise(Verdict::kMistrusted,
             fmt::format("the bounds are {:.1f}% of the data: too wide to find a wrong element",
                         100 * std::sqrt(bound2_ / e2_)));
}

// [t, h] of q_all or q_out is the bytes of the inputs.
void judge_concat(const Case& c, const TensorSet& inputs, const MlaExpected& expected,
                  const TensorSet& outputs, Judgement& j) {
  const Tensor& got = outputs.at(form_is(c, "concat") ? "q_out" : "q_all");
  TensorSet want(operator_of(c).outputs(c));
  mla_reference_outputs(c, inputs, expected, want);
  judge_bytes(j, got, want.at(got.name()));
  if (form_is(c, "concat")) return;
  const std::int64_t offset = outputs.view("q_all_offset").int_at(0), row = q_cat_row(c),
                     heads = c.integer("heads");
  const bool copied = offset != 0 && may_copy(c);
  ++j.elements;
  if (offset != 0 && !copied)
    fail_element(
        j, outputs.at("q_all_offset"), 0, 0, static_cast<double>(offset),
        fmt::format(
            "q_all lies {} bytes from q_cat: it is a copy (.contiguous() and torch.cat make them in silence)",
            offset));
  const std::int64_t used = copied ? mla_width(c) : row;
  judge_integers(j, outputs.at("q_all_strides"), std::array<std::int64_t, 3>{heads * used, used, 1},
                 "stride");
}

}  // namespace

void judge_mla_fused(const TensorSet& tensors, const MlaPrepareInputs& in, const MlaExpected& expected,
                     const TensorSet& outputs, bool may_be_zero, Judgement& j) {
  FusedJudge(tensors, in, expected, outputs, may_be_zero, j).run();
}

void judge_mla(const Case& c, const TensorSet& inputs, const MlaExpected& expected, const TensorSet& outputs,
               Judgement& j) {
  if (!form_is(c, "fused")) return judge_concat(c, inputs, expected, outputs, j);
  judge_mla_fused(inputs, mla_prepare_inputs(inputs), expected, outputs,
                  !c.edits.empty() || data_is(c, "zero_rows"), j);
}

void mla_reference_outputs(const Case& c, const TensorSet& inputs, const MlaExpected& expected,
                           TensorSet& outputs) {
  if (form_is(c, "fused")) {
    std::copy_n(inputs.at("kv_cache").data(), inputs.at("kv_cache").bytes(), outputs.at("kv_cache").data());
    return reference::mla_prepare(mla_prepare_inputs(inputs), expected.options, mla_prepare_outputs(outputs));
  }
  if (form_is(c, "concat"))
    return reference::concat_mla_absorb_q(inputs.view("q_nope"), inputs.view("q_pe"), outputs.view("q_out"));
  const std::int64_t row = q_cat_row(c), width = mla_width(c), heads = c.integer("heads");
  const auto size = static_cast<std::size_t>(reference::size_bytes(c.dtype("dtype")));
  for (std::int64_t r = 0; r < c.integer("tokens") * heads; ++r)
    std::memcpy(outputs.at("q_all").data() + at(r * width) * size,
                inputs.at("q_cat").data() + at(r * row) * size, at(width) * size);
  outputs.view("q_all_offset").set_int(0, 0);
  const std::array<std::int64_t, 3> strides = {heads * row, row, 1};
  for (std::int64_t i = 0; i < 3; ++i) outputs.view("q_all_strides").set_int(i, strides[at(i)]);
}

void blank_mla(const Case& c, const TensorSet& inputs, TensorSet& outputs) {
  if (form_is(c, "cat_skip")) {
    // Where a copy lies is nobody's business.
    const View offset = outputs.view("q_all_offset");
    if (may_copy(c) && offset.as<std::int64_t>()[0] != 0) offset.set_int(0, 1);
  }
  if (!form_is(c, "fused")) return;
  const MlaPrepareOptions o = mla_prepare_options(c);
  const MlaPrepareInputs in = mla_prepare_inputs(inputs);
  const auto clear = [&](std::string_view name, std::int64_t t) {
    Tensor* tensor = outputs.find(name);
    if (tensor == nullptr || t >= tensor->shape()[0]) return;
    const std::size_t bytes = tensor->bytes() / at(tensor->shape()[0]);
    std::memset(tensor->data() + at(t) * bytes, 0, bytes);
  };
  for (std::int64_t t = 0; t < in.rows(); ++t) {
    if (in.slot_mapping.int_at(t) < 0) clear("k_pe_out", t);
    if (t < in.tokens() && !has_query(in, o, t)) clear("q_out", t), clear("decode_q_pe_out", t);
  }
  const std::int64_t size = reference::size_bytes(o.layout.dtype);
  for (const std::int64_t slot : duplicate_slots(inputs))
    for (std::int64_t g = 0; g < o.kv_heads; ++g)
      for (std::int64_t channel = 0; channel < o.width(); ++channel)
        std::memset(outputs.at("kv_cache").data() + o.layout.value_at(cache_row(o, slot, g), channel), 0,
                    at(size));
}

}  // namespace moecheck::harness

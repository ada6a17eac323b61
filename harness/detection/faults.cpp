#include "harness/detection/faults.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "harness/operators/moe_block.h"
#include "harness/random.h"

namespace moecheck::harness::detection {
namespace {

using reference::View;

constexpr FamilyInfo kFamilyInfos[] = {
    {Family::kScaledRow, "scaled_row", "a row times 1 + m or 1 - m"},
    {Family::kScaled, "scaled", "the whole output times 1 + m or 1 - m"},
    {Family::kShifted, "shifted", "a row plus or minus m times its rms"},
    {Family::kSharedFactor, "shared_factor", "the shared experts' part times 1 + m or 1 - m"},
    {Family::kZeroed, "zeroed", "m elements are 0", true},
    {Family::kSwapped, "swapped",
     "m pairs of neighbours of a row change places (of gating: weights, not their ids)", true},
    {Family::kTile, "tile", "m consecutive elements of a row keep the 0 that was there before", true},
    {Family::kReduction, "reduction", "m consecutive columns of the last sum are left out, in all rows",
     true},
};

constexpr int kSmallest = -26, kLargest = 6;  // exponents of relative magnitudes

// The input whose last dimension the last sum runs over, where leaving out a column is the same as a 0 in it.
std::string reduced_input(const Case& c) {
  if (c.operator_name() == "experts" || c.operator_name() == "moe_block") return "w2";
  return c.operator_name() == "mqa_logits" ? "q" : "";
}

std::int64_t columns_of(const Tensor& t) { return t.shape().rank == 0 ? 1 : t.shape()[t.shape().rank - 1]; }

// What the shared experts add to each element of the output, by the reference: S of out = rsf R + S.
std::vector<double> shared_part(const Subject& s) {
  if (s.c.operator_name() == "moe_block" && s.c.choice("place") != "runner_half")
    return static_cast<const BlockExpected&>(*s.expected).result.shared;
  std::vector<double> part;
  if (s.c.operator_name() == "routed_scaling" && s.c.choice("place") != "runner_half")
    if (const Tensor* shared = s.inputs.find("shared_output"))
      for (std::int64_t i = 0; i < shared->shape().numel(); ++i) part.push_back(shared->view().at(i));
  return part;
}

// Rows, or tiles, are drawn again where they hold nothing but zeros: a fault that changes nothing is none.
constexpr std::uint64_t kDraws = 1000;

class Fault {
 public:
  Fault(Family family, double magnitude, std::uint64_t seed, const Subject& s)
      : s_(s),
        m_(magnitude),
        random_(seed, std::string("detection/") + std::string(info(family).name)),
        sign_((random_.bits(0) & 1) != 0 ? 1 : -1),
        faulty_(s.outputs),
        out_(faulty_.at(s.output).view()),
        columns_(columns_of(faulty_.at(s.output))),
        family_(family) {}

  TensorSet run() {
    if (m_ == 0) return std::move(faulty_);
    switch (family_) {
      case Family::kScaledRow:
        scale(row());
        break;
      case Family::kScaled:
        scale(s_.positions);
        break;
      case Family::kShifted:
        shift(row());
        break;
      case Family::kSharedFactor:
        for (const std::int64_t i : s_.positions)
          out_.set(i, out_.at(i) + sign_ * m_ * s_.shared[static_cast<std::size_t>(i)]);
        break;
      case Family::kZeroed:
        for (const std::int64_t i : some(nonzero())) out_.set(i, 0);
        break;
      case Family::kSwapped:
        swap(some(pairs()));
        break;
      case Family::kTile:
        tile();
        break;
      case Family::kReduction:
        reduce();
        break;
    }
    return std::move(faulty_);
  }

  std::vector<std::int64_t> nonzero() const {
    std::vector<std::int64_t> found;
    for (const std::int64_t i : s_.positions)
      if (out_.at(i) != 0) found.push_back(i);
    return found;
  }

  // First elements of disjoint pairs of neighbours that differ, all starting at even or all at odd columns.
  std::vector<std::int64_t> pairs() const {
    std::vector<std::int64_t> found;
    const std::int64_t odd = columns_ > 2 ? static_cast<std::int64_t>(random_.bits(1) & 1) : 0;
    for (std::size_t k = 0; k + 1 < s_.positions.size(); ++k) {
      const std::int64_t i = s_.positions[k], column = i % columns_;
      if (column % 2 == odd && column + 1 < columns_ && s_.positions[k + 1] == i + 1 &&
          out_.at(i) != out_.at(i + 1))
        found.push_back(i);
    }
    return found;
  }

 private:
  void scale(std::span<const std::int64_t> elements) {
    for (const std::int64_t i : elements) out_.set(i, out_.at(i) * (1 + sign_ * m_));
  }

  void shift(std::span<const std::int64_t> elements) {
    double squares = 0;
    for (const std::int64_t i : elements) squares += out_.at(i) * out_.at(i);
    const double rms = std::sqrt(squares / static_cast<double>(elements.size()));
    for (const std::int64_t i : elements) out_.set(i, out_.at(i) + sign_ * m_ * rms);
  }

  void swap(std::span<const std::int64_t> firsts) {
    for (const std::int64_t i : firsts) {
      const double a = out_.at(i), b = out_.at(i + 1);
      out_.set(i, b);
      out_.set(i + 1, a);
    }
  }

  // m of the places, in a random order of which larger faults take more.
  std::vector<std::int64_t> some(std::vector<std::int64_t> places) const {
    const std::size_t wanted = std::min(places.size(), static_cast<std::size_t>(m_));
    for (std::size_t k = 0; k < wanted; ++k)
      std::swap(places[k],
                places[static_cast<std::size_t>(random_.integer(
                    2 + k, static_cast<std::int64_t>(k), static_cast<std::int64_t>(places.size()) - 1))]);
    places.resize(wanted);
    return places;
  }

  // The elements of a row in which something is not 0.
  std::vector<std::int64_t> row() const {
    const std::vector<std::int64_t> from = nonzero();
    std::vector<std::int64_t> found;
    if (from.empty()) return found;
    const std::int64_t r =
        from[static_cast<std::size_t>(random_.integer(1, 0, std::ssize(from) - 1))] / columns_;
    for (const std::int64_t i : s_.positions)
      if (i / columns_ == r) found.push_back(i);
    return found;
  }

  // Consecutive among the elements of a row that have a reference.
  void tile() {
    const std::vector<std::int64_t> row_of = row();
    if (row_of.empty()) return;
    const std::int64_t size = std::min(std::ssize(row_of), static_cast<std::int64_t>(m_));
    for (std::uint64_t draw = 0; draw < kDraws; ++draw) {
      const auto begin = row_of.begin() + random_.integer(2 + draw, 0, std::ssize(row_of) - size);
      if (std::all_of(begin, begin + size, [&](std::int64_t i) { return out_.at(i) == 0; })) continue;
      std::for_each(begin, begin + size, [&](std::int64_t i) { out_.set(i, 0); });
      return;
    }
  }

  // The implementation runs again with zeros in those columns: what it would have made without them.
  void reduce() {
    TensorSet inputs = s_.inputs;
    Tensor& t = inputs.at(reduced_input(s_.c));
    const std::int64_t columns = columns_of(t), size = std::min(columns, static_cast<std::int64_t>(m_)),
                       begin = random_.integer(1, 0, columns - size);
    const auto bytes = static_cast<std::size_t>(reference::size_bytes(t.dtype()));
    for (std::int64_t r = 0; r < t.shape().numel() / columns;
         ++r)  // a 0 has no bits set in any of the dtypes
      std::memset(t.data() + static_cast<std::size_t>(r * columns + begin) * bytes, 0,
                  static_cast<std::size_t>(size) * bytes);
    s_.op.reset_outputs(s_.c, inputs, faulty_);
    s_.implementation.run(s_.c, inputs, faulty_, {});
  }

  const Subject& s_;
  double m_;
  Random random_;
  int sign_;
  TensorSet faulty_;
  View out_;
  std::int64_t columns_;
  Family family_;
};

}  // namespace

std::span<const FamilyInfo> families() { return kFamilyInfos; }
const FamilyInfo& info(Family family) { return kFamilyInfos[static_cast<std::size_t>(family)]; }

std::string real_output(const Case& c) {
  for (const TensorSpec& spec : operator_of(c).outputs(c))
    if (reference::is_float(spec.dtype)) return spec.name;
  return {};
}

Subject::Subject(const Case& the_case, const Implementation& by)
    : c(the_case),
      op(operator_of(c)),
      implementation(by),
      inputs(op.inputs(c)),
      outputs(op.outputs(c)),
      output(real_output(c)) {
  op.generate(c, inputs);
  expected = op.reference(c, inputs);
  op.reset_outputs(c, inputs, outputs);
  implementation.run(c, inputs, outputs, {});
  TensorSet right(op.outputs(c));
  op.reset_outputs(c, inputs, right);
  op.reference_outputs(c, inputs, *expected, right);
  const Tensor& values = right.at(output);
  for (std::int64_t i = 0; i < values.shape().numel(); ++i) {
    const double value = values.view().at(i);
    if (!std::isfinite(value)) continue;
    positions.push_back(i);
    compared.expected.push_back(value);
  }
  compared.columns = columns_of(values);
  if (const Tensor* ids = right.find("topk_ids"))
    for (std::int64_t i = 0; i < ids->shape().numel(); ++i)
      compared.expected_ids.push_back(ids->view().int_at(i));
  shared = shared_part(*this);
}

Compared Subject::beside_reference(const TensorSet& got) const {
  Compared both = compared;
  const reference::ConstView values = got.at(output).view();
  both.got.reserve(positions.size());
  for (const std::int64_t i : positions) both.got.push_back(values.at(i));
  if (!both.expected_ids.empty())
    for (std::int64_t i = 0; i < std::ssize(both.expected_ids); ++i)
      both.got_ids.push_back(got.at("topk_ids").view().int_at(i));
  return both;
}

bool Subject::judged_wrong(const TensorSet& got) const {
  Judgement j;
  op.judge(c, inputs, *expected, got, j);
  return is_failure(j.verdict);
}

std::optional<std::string> inapplicable(Family family, const Subject& s) {
  if (family == Family::kReduction && reduced_input(s.c).empty()) return "no sum over an input's columns";
  if (family == Family::kSharedFactor &&
      std::all_of(s.shared.begin(), s.shared.end(), [](double x) { return x == 0; }))
    return "no shared experts' part is known";
  if (family == Family::kSwapped && s.compared.columns < 2) return "a row has one element";
  return std::nullopt;
}

std::vector<double> magnitudes(Family family, const Subject& s) {
  std::vector<double> grid;
  if (!info(family).counts) {
    for (int e = kSmallest; e <= kLargest; ++e) grid.push_back(std::ldexp(1, e));
    return grid;
  }
  std::int64_t all = s.compared.columns;
  const Fault probe(family, 0, s.c.seed, s);
  if (family == Family::kZeroed) all = std::ssize(probe.nonzero());
  if (family == Family::kSwapped) all = std::ssize(probe.pairs());
  if (family == Family::kReduction) all = columns_of(s.inputs.at(reduced_input(s.c)));
  for (std::int64_t m = 1; m < all; m *= 2) grid.push_back(static_cast<double>(m));
  if (all > 0) grid.push_back(static_cast<double>(all));
  return grid;
}

TensorSet faulty(Family family, double magnitude, std::uint64_t seed, const Subject& s) {
  return Fault(family, magnitude, seed, s).run();
}

}  // namespace moecheck::harness::detection

#include "harness/fuzz/case_source.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <set>

namespace moecheck::harness {
namespace {

constexpr int kTries = 8;               // of a change that is refused
constexpr int kWeightOfPlainField = 4;  // beside 1 of a field that policies set
constexpr std::size_t kMaxEdits = 3;
constexpr std::uint64_t kSeeds = 1'000'000;

std::int64_t integer_or(const Case& c, std::string_view field, std::int64_t absent) {
  return c.schema().find(field) < 0 ? absent : c.integer(field);
}

// Where kernels change their path: tiles, waves and vectors.
constexpr std::int64_t kTiles[] = {2, 4, 8, 16, 32, 64, 128, 256, 512};
constexpr std::int64_t kPrimes[] = {2,  3,  5,  7,  11, 13, 17, 19, 23,  29,  31,  37,  41,  43,
                                    47, 53, 59, 61, 67, 71, 79, 97, 101, 127, 131, 251, 257, 509};

std::int64_t size_near(const Case& c, const Field& f, std::int64_t now, Choices& choices) {
  switch (choices.below(8)) {
    case 0:
      return choices.between(0, 4);
    case 1:
      return choices.one_in(2) ? static_cast<std::int64_t>(f.min) : static_cast<std::int64_t>(f.max);
    case 2:
      return choices.pick(kTiles) * choices.between(1, 4) + choices.between(-1, 1);
    case 3:
      return choices.pick(kPrimes);
    case 4:
      return now + choices.between(-2, 2);
    case 5:
      return choices.one_in(2) ? now * 2 : now / 2;
    case 6: {  // what another field holds: padded = tokens, topk = experts
      const auto i = static_cast<std::size_t>(choices.below(c.schema().fields.size()));
      const Field& other = c.schema().fields[i];
      const std::int64_t held = other.kind == FieldKind::kInt ? c.value(static_cast<int>(i)).i : f.value.i;
      return held + choices.between(-1, 1);
    }
    default:
      return std::int64_t{1} << choices.below(10);
  }
}

double real_near(const Field& f, double now, Choices& choices) {
  switch (choices.below(4)) {
    case 0: {
      const double known[] = {f.min, f.max, f.value.r, 0, 1};
      return choices.pick(known);
    }
    case 1:
      return std::ldexp(1.0, static_cast<int>(choices.between(-10, 10)));
    case 2:
      return now * (choices.one_in(2) ? 0.5 : 2);
    default:
      return static_cast<double>(choices.between(0, 1000)) / 100;
  }
}

Value drawn_value(const Case& c, int field, Choices& choices) {
  const Field& f = c.schema().fields[static_cast<std::size_t>(field)];
  Value v = c.value(field);
  switch (f.kind) {
    case FieldKind::kChoice:
      v.i = static_cast<std::int64_t>(choices.below(f.choices.size()));
      return v;
    case FieldKind::kReal:
      v.r = std::clamp(real_near(f, v.r, choices), f.min, f.max);
      return v;
    case FieldKind::kInt:
      break;
  }
  const auto low = static_cast<std::int64_t>(f.min), high = static_cast<std::int64_t>(f.max);
  v.i = high - low < 8 ? choices.between(low, high) : std::clamp(size_near(c, f, v.i, choices), low, high);
  return v;
}

// Another policy; the fields that no policy sets keep what they hold.
void change_policy(Case& c, const std::vector<bool>& set_by_policies, Choices& choices) {
  const Case before = c;
  c.set("policy", choices.pick(c.schema().policies).name);
  for (std::size_t i = 0; i < set_by_policies.size(); ++i)
    if (!set_by_policies[i]) c.set_value(static_cast<int>(i), before.value(static_cast<int>(i)));
}

void change_edits(Case& c, Choices& choices) {
  if (!c.edits.empty() && (c.edits.size() >= kMaxEdits || choices.one_in(2))) {
    c.edits.erase(c.edits.begin() + static_cast<std::ptrdiff_t>(choices.below(c.edits.size())));
    return;
  }
  const EditKind& kind = choices.pick(c.schema().edits);
  Edit edit{kind.name};
  if (kind.positions > 0)
    edit.row = choices.between(
        0, std::max<std::int64_t>(0, std::min<std::int64_t>(64, integer_or(c, "tokens", 4)) - 1));
  if (kind.positions > 1) edit.col = choices.one_in(2) ? choices.between(0, 7) : choices.between(0, 255);
  c.edits.push_back(std::move(edit));
}

std::vector<bool> fields_of_policies(const Schema& schema) {
  std::vector<bool> found(schema.fields.size());
  for (const Preset& policy : schema.policies)
    for (const auto& [field, text] : policy.values)
      if (const int i = schema.find(field); i >= 0) found[static_cast<std::size_t>(i)] = true;
  return found;
}

}  // namespace

double bytes_of(const Case& c) {
  const Operator& op = operator_of(c);
  double bytes = 0;
  for (const std::vector<TensorSpec>& specs : {op.inputs(c), op.outputs(c)})
    for (const TensorSpec& s : specs)
      bytes += static_cast<double>(s.shape.numel()) * static_cast<double>(reference::size_bytes(s.dtype));
  return bytes;
}

double work_of(const Case& c) {
  const auto of = [&](std::string_view field) {
    return static_cast<double>(std::max<std::int64_t>(1, integer_or(c, field, 1)));
  };
  double work = bytes_of(c);
  if (c.schema().find("intermediate") >= 0)
    work += of("tokens") * (of("topk") + of("n_shared")) * of("hidden") * of("intermediate");
  if (c.schema().find("context") >= 0) work += of("tokens") * of("heads") * of("context") * of("head_dim");
  if (c.schema().find("rotary_dim") >= 0)
    work += of("tokens") * (of("hidden") + of("tokens")) * of("heads") * of("head_dim");
  return work;
}

CaseSource::CaseSource(const Operator& op, CaseBudget budget) : op_(&op), budget_(budget) {
  std::set<std::string> seen;
  for (const Suite suite : {Suite::kQuick, Suite::kAdversarial, Suite::kFull})
    for (Case& c : op.cases(suite))
      if (fits(c) && seen.insert(c.str()).second) starts_.push_back(std::move(c));
  if (starts_.empty())
    throw UsageError(fmt::format("{}: no case of its suites fits {} bytes and {} multiplications: raise them",
                                 op.name(), budget.bytes, budget.work));
  set_by_policies_ = fields_of_policies(op.schema());
  for (std::size_t i = 0; i < set_by_policies_.size(); ++i)
    fields_.insert(fields_.end(), set_by_policies_[i] ? 1 : kWeightOfPlainField, static_cast<int>(i));
}

bool CaseSource::fits(const Case& c) const {
  return !op_->refusal(c) && bytes_of(c) <= budget_.bytes && work_of(c) <= budget_.work;
}

Case CaseSource::one_change(const Case& c, Choices& choices) const {
  Case next = c;
  const std::uint64_t what = choices.below(12);
  if (what == 0 && !c.schema().policies.empty())
    change_policy(next, set_by_policies_, choices);
  else if (what == 1 && !c.schema().edits.empty())
    change_edits(next, choices);
  else  // fields that only fit together (experts and groups, topk and experts) change together
    for (std::uint64_t n = 1 + choices.below(3); n > 0; --n) {
      const int field = choices.pick(fields_);
      next.set_value(field, drawn_value(next, field, choices));
    }
  return next;
}

Case CaseSource::draw(Choices& choices) const { return changed(choices.pick(starts_), choices); }

Case CaseSource::changed(const Case& parent, Choices& choices) const {
  Case best = parent;
  best.seed = 1 + choices.below(kSeeds);
  for (std::uint64_t changes = 1 + choices.below(6); changes > 0; --changes)
    for (int i = 0; i < kTries; ++i) {
      Case next = one_change(best, choices);
      if (!fits(next)) continue;
      best = std::move(next);
      break;
    }
  return best;
}

}  // namespace moecheck::harness

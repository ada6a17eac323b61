// Who comes before whom, and the reference's own selection: the middle part of gating.h.
#include <algorithm>

#include "reference/gating.h"
#include "reference/gating_scores.h"

namespace moecheck::reference {
namespace {

constexpr double kInf = std::numeric_limits<double>::infinity();

// The order of equals, as a number: the lower comes first.
std::int64_t tie_rank(Tie tie, std::int64_t i) {
  switch (tie) {
    case Tie::kHigh:
      return -i;
    case Tie::kLane64:
      return (i % 64) * 0x10000 + i / 64;
    case Tie::kBitReversed: {
      const auto reversed = [](std::int64_t v) {
        std::int64_t r = 0;
        for (int bit = 0; bit < 5; ++bit) r |= ((v >> bit) & 1) << (4 - bit);
        return r;
      };
      return reversed(i / 32) * 32 + reversed(i % 32);
    }
    default:
      return i;
  }
}

Order by_tie(Tie tie, std::int64_t a, std::int64_t b) {
  if (tie == Tie::kAny) return Order::kUndecided;
  return tie_rank(tie, a) < tie_rank(tie, b) ? Order::kBefore : Order::kAfter;
}

}  // namespace

Bounded Gating::masked_choice() const {
  return Bounded::exact(options_.policy.masked == Masked::kZero ? 0 : -kInf);
}

Order Gating::expert_order(const GatingRow& row, std::int64_t a, std::int64_t b, bool a_masked,
                           bool b_masked) const {
  const auto i = static_cast<std::size_t>(a), j = static_cast<std::size_t>(b);
  const Bounded x = a_masked ? masked_choice() : row.choice[i],
                y = b_masked ? masked_choice() : row.choice[j];
  const bool alike = !a_masked && !b_masked && row.alike[i] == row.alike[j];
  if (alike || (x.is_exact() && y.is_exact() && x.value == y.value))
    return by_tie(options_.policy.expert_tie, a, b);
  return order_by_value(x, y);
}

Order Gating::group_order(const GatingRow& row, std::int64_t a, std::int64_t b) const {
  const Bounded &x = row.group[static_cast<std::size_t>(a)], &y = row.group[static_cast<std::size_t>(b)];
  if (x.value == y.value && ((x.is_exact() && y.is_exact()) || same_group_score(row, a, b))) {
    return by_tie(options_.policy.group_tie, a, b);
  }
  return order_by_value(x, y);
}

// Two groups whose possible winners are alike, one by one, have the same score in any implementation.
bool Gating::same_group_score(const GatingRow& row, std::int64_t a, std::int64_t b) const {
  const auto per_group = static_cast<std::size_t>(experts_per_group());
  const auto contenders = [&](std::int64_t j) {
    const std::size_t first = static_cast<std::size_t>(j) * per_group;
    TopTwo low;
    for (std::size_t e = first; e < first + per_group; ++e)
      low.add(row.choice[e].value - row.choice[e].proven);
    const GroupScore rule = group_score();
    const double bar = rule == GroupScore::kMax       ? low.first
                       : rule == GroupScore::kTop2Sum ? low.second
                                                      : -kInf;
    std::vector<std::uint32_t> classes;
    for (std::size_t e = first; e < first + per_group; ++e) {
      if (row.choice[e].value + row.choice[e].proven >= bar) classes.push_back(row.alike[e]);
    }
    std::sort(classes.begin(), classes.end());
    return classes;
  };
  return contenders(a) == contenders(b);
}

// One scan with insertion: most experts fall at the first comparison with the topk-th so far.
void Gating::select(const GatingRow& row, std::vector<std::int64_t>& ids,
                    std::vector<bool>* masked_ids) const {
  const auto& p = options_.policy;
  const auto per_group = experts_per_group();
  const auto topk = static_cast<std::size_t>(options_.topk);
  const auto before = [](double x, std::int64_t i, double y, std::int64_t j, Tie tie) {
    return x > y || (x == y && tie_rank(tie, i) < tie_rank(tie, j));
  };
  const auto group_is_selected = [&](std::int64_t j) {
    std::int64_t better = 0;
    for (std::int64_t i = 0; i < options_.groups; ++i) {
      const double x = row.group[static_cast<std::size_t>(i)].value,
                   y = row.group[static_cast<std::size_t>(j)].value;
      better += i != j && before(x, i, y, j, p.group_tie);
    }
    return better < options_.topk_group;
  };
  thread_local std::vector<double> values;
  values.clear();
  ids.clear();
  for (std::int64_t j = 0; j < options_.groups; ++j) {
    const bool masked = options_.groups > 1 && !group_is_selected(j);
    if (masked && p.masked == Masked::kNegInf) continue;
    for (std::int64_t e = j * per_group; e < (j + 1) * per_group; ++e) {
      const double c = masked ? 0 : row.choice[static_cast<std::size_t>(e)].value;
      std::size_t at = ids.size();
      while (at > 0 && before(c, e, values[at - 1], ids[at - 1], p.expert_tie)) --at;
      if (at == topk) continue;
      if (ids.size() == topk) {
        ids.pop_back();
        values.pop_back();
      }
      ids.insert(ids.begin() + static_cast<std::ptrdiff_t>(at), e);
      values.insert(values.begin() + static_cast<std::ptrdiff_t>(at), c);
    }
  }
  if (p.order == SlotOrder::kId) std::sort(ids.begin(), ids.end());
  if (masked_ids == nullptr) return;
  masked_ids->clear();
  for (const std::int64_t e : ids)
    masked_ids->push_back(options_.groups > 1 && !group_is_selected(e / per_group));
}

void remap_experts(const std::vector<std::int64_t>& logical_to_physical, std::int64_t* ids, std::int64_t n) {
  const auto experts = static_cast<std::int64_t>(logical_to_physical.size());
  for (std::int64_t i = 0; i < n; ++i) {
    if (ids[i] >= 0 && ids[i] < experts) ids[i] = logical_to_physical[static_cast<std::size_t>(ids[i])];
  }
}

}  // namespace moecheck::reference

// Where a gate's selection is its implementation's to make: the last part of moe_block.h.
#include <algorithm>

#include "reference/moe_block.h"

namespace moecheck::reference {
namespace {

// The selected groups by the reference's own choice (as Gating::select ranks them), and whether another choice is honest.
struct SelectedGroups {
  std::vector<bool> selected;  // [groups]; empty when there is one group
  bool ambiguous = false;
};

SelectedGroups selected_groups(const Gating& gating, const GatingRow& row) {
  const GatingOptions& o = gating.options();
  SelectedGroups result;
  if (o.groups <= 1) return result;
  const auto first = [&](std::int64_t a, std::int64_t b) {
    const Order order = gating.group_order(row, a, b);
    if (order != Order::kUndecided) return order == Order::kBefore;
    const double x = row.group[static_cast<std::size_t>(a)].value,
                 y = row.group[static_cast<std::size_t>(b)].value;
    return x > y || (x == y && a < b);
  };
  for (std::int64_t g = 0; g < o.groups; ++g) {
    std::int64_t better = 0;
    for (std::int64_t other = 0; other < o.groups; ++other) better += other != g && first(other, g);
    result.selected.push_back(better < o.topk_group);
  }
  for (std::int64_t a = 0; a < o.groups; ++a)
    for (std::int64_t b = 0; b < o.groups; ++b)
      if (result.selected[static_cast<std::size_t>(a)] && !result.selected[static_cast<std::size_t>(b)])
        result.ambiguous = result.ambiguous || gating.group_order(row, a, b) == Order::kUndecided;
  return result;
}

bool is_masked(const SelectedGroups& groups, std::int64_t expert, std::int64_t per_group) {
  return !groups.selected.empty() && !groups.selected[static_cast<std::size_t>(expert / per_group)];
}

}  // namespace

std::vector<bool> masked_winners(const Gating& gating, const GatingRow& row,
                                 const std::vector<std::int64_t>& ids) {
  const SelectedGroups groups = selected_groups(gating, row);
  std::vector<bool> masked;
  for (const std::int64_t id : ids) masked.push_back(is_masked(groups, id, gating.experts_per_group()));
  return masked;
}

bool selection_is_ambiguous(const Gating& gating, const GatingRow& row,
                            const std::vector<std::int64_t>& ids) {
  if (row.undefined) return true;
  const SelectedGroups groups = selected_groups(gating, row);
  if (groups.ambiguous) return true;
  const std::int64_t per_group = gating.experts_per_group();
  for (std::int64_t e = 0; e < gating.options().experts; ++e) {
    if (std::find(ids.begin(), ids.end(), e) != ids.end()) continue;
    const bool masked = is_masked(groups, e, per_group);
    if (masked && gating.options().policy.masked == Masked::kNegInf) continue;
    for (const std::int64_t id : ids)
      if (gating.expert_order(row, id, e, is_masked(groups, id, per_group), masked) == Order::kUndecided)
        return true;
  }
  return false;
}

}  // namespace moecheck::reference

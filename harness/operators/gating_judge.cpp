// Judging gating: ids first (range, distinctness, set, order), then weights of the ids that were chosen.
//
// A selection is right when no unselected expert certainly ranks before a selected one. "Certainly" is Gating's: beyond both
// error bounds, or an exact tie that the policy's rule decides. With groups the same holds for some set A of topk_group
// groups, itself right by the same rule; undecided groups are tried in every combination.
#include <fmt/format.h>

#include <algorithm>

#include "harness/fault.h"
#include "harness/judge.h"
#include "harness/operators/gating.h"

namespace moecheck::harness {

using namespace reference;  // NOLINT: this file speaks of gating only

namespace {

// More undecided groups than this are left open: the row counts as undecided.
constexpr std::size_t kMaxGroupSets = 4096;

enum class Right : std::uint8_t { kYes, kUndecided, kNo };

struct Selection {
  Right right = Right::kYes;
  std::int64_t beaten = -1, by = -1;  // kNo: the selected expert, and the one that certainly ranks before it
  std::int64_t bad_group = -1;        // kNo: a selected expert lies in a group that certainly is not selected
  std::vector<bool> masked;           // of the selected: won from outside the selected groups
};

class RowJudge {
 public:
  RowJudge(const Gating& gating, const GatingRow& row) : gating_(gating), row_(row), o_(gating.options()) {}

  Selection selection(const std::vector<std::int64_t>& ids) {
    chosen_.assign(static_cast<std::size_t>(o_.experts), false);
    for (const std::int64_t id : ids) chosen_[static_cast<std::size_t>(id)] = true;
    Selection s;
    if (o_.groups == 1) {
      const std::vector<bool> all(1, true);
      s.right = beaten(ids, all, s) ? Right::kNo : Right::kUndecided;
      return s;
    }
    return over_groups(ids);
  }

 private:
  bool in(const std::vector<bool>& groups, std::int64_t e) const {
    return o_.groups == 1 || HARNESS_FAULT(kGatingAnyGroupRight) ||
           groups[static_cast<std::size_t>(e / gating_.experts_per_group())];
  }

  // Whether an unselected expert certainly ranks before a selected one, given the selected groups.
  bool beaten(const std::vector<std::int64_t>& ids, const std::vector<bool>& groups, Selection& s) const {
    for (const std::int64_t i : ids) {
      for (std::int64_t e = 0; e < o_.experts; ++e) {
        if (chosen_[static_cast<std::size_t>(e)]) continue;
        if (gating_.expert_order(row_, e, i, !in(groups, e), !in(groups, i)) != Order::kBefore) continue;
        s.beaten = i;
        s.by = e;
        return true;
      }
    }
    return false;
  }

  Selection over_groups(const std::vector<std::int64_t>& ids) const {
    std::vector<std::int64_t> optional;
    std::vector<bool> groups(static_cast<std::size_t>(o_.groups), false);
    std::int64_t mandatory = 0;
    for (std::int64_t g = 0; g < o_.groups; ++g) {
      std::int64_t before = 0, possibly_before = 0;
      for (std::int64_t h = 0; h < o_.groups; ++h) {
        if (h == g) continue;
        const Order order = gating_.group_order(row_, h, g);
        before += order == Order::kBefore;
        possibly_before += order != Order::kAfter;
      }
      if (possibly_before < o_.topk_group) {
        groups[static_cast<std::size_t>(g)] = true;
        ++mandatory;
      } else if (before < o_.topk_group) {
        optional.push_back(g);
      }
    }
    return over_sets(ids, groups, optional, o_.topk_group - mandatory);
  }

  // Every way to take `need` of the optional groups.
  Selection over_sets(const std::vector<std::int64_t>& ids, std::vector<bool> groups,
                      const std::vector<std::int64_t>& optional, std::int64_t need) const {
    Selection s;
    if (need < 0 || need > static_cast<std::int64_t>(optional.size())) {
      s.right = Right::kUndecided;  // undecided ranks among groups need not form an order
      return s;
    }
    std::vector<bool> take(optional.size(), false);
    std::fill(take.begin(), take.begin() + need, true);
    for (std::size_t tried = 0; tried < kMaxGroupSets; ++tried) {
      for (std::size_t i = 0; i < optional.size(); ++i)
        groups[static_cast<std::size_t>(optional[i])] = take[i];
      if (!beaten(ids, groups, s)) {
        s.right = Right::kUndecided;
        s.beaten = s.by = -1;
        for (const std::int64_t id : ids) s.masked.push_back(!in(groups, id));
        return s;
      }
      if (!std::prev_permutation(take.begin(), take.end())) {
        s.right = Right::kNo;
        for (const std::int64_t id : ids)
          if (!in(groups, id) && s.bad_group < 0) s.bad_group = id / gating_.experts_per_group();
        return s;
      }
    }
    s.right = Right::kUndecided;
    return s;
  }

  const Gating& gating_;
  const GatingRow& row_;
  const GatingOptions& o_;
  std::vector<bool> chosen_;
};

class GatingJudge {
 public:
  GatingJudge(const TensorSet& inputs, const GatingExpected& expected, const TensorSet& outputs, Judgement& j)
      : e_(expected),
        o_(expected.gating.options()),
        ids_(outputs.at("topk_ids")),
        weights_(outputs.at("topk_weights")),
        j_(j) {
    if (const ConstView table = inputs.view("logical_to_physical")) {
      logical_.assign(static_cast<std::size_t>(o_.experts), -1);
      for (std::int64_t e = 0; e < o_.experts; ++e) logical_[static_cast<std::size_t>(table.int_at(e))] = e;
    }
  }

  void run() {
    const std::int64_t tokens = ids_.shape()[0];
    for (std::int64_t t = 0; t < tokens; ++t) {
      if (e_.gating.is_padded(t, tokens) && o_.policy.padding != Padding::kCompute)
        padded(t);
      else
        row(t);
    }
  }

 private:
  std::int64_t at(std::int64_t t, std::int64_t k) const { return t * o_.slots() + k; }
  std::int64_t id(std::int64_t t, std::int64_t k) const { return ids_.view().int_at(at(t, k)); }

  void wrong_id(std::int64_t t, std::int64_t k, std::int64_t expected, std::string note) {
    fail_element(j_, ids_, at(t, k), static_cast<double>(expected), static_cast<double>(id(t, k)),
                 std::move(note));
  }

  void padded(std::int64_t t) {
    const bool zero = o_.policy.padding == Padding::kZeroExpert;
    const std::int64_t expected = zero ? 0 : -1;
    for (std::int64_t k = 0; k < o_.slots(); ++k) {
      ++j_.elements;
      if (id(t, k) != expected && !HARNESS_FAULT(kGatingPaddingUnchecked))
        wrong_id(t, k, expected,
                 fmt::format("padded token {} has id {} instead of {}", t, id(t, k), expected));
      if (zero) judge_number(j_, weights_, at(t, k), Bounded::exact(0));
    }
  }

  // The routed ids as the router numbers them, or false when one is out of range.
  bool routed_ids(std::int64_t t, std::vector<std::int64_t>& ids) {
    ids.clear();
    for (std::int64_t k = 0; k < o_.topk; ++k) {
      ++j_.elements;
      const std::int64_t got = id(t, k);
      if (got < 0 || got >= o_.experts) {
        wrong_id(t, k, -1, fmt::format("token {} slot {}: id {} is outside [0, {})", t, k, got, o_.experts));
        return false;
      }
      ids.push_back(logical_.empty() ? got : logical_[static_cast<std::size_t>(got)]);
    }
    return true;
  }

  bool distinct(std::int64_t t, const std::vector<std::int64_t>& ids) {
    for (std::size_t a = 0; a < ids.size(); ++a)
      for (std::size_t b = 0; b < a; ++b)
        if (ids[a] == ids[b]) {
          wrong_id(t, static_cast<std::int64_t>(a), -1,
                   fmt::format("token {}: expert {} is selected twice, in slots {} and {}", t, ids[a], b, a));
          return false;
        }
    return true;
  }

  void shared_ids(std::int64_t t) {
    for (std::int64_t i = 0; i < o_.shared; ++i) {
      ++j_.elements;
      const std::int64_t k = o_.topk + i, expected = e_.gating.shared_id(i);
      if (id(t, k) != expected)
        wrong_id(t, k, expected,
                 fmt::format("token {}: shared slot {} has id {} instead of {}", t, i, id(t, k), expected));
    }
  }

  void row(std::int64_t t) {
    const GatingRow& r = e_.rows[static_cast<std::size_t>(t)];
    if (!routed_ids(t, ids_of_row_)) return;
    if (!HARNESS_FAULT(kGatingSharedIdsUnchecked)) shared_ids(t);
    if (r.undefined) return;
    if (!HARNESS_FAULT(kGatingDuplicatesAllowed) && !distinct(t, ids_of_row_)) return;
    const std::vector<std::int64_t>& ref = e_.selections[static_cast<std::size_t>(t)];
    Selection s;
    s.masked = e_.masked[static_cast<std::size_t>(t)];
    if (ids_of_row_ != ref) {
      s = selection(t, r, ref);
      if (s.right == Right::kNo) return;
      if (!order(t, r, s)) return;
    }
    e_.gating.weights(r, HARNESS_FAULT(kGatingWeightsByPosition) ? ref : ids_of_row_, bounds_,
                      s.masked.empty() ? nullptr : &s.masked);
    for (std::int64_t k = 0; k < o_.slots(); ++k) {
      const Bounded& b = bounds_[static_cast<std::size_t>(k)];
      if (!is_unbounded(b)) judge_number(j_, weights_, at(t, k), b);
    }
  }

  Selection selection(std::int64_t t, const GatingRow& r, const std::vector<std::int64_t>& ref) {
    std::vector<std::int64_t> a = ids_of_row_, b = ref;
    std::sort(a.begin(), a.end());
    std::sort(b.begin(), b.end());
    if (a == b) {
      Selection same;
      const std::vector<bool>& masked = e_.masked[static_cast<std::size_t>(t)];
      for (const std::int64_t got : ids_of_row_)
        same.masked.push_back(
            masked[static_cast<std::size_t>(std::find(ref.begin(), ref.end(), got) - ref.begin())]);
      return same;
    }
    Selection s = RowJudge(e_.gating, r).selection(ids_of_row_);
    if (s.right == Right::kUndecided) {
      ++j_.undecided;
      j_.raise(Verdict::kUndecided, "experts were exchanged within their scores' error bounds");
    }
    if (s.right != Right::kNo) return s;
    for (std::int64_t k = 0; k < o_.topk; ++k) {
      const std::int64_t got = ids_of_row_[static_cast<std::size_t>(k)];
      if (s.bad_group >= 0 ? got / e_.gating.experts_per_group() != s.bad_group : got != s.beaten) continue;
      const auto choice = [&](std::int64_t e) { return r.choice[static_cast<std::size_t>(e)].value; };
      if (s.bad_group >= 0)
        wrong_id(t, k, ref[static_cast<std::size_t>(k)],
                 fmt::format("token {}: expert {} is of group {}, which is not among the {} best", t, got,
                             s.bad_group, o_.topk_group));
      else
        wrong_id(
            t, k, s.by,
            fmt::format("token {}: expert {} (choice score {:.9g}) was selected before expert {} ({:.9g})", t,
                        got, choice(got), s.by, choice(s.by)));
      break;
    }
    return s;
  }

  // Slots come in the order the policy promises.
  bool order(std::int64_t t, const GatingRow& r, const Selection& s) {
    for (std::int64_t k = 1; k < o_.topk; ++k) {
      const auto i = static_cast<std::size_t>(k);
      const std::int64_t a = ids_of_row_[i - 1], b = ids_of_row_[i];
      bool wrong = false;
      if (o_.policy.order == SlotOrder::kId) wrong = a > b;
      if (o_.policy.order == SlotOrder::kScore) {
        const bool known = !s.masked.empty();
        wrong = gating_order(r, b, a, known && s.masked[i], known && s.masked[i - 1]) == Order::kBefore;
      }
      if (!wrong || HARNESS_FAULT(kGatingOrderUnchecked)) continue;
      wrong_id(t, k, b,
               fmt::format("token {}: slots {} and {} (experts {} and {}) are not in {} order", t, k - 1, k,
                           a, b, o_.policy.order == SlotOrder::kId ? "id" : "score"));
      return false;
    }
    return true;
  }

  Order gating_order(const GatingRow& r, std::int64_t a, std::int64_t b, bool a_masked, bool b_masked) const {
    return e_.gating.expert_order(r, a, b, a_masked, b_masked);
  }

  const GatingExpected& e_;
  const GatingOptions& o_;
  const Tensor& ids_;
  const Tensor& weights_;
  Judgement& j_;
  std::vector<std::int64_t> logical_;  // physical -> logical, when ids are remapped
  std::vector<std::int64_t> ids_of_row_;
  std::vector<Bounded> bounds_;
};

}  // namespace

std::unique_ptr<GatingExpected> gating_expected(const GatingOptions& options, const TensorSet& inputs) {
  auto e = std::make_unique<GatingExpected>(options);
  const ConstView logits = inputs.view("router_logits");
  const ConstView bias = options.has_bias ? inputs.view("e_score_correction_bias") : ConstView{};
  const std::int64_t tokens = logits.shape[0];
  e->rows.resize(static_cast<std::size_t>(tokens));
  e->selections.resize(static_cast<std::size_t>(tokens));
  e->masked.resize(static_cast<std::size_t>(tokens));
  for (std::int64_t t = 0; t < tokens; ++t) {
    if (e->gating.is_padded(t, tokens) && options.policy.padding != Padding::kCompute) continue;
    const auto i = static_cast<std::size_t>(t);
    e->gating.scores(logits, bias, t, e->rows[i]);
    e->gating.select(e->rows[i], e->selections[i], &e->masked[i]);
  }
  return e;
}

void judge_gating(const TensorSet& inputs, const GatingExpected& expected, const TensorSet& outputs,
                  Judgement& j) {
  GatingJudge(inputs, expected, outputs, j).run();
}

}  // namespace moecheck::harness

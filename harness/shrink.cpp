#include "harness/shrink.h"

#include <algorithm>
#include <chrono>
#include <set>

#include "harness/fault.h"
#include "harness/operator.h"

namespace moecheck::harness {
namespace {

// Simpler values of a field. Sizes: most daring first, the floor, then an eighth, a quarter, a half, one less. Everything else
// knows only one simpler value, the one that the line need not mention.
std::vector<Value> simpler(const Field& f, Value v, Value unmentioned) {
  const bool size = f.kind == FieldKind::kInt && f.max > 1;
  if (!size) return v == unmentioned ? std::vector<Value>{} : std::vector<Value>{unmentioned};
  std::vector<Value> values;
  for (const std::int64_t i : {static_cast<std::int64_t>(f.min), std::int64_t{1}, std::int64_t{2}, v.i / 8,
                               v.i / 4, v.i / 2, v.i - 1}) {
    const bool known =
        std::any_of(values.begin(), values.end(), [i](const Value& seen) { return seen.i == i; });
    if (i < v.i && static_cast<double>(i) >= f.min && !known) values.push_back({i, v.r});
  }
  return values;
}

class Search {
 public:
  Search(const std::function<bool(const Case&)>& fails, double budget) : fails_(fails), budget_(budget) {}

  bool exhausted() const { return seconds() > budget_; }
  double seconds() const {
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - start_).count();
  }

  // Takes `candidate` as the best when it is legal and still fails.
  bool accept(Case& best, const Case& candidate) {
    if (exhausted() || candidate == best || !seen_.insert(candidate.str()).second) return false;
    if (operator_of(candidate).refusal(candidate)) return false;
    ++tried;
    if (!fails_(candidate) && !HARNESS_FAULT(kShrinkTakesPassingCases)) return false;
    best = candidate;
    return true;
  }

  int tried = 0;

 private:
  const std::function<bool(const Case&)>& fails_;
  const double budget_;
  const std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
  std::set<std::string> seen_;
};

bool drop_edits(Search& search, Case& best) {
  bool any = false;
  for (std::size_t i = best.edits.size(); i-- > 0;) {
    Case candidate = best;
    candidate.edits.erase(candidate.edits.begin() + static_cast<std::ptrdiff_t>(i));
    any = search.accept(best, candidate) || any;
  }
  return any;
}

// An edit past the last row does nothing: move edits toward row 0 together with the sizes.
bool lower_edits(Search& search, Case& best) {
  bool any = false;
  for (std::size_t i = 0; i < best.edits.size(); ++i) {
    for (std::int64_t Edit::*part : {&Edit::row, &Edit::col}) {
      Case candidate = best;
      if (candidate.edits[i].*part == 0) continue;
      candidate.edits[i].*part = 0;
      any = search.accept(best, candidate) || any;
    }
  }
  return any;
}

bool shrink_field(Search& search, Case& best, int i) {
  const Field& f = best.schema().fields[static_cast<std::size_t>(i)];
  if (!f.shrinks) return false;
  bool any = false, again = true;
  while (again) {
    again = false;
    for (const Value& v : simpler(f, best.value(i), best.base()[static_cast<std::size_t>(i)])) {
      Case candidate = best;
      candidate.set_value(i, v);
      if (search.accept(best, candidate)) {
        any = again = true;
        break;
      }
    }
  }
  return any;
}

// Fields that only fit together (experts with groups, topk with experts) are lowered in pairs.
bool shrink_pairs(Search& search, Case& best) {
  bool any = false;
  const int n = static_cast<int>(best.schema().fields.size());
  for (int a = 0; a < n && !search.exhausted(); ++a) {
    for (int b = 0; b < n; ++b) {
      const Field& fa = best.schema().fields[static_cast<std::size_t>(a)];
      const Field& fb = best.schema().fields[static_cast<std::size_t>(b)];
      if (a == b || !fa.shrinks || !fb.shrinks || fa.kind != FieldKind::kInt || fb.kind != FieldKind::kInt)
        continue;
      if (best.value(a).i < 2 || best.value(b).i < 2) continue;
      Case candidate = best;
      candidate.set_value(a, {best.value(a).i / 2, 0});
      candidate.set_value(b, {best.value(b).i / 2, 0});
      any = search.accept(best, candidate) || any;
    }
  }
  return any;
}

}  // namespace

ShrinkResult shrink(const Case& failing, const std::function<bool(const Case&)>& fails,
                    double budget_seconds) {
  Search search(fails, budget_seconds);
  Case best = failing;
  Case unnamed = failing;
  unnamed.drop_model();
  search.accept(best, unnamed);
  bool progress = true;
  while (progress && !search.exhausted() && !(HARNESS_FAULT(kShrinkStopsAtOnce) && search.tried > 1)) {
    progress = drop_edits(search, best);
    for (int i = 0; i < static_cast<int>(best.schema().fields.size()); ++i)
      progress = shrink_field(search, best, i) || progress;
    progress = lower_edits(search, best) || progress;
    if (!progress) progress = shrink_pairs(search, best);
  }
  return {best, search.tried, search.seconds()};
}

}  // namespace moecheck::harness

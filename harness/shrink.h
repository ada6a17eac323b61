#pragma once
// From a failing case to the smallest one that still fails: sizes first, then edits, then data.
#include <functional>

#include "harness/case.h"

namespace moecheck::harness {

struct ShrinkResult {
  Case smallest;
  int tried = 0;
  double seconds = 0;
};

// `fails` says whether a case shows the failure; it is asked only of cases their operator does not refuse.
ShrinkResult shrink(const Case& failing, const std::function<bool(const Case&)>& fails,
                    double budget_seconds = 4);

}  // namespace moecheck::harness

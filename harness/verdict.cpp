#include "harness/verdict.h"

#include <array>

#include "harness/fault.h"

namespace moecheck::harness {
namespace {
constexpr std::array<std::string_view, 10> kNames = {"PASS",   "FAIL", "SUSPECT", "UNDECIDED", "MISTRUSTED",
                                                     "ORACLE", "SKIP", "CRASH",   "TIMEOUT",   "WAIVED"};

// A crash says more than a wrong element, a wrong reference more than both; SKIP is below everything that ran.
constexpr std::array<int, 10> kSeverity = {1, 6, 5, 2, 3, 9, 0, 8, 7, 4};

int severity(Verdict v) { return kSeverity[static_cast<std::size_t>(v)]; }
}  // namespace

std::string_view name(Verdict v) { return kNames[static_cast<std::size_t>(v)]; }

bool parse_verdict(std::string_view text, Verdict& v) {
  for (std::size_t i = 0; i < kNames.size(); ++i) {
    if (kNames[i] != text) continue;
    v = static_cast<Verdict>(i);
    return true;
  }
  return false;
}

bool is_failure(Verdict v) {
  switch (v) {
    case Verdict::kFail:
    case Verdict::kSuspect:
      return !HARNESS_FAULT(kReportSuspectIsFine);
    case Verdict::kMistrusted:
    case Verdict::kOracle:
    case Verdict::kCrash:
    case Verdict::kTimeout:
      return true;
    case Verdict::kPass:
    case Verdict::kUndecided:
    case Verdict::kSkip:
    case Verdict::kWaived:
      return false;
  }
  return true;
}

Verdict worse(Verdict a, Verdict b) { return severity(b) > severity(a) ? b : a; }

void Judgement::raise(Verdict v, std::string why) {
  if (severity(v) > severity(verdict) || (HARNESS_FAULT(kReportKeepsLastReason) && v == verdict)) {
    verdict = v;
    reason = std::move(why);
  }
}

}  // namespace moecheck::harness

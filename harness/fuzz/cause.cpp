#include "harness/fuzz/cause.h"

#include <fmt/format.h>

#include "harness/random.h"
#include "harness/report/aggregate.h"
#include "harness/text.h"

namespace moecheck::harness {
namespace {

bool digit(char c) { return c >= '0' && c <= '9'; }

// "the weights are 0.4 times" and "the weights are 0.40001 times" are one story.
std::string without_numbers(std::string_view text) {
  std::string out;
  for (std::size_t i = 0; i < text.size();) {
    if (!digit(text[i])) {
      out += text[i++];
      continue;
    }
    while (i < text.size() &&
           (digit(text[i]) || (text[i] == '.' && i + 1 < text.size() && digit(text[i + 1]))))
      ++i;
    out += '#';
  }
  return out;
}

}  // namespace

std::string Cause::key() const {
  // A signal's number is what tells crashes apart.
  const bool died = verdict == Verdict::kCrash;
  return fmt::format("{}\n{}\n{}\n{}\n{}", operator_name, implementation, name(verdict), check,
                     died ? diagnosis : without_numbers(diagnosis));
}

std::string Cause::id() const { return fmt::format("{}-{:016x}", operator_name, Random(0, key()).bits(0)); }

bool is_finding(const Record& r) {
  return is_failure(r.result.verdict) && r.result.verdict != Verdict::kMistrusted;
}

Cause cause_of(const Record& r) {
  const Judgement& j = r.result;
  Cause cause{r.operator_name, r.implementation, j.verdict, "", printable(j.cause)};
  if (const Element* worst = report::wrong_element(j)) {
    cause.check = "elements of " + worst->output;
  } else {
    for (const ClauseResult& c : j.clauses)
      if (cause.check.empty() && c.verdict == Verdict::kFail) cause.check = c.name;
  }
  if (cause.check.empty()) cause.check = "run";
  if (cause.check == "run" && cause.diagnosis.empty()) cause.diagnosis = printable(j.reason);
  return cause;
}

}  // namespace moecheck::harness

// Bytes as the choices of the case source: the CPU version beside the reference, steered by coverage.
#include "harness/fuzz/case_source.h"
#include "harness/fuzz/cause.h"
#include "harness/runner.h"
#include "harness/verdict_text.h"
#include "target.h"

using namespace moecheck;

MOECHECK_FUZZ_TARGET(kernel_case) {
  static const std::vector<harness::CaseSource> sources = [] {
    std::vector<harness::CaseSource> made;
    // Small: coverage comes from many cases, not from large ones.
    for (const harness::Operator* op : harness::operators())
      made.emplace_back(*op, harness::CaseBudget{1 << 16, 1 << 17});
    return made;
  }();
  static const harness::Implementation* const one[] = {harness::find_implementation("cpu")};
  harness::ByteChoices choices(bytes);
  const harness::CaseSource& source = choices.pick(sources);
  const harness::Case c = source.draw(choices);
  if (harness::parse_case(c.str()) != c) fuzz::broken("another case comes back from the line " + c.str());
  for (const harness::Record& r : harness::check_case(c, one, {false, false, 1}))
    if (harness::is_finding(r)) fuzz::broken(harness::verdict_text(r));
}

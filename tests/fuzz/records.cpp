// Lines of records: what is read is written as a line that reads the same, and can be printed.
#include "harness/record.h"

#include "harness/case.h"
#include "harness/fuzz/cause.h"
#include "harness/fuzz/tally.h"
#include "harness/verdict_text.h"
#include "target.h"

using namespace moecheck;

MOECHECK_FUZZ_TARGET(records) {
  harness::Record r;
  try {
    r = harness::record_from_json(fuzz::text_of(bytes));
  } catch (const harness::UsageError&) {
    return;
  }
  const std::string line = harness::to_json(r);
  if (harness::to_json(harness::record_from_json(line)) != line)
    fuzz::broken("another record comes back from " + line);
  (void)harness::verdict_text(r);
  (void)harness::cause_of(r).id();
  harness::CampaignTally tally;
  tally.add(r);
  (void)tally.text();
}

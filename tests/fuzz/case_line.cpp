// Case lines and entries of a corpus: what is read prints as a line that reads the same.
#include "harness/fuzz/corpus.h"
#include "harness/operator.h"
#include "target.h"

using namespace moecheck;

MOECHECK_FUZZ_TARGET(case_line) {
  const std::string_view text = fuzz::text_of(bytes);
  try {
    const harness::Case c = harness::parse_case(text);
    if (harness::parse_case(c.str()) != c) fuzz::broken("another case comes back from the line " + c.str());
    (void)harness::operator_of(c).refusal(c);
  } catch (const harness::UsageError&) {
  }
  try {
    const harness::CorpusEntry e = harness::parse_corpus_entry(text, "entry");
    const harness::CorpusEntry again = harness::parse_corpus_entry(harness::to_text(e), "entry");
    if (again.c != e.c || again.cause.verdict != e.cause.verdict) fuzz::broken("another entry comes back");
  } catch (const harness::UsageError&) {
  }
}

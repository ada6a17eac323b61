// Results of evaluations and of benchmarks, ours and those of other programs.
#include "harness/case.h"
#include "harness/load/result.h"
#include "harness/tasks/sample.h"
#include "scratch.h"
#include "target.h"

using namespace moecheck;

MOECHECK_FUZZ_TARGET(eval_results) {
  static const fuzz::Scratch scratch("results");
  const std::uint8_t what = fuzz::take_byte(bytes);
  const std::string_view text = fuzz::text_of(bytes);
  try {
    if (what % 3 == 0) {
      (void)harness::load::read_benches(scratch.write("bench.json", text));
      return;
    }
    // A results file, and behind a line of "---" the samples.
    const std::size_t cut = std::min(text.find("\n---\n"), text.size());
    const std::string results = scratch.write("results_2026-01-01T00-00-00.json", text.substr(0, cut));
    const std::string samples = scratch.write("samples_gsm8k_2026-01-01T00-00-00.jsonl",
                                              cut == text.size() ? text : text.substr(cut + 5));
    (void)harness::read_run(what % 3 == 1 ? results : samples);
  } catch (const harness::UsageError&) {
  }
}

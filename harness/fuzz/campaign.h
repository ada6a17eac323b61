#pragma once
// A fuzzing campaign: random cases of each operator against implementations, in worker processes.
//
// Which cases there are. With n operators, number i is case k = i / n of operator i % n. Cases come in islands of 64: the first
// half of an island is drawn, and drawn case k of an operator is a function of (seed, operator, k) alone. The other half, in two
// generations of 16, is made from those cases of the same island, in earlier generations, that came nearest to their bounds
// without failing: one parent per implementation and output. So feedback never looks past its island, islands need nothing
// from each other, and a campaign finds the same failures for any number of jobs, and for any number of shards together.
// (The fed-back half also depends on the implementations that are compared, which have to be deterministic.)
//
// What is kept. A failure with a new cause is in the corpus before anyone hears of it, first as it was drawn; then it is shrunk
// and the entry replaced. A killed campaign has lost the cases it was at and nothing that it reported.
#include <cstdint>
#include <functional>
#include <limits>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "harness/fuzz/cause.h"
#include "harness/fuzz/corpus.h"
#include "harness/fuzz/shard.h"
#include "harness/runner.h"

namespace moecheck::harness {

// One cause of failure.
struct FuzzFinding {
  Cause cause;
  Record record;           // the first of its records; record.shrunk is the smallest case
  std::int64_t times = 1;  // cases that showed it in this campaign
  bool known = false;      // from the corpus
  bool repeats = true;     // it failed again when it was to be shrunk
  std::string path;        // of its corpus entry; empty without a corpus
};

struct FuzzProgress {
  std::int64_t cases = 0;  // that ran or were skipped, in this shard
  double seconds = 0;
  std::size_t findings = 0;
};

struct FuzzOptions {
  std::vector<const Operator*> operators;
  std::vector<const Implementation*> implementations;
  std::uint64_t seed = 1;
  std::uint64_t cases = std::numeric_limits<std::uint64_t>::max();  // of all shards together
  double seconds = std::numeric_limits<double>::infinity();
  Shard shard;
  const Corpus* corpus = nullptr;
  bool tensors = false;  // write those of new findings into the corpus
  bool shrink = true;
  CheckOptions check;
  int jobs = 1;
  double timeout_seconds = 60;  // per case

  std::function<void(Record&)> amend =
      {};  // before anyone sees a record: waivers. What it makes no failure is no finding

  // In the parent. Each record once, that of a new finding after it is in the corpus.
  std::function<void(const Record&)> on_record;
  std::function<void(const FuzzFinding&)> on_finding;  // a new one, or one of the corpus that fails still
  std::function<void(const CorpusEntry&, const Record&)>
      on_mended;  // an entry whose implementation passes now
  std::function<void(const FuzzProgress&)> on_progress;
  std::function<bool()> stop;  // asked between cases
};

// Ends when `cases` are done, `seconds` are over or `stop` says so; the last cases are finished, so that it may take a little
// longer. Gives the findings in the order in which they were met.
std::vector<FuzzFinding> run_fuzz(const FuzzOptions& options);

}  // namespace moecheck::harness

#pragma once
// Words that the two forms of the pull request report share.
#include <string>
#include <string_view>
#include <vector>

#include "harness/report/pr.h"

namespace moecheck::harness::report {

// "A right 94.69% (93.35 .. 95.77)": percent with Wilson's 95% interval.
std::string accuracy_text(const Accuracy& a);
std::string points_text(const Interval& i);  // "-1.30 .. +0.67"
std::string p_value_text(double p);          // "0.64", "1.2e-05"

// "+7.4% (+6.1 .. +8.8)", "+7.4%, noise unknown", or "" where there is no change to state.
std::string change_text(const load::Change& c);
std::string number_text(double v);  // three to four significant digits: 5.238, 199.4, 2,194
std::string concurrency_text(const load::SweepRow& r);  // "16", "no limit", "16, 8 req/s"
std::string load_text(const load::SweepRow& r);         // "1000 / 100", "gsm8k / 256"

struct Command {
  std::string arm, line;
  bool recorded = true;  // false: put together from what the file says was run
};
std::vector<Command> commands(const PrReport& report);  // each once
struct Place {
  std::string what, value;
};
std::vector<Place> environments(const PrReport& report);

// What a reader must know beside the numbers: invalid runs, failed requests, warnings of the runs, differing data.
std::vector<std::string> cautions(const PrReport& report);

// "1 better, 2 within noise" over the sweep's output throughput; empty without a sweep.
std::string sweep_text(const PrReport& report);

}  // namespace moecheck::harness::report

// A server's counters.
#include "harness/load/prometheus.h"

#include "target.h"

using namespace moecheck;

MOECHECK_FUZZ_TARGET(prometheus) {
  const std::string_view text = fuzz::text_of(bytes);
  for (const harness::load::Sample& s : harness::load::parse_prometheus(text))
    if (s.name.empty()) fuzz::broken("a sample without a name");
  const std::size_t half = text.size() / 2;
  const harness::load::CounterDelta delta = harness::load::difference(
      harness::load::read_counters(text.substr(0, half)), harness::load::read_counters(text));
  (void)delta.acceptance_rate();
  (void)delta.acceptance_length();
  (void)delta.acceptance_per_position();
  (void)delta.prefix_hit_rate();
  (void)harness::load::check_counters(delta, 1, 2, 3);
}

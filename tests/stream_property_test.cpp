// The checker's vector clocks against every legal order, on random programs.
#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include <chrono>
#include <cstdlib>
#include <numeric>
#include <sstream>

#include "reference/stream_checker.h"
#include "reference/stream_oracle.h"
#include "stream_random_programs.h"

namespace moecheck::reference {
namespace {

using Pairs = std::set<std::pair<Executed, Executed>>;

Executed executed(const StreamOrder& order, int n) { return {order.node(n).step, order.node(n).launch}; }

Pairs overlaps_of(const CheckedStreams& c) {
  Pairs pairs;
  for (const auto& [a, b] : c.report.overlaps)
    pairs.insert(std::minmax(executed(c.order, a), executed(c.order, b)));
  return pairs;
}

std::vector<Executed> host_order(const StreamOrder& order) {
  std::vector<Executed> list;
  for (const int n : order.operations()) list.push_back(executed(order, n));
  return list;
}

// A schedule of a witness, with what it leaves out behind it.
std::vector<Executed> whole(const StreamOrder& order, const std::vector<int>& schedule) {
  std::vector<Executed> list;
  std::vector<bool> in(order.nodes().size());
  for (const int n : schedule) {
    list.push_back(executed(order, n));
    in[static_cast<std::size_t>(n)] = true;
  }
  for (const int n : order.operations())
    if (!in[static_cast<std::size_t>(n)]) list.push_back(executed(order, n));
  return list;
}

std::string listing(const StreamProgram& p) {
  std::ostringstream out;
  const std::vector<std::string> labels = step_labels(p);
  for (const ProgramBuffer& b : p.buffers)
    out << "buffer " << b.name << " " << b.bytes << " pool " << b.stream << " base " << b.base << "+"
        << b.offset << "\n";
  for (const ProgramStream& s : p.streams) out << "stream " << s.name << " " << name(s.kind) << "\n";
  for (std::size_t i = 0; i < p.steps.size(); ++i) {
    const StreamStep& s = p.steps[i];
    out << i << " " << labels[i];
    if (is_operation(s)) out << " on " << p.streams[static_cast<std::size_t>(s.stream)].name;
    for (const auto& r : s.reads) out << " r" << r.buffer << "[" << r.begin << "," << r.end << ")";
    for (const auto& r : s.writes) out << " w" << r.buffer << "[" << r.begin << "," << r.end << ")";
    if (!s.scratch.empty()) out << " scratch";
    if (s.reuses >= 0) out << " reuses " << s.reuses;
    out << "\n";
  }
  return out.str();
}

std::string disagreement_about_waits(const StreamProgram& p, const CheckedStreams& c,
                                     const OracleResult& oracle) {
  if (oracle.outcomes_differ || oracle.poison || !c.report.capture.empty()) return "";
  const CaptureFacts facts = capture_facts(p);
  for (const WaitVerdict& w : c.report.waits) {
    const StreamProgram q = without_step(p, w.step);
    const OracleResult without = explore_streams(q);
    const std::string at =
        step_labels(p)[static_cast<std::size_t>(w.step)] + " is " + std::string(name(w.use));
    if (w.use == WaitUse::kNeededByCapture || w.code != 0 || without.capture_failed) {
      // A fork that is gone may leave work outside the capture without an error.
      if (without.capture_failed != (w.code != 0)) return at + ", capture";
      continue;
    }
    if (facts.graph_of_step[static_cast<std::size_t>(w.step)] >= 0 && w.use == WaitUse::kNeeded) continue;
    Pairs moved;
    const auto shift = [&](Executed e) {
      if (e.step >= w.step) ++e.step;
      if (e.launch >= w.step) ++e.launch;
      return e;
    };
    for (const auto& [a, b] : without.unordered) moved.insert({shift(a), shift(b)});
    const bool hurts = without.outcomes_differ || without.poison, changes = moved != oracle.unordered;
    if ((w.use == WaitUse::kNeeded) != hurts)
      return at + ", and without it a wrong outcome is " + (hurts ? "possible" : "not");
    if (!hurts && (w.use == WaitUse::kRedundant) == changes) return at + ", and the order changes or not";
  }
  return "";
}

// What checker and oracle disagree on, or "".
std::string disagreement(const StreamProgram& p, bool waits) {
  if (const auto why = refusal(p)) return "refused: " + *why;
  const CheckedStreams c = check_streams(p, {.races = 1000, .overlaps = 100000, .waits = waits});
  const OracleResult oracle = explore_streams(p);
  if (!oracle.complete) return "";
  if (oracle.capture_failed != !c.report.capture.empty()) return "capture";
  if (oracle.capture_failed) return "";
  if (overlaps_of(c) != oracle.unordered) return "pairs without an order";
  if (static_cast<std::int64_t>(c.report.overlaps.size()) != c.report.overlap_count)
    return "count of overlaps";
  if ((c.report.race_count > 0) != oracle.outcomes_differ)
    return c.report.race_count > 0 ? "a race that changes no outcome" : "outcomes differ without a race";
  if (!c.report.lifetime.empty() != oracle.poison)
    return oracle.poison ? "poison is read without a lifetime error" : "a lifetime error without poison";
  const auto serial = execute_schedule(p, host_order(c.order));
  if (!serial) return "the host's order is not legal";
  for (const Race& r : c.report.races) {
    const auto witness = execute_schedule(p, whole(c.order, r.schedule));
    if (!witness) return "the witness of a race is not legal";
    if (*witness == *serial) return "the witness of a race shows nothing";
  }
  for (const LifetimeError& e : c.report.lifetime)
    if (!e.schedule.empty() && !execute_schedule(p, whole(c.order, e.schedule)))
      return "the witness of a reuse is not legal";
  if (oracle.outcomes_differ) {
    const auto one = execute_schedule(p, oracle.one), other = execute_schedule(p, oracle.other);
    if (!one || !other || *one == *other) return "the oracle's schedules show nothing";
  }
  const bool legacy = p.streams.front().kind == StreamKind::kLegacy;
  return waits && !legacy ? disagreement_about_waits(p, c, oracle) : "";
}

// The smallest program that is left when steps are taken away while the disagreement stays.
std::string smallest(StreamProgram p, bool waits) {
  for (bool smaller = true; smaller;) {
    smaller = false;
    for (std::size_t i = p.steps.size(); i-- > 0;) {
      StreamProgram q = without_step(p, static_cast<int>(i));
      if (refusal(q) || disagreement(q, waits).empty()) continue;
      p = std::move(q);
      smaller = true;
    }
  }
  return disagreement(p, waits) + "\n" + listing(p);
}

struct Seen {
  int racy = 0, clean = 0, overlap = 0, captured = 0, capture_errors = 0, lifetime = 0;
  int waits[4] = {};  // of clean programs, by verdict
};

void compare(std::uint64_t first, int count, int waits_every, Seen* seen = nullptr) {
  for (int i = 0; i < count; ++i) {
    const std::uint64_t seed = first + static_cast<std::uint64_t>(i);
    const StreamProgram p = RandomProgram(seed).make();
    const bool waits = i % waits_every == 0;
    const std::string why = disagreement(p, waits);
    ASSERT_EQ(why, "") << "seed " << seed << "\n" << smallest(p, waits);
    if (seen == nullptr) continue;
    const StreamReport r = check_streams(p, {.waits = waits}).report;
    if (!r.wrong())
      for (const WaitVerdict& w : r.waits) ++seen->waits[static_cast<std::size_t>(w.use)];
    seen->racy += r.race_count > 0;
    seen->clean += !r.wrong();
    seen->overlap += r.overlap_count > 0 && !r.wrong();
    seen->captured += !p.graphs.empty() && r.capture.empty();
    seen->capture_errors += !r.capture.empty();
    seen->lifetime += !r.lifetime.empty();
  }
}

// MOECHECK_STREAM_PROGRAMS=100000 for the published run.
TEST(StreamProperty, ClocksEqualEveryLegalOrder) {
  const char* const many = std::getenv("MOECHECK_STREAM_PROGRAMS");
  Seen seen;
  const int count = many != nullptr ? std::atoi(many) : 20000;
  compare(1, count, 4, &seen);
  printf(
      "%d programs: %d racy, %d clean (%d of them overlap), %d with graphs, %d with capture errors, %d with "
      "lifetime errors\n",
      count, seen.racy, seen.clean, seen.overlap, seen.captured, seen.capture_errors, seen.lifetime);
  printf("waits of clean programs: %d needed, %d needed by capture, %d cost overlap, %d redundant\n",
         seen.waits[0], seen.waits[1], seen.waits[2], seen.waits[3]);
  // None of them is rare: a comparison of nothing would prove nothing.
  for (const int n : {seen.racy, seen.clean, seen.overlap, seen.captured, seen.capture_errors, seen.lifetime})
    EXPECT_GT(n, count / 100);
  for (const int n : seen.waits) EXPECT_GT(n, count / 1000);
}

RC_GTEST_PROP(StreamProperty, the_checker_and_the_oracle_agree, ()) {
  const auto seed = *rc::gen::arbitrary<std::uint64_t>();
  const StreamProgram p = RandomProgram(seed, *rc::gen::inRange(1, 10)).make();
  if (!disagreement(p, true).empty()) RC_FAIL(smallest(p, true));
}

RC_GTEST_PROP(StreamProperty, another_order_edge_never_adds_a_race, ()) {
  const auto seed = *rc::gen::arbitrary<std::uint64_t>();
  StreamProgram p = RandomProgram(seed).make();
  const auto before = check_streams(p);
  RC_PRE(before.report.capture.empty() && p.graphs.empty());
  StreamStep wait;
  wait.kind = StepKind::kWaitStream;
  wait.stream = 0;
  wait.on = 1;
  p.overlaps.clear();
  const auto at = *rc::gen::inRange<std::size_t>(0, p.steps.size() + 1);
  p.steps.insert(p.steps.begin() + static_cast<std::ptrdiff_t>(at), wait);
  RC_ASSERT(check_streams(p).report.race_count <= before.report.race_count);
}

// 10,000 operations on four streams that meet every few steps: within a second in an optimized build.
TEST(StreamProperty, TenThousandOperations) {
  StreamProgram p;
  std::vector<int> buffers;
  for (int s = 0; s < 4; ++s) {
    p.stream("s" + std::to_string(s));
    for (int b = 0; b < 4; ++b) buffers.push_back(p.buffer("b" + std::to_string(4 * s + b), 1024));
  }
  std::mt19937 random(7);
  for (int i = 0; i < 10000; ++i) {
    const int s = static_cast<int>(random() % 4);
    const auto own = [&] { return buffers[static_cast<std::size_t>(4 * s) + random() % 4]; };
    p.kernel("k" + std::to_string(i), s, {own()}, {own()});
    if (i % 8 == 7) p.wait_stream(static_cast<int>(random() % 4), static_cast<int>(random() % 4));
  }
  const auto start = std::chrono::steady_clock::now();
  ASSERT_EQ(refusal(p), std::nullopt);
  const CheckedStreams c = check_streams(p);
  const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  printf("10,000 operations, %zu waits: %.3f s\n", c.report.waits.size(), seconds);
  EXPECT_FALSE(c.report.wrong());
  EXPECT_LT(seconds, 20);  // under a sanitizer, on a busy machine
}

}  // namespace
}  // namespace moecheck::reference

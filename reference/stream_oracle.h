#pragma once
// A stream program executed in every order that is legal: the independent judge of stream_checker.h, for small programs.
//
// It knows no clocks and no graph of edges. Streams are queues; the host fills them, as far ahead as its own waits let it; then any
// operation at the front of its queue may run, whole. Operations compute on abstract values: a byte's value is the history of
// who wrote it, and what an operation reads becomes part of the outcome, so that two schedules with different orders of
// any conflicting pair end differently, even where real numbers would happen to agree. Memory that the host freed is poison, and
// what a pool may hand out again is the new buffer's as well as the old one's.
// Each set of operations that can be done at some time is visited once (records and waits run as soon as they can, which takes
// nothing from what else may run): a set reached with two different memories is a race.
#include <cstdint>
#include <set>
#include <utility>
#include <vector>

#include "reference/stream_program.h"

namespace moecheck::reference {

// An operation as it ran: its step, and the step whose launch of a graph ran it (-1: none).
struct Executed {
  int step = 0, launch = -1;
  friend auto operator<=>(const Executed&, const Executed&) = default;
};

struct OracleResult {
  bool complete =
      false;  // false: more than `max_states` sets, or more than 64 operations; nothing else is told
  bool capture_failed = false;  // then nothing is executed
  bool outcomes_differ = false;
  bool poison = false;  // an operation touched memory that was not, or no longer, its buffer's
  std::set<std::pair<Executed, Executed>> unordered;  // both orders are legal; the smaller one first
  std::int64_t states = 0;
  std::vector<Executed> one, other;  // outcomes_differ: two schedules with different outcomes
};

struct OracleOptions {
  std::int64_t max_states = 200'000;
};

// The program is not refused. Two operations are only in `unordered` if no schedule is missing: all of them are found.
OracleResult explore_streams(const StreamProgram& program, const OracleOptions& options = {});

// What a schedule of all operations gives: one number for all that is read and written, or nothing where a queue forbids it.
std::optional<std::uint64_t> execute_schedule(const StreamProgram& program,
                                              const std::vector<Executed>& schedule);

}  // namespace moecheck::reference

#pragma once
// A stream program from a profile: what ran on which stream, and who waited for whom, without what it worked on.
//
// The host's order is that of the launching calls. What a profile leaves open is left open in the program too, so that the
// program never orders more than the device did, but for what is marked *assumed*: an order found between two operations holds,
// and a wait that is redundant here is redundant on the device.
//
//   operation      a kernel, copy or memset, put on its stream where the call with its correlation id started. A call that is
//                  missing: behind the calls with lower ids, which count up. Names are short; "gemm#2" is the second "gemm"
//   record         of the call that the wait's record names: a snapshot of the stream at *that* call, not at the wait
//   wait           at its own call. A profile that names a record behind the wait (profile.h) is corrected where event
//                  records tell. A profile that names none: *assumed* as profile_assumed.h says. What is open
//                  then is left out and counted
//   host_sync      where one thread launches all there is; with several threads a wait of one holds back that one alone, which
//                  a program cannot say: left out and counted
//   graph launch   the nodes share the launch's correlation id. *Assumed*: it is on the stream among theirs that has other
//                  work, else that of its first node. Nodes come behind that stream's earlier work and ahead of its later work;
//                  edges between nodes are not in a profile, but for the order of nodes on one stream, *assumed* as well
//                  where they did not run at the same time (then they get lanes: "stream 7 in graphs, lane 2")
//   while a stream captures, calls put nothing on streams: waits between begin and end of a capture are left out
//
// What a profile cannot know: see reports/stream_program.md, "Programs from profiles".
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "harness/streams/profile.h"
#include "reference/stream_order.h"
#include "reference/stream_program.h"

namespace moecheck::harness::streams {

struct ImportOptions {
  std::optional<std::int64_t> device = std::nullopt;  // else all
  // us: operations that start in [from, to)
  std::optional<double> from = std::nullopt, to = std::nullopt;
};

// What only the profile knows of a step.
struct StepOrigin {
  int activity = -1;             // of an operation: its number in `activities`
  std::int64_t correlation = 0;  // of the call that made it
  double called = -1;            // when that call started, in us; -1: the call is not in the profile
  bool assumed = false;  // an edge of a graph launch; a wait or record that profile_assumed.h inferred
};

struct ImportedProgram {
  reference::StreamProgram program;  // durations in us
  std::vector<StepOrigin> origins;   // of each step
  std::vector<Activity> activities;
  std::vector<std::string> notes;  // what is missing, corrected or assumed, with counts
  double resolution = 0;
};

// Throws UsageError where nothing is left to look at, or too much.
ImportedProgram import_profile(const Profile& profile, const ImportOptions& options, const std::string& path);

// moecheck.stream_program/1, with "x-start" (us) in each operation and "x-assumed": true in assumed steps.
std::string imported_json(const ImportedProgram& imported);

// ---- What was measured

// What a wait did to its stream: `behind` is its stream's first operation behind it, `ahead` the last one ahead of it, `awaited`
// the operation of another stream, ordered before the record, that ended last.
enum class WaitEffect : std::uint8_t {
  kHeld,  // `behind` could have started `held` us earlier: stream free, launched, and nothing else awaited
  kHeldBeside,  // it was not over yet, but another wait ahead of `behind` was over later
  kFree,        // it was over when the stream got there: cost nothing
  kUnseen,      // nothing ahead of the record, or nothing behind the wait, is in the profile
};
std::string_view name(WaitEffect effect);  // "held", "held beside another", "free", "unseen"

struct WaitMeasure {
  int step = 0;
  WaitEffect effect{};
  int ahead = -1, behind = -1, awaited = -1;  // steps
  double gap = 0, held = 0;                   // us; gap: from the end of `ahead` to the start of `behind`
  bool redundant = false;                     // no order of two operations changes without it
  std::vector<int> path;                      // then: the nodes that order `awaited` before `behind` anyway
};

// Two operations that the program orders, and that ran at the same time or the other way round.
struct Contradiction {
  int first = 0, second = 0;  // steps; the program has first before second
  double by = 0;              // us that second started too early
  bool reversed = false;      // second was over before first began
};

struct StreamUse {
  int operations = 0;
  double busy = 0;
};
struct SharedTime {
  int a = 0, b = 0;  // streams
  double time = 0;
};

struct ProfileMeasures {
  std::vector<StreamUse> streams;          // of the program's streams
  std::vector<SharedTime> shared;          // longest first
  double span = 0, busy = 0, several = 0;  // first start to last end; one stream busy; two or more
  std::vector<WaitMeasure> waits;
  std::vector<Contradiction> contradictions;  // at most kMostContradictions, worst first
  std::int64_t contradiction_count = 0;
};
inline constexpr std::size_t kMostContradictions = 100;
// Operations that only touch by less are not called at the same time: one step of a device's timer.
inline constexpr double kTimerStep = 0.032;

ProfileMeasures measure(const ImportedProgram& imported, const reference::StreamOrder& order);

std::string profile_text(const ImportedProgram& imported, const reference::StreamOrder& order,
                         const ProfileMeasures& measures);
// Lanes over measured time; waits that held are red.
std::string profile_svg(const ImportedProgram& imported, const ProfileMeasures& measures);

}  // namespace moecheck::harness::streams

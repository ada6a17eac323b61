#pragma once
// What the stream checker found, for people.
#include <string>

#include "reference/stream_checker.h"

namespace moecheck::harness::streams {

// Everything that was found, with witnesses, then the waits, the overlap and the paths.
std::string check_text(const reference::StreamProgram& program, const reference::CheckedStreams& checked);
// What it found wrong first: a capture error, a race or a lifetime error with its witness; "" where nothing is wrong.
std::string first_error_text(const reference::StreamProgram& program,
                             const reference::CheckedStreams& checked);
// "FAIL", "PASS" with declared overlaps that are lost counted as failures.
bool failed(const reference::StreamReport& report);

// Is this edge there, who makes it, what breaks without it, and does it cost overlap? `edge` is "A->B", two operations. Throws
// UsageError for names that are none.
std::string explain_text(const reference::StreamProgram& program, const std::string& edge);

// Lanes over time: every operation as early as the order allows, streams with a lane each.
std::string timeline_text(const reference::StreamProgram& program, const reference::CheckedStreams& checked);
std::string timeline_svg(const reference::StreamProgram& program, const reference::CheckedStreams& checked);

// ---- Shared by the above

// Of each node, when it starts.
std::vector<double> earliest(const reference::StreamProgram& program, const reference::StreamOrder& order);
// Names of nodes; a graph that is launched several times is told apart.
class NodeNames {
 public:
  NodeNames(const reference::StreamProgram& program, const reference::StreamOrder& order);
  std::string of(int node) const;
  // Its operations, and the waits that make its edges.
  std::string path(const std::vector<int>& nodes) const;
  const std::string& step(int step) const { return labels_[static_cast<std::size_t>(step)]; }
  std::string list(const std::vector<int>& nodes, std::size_t limit = 40) const;

 private:
  const reference::StreamOrder& order_;
  std::vector<std::string> labels_;
};

}  // namespace moecheck::harness::streams

#pragma once
// Where calls of a profile stand in the host's order.
#include <cstdint>
#include <map>
#include <string_view>
#include <vector>

#include "harness/streams/profile.h"

namespace moecheck::harness::streams {

// cudaGraphLaunch, cuGraphLaunch, hipGraphLaunch, with suffixes such as _ptsz: all are calls of "GraphLaunch".
bool is_call(const HostCall& call, std::string_view what);

class CallIndex {
 public:
  explicit CallIndex(const Profile& profile);

  const HostCall* find(std::int64_t correlation) const;  // the earliest with that id
  // When the call with that id started. A call that is missing stands where the last one with a lower id does; one without id
  // (0) at `otherwise`.
  double place(std::int64_t correlation, double otherwise) const;
  std::size_t repeated() const { return repeated_; }

 private:
  std::map<std::int64_t, const HostCall*> calls_;
  std::size_t repeated_ = 0;
};

// From begin to end of captures: calls in there put nothing on streams.
class Captures {
 public:
  explicit Captures(const Profile& profile);
  bool contain(const HostCall& call) const;

 private:
  struct Capture {
    int thread;
    double begin, end;
  };
  std::vector<Capture> captures_;
};

}  // namespace moecheck::harness::streams

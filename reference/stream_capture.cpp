#include "reference/stream_capture.h"

#include <algorithm>

#include "reference/index.h"

namespace moecheck::reference {
namespace {

using Clock = std::vector<int>;  // of each stream, how much of its captured work is included

void join(Clock& to, const Clock& from) {
  for (std::size_t i = 0; i < to.size(); ++i) to[i] = std::max(to[i], from[i]);
}

struct Capture {
  int origin = -1;
  bool open = false, failed = false;
  int invalid_since = -1;
};

struct EventState {
  int graph = -1;  // whose capture recorded it last
  Clock clock;
};

class Machine {
 public:
  Machine(const StreamProgram& p, int skip)
      : p_(p),
        skip_(skip),
        member_(p.streams.size(), -1),
        last_(p.streams.size(), -1),
        count_(p.streams.size(), 0),
        clocks_(p.streams.size(), Clock(p.streams.size(), 0)),
        captures_(p.graphs.size()),
        events_(p.events.size()) {
    facts_.graph_of_step.assign(p.steps.size(), -1);
  }

  CaptureFacts run() {
    for (std::size_t i = 0; i < p_.steps.size(); ++i) {
      step_ = static_cast<int>(i);
      const StreamStep& s = p_.steps[i];
      const int stream =
          s.buffer >= 0 && s.kind != StepKind::kRecordStream ? p_.buffers[index(s.buffer)].stream : s.stream;
      if (stream >= 0) facts_.graph_of_step[i] = member(stream);
      if (step_ != skip_) take(s);
    }
    for (std::size_t g = 0; g < captures_.size(); ++g)
      if (captures_[g].open)
        error(0, "the capture of graph '" + p_.graphs[g] + "' is never ended: add end_capture on stream '" +
                     stream(captures_[g].origin) + "'");
    return std::move(facts_);
  }

 private:
  void take(const StreamStep& s) {
    switch (s.kind) {
      case StepKind::kKernel:
      case StepKind::kCopy:
        if (implicit(s.stream)) return;
        if (member(s.stream) < 0) return;
        last_[index(s.stream)] = step_;
        clocks_[index(s.stream)][index(s.stream)] = ++count_[index(s.stream)];
        return;
      case StepKind::kRecord:
        if (implicit(s.stream)) return;
        events_[index(s.event)] = {member(s.stream), clocks_[index(s.stream)]};
        return;
      case StepKind::kWait:
        if (!implicit(s.stream)) wait(s.stream, events_[index(s.event)]);
        return;
      case StepKind::kWaitStream:
        if (s.stream == s.on || implicit(s.stream) || implicit(s.on)) return;
        wait(s.stream, {member(s.on), clocks_[index(s.on)]});
        return;
      case StepKind::kHostSync:
        return sync(s);
      case StepKind::kBeginCapture:
        return begin(s);
      case StepKind::kEndCapture:
        return end(s);
      case StepKind::kLaunchGraph:
        return launch(s);
      case StepKind::kAlloc:
      case StepKind::kFree:
      case StepKind::kRecordStream:
        return;
    }
  }

  // Work of the legacy stream would wait for blocking streams that are captured.
  bool implicit(int s) {
    if (p_.streams[index(s)].kind != StreamKind::kLegacy) return false;
    bool refused = false;
    for (std::size_t t = 0; t < member_.size(); ++t) {
      if (p_.streams[t].kind != StreamKind::kBlocking || member_[t] < 0) continue;
      if (!refused)
        error(906, std::string("work is put on the legacy stream while blocking stream '") +
                       p_.streams[t].name + "' is captured: use a non-blocking stream");
      invalidate(member_[t]);
      refused = true;
    }
    return refused;
  }

  void wait(int s, const EventState& e) {
    const int mine = member(s);
    if (e.graph < 0 && mine < 0) return;
    if (e.graph < 0) {
      error(905, std::string("stream '") + stream(s) +
                     "' is captured and waits for work outside the capture: let the other stream wait for an "
                     "event of the "
                     "capture first (fork), or wait before begin_capture");
      return invalidate(mine);
    }
    if (!captures_[index(e.graph)].open) {
      error(907, std::string("the event was last recorded in the capture of graph '") + graph(e.graph) +
                     "', which has ended: record it again, or wait for the stream that launches the graph");
      return invalidate(mine);
    }
    if (mine >= 0 && mine != e.graph) {
      error(902, std::string("the event belongs to the capture of graph '") + graph(e.graph) +
                     "' and stream '" + stream(s) + "' to that of '" + graph(mine) +
                     "': captures cannot be merged, capture both on one origin");
      invalidate(e.graph);
      return invalidate(mine);
    }
    if (mine < 0) {
      if (p_.streams[index(s)].kind == StreamKind::kLegacy) {
        error(906, "the legacy stream cannot become part of a capture: use another stream");
        return invalidate(e.graph);
      }
      enter(s, e.graph);
      facts_.graph_of_step[index(step_)] = e.graph;
    }
    join(clocks_[index(s)], e.clock);
  }

  void sync(const StreamStep& s) {
    if (s.event >= 0) {
      const int g = events_[index(s.event)].graph;
      if (g < 0) return;
      error(907, label(step_) +
                     ": the event was recorded in a capture, where nothing runs: wait behind end_capture");
      if (captures_[index(g)].open) invalidate(g);
      return;
    }
    bool said = false;
    for (std::size_t t = 0; t < member_.size(); ++t) {
      if (member_[t] < 0 || (s.stream >= 0 && index(s.stream) != t)) continue;
      if (!said)
        error(900, std::string("stream '") + p_.streams[t].name +
                       "' is captured, and nothing of it runs: wait behind end_capture");
      said = true;
      invalidate(member_[t]);
    }
  }

  void begin(const StreamStep& s) {
    Capture& c = captures_[index(s.graph)];
    c.failed = true;
    if (p_.streams[index(s.stream)].kind == StreamKind::kLegacy)
      return error(900, "the legacy stream cannot be captured: use another stream");
    if (const int g = member(s.stream); g >= 0)
      return error(401, "stream '" + stream(s.stream) + "' is captured already, for graph '" + graph(g) +
                            "': end that first");
    c = {s.stream, true, false, -1};
    enter(s.stream, s.graph);
  }

  void end(const StreamStep& s) {
    const int g = member(s.stream);
    if (g < 0)
      return error(401, "stream '" + stream(s.stream) + "' is not captured: begin_capture comes first");
    Capture& c = captures_[index(g)];
    if (c.origin != s.stream)
      return error(903, "the capture of graph '" + graph(g) + "' began on stream '" + stream(c.origin) +
                            "' and ends there, not on '" + stream(s.stream) + "'");
    if (c.invalid_since >= 0)
      error(901, "the capture is invalid since " + label(c.invalid_since), c.invalid_since);
    for (std::size_t t = 0; c.invalid_since < 0 && t < member_.size(); ++t) {
      if (member_[t] != g || clocks_[index(s.stream)][t] >= count_[t]) continue;
      c.failed = true;
      error(904,
            "'" + label(last_[t]) + "' on stream '" + p_.streams[t].name + "' is not joined: let '" +
                stream(s.stream) + "' wait for '" + p_.streams[t].name + "' behind it, before end_capture",
            last_[t]);
    }
    c.failed = c.failed || c.invalid_since >= 0;
    c.open = false;
    for (std::size_t t = 0; t < member_.size(); ++t)
      if (member_[t] == g) leave(static_cast<int>(t));
  }

  void launch(const StreamStep& s) {
    const Capture& c = captures_[index(s.graph)];
    if (c.open)
      error(0, "graph '" + graph(s.graph) +
                   "' is launched before its capture ends: launch it behind end_capture");
    if (const int g = member(s.stream); g >= 0) {
      error(0, "a graph launched on captured stream '" + stream(s.stream) +
                   "' becomes a child graph, which is not modelled: launch it outside the capture");
      invalidate(g);
    }
  }

  void enter(int s, int g) {
    leave(s);
    member_[index(s)] = g;
  }
  void leave(int s) {
    member_[index(s)] = -1;
    last_[index(s)] = -1;
    count_[index(s)] = 0;
    clocks_[index(s)].assign(p_.streams.size(), 0);
  }
  void invalidate(int g) {
    if (g >= 0 && captures_[index(g)].invalid_since < 0) captures_[index(g)].invalid_since = step_;
  }
  void error(int code, std::string message, int cause = -1) {
    CaptureError& e = facts_.errors.emplace_back();
    e.code = code, e.step = step_, e.cause = cause;
    e.message = std::move(message);
  }
  const std::string& label(int step) {
    if (labels_.empty()) labels_ = step_labels(p_);
    return labels_[index(step)];
  }
  int member(int s) const { return member_[index(s)]; }
  const std::string& stream(int s) const { return p_.streams[index(s)].name; }
  const std::string& graph(int g) const { return p_.graphs[index(g)]; }

  const StreamProgram& p_;
  const int skip_;
  std::vector<std::string> labels_;  // when first asked for
  std::vector<int> member_, last_,
      count_;  // of each stream: its capture, and in it its last operation and how many
  std::vector<Clock> clocks_;
  std::vector<Capture> captures_;
  std::vector<EventState> events_;
  CaptureFacts facts_;
  int step_ = 0;
};

}  // namespace

std::string_view capture_error_name(int code) {
  switch (code) {
    case 401:
      return "cudaErrorIllegalState";
    case 900:
      return "cudaErrorStreamCaptureUnsupported";
    case 901:
      return "cudaErrorStreamCaptureInvalidated";
    case 902:
      return "cudaErrorStreamCaptureMerge";
    case 903:
      return "cudaErrorStreamCaptureUnmatched";
    case 904:
      return "cudaErrorStreamCaptureUnjoined";
    case 905:
      return "cudaErrorStreamCaptureIsolation";
    case 906:
      return "cudaErrorStreamCaptureImplicit";
    case 907:
      return "cudaErrorCapturedEvent";
    default:
      return "no error of the runtime";
  }
}

CaptureFacts capture_facts(const StreamProgram& program, int skip) { return Machine(program, skip).run(); }

}  // namespace moecheck::reference

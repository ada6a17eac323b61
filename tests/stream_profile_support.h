#pragma once
// For tests of programs from profiles: Chrome traces as Kineto writes them, by hand and from a stream program that a small
// simulated device runs, and what becomes of them.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <random>
#include <string>
#include <vector>

#include "harness/case.h"
#include "harness/streams/profile_import.h"
#include "reference/stream_order.h"
#include "reference/stream_program.h"

namespace moecheck::harness::streams {

class TraceBuilder {
 public:
  // A call of the host; its correlation id.
  int call(const std::string& name, double at, double duration = 1, int thread = 1) {
    put("cuda_runtime", name, fmt::format("\"pid\": 1, \"tid\": {}", thread), at, duration,
        fmt::format("\"External id\": 9, \"cbid\": 211, \"correlation\": {}", ++correlation_));
    return correlation_;
  }
  void kernel(const std::string& name, int stream, double start, double end, std::int64_t correlation,
              int device = 0, std::uint64_t node = 0, const std::string& category = "kernel") {
    put(category, name, fmt::format("\"pid\": {}, \"tid\": {}", device, stream), start, end - start,
        fmt::format("\"queued\": 0, \"device\": {}, \"context\": 1, \"stream\": {}, \"correlation\": {}, "
                    "\"grid\": [1, 2, 3], \"warps per SM\": \"inf\", \"graph id\": {}, \"graph node id\": {}",
                    device, stream, correlation, node == 0 ? 0 : 3, node));
  }
  // A launch and its kernel.
  int run(const std::string& name, int stream, double called, double start, double end, int thread = 1) {
    const int c = call("cudaLaunchKernel", called, 1, thread);
    kernel(name, stream, start, end, c);
    return c;
  }
  void sync(const std::string& kind, int stream, int correlation, double at, const std::string& event = "",
            int device = 0) {
    put("cuda_sync", kind, fmt::format("\"pid\": {}, \"tid\": {}", device, std::abs(stream)), at, 0.5,
        fmt::format("\"cuda_sync_kind\": \"{}\", {}\"stream\": {}, \"correlation\": {}, \"device\": {}, "
                    "\"context\": 1",
                    kind, event, stream, correlation, device));
  }
  // cudaStreamWaitEvent with its record.
  int wait(int stream, int on, int recorded_by, double at, int event = 1, int thread = 1) {
    const int c = call("cudaStreamWaitEvent", at, 1, thread);
    sync("Stream Wait Event", stream, c, at,
         fmt::format("\"wait_on_stream\": {}, \"wait_on_cuda_event_record_corr_id\": {}, "
                     "\"wait_on_cuda_event_id\": {}, ",
                     on, recorded_by, event));
    return c;
  }
  void recording(int event, int stream, int correlation) {
    put("cuda_event", "cudaEvent", "\"pid\": 0, \"tid\": 0", 0, 0,
        fmt::format("\"event_id\": {}, \"stream\": {}, \"correlation\": {}, \"device\": 0, \"context\": 1",
                    event, stream, correlation));
  }
  void raw(std::string event) { events_.push_back(std::move(event)); }
  void drop_last() { events_.pop_back(); }
  void shuffle(std::mt19937_64& random) { std::shuffle(events_.begin(), events_.end(), random); }

  std::string json() const {
    return fmt::format(
        "{{\n\"schemaVersion\": 1, \"deviceProperties\": [{{\"id\": 0, \"x\": [[1], {{\"kind\": 2}}]}}],\n"
        "\"traceEvents\": [\n"
        "{{\"ph\": \"M\", \"name\": \"process_name\", \"pid\": 0, \"tid\": 0, \"args\": {{\"name\": "
        "\"python\"}}}},\n"
        "{{\"ph\": \"s\", \"id\": 2, \"cat\": \"ac2g\", \"name\": \"ac2g\", \"pid\": 1, \"tid\": 1, \"ts\": "
        "1}}{}{}\n],\n\"traceName\": \"t\"}}\n",
        events_.empty() ? "" : ",\n", fmt::join(events_, ",\n"));
  }

 private:
  void put(const std::string& category, const std::string& name, const std::string& place, double at,
           double duration, const std::string& arguments) {
    raw(fmt::format(
        "{{\"ph\": \"X\", \"cat\": \"{}\", \"name\": \"{}\", {}, \"ts\": {:.3f}, \"dur\": {:.3f},\n"
        " \"args\": {{{}}}}}",
        category, name, place, 1000 + at, duration, arguments));
  }

  int correlation_ = 0;
  std::vector<std::string> events_;
};

// Runs a program of operations, records, waits and host syncs: the host needs random times, the device starts an operation a
// random time after all that is ordered before it.
struct SimulatedDevice {
  bool lose_calls = false;  // a third of the launching calls are not in the trace
  bool last_recording =
      false;                // waits name the last recording of their event in the trace, as older Kinetos do
  bool events = false;      // recordings are in the trace, as newer Kinetos have it
  bool names_none = false;  // waits name their event alone, as in torch 2.11

  std::string run(const reference::StreamProgram& p, std::mt19937_64& random) {
    using reference::StepKind;
    const reference::StreamOrder order(p, false);
    TraceBuilder trace;
    std::vector<double> ends(order.nodes().size());
    std::vector<int> node_of(p.steps.size(), -1);
    for (std::size_t n = 0; n < order.nodes().size(); ++n)
      node_of[static_cast<std::size_t>(order.nodes()[n].step)] = static_cast<int>(n);
    const auto some = [&](int n) { return static_cast<double>(random() % static_cast<std::uint64_t>(n)); };
    const auto all_before = [&](int node) {
      double t = 0;
      for (int c = 0; c < order.chains(); ++c)
        if (const int k = order.clock(node)[c]; k > 0)
          t = std::max(t, ends[static_cast<std::size_t>(order.chain(c)[static_cast<std::size_t>(k - 1)])]);
      return t;
    };
    struct Recording {
      int stream, correlation;
    };
    std::map<int, std::vector<Recording>> recordings;
    struct Wait {
      int stream, event, correlation;
      double at;
      Recording on;
    };
    std::vector<Wait> waits;
    int fresh = 100;
    double t = 0;
    const auto record = [&](int event, int stream) {
      recordings[event].push_back({stream, trace.call("cudaEventRecord", t)});
      if (events) trace.recording(event, stream + 7, recordings[event].back().correlation);
    };
    const auto wait = [&](int stream, int event) {
      waits.push_back({stream, event, trace.call("cudaStreamWaitEvent", t), t, recordings[event].back()});
    };
    for (std::size_t i = 0; i < p.steps.size(); ++i) {
      const reference::StreamStep& s = p.steps[i];
      t += 2 + some(3);
      if (reference::is_operation(s)) {
        const int c = trace.call("cudaLaunchKernel", t);
        if (lose_calls && some(3) == 0) trace.drop_last();
        const double start = std::max(t + 1, all_before(node_of[i])) + some(6);
        const double end = ends[static_cast<std::size_t>(node_of[i])] = start + 1 + some(20);
        trace.kernel(s.name, s.stream + 7, start, end, c);
      } else if (s.kind == StepKind::kRecord) {
        record(s.event, s.stream);
      } else if (s.kind == StepKind::kWait) {
        wait(s.stream, s.event);
      } else if (s.kind == StepKind::kWaitStream) {
        record(++fresh, s.on);
        t += 1;
        wait(s.stream, fresh);
      } else if (s.kind == StepKind::kHostSync) {
        const int c = trace.call("cudaStreamSynchronize", t);
        trace.sync(s.stream < 0 ? "Context Sync" : "Stream Sync", s.stream < 0 ? -1 : s.stream + 7, c, t);
        t = std::max(t, all_before(node_of[i]));
      }
    }
    for (const Wait& w : waits) {
      const Recording& on = last_recording ? recordings[w.event].back() : w.on;
      trace.sync("Stream Wait Event", w.stream + 7, w.correlation, w.at,
                 fmt::format("\"wait_on_stream\": {}, \"wait_on_cuda_event_record_corr_id\": {}, "
                             "\"wait_on_cuda_event_id\": {}, ",
                             names_none ? -1 : on.stream + 7, names_none ? -1 : on.correlation, w.event));
    }
    trace.shuffle(random);
    return trace.json();
  }
};

// A dual-stream MoE block: P and S on stream 7, G, T and E on 20, A joins.
inline TraceBuilder dual_stream() {
  TraceBuilder t;
  t.run("void moe::P<bf16>(int)", 7, 0, 10, 20);
  const int forked = t.call("cudaEventRecord", 2);
  t.wait(20, 7, forked, 3);
  t.run("S", 7, 4, 20, 60);
  t.run("G", 20, 6, 21, 30);
  t.run("T", 20, 8, 30, 35);
  t.run("E", 20, 10, 35, 80);
  const int joined = t.call("cudaEventRecord", 12);
  t.wait(7, 20, joined, 13, 2);
  t.run("A", 7, 14, 81, 90);
  return t;
}

inline ImportedProgram import(const std::string& text, const ImportOptions& options = {}) {
  return import_profile(parse_profile(text, "t.json"), options, "t.json");
}

struct Imported {
  explicit Imported(const std::string& trace, const ImportOptions& options = {})
      : program(import(trace, options)),
        order(program.program, false),
        measures(measure(program, order)),
        text(profile_text(program, order, measures)) {}

  bool before(const std::string& a, const std::string& b) const { return order.before(node(a), node(b)); }
  int node(const std::string& name) const {
    const int step = program.program.find(name);
    if (step < 0) throw std::logic_error("no operation " + name);
    return order.nodes_of(step).front();
  }
  bool noted(const std::string& words) const {
    return std::any_of(program.notes.begin(), program.notes.end(),
                       [&](const std::string& n) { return n.find(words) != n.npos; });
  }

  ImportedProgram program;
  reference::StreamOrder order;
  ProfileMeasures measures;
  std::string text;
};

inline std::string refused(const std::string& text, const ImportOptions& options = {}) {
  try {
    import(text, options);
  } catch (const UsageError& e) {
    return e.what();
  }
  return "accepted";
}
#define EXPECT_HAS(text, words) EXPECT_NE(std::string(text).find(words), std::string::npos) << text

}  // namespace moecheck::harness::streams

// What the host did becomes the steps of a stream program.
#include "harness/streams/profile_import.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <set>
#include <unordered_map>

#include "harness/case.h"
#include "harness/streams/profile_items.h"
#include "harness/streams/profile_names.h"
#include "harness/text.h"
#include "reference/index.h"

namespace moecheck::harness::streams {
namespace {

using reference::index;
using reference::StepKind;
using reference::StreamProgram;
using reference::StreamStep;
using Item = HostItem;

constexpr double kMaxClocks = 3e8;  // nodes times streams: 1.2 GB

class Importer {
 public:
  Importer(const Profile& profile, const ImportOptions& options, const std::string& path)
      : path_(path), calls_(profile), in_(host_items(profile, calls_, options, path)) {
    out_.activities = std::move(in_.activities);
    out_.notes = std::move(in_.notes);
    out_.resolution = profile.resolution;
  }

  ImportedProgram run() {
    name_streams();
    for (const Item& item : in_.items) emit(item);
    check_size();
    if (late_records_ > 0)
      out_.notes.push_back(fmt::format("{} called before the record it waits for: left out",
                                       count(static_cast<std::int64_t>(late_records_), "wait")));
    return std::move(out_);
  }

 private:
  using Key = StreamKey;

  // Streams in the order of their numbers; inner lanes of graphs are made when their graph is launched.
  void name_streams() {
    std::set<Key> keys = in_.alone;
    for (const Item& i : in_.items) {
      if (i.is == Item::Is::kGraph) keys.insert({i.device, launch_stream(i)});
      if (i.stream >= 0 && i.is != Item::Is::kGraph) keys.insert({i.device, i.stream});
    }
    for (const Key& key : keys) stream(key, "");
  }
  std::string stream_name(const Key& key) const {
    return in_.several_devices ? fmt::format("device {} stream {}", key.first, key.second)
                               : fmt::format("stream {}", key.second);
  }
  int stream(const Key& key, const std::string& suffix) {
    const auto [found, fresh] = streams_.emplace(stream_name(key) + suffix, -1);
    if (fresh) found->second = out_.program.stream(found->first);
    return found->second;
  }

  // The stream among its nodes' that has other work, else that of its first node.
  std::int64_t launch_stream(const Item& launch) const {
    for (const int a : launch.activities)
      if (const Activity& node = out_.activities[index(a)]; in_.alone.contains({node.device, node.stream}))
        return node.stream;
    return launch.stream;
  }

  void add(StreamStep step, const Item& item, int activity = -1, bool assumed = false) {
    const HostCall* call = calls_.find(item.correlation);
    out_.program.steps.push_back(std::move(step));
    out_.origins.push_back({activity, item.correlation, call == nullptr ? -1 : call->start, assumed});
  }

  void emit(const Item& item) {
    StreamStep step;
    switch (item.is) {
      case Item::Is::kOperation:
        return operation(item, item.activities.front(), stream({item.device, item.stream}, ""));
      case Item::Is::kGraph:
        return graph(item);
      case Item::Is::kRecord:
        step.kind = StepKind::kRecord;
        step.stream = stream({item.device, item.stream}, "");
        step.event = event(item.record);
        return add(std::move(step), item, -1, item.assumed);
      case Item::Is::kWait:
        if (!events_.contains(item.record)) {  // several threads: the record's call came later
          ++late_records_;
          return;
        }
        step.kind = StepKind::kWait;
        step.stream = stream({item.device, item.stream}, "");
        step.event = event(item.record);
        return add(std::move(step), item, -1, item.assumed);
      case Item::Is::kSync:
        return host_sync(item);
    }
  }

  void operation(const Item& item, int activity, int on) {
    const Activity& a = out_.activities[index(activity)];
    StreamStep step;
    step.kind = a.kind == ActivityKind::kCopy || a.kind == ActivityKind::kMemset ? StepKind::kCopy
                                                                                 : StepKind::kKernel;
    step.name = names_.unique(short_name(a.name));
    step.stream = on;
    step.duration = a.end - a.start;
    add(std::move(step), item, activity);
  }

  // Nodes of one stream are taken to be in order, unless they ran at the same time: then each has a lane of its own.
  void graph(const Item& item) {
    const std::int64_t home = launch_stream(item);
    const int on = stream({item.device, home}, "");
    std::map<int, double> over;  // of each lane, when its last node was over
    std::vector<int> lane_of;
    for (const int i : item.activities) {
      const Activity& a = out_.activities[index(i)];
      int lane =
          a.stream == home && a.device == item.device ? on : stream({a.device, a.stream}, " in graphs");
      const double slack = std::max(kTimerStep, out_.resolution);
      for (int k = 2; over.contains(lane) && over[lane] > a.start + slack; ++k)
        lane = stream({a.device, a.stream}, fmt::format(" in graphs, lane {}", k));
      over[lane] = a.end;
      lane_of.push_back(lane);
    }
    over.erase(on);
    for (const auto& [lane, end] : over) edge(item, lane, on);
    for (std::size_t i = 0; i < lane_of.size(); ++i) operation(item, item.activities[i], lane_of[i]);
    for (const auto& [lane, end] : over) edge(item, on, lane);
  }
  void edge(const Item& item, int waits, int on) {
    StreamStep step;
    step.kind = StepKind::kWaitStream;
    step.name = fmt::format("graph launch {}", item.correlation);
    step.stream = waits;
    step.on = on;
    add(std::move(step), item, -1, true);
  }

  void host_sync(const Item& item) {
    StreamStep step;
    step.kind = StepKind::kHostSync;
    if (item.record >= 0) {
      if (!events_.contains(item.record)) return;
      step.event = event(item.record);
      return add(std::move(step), item);
    }
    if (item.stream >= 0) {
      step.stream = stream({item.device, item.stream}, "");
      return add(std::move(step), item);
    }
    if (!in_.several_devices) return add(std::move(step), item);
    for (const Key& key : in_.busy) {  // the streams of this device alone; graphs end on one of them
      const auto found = streams_.find(stream_name(key));
      if (key.first != item.device || found == streams_.end()) continue;
      step.stream = found->second;
      add(step, item);
    }
  }

  int event(std::int64_t record) {
    const auto [found, fresh] = events_.emplace(record, static_cast<int>(out_.program.events.size()));
    if (fresh) out_.program.events.push_back(fmt::format("of call {}", record));
    return found->second;
  }

  void check_size() const {
    const auto steps = static_cast<double>(out_.program.steps.size()),
               lanes = static_cast<double>(out_.program.streams.size());
    if (2 * steps * lanes > kMaxClocks)
      throw UsageError(
          fmt::format("{}: {} steps on {} streams are too many to look at at once: take a part of it with "
                      "--from and --to (microseconds) or --device",
                      printable(path_), out_.program.steps.size(), out_.program.streams.size()));
  }

  const std::string& path_;
  const CallIndex calls_;
  HostItems in_;
  ImportedProgram out_;
  std::unordered_map<std::string, int> streams_;
  std::unordered_map<std::int64_t, int> events_;
  UniqueNames names_;
  std::size_t late_records_ = 0;
};

}  // namespace

ImportedProgram import_profile(const Profile& profile, const ImportOptions& options,
                               const std::string& path) {
  ImportedProgram imported = Importer(profile, options, path).run();
  imported.program.name = path;
  return imported;
}

}  // namespace moecheck::harness::streams

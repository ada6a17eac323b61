// Activities, calls and sync records in the host's order: a stream program.
#include "harness/streams/profile_import.h"

#include <fmt/format.h>

#include <algorithm>
#include <limits>
#include <map>
#include <set>
#include <unordered_map>
#include <unordered_set>

#include "harness/case.h"
#include "harness/streams/profile_names.h"
#include "harness/streams/profile_waits.h"
#include "harness/text.h"

namespace moecheck::harness::streams {
namespace {

using reference::StepKind;
using reference::StreamProgram;
using reference::StreamStep;

constexpr double kMaxClocks = 3e8;  // nodes times streams: 1.2 GB

std::size_t index(int i) { return static_cast<std::size_t>(i); }

// One thing that the host did, before it is a step.
struct Item {
  enum class Is : std::uint8_t { kOperation, kGraph, kRecord, kWait, kSync } is{};
  double time = 0;  // of the call, or where it must have been
  std::int64_t correlation = 0;
  std::vector<int> activities;  // of a graph launch all of its nodes
  std::int64_t device = 0, stream = -1, record = -1;
};

class Importer {
 public:
  Importer(const Profile& profile, const ImportOptions& options, const std::string& path)
      : profile_(profile), options_(options), path_(path), calls_(profile), waits_(profile, calls_) {}

  ImportedProgram run() {
    select();
    operations();
    synchronization();
    std::stable_sort(items_.begin(), items_.end(), [](const Item& a, const Item& b) {
      return a.time != b.time ? a.time < b.time : a.correlation < b.correlation;
    });
    name_streams();
    for (const Item& item : items_) emit(item);
    check_size();
    notes();
    return std::move(out_);
  }

 private:
  using Key = std::pair<std::int64_t, std::int64_t>;  // device, stream

  void note(std::string text) { out_.notes.push_back(std::move(text)); }

  void select() {
    std::set<std::int64_t> devices;
    for (const Activity& a : profile_.activities) {
      devices.insert(a.device);
      if ((options_.device && a.device != *options_.device) || (options_.from && a.start < *options_.from) ||
          (options_.to && a.start >= *options_.to))
        continue;
      out_.activities.push_back(a);
    }
    out_.resolution = profile_.resolution;
    std::stable_sort(out_.activities.begin(), out_.activities.end(),
                     [](const Activity& a, const Activity& b) { return a.start < b.start; });
    const std::string file = printable(path_);
    if (devices.empty())
      throw UsageError(fmt::format(
          "{}: no kernel, copy or memset of a GPU is in this {}: record with ProfilerActivity.CUDA "
          "(it has {})",
          file, profile_.source, count(static_cast<std::int64_t>(profile_.calls.size()), "call")));
    if (options_.device && !devices.contains(*options_.device))
      throw UsageError(fmt::format("{}: nothing ran on device {}: --device takes {}", file, *options_.device,
                                   fmt::join(devices, ", ")));
    if (out_.activities.empty())
      throw UsageError(
          fmt::format("{}: no operation starts in this time: widen --from and --to (microseconds "
                      "since the first time in the profile)",
                      file));
    several_devices_ = devices.size() > 1 && !options_.device;
  }

  void operations() {
    std::map<std::int64_t, std::vector<int>> launches;
    for (int i = 0; i < static_cast<int>(out_.activities.size()); ++i) {
      const Activity& a = out_.activities[index(i)];
      const HostCall* call = calls_.find(a.correlation);
      if (call != nullptr) threads_.insert(call->thread);
      if (call == nullptr) ++lost_;
      busy_.insert({a.device, a.stream});
      if (a.correlation != 0 && (a.of_graph || (call != nullptr && is_call(*call, "GraphLaunch")))) {
        if (a.kind != ActivityKind::kGraph) {
          launches[a.correlation].push_back(i);
          continue;
        }
      }
      if (a.correlation != 0 && !single_.insert(a.correlation).second) ++shared_;
      alone_.insert({a.device, a.stream});
      items_.push_back({Item::Is::kOperation,
                        calls_.place(a.correlation, a.start),
                        a.correlation,
                        {i},
                        a.device,
                        a.stream,
                        -1});
    }
    for (auto& [correlation, nodes] : launches) {
      const Activity& first = out_.activities[index(nodes.front())];
      Item item{Item::Is::kGraph,
                calls_.place(correlation, first.start),
                correlation,
                std::move(nodes),
                first.device,
                first.stream,
                -1};
      items_.push_back(std::move(item));
    }
    graphs_ = launches.size();
  }

  void synchronization() {
    std::set<std::int64_t> recorded;
    for (const ResolvedSync& s : waits_.resolved()) {
      if (options_.device && s.device != *options_.device) continue;
      if (s.kind == SyncKind::kWaitEvent || s.kind == SyncKind::kHostEvent) {
        if (options_.device && s.record_device != *options_.device) {
          ++foreign_;
          continue;
        }
        if (recorded.insert(s.record).second)
          items_.push_back({Item::Is::kRecord,
                            calls_.place(s.record, s.start),
                            s.record,
                            {},
                            s.record_device,
                            s.record_stream,
                            s.record});
      }
      const bool waits = s.kind == SyncKind::kWaitEvent;
      if (const HostCall* call = calls_.find(s.correlation); call != nullptr && waits)
        threads_.insert(call->thread);
      items_.push_back({waits ? Item::Is::kWait : Item::Is::kSync,
                        calls_.place(s.correlation, s.start),
                        s.correlation,
                        {},
                        s.device,
                        s.stream,
                        s.record});
    }
    if (threads_.size() <= 1) return;
    std::erase_if(items_, [&](const Item& i) {
      dropped_syncs_ += i.is == Item::Is::kSync;
      return i.is == Item::Is::kSync;
    });
  }

  // Streams in the order of their numbers; inner lanes of graphs are made when their graph is launched.
  void name_streams() {
    std::set<Key> keys = alone_;
    for (const Item& i : items_) {
      if (i.is == Item::Is::kGraph) keys.insert({i.device, launch_stream(i)});
      if (i.stream >= 0 && i.is != Item::Is::kGraph) keys.insert({i.device, i.stream});
    }
    for (const Key& key : keys) stream(key, "");
  }
  std::string stream_name(const Key& key) const {
    return several_devices_ ? fmt::format("device {} stream {}", key.first, key.second)
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
      if (const Activity& node = out_.activities[index(a)]; alone_.contains({node.device, node.stream}))
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
        return add(std::move(step), item);
      case Item::Is::kWait:
        if (!events_.contains(item.record)) {  // several threads: the record's call came later
          ++late_records_;
          return;
        }
        step.kind = StepKind::kWait;
        step.stream = stream({item.device, item.stream}, "");
        step.event = event(item.record);
        return add(std::move(step), item);
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
    if (!several_devices_) return add(std::move(step), item);
    for (const Key& key : busy_) {  // the streams of this device alone; graphs end on one of them
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

  void notes() {
    const auto times = [](std::size_t n, std::string_view what) {
      return count(static_cast<std::int64_t>(n), what);
    };
    if (lost_ > 0)
      note(fmt::format("{} without a launching call: put behind the calls with lower correlation ids",
                       times(lost_, "operation")));
    if (shared_ > 0)
      note(fmt::format("{} with the correlation id of an earlier one, of no graph launch: put beside it",
                       times(shared_, "operation")));
    if (calls_.repeated() > 0)
      note(fmt::format("{} with the correlation id of another: the earlier one counts",
                       times(calls_.repeated(), "call")));
    for (std::string& text : waits_.notes()) note(std::move(text));
    if (foreign_ > 0) note(fmt::format("{} for events of other devices: left out", times(foreign_, "wait")));
    if (late_records_ > 0)
      note(fmt::format("{} called before the record it waits for: left out", times(late_records_, "wait")));
    if (graphs_ > 0)
      note(fmt::format(
          "{} of graphs: assumed to be on a stream of their nodes; edges between nodes are not in a "
          "profile",
          graphs_ == 1 ? std::string("1 launch") : fmt::format("{} launches", graphs_)));
    if (threads_.size() > 1)
      note(fmt::format("{} launch work: {} of the host left out, as each holds back one thread alone",
                       times(threads_.size(), "thread"), times(dropped_syncs_, "wait")));
    if (several_devices_) note("several devices: --device looks at one");
  }

  const Profile& profile_;
  const ImportOptions& options_;
  const std::string& path_;
  CallIndex calls_;
  WaitResolver waits_;
  ImportedProgram out_;
  std::vector<Item> items_;
  std::set<Key> busy_, alone_;  // streams with operations; with operations that are no nodes of graphs
  std::set<int> threads_;
  std::unordered_set<std::int64_t> single_;
  std::unordered_map<std::string, int> streams_;
  std::unordered_map<std::int64_t, int> events_;
  UniqueNames names_;
  bool several_devices_ = false;
  std::size_t lost_ = 0, shared_ = 0, graphs_ = 0, foreign_ = 0, late_records_ = 0, dropped_syncs_ = 0;
};

}  // namespace

ImportedProgram import_profile(const Profile& profile, const ImportOptions& options,
                               const std::string& path) {
  ImportedProgram imported = Importer(profile, options, path).run();
  imported.program.name = path;
  return imported;
}

}  // namespace moecheck::harness::streams

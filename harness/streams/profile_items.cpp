// A profile's records in the order of the host's calls.
#include "harness/streams/profile_items.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <unordered_set>

#include "harness/case.h"
#include "harness/streams/profile_waits.h"
#include "harness/text.h"
#include "reference/index.h"

namespace moecheck::harness::streams {
namespace {

using reference::index;
using Item = HostItem;

class Collector {
 public:
  Collector(const Profile& profile, const CallIndex& calls, const ImportOptions& options,
            const std::string& path)
      : profile_(profile), options_(options), path_(path), calls_(calls), waits_(profile, calls) {}

  HostItems run() {
    select();
    operations();
    synchronization();
    std::stable_sort(out_.items.begin(), out_.items.end(), [](const Item& a, const Item& b) {
      return a.time != b.time ? a.time < b.time : a.correlation < b.correlation;
    });
    notes();
    return std::move(out_);
  }

 private:
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
    out_.several_devices = devices.size() > 1 && !options_.device;
  }

  void operations() {
    std::map<std::int64_t, std::vector<int>> launches;
    for (int i = 0; i < static_cast<int>(out_.activities.size()); ++i) {
      const Activity& a = out_.activities[index(i)];
      const HostCall* call = calls_.find(a.correlation);
      if (call != nullptr) threads_.insert(call->thread);
      if (call == nullptr) ++lost_;
      out_.busy.insert({a.device, a.stream});
      if (a.correlation != 0 && (a.of_graph || (call != nullptr && is_call(*call, "GraphLaunch")))) {
        if (a.kind != ActivityKind::kGraph) {
          launches[a.correlation].push_back(i);
          continue;
        }
      }
      if (a.correlation != 0 && !single_.insert(a.correlation).second) ++shared_;
      out_.alone.insert({a.device, a.stream});
      out_.items.push_back({Item::Is::kOperation,
                            calls_.place(a.correlation, a.start),
                            a.correlation,
                            {i},
                            a.device,
                            a.stream,
                            -1,
                            false});
    }
    for (auto& [correlation, nodes] : launches) {
      const Activity& first = out_.activities[index(nodes.front())];
      Item item{Item::Is::kGraph,
                calls_.place(correlation, first.start),
                correlation,
                std::move(nodes),
                first.device,
                first.stream,
                -1,
                false};
      out_.items.push_back(std::move(item));
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
          out_.items.push_back({Item::Is::kRecord,
                                calls_.place(s.record, s.start),
                                s.record,
                                {},
                                s.record_device,
                                s.record_stream,
                                s.record,
                                s.assumed});
      }
      const bool waits = s.kind == SyncKind::kWaitEvent;
      if (const HostCall* call = calls_.find(s.correlation); call != nullptr && waits)
        threads_.insert(call->thread);
      out_.items.push_back({waits ? Item::Is::kWait : Item::Is::kSync,
                            calls_.place(s.correlation, s.start),
                            s.correlation,
                            {},
                            s.device,
                            s.stream,
                            s.record,
                            s.assumed});
    }
    if (threads_.size() <= 1) return;
    std::erase_if(out_.items, [&](const Item& i) {
      dropped_syncs_ += i.is == Item::Is::kSync;
      return i.is == Item::Is::kSync;
    });
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
    if (graphs_ > 0)
      note(fmt::format(
          "{} of graphs: assumed to be on a stream of their nodes; edges between nodes are not in a "
          "profile",
          graphs_ == 1 ? std::string("1 launch") : fmt::format("{} launches", graphs_)));
    if (threads_.size() > 1)
      note(fmt::format("{} launch work: {} of the host left out, as each holds back one thread alone",
                       times(threads_.size(), "thread"), times(dropped_syncs_, "wait")));
    if (out_.several_devices) note("several devices: --device looks at one");
  }

  const Profile& profile_;
  const ImportOptions& options_;
  const std::string& path_;
  const CallIndex& calls_;
  const WaitResolver waits_;
  HostItems out_;
  std::set<int> threads_;
  std::unordered_set<std::int64_t> single_;
  std::size_t lost_ = 0, shared_ = 0, graphs_ = 0, foreign_ = 0, dropped_syncs_ = 0;
};

}  // namespace

HostItems host_items(const Profile& profile, const CallIndex& calls, const ImportOptions& options,
                     const std::string& path) {
  return Collector(profile, calls, options, path).run();
}

}  // namespace moecheck::harness::streams

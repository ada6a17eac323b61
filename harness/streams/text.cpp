#include "harness/streams/text.h"

#include <fmt/format.h>

#include "harness/put.h"
#include "harness/text.h"

namespace moecheck::harness::streams {
namespace {

using namespace reference;

constexpr std::size_t kShownOfEach = 12;

std::string stream_of(const StreamProgram& p, int step) {
  const int s = p.steps[static_cast<std::size_t>(step)].stream;
  return s < 0 ? "the host" : printable(p.streams[static_cast<std::size_t>(s)].name);
}

void put_race(std::string& out, const StreamProgram& p, const CheckedStreams& c, const NodeNames& names,
              const Race& r) {
  const int first = c.order.node(r.first).step, second = c.order.node(r.second).step;
  const char* const does = r.write_after_write  ? "both write it"
                           : r.read_after_write ? "the second reads what the first writes"
                                                : "the second overwrites what the first reads";
  put(out, "race      {} on {} [{}, {}): {} on {} and {} on {}, {}, and nothing orders them\n", hazards(r),
      printable(c.memory.name(r.memory)), r.begin, r.end, names.of(r.first), stream_of(p, first),
      names.of(r.second), stream_of(p, second), does);
  if (c.memory.is_scratch(r.memory))
    put(out, "  remedy    scratch per stream: it is shared by all streams of the device\n");
  else
    put(out, "  missing   {} -> {}: let {} wait for {} behind {} and ahead of {}\n", names.of(r.first),
        names.of(r.second), stream_of(p, second), stream_of(p, first), names.of(r.first), names.of(r.second));
  put(out, "  schedule  {}\n", names.list(r.schedule));
}

void put_lifetime(std::string& out, const StreamProgram& p, const NodeNames& names, const LifetimeError& e) {
  const auto buffer = [&](int b) { return printable(p.buffers[static_cast<std::size_t>(b)].name); };
  const std::string& user = names.step(e.operation);
  put(out, "lifetime  {}: ", name(e.fault));
  switch (e.fault) {
    case LifetimeFault::kDeadPointer:
      put(out,
          "{} is launched with a pointer to {}, which the host freed at {}: launch it first, or keep the "
          "buffer\n",
          user, buffer(e.buffer), names.step(e.freed));
      return;
    case LifetimeFault::kNotYetAllocated:
      put(out, "{} uses {}, which is allocated only later, at {}\n", user, buffer(e.buffer),
          names.step(e.freed));
      return;
    case LifetimeFault::kFreedWhileUsed:
      put(out, "the host frees {} and has not waited for {}: wait for it before {}\n", buffer(e.buffer), user,
          names.step(e.freed));
      return;
    case LifetimeFault::kDeadAtReplay:
      put(out, "{} replays {}, whose {} was freed at {}: free it when the graph is gone\n",
          names.step(e.next_user), user, buffer(e.buffer), names.step(e.freed));
      return;
    case LifetimeFault::kReusedWhileUsed:
      put(out, "the bytes of {} may be those of {} while {} still uses them: {} is not ordered behind it\n",
          buffer(e.buffer), buffer(e.next), user, names.step(e.next_user));
      put(out, "  remedy    record_stream({}, {}) before {}, or order {} behind {}\n", buffer(e.buffer),
          stream_of(p, e.operation), names.step(e.freed), names.step(e.next_user), user);
      put(out, "  schedule  {}\n", names.list(e.schedule));
      return;
  }
}

std::string wait_text(const StreamProgram& p, const CheckedStreams& c, const NodeNames& names,
                      const WaitVerdict& w) {
  if (w.of_itself) return "a stream waits for itself: no effect";
  std::string text;
  if (w.use == WaitUse::kNeeded && w.lifetime)
    text = fmt::format("without it {} may use {} when its bytes are another's", names.step(w.first),
                       printable(p.buffers[static_cast<std::size_t>(w.memory)].name));
  else if (w.use == WaitUse::kNeeded)
    text = fmt::format("without it {} and {} race on {}", names.step(w.first), names.step(w.second),
                       printable(c.memory.name(w.memory)));
  else if (w.use == WaitUse::kNeededByCapture)
    text = w.code == 0 ? "without it, work is not captured" : "without it the capture fails";
  else if (w.use == WaitUse::kCostsOverlap)
    text = fmt::format(
        "{}: without it {} and {} could run at the same time",
        p.buffers.empty() && p.scratch.empty() ? "the program declares no data" : "no data need it",
        names.step(w.first), names.step(w.second));
  else if (!w.path.empty())
    text = fmt::format("the order is there already: {}", names.path(w.path));
  else
    text = "nothing runs in another order without it";
  if (w.code != 0) text += fmt::format("; in the capture: {} ({})", w.code, capture_error_name(w.code));
  return text;
}

}  // namespace

NodeNames::NodeNames(const StreamProgram& program, const StreamOrder& order) : order_(order) {
  for (const std::string& l : step_labels(program)) labels_.push_back(printable(l));
}

std::string NodeNames::of(int node) const {
  const OrderNode& n = order_.node(node);
  std::string text = step(n.step);
  const std::vector<int>& all = order_.nodes_of(n.step);
  for (std::size_t k = 0; all.size() > 1 && k < all.size(); ++k)
    if (all[k] == node) text += fmt::format("@{}", k + 1);
  return text;
}

std::string NodeNames::list(const std::vector<int>& nodes, std::size_t limit) const {
  std::string text, last;
  for (std::size_t i = 0; i < nodes.size(); ++i) {
    if (nodes.size() > limit && i >= limit / 2 && i + limit / 2 < nodes.size()) {
      if (i == limit / 2) text += fmt::format(", ... {} more ...", nodes.size() - 2 * (limit / 2));
      continue;
    }
    const std::string next = of(nodes[i]);
    if (next != last) text += (text.empty() ? "" : ", ") + next;
    last = next;
  }
  return text;
}

std::string NodeNames::path(const std::vector<int>& nodes) const {
  std::vector<int> shown;
  for (std::size_t i = 0; i < nodes.size(); ++i)
    if (order_.node(nodes[i]).operation() || (i > 0 && order_.edge(nodes[i - 1], nodes[i]).by >= 0))
      shown.push_back(nodes[i]);
  return list(shown);
}

bool failed(const StreamReport& r) { return r.wrong() || !r.lost.empty(); }

namespace {

void put_capture(std::string& out, const NodeNames& names, const CaptureError& e) {
  put(out, "capture   {} {}: {}: {}\n", e.code, capture_error_name(e.code), names.step(e.step),
      printable(e.message));
}

}  // namespace

std::string first_error_text(const StreamProgram& p, const CheckedStreams& c) {
  const NodeNames names(p, c.order);
  std::string out;
  if (!c.report.capture.empty())
    put_capture(out, names, c.report.capture.front());
  else if (!c.report.races.empty())
    put_race(out, p, c, names, c.report.races.front());
  else if (!c.report.lifetime.empty())
    put_lifetime(out, p, names, c.report.lifetime.front());
  return out;
}

std::string check_text(const StreamProgram& p, const CheckedStreams& c) {
  const StreamReport& r = c.report;
  const NodeNames names(p, c.order);
  std::string out;
  put(out, "{}  {}: {} on {}", failed(r) ? "FAIL" : "PASS", p.name.empty() ? "program" : printable(p.name),
      count(static_cast<std::int64_t>(c.order.operations().size()), "operation"),
      count(static_cast<std::int64_t>(p.streams.size()), "stream"));
  const auto add = [&](std::int64_t n, std::string_view what) {
    if (n > 0) put(out, ", {}", count(n, what));
  };
  add(static_cast<std::int64_t>(r.capture.size()), "capture error");
  add(r.race_count, "race");
  add(static_cast<std::int64_t>(r.lifetime.size()), "lifetime error");
  add(static_cast<std::int64_t>(r.lost.size()), "lost overlap");
  out += "\n";
  for (const CaptureError& e : r.capture) put_capture(out, names, e);
  if (!r.capture.empty()) out += "  what follows is of the same work without captures\n";
  for (std::size_t i = 0; i < r.races.size() && i < kShownOfEach; ++i) put_race(out, p, c, names, r.races[i]);
  if (r.race_count > static_cast<std::int64_t>(kShownOfEach))
    put(out, "race      ... and {} more\n", r.race_count - static_cast<std::int64_t>(kShownOfEach));
  for (std::size_t i = 0; i < r.lifetime.size() && i < kShownOfEach; ++i)
    put_lifetime(out, p, names, r.lifetime[i]);
  for (const OpenFree& f : r.open_frees)
    put(out, "note      {}: safe only if the pool's stream waits for {} before it allocates again\n",
        names.step(f.freed), names.step(f.operation));
  for (const int s : r.void_records)
    put(out, "note      {} does nothing: it is the stream whose pool the buffer comes from\n", names.step(s));
  for (const LostOverlap& l : r.lost)
    put(out, "overlap   {} and {} should be able to run at the same time, and cannot: {}\n",
        names.step(l.first), names.step(l.second), names.path(l.path));
  for (std::size_t i = 0; i < r.waits.size() && i < 100; ++i)
    put(out, "wait      {:<20} {:<18} {}\n", names.step(r.waits[i].step), name(r.waits[i].use),
        wait_text(p, c, names, r.waits[i]));
  put(out, "overlap   {} can run at the same time", count(r.overlap_count, "pair"));
  for (std::size_t i = 0; i < r.overlaps.size() && i < kShownOfEach; ++i)
    put(out, "{} {}|{}", i == 0 ? ":" : ",", names.of(r.overlaps[i].first), names.of(r.overlaps[i].second));
  put(out, "{}\n", r.overlap_count > static_cast<std::int64_t>(kShownOfEach) ? ", ..." : "");
  put(out, "time      {:g} on the longest path, {:g} in a row: {}\n", r.critical, r.serial,
      names.list(r.critical_path));
  return out;
}

}  // namespace moecheck::harness::streams

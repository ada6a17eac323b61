// Stream programs to JSON.
#include <fmt/format.h>

#include "harness/json.h"
#include "harness/streams/program_json.h"
#include "reference/index.h"

namespace moecheck::harness::streams {
namespace {

using Json = nlohmann::ordered_json;
using reference::at;
using reference::ByteRange;
using reference::ProgramBuffer;
using reference::StreamKind;
using reference::StreamProgram;
using reference::StreamStep;

Json range_json(const StreamProgram& p, const ByteRange& r) {
  const ProgramBuffer& b = at(p.buffers, r.buffer);
  if (r.begin == 0 && r.end == b.bytes) return b.name;
  return {{"buffer", b.name}, {"begin", r.begin}, {"end", r.end}};
}

Json step_json(const StreamProgram& p, const StreamStep& s) {
  Json j;
  j["op"] = reference::name(s.kind);
  if (!s.name.empty()) j["name"] = s.name;
  if (s.stream >= 0) j["stream"] = at(p.streams, s.stream).name;
  if (s.on >= 0) j["on"] = at(p.streams, s.on).name;
  if (s.event >= 0) j["event"] = at(p.events, s.event);
  if (s.buffer >= 0) j["buffer"] = at(p.buffers, s.buffer).name;
  if (s.reuses >= 0) j["reuses"] = at(p.buffers, s.reuses).name;
  if (s.graph >= 0) j["graph"] = at(p.graphs, s.graph);
  if (!reference::is_operation(s)) return j;
  for (const ByteRange& r : s.reads) j["reads"].push_back(range_json(p, r));
  for (const ByteRange& r : s.writes) j["writes"].push_back(range_json(p, r));
  for (const int i : s.scratch) j["scratch"].push_back(at(p.scratch, i).name);
  for (const int i : s.after) j["after"].push_back(at(p.steps, i).name);
  if (s.duration != 1) j["duration"] = s.duration;
  return j;
}

Json buffer_json(const StreamProgram& p, const ProgramBuffer& b) {
  Json j{{"name", b.name}, {"bytes", b.bytes}};
  if (b.stream >= 0) j["pool"] = at(p.streams, b.stream).name;
  if (b.base >= 0) {
    j["view_of"] = at(p.buffers, b.base).name;
    j["offset"] = b.offset;
  }
  return j;
}

void put_list(std::string& out, const char* key, const std::vector<Json>& rows) {
  if (rows.empty()) return;
  out += fmt::format(",\n \"{}\": [", key);
  for (std::size_t i = 0; i < rows.size(); ++i) out += (i == 0 ? "\n  " : ",\n  ") + rows[i].dump();
  out += "\n ]";
}

}  // namespace

std::string program_json(const StreamProgram& p) {
  std::string out = fmt::format("{{\"schema\": \"{}\"", kProgramSchema);
  if (!p.name.empty()) out += ",\n \"name\": " + Json(p.name).dump();
  std::vector<Json> streams, buffers, scratch, steps, overlaps;
  for (const auto& s : p.streams)
    streams.push_back(s.kind == StreamKind::kNonBlocking
                          ? Json(s.name)
                          : Json{{"name", s.name}, {"kind", reference::name(s.kind)}});
  for (const auto& b : p.buffers) buffers.push_back(buffer_json(p, b));
  for (const auto& s : p.scratch)
    scratch.push_back(
        Json{{"name", s.name}, {"bytes", s.bytes}, {"per", s.per_stream ? "stream" : "device"}});
  for (const auto& s : p.steps) steps.push_back(step_json(p, s));
  for (const auto& [a, b] : p.overlaps)
    overlaps.push_back(Json::array({at(p.steps, a).name, at(p.steps, b).name}));
  put_list(out, "streams", streams);
  put_list(out, "buffers", buffers);
  put_list(out, "scratch", scratch);
  if (steps.empty()) out += ",\n \"steps\": []";
  put_list(out, "steps", steps);
  put_list(out, "overlaps", overlaps);
  return out + "\n}\n";
}

}  // namespace moecheck::harness::streams

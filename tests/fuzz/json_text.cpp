// The one-pass JSON reader beside nlohmann's, and the one that takes bytes as servers send them.
#include <algorithm>

#include "harness/http/json_scan.h"
#include "harness/json.h"
#include "harness/tasks/python_text.h"
#include "target.h"

using namespace moecheck;

namespace {

struct Depth final : harness::http::JsonEvents {
  bool null() override { return true; }
  bool boolean(bool) override { return true; }
  bool number(double, std::int64_t) override { return true; }
  bool string(std::string_view) override { return true; }
  bool key(std::string_view) override { return true; }
  bool open(bool) override { return true; }
  bool close() override { return true; }
};

}  // namespace

MOECHECK_FUZZ_TARGET(json_text) {
  const std::string_view text = fuzz::text_of(bytes);
  Depth events;
  const bool ours = harness::http::scan_json(text, events);
  const bool deep = std::count_if(text.begin(), text.end(), [](char c) { return c == '[' || c == '{'; }) >
                    harness::http::kDeepestJson;
  const bool ended = text.find('\0') != std::string_view::npos;  // where nlohmann's stops reading
  if (!deep && !ended && ours != nlohmann::json::accept(text))
    fuzz::broken("the two readers disagree on " + std::string(text));
  try {
    const std::string written = harness::python_json(harness::parse_json(text));
    if (harness::python_json(harness::parse_json(written)) != written)
      fuzz::broken("another text comes back from " + written);
  } catch (const nlohmann::json::exception&) {
    if (ours) fuzz::broken("refused, though it is JSON: " + std::string(text));
  }
}

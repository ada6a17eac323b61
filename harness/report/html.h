#pragma once
// Records as one HTML file: inline style and SVG, no script, nothing loaded from anywhere.
#include <span>
#include <string>

#include "harness/ledger/waivers.h"
#include "harness/record.h"

namespace moecheck::harness {

struct HtmlOptions {
  std::string command;  // that makes this page again, shown in it
  std::string title = "moecheck report";
  // Every waiver of the run and its state, where they are known; what they point to must outlive the call.
  std::span<const ledger::AuditedWaiver> waivers = {};
};

// Whatever bytes the records hold, the page is valid UTF-8 and shows them as text. The same records give the
// same page.
std::string html_report(std::span<const Record> records, const HtmlOptions& options = {});

}  // namespace moecheck::harness

#include "harness/junit.h"

#include <fmt/format.h>

#include <iterator>

#include "harness/atomic_file.h"
#include "harness/fault.h"
#include "harness/report/aggregate.h"
#include "harness/text.h"
#include "harness/verdict_text.h"

namespace moecheck::harness {
namespace {
using Out = std::back_insert_iterator<std::string>;

std::string attribute(std::string_view text) { return markup_escaped(printable(text)); }

struct Counts {
  std::int64_t tests = 0, failures = 0, errors = 0, skipped = 0;
  double seconds = 0;

  void add(const Record& r) {
    const Verdict v = r.result.verdict;
    ++tests;
    seconds += r.seconds;
    if (v == Verdict::kCrash || v == Verdict::kTimeout)
      errors += HARNESS_FAULT(kJunitCrashIsNoError) ? 0 : 1;
    else if (is_failure(v))
      ++failures;
    else if (v == Verdict::kSkip || (v == Verdict::kWaived && !HARNESS_FAULT(kJunitWaivedIsPassed)))
      ++skipped;
  }
  std::string attributes() const {
    return fmt::format("tests=\"{}\" failures=\"{}\" errors=\"{}\" skipped=\"{}\" time=\"{:.6f}\"", tests,
                       failures, errors, skipped, seconds);
  }
};

void write_case(std::string& out, const Record& r) {
  const Judgement& j = r.result;
  fmt::format_to(Out(out), "    <testcase classname=\"{}.{}\" name=\"{}\" time=\"{:.6f}\"",
                 attribute(r.operator_name), attribute(r.implementation), attribute(r.case_line), r.seconds);
  if (is_failure(j.verdict)) {
    const bool died = j.verdict == Verdict::kCrash || j.verdict == Verdict::kTimeout;
    const std::string_view element = died ? "error" : "failure";
    fmt::format_to(Out(out), ">\n      <{0} type=\"{1}\" message=\"{2}\">{3}</{0}>\n    </testcase>\n",
                   element, name(j.verdict), attribute(j.reason), markup_escaped(verdict_text(r)));
  } else if (j.verdict == Verdict::kSkip || j.verdict == Verdict::kWaived) {
    std::string reason = j.verdict == Verdict::kWaived ? "waived: " + j.reason : j.reason;
    if (r.waived) reason += fmt::format(" ({}: {})", name(r.waived->verdict), r.waived->reason);
    fmt::format_to(Out(out), ">\n      <skipped message=\"{}\"/>\n    </testcase>\n", attribute(reason));
  } else if (j.verdict == Verdict::kUndecided) {
    fmt::format_to(Out(out), ">\n      <system-out>{}</system-out>\n    </testcase>\n",
                   markup_escaped(verdict_text(r)));
  } else {
    out += "/>\n";
  }
}

void write_properties(std::string& out, const Environment& e) {
  out += "    <properties>\n";
  const auto property = [&](std::string_view key, const std::string& value) {
    if (!value.empty())
      fmt::format_to(Out(out), "      <property name=\"{}\" value=\"{}\"/>\n", key, attribute(value));
  };
  property("moecheck", e.version);
  property("commit", e.commit);
  property("compiler", e.compiler);
  property("build", e.build);
  property("cpu", e.cpu);
  property("os", e.os);
  property("device", e.device);
  property("threads", fmt::format("{}", e.threads));
  out += "    </properties>\n";
}

}  // namespace

std::string junit_xml(std::span<const Record> records) {
  Counts all;
  for (const Record& r : records) all.add(r);
  std::string out = "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n";
  fmt::format_to(Out(out), "<testsuites name=\"moecheck\" {}>\n", all.attributes());
  for (const report::Group& g : report::group_records(records)) {
    Counts counts;
    for (const Record* r : g.records) counts.add(*r);
    fmt::format_to(Out(out), "  <testsuite name=\"{}.{}\" {}>\n", attribute(g.operator_name),
                   attribute(g.implementation), counts.attributes());
    write_properties(out, g.records.front()->env);
    for (const Record* r : g.records) write_case(out, *r);
    out += "  </testsuite>\n";
  }
  return out + "</testsuites>\n";
}

void write_junit(const std::string& path, std::span<const Record> records) {
  write_file(path, junit_xml(records));
}

}  // namespace moecheck::harness

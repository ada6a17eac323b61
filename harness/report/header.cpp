// Top and bottom of the report: what happened, on what, and how to read it.
#include <set>

#include "harness/report/page.h"
#include "harness/text.h"

namespace moecheck::harness::report {
namespace {

// Nine experts, two chosen.
constexpr std::string_view kMark =
    "<svg class=mark viewBox=\"0 0 22 22\" aria-hidden=true><g class=dim><circle cx=4 cy=4 r=2.6 /><circle "
    "cx=18 cy=4 r=2.6 />"
    "<circle cx=4 cy=11 r=2.6 /><circle cx=11 cy=11 r=2.6 /><circle cx=11 cy=18 r=2.6 /><circle cx=18 cy=18 "
    "r=2.6 />"
    "<circle cx=4 cy=18 r=2.6 /></g><circle cx=11 cy=4 r=2.6 /><circle cx=18 cy=11 r=2.6 /></svg>";

std::string headline(const Page& page) {
  const std::int64_t failed = page.tally.failures(), all = page.tally.total();
  if (all == 0) return "No checks in these records";
  if (failed > 0)
    return fmt::format("<span class=bad>{} of {}</span> {} failed", grouped(failed), grouped(all),
                       all == 1 ? "check" : "checks");
  if (page.tally[Verdict::kSkip] == all) return fmt::format("Nothing ran: {} skipped", count(all, "check"));
  return fmt::format("<span class=good>No failure</span> in {}", count(all, "check"));
}

void write_totals(std::string& out, const Page& page) {
  out += "<div class=bar role=img aria-label=\"Share of each verdict\">";
  for (const Verdict v : kReadingOrder)
    if (page.tally[v] > 0)
      put(out, "<i class={} style=\"flex-grow:{}\" title=\"{} {}\"></i>", look(v).css, page.tally[v], name(v),
          grouped(page.tally[v]));
  out += "</div>\n<ul class=totals>";
  for (const Verdict v : kReadingOrder) {
    if (page.tally[v] == 0 && v != Verdict::kPass && v != Verdict::kFail) continue;
    put(out, "<li{}>{}<b>{}</b><span>{}</span></li>", page.tally[v] == 0 ? " class=zero" : "", badge(v),
        grouped(page.tally[v]), name(v));
  }
  out += "</ul>\n";
}

void write_environment(std::string& out, const Environment& e) {
  const auto item = [&](std::string_view key, const std::string& value) {
    if (!value.empty()) put(out, "<div><dt>{}</dt><dd>{}</dd></div>", key, html(value));
  };
  out += "<dl class=env>";
  item("moecheck", e.version);
  item("commit", e.commit);
  item("compiler", e.compiler);
  item("build", e.build);
  item("device", e.device);
  item("CPU", e.cpu.empty()   ? ""
              : e.threads > 0 ? fmt::format("{}, {}", e.cpu, count(e.threads, "thread"))
                              : e.cpu);
  item("system", e.os);
  out += "</dl>\n";
}

void write_environments(std::string& out, const Page& page) {
  std::set<std::string> seen;
  for (const Record& r : page.records) {
    const Environment& e = r.env;
    const std::string key = fmt::format("{}\n{}\n{}\n{}\n{}\n{}\n{}\n{}", e.version, e.commit, e.compiler,
                                        e.build, e.cpu, e.os, e.device, e.threads);
    if (!seen.insert(key).second) continue;
    if (seen.size() > 8) continue;  // records of many machines: the rest is in the records
    write_environment(out, e);
  }
  if (seen.size() > 8) put(out, "<p class=note>and {} more environments</p>\n", seen.size() - 8);
}

}  // namespace

void write_header(std::string& out, const Page& page) {
  // The policy makes it the browser's business that nothing is loaded and no script runs.
  put(out,
      "<!doctype html>\n<html lang=en>\n<head>\n<meta charset=utf-8>\n"
      "<meta http-equiv=Content-Security-Policy content=\"default-src 'none'; style-src 'unsafe-inline'\">\n"
      "<meta name=viewport content=\"width=device-width, initial-scale=1\">\n<meta name=color-scheme "
      "content=\"light dark\">\n"
      "<title>{}</title>\n<style>{}</style>\n</head>\n<body>\n<main>\n<header>\n",
      html(page.options.title), kStyle);
  put(out, "<p class=brand>{}moecheck<span>{}</span></p>\n<h1>{}</h1>\n", kMark,
      page.options.title == HtmlOptions{}.title ? "report" : html(page.options.title), headline(page));
  if (!page.records.empty()) {
    std::set<std::string_view> models;
    for (const Record& r : page.records)
      if (!r.model.empty()) models.insert(r.model);
    put(out, "<p class=lede>{}, {}, {}.</p>\n", count(std::ssize(page.operators), "operator"),
        count(std::ssize(page.implementations), "implementation"), count(std::ssize(models), "model"));
    write_totals(out, page);
    write_environments(out, page);
  }
  if (!page.options.command.empty())
    put(out, "<p class=cmd><code>{}</code></p>\n", html(page.options.command));
  if (!page.records.empty())
    put(out,
        "<nav><a href=#matrix>Matrix</a><a href=#failures>Failures</a>{}<a href=#evidence>Evidence</a><a "
        "href=#headroom>Headroom</a>"
        "<a href=#contract>Contract</a><a href=#open>Open and skipped</a><a href=#checks>Every "
        "check</a></nav>\n",
        has_waived(page) ? "<a href=#waived>Waived</a>" : "");
  out += "</header>\n";
}

void write_footer(std::string& out, const Page&) {
  out += "<footer>\n<h2>Verdicts</h2>\n<dl class=legend>";
  for (const Verdict v : kReadingOrder)
    put(out, "<div><dt>{} {}</dt><dd>{}</dd></div>", badge(v), name(v), look(v).meaning);
  out +=
      "</dl>\n<p class=note>Bounds come from the reference, element by element; nobody typed a tolerance. "
      "This page loads nothing and runs no "
      "script.</p>\n</footer>\n</main>\n</body>\n</html>\n";
}

}  // namespace moecheck::harness::report

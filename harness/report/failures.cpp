// Every failing check: the first ones of each operator and implementation in full, the others a line each.
#include <algorithm>
#include <cmath>

#include "harness/report/page.h"
#include "harness/text.h"
#include "harness/verdict_text.h"

namespace moecheck::harness::report {
namespace {
constexpr std::size_t kCardsPerGroup = 8;
constexpr std::size_t kCards = 120;  // over all groups: 5,000 failures must not make a page nobody can open

// Where the number fell beside the accepted range, to scale.
void write_track(std::string& out, const Element& e) {
  if (!e.note.empty()) return;  // ids: 7 is no nearer to 3 than 200 is
  if (!std::isfinite(e.got) || !std::isfinite(e.low) || !std::isfinite(e.high) || !std::isfinite(e.expected))
    return;
  const double low = std::min({e.low, e.got, e.expected}), high = std::max({e.high, e.got, e.expected});
  const double span = high - low;
  if (!(span > 0) || !std::isfinite(span)) return;
  const auto x = [&](double v) { return 4 + 92 * ((v - low) / span); };
  put(out, "<div class=track aria-hidden=true><i class=range style=\"left:{:.2f}%;width:{:.2f}%\"></i>",
      x(e.low), x(e.high) - x(e.low));
  put(out, "<i class=want style=\"left:{:.2f}%\"></i><i class=got style=\"left:{:.2f}%\"></i></div>\n",
      x(e.expected), x(e.got));
}

void write_element(std::string& out, const Element& e) {
  put(out, "<p class=where><span>worst element</span> <b>{}{}</b> {}</p>\n", html(e.output),
      coordinates_text(e.index), html(e.note));
  write_track(out, e);
  const auto text = tell_apart({e.got, e.expected, e.low, e.high});
  const auto number = [&](std::string_view css, std::string_view label, const std::string& value) {
    put(out, "<div class=\"{}\"><dt>{}</dt><dd>{}</dd></div>", css, label, value);
  };
  out += "<dl class=numbers>";
  number("bad", "got", text[0]);
  number("", "expected", text[1]);
  number("good", "accepted", e.low == e.high ? text[2] : fmt::format("[{}, {}]", text[2], text[3]));
  number("", "error", fmt::format("{:.3g}", e.error));
  number("", "bound", e.bound == 0 ? "0 (exact)" : fmt::format("{:.3g}", e.bound));
  number("", "error / bound", ratio_text(e.ratio));
  out += "</dl>\n";
}

std::string counts(const Judgement& j) {
  std::string out = fmt::format("{} of {} beyond the bound", grouped(j.failed), count(j.elements, "element"));
  if (j.suspect > 0) out += fmt::format(", {} suspect", grouped(j.suspect));
  if (j.undecided > 0) out += fmt::format(", {} undecided", grouped(j.undecided));
  return out;
}

void write_card(std::string& out, const Page& page, const Failure& failure) {
  const Record& r = *failure.record;
  const Judgement& j = r.result;
  const std::size_t number = page.failure_number.at(&r);
  put(out, "<article class=\"card {}\" id=f{}>\n", look(j.verdict).css, number);
  put(out, "<p class=case>{}<code>{}</code>", badge(j.verdict), html(r.case_line));
  if (failure.alike > 1) put(out, "<span class=alike>{} alike</span>", grouped(failure.alike));
  put(out, "<a class=no href=#f{0}>#{0}</a></p>\n", number);
  // The cause is what a reader wants; where none is known, the reason is.
  put(out, "<p class=cause>{}</p>\n", html(j.cause.empty() ? j.reason : j.cause));
  std::string detail = j.cause.empty() ? "" : html(j.reason);
  if (j.elements > 0) detail += fmt::format("{}{}", detail.empty() ? "" : "; ", counts(j));
  if (!detail.empty()) put(out, "<p class=reason>{}</p>\n", detail);
  if (const Element* wrong = wrong_element(j)) write_element(out, *wrong);
  bool any = false;
  for (const ClauseResult& c : j.clauses) {
    if (clause_state(c) != ClauseState::kBroken) continue;
    put(out, "{}<li><b>{}</b> {}</li>", any ? "" : "<ul class=broken>", html(c.name), html(c.detail));
    any = true;
  }
  if (any) out += "</ul>\n";
  put(out, "<p class=cmd><code>{}</code></p>\n</article>\n", html(repro_command(r)));
}

void write_row(std::string& out, const Page& page, const Record& r) {
  const Judgement& j = r.result;
  std::string what = html(j.cause.empty() ? j.reason : j.cause);
  if (const Element* wrong = wrong_element(j))
    what = fmt::format("{}{} {}", html(wrong->output), coordinates_text(wrong->index),
                       html(wrong->note.empty() ? ratio_text(wrong->ratio) : wrong->note));
  put(out, "<tr id=f{}><td>{}<td>{}<td><code>{}</code>\n", page.failure_number.at(&r), badge(j.verdict), what,
      html(repro_command(r)));
}

// The failures of one operator and implementation.
void write_group(std::string& out, const Page& page, std::span<const Failure> failures, std::size_t& cards) {
  const Record& any = *failures.front().record;
  put(out, "<h3>{} <span>{}{}</span><span class=n>{}</span></h3>\n", html(any.operator_name),
      html(any.implementation), is_planted(any.implementation) ? ", planted fault" : "",
      count(std::ssize(failures), "failure"));
  std::size_t in_full = 0;
  while (in_full < std::min(failures.size(), kCardsPerGroup) && failures[in_full].alike > 0 &&
         cards < kCards) {
    write_card(out, page, failures[in_full++]);
    ++cards;
  }
  if (in_full == failures.size()) return;
  put(out,
      "<details class=more><summary>{} more <span class=n>a line each</span></summary><div "
      "class=scroll><table class=list><tbody>\n",
      grouped(std::ssize(failures) - static_cast<std::int64_t>(in_full)));
  for (const Failure& f : failures.subspan(in_full)) write_row(out, page, *f.record);
  out += "</tbody></table></div></details>\n";
}

}  // namespace

void write_failures(std::string& out, const Page& page) {
  open_section(
      out, "failures", "Failures",
      page.failures.empty()
          ? "None."
          : "The first of each kind in full, the others folded below it. The last line of each repeats it.");
  std::size_t cards = 0;
  const auto same_group = [](const Failure& a, const Failure& b) {
    return a.record->operator_name == b.record->operator_name &&
           a.record->implementation == b.record->implementation;
  };
  const std::span<const Failure> all(page.failures);
  for (std::size_t begin = 0; begin < all.size();) {
    std::size_t end = begin + 1;
    while (end < all.size() && same_group(all[end], all[begin])) ++end;
    write_group(out, page, all.subspan(begin, end - begin), cards);
    begin = end;
  }
  out += "</section>\n";
}

}  // namespace moecheck::harness::report

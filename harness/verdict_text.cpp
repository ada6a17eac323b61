#include "harness/verdict_text.h"

#include <fmt/format.h>

#include <cmath>
#include <iterator>
#include <map>
#include <string_view>
#include <vector>

#include "harness/report/aggregate.h"
#include "harness/text.h"

namespace moecheck::harness {
namespace {
using report::Group;
using report::kReadingOrder;

enum class Ink { kPlain, kStrong, kDim, kGood, kBad, kOpen };

class Painter {
 public:
  explicit Painter(bool color) : color_(color) {}
  std::string operator()(Ink ink, std::string_view text) const {
    constexpr std::string_view kCodes[] = {"", "\x1b[1m", "\x1b[2m", "\x1b[32m", "\x1b[1;31m", "\x1b[33m"};
    if (!color_ || ink == Ink::kPlain) return std::string(text);
    return fmt::format("{}{}\x1b[0m", kCodes[static_cast<std::size_t>(ink)], text);
  }

 private:
  bool color_;
};

Ink ink_of(Verdict v) {
  if (is_failure(v)) return Ink::kBad;
  return v == Verdict::kPass ? Ink::kGood : v == Verdict::kSkip ? Ink::kDim : Ink::kOpen;
}

using Out = std::back_insert_iterator<std::string>;

// "  label     text", further lines of the text under its first.
void labelled(std::string& out, const Painter& paint, std::string_view label, std::string_view text) {
  std::string_view head = label;
  for (const std::string& line : printable_lines(text)) {
    fmt::format_to(Out(out), "  {} {}\n", paint(Ink::kDim, fmt::format("{:<9}", head)), line);
    head = "";
  }
}

void worst_element(std::string& out, const Painter& paint, const Element& e) {
  labelled(out, paint, "worst", e.output + coordinates_text(e.index) + (e.note.empty() ? "" : ": " + e.note));
  const auto line = [&](std::string_view label, const std::string& text) {
    fmt::format_to(Out(out), "    {} {}\n", paint(Ink::kDim, fmt::format("{:<9}", label)), text);
  };
  const auto text = tell_apart({e.got, e.expected, e.low, e.high});
  line("got", paint(Ink::kBad, text[0]));
  const std::string accepted = e.low == e.high ? fmt::format("accepted {} only", text[2])
                                               : fmt::format("accepted [{}, {}]", text[2], text[3]);
  line("expected", fmt::format("{}, {}", text[1], paint(Ink::kGood, accepted)));
  if (e.bound == 0)
    line("error", fmt::format("{:.3g}, where the bits must be equal", e.error));
  else
    line("error", fmt::format("{:.3g} = {} the bound {:.3g}", e.error,
                              paint(Ink::kBad, ratio_text(e.ratio) + (e.ratio > 1 ? "" : " of")), e.bound));
}

std::string counts(const Judgement& j) {
  std::string out = fmt::format("{} of {} beyond the bound", grouped(j.failed), count(j.elements, "element"));
  if (j.failed > 0 && j.elements > 0) {
    const double percent = 100.0 * static_cast<double>(j.failed) / static_cast<double>(j.elements);
    out += percent < 1 ? fmt::format(" ({:.2g}%)", percent) : fmt::format(" ({:.0f}%)", percent);
  }
  if (j.suspect > 0) out += fmt::format(", {} suspect", grouped(j.suspect));
  if (j.undecided > 0) out += fmt::format(", {} undecided", grouped(j.undecided));
  return out;
}

// What follows the case on the one line of a check that needs no action.
std::string short_note(const Judgement& j) {
  std::string out;
  if (j.verdict == Verdict::kSkip || j.verdict == Verdict::kWaived) return printable(j.reason);
  if (j.elements > 0)
    out = fmt::format("{}, at most {} of the bound", count(j.elements, "element"), ratio_text(j.headroom));
  if (j.headroom == 0 && j.elements > 0) out = fmt::format("{}, exact", count(j.elements, "element"));
  if (j.undecided > 0) out += fmt::format("{}{} undecided", out.empty() ? "" : ", ", grouped(j.undecided));
  if (!j.reason.empty()) out += fmt::format("{}{}", out.empty() ? "" : ": ", printable(j.reason));
  return out;
}

// --- the summary

struct Table {
  std::vector<std::vector<std::string>>
      rows;  // the first is the head; the first two columns are text, the others numbers
  std::vector<std::vector<Ink>> inks;

  void write(std::string& out, const Painter& paint) const {
    std::vector<std::size_t> width(rows.front().size(), 0);
    for (const auto& row : rows)
      for (std::size_t c = 0; c < row.size(); ++c) width[c] = std::max(width[c], row[c].size());
    for (std::size_t r = 0; r < rows.size(); ++r) {
      for (std::size_t c = 0; c < rows[r].size(); ++c) {
        const std::string cell =
            c < 2 ? fmt::format("{:<{}}", rows[r][c], width[c]) : fmt::format("{:>{}}", rows[r][c], width[c]);
        fmt::format_to(Out(out), "{}{}", c == 0 ? "" : "  ", paint(inks[r][c], cell));
      }
      out += '\n';
    }
  }
};

void add_row(Table& table, const std::vector<Verdict>& columns, const Group& g) {
  std::vector<std::string> row = {printable(g.operator_name), printable(g.implementation),
                                  grouped(g.tally.total())};
  std::vector<Ink> ink = {Ink::kStrong, Ink::kPlain, Ink::kPlain};
  for (const Verdict v : columns) {
    row.push_back(g.tally[v] == 0 ? "." : grouped(g.tally[v]));
    ink.push_back(g.tally[v] == 0 ? Ink::kDim : ink_of(v));
  }
  row.push_back(g.elements == 0 ? "." : ratio_text(g.headroom));
  row.push_back(g.undecided == 0 ? "." : grouped(g.undecided));
  ink.push_back(g.headroom > 1 ? Ink::kBad : Ink::kPlain);
  ink.push_back(g.undecided == 0 ? Ink::kDim : Ink::kOpen);
  table.rows.push_back(std::move(row));
  table.inks.push_back(std::move(ink));
}

Table count_table(const std::vector<Group>& groups) {
  std::vector<Verdict> columns;  // PASS and FAIL always, the others where they occur
  for (const Verdict v : kReadingOrder) {
    bool occurs = v == Verdict::kPass || v == Verdict::kFail;
    for (const Group& g : groups) occurs = occurs || g.tally[v] > 0;
    if (occurs) columns.push_back(v);
  }
  Table table;
  table.rows.push_back({"operator", "implementation", "checks"});
  for (const Verdict v : columns) table.rows.front().emplace_back(name(v));
  table.rows.front().emplace_back("error/bound");
  table.rows.front().emplace_back("open");
  table.inks.emplace_back(table.rows.front().size(), Ink::kDim);
  for (const Group& g : groups) add_row(table, columns, g);
  return table;
}

void skip_reasons(std::string& out, const Painter& paint, const std::vector<Group>& groups) {
  report::Reasons reasons;
  for (const Group& g : groups)
    for (const Record* r : g.records)
      if (r->result.verdict == Verdict::kSkip || r->result.verdict == Verdict::kWaived)
        reasons.add(fmt::format("{}  {} {}: {}", name(r->result.verdict), printable(g.operator_name),
                                printable(g.implementation), printable(r->result.reason)));
  if (!reasons.empty()) out += '\n';
  for (const report::Reason& r : reasons.sorted())
    fmt::format_to(Out(out), "{:>6}x {}\n", grouped(r.count), paint(Ink::kDim, r.text));
}

}  // namespace

std::string repro_command(const Record& r) {
  return fmt::format("moecheck repro {} --impl {}", shell_quoted(r.shrunk.empty() ? r.case_line : r.shrunk),
                     shell_word(r.argument.empty() ? r.implementation : r.argument));
}

std::string verdict_text(const Record& r, bool color) {
  const Painter paint(color);
  const Judgement& j = r.result;
  const std::string head =
      fmt::format("{}  {}  {}", paint(ink_of(j.verdict), name(j.verdict)),
                  paint(Ink::kStrong, printable(r.implementation)), printable(r.case_line));
  if (!is_failure(j.verdict)) {
    const std::string note = short_note(j);
    return note.empty() ? head + "\n" : fmt::format("{}  {}\n", head, paint(Ink::kDim, "(" + note + ")"));
  }
  std::string out = head + "\n";
  labelled(out, paint, "reason", j.reason);
  labelled(out, paint, "smallest", r.shrunk);
  if (const Element* wrong = report::wrong_element(j)) worst_element(out, paint, *wrong);
  if (j.elements > 0) labelled(out, paint, "counts", counts(j));
  labelled(out, paint, "cause", j.cause);
  for (const ClauseResult& c : j.clauses)
    if (report::clause_state(c) == report::ClauseState::kBroken)
      labelled(out, paint, "broken", c.name + (c.detail.empty() ? "" : ": " + c.detail));
  return out + fmt::format("  {}\n", paint(Ink::kStrong, printable(repro_command(r))));
}

namespace {

// Which kernels no case reached. A kernel that never ran was not tested.
void kernel_text(std::string& out, const Painter& paint, const report::Kernels& k) {
  std::vector<std::string> never;
  for (const auto& [name, n] : k.use.executed)
    if (n == 0) never.push_back(printable(name));
  const auto all = static_cast<std::int64_t>(k.use.executed.size());
  const std::int64_t ran = all - std::ssize(never);
  constexpr std::size_t kShown = 3;
  if (never.size() > kShown + 1) {
    const std::size_t more = never.size() - kShown;
    never.resize(kShown);
    never.push_back(fmt::format("and {} more: --report shows them", more));
  }
  fmt::format_to(Out(out), "{}: {} of {} ran{}\n", paint(Ink::kStrong, printable(k.implementation)), ran,
                 count(all, "kernel"),
                 never.empty() ? "" : paint(Ink::kOpen, fmt::format("; never: {}", fmt::join(never, "; "))));
}

}  // namespace

std::string summary_text(std::span<const Record> records, bool color) {
  if (records.empty()) return "no checks were made\n";
  const Painter paint(color);
  const std::vector<Group> groups = report::group_records(records);
  std::string out;
  count_table(groups).write(out, paint);
  skip_reasons(out, paint, groups);
  std::map<std::string_view, std::vector<const Record*>> by_implementation;
  std::vector<std::string_view> order;
  for (const Record& r : records) {
    std::vector<const Record*>& list = by_implementation[r.implementation];
    if (list.empty()) order.push_back(r.implementation);
    list.push_back(&r);
  }
  out += '\n';
  for (const std::string_view implementation : order) {
    const report::Evidence e = report::evidence(by_implementation[implementation]);
    fmt::format_to(Out(out), "{}: {}\n", paint(Ink::kStrong, printable(implementation)),
                   paint(e.failed > 0 ? Ink::kBad : Ink::kPlain, report::evidence_text(e)));
  }
  for (const report::Kernels& k : report::kernels(records)) kernel_text(out, paint, k);
  return out;
}

}  // namespace moecheck::harness

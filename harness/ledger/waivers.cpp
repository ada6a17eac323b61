#include "harness/ledger/waivers.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>

#include "harness/operator.h"
#include "harness/relation.h"
#include "harness/text.h"

namespace moecheck::harness::ledger {
namespace {

// What the runner asks of every operator beside its relations; see runner.cpp.
constexpr std::array<std::string_view, 10> kCommonChecks = {"elements",
                                                            "run",
                                                            "crash",
                                                            "timeout",
                                                            "writes_inside_outputs",
                                                            "float_environment_kept",
                                                            "inputs_unchanged",
                                                            "deterministic",
                                                            "thread_independent",
                                                            "address_independent"};

void require(const std::string& value, std::string_view key, std::string_view remedy) {
  if (value.empty()) throw UsageError(fmt::format("the key \"{}\" is missing: {}", key, remedy));
}

const Operator& operator_named(const std::string& name) {
  if (const Operator* op = find_operator(name)) return *op;
  std::vector<std::string> known;
  for (const Operator* op : operators()) known.emplace_back(op->name());
  throw UsageError(
      fmt::format("operator '{}' is not known: did you mean {}?", printable(name, 80), nearest(name, known)));
}

void require_check(const Operator& op, const std::string& check) {
  std::vector<std::string> known(kCommonChecks.begin(), kCommonChecks.end());
  for (const Relation& r : op.relations()) known.emplace_back(r.name);
  if (std::ranges::find(known, check) == known.end())
    throw UsageError(fmt::format("check '{}' is not known of {}: did you mean {}? There are {}",
                                 printable(check, 80), op.name(), nearest(check, known),
                                 fmt::join(known, ", ")));
}

Verdict found(const Record& r) { return r.waived ? r.waived->verdict : r.result.verdict; }

std::optional<Case> case_of(const Record& r) {
  try {
    return parse_case(r.case_line);
  } catch (const UsageError&) {
    return std::nullopt;  // of another version of moecheck: its line alone is
                          // comparable
  }
}

}  // namespace

Date parse_date(std::string_view text) {
  const auto digits = [&](std::size_t at, std::size_t n) {
    unsigned v = 0;
    for (std::size_t i = at; i < at + n; ++i) {
      if (text[i] < '0' || text[i] > '9') return ~0u;
      v = 10 * v + static_cast<unsigned>(text[i] - '0');
    }
    return v;
  };
  if (text.size() == 10 && text[4] == '-' && text[7] == '-') {
    const unsigned y = digits(0, 4), m = digits(5, 2), d = digits(8, 2);
    const Date date{std::chrono::year(static_cast<int>(y)), std::chrono::month(m), std::chrono::day(d)};
    if (y <= 9999 && m <= 12 && d <= 31 && date.ok()) return date;
  }
  throw UsageError(fmt::format("'{}' is no date: write it as 2026-11-22", printable(text, 80)));
}

std::string date_text(Date date) {
  return fmt::format("{:04}-{:02}-{:02}", static_cast<int>(date.year()), static_cast<unsigned>(date.month()),
                     static_cast<unsigned>(date.day()));
}

Date today() { return Date(std::chrono::floor<std::chrono::days>(std::chrono::system_clock::now())); }

std::vector<std::string> failing_checks(const Record& r) {
  const Verdict v = found(r);
  if (v == Verdict::kCrash) return {"crash"};
  if (v == Verdict::kTimeout) return {"timeout"};
  if (v != Verdict::kFail && v != Verdict::kSuspect) return {};
  std::vector<std::string> checks;
  if (r.result.failed > 0 || r.result.suspect > 0) checks.emplace_back("elements");
  for (const ClauseResult& c : r.result.clauses)
    if (is_failure(c.verdict)) checks.push_back(c.name);
  if (checks.empty()) checks.emplace_back("run");
  return checks;
}

Waiver::Waiver(WaiverText text) : text_(std::move(text)), issue_(text_.issue) {
  require(text_.implementation, "implementation", "name the one that fails, as in its records");
  require(text_.reason, "reason", "say what fails and why that is known");
  require(text_.added, "added", "the day it was written, as 2026-11-22");
  if (text_.case_line.empty() == text_.where.empty())
    throw UsageError(
        "give one of \"case\" (a whole case line) and \"where\" "
        "(fields, as \"policy=vllm_cuda dtype=f16\"): "
        "they say which cases it covers");
  if (!text_.case_line.empty()) {
    const Case c = parse_case(text_.case_line);
    if (text_.operator_name.empty()) text_.operator_name = c.operator_name();
    if (text_.operator_name != c.operator_name())
      throw UsageError(
          fmt::format("operator '{}' and the case's '{}' differ: "
                      "leave the key \"operator\" out",
                      printable(text_.operator_name, 80), c.operator_name()));
    text_.case_line = c.str();
  }
  require(text_.operator_name, "operator", "`moecheck list operators` shows all");
  const Operator& op = operator_named(text_.operator_name);
  if (!text_.where.empty()) read_where(op.schema());
  if (!text_.check.empty()) require_check(op, text_.check);
  const Date added = parse_date(text_.added);
  if (!text_.until.empty() && parse_date(text_.until) < added)
    throw UsageError(
        fmt::format("until {} is before added {}: it would never apply", text_.until, text_.added));
}

void Waiver::read_where(const Schema& schema) {
  for (const std::string_view word : split_words(text_.where)) {
    const std::size_t equals = word.find('=');
    if (equals == std::string_view::npos || equals == 0)
      throw UsageError(
          fmt::format("where '{}' is no field: write field=value, as in case lines", printable(word, 80)));
    const std::string field(word.substr(0, equals)), value(word.substr(equals + 1));
    const int index = schema.find(field);
    Case scratch(schema);
    if (field != "edit") {
      scratch.set(field, value);
    } else if (schema.find_edit(value) == nullptr) {
      std::vector<std::string> known;
      for (const EditKind& kind : schema.edits) known.push_back(kind.name);
      throw UsageError(fmt::format("where edit={}: name a kind of edit alone, one of {}",
                                   printable(value, 80), fmt::join(known, ", ")));
    }
    if (std::ranges::any_of(constraints_, [&](const Constraint& c) { return c.field == field; }))
      throw UsageError(fmt::format("where has {} twice: a waiver for each value", field));
    constraints_.push_back({field, index, index >= 0 ? scratch.value(index) : Value{}, value});
  }
  if (constraints_.empty()) throw UsageError("where is blank: write field=value, as in case lines");
}

std::string Waiver::pattern() const {
  // A case line begins with its operator.
  std::string out = text_.case_line.empty() ? fmt::format("{} {} where {}", text_.operator_name,
                                                          text_.implementation, text_.where)
                                            : fmt::format("{} {}", text_.implementation, text_.case_line);
  if (!text_.check.empty()) out += ", check " + text_.check;
  return out;
}

bool Waiver::applies_on(Date day) const { return text_.until.empty() || day <= parse_date(text_.until); }

bool Waiver::meets(const Case& c, const Constraint& constraint) {
  if (constraint.index >= 0) return c.value(constraint.index) == constraint.value;
  if (constraint.field == "model") return c.model() == constraint.text;
  if (constraint.field == "policy") return c.policy() == constraint.text;
  if (constraint.field == "seed") return fmt::format("{}", c.seed) == constraint.text;
  return std::ranges::any_of(c.edits, [&](const Edit& e) { return e.kind == constraint.text; });
}

bool Waiver::covers(const Record& r) const {
  if (r.operator_name != text_.operator_name || r.implementation != text_.implementation) return false;
  if (!text_.case_line.empty() && r.case_line == text_.case_line) return true;
  const std::optional<Case> c = case_of(r);
  if (!c) return false;
  if (!text_.case_line.empty()) return c->str() == text_.case_line;
  return std::ranges::all_of(constraints_, [&](const Constraint& k) { return meets(*c, k); });
}

Waiver::Says Waiver::says(const Record& r) const {
  const Verdict v = found(r);
  if (v != Verdict::kPass && v != Verdict::kUndecided && failing_checks(r).empty()) return Says::kNothing;
  const std::vector<std::string> failing = failing_checks(r);
  if (text_.check.empty()) return failing.empty() ? Says::kPasses : Says::kFails;
  if (std::ranges::find(failing, text_.check) != failing.end()) return Says::kFails;
  const bool died = v == Verdict::kCrash || v == Verdict::kTimeout;
  for (const ClauseResult& c : r.result.clauses)
    if (c.name == text_.check)
      return c.verdict == Verdict::kPass && !died ? Says::kPasses : Says::kNothing;  // SKIP: it was not asked
  if (text_.check == "elements" && !died && r.result.elements > 0) return Says::kPasses;
  const bool of_the_run = text_.check == "crash" || text_.check == "timeout" || text_.check == "run";
  return of_the_run && failing.empty() ? Says::kPasses : Says::kNothing;
}

void Waivers::apply(Record& r, Date day) const {
  const std::vector<std::string> failing = failing_checks(r);
  if (failing.empty() || r.waived) return;
  std::vector<const Waiver*> by;
  for (const std::string& check : failing) {
    const auto covering = std::ranges::find_if(lines, [&](const WaiverLine& l) {
      return l.waiver.applies_on(day) && l.waiver.covers_check(check) && l.waiver.covers(r);
    });
    if (covering == lines.end()) return;  // one failure that nobody knows of is a failure
    if (std::ranges::find(by, &covering->waiver) == by.end()) by.push_back(&covering->waiver);
  }
  WaivedFailure was{r.result.verdict, r.result.reason, {}};
  std::string why;
  for (const Waiver* w : by) {
    was.issues.push_back(w->issue().text());
    why += fmt::format("{}{}: {}", why.empty() ? "" : "; ", w->issue().text(), w->text().reason);
  }
  r.result.verdict = Verdict::kWaived;
  r.result.reason = std::move(why);
  r.waived = std::move(was);
}

}  // namespace moecheck::harness::ledger

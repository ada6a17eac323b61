// Waivers of a file, and what records say of each.
#include <fmt/format.h>

#include <fstream>
#include <map>

#include "harness/json.h"
#include "harness/json_error.h"
#include "harness/ledger/waivers.h"
#include "harness/text.h"

namespace moecheck::harness::ledger {
namespace {

using Key = std::pair<const char*, std::string WaiverText::*>;
constexpr Key kKeys[] = {{"operator", &WaiverText::operator_name},
                         {"implementation", &WaiverText::implementation},
                         {"case", &WaiverText::case_line},
                         {"where", &WaiverText::where},
                         {"check", &WaiverText::check},
                         {"issue", &WaiverText::issue},
                         {"reason", &WaiverText::reason},
                         {"added", &WaiverText::added},
                         {"until", &WaiverText::until}};

// An unknown key is refused: a misspelt "until" would waive for ever.
WaiverText text_from(const nlohmann::json& j) {
  if (!j.is_object()) throw UsageError("the line is no JSON object: each line of a waivers file is one");
  WaiverText text;
  for (const auto& [name, value] : j.items()) {
    const Key* key = nullptr;
    std::vector<std::string> known;
    for (const Key& k : kKeys) {
      if (name == k.first) key = &k;
      known.emplace_back(k.first);
    }
    if (key == nullptr)
      throw UsageError(fmt::format("the key \"{}\" is not known: did you mean \"{}\"? There are {}",
                                   printable(name, 80), nearest(name, known), fmt::join(known, ", ")));
    if (!value.is_string()) throw UsageError(fmt::format("the key \"{}\" must be a text in quotes", name));
    text.*key->second = value.get<std::string>();
  }
  return text;
}

std::string identity(const Waiver& w) {
  const WaiverText& t = w.text();
  return fmt::format("{}\n{}\n{}\n{}\n{}", t.operator_name, t.implementation, t.case_line, t.where, t.check);
}

}  // namespace

Waivers read_waivers(const std::string& path) {
  std::ifstream in(path);
  if (!in)
    throw UsageError(
        fmt::format("{}: cannot be opened: give a file of waivers, one JSON object a line", printable(path)));
  Waivers waivers{path, {}};
  std::map<std::string, std::size_t> seen;
  std::size_t number = 0;
  for (std::string line; std::getline(in, line);) {
    ++number;
    const std::size_t first = line.find_first_not_of(" \t\r");
    if (first == std::string::npos || line[first] == '#') continue;
    const std::string place = fmt::format("{}:{}", printable(path), number);
    try {
      Waiver waiver(text_from(nlohmann::json::parse(line)));
      const auto [at, is_new] = seen.try_emplace(identity(waiver), number);
      if (!is_new)
        throw UsageError(
            fmt::format("it covers what line {} does: keep one, with the newer issue", at->second));
      waivers.lines.push_back({number, std::move(waiver)});
    } catch (const nlohmann::json::exception& e) {
      throw UsageError(json_error_at(path, number, e) + ": write one JSON object on the line");
    } catch (const UsageError& e) {
      throw UsageError(fmt::format("{}: {}", place, e.what()));
    }
  }
  if (in.bad() || !in.eof())
    throw UsageError(fmt::format("{}: reading stopped after line {}: is it a directory?", path, number));
  return waivers;
}

std::string_view name(WaiverState s) {
  constexpr std::string_view kNames[] = {"open", "expired", "unused", "out of date"};
  return kNames[static_cast<std::size_t>(s)];
}

std::vector<AuditedWaiver> audit(const Waivers& waivers, std::span<const Record> records, Date day) {
  std::map<std::pair<std::string_view, std::string_view>, const Record*> last;
  for (const Record& r : records) last[{r.implementation, r.case_line}] = &r;
  std::vector<AuditedWaiver> audited;
  for (const WaiverLine& line : waivers.lines) {
    AuditedWaiver& a = audited.emplace_back();
    a.line = &line;
    for (const auto& [key, r] : last) {
      if (!line.waiver.covers(*r)) continue;
      const Waiver::Says says = line.waiver.says(*r);
      a.failing += says == Waiver::Says::kFails;
      a.passing += says == Waiver::Says::kPasses;
    }
    a.state = a.failing == 0 && a.passing > 0 ? WaiverState::kExpired
              : !line.waiver.applies_on(day)  ? WaiverState::kOutOfDate
              : a.failing > 0                 ? WaiverState::kOpen
                                              : WaiverState::kUnused;
  }
  return audited;
}

std::string attention_text(const Waivers& waivers, const AuditedWaiver& a) {
  const Waiver& w = a.line->waiver;
  const std::string where =
      fmt::format("{}:{}: {}, {}", waivers.path, a.line->line, w.issue().text(), w.pattern());
  switch (a.state) {
    case WaiverState::kExpired:
      return fmt::format("{}: expired: {}: delete the line", where,
                         a.passing == 1
                             ? "the case that it covers passes"
                             : fmt::format("all {} that it covers pass", count(a.passing, "case")));
    case WaiverState::kOutOfDate:
      return fmt::format(
          "{}: out of date: it waives nothing since {}: close the "
          "issue, or set a later \"until\"",
          where, w.text().until);
    case WaiverState::kUnused:
      return fmt::format("{}: unused: no case that it covers ran", where);
    case WaiverState::kOpen:
      if (a.passing == 0) return {};
      return fmt::format("{}: wider than the failure: {} that it covers {}, {} {}: narrow it", where,
                         count(a.failing, "case"), a.failing == 1 ? "fails" : "fail", grouped(a.passing),
                         a.passing == 1 ? "passes" : "pass");
  }
  return {};
}

}  // namespace moecheck::harness::ledger

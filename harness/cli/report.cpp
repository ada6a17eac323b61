// moecheck report: records to HTML. moecheck report pr is in report_pr.cpp.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <memory>

#include "harness/atomic_file.h"
#include "harness/cli/cli.h"
#include "harness/junit.h"
#include "harness/report/html.h"
#include "harness/text.h"
#include "harness/verdict_text.h"

namespace moecheck::harness {

void add_report(CLI::App& app, Action& action) {
  struct Arguments {
    std::vector<std::string> records;
    std::string output, junit, waivers, title = "moecheck report";
  };
  auto a = std::make_shared<Arguments>();
  CLI::App* sub = app.add_subcommand("report", "Make an HTML report of records");
  sub->add_option("records", a->records, "Record files")->type_name("RECORDS.jsonl");
  sub->add_option("-o,--output", a->output, "The report")->type_name("FILE.html");
  sub->add_option("--junit", a->junit, "JUnit XML as well")->type_name("FILE.xml");
  sub->add_option("--title", a->title, "Its title")->capture_default_str();
  sub->add_option("--waivers", a->waivers, "Waivers to list with their state")->type_name("FILE.jsonl");
  const CLI::App* pr = add_report_pr(*sub, action);
  sub->callback([a, pr, &action] {
    if (pr->parsed()) return;
    action = [a] {
      if (a->records.empty())
        throw UsageError("no records: give the files that check and judge write, or `report pr`");
      if (a->output.empty()) throw UsageError("no output: give -o FILE.html");
      std::vector<Record> records;
      std::string command = "moecheck report";
      for (const std::string& path : a->records) {
        command += " " + shell_word(path);
        for (Record& r : read_records(path)) records.push_back(std::move(r));
      }
      ledger::Waivers waivers;
      if (!a->waivers.empty()) waivers = ledger::read_waivers(a->waivers);
      if (!a->waivers.empty()) command += " --waivers " + shell_word(a->waivers);
      const std::vector<ledger::AuditedWaiver> audited = ledger::audit(waivers, records, ledger::today());
      write_file(a->output,
                 html_report(records, {command + " -o " + shell_word(a->output), a->title, audited}));
      if (!a->junit.empty()) write_junit(a->junit, records);
      fmt::print("{}{}: {}\n", summary_text(records), printable(a->output),
                 count(static_cast<std::int64_t>(records.size()), "record"));
      return exit_code(records);
    };
  });
}

}  // namespace moecheck::harness

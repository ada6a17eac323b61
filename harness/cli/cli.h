#pragma once
// The command line: the one place that prints and exits. One file per verb.
//
// Exit codes: 0 all fine, 1 a check failed, 2 bad usage or input, 3 nothing ran.
#include <functional>
#include <string>
#include <vector>

#include "harness/case.h"
#include "harness/implementation.h"
#include "harness/ledger/waivers.h"
#include "harness/operator.h"
#include "harness/record.h"

namespace CLI {
class App;
}

namespace moecheck::harness {

inline constexpr int kExitFine = 0, kExitFailed = 1, kExitUsage = 2, kExitNothingRan = 3;

int run_command_line(int argc, char** argv);

// Each adds its verb to `app`; the verb's work is put into `action`, which returns the exit code.
using Action = std::function<int()>;
void add_list(CLI::App& app, Action& action);
void add_check(CLI::App& app, Action& action);
void add_fuzz(CLI::App& app, Action& action);
void add_merge(CLI::App& app, Action& action);
void add_repro(CLI::App& app, Action& action);
void add_run(CLI::App& app, Action& action);
void add_judge(CLI::App& app, Action& action);
void add_diagnose(CLI::App& app, Action& action);
void add_bench(CLI::App& app, Action& action);
void add_bench_serve(CLI::App& bench_verb, Action& action);  // a subcommand of bench
void add_report(CLI::App& app, Action& action);
CLI::App* add_report_pr(CLI::App& report_verb, Action& action);  // a subcommand of report
void add_serve(CLI::App& app, Action& action);
void add_prompts(CLI::App& app, Action& action);
void add_grade(CLI::App& app, Action& action);
void add_eval(CLI::App& app, Action& action);
void add_compare(CLI::App& app, Action& action);
void add_plan(CLI::App& app, Action& action);
void add_audit(CLI::App& app, Action& action);
void add_localize(CLI::App& app, Action& action);
void add_streams(CLI::App& app, Action& action);
// Subcommands of streams.
void add_streams_run(CLI::App& streams_verb, Action& action);
void add_streams_import(CLI::App& streams_verb, Action& action);
void add_streams_ranks(CLI::App& streams_verb, Action& action);
void add_mutants(CLI::App& app, Action& action);
void add_waivers(CLI::App& app, Action& action);
void add_headroom(CLI::App& app, Action& action);
void add_detection(CLI::App& app, Action& action);

// ---- Shared by the verbs

// The operator, implementation or suite of that name; throws UsageError with the nearest name.
const Operator& require_operator(const std::string& name);
const Implementation& require_implementation(const std::string& name);
Suite require_suite(const std::string& name);
// A case line that may leave out the operator's name when `op` is given. Throws UsageError when they disagree.
Case require_case(const std::string& line, const Operator* op = nullptr);
// The lines of a file of case lines: one a line, # for comments. Throws UsageError.
std::vector<std::string> case_lines(const std::string& path);
// Refused cases are a usage error where the user named one case.
void require_accepted(const Case& c);
// Inputs from a file, or generated when `path` is empty; validated against the case.
TensorSet require_inputs(const Case& c, const std::string& path);

bool color_wanted(int fd);  // a terminal, and NO_COLOR is not set
int exit_code(const std::vector<Record>& records);
// Prints what the waivers need done; whether an expired one makes the command fail.
bool print_waivers(const ledger::Waivers& waivers, std::span<const ledger::AuditedWaiver> audited,
                   bool allow_expired);

}  // namespace moecheck::harness

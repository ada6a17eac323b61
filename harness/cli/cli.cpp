#include "harness/cli/cli.h"

#include <fmt/format.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <fstream>

#include "harness/safetensors.h"
#include "harness/text.h"
#include "moecheck_version.h"

namespace moecheck::harness {
namespace {

constexpr const char* kDescription =
    "moecheck: is the fast Mixture-of-Experts kernel still right?\n"
    "Runs optimized operators beside scalar references and judges every element against its own proven "
    "bound.";

constexpr const char* kFooter =
    "Start here:\n"
    "  moecheck check                                     every operator, quick suite\n"
    "  moecheck check gating --policy sglang_fused --suite models\n"
    "  moecheck judge gating --case 'gating model=glm-4.7 tokens=8' --outputs mine.safetensors\n"
    "Exit codes: 0 all fine, 1 a check failed, 2 bad usage or input, 3 nothing ran.";

template <class Range, class Name>
[[noreturn]] void unknown(std::string_view what, const std::string& given, const Range& range, Name name) {
  std::vector<std::string> known;
  for (const auto& item : range) known.emplace_back(name(item));
  throw UsageError(fmt::format("{} '{}' is not known: did you mean {}? There are {}", what, printable(given),
                               nearest(given, known), fmt::join(known, ", ")));
}

}  // namespace

const Operator& require_operator(const std::string& name) {
  if (const Operator* op = find_operator(name)) return *op;
  unknown("operator", name, operators(), [](const Operator* op) { return op->name(); });
}

const Implementation& require_implementation(const std::string& name) {
  if (const Implementation* impl = find_implementation(name)) return *impl;
  if (name.find('!') != std::string::npos)
    throw UsageError(fmt::format(
        "implementation '{}' is not known: faults are written cpu!NAME, and `moecheck list faults` shows "
        "their names",
        printable(name)));
  unknown("implementation", name, implementations(), [](const Implementation* impl) { return impl->name(); });
}

Suite require_suite(const std::string& name) {
  static constexpr Suite kAll[] = {Suite::kQuick, Suite::kModels, Suite::kAdversarial, Suite::kFull};
  for (const Suite s : kAll)
    if (harness::name(s) == name) return s;
  unknown("suite", name, kAll, [](Suite s) { return harness::name(s); });
}

std::vector<std::string> case_lines(const std::string& path) {
  std::ifstream in(path);
  if (!in)
    throw UsageError(fmt::format("{}: cannot be read: give a file of case lines, one a line, # for comments",
                                 printable(path)));
  std::vector<std::string> lines;
  for (std::string line; std::getline(in, line);)
    if (const auto words = split_words(line); !words.empty() && words[0][0] != '#') lines.push_back(line);
  return lines;
}

Case require_case(const std::string& line, const Operator* op) {
  const std::vector<std::string_view> words = split_words(line);
  if (op == nullptr) return parse_case(line);
  if (words.empty() || words[0].find('=') != std::string_view::npos)
    return parse_case(op->schema(), fmt::format("{} {}", op->name(), line));
  if (words[0] != op->name())
    throw UsageError(fmt::format("the case is of '{}', the command of '{}': they must be the same operator",
                                 printable(words[0]), op->name()));
  return parse_case(op->schema(), line);
}

void require_accepted(const Case& c) {
  if (const auto why = operator_of(c).refusal(c))
    throw UsageError(fmt::format("case '{}' is refused: {}", c.str(), *why));
}

TensorSet require_inputs(const Case& c, const std::string& path) {
  const Operator& op = operator_of(c);
  if (!path.empty()) {
    TensorSet given = read_safetensors(path);
    require_specs(given, op.inputs(c), path);
    if (const auto why = op.bad_input(c, given))
      throw UsageError(fmt::format("{}: {}", printable(path), *why));
    return given;
  }
  TensorSet made(op.inputs(c));
  op.generate(c, made);
  return made;
}

bool color_wanted(int fd) { return isatty(fd) == 1 && std::getenv("NO_COLOR") == nullptr; }

int exit_code(const std::vector<Record>& records) {
  bool ran = false;
  for (const Record& r : records) {
    if (is_failure(r.result.verdict)) return kExitFailed;
    ran = ran || r.result.verdict != Verdict::kSkip;
  }
  return ran ? kExitFine : kExitNothingRan;
}

namespace {

// A misspelt verb by name: the parser would only say that one is missing.
void require_verb(const CLI::App& app, int argc, char** argv) {
  if (argc < 2 || argv[1][0] == '-') return;
  std::vector<std::string> verbs;
  for (const CLI::App* sub : app.get_subcommands([](const CLI::App*) { return true; }))
    verbs.push_back(sub->get_name());
  if (std::find(verbs.begin(), verbs.end(), argv[1]) == verbs.end())
    throw UsageError(fmt::format("there is no command '{}': did you mean {}? There are {}",
                                 printable(argv[1]), nearest(argv[1], verbs), fmt::join(verbs, ", ")));
}

}  // namespace

int run_command_line(int argc, char** argv) {
  CLI::App app(kDescription, "moecheck");
  app.footer(kFooter);
  app.set_version_flag("--version",
                       std::string("moecheck ") + MOECHECK_VERSION + " (" + MOECHECK_COMMIT + ")");
  app.require_subcommand(1);
  app.get_formatter()->column_width(34);
  Action action;
  add_check(app, action);
  add_fuzz(app, action);
  add_merge(app, action);
  add_repro(app, action);
  add_run(app, action);
  add_judge(app, action);
  add_diagnose(app, action);
  add_list(app, action);
  add_bench(app, action);
  add_report(app, action);
  add_serve(app, action);
  add_eval(app, action);
  add_prompts(app, action);
  add_grade(app, action);
  add_compare(app, action);
  add_plan(app, action);
  add_audit(app, action);
  add_localize(app, action);
  add_streams(app, action);
  add_mutants(app, action);
  add_waivers(app, action);
  add_headroom(app, action);
  add_detection(app, action);
  try {
    require_verb(app, argc, argv);
    app.parse(argc, argv);
    return action();
  } catch (const CLI::ParseError& e) {
    return app.exit(e) == 0 ? kExitFine : kExitUsage;
  } catch (const UsageError& e) {
    std::fflush(stdout);
    fmt::print(stderr, "moecheck: {}\n", e.what());
    return kExitUsage;
  } catch (const std::bad_alloc&) {
    fmt::print(stderr, "moecheck: out of memory: the case is too large for this machine\n");
    return kExitUsage;
  } catch (const std::exception& e) {
    fmt::print(stderr, "moecheck: internal error: {}\n", e.what());
    return kExitUsage;
  }
}

}  // namespace moecheck::harness

// moecheck streams import: a program from a profile of a real run, with what was measured.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <memory>

#include "harness/cli/cli.h"
#include "harness/streams/profile_import.h"
#include "harness/tasks/files.h"

namespace moecheck::harness {
namespace {

struct ImportArguments {
  std::string file, json, svg;
  std::int64_t device = -1;
  double from = -1, to = -1;
};

int import(const ImportArguments& a) {
  streams::ImportOptions options;
  if (a.device >= 0) options.device = a.device;
  if (a.from >= 0) options.from = a.from;
  if (a.to >= 0) options.to = a.to;
  const streams::ImportedProgram imported =
      streams::import_profile(streams::read_profile(a.file), options, a.file);
  if (!a.json.empty()) write_text(a.json, streams::imported_json(imported));
  const reference::StreamOrder order(imported.program, false);
  const streams::ProfileMeasures measures = streams::measure(imported, order);
  if (!a.svg.empty()) write_text(a.svg, streams::profile_svg(imported, measures));
  if (a.json != "-" && a.svg != "-") fmt::print("{}", streams::profile_text(imported, order, measures));
  return measures.contradiction_count > 0 ? kExitFailed : kExitFine;
}

}  // namespace

void add_streams_import(CLI::App& verb, Action& action) {
  CLI::App* sub = verb.add_subcommand(
      "import", "A profile of a real run as a program: which waits held a stream, what ran at the same time");
  auto a = std::make_shared<ImportArguments>();
  sub->add_option(
         "FILE", a->file,
         "Chrome trace of torch.profiler (unpacked), or CUPTI records, one a line; - is standard input")
      ->required();
  sub->add_option("--device", a->device, "One device alone")->check(CLI::NonNegativeNumber);
  sub->add_option("--from", a->from, "Operations that start there or later, in us since the first time")
      ->check(CLI::NonNegativeNumber)
      ->type_name("US");
  sub->add_option("--to", a->to, "Operations that start before")
      ->check(CLI::NonNegativeNumber)
      ->type_name("US");
  sub->add_option("--json", a->json, "Write the program; - is standard output")->type_name("FILE|-");
  sub->add_option("--svg", a->svg, "Write the measured lanes as SVG; - is standard output")
      ->type_name("FILE|-");
  sub->callback([a, &action] { action = [a] { return import(*a); }; });
}

}  // namespace moecheck::harness

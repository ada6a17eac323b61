// moecheck streams run, edges, overlap: programs executed.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <filesystem>
#include <memory>
#include <optional>

#include "harness/atomic_file.h"
#include "harness/cli/cli.h"
#include "harness/operator.h"
#include "harness/streams/moe_run.h"
#include "harness/streams/overlap.h"
#include "harness/streams/program_json.h"
#include "harness/streams/recorder.h"
#include "harness/streams/text.h"
#include "harness/streams/trial.h"
#include "harness/text.h"

namespace moecheck::harness {
namespace {

using reference::StreamProgram;
using streams::Block;
using streams::Trial;

struct RunArguments {
  std::string program, variant, platform = "cuda", case_line, without, record;
  bool capturing = false;
  int repeats = 20;
  streams::TrialOptions trial;
};

// A program with what it is compared with and what its operations do.
struct Runnable {
  StreamProgram program, expected;
  std::unique_ptr<streams::MoeRun> moe;
  streams::OperationBody& body() {
    return moe ? static_cast<streams::OperationBody&>(*moe) : streams::probe();
  }
};

bool is_file(const std::string& name) {
  return name == "-" || name.ends_with(".json") || std::filesystem::exists(name);
}

streams::BlockOptions block_options(const RunArguments& a) {
  streams::BlockOptions o;
  o.variant = a.variant;
  o.state.capturing = a.capturing;
  o.state.tokens = 1;
  o.platform = streams::require_platform(a.platform);
  return o;
}

// The block with its own operators: what it gives has to be what its form without a second stream gives.
Runnable real_block(const RunArguments& a) {
  if (a.program != "glm4_moe")
    throw UsageError(
        fmt::format("--case runs the operators of glm4_moe; {} has probes alone: leave --case out",
                    printable(a.program, 60)));
  const streams::BlockOptions o = block_options(a);
  (void)streams::make_block(streams::require_block(a.program), o);  // names the variants there are
  Runnable r;
  r.moe = std::make_unique<streams::MoeRun>(streams::moe_run_case(parse_case(a.case_line), o.platform));
  streams::Glm4Moe m = streams::glm4_options(o), single = m;
  m.bytes = single.bytes = r.moe->bytes(streams::make_stream_device(a.trial.device, 0)->kernels());
  if (m.scratch == streams::Scratch::kNone) m.scratch = single.scratch = streams::Scratch::kStream;
  single.dual = false;
  single.scale_outside = streams::scales_outside(streams::ScaleGate::kSingle, o.platform);
  r.program = streams::glm4_moe(m);
  r.expected = streams::glm4_moe(single);
  r.program.name =
      fmt::format("glm4_moe {}{}", a.variant.empty() ? "sound" : a.variant, m.capturing ? " capturing" : "");
  return r;
}

Runnable runnable(const RunArguments& a) {
  Runnable r;
  if (!a.case_line.empty()) {
    r = real_block(a);
  } else if (is_file(a.program)) {
    r.program = r.expected = streams::read_program(a.program);
  } else {
    r.program = r.expected = streams::make_block(streams::require_block(a.program), block_options(a));
  }
  if (a.without.empty()) return r;
  const std::vector<std::string> labels = step_labels(r.program);
  std::vector<std::string> waits;
  for (std::size_t i = 0; i < labels.size(); ++i) {
    if (!is_wait(r.program.steps[i])) continue;
    waits.push_back(labels[i]);
    if (labels[i] != a.without) continue;
    r.program = reference::without_step(r.program, static_cast<int>(i));
    return r;
  }
  throw UsageError(fmt::format("the program has no wait '{}': it has {}", printable(a.without, 60),
                               fmt::join(waits, ", ")));
}

std::string repeat_line(const RunArguments& a, std::uint64_t order) {
  std::string line = fmt::format("moecheck streams run {} --impl {}", shell_word(a.program), a.trial.device);
  if (!a.variant.empty()) line += " --variant " + a.variant;
  if (a.platform != "cuda") line += " --platform " + a.platform;
  if (a.capturing) line += " --capturing";
  if (!a.case_line.empty()) line += " --case " + shell_word(a.case_line);
  if (!a.without.empty()) line += " --without " + shell_word(a.without);
  return line + fmt::format(" --orders 1 --first-order {}", order);
}

std::string graph_text(const StreamProgram& p, const Trial& t) {
  if (t.graph_nodes == 0) return "";
  std::string text = fmt::format("graph     {} nodes, {} edges: ", t.graph_nodes, t.graph_edges);
  if (t.graph.empty()) return text + "the orders of the program, none lost, none gained\n";
  const auto step = [&](int s) {
    return s < 0 ? std::string("?") : p.steps[static_cast<std::size_t>(s)].name;
  };
  for (const streams::GraphDifference& d : t.graph)
    text += fmt::format("\n          {} before {}: {}", step(d.first), step(d.second),
                        d.first < 0 ? "a node leads nowhere"
                        : d.lost    ? "lost in the graph"
                                    : "in the graph alone");
  return text + "\n";
}

// Whether the serial outcome is wrong itself.
bool judge_serial(const RunArguments& a, const Runnable& r) {
  const auto device = streams::make_stream_device(a.trial.device, 0);
  const streams::Outcome serial = execute(r.expected, *device, *r.moe, {.serial = true});
  const std::optional<Record> judged = r.moe->judge(r.expected, serial);
  if (!judged) return false;
  const Judgement& j = judged->result;
  fmt::print("judged    {} of {} elements of the serial outcome within the bounds of the reference: {}\n",
             j.elements - j.failed, j.elements, name(j.verdict));
  return is_failure(j.verdict);
}

// Through a recorder: what the host did, as a program.
void record(const RunArguments& a, Runnable& r) {
  const auto device = streams::make_stream_device(a.trial.device, 0);
  streams::Recorder recorder(device->runtime());
  streams::ExecuteOptions through;
  through.through = &recorder;
  const auto spans = [](const std::vector<streams::BoundRange>& all) {
    std::vector<streams::Span> list;
    for (const streams::BoundRange& b : all) list.push_back({b.data, b.bytes});
    return list;
  };
  through.before = [&](const streams::BoundOperation& op) {
    std::vector<streams::Span> reads = spans(op.reads), writes = spans(op.writes);
    for (const streams::Span& s : spans(op.scratch)) reads.push_back(s), writes.push_back(s);
    recorder.operation(op.operation().name, op.stream, reads, writes);
  };
  through.after = [&](const streams::BoundOperation&) { recorder.done(); };
  const streams::Outcome o = execute(r.program, *device, r.body(), through);
  if (!o.error.empty()) throw gpu::DeviceError(o.error);
  write_file(a.record, streams::program_json(recorder.program()));
}

int run(const RunArguments& a) {
  Runnable r = runnable(a);
  streams::require_executable(r.program);
  const reference::CheckedStreams checked = check_streams(r.program, {.waits = false});
  std::vector<int> races;
  for (const reference::Race& race : checked.report.races)
    races.push_back(checked.order.node(race.first).step);
  const Trial t = streams::try_orders(r.program, r.expected, r.body(), a.trial, races);
  const bool wrong = t.wrong > 0 || !t.graph.empty() || checked.report.wrong();
  fmt::print("{}  {} on {}, {}: ", wrong ? "FAIL" : "PASS", r.program.name, a.trial.device,
             r.moe ? "its own operators" : "probes");
  if (t.wrong == 0)
    fmt::print("{}, each with the serial outcome, bit for bit{}\n", count(t.orders, "order"),
               checked.report.wrong() ? ": these do not show what the checker proves" : "");
  else
    fmt::print("{} of {} with another outcome than the serial one\n", t.wrong, count(t.orders, "order"));
  fmt::print("{}", graph_text(r.program, t));
  if (!a.record.empty()) record(a, r);
  const bool judged_wrong = r.moe && judge_serial(a, r);
  if (t.wrong > 0) fmt::print("first     order {}: {}\n", t.first_wrong, t.what);
  if (checked.report.wrong())
    fmt::print("{}", streams::first_error_text(r.program, checked));
  else if (t.wrong > 0)
    fmt::print(
        "cause     not the order: the program is free of races; compare what the two branches compute\n");
  if (t.wrong > 0) fmt::print("repeat    {}\n", repeat_line(a, t.first_wrong));
  return wrong || judged_wrong ? kExitFailed : kExitFine;
}

int edges(const RunArguments& a) {
  std::vector<const Block*> list;
  if (a.program.empty())
    for (const Block& b : streams::blocks()) list.push_back(&b);
  else
    list.push_back(&streams::require_block(a.program));
  int waits = 0, needed = 0, disagree = 0;
  fmt::print(
      "| program | without | the checker | what it says | wrong outcomes | |\n|---|---|---|---|---|---|\n");
  for (const Block* b : list)
    for (const bool capturing : {false, true}) {
      if (capturing && b->name == std::string("two_batch")) continue;
      for (const streams::EdgeTrial& e : streams::try_edges(*b, capturing, a.trial)) {
        fmt::print("| {} | `{}` | {} | {} | {} of {} | {} |\n", e.block, e.wait, name(e.verdict.use),
                   e.witness, e.trial.wrong, e.trial.orders, e.agrees() ? "" : "**disagree**");
        ++waits;
        needed += e.trial.wrong > 0 ? 1 : 0;
        disagree += e.agrees() ? 0 : 1;
      }
    }
  fmt::print(
      "\n{} waits on {}: {} with a wrong outcome without it, {} without one; {} where checker and execution "
      "disagree\n",
      waits, a.trial.device, needed, waits - needed, disagree);
  return disagree > 0 ? kExitFailed : kExitFine;
}

int overlap(const RunArguments& a) {
  Runnable r = runnable(a);
  const auto device = streams::make_stream_device(a.trial.device, 0);
  if (!device->parallel())
    throw UsageError(fmt::format("{} runs one operation at a time: overlap is measured on cpu, cuda or hip",
                                 a.trial.device));
  const auto name = [&](int step) { return r.program.steps[static_cast<std::size_t>(step)].name; };
  fmt::print("{} on {} ({}), {}\n", r.program.name, a.trial.device, device->runtime().device(),
             r.moe ? "its own operators" : "probes");
  bool missed = false;
  for (const streams::PairOverlap& p :
       measure_overlap(r.program, *device, r.body(), {.repeats = a.repeats})) {
    fmt::print("{} and {}: kernels in their places {} each other", name(p.first), name(p.second),
               p.met ? "met" : "did not meet");
    if (!a.capturing)
      fmt::print("; {:.1f} us and {:.1f} us, of which {:.1f} us at the same time", p.first_us, p.second_us,
                 p.both_us);
    fmt::print("\n");
    missed = missed || !p.met;
  }
  const double dual = time_program(r.program, *device, r.body(), a.repeats);
  fmt::print("time      {:.1f} us a run", dual);
  if (r.moe) {
    const double single = time_program(r.expected, *device, r.body(), a.repeats);
    fmt::print("; on one stream {:.1f} us: {:.2f} of it", single, dual / single);
  }
  fmt::print("\n");
  return missed ? kExitFailed : kExitFine;
}

void add_common(CLI::App& sub, RunArguments& a) {
  sub.add_option("--impl", a.trial.device, "cpu (a thread per stream), gpu-host, gpu-host:w64, cuda or hip")
      ->capture_default_str();
  sub.add_option("--orders", a.trial.orders, "Orders to execute")
      ->check(CLI::Range(1, 1000000))
      ->capture_default_str();
  sub.add_option("--first-order", a.trial.first_order, "Number of the first one");
  sub.add_option("--delay", a.trial.delay,
                 "cpu, cuda, hip: the longest delay put before an operation, in microseconds")
      ->check(CLI::Range(0, 1000000))
      ->capture_default_str();
}

void add_program(CLI::App& sub, RunArguments& a) {
  sub.add_option("PROGRAM", a.program, "A block (moecheck streams show), or FILE.json of a stream program")
      ->required();
  sub.add_option("--variant", a.variant, "Of the block");
  sub.add_option("--platform", a.platform, "cuda, hip or hip-aiter")
      ->check(CLI::IsMember({"cuda", "hip", "hip-aiter"}))
      ->capture_default_str();
  sub.add_flag("--capturing", a.capturing, "The block is captured and launched as a graph");
  sub.add_option(
      "--case", a.case_line,
      "glm4_moe: run its own operators on this case: 'moe_block tokens=16 experts=32 topk=4 hidden=256'");
  sub.add_option("--without", a.without, "Leave this wait out: 'alt.wait(cur)'")->type_name("WAIT");
}

}  // namespace

void add_streams_run(CLI::App& verb, Action& action) {
  auto a = std::make_shared<RunArguments>();
  CLI::App* sub =
      verb.add_subcommand("run", "Execute a program in many orders: is every outcome the serial one?");
  add_program(*sub, *a);
  add_common(*sub, *a);
  sub->add_option("--record", a->record, "Write what was done to the device, as a stream program")
      ->type_name("FILE");
  sub->callback([a, &action] { action = [a] { return run(*a); }; });

  sub = verb.add_subcommand(
      "edges", "Take each wait of the blocks away: does the checker say what the execution shows?");
  sub->add_option("BLOCK", a->program, "All blocks without it");
  add_common(*sub, *a);
  sub->callback([a, &action] { action = [a] { return edges(*a); }; });

  sub = verb.add_subcommand("overlap",
                            "Does what may run at the same time do so on a device, and what is it worth?");
  add_program(*sub, *a);
  sub->add_option("--impl", a->trial.device, "cpu, cuda or hip")->required();
  sub->add_option("--repeats", a->repeats, "Runs that are timed; medians are printed")
      ->check(CLI::Range(1, 100000))
      ->capture_default_str();
  sub->callback([a, &action] { action = [a] { return overlap(*a); }; });
}

}  // namespace moecheck::harness

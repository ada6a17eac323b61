// moecheck list: what there is.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <memory>

#include "harness/cli/cli.h"
#include "harness/implementations/faults.h"
#include "harness/json.h"
#include "harness/models.h"
#include "harness/mutants/registry.h"
#include "harness/relation.h"
#include "harness/text.h"

namespace moecheck::harness {
namespace {

using Json = nlohmann::ordered_json;

Json field_json(const Field& f) {
  Json j{{"name", f.name}, {"doc", f.doc}};
  switch (f.kind) {
    case FieldKind::kInt:
      j["type"] = "int", j["default"] = f.value.i, j["min"] = f.min, j["max"] = f.max;
      break;
    case FieldKind::kReal:
      j["type"] = "real", j["default"] = f.value.r, j["min"] = f.min, j["max"] = f.max;
      break;
    case FieldKind::kChoice:
      j["type"] = "choice", j["default"] = f.choices[static_cast<std::size_t>(f.value.i)],
      j["choices"] = f.choices;
      break;
  }
  return j;
}

Json specs_json(const std::vector<TensorSpec>& specs) {
  Json list = Json::array();
  for (const TensorSpec& s : specs) {
    std::vector<std::int64_t> shape(s.shape.dim.begin(), s.shape.dim.begin() + s.shape.rank);
    list.push_back({{"name", s.name},
                    {"dtype", reference::name(s.dtype)},
                    {"shape", shape},
                    {"doc", s.doc},
                    {"optional", s.optional}});
  }
  return list;
}

Json operators_json() {
  Json list = Json::array();
  for (const Operator* op : operators()) {
    const Case c(op->schema());
    Json fields = Json::array(), edits = Json::array(), relations = Json::array();
    for (const Field& f : op->schema().fields) fields.push_back(field_json(f));
    for (const EditKind& e : op->schema().edits)
      edits.push_back({{"name", e.name}, {"doc", e.doc}, {"positions", e.positions}});
    for (const Relation& r : op->relations())
      relations.push_back({{"name", r.name}, {"sentence", r.sentence}});
    list.push_back({{"name", op->name()},
                    {"summary", op->summary()},
                    {"inputs", specs_json(op->inputs(c))},
                    {"outputs", specs_json(op->outputs(c))},
                    {"fields", fields},
                    {"edits", edits},
                    {"relations", relations}});
  }
  return list;
}

Json implementations_json() {
  Json list = Json::array();
  for (const Implementation* impl : implementations())
    list.push_back({{"name", impl->name()}, {"summary", impl->summary()}});
  // Those that are made when they are named.
  list.push_back({{"name", "gpu-host"},
                  {"summary", "the GPU kernels on the host executor; with :w64, :reverse or :seedN, :stream or :graph"}});
  list.push_back({{"name", "cuda, hip"}, {"summary", "the GPU kernels on a device, in builds for it; with :graph replayed"}});
  list.push_back({{"name", "./libmine.so"}, {"summary", "your kernels: harness/plugin/README.md"}});
  list.push_back({{"name", "cpu!NAME, gpu-host!NAME"}, {"summary", "with a planted fault: moecheck list faults"}});
  return list;
}

Json policies_json() {
  Json list = Json::array();
  for (const Operator* op : operators())
    for (const Preset& p : op->schema().policies) {
      Json values = Json::object();
      for (const auto& [field, value] : p.values) values[field] = value;
      list.push_back({{"operator", op->name()}, {"name", p.name}, {"doc", p.doc}, {"fields", values}});
    }
  return list;
}

Json models_json() {
  Json list = Json::array();
  for (const Model& m : models()) {
    Json values = Json::object();
    for (const auto& [field, value] : m.preset.values) values[field] = value;
    list.push_back({{"name", m.preset.name},
                    {"aliases", m.aliases},
                    {"title", m.preset.doc},
                    {"fields", values},
                    {"source", m.source}});
  }
  return list;
}

Json suites_json() {
  Json list = Json::array();
  for (const Suite s : {Suite::kQuick, Suite::kModels, Suite::kAdversarial, Suite::kFull}) {
    Json counts = Json::object();
    for (const Operator* op : operators()) counts[std::string(op->name())] = op->cases(s).size();
    list.push_back({{"name", name(s)}, {"cases", counts}});
  }
  return list;
}

Json faults_json() {
  Json list = Json::array();
  const auto add = [&](std::string_view implementation, std::span<const PlantedFault> faults) {
    for (const PlantedFault& f : faults)
      list.push_back({{"name", f.name},
                      {"implementation", fmt::format("{}!{}", implementation, f.name)},
                      {"operator", f.op},
                      {"class", f.class_},
                      {"what", f.what},
                      {"upstream", f.upstream}});
  };
  add("cpu", planted_faults());
  add("gpu-host", planted_gpu_faults());
  for (const mutants::Mutant& m : mutants::all())  // those of the harness: no implementation of an operator
    if (m.op.empty())
      list.push_back({{"name", m.name},
                      {"implementation", "mutants --id " + m.name},
                      {"operator", m.layer},
                      {"class", m.class_},
                      {"what", m.what},
                      {"upstream", m.upstream}});
  return list;
}

Json clauses_json() {
  Json list = Json::array();
  for (const Clause& c : common_clauses())
    list.push_back({{"name", c.name}, {"sentence", c.sentence}, {"operators", "all"}});
  for (const Operator* op : operators())
    for (const Relation& r : op->relations())
      list.push_back({{"name", r.name}, {"sentence", r.sentence}, {"operators", op->name()}});
  return list;
}

std::string type_text(const Json& field) {
  if (field["type"] == "choice") {
    std::string text;
    for (const auto& choice : field["choices"]) text += (text.empty() ? "" : "|") + choice.get<std::string>();
    return text;
  }
  return fmt::format("{} to {}", field["min"].get<double>(), field["max"].get<double>());
}

std::string default_text(const Json& field) {
  return field["default"].is_string() ? field["default"].get<std::string>() : field["default"].dump();
}

void print_specs(const char* title, const Json& specs) {
  fmt::print("  {}\n", title);
  for (const Json& s : specs)
    fmt::print("    {:<26} {:<8} {}{}\n", s["name"].get<std::string>(), s["dtype"].get<std::string>(),
               s["doc"].get<std::string>(), s["optional"].get<bool>() ? " (optional)" : "");
}

void print_operators(const Json& list) {
  for (const Json& op : list) {
    fmt::print("{}: {}\n", op["name"].get<std::string>(), op["summary"].get<std::string>());
    print_specs("inputs (of the default case)", op["inputs"]);
    print_specs("outputs", op["outputs"]);
    fmt::print("  fields\n");
    for (const Json& f : op["fields"])
      fmt::print("    {:<26} {:<8} {}; {}\n", f["name"].get<std::string>(), default_text(f),
                 f["doc"].get<std::string>(), type_text(f));
    fmt::print("  edits\n");
    for (const Json& e : op["edits"])
      fmt::print("    {:<26} {}\n",
                 e["name"].get<std::string>() + (e["positions"] == 0   ? ""
                                                 : e["positions"] == 1 ? ":ROW"
                                                                       : ":ROW:COL"),
                 e["doc"].get<std::string>());
    fmt::print("\n");
  }
}

// A table of `keys`, one row per entry; the last column runs on.
void print_table(const Json& list, std::initializer_list<const char*> keys) {
  std::vector<std::size_t> widths;
  for (const char* key : keys) {
    std::size_t width = 0;
    for (const Json& row : list) width = std::max(width, row[key].get<std::string>().size());
    widths.push_back(width);
  }
  for (const Json& row : list) {
    std::string line;
    std::size_t i = 0;
    for (const char* key : keys) line += fmt::format("{:<{}}  ", row[key].get<std::string>(), widths[i++]);
    fmt::print("{}\n", line.substr(0, line.find_last_not_of(' ') + 1));
  }
}

void print_models(const Json& list) {
  for (const Json& m : list) {
    std::string fields;
    for (const auto& [field, value] : m["fields"].items())
      fields += fmt::format(" {}={}", field, value.get<std::string>());
    std::string names = m["name"];
    for (const auto& alias : m["aliases"]) names += ", " + alias.get<std::string>();
    fmt::print("{}: {}\n  {}\n  source: {}\n", names, m["title"].get<std::string>(), fields.substr(1),
               m["source"].get<std::string>());
  }
}

void print_suites(const Json& list) {
  fmt::print("{:<14}", "");
  for (const auto& [op, n] : list[0]["cases"].items()) fmt::print("{:>16}", op);
  for (const Json& s : list) {
    fmt::print("\n{:<14}", s["name"].get<std::string>());
    for (const auto& [op, n] : s["cases"].items()) fmt::print("{:>16}", n.get<int>());
  }
  fmt::print("\n");
}

struct Topic {
  const char* name;
  Json (*make)();
  void (*print)(const Json&);
};

const Topic kTopics[] = {
    {"operators", operators_json, print_operators},
    {"implementations", implementations_json,
     [](const Json& j) {
       print_table(j, {"name", "summary"});
     }},
    {"policies", policies_json,
     [](const Json& j) {
       print_table(j, {"operator", "name", "doc"});
     }},
    {"models", models_json, print_models},
    {"suites", suites_json, print_suites},
    {"clauses", clauses_json,
     [](const Json& j) {
       print_table(j, {"operators", "name", "sentence"});
     }},
    {"faults", faults_json,
     [](const Json& j) {
       print_table(j, {"implementation", "operator", "class", "what", "upstream"});
     }},
};

int list(const std::string& topic, bool json) {
  for (const Topic& t : kTopics) {
    if (topic != t.name) continue;
    if (json)
      fmt::print("{}\n", t.make().dump(2));
    else
      t.print(t.make());
    return kExitFine;
  }
  std::vector<std::string> names;
  for (const Topic& t : kTopics) names.emplace_back(t.name);
  throw UsageError(
      fmt::format("there is no list of '{}': there are {}", printable(topic), fmt::join(names, ", ")));
}

}  // namespace

void add_list(CLI::App& app, Action& action) {
  struct Arguments {
    std::string topic = "operators";
    bool json = false;
  };
  auto a = std::make_shared<Arguments>();
  CLI::App* sub = app.add_subcommand(
      "list", "Show operators (tensors, fields), implementations, policies, models, suites");
  sub->add_option("topic", a->topic,
                  "operators, implementations, policies, models, suites, clauses or faults")
      ->capture_default_str();
  sub->add_flag("--json", a->json, "As JSON");
  sub->callback([a, &action] { action = [a] { return list(a->topic, a->json); }; });
}

}  // namespace moecheck::harness

#include "harness/models.h"

#include <algorithm>

#include "harness/json.h"
#include "models_json.h"  // kModelsJson: datasets/models.json, written by the build

namespace moecheck::harness {
namespace {

std::vector<Model> read_models() {
  std::vector<Model> list;
  const auto root = nlohmann::ordered_json::parse(kModelsJson);
  for (const auto& entry : root.at("models")) {
    Model m;
    m.preset.name = entry.at("name");
    m.preset.doc = entry.at("title");
    m.aliases = entry.value("aliases", std::vector<std::string>{});
    m.source = entry.at("source");
    for (const auto& [field, value] : entry.at("fields").items())
      m.preset.values.emplace_back(field, value.is_string() ? value.get<std::string>() : value.dump());
    list.push_back(std::move(m));
  }
  return list;
}

}  // namespace

const std::vector<Model>& models() {
  static const std::vector<Model> list = read_models();
  return list;
}

const Model* find_model(std::string_view name) {
  for (const Model& m : models())
    if (m.preset.name == name || std::find(m.aliases.begin(), m.aliases.end(), name) != m.aliases.end())
      return &m;
  return nullptr;
}

std::vector<std::string> model_names() {
  std::vector<std::string> names;
  for (const Model& m : models()) {
    names.push_back(m.preset.name);
    names.insert(names.end(), m.aliases.begin(), m.aliases.end());
  }
  return names;
}

}  // namespace moecheck::harness

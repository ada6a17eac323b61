#pragma once
// The model configurations of datasets/models.json, compiled in: what `model=NAME` fills into a case.
#include <string>
#include <string_view>
#include <vector>

#include "harness/case.h"

namespace moecheck::harness {

struct Model {
  Preset preset;                     // name, title, field values (experts, groups, topk, hidden, ...)
  std::vector<std::string> aliases;  // models of the same shapes
  std::string source;                // where the numbers were read, and which are unconfirmed
};

const std::vector<Model>& models();
const Model* find_model(std::string_view name);  // by name or alias; nullptr when unknown
std::vector<std::string> model_names();          // with aliases

}  // namespace moecheck::harness

#include <fmt/format.h>

#include <algorithm>
#include <array>

#include "harness/operators/operators.h"

namespace moecheck::harness {

std::string_view name(Suite suite) {
  constexpr std::array<std::string_view, 4> kNames = {"quick", "models", "adversarial", "full"};
  return kNames[static_cast<std::size_t>(suite)];
}

void Operator::reset_outputs(const Case& c, const TensorSet& inputs, TensorSet& outputs,
                             std::uint8_t poison) const {
  outputs.fill(poison);
  for (const TensorSpec& spec : this->outputs(c))
    if (spec.in_place) {
      const Tensor& before = inputs.at(spec.name);
      std::copy_n(before.data(), before.bytes(), outputs.at(spec.name).data());
    }
}

std::span<const Operator* const> operators() {
  static const std::array<const Operator*, 10> all = {&gating_operator(),         &routed_scaling_operator(),
                                                      &shared_experts_operator(), &moe_align_operator(),
                                                      &experts_operator(),        &moe_block_operator(),
                                                      &attention_operator(),      &indexer_cache_operator(),
                                                      &mqa_logits_operator(),     &mla_prepare_operator()};
  return all;
}

const Operator* find_operator(std::string_view name) {
  for (const Operator* op : operators())
    if (op->name() == name) return op;
  return nullptr;
}

Case parse_case(std::string_view line) {
  const std::vector<std::string_view> words = split_words(line);
  if (words.empty())
    throw UsageError("the case line is empty: it starts with an operator's name, then field=value ...");
  const Operator* op = find_operator(words[0]);
  if (op == nullptr) {
    std::vector<std::string> known;
    for (const Operator* o : operators()) known.emplace_back(o->name());
    throw UsageError(fmt::format("'{}' is not an operator: did you mean {}? There are {}", words[0],
                                 nearest(words[0], known), fmt::join(known, ", ")));
  }
  return parse_case(op->schema(), line);
}

const Operator& operator_of(const Case& c) { return *find_operator(c.operator_name()); }

}  // namespace moecheck::harness

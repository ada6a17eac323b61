#pragma once
// Cases, inputs and spoiled outputs of indexer_cache, for the tests of its contract.
#include <gtest/gtest.h>

#include <functional>
#include <string>

#include "harness/operators/indexer_cache.h"
#include "harness/operators/operators.h"
#include "harness/verdict.h"

namespace moecheck::harness::indexer_cache_test {

inline const Operator& op() { return indexer_cache_operator(); }
inline Case a_case(const std::string& fields) { return make_case(op().schema(), fields); }
inline std::string line(const std::string& fields) { return "indexer_cache " + fields; }

inline std::string refusal(const std::string& fields) { return op().refusal(a_case(fields)).value_or(""); }

inline bool has(const std::string& text, std::string_view part) {
  return text.find(part) != std::string::npos;
}

inline TensorSet inputs_of(const Case& c) {
  TensorSet in(op().inputs(c));
  op().generate(c, in);
  return in;
}

using Spoil = std::function<void(const Case&, const TensorSet&, TensorSet&)>;

inline Judgement judged(const std::string& fields, const Spoil& spoil, std::string* cause = nullptr) {
  const Case c = a_case(fields);
  EXPECT_EQ(refusal(fields), "");
  TensorSet in = inputs_of(c), out(op().outputs(c));
  op().reset_outputs(c, in, out);
  const auto expected = op().reference(c, in);
  op().reference_outputs(c, in, *expected, out);
  spoil(c, in, out);
  Judgement j;
  op().judge(c, in, *expected, out, j);
  if (cause != nullptr) *cause = op().likely_cause(c, in, *expected, out);
  return j;
}

inline std::uint8_t* bytes(TensorSet& out, std::string_view name = "kv_cache") {
  return out.view(name).as<std::uint8_t>();
}
inline std::int64_t slot(const TensorSet& in, std::int64_t t) {
  return in.at("slot_mapping").view().int_at(t);
}

// Stores the rows of `c` as `other` would.
inline void write_as(const Case& other, const TensorSet& in, TensorSet& out) {
  op().reset_outputs(other, in, out);
  op().reference_outputs(other, in, *op().reference(other, in), out);
}

}  // namespace moecheck::harness::indexer_cache_test

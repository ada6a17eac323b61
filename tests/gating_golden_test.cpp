// The gate against Hugging Face transformers' routers (datasets/golden/gating, made by make_gating.py).
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <fstream>

#include "harness/json.h"
#include "reference/gating_policies.h"
#include "tests/gating_test_support.h"

namespace moecheck::tests {
namespace {

using nlohmann::json;

const std::string kFolder = std::string(MOECHECK_SOURCE_DIR) + "/datasets/golden/gating/";

// A safetensors file: u64 length of a JSON header, the header, the data. F32 and I32 only.
class Tensors {
 public:
  explicit Tensors(const std::string& path) {
    std::ifstream file(path, std::ios::binary);
    bytes_.assign(std::istreambuf_iterator<char>(file), {});
    if (bytes_.size() < 8) throw std::runtime_error("cannot read " + path);
    std::uint64_t length;
    std::memcpy(&length, bytes_.data(), 8);
    header_ = json::parse(bytes_.begin() + 8, bytes_.begin() + 8 + static_cast<std::ptrdiff_t>(length));
    data_ = 8 + length;
  }
  bool has(const std::string& name) const { return header_.contains(name); }
  ConstView view(const std::string& name) const {
    const json& t = header_.at(name);
    Shape shape;
    for (const auto& d : t.at("shape"))
      shape.dim[static_cast<std::size_t>(shape.rank++)] = d.get<std::int64_t>();
    const DType dtype = t.at("dtype") == "F32" ? DType::kF32 : DType::kI32;
    return {bytes_.data() + data_ + t.at("data_offsets").at(0).get<std::size_t>(), dtype, shape};
  }

 private:
  std::vector<char> bytes_;
  json header_;
  std::size_t data_ = 0;
};

GatingOptions options_of(const json& c) {
  GatingOptions o;
  o.experts = c.at("experts");
  o.groups = c.at("groups");
  o.topk_group = c.at("topk_group");
  o.topk = c.at("topk");
  o.scoring = c.at("scoring") == "sigmoid" ? Scoring::kSigmoid : Scoring::kSoftmax;
  o.renormalize = c.at("renormalize");
  o.routed_scaling_factor = c.at("routed_scaling_factor");
  o.has_bias = c.at("has_bias");
  o.policy = find_gating_preset(c.at("policy").get<std::string>())->policy;
  return o;
}

// The order of two experts in the whole selection: by group first.
Order order(const Gating& gate, const GatingRow& row, std::int64_t a, std::int64_t b) {
  const auto ga = a / gate.experts_per_group(), gb = b / gate.experts_per_group();
  const Order experts = gate.expert_order(row, a, b);
  if (gate.options().groups == 1 || ga == gb) return experts;
  const Order groups = gate.group_order(row, ga, gb);
  return groups == experts ? experts : Order::kUndecided;
}

struct Counts {
  int rows = 0, negative = 0, swapped = 0;
};

void check_case(const json& c, Counts& counts) {
  const GatingOptions o = options_of(c);
  EXPECT_EQ(
      find_gating_preset(c.at("policy").get<std::string>())->refuses(o, c.at("tokens")).value_or("accepted"),
      "accepted");
  const Tensors tensors(kFolder + c.at("file").get<std::string>());
  const ConstView logits = tensors.view("router_logits"), got = tensors.view("topk_weights"),
                  got_ids = tensors.view("topk_ids");
  const ConstView bias = o.has_bias ? tensors.view("e_score_correction_bias") : ConstView{};
  const Gating gate(o);
  GatingRow row;
  std::vector<std::int64_t> ids;
  std::vector<Bounded> weights;
  for (std::int64_t t = 0; t < c.at("tokens"); ++t) {
    gate.scores(logits, bias, t, row);
    gate.select(row, ids);
    std::vector<std::int64_t> golden;
    for (std::int64_t k = 0; k < o.topk; ++k) golden.push_back(got_ids.int_at(t * o.topk + k));
    gate.weights(row, golden, weights);
    for (std::int64_t k = 0; k < o.topk; ++k) {
      const Bounded& w = weights[static_cast<std::size_t>(k)];
      EXPECT_LE(std::fabs(got.at(t, k) - w.value), w.proven) << "token " << t << " slot " << k;
    }
    ++counts.rows;
    counts.negative += std::any_of(
        ids.begin(), ids.end(), [&](auto id) { return row.choice[static_cast<std::size_t>(id)].value < 0; });
    // As sets; where they differ, every pair of a foreign and a missing expert must be undecided.
    std::sort(ids.begin(), ids.end());
    std::sort(golden.begin(), golden.end());
    std::vector<std::int64_t> foreign, missing;
    std::set_difference(golden.begin(), golden.end(), ids.begin(), ids.end(), std::back_inserter(foreign));
    std::set_difference(ids.begin(), ids.end(), golden.begin(), golden.end(), std::back_inserter(missing));
    counts.swapped += !foreign.empty();
    for (auto f : foreign) {
      for (auto m : missing) EXPECT_EQ(order(gate, row, f, m), Order::kUndecided) << "token " << t;
    }
  }
}

TEST(GatingGolden, TransformersRouters) {
  const json index = json::parse(std::ifstream(kFolder + "index.json"));
  Counts counts;
  for (const json& c : index.at("cases")) {
    SCOPED_TRACE(c.at("name").get<std::string>());
    check_case(c, counts);
  }
  EXPECT_EQ(counts.rows, 14 * 12);
  EXPECT_EQ(counts.negative, 24);  // rows that choose negative scores
  EXPECT_EQ(counts.swapped, 0);    // none of these rows is close to a tie
}

// Masked experts at 0 beat negative scores: the rows tell transformers 5 from 4.
TEST(GatingGolden, NegativeRowsTellTheMaskedValue) {
  const json index = json::parse(std::ifstream(kFolder + "index.json"));
  for (const json& c : index.at("cases")) {
    if (c.at("name").get<std::string>().find("negative") == std::string::npos) continue;
    GatingOptions o = options_of(c);
    o.policy = find_gating_preset("hf_deepseek_v3_zero")->policy;
    const Tensors tensors(kFolder + c.at("file").get<std::string>());
    const Gating gate(o);
    GatingRow row;
    std::vector<std::int64_t> ids;
    for (std::int64_t t = 0; t < c.at("tokens"); ++t) {
      gate.scores(tensors.view("router_logits"), tensors.view("e_score_correction_bias"), t, row);
      gate.select(row, ids);
      bool same = true;
      for (std::int64_t k = 0; k < o.topk; ++k) {
        same =
            same && std::count(ids.begin(), ids.end(), tensors.view("topk_ids").int_at(t * o.topk + k)) > 0;
      }
      EXPECT_FALSE(same) << "token " << t;
    }
  }
}

// The comparison can fail: another scale, another epsilon, biased weights.
TEST(GatingGolden, WrongPoliciesLeaveTheBounds) {
  const json index = json::parse(std::ifstream(kFolder + "index.json"));
  const auto outside = [&](const char* name, auto change) {
    int count = 0;
    for (const json& c : index.at("cases")) {
      if (c.at("name") != name) continue;
      GatingOptions o = options_of(c);
      change(o);
      const Tensors tensors(kFolder + c.at("file").get<std::string>());
      const ConstView got = tensors.view("topk_weights"), got_ids = tensors.view("topk_ids");
      const Gating gate(o);
      GatingRow row;
      std::vector<Bounded> weights;
      for (std::int64_t t = 0; t < c.at("tokens"); ++t) {
        gate.scores(tensors.view("router_logits"), tensors.view("e_score_correction_bias"), t, row);
        std::vector<std::int64_t> golden;
        for (std::int64_t k = 0; k < o.topk; ++k) golden.push_back(got_ids.int_at(t * o.topk + k));
        gate.weights(row, golden, weights);
        count += std::fabs(got.at(t, 0) - weights[0].value) > weights[0].proven;
      }
    }
    return count;
  };
  EXPECT_EQ(outside("glm4_moe_160", [](GatingOptions&) {}), 0);
  EXPECT_EQ(outside("glm4_moe_160", [](GatingOptions& o) { o.policy.scale_weights = ScaleWeights::kNever; }),
            12);
  EXPECT_EQ(outside("glm4_moe_160", [](GatingOptions& o) { o.renormalize = false; }), 12);
  EXPECT_EQ(outside("glm4_moe_160", [](GatingOptions& o) { o.policy.bias_on = BiasOn::kLogits; }), 12);
}

}  // namespace
}  // namespace moecheck::tests

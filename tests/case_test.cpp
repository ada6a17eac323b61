// Case lines: what is printed parses back to the same case, and what is wrong is named.
#include "harness/case.h"

#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include "harness/models.h"
#include "harness/operator.h"

namespace moecheck::harness {
namespace {

// Every field at random within its range, with a model, a policy and edits.
Case arbitrary_case() {
  const Operator* op =
      *rc::gen::elementOf(std::vector<const Operator*>(operators().begin(), operators().end()));
  const Schema& s = op->schema();
  Case c(s);
  if (*rc::gen::arbitrary<bool>()) c.set("model", *rc::gen::elementOf(model_names()));
  if (!s.policies.empty()) c.set("policy", (*rc::gen::elementOf(s.policies)).name);
  for (int i = 0; i < static_cast<int>(s.fields.size()); ++i) {
    const Field& f = s.fields[static_cast<std::size_t>(i)];
    if (*rc::gen::inRange(0, 3) > 0) continue;
    Value v = f.value;
    if (f.kind == FieldKind::kInt)
      v.i = *rc::gen::inRange<std::int64_t>(static_cast<std::int64_t>(f.min),
                                            static_cast<std::int64_t>(f.max) + 1);
    if (f.kind == FieldKind::kChoice)
      v.i = *rc::gen::inRange<std::int64_t>(0, static_cast<std::int64_t>(f.choices.size()));
    if (f.kind == FieldKind::kReal) v.r = f.min + (f.max - f.min) * *rc::gen::inRange(0, 1001) / 1000.0;
    c.set_value(i, v);
  }
  c.seed = *rc::gen::arbitrary<std::uint64_t>();
  for (int n = *rc::gen::inRange(0, 3); n > 0 && !s.edits.empty(); --n) {
    const EditKind kind = *rc::gen::elementOf(s.edits);
    Edit e{kind.name};
    if (kind.positions > 0) e.row = *rc::gen::inRange<std::int64_t>(0, 1000);
    if (kind.positions > 1) e.col = *rc::gen::inRange<std::int64_t>(0, 1000);
    c.edits.push_back(e);
  }
  return c;
}

RC_GTEST_PROP(Case, parsing_what_is_printed_gives_the_case_back, ()) {
  const Case c = arbitrary_case();
  RC_ASSERT(parse_case(c.str()) == c);
  RC_ASSERT(parse_case(c.str()).str() == c.str());
}

RC_GTEST_PROP(Case, mutated_lines_parse_or_say_why, ()) {
  std::string line = arbitrary_case().str();
  for (int n = *rc::gen::inRange(1, 4); n > 0 && !line.empty(); --n) {
    const auto at = *rc::gen::inRange<std::size_t>(0, line.size());
    line[at] = static_cast<char>(*rc::gen::inRange(1, 256));
  }
  try {
    const Case c = parse_case(line);
    RC_ASSERT(parse_case(c.str()) == c);
  } catch (const UsageError& e) {
    RC_ASSERT(std::string(e.what()).size() > 10);
  }
}

TEST(Case, EveryCaseOfEverySuiteParsesBack) {
  for (const Operator* op : operators())
    for (const Suite s : {Suite::kQuick, Suite::kModels, Suite::kAdversarial, Suite::kFull})
      for (const Case& c : op->cases(s)) {
        ASSERT_EQ(parse_case(c.str()), c) << c.str();
        // The models suite shows which policies refuse a model; the others hold what can run.
        if (s != Suite::kModels) {
          ASSERT_FALSE(op->refusal(c)) << c.str();
        }
      }
}

TEST(Case, DefaultsAreNotPrinted) {
  EXPECT_EQ(Case(find_operator("gating")->schema()).str(), "gating seed=1");
  EXPECT_EQ(parse_case("gating experts=256 tokens=4 seed=1").str(), "gating seed=1");
}

TEST(Case, FieldsOverridePolicyOverridesModelInAnyOrder) {
  const Case c = parse_case("gating topk=4 policy=vllm_cuda model=glm-4.7");
  EXPECT_EQ(c.integer("topk"), 4);
  EXPECT_EQ(c.integer("experts"), 160);
  EXPECT_EQ(c.choice("epsilon"), "add");
  EXPECT_EQ(c, parse_case("gating model=glm-4.7 policy=vllm_cuda topk=4"));
}

TEST(Case, ModelFamiliesShareTheirShapes) { EXPECT_EQ(find_model("glm-4.5"), find_model("glm-4.7")); }

struct BadLine {
  const char* line;
  const char* said;  // the message names the value, and the remedy where there is one
};

class BadLines : public testing::TestWithParam<BadLine> {};

TEST_P(BadLines, AreRefusedInWords) {
  try {
    (void)parse_case(GetParam().line);
    FAIL() << "accepted: " << GetParam().line;
  } catch (const UsageError& e) {
    EXPECT_NE(std::string(e.what()).find(GetParam().said), std::string::npos) << e.what();
  }
}

INSTANTIATE_TEST_SUITE_P(
    Case, BadLines,
    testing::Values(
        BadLine{"", "empty"}, BadLine{"gatng tokens=4", "did you mean gating?"},
        BadLine{"gating tokns=4", "did you mean tokens?"},
        BadLine{"gating tokens=four", "not a whole number"}, BadLine{"gating tokens=-1", "out of range"},
        BadLine{"gating tokens=4 tokens=5", "given twice"}, BadLine{"gating tokens", "write name=value"},
        BadLine{"gating scoring=sigmod", "did you mean sigmoid?"},
        BadLine{"gating policy=vllm_cda", "did you mean vllm_cuda?"},
        BadLine{"gating model=glm-4.8", "did you mean glm-4"}, BadLine{"gating rsf=nan", "not a number"},
        BadLine{"gating rsf=1e9", "out of range"}, BadLine{"gating seed=-3", "seed=-3"},
        BadLine{"gating edit=nan:1", "write nan:ROW:COL"}, BadLine{"gating edit=nan:1:-2", "non-negative"},
        BadLine{"gating edit=nam:1:2", "not an edit"},
        BadLine{"gating tokens=99999999999999999999", "not a whole number"}));

}  // namespace
}  // namespace moecheck::harness

// The contract of mqa_logits: what it refuses, what its judge rejects and what it says then, and relations that can break.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <set>

#include "harness/operators/mqa_logits.h"
#include "tests/altered_implementation.h"
#include "tests/operators_support.h"

namespace moecheck::harness {
namespace {

using reference::MqaLogitsOptions;
using reference::TokenRange;

std::string refusal(const std::string& line) {
  const Case c = parse_case(line);
  return operator_of(c).refusal(c).value_or("");
}

TEST(MqaLogitsContract, RefusesWhatUpstreamsGetWrongInSilence) {
  const std::pair<const char*, const char*> cases[] = {
      {"mqa_logits tokens=5 next_n=2", "not a multiple of next_n=2"},
      {"mqa_logits layout=preshuffled block_size=24", "block_size=24"},
      {"mqa_logits layout=preshuffled head_dim=20", "head_dim=20"},
      {"mqa_logits form=ragged layout=preshuffled", "row_major"},
      {"mqa_logits compressed=1", "form=ragged"},
      {"mqa_logits width=39", "width=39"},
      {"mqa_logits pool=100", "pool=100"},
      {"mqa_logits edit=nan:3", "outside the 3 rows"},
      {"mqa_logits policy=aiter_preshuffle head_dim=64", "16*128 bytes"},
      {"mqa_logits policy=aiter_preshuffle width=100", "next row"},
      {"mqa_logits policy=aiter_preshuffle layout=row_major", "preshuffled"},
      {"mqa_logits policy=aiter_preshuffle fill=minus_inf", "prefilled"},
      {"mqa_logits policy=aiter_preshuffle lengths=2d", "lengths=1d"},
      {"mqa_logits policy=deep_gemm_1d block_size=16", "64 tokens"},
      {"mqa_logits policy=deep_gemm_1d heads=20", "heads=20"},
      {"mqa_logits policy=deep_gemm_1d head_dim=96", "head_dim=96"},
      {"mqa_logits policy=deep_gemm_1d layout=preshuffled", "row-major"},
      {"mqa_logits policy=deep_gemm_2d fill=minus_inf", "clean_logits"},
      {"mqa_logits policy=vllm_torch block_size=64", "block_size=1"},
      {"mqa_logits data=far_blocks form=ragged", "form=paged"},
      {"mqa_logits data=far_blocks block_size=1", "1024 bytes"},
  };
  for (const auto& [line, words] : cases)
    EXPECT_NE(refusal(line).find(words), std::string::npos) << line << ": " << refusal(line);
  for (const Preset& p : mqa_logits_operator().schema().policies)
    EXPECT_EQ(refusal("mqa_logits policy=" + p.name), "") << p.name;
}

TEST(MqaLogitsContract, QuickSuiteHasEveryPolicyAndPasses) {
  std::set<std::string> policies;
  for (const char* name : {"cpu", "cpu-baseline"}) {
    const Implementation* one[] = {find_implementation(name)};
    for (const Case& c : mqa_logits_operator().cases(Suite::kQuick)) {
      policies.insert(c.policy());
      const Record r = check_case(c, one, {}).front();
      EXPECT_FALSE(is_failure(r.result.verdict)) << name << " " << c.str() << ": " << r.result.reason;
    }
  }
  for (const Preset& p : mqa_logits_operator().schema().policies)
    EXPECT_TRUE(policies.contains(p.name)) << p.name;
}

TEST(MqaLogitsContract, GivenTensorsAreLookedAt) {
  const Case c = parse_case("mqa_logits tokens=3");
  TensorSet inputs = generated(c);
  EXPECT_FALSE(operator_of(c).bad_input(c, inputs));
  inputs.view("block_table").set_int(0, 1000);
  EXPECT_NE(operator_of(c).bad_input(c, inputs)->find("block_table[0, 0] is 1000"), std::string::npos);
}

TEST(MqaLogitsContract, DataAreWhatTheySay) {
  const auto logits = [](const std::string& line) {
    const Case c = parse_case(line);
    const TensorSet inputs = generated(c);
    return reference::mqa_logits(mqa_logits_options(c), mqa_logits_inputs(inputs));
  };
  for (const auto& row : logits("mqa_logits data=integers tokens=4 heads=16 head_dim=128").logit)
    for (const reference::Bounded& e : row) EXPECT_TRUE(e.is_exact());
  for (const auto& row : logits("mqa_logits data=negative tokens=4").logit)
    for (const reference::Bounded& e : row) EXPECT_EQ(e.value, 0);
  const auto ties = logits("mqa_logits data=near_ties context=100 block_size=1").logit[0];
  std::set<double> distinct;
  for (const reference::Bounded& e : ties) distinct.insert(e.value);
  EXPECT_LE(distinct.size(), 5U);
  // Requests that share their first blocks see the same keys there.
  const Case shared = parse_case("mqa_logits data=shared_prefix contexts=full tokens=2 context=64");
  const TensorSet in = generated(shared);
  EXPECT_EQ(in.view("block_table").int_at(0), in.view("block_table").int_at(in.at("block_table").shape()[1]));
}

// ---- The judge, and its words

struct Wrong {
  const char* line;
  void (*spoil)(const Case&, const TensorSet&, TensorSet&);
  Verdict verdict;
  const char* words;  // in the reason or the cause
};

// Runs the reference on changed inputs: what a kernel with that mistake would give.
void as_if(const Case& c, TensorSet changed, TensorSet& out) {
  const Operator& op = operator_of(c);
  op.reference_outputs(c, changed, *op.reference(c, changed), out);
}
void set_logit(TensorSet& out, std::int64_t i, double v) { out.view("logits").set(i, v); }
std::int64_t stride(const Case& c) { return mqa_logits_options(c).row_stride; }

void one_element(const Case&, const TensorSet&, TensorSet& out) {
  set_logit(out, 3, 1.001 * std::as_const(out).at("logits").view().at(3));
}
void nan_element(const Case&, const TensorSet&, TensorSet& out) { set_logit(out, 3, kNaN); }
void zeros(const Case& c, const TensorSet& in, TensorSet& out) {
  for (std::int64_t r = 0; r < c.integer("tokens"); ++r)
    for (std::int64_t n = 0; n < reference::tokens_seen(mqa_logits_options(c), mqa_logits_inputs(in), r).last;
         ++n)
      set_logit(out, r * stride(c) + n, 0);
}
void zero_past_the_end(const Case& c, const TensorSet& in, TensorSet& out) {
  for (std::int64_t r = 0; r < c.integer("tokens"); ++r)
    if (const std::int64_t n = reference::tokens_seen(mqa_logits_options(c), mqa_logits_inputs(in), r).last;
        n < c.integer("width"))
      set_logit(out, r * stride(c) + n, 0);
}
void leak_of_the_future(const Case& c, const TensorSet& in,
                        TensorSet& out) {  // what the gluon kernel does from next_n = 3 on
  const std::int64_t n = reference::tokens_seen(mqa_logits_options(c), mqa_logits_inputs(in), 0).last;
  set_logit(out, n, 1.5);
}
void first_column_lost(const Case&, const TensorSet&, TensorSet& out) { set_logit(out, 0, -INFINITY); }
void padding_written(const Case& c, const TensorSet&, TensorSet& out) {
  set_logit(out, c.integer("width"), 1);
}
void undefined_garbage(const Case& c, const TensorSet& in, TensorSet& out) { zero_past_the_end(c, in, out); }
void weights_of_the_request(const Case& c, const TensorSet& in, TensorSet& out) {
  TensorSet changed = in;
  const std::int64_t heads = c.integer("heads");
  for (std::int64_t r = 0; r < c.integer("tokens"); ++r)
    for (std::int64_t h = 0; h < heads; ++h)
      changed.view("weights").set(r * heads + h, in.view("weights").at(r / c.integer("next_n") * heads + h));
  as_if(c, changed, out);
}
void other_layout(const Case& c, const TensorSet& in, TensorSet& out) {
  Case other = c;
  other.set("layout", c.choice("layout") == "row_major" ? "preshuffled" : "row_major");
  as_if(other, in, out);
}
void other_fp8(const Case& c, const TensorSet& in, TensorSet& out) {
  const Case other = with_field(c, "fp8", "e4m3fnuz");
  TensorSet changed(operator_of(c).inputs(other));
  for (Tensor& t : changed.tensors()) std::memcpy(t.data(), in.at(t.name()).data(), t.bytes());
  as_if(other, changed, out);
}
void scale_twice(const Case& c, const TensorSet& in, TensorSet& out) {
  TensorSet changed = in;
  for (std::int64_t n = 0; n < in.at("k_scale").shape()[0]; ++n)
    changed.view("k_scale").set(n, in.view("k_scale").at(n) * in.view("k_scale").at(n));
  as_if(c, changed, out);
}
void scale_missing(const Case& c, const TensorSet& in, TensorSet& out) {
  TensorSet changed = in;
  for (std::int64_t n = 0; n < in.at("k_scale").shape()[0]; ++n) changed.view("k_scale").set(n, 1);
  as_if(c, changed, out);
}
void index_twice(const Case&, const TensorSet&, TensorSet& out) {
  out.view("topk_indices").set_int(1, std::as_const(out).at("topk_indices").view().int_at(0));
}
void index_of_garbage(const Case&, const TensorSet&, TensorSet& out) {
  out.view("topk_indices").set_int(0, 40);
}
void worst_taken(const Case& c, const TensorSet& in, TensorSet& out) {
  const auto logits = reference::mqa_logits(mqa_logits_options(c), mqa_logits_inputs(in)).logit[0];
  const auto least = std::min_element(logits.begin(), logits.end(),
                                      [](const auto& a, const auto& b) { return a.value < b.value; });
  out.view("topk_indices").set_int(0, least - logits.begin());
}
void order_reversed(const Case& c, const TensorSet&, TensorSet& out) {
  auto* row = out.view("topk_indices").as<std::int32_t>();
  std::reverse(row, row + c.integer("topk"));
}
void zero_padded(const Case&, const TensorSet&, TensorSet& out) {
  const View v = out.view("topk_indices");
  for (std::int64_t i = 0; i < v.shape.numel(); ++i)
    if (ConstView(v).int_at(i) < 0) v.set_int(i, 0);
}
void absolute(const Case& c, const TensorSet& in, TensorSet& out) {
  const View v = out.view("topk_indices");
  for (std::int64_t i = 0; i < v.shape.numel(); ++i)
    if (ConstView(v).int_at(i) >= 0)
      v.set_int(i, ConstView(v).int_at(i) + in.view("cu_seqlen_ks").int_at(i / c.integer("topk")));
}
void nothing(const Case&, const TensorSet&, TensorSet&) {}

const Wrong kWrong[] = {
    {"", nothing, Verdict::kPass, ""},
    {"", one_element, Verdict::kFail, "beyond its proven bound"},
    {"", nan_element, Verdict::kFail, "beyond its proven bound"},
    {"dtype=bf16", nan_element, Verdict::kFail, "beyond its proven bound"},
    {"data=integers", one_element, Verdict::kFail, "beyond its proven bound"},
    {"", zeros, Verdict::kFail, "vllm#52109"},
    {"width=90", zero_past_the_end, Verdict::kFail, "n <= length"},
    {"width=90 fill=prefilled", zero_past_the_end, Verdict::kFail, "n <= length"},
    {"width=90 fill=undefined", undefined_garbage, Verdict::kPass, ""},
    {"tokens=3 next_n=3 fill=prefilled contexts=full", leak_of_the_future, Verdict::kFail,
     "past the 38 tokens that row 0 sees"},
    {"", first_column_lost, Verdict::kFail, "beyond its proven bound"},
    {"width=60 row_pad=4 fill=prefilled", padding_written, Verdict::kFail, "past its 60 columns"},
    {"width=60 row_pad=4", padding_written, Verdict::kPass, ""},
    {"tokens=8 next_n=2", weights_of_the_request, Verdict::kFail, "weights of row i"},
    {"", other_layout, Verdict::kFail, "read as preshuffled"},
    {"layout=preshuffled block_size=64", other_layout, Verdict::kFail, "read as row_major"},
    {"data=poison", other_fp8, Verdict::kFail, "read as e4m3fnuz"},
    {"form=ragged", scale_twice, Verdict::kFail, "twice"},
    {"form=ragged", scale_missing, Verdict::kFail, "not multiplied in"},
    {"topk=5", index_twice, Verdict::kFail, "already"},
    {"topk=5", index_of_garbage, Verdict::kFail, "outside the 40 tokens"},
    {"topk=5", worst_taken, Verdict::kFail, "is taken"},
    {"topk=5", order_reversed, Verdict::kPass, ""},
    {"topk=60", zero_padded, Verdict::kFail, "they are -1"},
    {"topk=5 form=ragged", absolute, Verdict::kFail, "first token"},
    {"edit=nan:1 topk=5", nothing, Verdict::kUndecided, "NaN"},
    {"edit=zero:1", nothing, Verdict::kPass, ""},
    {"tokens=0", nothing, Verdict::kPass, ""},
    {"context=0 topk=3", nothing, Verdict::kPass, ""},
};

TEST(MqaLogitsJudge, RejectsWrongOutputsAndNamesTheCause) {
  for (const Wrong& w : kWrong) {
    const Record r = check_altered(
        std::string("mqa_logits ") + w.line,
        [&](const Case& c, const TensorSet& in, TensorSet& out, const RunOptions&) { w.spoil(c, in, out); });
    EXPECT_EQ(r.result.verdict, w.verdict) << w.line << " " << w.words << ": " << r.result.reason;
    const std::string said = r.result.reason + " | " + r.result.cause;
    EXPECT_NE(said.find(w.words), std::string::npos) << w.line << ": " << said;
  }
}

TEST(MqaLogitsJudge, ATieWithinBoundsIsUndecided) {
  const Case c = parse_case("mqa_logits topk=1 tokens=1 context=64");
  TensorSet inputs = generated(c);
  const MqaLogitsOptions o = mqa_logits_options(c);
  const auto logits = reference::mqa_logits(o, mqa_logits_inputs(inputs)).logit[0];
  MqaLogitsExpected expected;
  expected.logits = reference::mqa_logits(o, mqa_logits_inputs(inputs));
  const std::int32_t best = reference::topk_of(logits, 1)[0], other = best == 0 ? 1 : 0;
  // The rival comes within a part of the bounds of the best.
  auto& rival = expected.logits.logit[0][at(other)];
  rival = logits[at(best)];
  rival.value -= rival.proven / 2;
  TensorSet out(operator_of(c).outputs(c));
  operator_of(c).reference_outputs(c, inputs, expected, out);
  out.view("topk_indices").set_int(0, other);
  Judgement j;
  judge_mqa_logits(c, inputs, expected, out, j);
  EXPECT_EQ(j.verdict, Verdict::kUndecided);
  EXPECT_EQ(j.undecided, 1);
}

TEST(MqaLogitsJudge, MistrustsACheckThatCouldNotHaveFailed) {
  const Case c = parse_case("mqa_logits tokens=4 contexts=full");
  const auto verdict = [&](const TensorSet& inputs) { return judged(c, inputs, reference_run(c, inputs)); };
  TensorSet silent = generated(c);
  for (std::int64_t i = 0; i < silent.at("weights").shape().numel(); ++i) silent.view("weights").set(i, 0);
  EXPECT_EQ(verdict(silent).verdict, Verdict::kMistrusted);
  EXPECT_NE(verdict(silent).reason.find("vllm#52109"), std::string::npos);
  // The same token everywhere, the same query everywhere: one number.
  TensorSet equal = generated(c);
  for (std::int64_t i = 1; i < equal.at("block_table").shape().numel(); ++i)
    equal.view("block_table").set_int(i, 0);
  equal.view("block_table").set_int(0, 0);
  Tensor& cache = equal.at("kv_cache");
  const reference::CacheLayout layout = mqa_logits_options(c).layout;
  for (std::int64_t t = 0; t < layout.block_size; ++t) {
    std::memset(cache.data() + layout.value_at(t, 0), 0x38, at(layout.head_dim));
    const float one = 1;
    std::memcpy(cache.data() + layout.scale_at(t, 0), &one, 4);
  }
  equal.at("q").fill(0x38);
  for (std::int64_t i = 0; i < equal.at("weights").shape().numel(); ++i) equal.view("weights").set(i, 0.5);
  EXPECT_EQ(verdict(equal).verdict, Verdict::kMistrusted);
  EXPECT_NE(verdict(equal).reason.find("equal"), std::string::npos);
}

// ---- Relations

void scale_row(TensorSet& out, std::int64_t row, double factor) {
  const View v = out.view("logits");
  for (std::int64_t i = row * v.shape[1]; i < (row + 1) * v.shape[1]; ++i)
    v.set(i, factor * ConstView(v).at(i));
}

const Culprit kCulprits[] = {
    {"mqa_logits tokens=4 next_n=2", "request_permutation",
     [](const Case&, const TensorSet&, TensorSet& o) { scale_row(o, 0, 2); }},
    {"mqa_logits form=ragged tokens=4", "request_permutation",
     [](const Case&, const TensorSet&, TensorSet& o) { scale_row(o, 0, 2); }},
    {"mqa_logits tokens=4", "batch_split",
     [](const Case& c, const TensorSet&, TensorSet& o) { scale_row(o, 0, c.integer("tokens") < 4 ? 2 : 1); }},
    {"mqa_logits tokens=4", "block_permutation",
     [](const Case&, const TensorSet& in, TensorSet& o) {
       scale_row(o, 0, 1 + static_cast<double>(in.view("block_table").int_at(0)));
     }},
    {"mqa_logits tokens=4", "poison_unused",
     [](const Case&, const TensorSet& in, TensorSet& o) {
       const Tensor& cache = in.at("kv_cache");
       scale_row(o, 0, std::count(cache.data(), cache.data() + cache.bytes(), std::byte{0x7F}) > 100 ? 2 : 1);
     }},
    {"mqa_logits form=ragged tokens=4", "poison_unused",
     [](const Case&, const TensorSet& in, TensorSet& o) {
       const Tensor& k = in.at("k");
       scale_row(o, 0, k.data()[k.bytes() - 1] == std::byte{0x7F} ? 2 : 1);
     }},
    {"mqa_logits tokens=4", "context_growth",
     [](const Case&, const TensorSet& in, TensorSet& o) {
       scale_row(o, 0, 1 + static_cast<double>(in.view("context_lens").int_at(0)));
     }},
    {"mqa_logits form=ragged tokens=4", "context_growth",
     [](const Case&, const TensorSet& in, TensorSet& o) {
       scale_row(o, 0, static_cast<double>(in.view("cu_seqlen_ke").int_at(0)));
     }},
    {"mqa_logits ", "weights_doubled",
     [](const Case&, const TensorSet&, TensorSet& o) {
       o.view("logits").set(0, 1 + std::as_const(o).at("logits").view().at(0));
     }},
    {"mqa_logits ", "head_permutation",
     [](const Case& c, const TensorSet& in, TensorSet& o) {
       scale_row(o, 0, in.view("weights").at(0) > in.view("weights").at(c.integer("heads") - 1) ? 2 : 1);
     }},
    {"mqa_logits ", "block_sizes",
     [](const Case& c, const TensorSet&, TensorSet& o) {
       scale_row(o, 0, c.integer("block_size") == 1 ? 2 : 1);
     }},
    {"mqa_logits layout=preshuffled", "block_sizes",
     [](const Case& c, const TensorSet&, TensorSet& o) {
       scale_row(o, 0, c.integer("block_size") == 64 ? 2 : 1);
     }},
    {"mqa_logits ", "layouts",
     [](const Case& c, const TensorSet&, TensorSet& o) {
       scale_row(o, 0, c.choice("layout") == "preshuffled" ? 2 : 1);
     }},
};

TEST(MqaLogitsRelations, EachIsKeptByTheReferenceAndBrokenByAWrongImplementation) {
  const Operator* const one[] = {&mqa_logits_operator()};
  expect_each_relation_broken(kCulprits, one);
}

}  // namespace
}  // namespace moecheck::harness

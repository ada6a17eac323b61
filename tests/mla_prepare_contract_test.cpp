// The contract of mla_prepare: cases, refusals, bad input, and that its judge and each relation reject what they are for.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <map>
#include <set>

#include "harness/implementations/faults.h"
#include "harness/operators/mla_prepare.h"
#include "tests/altered_implementation.h"
#include "tests/operators_support.h"

namespace moecheck::harness {
namespace {

const Operator& op() { return *find_operator("mla_prepare"); }
Case line(std::string_view fields) { return make_case(op().schema(), fields); }

TEST(MlaPrepareContract, CasesPrintParseAndUseEveryPolicyAndKindOfData) {
  std::set<std::string> policies, kinds;
  for (const Suite suite : {Suite::kQuick, Suite::kModels, Suite::kAdversarial, Suite::kFull}) {
    std::set<std::string> lines;
    for (const Case& c : op().cases(suite)) {
      ASSERT_TRUE(parse_case(c.str()) == c) << c.str();
      ASSERT_EQ(op().refusal(c), std::nullopt) << c.str();
      EXPECT_TRUE(lines.insert(c.str()).second) << c.str();
      policies.insert(c.policy());
      kinds.emplace(c.choice("data"));
    }
    EXPECT_FALSE(lines.empty());
  }
  for (const Preset& p : op().schema().policies) {
    EXPECT_TRUE(policies.contains(p.name)) << p.name;
    EXPECT_EQ(op().refusal(line("policy=" + p.name)).value_or(""), "") << p.name;
    for (const auto& [field, value] : p.values)
      EXPECT_GE(op().schema().find(field), 0) << p.name << " " << field;
  }
  EXPECT_EQ(kinds.size(), op().schema().fields[at(op().schema().find("data"))].choices.size());
}

TEST(MlaPrepareContract, RefusalsNameTheValueAndTheRemedy) {
  const std::map<std::string, std::string> words = {
      {"rope_dim=31", "rope_dim=31 is odd"},
      {"heads=4 kv_heads=3", "heads=4 is not a multiple of kv_heads=3"},
      {"layout=preshuffled block_size=24", "block_size=24 is not a multiple of 16"},
      {"layout=preshuffled block_size=1 blocks=9", "use row_major"},
      {"layout=preshuffled nope_dim=60", "multiple"},
      {"tokens=70", "use blocks=5"},
      {"num_decode=5", "num_decode=5 exceeds tokens=4"},
      {"policy=aiter_triton num_decode=2", "out of bounds"},
      {"policy=aiter_triton nope_dim=96", "power of two"},
      {"policy=aiter_triton layout=preshuffled dtype=f16", "K_WIDTH"},
      {"policy=vllm layout=preshuffled", "vllm#52109"},
      {"policy=aiter_hip kv_heads=2", "kv_heads=1"},
      {"policy=aiter_hip prefill=1", "prefill=0"},
      {"policy=aiter_hip k_pe_out=1", "no such outputs"},
      {"policy=sglang apply_scale=1", "sglang#24198"},
      {"policy=sglang q_dtype=e4m3fn", "q_dtype=same"},
      {"policy=aiter_hip q_scale=1", "ignores q_scale"},
      {"rounding=per_op table_dtype=f32", "rounding=stored"},
      {"policy=sglang_concat dtype=f16", "torch_cat"},
      {"policy=vllm_concat nope_dim=128", "multiple of 512"},
      {"policy=sglang_cat_skip q_cat_row=600", "copies such a q_cat in silence"},
      {"q_cat_row=100", "needs form=cat_skip"},
      {"form=cat_skip q_cat_row=90", "at least"},
      {"data=bits", "apply_scale=0"},
      {"data=saturating", "cache_dtype=e4m3fn"},
      {"form=concat data=padding", "use data=bits"},
      {"tokens=1048576 heads=1024", "more than 2^31"},
      {"edit=zero:9", "outside the 4 rows"},
  };
  for (const auto& [fields, expected] : words) {
    const auto why = op().refusal(line(fields));
    ASSERT_TRUE(why) << fields;
    EXPECT_NE(why->find(expected), std::string::npos) << fields << ": " << *why;
  }
}

TEST(MlaPrepareContract, BadInputIsNamedAndGeneratedInputIsNot) {
  for (const Case& c : op().cases(Suite::kQuick))
    ASSERT_EQ(op().bad_input(c, generated(c)), std::nullopt) << c.str();
  const auto bad = [](std::string_view fields, auto change, std::string_view expected) {
    const Case c = line(fields);
    TensorSet inputs = generated(c);
    change(inputs);
    const auto why = op().bad_input(c, inputs);
    ASSERT_TRUE(why) << expected;
    EXPECT_NE(why->find(expected), std::string::npos) << *why;
  };
  const auto set = [](std::string_view name, std::int64_t i, std::int64_t value) {
    return [=](TensorSet& t) { t.view(name).set_int(i, value); };
  };
  bad("", set("slot_mapping", 2, 64), "slot_mapping[2] = 64 is outside the 64 slots");
  bad("ids=i32", set("slot_mapping", 0, 1 << 30), "slot_mapping[0]");
  bad("", set("positions", 1, 64), "positions[1] = 64 is outside the 64 rows");
  bad("", set("positions", 1, -1), "positions[1] = -1");
  bad("edit=skip:1", set("positions", 1, 64), "for rows without a slot too");
  bad(
      "", [](TensorSet& t) { t.view("k_scale").set(0, 0); }, "k_scale[0] = 0");
  bad(
      "", [](TensorSet& t) { t.view("k_scale").set(0, kNaN); }, "must be a positive number");
  for (const char* rule : {"padded=skip_row edit=skip:1", "padded=clamp_q edit=skip:1"}) {
    const Case c = line(rule);
    TensorSet inputs = generated(c);
    set("positions", 1, 64)(inputs);
    EXPECT_EQ(op().bad_input(c, inputs), std::nullopt) << rule;
  }
}

// The reference passes its own judge, and one changed byte anywhere is seen.
TEST(MlaPrepareContract, TheJudgeSeesAnyByteOfAnyOutput) {
  for (const char* fields :
       {"cache_dtype=e4m3fn policy=aiter_triton_bf16 num_decode=4 data=integers",
        "layout=preshuffled apply_scale=0 kv_heads=2 k_pe_out=1 num_decode=2 rounding=per_op prefill=1",
        "form=concat data=bits", "form=cat_skip data=bits", "form=cat_skip q_cat_row=104 data=bits"}) {
    const Case c = line(fields);
    const TensorSet inputs = generated(c), right = reference_run(c, inputs);
    Judgement own = judged(c, inputs, right);
    EXPECT_EQ(own.failed, 0) << fields << own.reason;
    EXPECT_NE(own.verdict, Verdict::kMistrusted) << own.reason;
    for (const Tensor& t : right.tensors()) {
      const std::size_t step = std::max<std::size_t>(1, t.bytes() / 97);
      for (std::size_t i = 0; i < t.bytes(); i += step) {
        TensorSet wrong = right;
        wrong.at(t.name()).data()[i] ^= std::byte{0x21};
        ASSERT_GE(judged(c, inputs, wrong).failed, 1) << fields << ": byte " << i << " of " << t.name();
      }
    }
  }
}

TEST(MlaPrepareContract, MessagesNameTokenSlotAndChannel) {
  const Case c = line("layout=preshuffled cache_dtype=e4m3fn policy=aiter_triton_bf16");
  const reference::MlaPrepareOptions o = mla_prepare_options(c);
  const TensorSet inputs = generated(c);
  const std::int64_t slot = inputs.view("slot_mapping").int_at(2),
                     mine = o.layout.value_at(cache_row(o, slot, 0), 70);
  TensorSet wrong = reference_run(c, inputs);
  wrong.at("kv_cache").data()[mine] ^= std::byte{0x40};
  Judgement j = judged(c, inputs, wrong);
  EXPECT_EQ(j.failed, 1);
  EXPECT_NE(j.worst->note.find(fmt::format("token 2, slot {}, head 0, channel 70 (rope part)", slot)),
            std::string::npos)
      << j.worst->note;
  wrong = reference_run(c, inputs);
  std::set<std::int64_t> used;
  for (std::int64_t t = 0; t < 4; ++t) used.insert(inputs.view("slot_mapping").int_at(t));
  std::int64_t free = 0;
  while (used.contains(free)) ++free;
  wrong.at("kv_cache").data()[o.layout.value_at(cache_row(o, free, 0), 5)] ^= std::byte{0x40};
  j = judged(c, inputs, wrong);
  EXPECT_EQ(j.failed, 1);
  EXPECT_NE(j.worst->note.find("no token has that slot"), std::string::npos) << j.worst->note;
}

TEST(MlaPrepareContract, DuplicateSlotsAreUndefinedAndNotCompared) {
  const Case c = line("data=duplicate_slots tokens=5 cache_dtype=e4m3fn");
  const TensorSet inputs = generated(c);
  ASSERT_EQ(duplicate_slots(inputs).size(), 1U);
  const reference::MlaPrepareOptions o = mla_prepare_options(c);
  TensorSet outputs = reference_run(c, inputs);
  for (std::int64_t i = 0; i < o.width(); ++i)
    outputs.at("kv_cache").data()[o.layout.value_at(cache_row(o, duplicate_slots(inputs)[0], 0), i)] =
        std::byte{0x11};
  const Judgement j = judged(c, inputs, outputs);
  EXPECT_EQ(j.failed, 0);
  EXPECT_EQ(j.verdict, Verdict::kUndecided);
  EXPECT_NE(j.reason.find("undefined"), std::string::npos) << j.reason;
}

TEST(MlaPrepareContract, OverflowRulesAcceptTheirOwnCodesOnly) {
  const auto with_rule = [](std::string_view rule) {
    return line(fmt::format(
        "data=saturating cache_dtype=e4m3fn rounding=per_op nope_overflow={0} rope_overflow={0}", rule));
  };
  const TensorSet inputs = generated(with_rule("saturate"));
  const TensorSet saturated = reference_run(with_rule("saturate"), inputs),
                  nans = reference_run(with_rule("nan"), inputs);
  EXPECT_EQ(judged(with_rule("saturate"), inputs, saturated).failed, 0);
  EXPECT_EQ(judged(with_rule("nan"), inputs, nans).failed, 0);
  EXPECT_GT(judged(with_rule("nan"), inputs, saturated).failed, 0);
  EXPECT_GT(judged(with_rule("saturate"), inputs, nans).failed, 0);
  EXPECT_EQ(judged(with_rule("any"), inputs, saturated).failed, 0);
  EXPECT_EQ(judged(with_rule("any"), inputs, nans).failed, 0);
  TensorSet wrong = nans;
  for (std::size_t i = 0; i < wrong.at("kv_cache").bytes(); ++i)
    if (std::byte& b = wrong.at("kv_cache").data()[i]; b == std::byte{0x7F}) b = std::byte{0x38};
  EXPECT_GT(judged(with_rule("any"), inputs, wrong).failed, 0) << "1 is neither NaN nor the largest number";
}

TEST(MlaPrepareContract, ACopyOfQCatFailsUnlessItMayBeOne) {
  const Spoil copied = [](const Case& c, const TensorSet&, TensorSet& out) {
    out.view("q_all_offset").set_int(0, 4096);
    out.view("q_all_strides").set_int(0, c.integer("heads") * mla_width(c));
    out.view("q_all_strides").set_int(1, mla_width(c));
  };
  const Judgement j = judged_spoiled(line("form=cat_skip"), copied);
  EXPECT_EQ(j.failed, 1);
  EXPECT_NE(j.reason.find(".contiguous()"), std::string::npos) << j.reason;
  EXPECT_GE(judged_spoiled(line("form=cat_skip q_cat_row=104"), copied).failed, 1);
  EXPECT_EQ(judged_spoiled(line("form=cat_skip q_cat_row=104 strided=copy"), copied).failed, 0);
}

// Each relation, its case, and an implementation that is right but for what the relation is about.
struct Broke {
  std::string_view relation, fields;
  Spoil spoil;
};

std::byte& cache_byte(const Case& c, TensorSet& out, std::int64_t slot, std::int64_t channel = 3) {
  const reference::MlaPrepareOptions o = mla_prepare_options(c);
  return out.at("kv_cache").data()[o.layout.value_at(cache_row(o, slot, 0), channel)];
}

std::vector<Broke> broken_relations() {
  const auto first_slot = [](const TensorSet& in) { return in.view("slot_mapping").int_at(0); };
  const Spoil first_row = [](const Case&, const TensorSet&, TensorSet& out) {
    out.at("q_out").data()[9] ^= std::byte{1};
  };
  return {
      {"token_order", "", first_row},
      {"token_order", "",
       [](const Case& c, const TensorSet& in, TensorSet& out) {
         cache_byte(c, out, in.view("slot_mapping").int_at(0)) ^= std::byte{1};
       }},
      {"batch_split", "", first_row},
      {"batch_split", "",
       [](const Case& c, const TensorSet& in, TensorSet& out) {
         if (c.integer("tokens") == 2) cache_byte(c, out, in.view("slot_mapping").int_at(1)) ^= std::byte{1};
       }},
      {"cache_content", "",
       [=](const Case& c, const TensorSet& in, TensorSet& out) {
         cache_byte(c, out, first_slot(in)) ^= in.at("kv_cache").data()[0];
       }},
      {"cache_content", "",
       [](const Case& c, const TensorSet& in, TensorSet& out) {
         std::int64_t free = 0;
         for (std::int64_t t = 0; t < 4; ++t)
           free = std::max(free, in.view("slot_mapping").int_at(t) % 60 + 1);
         for (std::int64_t s = 0; s < 64; ++s) {
           bool used = false;
           for (std::int64_t t = 0; t < 4; ++t) used = used || in.view("slot_mapping").int_at(t) == s;
           if (!used) free = s;
         }
         cache_byte(c, out, free) = std::byte{0};
       }},
      {"layouts_agree", "",
       [=](const Case& c, const TensorSet& in, TensorSet& out) {
         if (c.choice("layout") == "preshuffled") cache_byte(c, out, first_slot(in)) ^= std::byte{1};
       }},
      {"block_size", "",
       [=](const Case& c, const TensorSet& in, TensorSet& out) {
         if (c.integer("block_size") > 16) cache_byte(c, out, first_slot(in)) ^= std::byte{1};
       }},
      {"padded_row", "",
       [](const Case& c, const TensorSet& in, TensorSet& out) {
         for (std::int64_t t = 0; t < mla_rows(c); ++t)
           if (in.view("slot_mapping").int_at(t) < 0) cache_byte(c, out, 0) ^= std::byte{1};
       }},
      {"slots_never_cross", "",
       [=](const Case& c, const TensorSet& in, TensorSet& out) {
         cache_byte(c, out, first_slot(in)) ^= in.at("k_nope").data()[in.at("k_nope").bytes() / 4 * 2 + 1];
       }},
      {"scale_follows_keys", "cache_dtype=e4m3fn",
       [=](const Case& c, const TensorSet& in, TensorSet& out) {
         cache_byte(c, out, first_slot(in)) ^= in.at("k_scale").data()[3] ^ in.at("k_scale").data()[2];
       }},
      {"fused_equals_unfused", "policy=aiter_triton_bf16",
       [=](const Case& c, const TensorSet& in, TensorSet& out) {
         if (in.view("cos").at(63, 0) == 1) cache_byte(c, out, first_slot(in), 60) ^= std::byte{4};
       }},
      {"fused_equals_unfused", "cache_dtype=e4m3fn",
       [=](const Case& c, const TensorSet& in, TensorSet& out) {
         if (in.view("cos").at(63, 0) == 1) cache_byte(c, out, first_slot(in), 60) ^= std::byte{4};
       }},
      {"cat_skip_equals_concat", "form=cat_skip",
       [](const Case& c, const TensorSet&, TensorSet& out) {
         if (form_is(c, "concat")) out.at("q_out").data()[70] ^= std::byte{1};
       }},
  };
}

TEST(MlaPrepareContract, EveryRelationHoldsForTheReferenceAndRejectsWhatItIsFor) {
  std::set<std::string_view> seen;
  for (const Broke& b : broken_relations()) {
    const Relation& relation = relation_named(op(), b.relation);
    EXPECT_EQ(relation_fault(line(b.fields), relation, Honest()), "") << b.relation;
    const std::string fault = relation_fault(line(b.fields), relation, Spoiled(b.spoil));
    EXPECT_FALSE(fault.empty()) << b.relation;
    EXPECT_FALSE(fault.starts_with("n/a")) << b.relation << ": " << fault;
    seen.insert(b.relation);
  }
  EXPECT_EQ(seen.size(), op().relations().size());
}

// Found by a campaign: the rotation cancels to a subnormal of f16, and k_scale = 0.43 makes its rounding two steps of the cache.
TEST(MlaPrepareContract, StoringTheRotationFirstMayRoundByTwoStepsWhereItIsSubnormal) {
  const Relation& relation = relation_named(op(), "fused_equals_unfused");
  const Case c = line(
      "tokens=3 heads=1 nope_dim=1 rope_dim=256 dtype=f16 block_size=1 blocks=3 max_positions=63 "
      "seed=248736");
  const Implementation* cpu = find_implementation("cpu");
  EXPECT_EQ(relation_fault(c, relation, *cpu), "");
  // The largest rotated number of an output, by four steps: more than its own rounding, which q (unscaled here) has none of.
  for (const char* name : {"q_out", "kv_cache"}) {
    const Spoiled off([name](const Case&, const TensorSet& in, TensorSet& out) {
      if (in.view("cos").at(0, 0) != 1 || in.view("sin").at(1, 0) != 0) return;
      const View v = out.view(name);
      std::int64_t where = 1;
      for (std::int64_t i = 0; i < v.shape.numel(); ++i)
        if (i % 257 != 0 && std::fabs(ConstView(v).at(i)) > std::fabs(ConstView(v).at(where))) where = i;
      double x = ConstView(v).at(where);
      for (int step = 0; step < 4; ++step) x = reference::next_up(v.dtype, x);
      v.set(where, x);
    });
    const std::string fault = relation_fault(Case(c).set("rounding", "once"), relation, off);
    EXPECT_TRUE(fault.starts_with(name)) << fault;
  }
}

// A planted fault, a case that shows it, and words of the cause it must be given.
TEST(MlaPrepareContract, CausesAreNamed) {
  const std::map<std::string, std::pair<std::string, std::string>> causes = {
      {"mla_other_rope_style", {"", "other rope style"}},
      {"mla_cos_sin_swapped", {"", "cos and sin are swapped"}},
      {"mla_half_of_full_table", {"table=full data=integers", "as if they had half"}},
      {"mla_rotates_nope", {"", "rope is on the nope part"}},
      {"mla_rows_for_positions", {"", "positions is not read"}},
      {"mla_prefill_rotated", {"prefill=3", "rotated again"}},
      {"mla_rounds_once", {"policy=aiter_triton_bf16 tokens=9", "per_op rounds every operation"}},
      {"mla_scale_multiplied", {"", "multiplied by k_scale"}},
      {"mla_rope_part_unscaled", {"cache_dtype=e4m3fn", "nope part alone"}},
      {"mla_scale_skipped_shuffled", {"layout=preshuffled", "sglang#24198"}},
      {"mla_rope_cast_unclamped",
       {"cache_dtype=e4m3fn data=saturating rope_overflow=saturate",
        "calibrated on kv_c alone (vllm#42956)"}},
      {"mla_fn_codes_in_fnuz", {"cache_dtype=e4m3fnuz", "e4m3fnuz cache"}},
      {"mla_flat_writer", {"layout=preshuffled tokens=9", "vllm#52109"}},
      {"mla_one_region", {"layout=preshuffled block_size=64 tokens=9", "one region"}},
      {"mla_stale_block_size", {"layout=preshuffled block_size=64 tokens=9", "TensorRT-LLM#16219"}},
      {"mla_heads_interleaved", {"kv_heads=2", "heads stand before tokens"}},
      {"mla_query_not_wired", {"q_dtype=e4m3fn", "TensorRT-LLM#14480"}},
      {"mla_padded_query_skipped",
       {"edit=skip:2", "token 2, head 0 was never written: the token has no slot"}},
      {"mla_decode_gate", {"num_decode=2", "out of bounds"}},
      {"mla_k_pe_out_unrotated", {"k_pe_out=1", "k_pe_out is k_pe"}},
      {"mla_zeros_missing", {"num_decode=4", "q_nope_zeros_out was never written"}},
      {"mla_concat_through_float", {"form=concat data=bits", "only NaNs differ"}},
      {"mla_cat_copies", {"form=cat_skip", "copied after all"}},
      {"mla_cat_assumes_contiguous", {"form=cat_skip q_cat_row=104", "vllm#55109"}},
  };
  for (const auto& [fault, expected] : causes) {
    const Implementation* one[] = {find_implementation("cpu!" + fault)};
    ASSERT_NE(one[0], nullptr) << fault;
    const Record r = check_case(line(expected.first), one, {}).front();
    EXPECT_GT(r.result.failed, 0) << fault;
    EXPECT_NE(r.result.cause.find(expected.second), std::string::npos)
        << fault << ": '" << r.result.cause << "'";
  }
}

// The nope part of q is copied: a NaN keeps its bits.
TEST(MlaPrepareContract, ACopiedNanKeepsItsPayload) {
  const Record r = check_altered("mla_prepare edit=nan:1:3",
                                 [](const Case&, const TensorSet&, TensorSet& out, const RunOptions&) {
                                   Tensor& q = out.at("q_out");
                                   for (std::int64_t i = 0; i < q.shape().numel(); ++i)
                                     if (std::isnan(std::as_const(q).view().at(i)))
                                       q.data()[2 * i] ^= std::byte{1};
                                 },
                                 {.clauses = false, .relations = false});
  EXPECT_EQ(r.result.verdict, Verdict::kFail);
  EXPECT_NE(r.result.reason.find("not the bytes of q_nope"), std::string::npos) << r.result.reason;
}

TEST(MlaPrepareContract, CpuPassesTheQuickSuite) {
  const Implementation* both[] = {find_implementation("cpu"), find_implementation("cpu-baseline")};
  for (const Case& c : op().cases(Suite::kQuick))
    for (const Record& r : check_case(c, both, {}))
      EXPECT_FALSE(is_failure(r.result.verdict)) << r.case_line << ": " << r.result.reason;
}

TEST(MlaPrepareContract, BytesMovedCountWhatIsWritten) {
  const Case c = line("tokens=4 heads=2 cache_dtype=e4m3fn prefill=1");
  const double q = 4 * 2 * 96 * 2, k = 5 * 96 * 2, ids = (4 + 5) * 8;
  EXPECT_EQ(op().bytes_moved(c, generated(c)), q + k + ids + 4 /* k_scale */ + q + 5 * 96);
}

}  // namespace
}  // namespace moecheck::harness

// The contract of indexer_cache: what is refused and why, what the judge rejects, which relation sees which mistake, and what the
// likely causes say.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <map>
#include <set>

#include "harness/implementations/faults.h"
#include "harness/operators/indexer_cache.h"
#include "harness/operators/operators.h"
#include "tests/altered_implementation.h"

namespace moecheck::harness {
namespace {

using reference::CacheLayout;

const Operator& op() { return indexer_cache_operator(); }
Case a_case(const std::string& fields) { return make_case(op().schema(), fields); }
std::string line(const std::string& fields) { return "indexer_cache " + fields; }

std::string refusal(const std::string& fields) { return op().refusal(a_case(fields)).value_or(""); }

bool has(const std::string& text, std::string_view part) { return text.find(part) != std::string::npos; }

// ---- Refusals

struct Refused {
  const char *fields, *words;
};

TEST(IndexerCacheRefusals, SayWhatUpstreamSilentlyGetsWrong) {
  for (const auto& [fields, words] : std::initializer_list<Refused>{
           {"layout=preshuffled block_size=24", "not a multiple of 16"},
           {"layout=preshuffled head_dim=120 quant_block=120", "16"},
           {"head_dim=100 quant_block=64", "does not divide"},
           {"fp8=e4m3fnuz divisor=448", "would saturate"},
           {"policy=vllm_cuda quant_block=64", "wired to 128"},
           {"policy=aiter quant_block=256 head_dim=256", "wired to 128"},
           {"policy=vllm_rocm divisor=240", "use divisor=224"},
           {"policy=aiter_gfx942 divisor=224", "use divisor=240"},
           {"policy=aiter fp8=e4m3fnuz divisor=224", "use divisor=240"},
           {"policy=sglang_cuda scale_fmt=ue8m0", "ignores it"},
           {"policy=deep_gemm scale_fmt=ue8m0", "plain fp32 scales"},
           {"policy=sglang_cuda block_size=48", "power of two"},
           {"policy=vllm_cuda layout=preshuffled", "row_major alone"},
           {"policy=vllm_rocm_triton layout=row_major", "row_major for block_size 1"},
           {"policy=vllm_rocm_triton block_size=1", "use row_major"},
           {"policy=vllm_cuda k_stride=160", "ignores k.stride()"},
           {"k_stride=64", "less than head_dim"},
           {"tokens=8 slot_count=4", "reads past slot_mapping"},
           {"policy=aiter ids=i32", "int64"},
           {"policy=sglang_cuda slots=negative", "in front of the cache"},
           {"policy=aiter pad=12", "ignores kv_cache.stride(0)"},
           {"policy=sglang_cuda pad=64", "side by side"},
           {"tokens=40 blocks=2 block_size=16", "32 slots for 40 tokens"},
           {"form=gather tokens=4 extra_rows=5", "more than tokens"},
           {"form=gather policy=aiter extra_rows=1", "uninitialised index"},
           {"form=gather policy=vllm_cuda block_size=1", "divides addresses by 16"},
           {"form=gather policy=vllm_cuda table_pad=1", "vllm#55109"},
           {"form=gather policy=vllm_cuda dst_scale=elements", "in bytes"},
           {"form=gather columns=1 block_size=4 tokens=40 requests=2", "too few"},
           {"form=gather edit=zero:0", "form=quantize"},
           {"edit=nan:3:500", "outside"}})
    EXPECT_TRUE(has(refusal(fields), words)) << fields << ": '" << refusal(fields) << "'";
  for (const char* fields :
       {"", "policy=vllm_cuda", "policy=vllm_rocm block_size=4 form=gather",
        "policy=aiter layout=preshuffled", "policy=aiter pad=128", "policy=vllm_rocm_triton",
        "form=gather policy=aiter block_size=1 layout=row_major", "policy=aiter count=min slot_count=4"})
    EXPECT_EQ(refusal(fields), "") << fields;
}

// ---- Inputs of a user

TensorSet inputs_of(const Case& c) {
  TensorSet in(op().inputs(c));
  op().generate(c, in);
  return in;
}

TEST(IndexerCacheBadInput, GeneratedInputsAreNeverRefused) {
  for (const Suite suite : {Suite::kQuick, Suite::kModels})
    for (const Case& c : op().cases(suite))
      EXPECT_FALSE(op().bad_input(c, inputs_of(c))) << c.str() << *op().bad_input(c, inputs_of(c));
}

TEST(IndexerCacheBadInput, NamesTensorElementValueAndRemedy) {
  const Case write = a_case("tokens=6 block_size=16");
  const auto with_slot = [&](const Case& c, std::int64_t slot) {
    TensorSet in = inputs_of(c);
    in.view("slot_mapping").set_int(4, slot);
    return op().bad_input(c, in).value_or("");
  };
  EXPECT_TRUE(has(with_slot(write, 48),
                  "slot_mapping[4] = 48 lies past the cache: 3 blocks of 16 tokens end at slot 47"));
  EXPECT_EQ(with_slot(write, 47), "");
  EXPECT_EQ(with_slot(write, -1), "");
  EXPECT_TRUE(has(with_slot(a_case("tokens=6 skip=none"), -1), "use skip=negative"));
  // Behind what count=min takes nothing is read.
  Case shorter = a_case("tokens=6 count=min slot_count=9");
  TensorSet in = inputs_of(shorter);
  in.view("slot_mapping").set_int(8, 1 << 30);
  EXPECT_FALSE(op().bad_input(shorter, in));

  const Case read = a_case("form=gather tokens=40 block_size=16 requests=2 columns=2 blocks=4");
  const auto with = [&](std::vector<std::int64_t> cu, std::vector<std::int64_t> table) {
    TensorSet gather = inputs_of(read);
    for (std::size_t i = 0; i < cu.size(); ++i)
      gather.view("cu_seq_lens").set_int(static_cast<std::int64_t>(i), cu[i]);
    for (std::size_t i = 0; i < table.size(); ++i)
      gather.view("block_table").set_int(static_cast<std::int64_t>(i), table[i]);
    return op().bad_input(read, gather).value_or("");
  };
  EXPECT_EQ(with({0, 30, 40}, {0, 1, 3, -1}), "");
  EXPECT_TRUE(has(with({1, 30, 40}, {0, 1, 3, -1}), "cu_seq_lens[0] = 1 must be 0"));
  EXPECT_TRUE(has(with({0, 50, 40}, {0, 1, 3, -1}), "request 1 would have a negative length"));
  EXPECT_TRUE(has(with({0, 30, 39}, {0, 1, 3, -1}), "write tokens=39 or extra_rows=1"));
  EXPECT_TRUE(has(with({0, 33, 40}, {0, 1, 3, -1}), "block_table is too short"));
  EXPECT_TRUE(has(with({0, 30, 40}, {0, 4, 3, -1}), "block_table[0, 1] = 4 is no block of the cache's 4"));
  EXPECT_TRUE(has(with({0, 30, 40}, {0, 1, -1, -1}), "block_table[1, 0] = -1"));
}

TEST(IndexerCacheBadInput, WrongShapesAndDtypesAreUsageErrors) {
  const Case c = a_case("tokens=6");
  const TensorSet right = inputs_of(c);
  TensorSet in;
  for (const Tensor& t : right.tensors())
    in.add(t.name() == "slot_mapping" ? Tensor("slot_mapping", DType::kI32, Shape(6)) : t);
  try {
    require_specs(in, op().inputs(c), "inputs.safetensors");
    FAIL() << "an int32 slot_mapping passed for int64";
  } catch (const UsageError& e) {
    EXPECT_TRUE(has(e.what(), "slot_mapping")) << e.what();
  }
}

// ---- Presets: the bytes the notes state

// Codes and scale of token 0, as the policy's reference stores them.
std::pair<float, std::vector<std::uint8_t>> stored(const std::string& fields, const std::vector<double>& k) {
  const Case c = a_case(fields + " tokens=1");
  TensorSet in = inputs_of(c), out(op().outputs(c));
  for (std::int64_t i = 0; i < 128; ++i)
    in.view("k").set(i, i < static_cast<std::int64_t>(k.size()) ? k[at(i)] : 0);
  in.view("slot_mapping").set_int(0, 37);
  op().reset_outputs(c, in, out);
  op().reference_outputs(c, in, *op().reference(c, in), out);
  std::vector<std::uint8_t> codes(128);
  float scale = 0;
  reference::get_row(cache_layout(c), out.view("kv_cache").as<std::uint8_t>(), 37, codes.data(), &scale);
  codes.resize(k.size());
  return {scale, codes};
}

TEST(IndexerCachePresets, DivideAsTheirUpstreams) {
  const std::vector<double> k = {448, 17, -19};
  EXPECT_EQ(stored("policy=vllm_cuda", k).first, 1.0F);
  EXPECT_EQ(stored("policy=aiter", k).first, 1.0F);
  EXPECT_EQ(stored("policy=vllm_rocm", k).first, 2.0F);
  EXPECT_EQ(stored("policy=vllm_rocm_triton", k).first, 2.0F);
  EXPECT_EQ(stored("policy=aiter_gfx942", k).first, 448.0F / 240.0F);
  EXPECT_EQ(stored("policy=sglang_act_quant", {450}).first, 2.0F) << "ue8m0";
  EXPECT_EQ(stored("policy=sglang_cuda", {450}).first, 450.0F / 448.0F) << "plain";
  EXPECT_EQ(stored("policy=vllm_cuda", k).second, (std::vector<std::uint8_t>{0x7E, 0x58, 0xDA}));
  EXPECT_EQ(stored("policy=aiter_gfx942", {240, -0.0}).second, (std::vector<std::uint8_t>{0x7F, 0x00}));
  // The mantissa of amax 1.8125 lies between 1.75 and 1.875: vLLM and aiter disagree on gfx942.
  EXPECT_EQ(stored("policy=vllm_rocm scale_fmt=ue8m0", {1.8125}).first,
            2 * stored("policy=aiter_gfx942 scale_fmt=ue8m0", {1.8125}).first);
}

// The element of the notes that division and multiplication round apart.
TEST(IndexerCachePresets, StatedDivisionsAreExactAndAnyTakesBoth) {
  std::vector<double> k;
  for (const std::uint64_t b : {0x3EAB, 0x3F2F, 0xBE04, 0x3FC4, 0xBE85, 0x3ED2, 0x3E4C, 0x3F88})
    k.push_back(reference::decode(DType::kBF16, b));
  EXPECT_EQ(stored("policy=vllm_cuda", k).second[1], 0x74);
  EXPECT_EQ(stored("policy=aiter", k).second[1], 0x75);
  EXPECT_EQ(stored("policy=deep_gemm", k).second[1], 0x75);
  const auto verdict = [&](const std::string& policy, std::uint8_t code) {
    const Case c = a_case(policy + " tokens=1");
    TensorSet in = inputs_of(c), out(op().outputs(c));
    for (std::int64_t i = 0; i < 128; ++i) in.view("k").set(i, i < 8 ? k[at(i)] : 0);
    op().reset_outputs(c, in, out);
    const auto expected = op().reference(c, in);
    op().reference_outputs(c, in, *expected, out);
    out.view("kv_cache")
        .as<std::uint8_t>()[cache_layout(c).value_at(in.view("slot_mapping").as<std::int64_t>()[0], 1)] =
        code;
    Judgement j;
    op().judge(c, in, *expected, out, j);
    return j.verdict;
  };
  EXPECT_EQ(verdict("policy=vllm_cuda", 0x74), Verdict::kPass);
  EXPECT_EQ(verdict("policy=vllm_cuda", 0x75), Verdict::kFail);
  EXPECT_EQ(verdict("policy=aiter", 0x75), Verdict::kPass);
  EXPECT_EQ(verdict("policy=aiter", 0x74), Verdict::kFail);
  EXPECT_EQ(verdict("policy=any", 0x74), Verdict::kPass);
  EXPECT_EQ(verdict("policy=any", 0x75), Verdict::kUndecided);
  EXPECT_EQ(verdict("policy=any", 0x76), Verdict::kFail);
  EXPECT_EQ(verdict("policy=any", 0x73), Verdict::kFail);
}

TEST(IndexerCachePresets, ExactDataLeaveNothingOpen) {
  for (const std::string& policy : policy_axis(op().schema()))
    for (const char* format : {"plain", "ue8m0"}) {
      const Case c = a_case(policy + " data=integers slots=sequential skip=negative scale_fmt=" + format);
      if (op().refusal(c)) continue;
      const Case any = with_field(with_field(c, "value_op", "any"), "scale_op", "any");
      Judgement j;
      TensorSet in = inputs_of(c), out(op().outputs(c));
      op().reset_outputs(c, in, out);
      op().reference_outputs(c, in, *op().reference(c, in), out);
      op().judge(any, in, *op().reference(any, in), out, j);
      EXPECT_EQ(j.verdict, Verdict::kPass) << c.str() << ": " << j.reason;
    }
}

// ---- The judge

using Spoil = std::function<void(const Case&, const TensorSet&, TensorSet&)>;

Judgement judged(const std::string& fields, const Spoil& spoil, std::string* cause = nullptr) {
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

std::uint8_t* bytes(TensorSet& out, std::string_view name = "kv_cache") {
  return out.view(name).as<std::uint8_t>();
}
std::int64_t slot(const TensorSet& in, std::int64_t t) { return in.at("slot_mapping").view().int_at(t); }

TEST(IndexerCacheJudge, AcceptsTheReference) {
  for (const Suite suite : {Suite::kQuick, Suite::kModels})
    for (const Case& c : op().cases(suite)) {
      TensorSet in = inputs_of(c), out(op().outputs(c));
      op().reset_outputs(c, in, out);
      const auto expected = op().reference(c, in);
      op().reference_outputs(c, in, *expected, out);
      Judgement j;
      op().judge(c, in, *expected, out, j);
      EXPECT_FALSE(is_failure(j.verdict)) << c.str() << ": " << j.reason;
      EXPECT_GT(j.elements, 0);
    }
}

TEST(IndexerCacheJudge, AWrongScaleIsOneError) {
  for (const char* layout : {"row_major", "preshuffled"}) {
    const Judgement j = judged(std::string("tokens=20 layout=") + layout,
                               [](const Case& c, const TensorSet& in, TensorSet& out) {
                                 const CacheLayout l = cache_layout(c);
                                 const std::int64_t s = slot(in, 17);
                                 bytes(out)[l.scale_at(s, 0) + 3] ^= 0x01;
                                 for (std::int64_t i = 0; i < 128; ++i) bytes(out)[l.value_at(s, i)] ^= 0x55;
                               });
    EXPECT_EQ(j.failed, 1) << "its 128 codes follow from it";
    EXPECT_TRUE(has(j.reason, "scale of token 17")) << j.reason;
  }
}

TEST(IndexerCacheJudge, NamesTokenSlotBlockAndChannelOfAWrongCode) {
  const Judgement j =
      judged("tokens=20 layout=preshuffled", [](const Case& c, const TensorSet& in, TensorSet& out) {
        bytes(out)[cache_layout(c).value_at(slot(in, 9), 77)] ^= 0x02;
      });
  EXPECT_EQ(j.failed, 1);
  EXPECT_TRUE(has(j.reason, "token 9") && has(j.reason, "channel 77")) << j.reason;
}

TEST(IndexerCacheJudge, SeesEveryByteOutsideTheWrittenSlots) {
  const std::string fields = "tokens=5 block_size=16 pad=20 slots=edges";
  const Case c = a_case(fields);
  const CacheLayout l = cache_layout(c);
  const TensorSet in = inputs_of(c);
  std::set<std::int64_t> written;
  for (std::int64_t t = 0; t < 5; ++t) {
    for (std::int64_t i = 0; i < 128; ++i) written.insert(l.value_at(slot(in, t), i));
    for (std::int64_t b = 0; b < 4; ++b) written.insert(l.scale_at(slot(in, t), 0) + b);
  }
  const auto all = static_cast<std::int64_t>(in.at("kv_cache").bytes());
  for (std::int64_t i = 0; i < all; i += 7) {
    if (written.contains(i)) continue;
    const Judgement j =
        judged(fields, [&](const Case&, const TensorSet&, TensorSet& out) { bytes(out)[i] ^= 0x10; });
    ASSERT_EQ(j.failed, 1) << l.describe(i);
    ASSERT_TRUE(has(j.reason, "belongs to no written slot")) << j.reason;
  }
}

TEST(IndexerCacheJudge, DuplicatesAndTheDummySlotAreReportedAndNotCompared) {
  const auto garbage = [](const Case& c, const TensorSet& in, TensorSet& out) {
    for (const WrittenSlot& s : written_slots(c, in))
      for (std::int64_t i = 0; s.undefined && i < 128; ++i)
        bytes(out)[cache_layout(c).value_at(s.slot, i)] ^= 0x3C;
  };
  for (const char* fields : {"tokens=20 slots=duplicates", "tokens=20 slots=dummy skip=dummy_slot0",
                             "policy=sglang_cuda tokens=9"}) {
    const Judgement j = judged(fields, garbage);
    EXPECT_EQ(j.verdict, Verdict::kUndecided) << fields << j.reason;
    EXPECT_TRUE(has(j.reason, "undefined")) << j.reason;
    EXPECT_GT(j.undecided, 0);
  }
  const Judgement other =
      judged("tokens=20 slots=duplicates", [&](const Case& c, const TensorSet& in, TensorSet& out) {
        garbage(c, in, out);
        bytes(out)[cache_layout(c).value_at(slot(in, 0), 5)] ^= 0x40;
      });
  EXPECT_EQ(other.verdict, Verdict::kFail);
}

TEST(IndexerCacheJudge, NonFiniteGroupsAreReportedUnlessThePolicySaysMore) {
  const Spoil nan_codes = [](const Case& c, const TensorSet& in, TensorSet& out) {
    bytes(out)[cache_layout(c).value_at(slot(in, 3), 5)] = 0x11;
  };
  EXPECT_EQ(judged("tokens=8 edit=nan:3:5", nan_codes).verdict, Verdict::kUndecided);
  EXPECT_EQ(judged("tokens=8 edit=nan:3:5 non_finite=code", nan_codes).verdict, Verdict::kFail);
  EXPECT_EQ(judged("tokens=8 edit=nan:3:5 non_finite=clamped", nan_codes).verdict, Verdict::kFail);
  const Spoil nothing = [](const Case&, const TensorSet&, TensorSet&) {};
  EXPECT_EQ(judged("tokens=8 edit=nan:3:5 non_finite=code", nothing).verdict, Verdict::kPass);
}

TEST(IndexerCacheJudge, GatheredRowsScalesAndRowsPastTheEnd) {
  const std::string fields = "form=gather tokens=40 extra_rows=3 block_size=16 past_rows=unchanged";
  EXPECT_EQ(judged(fields, [](const Case&, const TensorSet&, TensorSet&) {}).verdict, Verdict::kPass);
  EXPECT_EQ(judged(fields, [](const Case&, const TensorSet&,
                              TensorSet& out) { bytes(out, "dst_k")[10 * 128 + 7] ^= 1; })
                .failed,
            1);
  EXPECT_EQ(judged(fields, [](const Case&, const TensorSet&,
                              TensorSet& out) { bytes(out, "dst_scale")[4 * 30] ^= 1; })
                .failed,
            1);
  const Judgement past = judged(
      fields, [](const Case&, const TensorSet&, TensorSet& out) { bytes(out, "dst_k")[38 * 128] ^= 1; });
  EXPECT_EQ(past.failed, 1);
  EXPECT_TRUE(has(past.reason, "past cu_seq_lens[R]")) << past.reason;
  const Judgement open =
      judged("form=gather tokens=40 extra_rows=3 block_size=16",
             [](const Case&, const TensorSet&, TensorSet& out) { bytes(out, "dst_k")[38 * 128] ^= 1; });
  EXPECT_EQ(open.verdict, Verdict::kUndecided);
  EXPECT_EQ(judged("form=gather tokens=9 dst_scale=bytes",
                   [](const Case&, const TensorSet&, TensorSet& out) { bytes(out, "dst_scale")[35] ^= 1; })
                .failed,
            1);
}

// ---- The writer of one layout with the reader of the other

// Stores the rows of `c` as `other` would.
void write_as(const Case& other, const TensorSet& in, TensorSet& out) {
  op().reset_outputs(other, in, out);
  op().reference_outputs(other, in, *op().reference(other, in), out);
}

TEST(IndexerCacheLayouts, AFlatWriterWithAShuffledReaderIsRejectedAndTheReverse) {
  for (const auto& [reader, writer] : {std::pair{"preshuffled", "row_major"}, {"row_major", "preshuffled"}}) {
    std::string cause;
    const Judgement j = judged(
        std::string("tokens=30 layout=") + reader,
        [&](const Case& c, const TensorSet& in, TensorSet& out) {
          write_as(with_field(c, "layout", writer), in, out);
        },
        &cause);
    EXPECT_EQ(j.verdict, Verdict::kFail);
    EXPECT_GT(j.failed, 30 * 64) << "most codes of every token";
    EXPECT_TRUE(has(cause, std::string("written ") + writer) && has(cause, "vllm#52109")) << cause;
    // Token 0 of a tile alone hides most of it: its first 16 channels coincide.
    std::string gather_cause;
    const Judgement g = judged(
        std::string("form=gather tokens=90 layout=") + reader,
        [&](const Case& c, const TensorSet& in, TensorSet& out) {
          write_as(with_field(c, "layout", writer), in, out);
        },
        &gather_cause);
    EXPECT_EQ(g.verdict, Verdict::kFail);
    EXPECT_TRUE(has(gather_cause, std::string("read ") + writer)) << gather_cause;
  }
}

// ---- Causes

TEST(IndexerCacheCauses, AreNamed) {
  const auto cause_of = [](const std::string& fields, const std::string& other) {
    std::string cause;
    const Judgement j = judged(
        fields, [&](const Case&, const TensorSet& in, TensorSet& out) { write_as(a_case(other), in, out); },
        &cause);
    EXPECT_EQ(j.verdict, Verdict::kFail) << fields;
    return cause;
  };
  EXPECT_TRUE(has(cause_of("tokens=20 fp8=e4m3fnuz divisor=224", "tokens=20 fp8=e4m3fnuz divisor=240"),
                  "divided by 240 instead of 224"));
  EXPECT_TRUE(has(cause_of("tokens=20 scale_fmt=ue8m0", "tokens=20"), "scales are plain"));
  EXPECT_TRUE(has(cause_of("tokens=20", "tokens=20 scale_fmt=ue8m0"), "powers of two"));
  EXPECT_TRUE(has(cause_of("tokens=20 divisor=240", "tokens=20 fp8=e4m3fnuz divisor=240"),
                  "codes are those of e4m3fnuz"));
  EXPECT_TRUE(has(cause_of("dtype=f32 data=ties value_op=divide scale_op=divide",
                           "dtype=f32 data=ties value_op=reciprocal scale_op=divide"),
                  "multiplied by fp32(1 / scale)"));
  const auto scaled = [](double by) {
    return [by](const Case& c, const TensorSet& in, TensorSet& out) {
      const CacheLayout l = cache_layout(c);
      const auto q = indexer_quant(c);
      const ConstView k = in.view("k");
      for (const WrittenSlot& s : written_slots(c, in)) {
        std::vector<float> row;
        for (std::int64_t i = 0; i < 128; ++i) row.push_back(static_cast<float>(k.at(s.token * 128 + i)));
        const float scale = group_scale(q, row.data(), 128).scale[0] * static_cast<float>(by);
        std::memcpy(bytes(out) + l.scale_at(s.slot, 0), &scale, 4);
        for (std::int64_t i = 0; i < 128; ++i)
          bytes(out)[l.value_at(s.slot, i)] = indexer_code(q, q.value_op, row[at(i)], scale);
      }
    };
  };
  std::string cause;
  judged("tokens=20", scaled(2), &cause);
  EXPECT_TRUE(has(cause, "divided by 224 instead of 448, so that scales are doubled")) << cause;
  judged("tokens=20 fp8=e4m3fnuz divisor=240", scaled(2), &cause);
  EXPECT_EQ(cause, "scales are doubled");
  judged("tokens=20", scaled(0.5), &cause);
  EXPECT_EQ(cause, "scales are halved");
  judged(
      "tokens=20",
      [](const Case&, const TensorSet& in, TensorSet& out) {
        std::copy_n(in.at("kv_cache").data(), in.at("kv_cache").bytes(), out.at("kv_cache").data());
      },
      &cause);
  EXPECT_EQ(cause, "nothing was written");
  for (const int shift : {-1, 1}) {
    judged(
        "tokens=20 slots=sequential",
        [&](const Case& c, const TensorSet& in, TensorSet& out) {
          TensorSet moved = in;
          for (std::int64_t t = 0; t < 20; ++t) moved.view("slot_mapping").set_int(t, slot(in, t) + shift);
          write_as(c, moved, out);
        },
        &cause);
    EXPECT_TRUE(has(cause, shift < 0 ? "one slot too low" : "one slot too high")) << cause;
  }
  // A single wrong code has no such explanation.
  judged(
      "tokens=20",
      [](const Case& c, const TensorSet& in, TensorSet& out) {
        bytes(out)[cache_layout(c).value_at(slot(in, 9), 77)] ^= 0x02;
      },
      &cause);
  EXPECT_EQ(cause, "");
}

// Faults that the numbers can explain are explained: by the words that a user would look for.
TEST(IndexerCacheCauses, OfPlantedFaults) {
  const std::map<std::string_view, std::string_view> words = {
      {"indexer_writes_flat", "vllm#52109"},
      {"indexer_reads_flat", "vllm#50455"},
      {"indexer_scale_interleaved", "behind"},
      {"indexer_pad_ignored", "padding between blocks"},
      {"indexer_pages_halved", "vllm#54359"},
      {"indexer_stale_block_size", "TensorRT-LLM#16219"},
      {"indexer_truncated_address", "aiter#2954"},
      {"indexer_table_stride", "vllm#55109"},
      {"indexer_k_stride_ignored", "row stride"},
      {"indexer_tail_dropped", "multiple of 8"},
      {"indexer_negative_wraps", "last slot"},
      {"indexer_skips_slot_zero", "slot 0"},
      {"indexer_request_off_by_one", "cu[r] <= t"},
      {"indexer_first_eight", "eight"},
      {"indexer_other_divisor", "amax is divided by"},
      {"indexer_ue8m0_floor", "rounded down"},
      {"indexer_ue8m0_ignored", "plain"},
      {"indexer_scale_in_bf16", "bf16"},
      {"indexer_no_floor", "amax_floor"},
      {"indexer_signed_amax", "magnitude"},
      {"indexer_amax_of_128", "128 channels"},
      {"indexer_other_division", "fp32(1 / scale)"},
      {"indexer_truncates", "truncated"},
      {"indexer_flushes_small_codes", "flushed"},
      {"indexer_minus_zero_fnuz", "0x80"}};
  const std::vector<const char*> cases = {"layout=preshuffled tokens=40",
                                          "form=gather layout=preshuffled tokens=90",
                                          "tokens=40 pad=12",
                                          "slots=negative tokens=40",
                                          "form=gather block_size=1 tokens=20",
                                          "form=gather table_pad=3 requests=11 tokens=90 block_size=16",
                                          "k_stride=160 tokens=20",
                                          "form=gather tokens=90 requests=12 block_size=16",
                                          "scale_fmt=ue8m0 tokens=20",
                                          "data=zero_rows tokens=20",
                                          "quant_block=64 tokens=20",
                                          "data=ties value_op=divide scale_op=divide dtype=f32",
                                          "slots=sequential tokens=20",
                                          "data=small_codes tokens=20",
                                          "fp8=e4m3fnuz divisor=240 data=signed_zero"};
  for (const auto& [fault, part] : words) {
    const Implementation* one[] = {find_implementation("cpu!" + std::string(fault))};
    ASSERT_NE(one[0], nullptr) << fault;
    std::string causes;
    for (const char* fields : cases)
      if (const Record r = check_case(a_case(fields), one, {}).front(); !r.result.cause.empty())
        causes += r.result.cause + "\n";
    EXPECT_TRUE(has(causes, part)) << fault << ": " << causes;
  }
}

// ---- Relations: each is broken by an implementation that deserves it

struct Breaker {
  std::string_view relation;
  const char* fields;
  Altered::After after;
};

void flip_codes(const Case& c, const TensorSet& in, TensorSet& out, std::int64_t token) {
  const CacheLayout l = cache_layout(c);
  const std::int64_t s = slot(in, token);
  if (s >= 0) bytes(out)[l.value_at(s, 3)] ^= 0x01;
}

const std::vector<Breaker>& breakers() {
  static const std::vector<Breaker> all = {
      // Right as long as the token that was generated first comes first.
      {"token_order", "tokens=12",
       [](const Case& c, const TensorSet& in, TensorSet& out, const RunOptions&) {
         static const std::int64_t first = slot(in, 0);
         if (c.integer("tokens") == 12 && slot(in, 0) != first) flip_codes(c, in, out, 2);
       }},
      {"one_after_the_other", "tokens=12",
       [](const Case& c, const TensorSet& in, TensorSet& out, const RunOptions&) {
         if (c.integer("tokens") < 12) flip_codes(c, in, out, 0);
       }},
      {"skipped_tokens", "tokens=12",
       [](const Case& c, const TensorSet& in, TensorSet& out, const RunOptions&) {
         for (std::int64_t t = 0; !is_gather(c) && t < c.integer("tokens"); ++t)
           if (slot(in, t) < 0) bytes(out)[0] = 0x77;
       }},
      {"layouts_agree", "tokens=12 layout=row_major",
       [](const Case& c, const TensorSet& in, TensorSet& out, const RunOptions&) {
         if (c.choice("layout") == "preshuffled") flip_codes(c, in, out, 5);
       }},
      {"layouts_agree", "form=gather tokens=12",
       [](const Case& c, const TensorSet&, TensorSet& out, const RunOptions&) {
         if (c.choice("layout") == "preshuffled") bytes(out, "dst_k")[7] ^= 1;
       }},
      {"round_trip", "tokens=12",
       [](const Case& c, const TensorSet&, TensorSet& out, const RunOptions&) {
         if (is_gather(c)) bytes(out, "dst_scale")[20] ^= 1;
       }},
      // An absolute threshold: codes change where the numbers are large.
      {"power_of_two", "tokens=12",
       [](const Case& c, const TensorSet& in, TensorSet& out, const RunOptions&) {
         if (is_gather(c)) return;
         double most = 0;
         for (std::int64_t i = 0; i < in.at("k").shape().numel(); ++i)
           most = std::max(most, std::fabs(in.at("k").view().at(i)));
         static double first = most;
         if (most > first * 1.5) flip_codes(c, in, out, 4);
       }},
      {"negation", "tokens=12",
       [](const Case& c, const TensorSet& in, TensorSet& out, const RunOptions&) {
         if (is_gather(c)) return;
         static const double first = in.at("k").view().at(0);
         if (in.at("k").view().at(0) == -first) flip_codes(c, in, out, 0);
       }},
      {"blocks_renamed", "form=gather tokens=40 block_size=16",
       [](const Case&, const TensorSet& in, TensorSet& out, const RunOptions&) {
         static const std::int64_t first = in.at("block_table").view().int_at(0);
         if (in.at("block_table").view().int_at(0) != first) bytes(out, "dst_k")[1] ^= 1;
       }},
      // Reads a byte of a token that is not its own.
      {"other_bytes", "form=gather tokens=20 block_size=64 requests=1",
       [](const Case& c, const TensorSet& in, TensorSet& out, const RunOptions&) {
         const CacheLayout l = cache_layout(c);
         const std::int64_t last = slot_of(paged_cache(c), in.view("block_table"), 0, 0) + 63;
         static const std::uint8_t first = in.view("kv_cache").as<std::uint8_t>()[l.value_at(last, 0)];
         if (in.view("kv_cache").as<std::uint8_t>()[l.value_at(last, 0)] != first)
           bytes(out, "dst_k")[1] ^= 1;
       }},
      {"request_alone", "form=gather tokens=60 block_size=16 requests=4",
       [](const Case& c, const TensorSet&, TensorSet& out, const RunOptions&) {
         if (c.integer("requests") == 1 && c.integer("tokens") > 0) bytes(out, "dst_k")[1] ^= 1;
       }},
      {"block_size_changed", "form=gather tokens=60 block_size=64",
       [](const Case& c, const TensorSet&, TensorSet& out, const RunOptions&) {
         if (c.integer("block_size") == 32) bytes(out, "dst_scale")[8] ^= 1;
       }}};
  return all;
}

TEST(IndexerCacheRelations, EachIsBrokenByWhoDeservesIt) {
  std::set<std::string_view> broken;
  for (const Breaker& b : breakers()) {
    const Record r = check_altered(line(b.fields), b.after);
    EXPECT_EQ(r.result.failed, 0) << b.relation << ": the comparison alone saw it";
    const ClauseResult* clause = find_clause(r, b.relation);
    ASSERT_NE(clause, nullptr) << b.relation;
    EXPECT_EQ(clause->verdict, Verdict::kFail) << b.relation << " " << b.fields << ": " << clause->detail;
    broken.insert(b.relation);
  }
  for (const Relation& r : op().relations())
    EXPECT_TRUE(broken.contains(r.name)) << r.name << " was never broken";
}

TEST(IndexerCacheRelations, TheReferenceKeepsThemAndEachIsAsked) {
  std::set<std::string> asked;
  for (const Case& c : op().cases(Suite::kQuick)) {
    const Record r =
        check_altered(c.str(), [](const Case&, const TensorSet&, TensorSet&, const RunOptions&) {});
    EXPECT_FALSE(is_failure(r.result.verdict)) << c.str() << ": " << r.result.reason;
    for (const ClauseResult& clause : r.result.clauses)
      if (clause.verdict == Verdict::kPass) asked.insert(clause.name);
  }
  for (const Relation& r : op().relations()) EXPECT_TRUE(asked.contains(std::string(r.name))) << r.name;
}

// ---- Paged caches for consumers

TEST(PagedCaches, HoldEveryTokenOnceUnlessSharedAndPoisonElsewhere) {
  PagedCache p;
  p.layout.order = reference::CacheOrder::kPreshuffled;
  p.layout.block_size = 16, p.layout.quant_block = 128;
  p.lengths = {40, 33, 0, 16, 1};
  p.columns = p.columns_needed() + 2;
  p.blocks = p.blocks_needed() + 3;
  EXPECT_EQ(p.columns_needed(), 3);
  EXPECT_EQ(p.blocks_needed(), 3 + 3 + 0 + 1 + 1);
  const SlotRow row = [](std::int64_t s, std::span<float> k) {
    for (std::size_t i = 0; i < k.size(); ++i)
      k[i] = static_cast<float>(s * 7 + static_cast<std::int64_t>(i) - 300);
  };
  for (const bool share : {false, true}) {
    p.share_prefix = share;
    Tensor table("block_table", DType::kI32, Shape(5, p.columns)),
        cache("kv_cache", DType::kU8, Shape(p.blocks, p.layout.stride()));
    fill_block_table(p, Random(7, "table"), table.view());
    fill_paged_cache(p, {}, Random(7, "cache"), row, std::as_const(table).view(), cache);
    std::map<std::int64_t, int> owners;
    for (std::int64_t r = 0; r < 5; ++r)
      for (std::int64_t i = 0; i < p.lengths[at(r)]; ++i) {
        const std::int64_t s = slot_of(p, std::as_const(table).view(), r, i);
        ASSERT_TRUE(s >= 0 && s < p.blocks * 16);
        ++owners[s];
        std::vector<float> k(128);
        row(s, k);
        std::vector<std::uint8_t> want(128), got(128);
        float scale = 0, stored = 0;
        reference::quantize_row({}, 128, k.data(), 128, want.data(), &scale);
        reference::get_row(p.layout, cache.view().as<std::uint8_t>(), s, got.data(), &stored);
        ASSERT_EQ(got, want);
        ASSERT_EQ(stored, scale);
      }
    EXPECT_EQ(owners.size() == 90, !share);
    if (share) {
      EXPECT_EQ(owners.size(), 90U - 16) << "request 1 begins with one block of request 0";
    }
  }
}

TEST(PagedCaches, RequestLengthsAddUpWithinTheTable) {
  for (int seed = 1; seed <= 300; ++seed)
    for (const char* fields : {"tokens=40", "tokens=0", "tokens=100 requests=9 extra_rows=7",
                               "tokens=64 requests=2 block_size=16 columns=2"}) {
      Case c = a_case(std::string("form=gather ") + fields);
      c.seed = static_cast<std::uint64_t>(seed);
      std::int64_t sum = 0;
      for (const std::int64_t length : request_lengths(c)) {
        ASSERT_GE(length, 0);
        if (c.integer("columns") > 0) {
          ASSERT_LE(length, c.integer("columns") * c.integer("block_size"));
        }
        sum += length;
      }
      ASSERT_EQ(sum, c.integer("tokens") - c.integer("extra_rows")) << c.str();
    }
}

}  // namespace
}  // namespace moecheck::harness

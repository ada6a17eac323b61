// The contract of indexer_cache: what is refused and why, and what its presets store.
#include <gtest/gtest.h>

#include "tests/indexer_cache_test_support.h"

namespace moecheck::harness {
namespace {

using namespace indexer_cache_test;

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

}  // namespace
}  // namespace moecheck::harness

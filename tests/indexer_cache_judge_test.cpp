// What the judge of indexer_cache rejects, and what its likely causes say.
#include <gtest/gtest.h>

#include <cstring>
#include <map>
#include <set>

#include "harness/implementations/faults.h"
#include "harness/runner.h"
#include "tests/indexer_cache_test_support.h"

namespace moecheck::harness {
namespace {

using namespace indexer_cache_test;
using reference::CacheLayout;

// ---- The judge

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

}  // namespace
}  // namespace moecheck::harness

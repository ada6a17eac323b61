// mla_prepare's GPU kernels on the host executor: what gpu_kernels_test.cpp does not ask of every operator.
#define MOECHECK_FAULTS 1  // the host executor has the kernels of that build alone
#include "optimized/gpu/mla_prepare.h"

#include <gtest/gtest.h>

#include "optimized/gpu/host/executor.h"
#include "optimized/gpu/specializations.h"

namespace moecheck::harness {
namespace {

using reference::ConstView;
using reference::DType;
using reference::Shape;
using reference::View;

// What cases do not ask for: rows of fp8 and f32.
void concatenate(int wave, DType dtype) {
  gpu::host::Executor executor({.wave = wave});
  const gpu::host::UseExecutor use(executor);
  const auto size = static_cast<std::size_t>(reference::size_bytes(dtype));
  std::vector<std::uint8_t> nope(4 * 5 * size), pe(4 * 3 * size), got(4 * 8 * size), want(4 * 8 * size);
  for (std::size_t i = 0; i < nope.size(); ++i) nope[i] = static_cast<std::uint8_t>(i);
  for (std::size_t i = 0; i < pe.size(); ++i) pe[i] = static_cast<std::uint8_t>(200 + i);
  const ConstView a{nope.data(), dtype, Shape(2, 2, 5)}, b{pe.data(), dtype, Shape(2, 2, 3)};
  reference::concat_mla_absorb_q(a, b, {want.data(), dtype, Shape(2, 2, 8)});
  MOECHECK_OPTIMIZED::gpu_concat_mla_absorb_q<gpu::Host>(a, b, {got.data(), dtype, Shape(2, 2, 8)}, nullptr);
  EXPECT_EQ(got, want) << wave << " " << reference::name(dtype);
}

TEST(GpuMlaPrepare, ConcatenatesRowsOfAnyDType) {
  for (const int wave : {32, 64})
    for (const DType dtype : {DType::kE4M3FN, DType::kF32}) concatenate(wave, dtype);
  int single_bytes = 0;
  for (const gpu::SpecializationUse& s : gpu::specializations())
    single_bytes += s.op == "mla_prepare" && s.name.ends_with("copy, single bytes") && s.executed > 0;
  EXPECT_EQ(single_bytes, 2);
}

// Pointers that 16 bytes do not divide, and ids outside their tensors, which no case has.
TEST(GpuMlaPrepare, StaysInsideItsTensors) {
  reference::MlaPrepareOptions o;
  o.nope_dim = 16, o.rope.dim = 16, o.rope.style = reference::RopeStyle::kGptj;
  o.layout = reference::mla_cache_layout(reference::CacheOrder::kRowMajor, DType::kBF16, 2, 1, 16, 16);
  std::vector<std::uint16_t> nope(2 * 16 + 1, 0x3F80), pe(2 * 16, 0x3F80), table(4 * 8, 0x3F80), q(2 * 32),
      cache(4 * 32, 0x1234);
  const std::vector<std::int64_t> positions = {-5, 1'000'000}, slots = {4, 2};
  const auto bf16 = [](std::vector<std::uint16_t>& v, auto... dims) {
    return View{v.data(), DType::kBF16, Shape(dims...)};
  };
  View odd = bf16(nope, 2, 1, 16);
  odd.data = nope.data() + 1;
  const reference::MlaPrepareInputs in = {.q_nope = odd,
                                          .q_pe = bf16(pe, 2, 1, 16),
                                          .k_nope = bf16(nope, 2, 1, 16),
                                          .k_pe = bf16(pe, 2, 1, 16),
                                          .positions = {positions.data(), DType::kI64, Shape(2)},
                                          .cos = bf16(table, 4, 8),
                                          .sin = bf16(table, 4, 8),
                                          .slot_mapping = {slots.data(), DType::kI64, Shape(2)},
                                          .k_scale = {},
                                          .q_scale = {}};
  MOECHECK_OPTIMIZED::gpu_mla_prepare<gpu::Host>(in, o, {bf16(q, 2, 1, 32), bf16(cache, 2, 2, 1, 32), {}, {}, {}},
                                        nullptr);
  EXPECT_GT(gpu::fallbacks("mla_prepare").at("a tensor is not aligned to 16 bytes"), 0u);
  std::vector<std::uint16_t> row(32, 0x3F80);
  for (std::size_t c = 16; c < 32; ++c) row[c] = c % 2 == 0 ? 0 : 0x4000;  // 1 - 1, 1 + 1
  for (std::size_t i = 0; i < q.size(); ++i) EXPECT_EQ(q[i], row[i % 32]) << i;
  for (std::size_t i = 0; i < cache.size(); ++i) EXPECT_EQ(cache[i], i / 32 == 2 ? row[i % 32] : 0x1234) << i;
}

TEST(GpuMlaPrepare, RefusesOtherDTypes) {
  const auto refusal = MOECHECK_OPTIMIZED::gpu_mla_prepare_unsupported;
  EXPECT_FALSE(refusal(DType::kBF16, DType::kF32, DType::kE4M3FN, DType::kF16));
  EXPECT_EQ(refusal(DType::kF32, DType::kF32, DType::kBF16, DType::kBF16),
            "q and k of f32: the GPU kernels take bf16 and f16");
  EXPECT_TRUE(refusal(DType::kBF16, DType::kE4M3FN, DType::kBF16, DType::kBF16));
  EXPECT_TRUE(refusal(DType::kBF16, DType::kBF16, DType::kF32, DType::kBF16));
  EXPECT_TRUE(refusal(DType::kBF16, DType::kBF16, DType::kBF16, DType::kE5M2));
}

}  // namespace
}  // namespace moecheck::harness

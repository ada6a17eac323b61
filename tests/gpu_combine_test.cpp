// routed_scaling's GPU kernels on the host executor: what gpu_kernels_test.cpp does not ask of every operator.
#define MOECHECK_FAULTS 1  // the host executor has the kernels of that build alone
#include "optimized/gpu/combine.h"

#include <gtest/gtest.h>

#include <utility>

#include "harness/tensor_set.h"
#include "optimized/cpu/combine.h"
#include "optimized/gpu/host/executor.h"

namespace moecheck::harness {
namespace {

using reference::ConstView;
using reference::DType;
using reference::Shape;
using reference::View;

// Slots, shared output and output each in a dtype of their own, which no case has: as the CPU version.
TEST(GpuCombine, DTypesMayDiffer) {
  constexpr std::int64_t kTokens = 2, kTopk = 3, kHidden = 40;
  const DType dtypes[] = {DType::kF32, DType::kBF16, DType::kF16};
  const auto tensor = [](DType dtype, Shape shape) {
    Tensor t("t", dtype, shape);
    for (std::int64_t i = 0; i < shape.numel(); ++i) t.view().set(i, 0.25 * static_cast<double>(i % 23 - 11));
    return t;
  };
  const Tensor weights = tensor(DType::kF32, Shape(kTokens, kTopk));
  Tensor ids("ids", DType::kI32, Shape(kTokens, kTopk));
  for (std::int64_t i = 0; i < kTokens * kTopk; ++i) ids.view().set_int(i, i % 4 - 1);
  for (const int wave : {32, 64})
    for (const DType slots : dtypes)
      for (const DType shared : dtypes)
        for (const DType to : dtypes) {
          gpu::host::Executor executor({.wave = wave});
          const gpu::host::UseExecutor use(executor);
          const Tensor y = tensor(slots, Shape(kTokens, kTopk, kHidden)),
                       s = tensor(shared, Shape(kTokens, kHidden));
          Tensor got("out", to, Shape(kTokens, kHidden)), want = got;
          reference::CombineOptions o;
          o.dtype = slots, o.routed_scaling_factor = 2;
          const reference::CombineInputs in{y.view(), weights.view(), std::as_const(ids).view(), s.view()};
          MOECHECK_OPTIMIZED::gpu_combine<gpu::Host>(o, in, got.view(), nullptr);
          MOECHECK_OPTIMIZED::combine(o, in, want.view());
          for (std::int64_t i = 0; i < kTokens * kHidden; ++i)
            EXPECT_EQ(ConstView(got.view()).at(i), ConstView(want.view()).at(i))
                << reference::name(slots) << " " << reference::name(shared) << " " << reference::name(to)
                << " " << i;
        }
}

}  // namespace
}  // namespace moecheck::harness

// The GPU kernels of mqa_logits on the host executor: what gpu_kernels_test.cpp does not ask of every operator.
#include <gtest/gtest.h>

#include <cstring>

#include "harness/case.h"
#include "harness/operator.h"
#include "harness/runner.h"
#include "optimized/gpu/mqa_logits.h"
#include "optimized/gpu/specializations.h"

namespace moecheck::harness {
namespace {

constexpr std::string_view kOp = "mqa_logits";

// More rows than the device has room for: each has one block, which goes over its keys several times.
TEST(GpuMqaLogits, ManyRowsHaveABlockEach) {
  const Implementation* one[] = {find_implementation("gpu-host")};
  for (const char* line : {"mqa_logits tokens=530 context=140 heads=1 head_dim=16 block_size=64",
                           "mqa_logits tokens=530 context=140 heads=1 head_dim=4 block_size=64"}) {
    const Case c = parse_case(find_operator(kOp)->schema(), line);
    const Record r = check_case(c, one, {.clauses = false, .relations = false}).front();
    EXPECT_FALSE(is_failure(r.result.verdict)) << line << ": " << r.result.reason;
  }
}

// Bits do not depend on the words that are read; bytes that no word fits go to the general kernel.
TEST(GpuMqaLogits, AddressesChooseTheWords) {
  const Case c = parse_case(find_operator(kOp)->schema(), "mqa_logits form=ragged tokens=3 context=35");
  const Operator& op = operator_of(c);
  const auto logits = [&](std::size_t misalign) {
    TensorSet inputs(op.inputs(c)), moved(op.inputs(c), misalign), outputs(op.outputs(c));
    op.generate(c, inputs);
    for (Tensor& t : moved.tensors()) std::memcpy(t.data(), inputs.at(t.name()).data(), t.bytes());
    find_implementation("gpu-host")->run(c, moved, outputs, {});
    const Tensor& t = outputs.at("logits");
    return std::vector<std::byte>(t.data(), t.data() + t.bytes());
  };
  EXPECT_EQ(logits(0), logits(4));
  EXPECT_EQ(gpu::fallbacks(kOp)["q or K is not aligned to 4 bytes"], 0u);
}

TEST(GpuMqaLogits, OddChannelsFallBack) {
  const Case c =
      parse_case(find_operator(kOp)->schema(), "mqa_logits heads=5 head_dim=36 tokens=1 context=15");
  const Implementation* one[] = {find_implementation("gpu-host")};
  EXPECT_FALSE(is_failure(check_case(c, one, {.relations = false}).front().result.verdict));
  EXPECT_GT(gpu::fallbacks(kOp).at("head_dim is not a multiple of 16 up to 128"), 0u);
}

TEST(GpuMqaLogits, RefusesWhatNoKernelDoes) {
  const auto refusal = [](auto change) {
    reference::MqaLogitsOptions o;
    change(o);
    return optimized::gpu_mqa_logits_unsupported(o).value_or("");
  };
  EXPECT_EQ(refusal([](auto&) {}), "");
  EXPECT_NE(refusal([](auto& o) { o.layout.head_dim = 1040; }).find("head_dim=1040"), std::string::npos);
  EXPECT_NE(refusal([](auto& o) { o.layout.dtype = DType::kBF16; }).find("K of bf16"), std::string::npos);
  EXPECT_NE(refusal([](auto& o) { o.dtype = DType::kF16; }).find("logits of"), std::string::npos);
}

}  // namespace
}  // namespace moecheck::harness

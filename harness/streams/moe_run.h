#pragma once
// The GLM-4 MoE block with its real operators on streams: what the operations of glm4_moe (blocks.h) compute for a moe_block case.
//
//   P  h = x                            S  s = shared experts(h)          G  router_logits = h w_gate^T
//   T  topk = gating(router_logits)     E  y = experts(h, topk)           M  y = rsf y
//   A  y = y + s                        R  all-reduce of one rank: a copy N  the next layer's h = out
//
// Where the routed factor is multiplied in follows the platform: cuda in E's reduce, hip by M, hip-aiter in T's weights.
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "harness/case.h"
#include "harness/record.h"
#include "harness/streams/blocks.h"
#include "harness/streams/execution.h"
#include "harness/tensor_set.h"
#include "reference/moe_block.h"

namespace moecheck::harness::streams {

// The case of a block on a platform: `place` is set as above.
Case moe_run_case(const Case& c, const Platform& platform);

class MoeRun final : public OperationBody {
 public:
  // Throws UsageError for a case of another operator, one that is refused, or one that has no dual stream: fused or gated shared
  // experts or none, expert-parallel ranks, router logits that are not f32.
  explicit MoeRun(Case c);
  ~MoeRun() override;

  // Sizes of the program's buffers, and of the workspace for `kernels`.
  Glm4Moe::Bytes bytes(const StreamKernels& kernels) const;

  std::span<const std::byte> initial(const reference::ProgramBuffer& buffer) const override;
  void launch(const BoundOperation& operation, const StreamKernels& kernels, gpu::Runtime& runtime) override;

  // y (or out) judged against the reference block, from the router logits that the outcome holds. Nothing where neither is kept.
  std::optional<Record> judge(const reference::StreamProgram& program, const Outcome& outcome) const;

 private:
  // Tensors one behind the other, 256 bytes aligned.
  struct Packed {
    std::vector<reference::ConstView> tensors;  // their shapes; data is where they came from
    std::vector<std::size_t> offsets;
    std::vector<std::byte> bytes;
    void add(reference::ConstView tensor);
    reference::ConstView at(const std::byte* data, std::size_t i) const;
  };
  void shared_experts(const BoundOperation& op, const StreamKernels& kernels) const;
  void top_k(const BoundOperation& op, const StreamKernels& kernels) const;
  void routed_experts(const BoundOperation& op, const StreamKernels& kernels) const;

  Case case_;
  TensorSet inputs_;
  reference::MoeBlockOptions options_;
  reference::ExpertsOptions routed_, shared_;
  std::int64_t tokens_ = 0;
  Packed gate_, of_shared_, of_experts_;
};

}  // namespace moecheck::harness::streams

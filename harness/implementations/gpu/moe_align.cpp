// The adapter of moe_align.
#include "harness/implementations/gpu/adapter.h"
#include "harness/operators/moe_align.h"
#include "optimized/gpu/combine.h"
#include "optimized/gpu/moe_align.h"

namespace moecheck::harness::gpu_adapters::MOECHECK_OPTIMIZED::MOECHECK_GPU_BACKEND {
namespace {

std::optional<std::string> unsupported(const Case& c) {
  const std::int64_t slots = c.integer("tokens") * c.integer("topk"), experts = c.integer("experts");
  if (auto why =
          kernels::gpu_moe_align_unsupported(experts, slots, slots + (experts + 1) * c.integer("block_size")))
    return why;
  return is_convention(c, "permute") ? kernels::gpu_combine_unsupported(c.integer("topk")) : std::nullopt;
}

// Permutation, the rows, and their way back, as an expert-parallel layer has them around its GEMMs.
void run_permute(const GpuCall& call, void* workspace) {
  const TensorSet& in = call.in;
  TensorSet& out = call.out;
  const reference::PermuteOptions o = permute_options(call.c, in);
  kernels::gpu_permute<Backend>(o, in.view("topk_ids"), out.view("expert_first_token_offset"),
                                out.view("row_of_slot"), out.view("slot_of_row"), out.view("m_indices"), workspace,
                                call.stream);
  kernels::gpu_permute_rows<Backend>(o, in.view("hidden_states"), out.view("slot_of_row"), out.view("permuted"),
                                     call.stream);
  kernels::gpu_unpermute<Backend>(o, out.view("permuted"), in.view("topk_weights"), out.view("row_of_slot"),
                                  out.view("out"), call.stream);
}

void run(const GpuCall& call) {
  const TensorSet& in = call.in;
  TensorSet& out = call.out;
  const Case& c = call.c;
  void* const workspace = call.workspace(
      kernels::gpu_moe_align_workspace(c.integer("tokens") * c.integer("topk"), c.integer("experts")));
  if (is_convention(c, "permute"))
    run_permute(call, workspace);
  else if (is_convention(c, "aiter"))
    kernels::gpu_moe_sorting<Backend>(sorting_options(c, in), in.view("topk_ids"), in.view("topk_weights"),
                                      out.view("sorted_ids"), out.view("sorted_weights"),
                                      out.view("sorted_expert_ids"), out.view("num_valid_ids"), workspace,
                                      call.stream);
  else
    kernels::gpu_moe_align_block_size<Backend>(align_options(c, in), in.view("topk_ids"),
                                               out.view("sorted_token_ids"), out.view("expert_ids"),
                                               out.view("num_tokens_post_padded"), workspace, call.stream);
}

}  // namespace

const GpuAdapter kMoeAlign = {"moe_align", unsupported, run};

}  // namespace moecheck::harness::gpu_adapters::MOECHECK_OPTIMIZED::MOECHECK_GPU_BACKEND

// The kernels of stream programs (harness/streams/device.h) on this backend.
#include "harness/implementations/gpu/stream_kernels.h"

#include "optimized/gpu/block_parts.h"
#include "optimized/gpu/experts.h"
#include "optimized/gpu/gating.h"

namespace moecheck::harness::gpu_adapters::MOECHECK_OPTIMIZED::MOECHECK_GPU_BACKEND {
namespace {

class GpuStreamKernels final : public streams::StreamKernels {
 public:
  void absorb(const gpu::ProbeRanges& ranges, std::uint64_t* digest, gpu::Stream stream) const override {
    kernels::gpu_probe_absorb<Backend>(ranges, digest, stream);
  }
  void emit(const gpu::ProbeRanges& ranges, const std::uint64_t* digest, std::uint64_t salt,
            gpu::Stream stream) const override {
    kernels::gpu_probe_emit<Backend>(ranges, digest, salt, stream);
  }
  void delay(int microseconds, gpu::Stream stream) const override {
    kernels::gpu_probe_spin<Backend>(microseconds, stream);
  }
  void meet(std::uint32_t* mine, std::uint32_t* other, std::uint32_t* met, int microseconds,
            gpu::Stream stream) const override {
    kernels::gpu_probe_meet<Backend>(mine, other, met, microseconds, stream);
  }
  void router_logits(reference::ConstView x, reference::ConstView gate, reference::View logits,
                     gpu::Stream stream) const override {
    kernels::gpu_router_logits<Backend>(x, gate, logits, stream);
  }
  void gating(const reference::GatingOptions& options, reference::ConstView router_logits,
              reference::ConstView bias, reference::View topk_weights, reference::View topk_ids,
              gpu::Stream stream) const override {
    kernels::gpu_gating<Backend>(options, router_logits, bias, topk_weights, topk_ids, stream);
  }
  std::size_t experts_workspace(const reference::ExpertsOptions& options, reference::DType weights,
                                std::int64_t tokens) const override {
    return kernels::gpu_experts_workspace(options, weights, tokens);
  }
  void experts(const reference::ExpertsOptions& options, const reference::ExpertsInputs& inputs,
               reference::View out, void* workspace, gpu::Stream stream) const override {
    kernels::gpu_experts<Backend>(options, inputs, out, workspace, stream);
  }
  void scale_rows(reference::View x, float factor, gpu::Stream stream) const override {
    kernels::gpu_scale_rows<Backend>(x, factor, stream);
  }
  void add_rows(reference::ConstView x, reference::View y, gpu::Stream stream) const override {
    kernels::gpu_add_rows<Backend>(x, y, stream);
  }
};

}  // namespace

const streams::StreamKernels& stream_kernels() {
  static const GpuStreamKernels all;
  return all;
}

}  // namespace moecheck::harness::gpu_adapters::MOECHECK_OPTIMIZED::MOECHECK_GPU_BACKEND

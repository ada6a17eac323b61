// The GPU kernels on the device of this build. Compiled against them where there are any (harness/CMakeLists.txt).
#include <fmt/format.h>

#include <map>

#include "harness/case.h"
#include "harness/ranks/compute.h"
#include "optimized/gpu/runtime.h"

#ifdef MOECHECK_GPU_DEVICE
#include "optimized/gpu/combine.h"
#include "optimized/gpu/experts.h"
#include "optimized/gpu/gating.h"
#endif

namespace moecheck::harness::ranks {

#ifdef MOECHECK_GPU_DEVICE

namespace {

namespace kernels = moecheck::MOECHECK_OPTIMIZED;
using Backend = gpu::MOECHECK_GPU_BACKEND;
constexpr bool kCuda = std::is_same_v<Backend, gpu::Cuda>;

// Device memory that is given again instead of freed: freeing waits for the device, transfers under way included.
class Pool : public std::enable_shared_from_this<Pool> {
 public:
  explicit Pool(gpu::Runtime& runtime) : runtime_(runtime) {}
  ~Pool() {
    for (const auto& [bytes, list] : free_)
      for (void* p : list) runtime_.release(p);
  }
  Pool(const Pool&) = delete;
  Pool& operator=(const Pool&) = delete;

  Buffer get(std::size_t bytes) {
    std::size_t size = 256;
    while (size < bytes) size *= 2;
    std::vector<void*>& list = free_[size];
    void* p = nullptr;
    if (list.empty()) {
      p = runtime_.allocate(size);
    } else {
      p = list.back();
      list.pop_back();
    }
    return Buffer(static_cast<std::byte*>(p),
                  [pool = shared_from_this(), size](std::byte* b) { pool->free_[size].push_back(b); });
  }

 private:
  gpu::Runtime& runtime_;
  std::map<std::size_t, std::vector<void*>> free_;
};

// All kernels and copies on one stream, in whose order memory is used and given again.
class GpuCompute final : public Compute {
 public:
  explicit GpuCompute(gpu::Runtime& runtime)
      : runtime_(runtime), stream_(runtime.create_stream()), pool_(std::make_shared<Pool>(runtime)) {}
  ~GpuCompute() override { runtime_.destroy(stream_); }
  GpuCompute(const GpuCompute&) = delete;
  GpuCompute& operator=(const GpuCompute&) = delete;
  gpu::Stream stream() const { return stream_; }
  std::string_view name() const override { return kCuda ? "cuda" : "hip"; }

  Buffer allocate(std::size_t bytes) override { return pool_->get(bytes); }
  void write(const Buffer& to, const void* from, std::size_t bytes) override {
    if (bytes == 0) return;
    runtime_.wait(stream_);  // for who had this memory before
    runtime_.copy_in(to.get(), from, bytes);
    runtime_.wait(nullptr);  // the copy's last part is on the default stream, which nothing else waits for
  }
  void read(void* to, const Buffer& from, std::size_t bytes) override {
    runtime_.wait(stream_);
    if (bytes != 0) runtime_.copy_out(to, from.get(), bytes);
  }
  void fill(const Buffer& memory, unsigned char byte, std::size_t bytes) override {
    if (bytes != 0) runtime_.fill(memory.get(), byte, bytes, stream_);
  }
  void gather(const Buffer& to, const Buffer& from, std::size_t row_bytes,
              std::span<const std::int64_t> rows) override {
    for (std::size_t i = 0; i < rows.size(); ++i)
      runtime_.copy(to.get() + i * row_bytes, from.get() + static_cast<std::size_t>(rows[i]) * row_bytes,
                    row_bytes, stream_);
  }
  void scatter(const Buffer& to, const Buffer& from, std::size_t row_bytes,
               std::span<const std::int64_t> rows) override {
    for (std::size_t i = 0; i < rows.size(); ++i)
      runtime_.copy(to.get() + static_cast<std::size_t>(rows[i]) * row_bytes, from.get() + i * row_bytes,
                    row_bytes, stream_);
  }

  void gating(const reference::GatingOptions& options, reference::ConstView router_logits,
              reference::ConstView bias, reference::View topk_weights, reference::View topk_ids) override {
    supported(kernels::gpu_gating_unsupported(options));
    kernels::gpu_gating<Backend>(options, router_logits, bias, topk_weights, topk_ids, stream_);
  }
  void experts(const reference::ExpertsOptions& options, const reference::ExpertsInputs& inputs,
               reference::View out) override {
    const reference::DType weights = inputs.weights.w13.dtype;
    supported(kernels::gpu_experts_unsupported(options, weights));
    const Buffer workspace =
        pool_->get(kernels::gpu_experts_workspace(options, weights, inputs.hidden_states.shape[0]));
    kernels::gpu_experts<Backend>(options, inputs, out, workspace.get(), stream_);
  }
  void combine(const reference::CombineOptions& options, const reference::CombineInputs& inputs,
               reference::View out) override {
    supported(kernels::gpu_combine_unsupported(inputs.routed_output.shape[1]));
    kernels::gpu_combine<Backend>(options, inputs, out, stream_);
  }

 private:
  static void supported(const std::optional<std::string>& why_not) {
    if (why_not) throw UsageError(*why_not);
  }

  gpu::Runtime& runtime_;
  gpu::Stream stream_;
  std::shared_ptr<Pool> pool_;
};

}  // namespace

bool has_device_kernels() { return true; }

DeviceCompute make_device_compute() {
  gpu::Runtime& runtime = kCuda ? gpu::cuda_runtime() : gpu::hip_runtime();
  auto compute = std::make_unique<GpuCompute>(runtime);
  const gpu::Stream stream = compute->stream();
  return {std::move(compute), &runtime, stream};
}

#else

bool has_device_kernels() { return false; }

DeviceCompute make_device_compute() {
  throw UsageError(
      "--communicator nccl: this build has no kernels for a device: configure with cmake --preset cuda, or "
      "use "
      "--communicator threads or mpi");
}

#endif

}  // namespace moecheck::harness::ranks

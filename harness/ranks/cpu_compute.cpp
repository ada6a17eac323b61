// The CPU versions, one thread a rank.
#include <algorithm>
#include <cstring>

#include "harness/ranks/compute.h"
#include "optimized/cpu/combine.h"
#include "optimized/cpu/experts.h"
#include "optimized/cpu/gating.h"

namespace moecheck::harness::ranks {
namespace {

class CpuCompute final : public Compute {
 public:
  std::string_view name() const override { return "cpu"; }

  Buffer allocate(std::size_t bytes) override { return host_buffer(bytes); }
  void write(const Buffer& to, const void* from, std::size_t bytes) override { copy(to.get(), from, bytes); }
  void read(void* to, const Buffer& from, std::size_t bytes) override { copy(to, from.get(), bytes); }
  void fill(const Buffer& memory, unsigned char byte, std::size_t bytes) override {
    std::fill_n(memory.get(), bytes, std::byte{byte});
  }
  void gather(const Buffer& to, const Buffer& from, std::size_t row_bytes,
              std::span<const std::int64_t> rows) override {
    for (std::size_t i = 0; i < rows.size(); ++i)
      copy(to.get() + i * row_bytes, from.get() + static_cast<std::size_t>(rows[i]) * row_bytes, row_bytes);
  }
  void scatter(const Buffer& to, const Buffer& from, std::size_t row_bytes,
               std::span<const std::int64_t> rows) override {
    for (std::size_t i = 0; i < rows.size(); ++i)
      copy(to.get() + static_cast<std::size_t>(rows[i]) * row_bytes, from.get() + i * row_bytes, row_bytes);
  }

  void gating(const reference::GatingOptions& options, reference::ConstView router_logits,
              reference::ConstView bias, reference::View topk_weights, reference::View topk_ids) override {
    optimized::gating(options, router_logits, bias, topk_weights, topk_ids);
  }
  void experts(const reference::ExpertsOptions& options, const reference::ExpertsInputs& inputs,
               reference::View out) override {
    optimized::experts(options, inputs, out);
  }
  void combine(const reference::CombineOptions& options, const reference::CombineInputs& inputs,
               reference::View out) override {
    optimized::combine(options, inputs, out);
  }

 private:
  static void copy(void* to, const void* from, std::size_t bytes) {
    if (bytes != 0) std::memcpy(to, from, bytes);
  }
};

}  // namespace

std::unique_ptr<Compute> make_cpu_compute() { return std::make_unique<CpuCompute>(); }

}  // namespace moecheck::harness::ranks

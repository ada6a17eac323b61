// Operations that show in which order they ran.
#include "harness/streams/program_blocks.h"

namespace moecheck::harness::streams {
namespace {

class Probe final : public OperationBody {
 public:
  void launch(const BoundOperation& op, const StreamKernels& kernels, gpu::Runtime&) override {
    if (!op.reads.empty()) absorb(op, op.reads, kernels);
    const std::uint64_t salt = number_of(op.operation().name);
    emit(op, op.scratch, kernels, salt);
    absorb(op, op.scratch, kernels);
    emit(op, op.writes, kernels, salt + 1);
  }

 private:
  template <class Each>
  static void in_groups(const std::vector<BoundRange>& all, Each&& each) {
    for (std::size_t i = 0; i < all.size();) {
      gpu::ProbeRanges group;
      for (; i < all.size() && group.count < gpu::kProbeRanges; ++i) {
        group.data[group.count] = reinterpret_cast<unsigned char*>(all[i].data);
        group.bytes[group.count++] = all[i].bytes;
      }
      each(group);
    }
  }
  static void absorb(const BoundOperation& op, const std::vector<BoundRange>& all,
                     const StreamKernels& kernels) {
    in_groups(all, [&](const gpu::ProbeRanges& group) { kernels.absorb(group, op.digest, op.stream); });
  }
  static void emit(const BoundOperation& op, const std::vector<BoundRange>& all, const StreamKernels& kernels,
                   std::uint64_t salt) {
    in_groups(all,
              [&](const gpu::ProbeRanges& group) { kernels.emit(group, op.digest, salt += 2, op.stream); });
  }
};

}  // namespace

OperationBody& probe() {
  static Probe body;
  return body;
}

}  // namespace moecheck::harness::streams

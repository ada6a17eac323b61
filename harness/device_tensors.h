#pragma once
// The tensors of a run in device memory, between guard bands as on the host: a write outside is seen there as here.
#include <memory>
#include <vector>

#include "harness/implementation.h"
#include "harness/tensor_set.h"
#include "harness/workers.h"
#include "optimized/gpu/runtime.h"

namespace moecheck::harness {

class DeviceTensors {
 public:
  // Copies all of them, at the addresses modulo 256 that they have here. `inputs` and `outputs` outlive it.
  DeviceTensors(gpu::Runtime& runtime, const TensorSet& inputs, TensorSet& outputs);

  const TensorSet& inputs() const { return in_; }
  TensorSet& outputs() { return out_; }

  // Outputs as they were at first. Waits for the device.
  void reset_outputs();
  // Waits for the device and brings the outputs, with their guards, back to the host's. RunFailed when an input changed.
  void finish();

 private:
  std::byte* copy(const Tensor& t);

  gpu::Runtime& runtime_;
  const TensorSet& host_in_;
  TensorSet& host_out_;
  std::vector<gpu::Memory> memory_;
  TensorSet in_, out_;
};

// Calls work() and throws the runtime's errors as what the harness knows: RunFailed, or ProcessBroken after the error of a kernel.
template <class Work>
auto with_device_errors(Work&& work) {
  try {
    return work();
  } catch (const gpu::DeviceLost& e) {
    throw ProcessBroken{e.what()};
  } catch (const gpu::DeviceError& e) {
    throw RunFailed(e.what());
  }
}

}  // namespace moecheck::harness

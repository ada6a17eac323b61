#include "harness/device_tensors.h"

#include <fmt/format.h>

#include <cstring>

namespace moecheck::harness {
namespace {

// A tensor's bytes with both guards.
std::byte* guarded(std::byte* data) { return data - Tensor::kGuard; }
const std::byte* guarded(const std::byte* data) { return data - Tensor::kGuard; }
std::size_t guarded_bytes(const Tensor& t) { return t.bytes() + 2 * Tensor::kGuard; }

}  // namespace

DeviceTensors::DeviceTensors(gpu::Runtime& runtime, const TensorSet& inputs, TensorSet& outputs)
    : runtime_(runtime), host_in_(inputs), host_out_(outputs) {
  for (const Tensor& t : inputs.tensors()) in_.add(Tensor::elsewhere(t, copy(t)));
  for (const Tensor& t : outputs.tensors()) out_.add(Tensor::elsewhere(t, copy(t)));
  runtime_.wait_all();
}

std::byte* DeviceTensors::copy(const Tensor& t) {
  const std::size_t offset = Tensor::kGuard + reinterpret_cast<std::uintptr_t>(t.data()) % Tensor::kAlignment;
  const gpu::Memory& m = memory_.emplace_back(runtime_, offset + t.bytes() + Tensor::kGuard);
  std::byte* const data = static_cast<std::byte*>(m.data()) + offset;
  runtime_.copy_in(guarded(data), guarded(t.data()), guarded_bytes(t));
  return data;
}

void DeviceTensors::reset_outputs() {
  runtime_.wait_all();
  for (std::size_t i = 0; i < out_.tensors().size(); ++i) {
    const Tensor& t = host_out_.tensors()[i];
    runtime_.copy_in(guarded(out_.tensors()[i].data()), guarded(t.data()), guarded_bytes(t));
  }
  runtime_.wait_all();
}

void DeviceTensors::finish() {
  runtime_.wait_all();
  for (std::size_t i = 0; i < in_.tensors().size(); ++i) {
    const Tensor& t = host_in_.tensors()[i];
    std::vector<std::byte> back(guarded_bytes(t));
    runtime_.copy_out(back.data(), guarded(in_.tensors()[i].data()), back.size());
    if (std::memcmp(back.data(), guarded(t.data()), back.size()) != 0)
      throw RunFailed(fmt::format("it wrote into its input {}, or beside it", t.name()));
  }
  for (std::size_t i = 0; i < out_.tensors().size(); ++i) {
    Tensor& t = host_out_.tensors()[i];
    runtime_.copy_out(guarded(t.data()), guarded(out_.tensors()[i].data()), guarded_bytes(t));
  }
}

}  // namespace moecheck::harness

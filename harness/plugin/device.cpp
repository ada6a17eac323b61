#include "harness/plugin/device.h"

#include <dlfcn.h>
#include <fmt/format.h>

#include <memory>
#include <string>

#include "harness/implementation.h"
#include "harness/workers.h"

namespace moecheck::harness {
namespace {

// A driver's library. The functions' types are those of its C headers, with plain pointers for its handles.
class Driver {
 public:
  explicit Driver(const char* name) : name_(name), library_(dlopen(name, RTLD_NOW | RTLD_GLOBAL)) {
    if (library_ == nullptr)
      throw RunFailed(
          fmt::format("its tensors are to lie in device memory, and {} cannot be loaded here: run it on a "
                      "machine with that kind of GPU and its driver",
                      name));
  }
  template <class F>
  void bind(F*& function, const char* symbol) const {
    function = reinterpret_cast<F*>(dlsym(library_, symbol));
    if (function == nullptr)
      throw RunFailed(fmt::format("{} has no {}: the driver is too old", name_, symbol));
  }

 private:
  const char* name_;
  void* library_;
};

class Cuda final : public Device {
 public:
  Cuda() {
    int device = 0;
    void* context = nullptr;
    const auto bound = [&]<class F>(F*& f, const char* symbol) { driver_.bind(f, symbol); };
    int (*init)(unsigned) = nullptr;
    int (*get)(int*, int) = nullptr;
    int (*retain)(void**, int) = nullptr;
    int (*set_current)(void*) = nullptr;
    int (*create)(void**, unsigned) = nullptr;
    bound(error_name_, "cuGetErrorName");
    bound(init, "cuInit");
    bound(get, "cuDeviceGet");
    bound(retain, "cuDevicePrimaryCtxRetain");
    bound(set_current, "cuCtxSetCurrent");
    bound(create, "cuStreamCreate");
    bound(allocate_, "cuMemAlloc_v2");
    bound(free_, "cuMemFree_v2");
    bound(in_, "cuMemcpyHtoD_v2");
    bound(out_, "cuMemcpyDtoH_v2");
    bound(settle_, "cuCtxSynchronize");
    bound(wait_, "cuStreamSynchronize");
    refuse(init(0), "cuInit");
    refuse(get(&device, 0), "cuDeviceGet");
    refuse(retain(&context, device), "cuDevicePrimaryCtxRetain");
    refuse(set_current(context), "cuCtxSetCurrent");
    refuse(create(&stream_, 1 /* non-blocking */), "cuStreamCreate");
  }
  void* allocate(std::size_t bytes) override {
    std::uint64_t memory = 0;
    refuse(allocate_(&memory, bytes), "cuMemAlloc");
    return reinterpret_cast<void*>(memory);
  }
  void release(void* memory) noexcept override { (void)free_(reinterpret_cast<std::uint64_t>(memory)); }
  void copy_in(void* device, const void* host, std::size_t bytes) override {
    broken(in_(reinterpret_cast<std::uint64_t>(device), host, bytes), "cuMemcpyHtoD");
  }
  void copy_out(void* host, const void* device, std::size_t bytes) override {
    broken(out_(host, reinterpret_cast<std::uint64_t>(device), bytes), "cuMemcpyDtoH");
  }
  void settle() override { broken(settle_(), "cuCtxSynchronize"); }
  void wait() override { broken(wait_(stream_), "cuStreamSynchronize"); }
  void* stream() override { return stream_; }

 private:
  std::string text(int code, const char* call) const {
    const char* name = nullptr;
    (void)error_name_(code, &name);
    return fmt::format("{} gave {}", call, name == nullptr ? fmt::format("error {}", code) : name);
  }
  void refuse(int code, const char* call) const {
    if (code != 0) throw RunFailed(text(code, call));
  }
  void broken(int code, const char* call) const {
    if (code != 0) throw ProcessBroken{"an error of the device: " + text(code, call)};
  }

  Driver driver_{"libcuda.so.1"};
  int (*error_name_)(int, const char**) = nullptr;
  int (*allocate_)(std::uint64_t*, std::size_t) = nullptr;
  int (*free_)(std::uint64_t) = nullptr;
  int (*in_)(std::uint64_t, const void*, std::size_t) = nullptr;
  int (*out_)(void*, std::uint64_t, std::size_t) = nullptr;
  int (*settle_)() = nullptr;
  int (*wait_)(void*) = nullptr;
  void* stream_ = nullptr;
};

class Rocm final : public Device {
 public:
  Rocm() {
    const auto bound = [&]<class F>(F*& f, const char* symbol) { driver_.bind(f, symbol); };
    int (*set_device)(int) = nullptr;
    int (*create)(void**, unsigned) = nullptr;
    bound(error_name_, "hipGetErrorName");
    bound(set_device, "hipSetDevice");
    bound(create, "hipStreamCreateWithFlags");
    bound(allocate_, "hipMalloc");
    bound(free_, "hipFree");
    bound(copy_, "hipMemcpy");
    bound(settle_, "hipDeviceSynchronize");
    bound(wait_, "hipStreamSynchronize");
    refuse(set_device(0), "hipSetDevice");
    refuse(create(&stream_, 1 /* non-blocking */), "hipStreamCreateWithFlags");
  }
  void* allocate(std::size_t bytes) override {
    void* memory = nullptr;
    refuse(allocate_(&memory, bytes), "hipMalloc");
    return memory;
  }
  void release(void* memory) noexcept override { (void)free_(memory); }
  void copy_in(void* device, const void* host, std::size_t bytes) override {
    broken(copy_(device, host, bytes, 1), "hipMemcpy to the device");
  }
  void copy_out(void* host, const void* device, std::size_t bytes) override {
    broken(copy_(host, device, bytes, 2), "hipMemcpy from the device");
  }
  void settle() override { broken(settle_(), "hipDeviceSynchronize"); }
  void wait() override { broken(wait_(stream_), "hipStreamSynchronize"); }
  void* stream() override { return stream_; }

 private:
  std::string text(int code, const char* call) const {
    return fmt::format("{} gave {}", call, error_name_(code));
  }
  void refuse(int code, const char* call) const {
    if (code != 0) throw RunFailed(text(code, call));
  }
  void broken(int code, const char* call) const {
    if (code != 0) throw ProcessBroken{"an error of the device: " + text(code, call)};
  }

  Driver driver_{"libamdhip64.so"};
  const char* (*error_name_)(int) = nullptr;
  int (*allocate_)(void**, std::size_t) = nullptr;
  int (*free_)(void*) = nullptr;
  int (*copy_)(void*, const void*, std::size_t, int) = nullptr;
  int (*settle_)() = nullptr;
  int (*wait_)(void*) = nullptr;
  void* stream_ = nullptr;
};

}  // namespace

Device& device_of(std::int32_t type) {
  static std::unique_ptr<Device> cuda, rocm;
  std::unique_ptr<Device>& device = type == MOECHECK_CUDA ? cuda : rocm;
  if (!device && type == MOECHECK_CUDA) device = std::make_unique<Cuda>();
  if (!device) device = std::make_unique<Rocm>();
  return *device;
}

}  // namespace moecheck::harness

#include "harness/streams/cpu_device.h"

#include <chrono>
#include <condition_variable>
#include <cstring>
#include <deque>
#include <functional>
#include <mutex>
#include <new>
#include <thread>
#include <utility>
#include <vector>

#include "optimized/cpu/experts.h"
#include "optimized/cpu/gating.h"
#include "optimized/gpu/probe_hash.h"

namespace moecheck::harness::streams {
namespace {

using Clock = std::chrono::steady_clock;
using reference::ConstView;
using reference::View;

// One call of record(): set when its stream gets there.
class Mark {
 public:
  void set() {
    const std::scoped_lock lock(mutex_);
    set_ = true;
    at_ = Clock::now();
    changed_.notify_all();
  }
  void wait() {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return set_; });
  }
  Clock::time_point at() {
    wait();
    return at_;
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  bool set_ = false;
  Clock::time_point at_;
};

class CpuStream {
 public:
  CpuStream() : thread_([this] { run(); }) {}
  // What is queued still runs.
  ~CpuStream() {
    put(nullptr);
    thread_.join();
  }
  CpuStream(const CpuStream&) = delete;
  CpuStream& operator=(const CpuStream&) = delete;

  void put(std::function<void()> work) {
    const std::scoped_lock lock(mutex_);
    queue_.push_back(std::move(work));
    changed_.notify_one();
  }
  void wait() {
    const auto mark = std::make_shared<Mark>();
    put([mark] { mark->set(); });
    mark->wait();
    const std::scoped_lock lock(mutex_);
    if (error_.empty()) return;
    const std::string what = std::exchange(error_, "");
    throw gpu::DeviceError(what);
  }

 private:
  void run() {
    for (;;) {
      std::unique_lock lock(mutex_);
      changed_.wait(lock, [&] { return !queue_.empty(); });
      const std::function<void()> work = std::move(queue_.front());
      queue_.pop_front();
      lock.unlock();
      if (!work) return;
      try {
        work();
      } catch (const std::exception& e) {
        lock.lock();
        if (error_.empty()) error_ = e.what();
      }
    }
  }

  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<std::function<void()>> queue_;
  std::string error_;
  std::thread thread_;  // last: it uses the others
};

struct CpuEvent {
  std::shared_ptr<Mark> last;
};

class CpuRuntime final : public gpu::Runtime {
 public:
  std::string_view api() const override { return "cpu"; }
  std::string device() const override { return "threads of the CPU"; }

  void* allocate(std::size_t bytes) override {
    void* const memory = ::operator new(bytes == 0 ? 1 : bytes, kAlignment);
    std::memset(memory, 0xFF, bytes);
    return memory;
  }
  void release(void* memory) noexcept override { ::operator delete(memory, kAlignment); }
  void copy_in(void* device, const void* host, std::size_t bytes) override {
    if (bytes > 0) std::memcpy(device, host, bytes);
  }
  void copy_out(void* host, const void* device, std::size_t bytes) override {
    if (bytes > 0) std::memcpy(host, device, bytes);
  }
  void copy(void* to, const void* from, std::size_t bytes, gpu::Stream stream) override {
    put(stream, [=] { std::memcpy(to, from, bytes); });
  }
  void fill(void* memory, unsigned char byte, std::size_t bytes, gpu::Stream stream) override {
    put(stream, [=] { std::memset(memory, byte, bytes); });
  }

  gpu::Stream create_stream() override { return streams_.emplace_back(std::make_unique<CpuStream>()).get(); }
  void destroy(gpu::Stream stream) noexcept override {
    std::erase_if(streams_, [&](const auto& s) { return s.get() == stream; });
  }
  void wait(gpu::Stream stream) override { static_cast<CpuStream*>(stream)->wait(); }
  void wait_all() override {
    for (const auto& s : streams_) s->wait();
  }

  gpu::Event create_event() override { return new CpuEvent; }
  void destroy_event(gpu::Event event) noexcept override { delete static_cast<CpuEvent*>(event); }
  void record(gpu::Event event, gpu::Stream stream) override {
    const auto mark = std::make_shared<Mark>();
    static_cast<CpuEvent*>(event)->last = mark;
    put(stream, [mark] { mark->set(); });
  }
  void wait_event(gpu::Stream stream, gpu::Event event) override {
    const std::shared_ptr<Mark> mark = static_cast<CpuEvent*>(event)->last;
    if (mark) put(stream, [mark] { mark->wait(); });
  }
  double milliseconds(gpu::Event from, gpu::Event to) override {
    const auto at = [](gpu::Event e) {
      const auto& mark = static_cast<CpuEvent*>(e)->last;
      if (!mark) throw gpu::DeviceError("milliseconds: an event that was never recorded");
      return mark->at();
    };
    return std::chrono::duration<double, std::milli>(at(to) - at(from)).count();
  }

  void begin_capture(gpu::Stream) override { refuse(); }
  gpu::Graph end_capture(gpu::Stream) override { refuse(); }
  void launch(gpu::Graph, gpu::Stream) override { refuse(); }
  void destroy_graph(gpu::Graph) noexcept override {}
  std::vector<const void*> captured_tail(gpu::Stream) override { refuse(); }
  std::vector<gpu::GraphNode> read_back(gpu::Graph) override { refuse(); }

  void put(gpu::Stream stream, std::function<void()> work) const {
    static_cast<CpuStream*>(stream)->put(std::move(work));
  }

 private:
  static constexpr std::align_val_t kAlignment{256};
  [[noreturn]] static void refuse() {
    throw gpu::DeviceError("streams of the CPU capture nothing: use gpu-host, cuda or hip for graphs");
  }
  std::vector<std::unique_ptr<CpuStream>> streams_;
};

class CpuKernels final : public StreamKernels {
 public:
  explicit CpuKernels(const CpuRuntime& runtime) : runtime_(runtime) {}

  void absorb(const gpu::ProbeRanges& r, std::uint64_t* digest, gpu::Stream stream) const override {
    runtime_.put(stream, [=] {
      std::uint64_t sum = 0;
      for (int i = 0; i < r.count; ++i)
        for (std::int64_t b = 0; b < r.bytes[i]; ++b) sum += gpu::probe_term(r.data[i][b], i, b);
      *digest = gpu::probe_mix(*digest ^ sum);
    });
  }
  void emit(const gpu::ProbeRanges& r, const std::uint64_t* digest, std::uint64_t salt,
            gpu::Stream stream) const override {
    runtime_.put(stream, [=] {
      const std::uint64_t d = gpu::probe_mix(*digest + salt);
      for (int i = 0; i < r.count; ++i)
        for (std::int64_t b = 0; b < r.bytes[i]; ++b) r.data[i][b] = gpu::probe_byte(d, i, b);
    });
  }
  void delay(int microseconds, gpu::Stream stream) const override {
    runtime_.put(stream, [=] { std::this_thread::sleep_for(std::chrono::microseconds(microseconds)); });
  }
  void meet(std::uint32_t* mine, std::uint32_t* other, std::uint32_t* met, int microseconds,
            gpu::Stream stream) const override {
    runtime_.put(stream, [=] {
      const auto end = Clock::now() + std::chrono::microseconds(microseconds);
      __atomic_store_n(mine, 1u, __ATOMIC_RELEASE);
      bool seen = __atomic_load_n(other, __ATOMIC_ACQUIRE) != 0;
      while (!seen && Clock::now() < end) {
        std::this_thread::yield();
        seen = __atomic_load_n(other, __ATOMIC_ACQUIRE) != 0;
      }
      *met = seen ? 1 : 0;
    });
  }

  void router_logits(ConstView x, ConstView gate, View logits, gpu::Stream stream) const override {
    runtime_.put(stream, [=] {
      for (std::int64_t t = 0; t < x.shape[0]; ++t)
        for (std::int64_t e = 0; e < gate.shape[0]; ++e) {
          float sum = 0;
          for (std::int64_t c = 0; c < x.shape[1]; ++c)
            sum += static_cast<float>(x.at(t, c)) * static_cast<float>(gate.at(e, c));
          logits.set(t * gate.shape[0] + e, sum);
        }
    });
  }
  void gating(const reference::GatingOptions& options, ConstView router_logits, ConstView bias,
              View topk_weights, View topk_ids, gpu::Stream stream) const override {
    runtime_.put(stream, [=] { optimized::gating(options, router_logits, bias, topk_weights, topk_ids); });
  }
  std::size_t experts_workspace(const reference::ExpertsOptions&, reference::DType,
                                std::int64_t) const override {
    return 0;
  }
  void experts(const reference::ExpertsOptions& options, const reference::ExpertsInputs& inputs, View out,
               void*, gpu::Stream stream) const override {
    runtime_.put(stream, [=] { optimized::experts(options, inputs, out); });
  }
  void scale_rows(View x, float factor, gpu::Stream stream) const override {
    runtime_.put(stream, [=] {
      for (std::int64_t i = 0; i < x.shape.numel(); ++i) x.set(i, static_cast<float>(x.at(i)) * factor);
    });
  }
  void add_rows(ConstView x, View y, gpu::Stream stream) const override {
    runtime_.put(stream, [=] {
      for (std::int64_t i = 0; i < y.shape.numel(); ++i)
        y.set(i, static_cast<float>(y.at(i)) + static_cast<float>(x.at(i)));
    });
  }

 private:
  const CpuRuntime& runtime_;
};

class CpuDevice final : public StreamDevice {
 public:
  gpu::Runtime& runtime() override { return runtime_; }
  const StreamKernels& kernels() const override { return kernels_; }
  bool captures() const override { return false; }
  bool parallel() const override { return true; }

 private:
  CpuRuntime runtime_;
  CpuKernels kernels_{runtime_};
};

}  // namespace

std::unique_ptr<StreamDevice> make_cpu_stream_device() { return std::make_unique<CpuDevice>(); }

}  // namespace moecheck::harness::streams

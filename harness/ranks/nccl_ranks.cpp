#include "harness/ranks/nccl_ranks.h"

#include <dlfcn.h>
#include <fmt/format.h>

#include <exception>
#include <vector>

#include "harness/case.h"
#include "optimized/gpu/runtime.h"

namespace moecheck::harness::ranks {
namespace {

// As in nccl.h, with plain pointers for the handles. The numbers are part of NCCL's binary interface.
struct NcclId {
  char internal[128];
};
using NcclComm = void*;
constexpr int kUint8 = 1;

class Nccl {
 public:
  static Nccl& get() {
    static Nccl library;
    return library;
  }

  int (*get_id)(NcclId*) = nullptr;
  int (*init_rank)(NcclComm*, int, NcclId, int) = nullptr;
  int (*destroy)(NcclComm) = nullptr;
  int (*abort)(NcclComm) = nullptr;
  int (*group_start)() = nullptr;
  int (*group_end)() = nullptr;
  int (*send)(const void*, std::size_t, int, int, NcclComm, gpu::Stream) = nullptr;
  int (*receive)(void*, std::size_t, int, int, NcclComm, gpu::Stream) = nullptr;

  void require(int code, const char* call) const {
    if (code != 0)
      throw CommunicatorError(
          fmt::format("{}: {}; NCCL_DEBUG=WARN in the environment says more", call, error_text_(code)));
  }
  int version() const { return version_; }

 private:
  Nccl() : library_(dlopen("libnccl.so.2", RTLD_NOW | RTLD_LOCAL)) {
    if (library_ == nullptr)
      throw UsageError(
          fmt::format("--communicator nccl: libnccl.so.2 cannot be loaded ({}): install NCCL, or name its "
                      "folder in LD_LIBRARY_PATH",
                      dlerror()));
    int (*get_version)(int*) = nullptr;
    bind(get_version, "ncclGetVersion");
    if (get_version(&version_) != 0 || version_ < 2700)
      throw UsageError(
          fmt::format("--communicator nccl: NCCL {} is too old: 2.7 is the first that sends between pairs",
                      nccl_version_text(version_)));
    bind(error_text_, "ncclGetErrorString");
    bind(get_id, "ncclGetUniqueId");
    bind(init_rank, "ncclCommInitRank");
    bind(destroy, "ncclCommDestroy");
    bind(abort, "ncclCommAbort");
    bind(group_start, "ncclGroupStart");
    bind(group_end, "ncclGroupEnd");
    bind(send, "ncclSend");
    bind(receive, "ncclRecv");
  }
  template <class F>
  void bind(F*& function, const char* symbol) {
    function = reinterpret_cast<F*>(dlsym(library_, symbol));
    if (function == nullptr)
      throw UsageError(fmt::format("--communicator nccl: libnccl.so.2 has no {}", symbol));
  }

 public:
  static std::string nccl_version_text(int code) {  // the digits moved with 2.9
    const int major = code < 10000 ? code / 1000 : code / 10000;
    return fmt::format("{}.{}.{}", major, code < 10000 ? code % 1000 / 100 : code % 10000 / 100, code % 100);
  }

 private:
  void* library_;
  int version_ = 0;
  const char* (*error_text_)(int) = nullptr;
};

NcclId parse_id(const std::string& hex) {
  NcclId id{};
  if (hex.size() != 2 * sizeof id.internal) throw UsageError("an NCCL id has 256 hexadecimal digits");
  for (std::size_t i = 0; i < sizeof id.internal; ++i)
    id.internal[i] = static_cast<char>(std::stoi(hex.substr(2 * i, 2), nullptr, 16));
  return id;
}

class NcclCommunicator final : public Communicator {
 public:
  NcclCommunicator(const std::string& id, int rank, int size, const DeviceCompute& device, int buffers)
      : Communicator(rank, size, buffers),
        runtime_(*device.runtime),
        memory_(*device.compute),
        compute_(device.stream),
        stream_(runtime_.create_stream()),
        ready_(runtime_.create_event()),
        headers_out_(runtime_, sizeof(Header) * static_cast<std::size_t>(size)),
        headers_in_(runtime_, sizeof(Header) * static_cast<std::size_t>(size)) {
    nccl_.require(nccl_.init_rank(&comm_, size, parse_id(id), rank), "ncclCommInitRank");
  }
  ~NcclCommunicator() override {
    // After an error the others may never come: destroying would wait for them.
    const bool failed = std::uncaught_exceptions() > 0;
    if (comm_ != nullptr) (void)(failed ? nccl_.abort : nccl_.destroy)(comm_);
    runtime_.destroy_event(ready_);
    runtime_.destroy(stream_);
  }
  std::string_view kind() const override { return "nccl"; }

 protected:
  Buffer allocate(std::size_t bytes) override { return memory_.allocate(bytes); }

  std::vector<Header> exchange(const std::vector<Header>& mine) override {
    const std::vector<std::int64_t> one(mine.size(), 1);
    runtime_.copy_in(headers_out_.data(), mine.data(), mine.size() * sizeof(Header));
    runtime_.wait(nullptr);  // the copy's last part is on the default stream, which nothing else waits for
    send_and_receive({{sizeof(Header), headers_out_.data(), headers_in_.data()}}, one, one);
    runtime_.wait(stream_);
    std::vector<Header> theirs(mine.size());
    runtime_.copy_out(theirs.data(), headers_in_.data(), theirs.size() * sizeof(Header));
    return theirs;
  }

  void start(Transfer& t) override {
    runtime_.record(ready_,
                    compute_);  // what is sent has been written, and what is received into is not in use
    runtime_.wait_event(stream_, ready_);
    std::vector<Pieces> columns;
    for (std::size_t c = 0; c < t.out.columns.size(); ++c)
      columns.push_back(
          {t.out.columns[c].row_bytes, t.out.columns[c].rows.get(), t.in.columns[c].rows.get()});
    send_and_receive(columns, t.out.counts, t.in.counts);
    gpu::Runtime& runtime = runtime_;
    t.native =
        std::shared_ptr<void>(runtime.create_event(), [&runtime](void* e) { runtime.destroy_event(e); });
    runtime_.record(t.native.get(), stream_);
  }

  void finish(Transfer& t) override {
    runtime_.wait_event(compute_, t.native.get());
    runtime_.wait(compute_);  // buffers of both directions are free again when this returns
  }

 private:
  struct Pieces {
    std::size_t row_bytes;
    const void* out;
    void* in;
  };
  void send_and_receive(const std::vector<Pieces>& columns, const std::vector<std::int64_t>& out,
                        const std::vector<std::int64_t>& in) {
    nccl_.require(nccl_.group_start(), "ncclGroupStart");
    for (const Pieces& c : columns) {
      auto* from = static_cast<const std::byte*>(c.out);
      auto* to = static_cast<std::byte*>(c.in);
      for (std::size_t p = 0; p < out.size(); ++p) {
        const std::size_t sent = static_cast<std::size_t>(out[p]) * c.row_bytes,
                          received = static_cast<std::size_t>(in[p]) * c.row_bytes;
        const int peer = static_cast<int>(p);
        if (sent != 0) nccl_.require(nccl_.send(from, sent, kUint8, peer, comm_, stream_), "ncclSend");
        if (received != 0)
          nccl_.require(nccl_.receive(to, received, kUint8, peer, comm_, stream_), "ncclRecv");
        from += sent;
        to += received;
      }
    }
    nccl_.require(nccl_.group_end(), "ncclGroupEnd");
  }

  Nccl& nccl_ = Nccl::get();
  gpu::Runtime& runtime_;
  Compute& memory_;
  gpu::Stream compute_, stream_;
  gpu::Event ready_;
  gpu::Memory headers_out_, headers_in_;
  NcclComm comm_ = nullptr;
};

}  // namespace

std::string make_nccl_id() {
  const Nccl& nccl = Nccl::get();
  NcclId id{};
  nccl.require(nccl.get_id(&id), "ncclGetUniqueId");
  std::string hex;
  for (const char c : id.internal) hex += fmt::format("{:02x}", static_cast<unsigned char>(c));
  return hex;
}

std::string nccl_version() { return Nccl::nccl_version_text(Nccl::get().version()); }

std::unique_ptr<Communicator> make_nccl_communicator(const std::string& id, int rank, int size,
                                                     const DeviceCompute& device, int buffers) {
  return std::make_unique<NcclCommunicator>(id, rank, size, device, buffers);
}

}  // namespace moecheck::harness::ranks

#pragma once
// Ranks that send rows to each other: what expert parallelism needs of a network, and nothing more.
//
//   communicator.issue({"A0.dispatch", counts, {{H * 2, rows}, {8, tags}}});    dispatch_a
//   ... work of the other batch ...
//   Incoming in = communicator.wait("A0.dispatch");                             dispatch_b
//
// One transfer is an all-to-all: each rank sends counts[p] rows to each peer p, itself included. Every rank issues the same
// transfers in the same order and waits for them in the same order; issue() is where they agree on the name, on the sizes of rows
// and on the counts, so a rank that does something else is an error that names both, and no rank waits for what never comes. The
// rows travel between issue() and wait(): those sent must not change, those received are not there before.
//
// There are as many buffers as DeepEP's low-latency mode has, two. Upstream a third transfer under way hangs; here it is an error.
//
// Implementations: threads of one process (thread_ranks.h), MPI (mpi_ranks.h), NCCL between GPUs (nccl_ranks.h).
// Errors: CommunicatorError.
#include <cstddef>
#include <cstdint>
#include <memory>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

namespace moecheck::harness::ranks {

class CommunicatorError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

// Bytes that a communicator sends from or receives into: host memory, or with NCCL the device's, which only its driver may touch.
using Buffer = std::shared_ptr<std::byte>;

// What travels of each row in one piece; a row may have several, in buffers of their own.
struct Column {
  std::size_t row_bytes = 0;
  Buffer rows;  // those of peer 0 first
};

struct Outgoing {
  std::string name;                  // up to 47 bytes
  std::vector<std::int64_t> counts;  // rows for each peer
  std::vector<Column> columns;       // up to 4
};

struct Incoming {
  std::vector<std::int64_t> counts;  // rows of each peer
  std::vector<Column> columns;       // in the peers' order, each peer's in the order it sent them
  std::int64_t rows() const;
};

class Communicator {
 public:
  static constexpr int kBuffers = 2;

  Communicator(int rank, int size, int buffers);
  virtual ~Communicator() = default;
  Communicator(const Communicator&) = delete;
  Communicator& operator=(const Communicator&) = delete;

  virtual std::string_view kind() const = 0;  // "threads", "mpi", "nccl"
  int rank() const { return rank_; }
  int size() const { return size_; }

  // A transfer of no name that is under way. Throws where it is not the one the others issue, and where all buffers are in use.
  void issue(Outgoing outgoing);
  // The oldest transfer of that name. Throws where it was not issued.
  Incoming wait(std::string_view name);
  // Returns when all ranks have come.
  void barrier(std::string_view name = "barrier");

  // Transfers issued and not waited for: now, and the most since start_count().
  int outstanding() const { return static_cast<int>(under_way_.size()); }
  int most_outstanding() const { return most_; }
  void start_count() { most_ = outstanding(); }

 protected:
  // What one rank tells another of a transfer.
  struct Header {
    char name[48] = {};
    std::uint64_t row_bytes[4] = {};
    std::int64_t rows = 0;
  };
  struct Transfer {
    Outgoing out;
    Incoming in;
    std::shared_ptr<void> native;  // the implementation's own
  };

  virtual Buffer allocate(std::size_t bytes) = 0;
  // Header p of `mine` goes to peer p; returns the one of each peer. A rendezvous.
  virtual std::vector<Header> exchange(const std::vector<Header>& mine) = 0;
  virtual void start(Transfer& transfer) = 0;
  virtual void finish(Transfer& transfer) = 0;

 private:
  std::vector<Header> agree(std::string_view name, const Outgoing& outgoing);

  int rank_, size_, buffers_, most_ = 0;
  std::vector<std::unique_ptr<Transfer>> under_way_;
};

// Host memory.
Buffer host_buffer(std::size_t bytes);

}  // namespace moecheck::harness::ranks

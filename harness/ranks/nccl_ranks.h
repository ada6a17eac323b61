#pragma once
// Ranks as processes of one host with a GPU each, by NCCL: rows go from device memory to device memory by grouped ncclSend and
// ncclRecv on a stream of their own, between events of the computing stream: issue() is dispatch_a, wait() dispatch_b.
//
// NCCL's library, libnccl.so.2, is opened at run time; no build depends on it. Errors: CommunicatorError, UsageError where the
// library is missing or older than 2.7, the first with ncclSend and ncclRecv.
#include <memory>
#include <string>

#include "harness/ranks/compute.h"

namespace moecheck::harness::ranks {

// What the ranks of one communicator share, 256 hexadecimal digits. Made by the process that starts them, which must outlive the
// start: it answers the ranks' first calls.
std::string make_nccl_id();
// "2.28.9"
std::string nccl_version();

// Collective over `size` processes. `device` is where kernels write what is sent and read what comes; it outlives what is returned.
std::unique_ptr<Communicator> make_nccl_communicator(const std::string& id, int rank, int size,
                                                     const DeviceCompute& device,
                                                     int buffers = Communicator::kBuffers);

}  // namespace moecheck::harness::ranks

#pragma once
// Ranks with a GPU each: this program started once for each of them, joined by NCCL.
#include <memory>
#include <optional>
#include <string>

#include "harness/ranks/communicator.h"
#include "harness/ranks/compute.h"

namespace moecheck::harness::ranks {

// Starts this command again as ranks 0 to n - 1, rank r with the r-th GPU that this process may use (CUDA_VISIBLE_DEVICES), and
// returns rank 0's exit code, or that of the first that fails; then the others are ended. It touches no GPU itself. Throws
// UsageError where NCCL is missing.
int start_gpu_ranks(int ranks);

// Which of them this process is; nothing where it is none.
struct GpuRank {
  int rank = 0, ranks = 1;
  std::string id;  // make_nccl_id()
};
std::optional<GpuRank> this_gpu_rank();

struct GpuRankParts {
  DeviceCompute device;  // first made, last destroyed
  std::unique_ptr<Communicator> communicator;
  std::unique_ptr<Communicator> alone;  // of one rank: for what the others are compared with. Rank 0 has it.
  std::string description;              // "NCCL 2.28.9, NVIDIA H100 80GB HBM3 (CUDA driver 13.0)"
};
// Collective over the ranks. Throws UsageError, CommunicatorError, gpu::DeviceError.
GpuRankParts join_gpu_ranks(const GpuRank& me, int buffers);

}  // namespace moecheck::harness::ranks

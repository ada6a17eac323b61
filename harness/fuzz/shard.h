#pragma once
// Which part of a campaign this process has: one of N, told by hand or by what started it.
#include <functional>
#include <string>
#include <string_view>

namespace moecheck::harness {

struct Shard {
  int index = 0, count = 1;  // index in [0, count)
  std::string source;        // the variable that said so; empty when nobody did
};

// "I/N", I from 0 to N - 1. Throws UsageError.
Shard parse_shard(std::string_view text);

// From mpirun (Open MPI; MPICH and what else sets PMI_RANK), srun, a Slurm array or a Kubernetes indexed job, in this order.
// No MPI library is used: a rank that dies takes nobody with it. A job index whose count is not known is a UsageError, because all
// would do the same work. `variable` is what getenv() is: nullptr where a name is not set.
Shard shard_of_environment(const std::function<const char*(const char*)>& variable);

// "run.jsonl" for shard 2 of 4: "run.2-of-4.jsonl". Unchanged for a single one.
std::string path_of_shard(const std::string& path, const Shard& shard);

}  // namespace moecheck::harness

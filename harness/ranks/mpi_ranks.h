#pragma once
// Ranks as processes, on one host or several, by MPI: mpirun -n 4 moecheck streams ranks --communicator mpi.
//
// Compiled in where CMake finds MPI (MOECHECK_MPI=AUTO, ON or OFF); elsewhere make_mpi_ranks() throws a UsageError that says how to
// get it. Transfers are non-blocking MPI_Ialltoallv.
#include <memory>
#include <string>

#include "harness/ranks/communicator.h"

namespace moecheck::harness::ranks {

bool has_mpi();

// One at most in a process. Its first call starts MPI, its destructor ends it.
class MpiRanks {
 public:
  virtual ~MpiRanks() = default;
  virtual Communicator& communicator() = 0;
  virtual std::string version() const = 0;  // "Open MPI v4.1.4, ..."
  // Ends all ranks: for one that cannot go on, since the others would wait for it.
  virtual void abort(int exit_code) = 0;
};
std::unique_ptr<MpiRanks> make_mpi_ranks(int buffers = Communicator::kBuffers);

}  // namespace moecheck::harness::ranks

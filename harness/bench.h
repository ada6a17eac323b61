#pragma once
// Timing operators: the median of repeated runs, beside what the machine's memory allows.
#include <cstdint>
#include <string>
#include <vector>

#include "harness/implementation.h"

namespace moecheck::harness {

struct BenchOptions {
  int threads = 1;
  double seconds = 0.5;  // per measurement, at least; and at least 5 runs
};

struct BenchResult {
  std::string case_line, implementation;
  double median_seconds = 0, fastest_seconds = 0;
  double reference_seconds = 0;  // of the scalar reference, once; 0 where it was not run
  // That must be read at least once: inputs, and of expert weights those of routed experts; or Operator::bytes_moved.
  double bytes = 0;
  double bandwidth = 0;  // bytes / median_seconds
  std::int64_t tokens = 0, runs = 0;
  double copy_bandwidth = 0;  // of the device it ran on; 0: it ran on the host
  std::string verdict, reason;  // of a timed run's outputs; why, where it is a failure
};

// Bytes per second at which `threads` threads read 1 GiB, the best of five passes.
double read_bandwidth(int threads);
// Bytes per second, read and written ones together, at which `threads` threads copy 512 MiB, the best of five passes.
double copy_bandwidth(int threads);

// An implementation that runs in workers only is measured in one; where that dies or the run fails, the verdict
// (CRASH, TIMEOUT) is all there is.
BenchResult bench_case(const Case& c, const Implementation& implementation, const BenchOptions& options);

// What `moecheck bench operators` measures without --case.
std::vector<std::string> bench_lines();

}  // namespace moecheck::harness

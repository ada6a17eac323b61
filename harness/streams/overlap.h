#pragma once
// Whether what a program lets run at the same time does so on a device, and what that is worth.
#include <vector>

#include "harness/streams/execution.h"

namespace moecheck::harness::streams {

// A pair that a program declares (StreamProgram::overlaps).
struct PairOverlap {
  int first = 0, second = 0;  // steps
  // Two kernels in their places, that each wait for the other for `patience` microseconds, met: the device may run both at once. A
  // kernel that is too large for it may still have to wait.
  bool met = false;
  // From events around the operations' own kernels; 0 where the program is captured. Medians.
  double first_us = 0, second_us = 0, both_us = 0;
};

struct OverlapOptions {
  int patience = 20000;
  int repeats = 30;  // timed runs
};

// Of a device that is parallel(). Throws gpu::DeviceError with what the device refused.
std::vector<PairOverlap> measure_overlap(const reference::StreamProgram& program, StreamDevice& device,
                                         OperationBody& body, const OverlapOptions& options = {});

// Microseconds of one run of the program, from many in a row; median of `repeats`.
double time_program(const reference::StreamProgram& program, StreamDevice& device, OperationBody& body,
                    int repeats);

}  // namespace moecheck::harness::streams

#pragma once
// The client measured with a known quantity: the embedded server's scripted engine, whose delays are set, in this
// process and on another thread. What differs from the known delays is the client's error, the server's and the loopback
// device's together: an upper bound of the client's.
#include <cstdint>
#include <string>
#include <vector>

#include "harness/load/metrics.h"

namespace moecheck::harness::load {

struct CalibrationPoint {
  std::int64_t concurrency = 0, requests = 0, tokens = 0;
  double first_ms = 0, gap_ms = 0;  // as set
  Summary ttft_error, itl_error;    // measured - set, seconds, with p1 and p99
  bool holds = false;               // medians within 0.5 ms, 98% of the TTFT errors within 5 ms
};

struct Calibration {
  std::vector<CalibrationPoint> points;
  // Without any delay, one thread of the client against one of the server.
  double requests_per_second = 0, cpu_us_per_request = 0;  // 16 tokens in, 4 out
  double events_per_second = 0, cpu_us_per_event = 0;      // 256 out, an event each
  std::vector<std::string> broken;                         // requests that failed, points that do not hold
};

// About `seconds` long. Throws UsageError where no server can be started.
Calibration calibrate(double seconds = 8);

}  // namespace moecheck::harness::load

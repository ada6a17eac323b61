#pragma once
// The rules of stream capture, as a state machine over a stream program: which steps a capture takes, and the error that a CUDA
// runtime returns for a step that breaks a rule (HIP has the same codes).
//
//   begin_capture(s)   not on the legacy stream (900), not while s is captured (401)
//   wait(s, e)         inside a capture, e was recorded in the same capture: recorded outside 905, in another one 902, in one that
//                      has ended 907. A stream that waits for a captured event becomes part of the capture
//   host_sync          not for a captured stream, nor for the device while there is a capture (900), nor for a captured event (907)
//   legacy stream      takes nothing while a blocking stream is captured (906)
//   end_capture(s)     on the stream where it began (else 903; 401 where s is not captured), when the work of every other stream
//                      of the capture was joined: the origin waited for all of it (else 904)
// A call that is refused makes the capture invalid: end_capture returns 901.
//
// Sources: CUDA programming guide, runtime API error codes. Unconfirmed: 401 (illegal state) for a second begin and for an end
// without a beginning; that a fork without any work needs no join (taken so here); 907 for a wait behind the capture's end.
#include <string>
#include <string_view>
#include <vector>

#include "reference/stream_program.h"

namespace moecheck::reference {

struct CaptureError {
  int code = 0;  // of cudaError_t; 0: no device says anything, and yet it is wrong
  int step = 0;
  int cause = -1;  // the step that it is about, where that is another one
  std::string message;
};
std::string_view capture_error_name(int code);  // "cudaErrorStreamCaptureUnjoined"

struct CaptureFacts {
  std::vector<CaptureError> errors;
  std::vector<int>
      graph_of_step;  // the capture that took the step, or -1; of alloc and free: that of the pool's stream
};

// `skip`: a step that is left out.
CaptureFacts capture_facts(const StreamProgram& program, int skip = -1);

}  // namespace moecheck::reference

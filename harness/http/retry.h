#pragma once
// When a failed request is sent again, and after how long.
#include <cstdint>
#include <optional>

#include "harness/http/openai.h"
#include "harness/random.h"

namespace moecheck::harness::http {

struct RetryPolicy {
  int max_retries = 8;           // after the first attempt; 0: none
  double first_s = 0.5;          // the first wait, doubled each time ...
  double longest_s = 30;         // ... up to this
  double longest_asked_s = 600;  // a Retry-After beyond this is an error at once
};

// True where sending the same bytes again can help: the transport failed, the answer was cut or garbled, or the status
// is 408, 409, 425, 429 or 5xx. False for 400, 401, 404 and the like, a wrong TLS certificate, a body too large, cancelled.
bool may_help(const Error& error);

// Seconds to wait before retry number `attempt` (0 is the first), or nothing when there is to be none. The wait is
// min(longest_s, first_s * 2^attempt) times a factor in [0.5, 1) drawn from `jitter` at `attempt`, and never less than
// the server's Retry-After.
std::optional<double> retry_delay(const RetryPolicy& policy, const Error& error, int attempt,
                                  const Random& jitter);

}  // namespace moecheck::harness::http

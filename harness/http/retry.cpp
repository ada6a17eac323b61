#include "harness/http/retry.h"

#include <algorithm>
#include <cmath>

#include "harness/fault.h"

namespace moecheck::harness::http {

bool may_help(const Error& error) {
  switch (error.kind) {
    case ErrorKind::kRefused:
    case ErrorKind::kUnreachable:
    case ErrorKind::kReset:
    case ErrorKind::kTimeout:
    case ErrorKind::kRateLimited:
    case ErrorKind::kServerError:
    case ErrorKind::kTruncated:
    case ErrorKind::kInvalidJson:
    case ErrorKind::kInvalidResponse:
    case ErrorKind::kWrongContentType:
    case ErrorKind::kMidStream:
    case ErrorKind::kOther:
      return true;
    case ErrorKind::kClientError:
      return HARNESS_FAULT(kClientRetriesBadRequests) || error.status == 408 || error.status == 409 ||
             error.status == 425;
    case ErrorKind::kNone:
    case ErrorKind::kTooLarge:
    case ErrorKind::kTls:
    case ErrorKind::kCancelled:
      return false;
  }
  return false;
}

std::optional<double> retry_delay(const RetryPolicy& policy, const Error& error, int attempt,
                                  const Random& jitter) {
  if (attempt >= policy.max_retries + (HARNESS_FAULT(kClientOneRetryMore) ? 1 : 0) || !may_help(error))
    return std::nullopt;
  const double asked = HARNESS_FAULT(kClientRetryAfterIgnored) ? 0 : error.retry_after_s.value_or(0);
  if (asked > policy.longest_asked_s) return std::nullopt;
  // Half of the wait is fixed and half is chance: clients that failed together do not come back together.
  const double full =
      std::min(policy.longest_s,
               policy.first_s * std::exp2(HARNESS_FAULT(kClientNoBackoff) ? 0 : std::min(attempt, 60)));
  const double own = full * (0.5 + 0.5 * jitter.uniform(static_cast<std::uint64_t>(attempt)));
  return std::max(own, asked);
}

}  // namespace moecheck::harness::http

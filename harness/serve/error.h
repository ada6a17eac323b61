#pragma once
// Errors in OpenAI's form.
#include <optional>
#include <string>
#include <string_view>

#include "harness/serve/http_server.h"

namespace moecheck::harness::serve {

struct ApiError {
  int status = 400;
  std::string message;
  std::string type = "invalid_request_error";
  std::string param = {}, code = {};  // empty: null
};

std::string error_json(const ApiError& error);  // {"error":{"message","type","param","code"}}
HttpReply error_reply(const ApiError& error);   // 429 and 503 with Retry-After: 1, 401 with WWW-Authenticate

// Appends `text`, which must be UTF-8, as a JSON string.
void append_json_string(std::string& out, std::string_view text);

}  // namespace moecheck::harness::serve

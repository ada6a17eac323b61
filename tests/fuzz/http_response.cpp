// Answers of servers: whole or streamed, cut anywhere, with any status and content type.
#include "harness/http/openai.h"

#include "target.h"

using namespace moecheck;
using namespace moecheck::harness::http;

namespace {

Generation read(Api api, bool stream, int status, const std::string& type, std::string_view body,
                std::size_t piece) {
  Response response;
  response.status = status;
  response.headers = {{"Content-Type", type}};
  ResponseReader reader(api, stream);
  reader.headers(response);
  if (!stream) response.body = body;
  for (std::size_t at = 0; stream && at < body.size(); at += piece) {
    const std::string copy(body.substr(at, piece));
    reader.body(copy, 1);
  }
  return reader.done(std::move(response));
}

}  // namespace

MOECHECK_FUZZ_TARGET(http_response) {
  const std::uint8_t how = fuzz::take_byte(bytes);
  const Api api = (how & 1) != 0 ? Api::kChat : Api::kCompletions;
  const bool stream = (how & 2) != 0;
  const int status = (how & 4) != 0 ? 500 : 200;
  const std::string type = (how & 8) != 0 ? "text/html" : stream ? "text/event-stream" : "application/json";
  const std::string_view body = fuzz::text_of(bytes);
  const Generation whole = read(api, stream, status, type, body, body.size() + 1);
  const Generation pieces = read(api, stream, status, type, body, 1 + (how >> 4));
  if (whole.text != pieces.text || whole.error.kind != pieces.error.kind ||
      whole.finish_reason != pieces.finish_reason)
    fuzz::broken("the answer depends on where reads are cut");
  if (!whole.error && whole.finish_reason.empty()) fuzz::broken("no error, and no finish_reason");
  if (status == 500 && !whole.error) fuzz::broken("status 500 is no error");
}

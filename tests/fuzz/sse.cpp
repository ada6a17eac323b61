// Server-sent events: cut anywhere, the same events come out.
#include "harness/http/sse.h"

#include "target.h"

using namespace moecheck;

namespace {

std::string events(std::string_view text, std::size_t piece) {
  harness::http::SseParser parser;
  harness::http::SseEvent event;
  std::string all;
  const auto put = [&] {
    all +=
        std::string(event.type) + "\x1f" + std::string(event.data) + "\x1f" + std::string(event.id) + "\x1e";
  };
  for (std::size_t at = 0; at < text.size(); at += piece) {
    // A copy of its own, so that reading past a piece is seen.
    const std::string copy(text.substr(at, piece));
    std::string_view rest = copy;
    while (parser.next(rest, event)) put();
    if (!rest.empty()) fuzz::broken("bytes are left although no event came");
  }
  if (parser.finish(event)) put();
  return all;
}

}  // namespace

MOECHECK_FUZZ_TARGET(sse) {
  const std::size_t piece = 1 + fuzz::take_byte(bytes) % 16;
  const std::string_view text = fuzz::text_of(bytes);
  const std::string whole = events(text, text.size() + 1);
  if (events(text, piece) != whole) fuzz::broken("events depend on where reads are cut");
  if (events(text, 1) != whole) fuzz::broken("events depend on where reads are cut: single bytes");
}

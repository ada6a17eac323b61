#include "harness/serve/event_stream.h"

#include <fmt/format.h>

#include <algorithm>
#include <vector>

#include "harness/random.h"

namespace moecheck::harness::serve {

void EventStream::begin() {
  if (style_.split) exchange_.dribble();
  HttpReply head;
  head.content_type = "text/event-stream; charset=utf-8";
  head.headers.emplace_back("Cache-Control", "no-cache");
  exchange_.begin(head);
}

std::string EventStream::lines(std::string_view data) {
  const std::string_view end = style_.crlf ? "\r\n" : "\n";
  std::string out;
  out.reserve(data.size() + 16);
  if (style_.bom && events_ == 0) out += "\xEF\xBB\xBF";
  if (style_.comments) {
    out.append(": ping").append(end).append(end);
    out.append("event: message").append(end).append(fmt::format("id: {}", events_)).append(end);
  }
  return out.append("data: ").append(data).append(end).append(end);
}

void EventStream::event(std::string_view data) {
  const std::string out = lines(data);
  ++events_;
  if (style_.split)
    write_split(exchange_, out, mix64(draw_ + static_cast<std::uint64_t>(events_)));
  else
    exchange_.write(out);
}

void EventStream::half(std::string_view data) {
  exchange_.write(lines(data.substr(0, data.size() / 2 + 1)).substr(0, data.size() / 2));
}

void write_split(Exchange& exchange, std::string_view bytes, std::uint64_t draw) {
  const Random random(draw, "split");
  std::vector<std::size_t> cuts{bytes.size()};
  const auto wide = std::find_if(bytes.begin(), bytes.end(),
                                 [](char c) { return (c & 0xC0) == 0x80; });  // not a first byte
  if (wide != bytes.end()) cuts.push_back(static_cast<std::size_t>(wide - bytes.begin()));
  if (bytes.size() > 1) {
    const auto last = static_cast<std::int64_t>(bytes.size()) - 1;
    cuts.push_back(static_cast<std::size_t>(random.integer(0, 1, last)));
    cuts.push_back(static_cast<std::size_t>(random.integer(1, std::max<std::int64_t>(last - 2, 1), last)));
  }
  std::sort(cuts.begin(), cuts.end());
  std::size_t from = 0;
  for (const std::size_t cut : cuts) {
    exchange.write(bytes.substr(from, cut - from));
    from = cut;
  }
}

}  // namespace moecheck::harness::serve

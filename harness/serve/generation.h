#pragma once
// One completions or chat request while it is being answered: deltas in, an answer or a stream of events out.
#include <atomic>
#include <memory>
#include <string>
#include <vector>

#include "harness/serve/chaos.h"
#include "harness/serve/event_stream.h"
#include "harness/serve/feed.h"
#include "harness/serve/metrics.h"
#include "harness/serve/render.h"
#include "harness/serve/request.h"

namespace moecheck::harness::serve {

class Generation {
 public:
  Generation(GenerationSpec spec, ChaosPlan plan, RenderOptions render, std::shared_ptr<Exchange> exchange,
             Metrics& metrics);

  const GenerationSpec& spec() const { return spec_; }
  const ChaosPlan& plan() const { return plan_; }
  const std::shared_ptr<std::atomic<bool>>& cancelled() const { return cancelled_; }

  // Returns whether the request is over.
  bool take(Delta&& delta);
  // The client has gone: the engine's sequences end with their next update.
  void abandon();

 private:
  // A delta, held back where several are to be one event.
  struct Choice {
    Delta held;
    std::int64_t held_count = 0, tokens = 0;
    TextPosition position;
    bool role_sent = false, prompt_sent = false, over = false;
  };

  std::size_t sequences() const { return spec_.prompts.size() * static_cast<std::size_t>(spec_.n); }
  const std::vector<TokenId>* echoed(std::size_t sequence) const;
  void count(const Delta& delta);
  Usage usage() const;
  std::string usage_of_event(bool last) const;
  void emit(std::size_t sequence);
  bool disturbed(const std::string& event, bool last);  // whether a fault took the event's place
  bool finish_stream();
  bool fail(const std::string& message);
  void finish_whole();

  const GenerationSpec spec_;
  const ChaosPlan plan_;
  const Renderer renderer_;
  const std::shared_ptr<Exchange> exchange_;
  Metrics& metrics_;
  const std::shared_ptr<std::atomic<bool>> cancelled_ = std::make_shared<std::atomic<bool>>(false);
  const std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
  std::vector<Choice> choices_;
  EventStream stream_;
  bool begun_ = false, over_ = false;
  std::size_t left_;  // sequences that have not ended
  std::int64_t cached_tokens_ = 0;
};

}  // namespace moecheck::harness::serve

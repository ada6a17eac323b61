#include "harness/serve/generation.h"

#include <algorithm>

#include "harness/fault.h"

namespace moecheck::harness::serve {

using UsagePlace = StreamStyle::Usage;

Generation::Generation(GenerationSpec spec, ChaosPlan plan, RenderOptions render,
                       std::shared_ptr<Exchange> exchange, Metrics& metrics)
    : spec_(std::move(spec)),
      plan_(plan),
      renderer_(std::move(render)),
      exchange_(std::move(exchange)),
      metrics_(metrics),
      choices_(sequences()),
      stream_(*exchange_, plan_.style, plan_.draw),
      left_(choices_.size()) {
  for (const auto& prompt : spec_.prompts) metrics_.prompt_tokens += static_cast<std::int64_t>(prompt.size());
}

void Generation::count(const Delta& d) {
  metrics_.generation_tokens += d.tokens;
  if (d.first_token_seconds >= 0) metrics_.first_token_seconds.add(d.first_token_seconds);
  for (const double gap : d.gaps) metrics_.inter_token_seconds.add(gap);
  if (d.sequence % static_cast<std::size_t>(spec_.n) == 0) cached_tokens_ += d.cached_prompt_tokens;
  if (d.ending == Ending::kNone) return;
  (d.ending == Ending::kStop     ? metrics_.stopped
   : d.ending == Ending::kLength ? metrics_.length
                                 : metrics_.failed)++;
  metrics_.request_seconds.add(
      std::chrono::duration<double>(std::chrono::steady_clock::now() - start_).count());
}

const std::vector<TokenId>* Generation::echoed(std::size_t sequence) const {
  return spec_.echo ? &spec_.prompts[sequence / static_cast<std::size_t>(spec_.n)] : nullptr;
}

Usage Generation::usage() const {
  Usage u;
  for (const auto& prompt : spec_.prompts) u.prompt_tokens += static_cast<std::int64_t>(prompt.size());
  for (const Choice& c : choices_)
    u.completion_tokens = (HARNESS_FAULT(kServeUsageOfLastChoice) ? 0 : u.completion_tokens) + c.tokens;
  u.cached_tokens = cached_tokens_;
  return u;
}

bool Generation::take(Delta&& delta) {
  if (over_) return true;
  count(delta);
  if (delta.ending == Ending::kError) return fail(delta.error);
  const std::size_t sequence = delta.sequence;
  Choice& c = choices_[sequence];
  c.over = delta.ending != Ending::kNone;
  left_ -= c.over ? 1 : 0;
  c.tokens += delta.tokens;
  c.held.append(std::move(delta));
  ++c.held_count;
  if (!spec_.stream) {
    if (left_ > 0) return false;
    finish_whole();
    return over_ = true;
  }
  if (!begun_) stream_.begin();
  begun_ = true;
  if (plan_.style.multi_token && !c.over && c.held_count < 2 + static_cast<std::int64_t>(plan_.draw % 4))
    return false;
  emit(sequence);
  return over_ || (left_ == 0 && finish_stream());
}

// The member's value, or nothing where there is no such member.
std::string Generation::usage_of_event(bool last) const {
  if (plan_.style.no_usage) return {};
  const UsagePlace place = plan_.style.usage;
  if (place == UsagePlace::kEvery || (place == UsagePlace::kLast && last) ||
      (place == UsagePlace::kAsked && spec_.continuous_usage))
    return renderer_.usage_json(usage());
  return spec_.include_usage && place == UsagePlace::kAsked ? "null" : "";
}

void Generation::emit(std::size_t sequence) {
  Choice& c = choices_[sequence];
  if (!c.role_sent && (spec_.api == Api::kChat || plan_.style.role_only))
    stream_.event(renderer_.role_event(sequence, usage_of_event(false)));
  c.role_sent = true;
  const bool last = left_ == 0;
  const std::vector<TokenId>* prompt = c.prompt_sent ? nullptr : echoed(sequence);
  c.prompt_sent = true;
  const std::string event = renderer_.event(sequence, c.held, prompt, c.position, usage_of_event(last));
  c.held = {};
  c.held_count = 0;
  if (!disturbed(event, last)) stream_.event(event);
}

bool Generation::disturbed(const std::string& event, bool last) {
  const auto place = 1 + static_cast<std::int64_t>(plan_.draw >> 8 & 7);
  const bool here = stream_.events() >= place || last;
  switch (plan_.fault) {
    case Fault::kTruncate:
      if (!here) return false;
      stream_.half(event);
      exchange_->drop(false);
      break;
    case Fault::kCut:
      if (!here) return false;
      exchange_->finish();
      break;
    case Fault::kErrorEvent:
      return here && fail("the engine failed, as it was asked to");
    case Fault::kInvalidJson:
      if (stream_.events() != place && !(last && stream_.events() < place)) return false;
      stream_.event(event.substr(0, event.size() - 2));
      return true;
    default:
      return false;
  }
  abandon();
  return true;
}

bool Generation::finish_stream() {
  if (!plan_.style.no_usage) {
    const UsagePlace place = plan_.style.usage;
    if (place == UsagePlace::kSeparate || (place == UsagePlace::kAsked && spec_.include_usage))
      stream_.event(renderer_.usage_event(usage()));
  }
  if (plan_.fault != Fault::kNoDone && !HARNESS_FAULT(kServeDoneMissing)) stream_.event("[DONE]");
  exchange_->finish();
  return over_ = true;
}

// An error of the engine: of status 500 while nothing has been said, else an event.
bool Generation::fail(const std::string& message) {
  const ApiError error{500, message, "server_error"};
  if (begun_) {
    stream_.event(error_json(error));
    stream_.event("[DONE]");
    exchange_->finish();
  } else {
    exchange_->reply(error_reply(error));
  }
  cancelled_->store(true);
  return over_ = true;
}

void Generation::finish_whole() {
  std::vector<Delta> deltas;
  std::vector<const std::vector<TokenId>*> prompts;
  for (std::size_t i = 0; i < choices_.size(); ++i) {
    deltas.push_back(std::move(choices_[i].held));
    prompts.push_back(echoed(i));
  }
  HttpReply reply;
  reply.body = renderer_.whole(deltas, prompts, plan_.style.no_usage ? "" : renderer_.usage_json(usage()));
  switch (plan_.fault) {
    case Fault::kErrorEvent:
      fail("the engine failed, as it was asked to");
      return;
    case Fault::kTruncate:
      exchange_->begin(reply);
      exchange_->write(std::string_view(reply.body).substr(0, reply.body.size() / 2));
      exchange_->drop(false);
      return;
    case Fault::kCut:
    case Fault::kInvalidJson:
      reply.body.resize(reply.body.size() / 2);
      break;
    default:
      break;
  }
  if (!plan_.style.split) return exchange_->reply(std::move(reply));
  exchange_->dribble();
  exchange_->begin(reply);
  write_split(*exchange_, reply.body, plan_.draw);
  exchange_->finish();
}

void Generation::abandon() {
  if (over_) return;
  over_ = true;
  cancelled_->store(true);
  metrics_.aborted += static_cast<std::int64_t>(left_);
}

}  // namespace moecheck::harness::serve

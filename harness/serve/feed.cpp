#include "harness/serve/feed.h"

#include <iterator>
#include <utility>

namespace moecheck::harness::serve {
namespace {

template <class T>
void move_to_end(std::vector<T>& to, std::vector<T>&& from) {
  if (to.empty())
    to = std::move(from);
  else
    to.insert(to.end(), std::make_move_iterator(from.begin()), std::make_move_iterator(from.end()));
}

}  // namespace

void Delta::append(Delta&& later) {
  text += later.text;
  tokens += later.tokens;
  move_to_end(logprobs, std::move(later.logprobs));
  move_to_end(prompt_logprobs, std::move(later.prompt_logprobs));
  cached_prompt_tokens += later.cached_prompt_tokens;
  ending = later.ending;
  error = std::move(later.error);
  if (later.first_token_seconds >= 0) first_token_seconds = later.first_token_seconds;
  move_to_end(gaps, std::move(later.gaps));
}

void Mailbox::put(Delta&& delta) {
  const std::lock_guard lock(mutex_);
  if (closed_) return;
  deltas_.push_back(std::move(delta));
  if (deltas_.size() == 1) wake_();
}

std::vector<Delta> Mailbox::take() {
  const std::lock_guard lock(mutex_);
  return std::exchange(deltas_, {});
}

void Mailbox::close() {
  const std::lock_guard lock(mutex_);
  closed_ = true;
  deltas_.clear();
}

Feed::Feed(FeedOptions options)
    : o_(std::move(options)), text_(o_.stop), start_(Clock::now()), last_(start_) {
  ++*o_.in_flight;
}

Feed::~Feed() { release(); }

void Feed::release() {
  if (!released_) --*o_.in_flight;
  released_ = true;
}

void Feed::add_tokens(const GenerationUpdate& u) {
  for (std::size_t i = 0; i < u.tokens.size(); ++i) {
    ++pending_.tokens;
    if (o_.logprobs && i < u.logprobs.size()) pending_.logprobs.push_back(u.logprobs[i]);
    if (text_.add(o_.tokenizer->bytes(u.tokens[i]))) {
      pending_.ending = Ending::kStop;
      return;
    }
  }
}

bool Feed::update(const GenerationUpdate& u) {
  if (o_.cancelled->load(std::memory_order_relaxed)) {
    release();
    return false;
  }
  const Clock::time_point now = Clock::now();
  const double gap = std::chrono::duration<double>(now - last_).count();
  last_ = now;
  if (first_) {
    text_.add_prompt(std::exchange(o_.echo, {}));  // once: an update may come before the first token
    if (!u.tokens.empty()) pending_.first_token_seconds = gap;
  } else if (!u.tokens.empty()) {
    pending_.gaps.push_back(gap);
  }
  first_ = first_ && u.tokens.empty() && u.finish == Finish::kNo;
  if (!u.prompt_logprobs.empty()) pending_.prompt_logprobs = u.prompt_logprobs;
  pending_.cached_prompt_tokens += u.cached_prompt_tokens;
  add_tokens(u);
  if (pending_.ending == Ending::kNone) {
    if (u.finish == Finish::kEnd) pending_.ending = Ending::kStop;
    if (u.finish == Finish::kLength) pending_.ending = Ending::kLength;
    if (u.finish == Finish::kError) pending_.ending = Ending::kError, pending_.error = u.error;
  }
  const bool over = pending_.ending != Ending::kNone;
  if (over) {
    text_.finish();
    release();
  }
  if (over || !o_.whole) {
    pending_.text = text_.take();
    pending_.generation = o_.generation;
    pending_.sequence = o_.sequence;
    o_.mailbox->put(std::exchange(pending_, {}));
  }
  return !over;
}

}  // namespace moecheck::harness::serve

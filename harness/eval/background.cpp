#include "harness/eval/background.h"

#include <fmt/format.h>

#include <algorithm>

#include "harness/random.h"

namespace moecheck::harness::eval {

struct Background::Slot {
  http::Client::Id id = 0;
  bool answering = false;  // has begun to answer at least once
};

Background::Background(const PromptSet& prompts, Settings settings, Target target, int concurrency)
    : prompts_(prompts),
      settings_(std::move(settings)),
      target_(std::move(target)),
      slots_(static_cast<std::size_t>(concurrency)) {}

Background::~Background() = default;

void Background::start(http::Client& client) {
  began_ = http::now();
  for (Slot& slot : slots_) send(client, slot);
}

void Background::send(http::Client& client, Slot& slot) {
  const Random random(settings_.seed, "background");
  const std::uint64_t n = sent_++;
  const auto last = static_cast<std::int64_t>(prompts_.prompts.size()) - 1;
  const Prompt& prompt = prompts_.prompts[static_cast<std::size_t>(random.integer(2 * n, 0, last))];
  const std::string own_words = fmt::format("Note {:x}.\n\n", random.bits(2 * n + 1));
  http::Generate g;
  g.api = request_api(prompts_.options.api);
  g.model = target_.model;
  g.text = own_words + prompt.text;
  for (const Message& m : prompt.messages) g.messages.push_back({m.role, m.content});
  if (!g.messages.empty()) g.messages.front().content.insert(0, own_words);
  // Lengths between a quarter and the whole of the graded requests' limit, and no early end: batches of changing size.
  g.max_tokens =
      std::max(1, static_cast<int>(settings_.max_gen_toks * (0.25 + 0.75 * random.uniform(2 * n + 1))));
  g.ignore_eos = true;
  g.temperature = 0;
  g.stream = true;
  g.extra_body = settings_.extra_body;
  slot.id = http::generate(
      client, target_.endpoint, g, settings_.limits,
      [this, &client, &slot](http::Generation&& got) {
        if (stopping_) return;
        if (got.error) {
          ++counts_.failed;
          counts_.last_error = fmt::format("{} {}", name(got.error.kind), got.error.message);
          slot.id =
              client.at(http::now() + http::kSecond / 2, [this, &client, &slot] { send(client, slot); });
          return;
        }
        ++counts_.finished;
        counts_.tokens += got.usage.completion_tokens >= 0 ? got.usage.completion_tokens : got.chunks;
        send(client, slot);
      },
      [&slot](const http::Chunk&) { slot.answering = true; });
}

bool Background::warm_up(http::Client& client, double longest_s) {
  const http::Nanoseconds end = http::now() + static_cast<http::Nanoseconds>(longest_s * 1e9);
  const auto ready = [this] {
    return std::all_of(slots_.begin(), slots_.end(), [](const Slot& s) { return s.answering; });
  };
  while (!ready() && http::now() < end) client.poll(http::kSecond / 20);
  return ready();
}

void Background::stop(http::Client& client) {
  stopping_ = true;
  ended_ = http::now();
  for (Slot& slot : slots_) client.cancel(slot.id);
  client.poll(0);
}

Background::Counts Background::counts() const {
  Counts c = counts_;
  c.seconds = static_cast<double>((ended_ != 0 ? ended_ : http::now()) - began_) * 1e-9;
  return c;
}

}  // namespace moecheck::harness::eval

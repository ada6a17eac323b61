#include "harness/glm4_moe/drafting.h"

#include <algorithm>
#include <span>

#include "harness/glm4_moe/sampler.h"

namespace moecheck::harness {

Drafter::Drafter(Decoder& decoder, const reference::Glm4MoeConfig& config, std::int64_t vocabulary,
                 int speculate, Reserve reserve)
    : decoder_(decoder),
      config_(config),
      vocabulary_(vocabulary),
      speculate_(speculate),
      reserve_(std::move(reserve)) {}

void Drafter::propose(const std::deque<std::unique_ptr<Sequence>>& running,
                      const std::vector<float>& hidden) {
  std::vector<std::int64_t> positions;
  std::vector<const std::int32_t*> tables;
  std::vector<TokenId> next;
  std::vector<float> rows, out;
  Drafting drafting;
  for (const auto& s : running) {
    const std::int64_t begin = s->before, end = std::min(s->computed, s->length() - 1);
    for (std::int64_t p = begin; p < end; ++p) {
      positions.push_back(p);
      tables.push_back(s->pages.data());
      next.push_back(s->tokens[static_cast<std::size_t>(p + 1)]);
      const auto row = hidden.begin() + (s->first_row + p - begin) * config_.hidden;
      rows.insert(rows.end(), row, row + config_.hidden);
    }
    if (end > begin && end == s->length() - 1 && s->rows > 0)
      drafting.emplace_back(s.get(), positions.size() - 1);
  }
  if (positions.empty()) return;
  out.resize(rows.size());
  decoder_.draft(next, rows.data(), {positions, tables}, out.data());
  for (int i = 0; i < speculate_ && !drafting.empty(); ++i) draft_tokens(drafting, out);
}

// One more draft token for each sequence; `out` holds the MTP layer's hidden states, and then those of the next round.
void Drafter::draft_tokens(Drafting& drafting, std::vector<float>& out) {
  const auto width = static_cast<std::size_t>(config_.hidden);
  std::erase_if(drafting, [&](const auto& d) {
    const Sequence& s = *d.first;
    const auto drafts = static_cast<std::int64_t>(s.drafts.size());
    return s.generated() + drafts + 1 >= s.request.max_tokens ||
           s.length() + drafts + 1 >= config_.max_positions;
  });
  std::vector<float> hidden;
  for (const auto& [s, row] : drafting)
    hidden.insert(hidden.end(), out.begin() + static_cast<std::ptrdiff_t>(row * width),
                  out.begin() + static_cast<std::ptrdiff_t>((row + 1) * width));
  const auto count = static_cast<std::int64_t>(drafting.size());
  if (count == 0) return;
  std::vector<float> logits(static_cast<std::size_t>(count * config_.vocab));
  decoder_.logits(hidden.data(), count, true, logits.data());
  std::vector<std::int64_t> positions;
  std::vector<const std::int32_t*> tables;
  std::vector<TokenId> next;
  Drafting further;
  std::vector<float> further_hidden;
  for (std::int64_t i = 0; i < count; ++i) {
    Sequence& s = *drafting[static_cast<std::size_t>(i)].first;
    const std::span<const float> row(logits.data() + i * config_.vocab,
                                     static_cast<std::size_t>(vocabulary_));
    const auto position = s.length() - 1 + static_cast<std::int64_t>(s.drafts.size());
    s.drafts.push_back(sample(row, s.request.sampling, position + 1));
    if (static_cast<int>(s.drafts.size()) == speculate_ || !reserve_(s, position + 1)) continue;
    further.emplace_back(&s, positions.size());
    positions.push_back(position);
    tables.push_back(s.pages.data());
    next.push_back(s.drafts.back());
    further_hidden.insert(further_hidden.end(), hidden.begin() + i * config_.hidden,
                          hidden.begin() + (i + 1) * config_.hidden);
  }
  drafting = std::move(further);
  if (drafting.empty()) return;
  out.resize(further_hidden.size());
  decoder_.draft(next, further_hidden.data(), {positions, tables}, out.data());
}

}  // namespace moecheck::harness

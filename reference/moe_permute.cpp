// permute and unpermute: the last part of moe_align.h.
#include <algorithm>
#include <cstring>
#include <stdexcept>

#include "reference/moe_align.h"
#include "reference/routed_scaling.h"

namespace moecheck::reference {

std::int64_t PermuteOptions::local_experts() const {
  if (expert_map.empty()) return experts;
  return std::max<std::int64_t>(0, *std::max_element(expert_map.begin(), expert_map.end()) + std::int64_t{1});
}

Permutation permute(std::span<const std::int64_t> topk_ids, const PermuteOptions& options) {
  const std::int64_t topk = options.topk, local = options.local_experts();
  const std::int64_t tokens = topk == 0 ? 0 : static_cast<std::int64_t>(topk_ids.size()) / topk;
  std::vector<std::vector<std::int32_t>> slots(static_cast<std::size_t>(local));
  for (std::int64_t t = 0; t < tokens; ++t)
    for (std::int64_t k = 0; k < topk; ++k) {
      const std::int64_t id = topk_ids[static_cast<std::size_t>(t * topk + k)];
      if (id < 0 || id >= options.experts) continue;
      const std::int64_t e =
          options.expert_map.empty() ? id : options.expert_map[static_cast<std::size_t>(id)];
      if (e >= 0)
        slots[static_cast<std::size_t>(e)].push_back(static_cast<std::int32_t>(options.slot(t, k, tokens)));
    }
  Permutation out;
  out.row_of_slot.assign(topk_ids.size(), -1);
  out.expert_first_token_offset.push_back(0);
  for (std::int64_t e = 0; e < local; ++e) {
    std::vector<std::int32_t>& mine = slots[static_cast<std::size_t>(e)];
    std::sort(mine.begin(), mine.end());
    for (const std::int32_t slot : mine) {
      out.row_of_slot[static_cast<std::size_t>(slot)] = static_cast<std::int32_t>(out.rows());
      out.slot_of_row.push_back(slot);
      out.m_indices.push_back(static_cast<std::int32_t>(e));
    }
    while (out.rows() % options.align != 0) {
      out.slot_of_row.push_back(-1);
      out.m_indices.push_back(options.invalid_expert);
    }
    out.expert_first_token_offset.push_back(out.rows());
  }
  return out;
}

void permute_rows(ConstView hidden_states, const Permutation& permutation, const PermuteOptions& options,
                  View permuted) {
  const std::int64_t tokens = hidden_states.shape[0], hidden = hidden_states.shape[1];
  const auto bytes = static_cast<std::size_t>(hidden * size_bytes(hidden_states.dtype));
  if (permuted.dtype != hidden_states.dtype || permuted.shape[1] != hidden ||
      permuted.shape[0] < permutation.rows())
    throw std::invalid_argument("permuted must hold " + std::to_string(permutation.rows()) +
                                " rows of hidden_states' dtype and width");
  for (std::int64_t r = 0; r < permutation.rows(); ++r) {
    const std::int32_t slot = permutation.slot_of_row[static_cast<std::size_t>(r)];
    if (slot < 0 || bytes == 0) continue;
    const std::int64_t token = options.index == SlotIndex::kTokenMajor ? slot / options.topk : slot % tokens;
    std::memcpy(permuted.as<char>() + static_cast<std::size_t>(r) * bytes,
                hidden_states.as<char>() + static_cast<std::size_t>(token) * bytes, bytes);
  }
}

std::vector<Bounded> unpermute(ConstView permuted, ConstView topk_weights, const Permutation& permutation,
                               const PermuteOptions& options) {
  const std::int64_t tokens = topk_weights.shape[0], topk = options.topk, hidden = permuted.shape[1];
  std::vector<Bounded> out(static_cast<std::size_t>(tokens * hidden)), terms(static_cast<std::size_t>(topk));
  std::vector<std::int64_t> rows(static_cast<std::size_t>(topk));
  for (std::int64_t t = 0; t < tokens; ++t) {
    for (std::int64_t k = 0; k < topk; ++k)
      rows[static_cast<std::size_t>(k)] =
          permutation.row_of_slot[static_cast<std::size_t>(options.slot(t, k, tokens))];
    for (std::int64_t h = 0; h < hidden; ++h) {
      for (std::int64_t k = 0; k < topk; ++k)
        if (const std::int64_t r = rows[static_cast<std::size_t>(k)]; r >= 0)
          terms[static_cast<std::size_t>(k)] =
              Bounded::exact(topk_weights.at(t, k)) * Bounded::exact(permuted.at(r, h));
      out[static_cast<std::size_t>(t * hidden + h)] =
          reduce_slots(terms.data(), rows.data(), topk, permuted.dtype, {});
    }
  }
  return out;
}

}  // namespace moecheck::reference

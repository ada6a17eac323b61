// Outputs of moe_align: their shapes, their judge, and what they leave open.
#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <tuple>

#include "harness/fault.h"
#include "harness/judge.h"
#include "harness/operators/moe_align.h"

namespace moecheck::harness {
namespace {

using reference::Alignment;
using reference::Permutation;
using reference::Sorting;

template <class T>
std::vector<T> words_of(const TensorSet& set, std::string_view name) {
  const Tensor& t = set.at(name);
  std::vector<T> words(t.bytes() / sizeof(T));
  if (t.bytes() > 0) std::memcpy(words.data(), t.data(), t.bytes());
  return words;
}

template <class T>
void put_words(TensorSet& set, std::string_view name, const std::vector<T>& words) {
  Tensor& t = set.at(name);
  if (!words.empty()) std::memcpy(t.data(), words.data(), std::min(t.bytes(), words.size() * sizeof(T)));
}

// The number of rows of `permuted`, whatever the ids: the worst case.
std::int64_t permuted_rows(const Case& c) {
  return c.integer("tokens") * c.integer("topk") +
         c.integer("experts") / c.integer("ep_size") * (c.integer("block_size") - 1);
}

// Where a fault in words is named, an element is shown with it: the first of `name`.
void fail(Judgement& j, const TensorSet& outputs, std::string_view name, std::string why) {
  const Tensor& t = outputs.at(name);
  const bool empty = t.shape().numel() == 0;
  if (empty) j.raise(Verdict::kFail, fmt::format("{}: {}", name, why));
  if (empty)
    ++j.failed;
  else
    fail_element(j, t, 0, 0, static_cast<double>(t.view().int_at(0)), std::move(why));
}

// What the tail convention fills: expert_ids behind the last block.
void judge_tail(const Case& c, const TensorSet& inputs, const Alignment& got, const TensorSet& outputs,
                Judgement& j) {
  const reference::AlignOptions o = align_options(c, inputs);
  const std::int64_t used = ceil_div(got.num_tokens_post_padded, o.block_size);
  for (std::int64_t b = used; b < static_cast<std::int64_t>(got.expert_ids.size()); ++b)
    if (got.expert_ids[at(b)] != o.tail_expert && !HARNESS_FAULT(kAlignTailUnchecked))
      fail_element(
          j, outputs.at("expert_ids"), b, o.tail_expert, got.expert_ids[at(b)],
          fmt::format("{} behind the last block instead of {}", got.expert_ids[at(b)], o.tail_expert));
}

void judge_permute(const AlignExpected& e, const TensorSet& inputs, const TensorSet& outputs, Judgement& j) {
  const Permutation& p = e.permutation;
  judge_integers(j, outputs.at("expert_first_token_offset"), p.expert_first_token_offset, "offset");
  judge_integers(j, outputs.at("row_of_slot"),
                 std::vector<std::int64_t>(p.row_of_slot.begin(), p.row_of_slot.end()), "row");
  const Tensor &slots = outputs.at("slot_of_row"), &experts = outputs.at("m_indices"),
               &rows = outputs.at("permuted");
  const ConstView x = inputs.view("hidden_states");
  const std::int64_t topk = inputs.at("topk_ids").shape()[1], tokens = x.shape[0], hidden = x.shape[1];
  const auto bytes = static_cast<std::size_t>(hidden * reference::size_bytes(x.dtype));
  for (std::int64_t r = 0; r < p.rows(); ++r) {
    j.elements += 2;
    const std::int32_t slot = p.slot_of_row[at(r)], expert = p.m_indices[at(r)];
    if (slots.view().int_at(r) != slot)
      fail_element(j, slots, r, slot, static_cast<double>(slots.view().int_at(r)),
                   fmt::format("slot {} instead of {}", slots.view().int_at(r), slot));
    if (experts.view().int_at(r) != expert)
      fail_element(j, experts, r, expert, static_cast<double>(experts.view().int_at(r)),
                   fmt::format("expert {} instead of {}", experts.view().int_at(r), expert));
    if (slot < 0) continue;
    const std::int64_t token = e.k_major ? slot % tokens : slot / topk;
    j.elements += hidden;
    if (std::memcmp(rows.data() + at(r) * bytes, x.as<char>() + at(token) * bytes, bytes) != 0)
      fail_element(j, rows, r * hidden, x.at(token, 0), rows.view().at(r, 0),
                   fmt::format("row {} is not that of token {}", r, token));
  }
  ElementRules rules;
  rules.may_be_zero = true;
  judge_elements(j, outputs.at("out"), e.out, rules);
}

}  // namespace

std::vector<std::int64_t> slot_ids(const TensorSet& inputs) {
  const ConstView view = inputs.view("topk_ids");
  std::vector<std::int64_t> ids(at(view.shape.numel()));
  for (std::size_t i = 0; i < ids.size(); ++i) ids[i] = view.int_at(static_cast<std::int64_t>(i));
  return ids;
}

std::vector<float> slot_weights(const TensorSet& inputs) { return words_of<float>(inputs, "topk_weights"); }

Alignment alignment_of(const TensorSet& outputs) {
  return {words_of<std::int32_t>(outputs, "sorted_token_ids"), words_of<std::int32_t>(outputs, "expert_ids"),
          words_of<std::int32_t>(outputs, "num_tokens_post_padded")[0]};
}

Sorting sorting_of(const TensorSet& outputs) {
  const auto valid = words_of<std::int32_t>(outputs, "num_valid_ids");
  return {words_of<std::uint32_t>(outputs, "sorted_ids"),
          words_of<float>(outputs, "sorted_weights"),
          words_of<std::int32_t>(outputs, "sorted_expert_ids"),
          {valid[0], valid[1]}};
}

std::vector<TensorSpec> align_outputs(const Case& c) {
  const std::int64_t tokens = c.integer("tokens"), topk = c.integer("topk"), numel = tokens * topk;
  const std::int64_t experts = c.integer("experts"), block = c.integer("block_size");
  if (is_convention(c, "aiter")) {
    const std::int64_t capacity = numel + experts * block - topk;
    return {
        {"sorted_ids", DType::kI32, Shape(capacity), "bits of (k << 24) | token"},
        {"sorted_weights", DType::kF32, Shape(capacity), "beside them; 0 at padding"},
        {"sorted_expert_ids", DType::kI32, Shape(ceil_div(capacity, block)), "local expert of each block"},
        {"num_valid_ids", DType::kI32, Shape(2), "padded count, tokens"}};
  }
  if (is_convention(c, "permute")) {
    const std::int64_t rows = permuted_rows(c);
    return {
        {"expert_first_token_offset", DType::kI64, Shape(experts / c.integer("ep_size") + 1),
         "first row of each local expert"},
        {"row_of_slot", DType::kI32, Shape(numel), "-1: not on this rank"},
        {"slot_of_row", DType::kI32, Shape(rows), "-1 at padding; open behind the last row"},
        {"m_indices", DType::kI32, Shape(rows), "local expert; open behind the last row"},
        {"permuted", c.dtype("dtype"), Shape(rows, c.integer("hidden")),
         "open at padding and behind the last row"},
        {"out", c.dtype("dtype"), Shape(tokens, c.integer("hidden")), "weighted sum of each token's rows"}};
  }
  reference::AlignOptions o;
  o.convention =
      is_convention(c, "sglang") ? reference::AlignConvention::kSglang : reference::AlignConvention::kVllm;
  o.experts = experts, o.block_size = block;
  const std::int64_t capacity = o.capacity(numel);
  return {{"sorted_token_ids", DType::kI32, Shape(capacity),
           "slots by expert, padded to blocks with tokens*topk"},
          {"expert_ids", DType::kI32, Shape(ceil_div(capacity, block)), "expert of each block"},
          {"num_tokens_post_padded", DType::kI32, Shape(1), "slots and padding"}};
}

void judge_align(const Case& c, const TensorSet& inputs, const AlignExpected& e, const TensorSet& outputs,
                 Judgement& j) {
  if (is_convention(c, "permute")) {
    judge_permute(e, inputs, outputs, j);
    return;
  }
  j.elements += static_cast<std::int64_t>(e.ids.size()) + 1;
  if (is_convention(c, "aiter")) {
    const Sorting got = sorting_of(outputs);
    if (auto why = reference::sorting_fault(got, e.ids, e.weights, sorting_options(c, inputs)))
      fail(j, outputs, "sorted_ids", *why);
    return;
  }
  const Alignment got = alignment_of(outputs);
  const auto why = reference::alignment_fault(got, e.ids, align_options(c, inputs));
  if (why)
    fail(j, outputs, "sorted_token_ids", *why);
  else
    judge_tail(c, inputs, got, outputs, j);
}

void align_reference_outputs(const Case& c, const TensorSet& inputs, const AlignExpected& e,
                             TensorSet& outputs) {
  if (is_convention(c, "aiter")) {
    const Sorting s = reference::moe_sorting(e.ids, e.weights, sorting_options(c, inputs));
    put_words(outputs, "sorted_ids", s.sorted_ids);
    put_words(outputs, "sorted_weights", s.sorted_weights);
    put_words(outputs, "sorted_expert_ids", s.sorted_expert_ids);
    put_words(outputs, "num_valid_ids", std::vector<std::int32_t>{s.num_valid_ids[0], s.num_valid_ids[1]});
  } else if (is_convention(c, "permute")) {
    const Permutation& p = e.permutation;
    put_words(outputs, "expert_first_token_offset", p.expert_first_token_offset);
    put_words(outputs, "row_of_slot", p.row_of_slot);
    put_words(outputs, "slot_of_row", p.slot_of_row);
    put_words(outputs, "m_indices", p.m_indices);
    reference::permute_rows(inputs.view("hidden_states"), p, permute_options(c, inputs),
                            outputs.at("permuted").view());
    write_rounded(outputs.at("out"), e.out);
  } else {
    const Alignment a = reference::moe_align_block_size(e.ids, align_options(c, inputs));
    put_words(outputs, "sorted_token_ids", a.sorted_token_ids);
    put_words(outputs, "expert_ids", a.expert_ids);
    put_words(outputs, "num_tokens_post_padded", std::vector<std::int32_t>{a.num_tokens_post_padded});
  }
}

namespace {

// [first, last) of each expert's blocks, as the reference has them: `owner[b]` is the global expert of block b.
template <class Visit>
void each_run(const std::vector<std::int64_t>& owner, std::int64_t block, std::int64_t capacity,
              Visit visit) {
  for (std::size_t b = 0; b < owner.size();) {
    std::size_t next = b + 1;
    while (next < owner.size() && owner[next] == owner[b]) ++next;
    visit(static_cast<std::int64_t>(b) * block, std::min(static_cast<std::int64_t>(next) * block, capacity));
    b = next;
  }
}

// The expert of the slot that a block starts with: in the reference that is never padding.
template <class Slot>
std::vector<std::int64_t> block_owners(const std::vector<std::int64_t>& ids, std::int64_t used,
                                       std::int64_t block, Slot slot) {
  std::vector<std::int64_t> owner;
  for (std::int64_t first = 0; first < used; first += block) owner.push_back(ids[at(slot(first))]);
  return owner;
}

void blank_sorted(const Case& c, const TensorSet& inputs, TensorSet& outputs) {
  const std::vector<std::int64_t> ids = slot_ids(inputs);
  const Alignment want = reference::moe_align_block_size(ids, align_options(c, inputs));
  Alignment a = alignment_of(outputs);
  const auto capacity = static_cast<std::int64_t>(a.sorted_token_ids.size());
  const auto owners = block_owners(ids, want.num_tokens_post_padded, c.integer("block_size"),
                                   [&](std::int64_t i) { return want.sorted_token_ids[at(i)]; });
  each_run(owners, c.integer("block_size"), capacity, [&](std::int64_t from, std::int64_t to) {
    std::sort(a.sorted_token_ids.begin() + from, a.sorted_token_ids.begin() + to);
  });
  for (std::int64_t i = want.num_tokens_post_padded; i < capacity; ++i) a.sorted_token_ids[at(i)] = 0;
  put_words(outputs, "sorted_token_ids", a.sorted_token_ids);
}

void blank_sorting(const Case& c, const TensorSet& inputs, TensorSet& outputs) {
  const std::vector<std::int64_t> ids = slot_ids(inputs);
  const Sorting want = reference::moe_sorting(ids, slot_weights(inputs), sorting_options(c, inputs));
  Sorting s = sorting_of(outputs);
  const std::int64_t block = c.integer("block_size"), end = want.num_valid_ids[0];
  const auto capacity = static_cast<std::int64_t>(s.sorted_ids.size());
  const auto owners = block_owners(ids, end, block, [&](std::int64_t i) {
    const std::uint32_t id = want.sorted_ids[at(i)];
    return reference::sorted_token(id) * c.integer("topk") + reference::sorted_k(id);
  });
  each_run(owners, block, capacity, [&](std::int64_t from, std::int64_t to) {
    std::vector<std::pair<std::uint32_t, float>> pairs;
    for (std::int64_t i = from; i < to; ++i) pairs.emplace_back(s.sorted_ids[at(i)], s.sorted_weights[at(i)]);
    std::sort(pairs.begin(), pairs.end(), [](const auto& a, const auto& b) { return a.first < b.first; });
    for (std::int64_t i = from; i < to; ++i)
      std::tie(s.sorted_ids[at(i)], s.sorted_weights[at(i)]) = pairs[at(i - from)];
  });
  for (std::int64_t i = end; i < capacity; ++i) s.sorted_ids[at(i)] = 0, s.sorted_weights[at(i)] = 0;
  for (std::int64_t b = end / block; b < static_cast<std::int64_t>(s.sorted_expert_ids.size()); ++b)
    s.sorted_expert_ids[at(b)] = 0;
  put_words(outputs, "sorted_ids", s.sorted_ids);
  put_words(outputs, "sorted_weights", s.sorted_weights);
  put_words(outputs, "sorted_expert_ids", s.sorted_expert_ids);
}

void blank_permuted(TensorSet& outputs) {
  const View offsets = outputs.view("expert_first_token_offset"), slots = outputs.view("slot_of_row"),
             experts = outputs.view("m_indices");
  Tensor& permuted = outputs.at("permuted");
  const std::int64_t rows = permuted.shape()[0],
                     bytes = rows == 0 ? 0 : static_cast<std::int64_t>(permuted.bytes()) / rows;
  const std::int64_t last =
      std::clamp<std::int64_t>(ConstView(offsets).int_at(offsets.shape.numel() - 1), 0, rows);
  for (std::int64_t r = 0; r < rows; ++r) {
    if (r >= last) slots.set_int(r, -1), experts.set_int(r, -1);
    if (ConstView(slots).int_at(r) < 0)
      std::memset(permuted.data() + r * bytes, 0, static_cast<std::size_t>(bytes));
  }
}

}  // namespace

void blank_align(const Case& c, const TensorSet& inputs, TensorSet& outputs) {
  if (is_convention(c, "aiter"))
    blank_sorting(c, inputs, outputs);
  else if (is_convention(c, "permute"))
    blank_permuted(outputs);
  else
    blank_sorted(c, inputs, outputs);
}

}  // namespace moecheck::harness

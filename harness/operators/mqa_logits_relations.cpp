// Relations of mqa_logits. Moving tokens, blocks and requests moves logits and changes no bit; another layout or block size may be
// another kernel, so that there the reference judges.
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <numeric>

#include "harness/operators/indexer_cache.h"
#include "harness/operators/mqa_logits.h"

namespace moecheck::harness {
namespace {

using reference::CacheLayout;
using reference::MqaLogitsInputs;
using reference::MqaLogitsOptions;
using reference::TokenRange;

std::int64_t requests_of(const Trial& trial) { return trial.c.integer("tokens") / trial.c.integer("next_n"); }

// Sizes that other fields decide, written out: they stay when those change.
Case pinned(const Trial& trial) {
  Case c = trial.c;
  c.edits.clear();
  if (data_is(c, "far_blocks")) throw NotApplicable("data=far_blocks: its cache is too large to be copied");
  c.set("pool", is_paged(c) ? mqa_blocks(c) * c.integer("block_size") : mqa_ragged_tokens(c));
  c.set("width", mqa_logits_options(c).width);
  return c;
}

// The tensor with these entries of its first dimension.
Tensor gathered(const Tensor& t, std::span<const std::int64_t> entries) {
  Shape shape = t.shape();
  const std::size_t bytes = shape[0] == 0 ? 0 : t.bytes() / at(shape[0]);
  shape.dim[0] = static_cast<std::int64_t>(entries.size());
  Tensor copy(t.name(), t.dtype(), shape);
  for (std::size_t i = 0; i < entries.size(); ++i)
    std::memcpy(copy.data() + i * bytes, t.data() + at(entries[i]) * bytes, bytes);
  return copy;
}

std::vector<std::int64_t> rows_of(const Trial& trial, std::span<const std::int64_t> requests) {
  std::vector<std::int64_t> rows;
  const std::int64_t next_n = trial.c.integer("next_n");
  for (const std::int64_t i : requests)
    for (std::int64_t j = 0; j < next_n; ++j) rows.push_back(i * next_n + j);
  return rows;
}

// Runs some requests alone, over the same cache; their rows must not notice.
void check_requests(const Trial& trial, std::span<const std::int64_t> requests) {
  const std::vector<std::int64_t> rows = rows_of(trial, requests);
  TensorSet inputs;
  for (const Tensor& t : trial.inputs.tensors()) {
    if (t.name() == "block_table" || t.name() == "context_lens")
      inputs.add(gathered(t, requests));
    else if (t.name() == "kv_cache" || t.name() == "k" || t.name() == "k_scale")
      inputs.add(t);
    else
      inputs.add(gathered(t, rows));
  }
  Case c = pinned(trial);
  c.set("tokens", static_cast<std::int64_t>(rows.size()));
  const TensorSet got = trial.run(c, inputs);
  for (const Tensor& t : got.tensors())
    for (std::size_t i = 0; i < rows.size(); ++i)
      Trial::require_rows_equal(got, static_cast<std::int64_t>(i), static_cast<std::int64_t>(i) + 1,
                                trial.outputs, rows[i], t.name());
}

std::vector<std::int64_t> all_requests(const Trial& trial) {
  if (requests_of(trial) < 2) throw NotApplicable("it needs two requests: tokens >= 2 next_n");
  std::vector<std::int64_t> all(at(requests_of(trial)));
  std::iota(all.begin(), all.end(), 0);
  return all;
}

void request_permutation(const Trial& trial) {
  std::vector<std::int64_t> order = all_requests(trial);
  std::reverse(order.begin(), order.end());
  std::rotate(order.begin(), order.begin() + static_cast<std::ptrdiff_t>(order.size() / 3), order.end());
  check_requests(trial, order);
}

void batch_split(const Trial& trial) {
  const std::vector<std::int64_t> all = all_requests(trial);
  const std::size_t cut = (all.size() + 2) / 3;
  check_requests(trial, std::span(all).first(cut));
  check_requests(trial, std::span(all).subspan(cut));
}

void require_same_outputs(const Trial& trial, const TensorSet& got) {
  for (const Tensor& t : got.tensors())
    Trial::require_rows_equal(got, 0, t.shape()[0], trial.outputs, 0, t.name());
}

// ---- The cache

void need_paged(const Trial& trial) {
  if (!is_paged(trial.c)) throw NotApplicable("form=ragged has no blocks");
}

void block_permutation(const Trial& trial) {
  need_paged(trial);
  TensorSet inputs = trial.inputs;
  Tensor& cache = inputs.at("kv_cache");
  const Tensor& before = trial.inputs.at("kv_cache");
  const std::int64_t blocks = cache.shape()[0], bytes = cache.shape()[1];
  const auto moved = [&](std::int64_t block) { return blocks - 1 - block; };
  for (std::int64_t b = 0; b < blocks; ++b)
    std::memcpy(cache.data() + moved(b) * bytes, before.data() + b * bytes, at(bytes));
  const View table = inputs.view("block_table");
  for (std::int64_t i = 0; i < table.shape.numel(); ++i)
    if (const std::int64_t b = ConstView(table).int_at(i); b >= 0 && b < blocks) table.set_int(i, moved(b));
  require_same_outputs(trial, trial.run(trial.c, inputs));
}

// Tokens of each request that some row sees.
std::vector<std::int64_t> lengths_seen(const MqaLogitsOptions& o, const MqaLogitsInputs& in) {
  std::vector<std::int64_t> lengths(at(o.requests));
  for (std::int64_t r = 0; r < o.rows(); ++r)
    lengths[at(r / o.next_n)] = std::max(lengths[at(r / o.next_n)], reference::tokens_seen(o, in, r).last);
  return lengths;
}

std::uint8_t nan_code(DType fp8) { return fp8 == DType::kE4M3FN ? 0x7F : 0x80; }

// NaN wherever the contract lets no row look: unused blocks, tokens behind the last, padding; ids that no token needs.
void poison_paged(const MqaLogitsOptions& o, TensorSet& inputs) {
  const MqaLogitsInputs in = mqa_logits_inputs(inputs);
  Tensor& cache = inputs.at("kv_cache");
  const CacheLayout& layout = o.layout;
  std::vector<bool> used(at(cache.shape()[0] * layout.block_size));
  const View table = inputs.view("block_table");
  const std::vector<std::int64_t> lengths = lengths_seen(o, in);
  for (std::int64_t i = 0; i < o.requests; ++i) {
    const std::int64_t columns = table.shape[1], needed = ceil_div(lengths[at(i)], layout.block_size);
    for (std::int64_t n = 0; n < lengths[at(i)]; ++n)
      used[at(ConstView(table).int_at(i * columns + n / layout.block_size) * layout.block_size +
              n % layout.block_size)] = true;
    for (std::int64_t m = needed; m < columns; ++m) table.set_int(i * columns + m, -1);
  }
  using Kind = CacheLayout::Place::Kind;
  std::vector<CacheLayout::Place> places;  // the same in every block
  for (std::int64_t b = 0; b < layout.stride(); ++b) places.push_back(layout.place(b));
  for (std::int64_t block = 0; block < cache.shape()[0]; ++block)
    for (std::int64_t b = 0; b < layout.stride(); ++b) {
      const CacheLayout::Place& place = places[at(b)];
      if (place.kind != Kind::kPadding && used[at(block * layout.block_size + place.token)]) continue;
      cache.data()[block * layout.stride() + b] =
          std::byte{place.kind == Kind::kScale ? std::uint8_t{0xFF} : nan_code(layout.dtype)};
    }
}

void poison_ragged(const MqaLogitsOptions& o, TensorSet& inputs) {
  const MqaLogitsInputs in = mqa_logits_inputs(inputs);
  std::vector<bool> used(at(in.k.shape[0]));
  for (std::int64_t r = 0; r < o.rows(); ++r) {
    const TokenRange seen = reference::tokens_seen(o, in, r);
    std::fill(used.begin() + seen.first, used.begin() + seen.last, true);
  }
  for (std::int64_t n = 0; n < in.k.shape[0]; ++n) {
    if (used[at(n)]) continue;
    std::memset(inputs.at("k").data() + n * in.k.shape[1], nan_code(in.k.dtype), at(in.k.shape[1]));
    inputs.view("k_scale").set(n, kNaN);
  }
}

void poison_unused(const Trial& trial) {
  const MqaLogitsOptions o = mqa_logits_options(trial.c);
  TensorSet inputs = trial.inputs;
  if (is_paged(trial.c))
    poison_paged(o, inputs);
  else
    poison_ragged(o, inputs);
  require_same_outputs(trial, trial.run(trial.c, inputs));
}

// The same tokens in a cache of another layout.
void check_relayout(const Trial& trial, Case c, const char* what) {
  c.set("limits", "none").set("pool", 0);
  if (trial.op.refusal(c)) throw NotApplicable(*trial.op.refusal(c));
  const MqaLogitsOptions from = mqa_logits_options(trial.c), to = mqa_logits_options(c);
  const MqaLogitsInputs in = mqa_logits_inputs(trial.inputs);
  TensorSet inputs(trial.op.inputs(c));
  for (Tensor& t : inputs.tensors())
    if (t.name() != "kv_cache" && t.name() != "block_table") t = trial.inputs.at(t.name());
  const PagedCache p{to.layout, lengths_seen(from, in), mqa_blocks(c), mqa_table_columns(c), false};
  const View table = inputs.view("block_table");
  fill_block_table(p, Random(c.seed, "relayout"), table);
  Tensor& cache = inputs.at("kv_cache");
  cache.fill(nan_code(to.layout.dtype));
  std::vector<std::uint8_t> codes(at(to.layout.head_dim));
  for (std::int64_t i = 0; i < to.requests; ++i)
    for (std::int64_t n = 0; n < p.lengths[at(i)]; ++n) {
      const float scale = reference::read_token(from, in, i, n, codes.data());
      reference::put_row(to.layout, reinterpret_cast<std::uint8_t*>(cache.data()), slot_of(p, table, i, n),
                         codes.data(), &scale);
    }
  require_judged(trial, c, inputs, what);
}

void block_sizes(const Trial& trial) {
  need_paged(trial);
  const Case c = pinned(trial);
  bool asked = false;
  std::string why;
  for (const std::int64_t b :
       {std::int64_t{1}, c.integer("block_size") == 16 ? std::int64_t{64} : std::int64_t{16}}) {
    if (b == c.integer("block_size")) continue;
    Case changed = c;
    changed.set("block_size", b);
    try {
      check_relayout(trial, changed, b == 1 ? "with block_size=1" : "in blocks of another size");
      asked = true;
    } catch (const NotApplicable& e) {
      why = e.what();  // preshuffled blocks of one token
    }
  }
  if (!asked) throw NotApplicable(why);
}

void layouts(const Trial& trial) {
  need_paged(trial);
  Case c = pinned(trial);
  const bool shuffled = c.choice("layout") == "preshuffled";
  c.set("layout", shuffled ? "row_major" : "preshuffled");
  check_relayout(trial, c, shuffled ? "from a row-major cache" : "from a preshuffled cache");
}

// ---- Lengths

// With fewer tokens, the columns that remain hold the same bits: what comes later changes nothing before it.
void context_growth(const Trial& trial) {
  const MqaLogitsOptions o = mqa_logits_options(trial.c);
  if (trial.c.integer("context") < 2) throw NotApplicable("it needs context>=2");
  TensorSet inputs = trial.inputs;
  if (is_paged(trial.c)) {
    const View lengths = inputs.view("context_lens");
    for (std::int64_t i = 0; i < lengths.shape.numel(); ++i)
      lengths.set_int(i, (ConstView(lengths).int_at(i) + 1) / 2);
  } else {
    const View ks = inputs.view("cu_seqlen_ks"), ke = inputs.view("cu_seqlen_ke");
    for (std::int64_t r = 0; r < o.rows(); ++r)
      ke.set_int(r, (ConstView(ks).int_at(r) + ConstView(ke).int_at(r) + 1) / 2);
  }
  const TensorSet got = trial.run(trial.c, inputs);
  const Tensor &a = got.at("logits"), &b = trial.outputs.at("logits");
  const auto size = at(reference::size_bytes(o.dtype));
  for (std::int64_t r = 0; r < o.rows(); ++r) {
    const TokenRange seen = reference::tokens_seen(o, mqa_logits_inputs(inputs), r);
    for (std::int64_t n = seen.first; n < seen.last; ++n) {
      const std::int64_t i = r * o.row_stride + n - seen.base;
      if (std::memcmp(a.data() + at(i) * size, b.data() + at(i) * size, size) != 0)
        throw Broken(fmt::format("logits[{}, {}] was {} with {} tokens and became {} with more", r,
                                 n - seen.base, a.view().at(i), seen.size(), b.view().at(i)));
    }
  }
}

// ---- Weights and heads

void weights_doubled(const Trial& trial) {
  const MqaLogitsOptions o = mqa_logits_options(trial.c);
  if (data_is(trial.c, "large")) throw NotApplicable("data=large: twice the logits may overflow");
  TensorSet inputs = trial.inputs;
  const View weights = inputs.view("weights");
  for (std::int64_t i = 0; i < weights.shape.numel(); ++i) weights.set(i, 2 * ConstView(weights).at(i));
  const TensorSet got = trial.run(trial.c, inputs);
  for (std::int64_t r = 0; r < o.rows(); ++r) {
    const TokenRange seen = reference::tokens_seen(o, mqa_logits_inputs(inputs), r);
    for (std::int64_t n = seen.first; n < seen.last; ++n) {
      const std::int64_t i = r * o.row_stride + n - seen.base;
      const double once = trial.outputs.at("logits").view().at(i), twice = got.at("logits").view().at(i);
      // Below 2^-126 flushing may leave one of them 0.
      if (twice == 2 * once || std::fabs(once) < 0x1p-120 || (std::isnan(once) && std::isnan(twice)))
        continue;
      throw Broken(fmt::format("logits[{}, {}] is {}, and {} with all weights doubled", r, n - seen.base,
                               once, twice));
    }
  }
}

void head_permutation(const Trial& trial) {
  const std::int64_t heads = trial.c.integer("heads"), dim = trial.c.integer("head_dim");
  if (heads < 2) throw NotApplicable("it needs heads>=2");
  TensorSet inputs = trial.inputs;
  for (std::int64_t i = 0; i < trial.c.integer("tokens"); ++i)
    for (std::int64_t h = 0; h < heads; ++h) {
      const std::int64_t to = i * heads + h, from = i * heads + heads - 1 - h;
      std::memcpy(inputs.at("q").data() + to * dim, trial.inputs.at("q").data() + from * dim, at(dim));
      inputs.view("weights").set(to, trial.inputs.view("weights").at(from));
    }
  require_judged(trial, trial.c, inputs, "with the heads in reverse order");
}

}  // namespace

std::span<const Relation> mqa_logits_relations() {
  static const std::array<Relation, 9> all = {
      Relation{"request_permutation", "permuting requests permutes rows and changes nothing else",
               request_permutation},
      Relation{"batch_split", "a request does not depend on the rest of its batch", batch_split},
      Relation{"block_permutation", "where the blocks of the cache lie changes nothing", block_permutation},
      Relation{"poison_unused", "NaN in unused blocks, behind the last token and in padding changes nothing",
               poison_unused},
      Relation{"context_growth", "tokens that come later change no earlier column", context_growth},
      Relation{"weights_doubled", "twice the weights give exactly twice the logits", weights_doubled},
      Relation{"head_permutation", "the heads in reverse order give the same logits, within their bounds",
               head_permutation},
      Relation{"block_sizes",
               "the same tokens in blocks of another size give the same logits, within their bounds",
               block_sizes},
      Relation{"layouts", "row-major and preshuffled caches give the same logits, within their bounds",
               layouts},
  };
  return all;
}

}  // namespace moecheck::harness

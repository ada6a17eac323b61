#include "reference/mqa_logits.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <numeric>
#include <stdexcept>

namespace moecheck::reference {
namespace {

std::string text(std::int64_t v) { return std::to_string(v); }
std::size_t at(std::int64_t i) { return static_cast<std::size_t>(i); }
bool paged(const MqaLogitsOptions& o) { return o.form == LogitsForm::kPaged; }

// Where position n of request i lies, as a slot of the cache.
std::int64_t slot_of(const MqaLogitsOptions& o, const MqaLogitsInputs& in, std::int64_t request,
                     std::int64_t n) {
  const std::int64_t b = o.layout.block_size;
  return in.block_table.int_at(request * in.block_table.shape[1] + n / b) * b + n % b;
}

std::optional<std::string> length_fault(const MqaLogitsOptions& o, const MqaLogitsInputs& in) {
  for (std::int64_t i = 0; i < in.context_lens.shape.numel(); ++i) {
    const std::int64_t length = in.context_lens.int_at(i);
    if (length < 0) return "context_lens[" + text(i) + "] is " + text(length) + ": a length is 0 or more";
    if (length > o.width)
      return "context_lens[" + text(i) + "] is " + text(length) + ", but logits have " + text(o.width) +
             " columns: use a larger width";
  }
  return std::nullopt;
}

std::optional<std::string> paged_fault(const MqaLogitsOptions& o, const MqaLogitsInputs& in) {
  if (auto why = length_fault(o, in)) return why;
  const std::int64_t columns = in.block_table.shape[1], blocks = in.kv_cache.shape[0],
                     b = o.layout.block_size;
  for (std::int64_t i = 0; i < o.requests; ++i) {
    std::int64_t length = 0;
    for (std::int64_t j = 0; j < o.next_n; ++j)
      length = std::max(length, tokens_seen(o, in, i * o.next_n + j).last);
    const std::int64_t needed = (length + b - 1) / b;
    if (needed > columns)
      return "request " + text(i) + " has " + text(length) + " tokens, which take " + text(needed) +
             " blocks of " + text(b) + ", but block_table has " + text(columns) + " columns: give it more";
    for (std::int64_t m = 0; m < needed; ++m) {
      const std::int64_t block = in.block_table.int_at(i * columns + m);
      if (block < 0 || block >= blocks)
        return "block_table[" + text(i) + ", " + text(m) + "] is " + text(block) + ", outside the " +
               text(blocks) + " blocks of kv_cache: use 0 to " + text(blocks - 1);
    }
  }
  return std::nullopt;
}

std::optional<std::string> ragged_fault(const MqaLogitsOptions& o, const MqaLogitsInputs& in) {
  const std::int64_t tokens = in.k.shape[0];
  for (std::int64_t r = 0; r < o.rows(); ++r) {
    const std::int64_t ks = in.cu_seqlen_ks.int_at(r), ke = in.cu_seqlen_ke.int_at(r);
    const auto name = [&](const char* what) { return std::string(what) + "[" + text(r) + "]"; };
    if (ks < 0 || ks > tokens)
      return name("cu_seqlen_ks") + " is " + text(ks) + ": use 0 to " + text(tokens) + ", the rows of k";
    if (ke < 0 || ke > tokens)
      return name("cu_seqlen_ke") + " is " + text(ke) + ": use 0 to " + text(tokens) + ", the rows of k";
    const TokenRange seen = tokens_seen(o, in, r);
    if (seen.size() > 0 && seen.last - seen.base > o.width)
      return name("cu_seqlen_ke") + " is " + text(ke) + ", so that the row needs " +
             text(seen.last - seen.base) + " columns, but logits have " + text(o.width) +
             ": use a larger width";
  }
  return std::nullopt;
}

// Tokens that any row of a group sees: rows of a request share K, and all rows do in the ragged form.
struct Group {
  std::int64_t first_row, rows, first, last;
};
std::vector<Group> groups(const MqaLogitsOptions& o, const std::vector<TokenRange>& range) {
  std::vector<Group> all;
  const std::int64_t rows = paged(o) ? o.next_n : o.rows();
  for (std::int64_t r = 0; r < o.rows(); r += rows) {
    Group g{r, rows, INT64_MAX, 0};
    for (std::int64_t i = r; i < r + rows; ++i)
      if (range[at(i)].size() > 0) {
        g.first = std::min(g.first, range[at(i)].first);
        g.last = std::max(g.last, range[at(i)].last);
      }
    if (g.first < g.last) all.push_back(g);
  }
  return all;
}

// One row of queries, decoded; NaN codes are 0, and `open` says that there were some.
struct Query {
  std::vector<DotLeft> head;
  std::vector<double> weights;
  bool open = false;
};

struct Decoded {
  std::vector<double> values;
  bool open = false;
};
void decode_codes(DType dtype, const std::uint8_t* codes, std::int64_t n, Decoded& out) {
  out.values.resize(at(n));
  out.open = false;
  for (std::int64_t i = 0; i < n; ++i) {
    const double v = decode(dtype, codes[i]);
    out.open = out.open || std::isnan(v);
    out.values[at(i)] = std::isnan(v) ? 0 : v;
  }
}

Query read_query(const MqaLogitsOptions& o, const MqaLogitsInputs& in, std::int64_t row) {
  const std::int64_t d = o.layout.head_dim;
  Query query;
  Decoded decoded;
  for (std::int64_t h = 0; h < o.heads; ++h) {
    decode_codes(in.q.dtype, in.q.as<std::uint8_t>() + (row * o.heads + h) * d, d, decoded);
    query.open = query.open || decoded.open;
    query.head.emplace_back(decoded.values.data(), d);
    query.weights.push_back(in.weights.at(row, h));
  }
  return query;
}

// The scale goes into the heads' terms, as some do; others multiply the sum. The roundings of a term are then its dot's, the
// scale's, the weight's and those of the sum: dot() over the heads counts all but one of them, and `rounded` adds that one, unless
// every partial sum is exact, in which case no order rounds.
Bounded logit_of(const MqaLogitsOptions& o, const Query& query, const std::vector<double>& k, double scale,
                 std::vector<Bounded>& terms) {
  for (std::int64_t h = 0; h < o.heads; ++h) {
    Bounded product = dot(query.head[at(h)], k.data());
    if (o.dot_in_bf16) product = round_to(DType::kBF16, product);
    terms[at(h)] = max(product, 0) * Bounded::exact(scale);
  }
  const Bounded sum = dot(terms.data(), query.weights.data(), o.heads);
  return sum.is_exact() ? sum : rounded(sum);
}

void fill_group(const MqaLogitsOptions& o, const MqaLogitsInputs& in, const Group& g, MqaLogits& out) {
  std::vector<Query> queries;
  for (std::int64_t r = g.first_row; r < g.first_row + g.rows; ++r) queries.push_back(read_query(o, in, r));
  std::vector<std::uint8_t> codes(at(o.layout.head_dim));
  std::vector<Bounded> terms(at(o.heads));
  Decoded k;
  for (std::int64_t n = g.first; n < g.last; ++n) {
    const float scale = read_token(o, in, g.first_row / o.next_n, n, codes.data());
    decode_codes(o.layout.dtype, codes.data(), o.layout.head_dim, k);
    for (std::int64_t i = 0; i < g.rows; ++i) {
      const std::int64_t r = g.first_row + i;
      const TokenRange& seen = out.range[at(r)];
      if (n < seen.first || n >= seen.last) continue;
      const Query& query = queries[at(i)];
      out.logit[at(r)][at(n - seen.first)] = logit_of(o, query, k.values, scale, terms);
      if (!query.open && !k.open) continue;
      out.open[at(r)].resize(at(seen.size()));
      out.open[at(r)][at(n - seen.first)] = 1;
    }
  }
}

std::optional<std::string> scale_fault(const MqaLogitsOptions& o, const MqaLogitsInputs& in) {
  std::vector<TokenRange> range;
  for (std::int64_t r = 0; r < o.rows(); ++r) range.push_back(tokens_seen(o, in, r));
  std::vector<std::uint8_t> codes(at(o.layout.head_dim));
  const auto seen = [&](const Group& g,
                        std::int64_t n) {  // with a length per row, some tokens between are nobody's
    return std::any_of(range.begin() + g.first_row, range.begin() + g.first_row + g.rows,
                       [n](const TokenRange& r) { return n >= r.first && n < r.last; });
  };
  for (const Group& g : groups(o, range))
    for (std::int64_t n = g.first; n < g.last; ++n) {
      if (!seen(g, n)) continue;
      const std::int64_t request = g.first_row / o.next_n;
      const float scale = read_token(o, in, request, n, codes.data());
      if (scale >= 0 && std::isfinite(scale)) continue;
      const std::string where =
          paged(o) ? "kv_cache: the scale of token " + text(n) + " of request " + text(request) + " (" +
                         o.layout.describe(o.layout.scale_at(slot_of(o, in, request, n), 0)) + ")"
                   : "k_scale[" + text(n) + "]";
      return where + " is " + std::to_string(scale) +
             ": scales are finite and not negative; was the cache written in another layout than " +
             o.layout.str() + "?";
    }
  return std::nullopt;
}

}  // namespace

TokenRange tokens_seen(const MqaLogitsOptions& o, const MqaLogitsInputs& in, std::int64_t row) {
  TokenRange seen;
  if (!paged(o)) {
    seen.first = in.cu_seqlen_ks.int_at(row);
    seen.last = std::max(seen.first, in.cu_seqlen_ke.int_at(row));
    seen.base = o.compressed ? seen.first : 0;
    return seen;
  }
  const std::int64_t last = o.lengths_2d
                                ? in.context_lens.int_at(row)
                                : in.context_lens.int_at(row / o.next_n) - o.next_n + row % o.next_n + 1;
  seen.last = std::max<std::int64_t>(0, last);
  return seen;
}

float read_token(const MqaLogitsOptions& o, const MqaLogitsInputs& in, std::int64_t request, std::int64_t n,
                 std::uint8_t* codes) {
  const std::int64_t d = o.layout.head_dim;
  if (!paged(o)) {
    std::copy_n(in.k.as<std::uint8_t>() + n * d, d, codes);
    return in.k_scale.as<float>()[n];
  }
  const std::int64_t slot = slot_of(o, in, request, n), run = o.layout.run();
  const auto* cache = in.kv_cache.as<std::uint8_t>();
  for (std::int64_t c = 0; c < d; c += run)
    std::copy_n(cache + o.layout.value_at(slot, c), std::min(run, d - c), codes + c);
  float scale = 0;
  std::memcpy(&scale, cache + o.layout.scale_at(slot, 0), sizeof scale);
  return scale;
}

std::optional<std::string> mqa_logits_fault(const MqaLogitsOptions& o, const MqaLogitsInputs& in) {
  if (auto why = paged(o) ? paged_fault(o, in) : ragged_fault(o, in)) return why;
  return scale_fault(o, in);
}

MqaLogits mqa_logits(const MqaLogitsOptions& o, const MqaLogitsInputs& in) {
  if (const auto why = mqa_logits_fault(o, in)) throw std::invalid_argument(*why);
  MqaLogits out;
  for (std::int64_t r = 0; r < o.rows(); ++r) {
    out.range.push_back(tokens_seen(o, in, r));
    out.logit.emplace_back(at(out.range.back().size()));
    out.open.emplace_back();
  }
  for (const Group& g : groups(o, out.range)) fill_group(o, in, g, out);
  return out;
}

std::vector<std::int32_t> topk_of(const std::vector<Bounded>& logits, std::int64_t topk) {
  std::vector<std::int32_t> order(logits.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(),
                   [&](std::int32_t a, std::int32_t b) { return logits[at(a)].value > logits[at(b)].value; });
  order.resize(std::min(order.size(), at(topk)));
  std::sort(order.begin(), order.end());
  order.resize(at(topk), -1);
  return order;
}

std::optional<std::string> topk_fault(const std::vector<Bounded>& logits,
                                      const std::vector<std::uint8_t>& open, const std::int32_t* indices,
                                      std::int64_t topk, std::int64_t* near_ties) {
  const auto seen = static_cast<std::int64_t>(logits.size()), count = std::min(seen, topk);
  std::vector<std::uint8_t> taken(logits.size());
  for (std::int64_t i = 0; i < topk; ++i) {
    const std::int64_t n = indices[i];
    const std::string name = "entry " + text(i) + " is " + text(n);
    if (i >= count) {
      if (n == -1) continue;
      return name + ", but the row sees " + text(seen) + " tokens: the rest is -1";
    }
    if (n < 0 || n >= seen) return name + ", outside the " + text(seen) + " tokens that the row sees";
    if (taken[at(n)]++ != 0) return name + ", which is there already";
  }
  // Rows that a NaN touches have no order. Otherwise the worst taken one must be able to reach the best one left out.
  if (!open.empty()) return std::nullopt;
  std::int64_t lowest = -1, missing = -1;
  const auto top = [&](std::int64_t n) { return logits[at(n)].value + logits[at(n)].proven; };
  const auto bottom = [&](std::int64_t n) { return logits[at(n)].value - logits[at(n)].proven; };
  double largest_missing = -INFINITY;
  for (std::int64_t n = 0; n < seen; ++n) {
    if (taken[at(n)] != 0) {
      if (lowest < 0 || top(n) < top(lowest)) lowest = n;
    } else {
      if (missing < 0 || bottom(n) > bottom(missing)) missing = n;
      largest_missing = std::fmax(largest_missing, logits[at(n)].value);
    }
  }
  if (lowest < 0 || missing < 0) return std::nullopt;
  if (top(lowest) < bottom(missing))
    return "token " + text(lowest) + " (logit " + std::to_string(logits[at(lowest)].value) +
           ") is taken and token " + text(missing) + " (logit " + std::to_string(logits[at(missing)].value) +
           ") is not";
  for (std::int64_t n = 0; n < seen; ++n)
    if (taken[at(n)] != 0 && logits[at(n)].value < largest_missing) ++*near_ties;
  return std::nullopt;
}

}  // namespace moecheck::reference

// Inputs of indexer_cache, and paged caches for its consumers.
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <limits>
#include <numeric>

#include "harness/operators/indexer_cache.h"

namespace moecheck::harness {
namespace {

using reference::IndexerQuant;

// 0 .. n-1 in random order.
std::vector<std::int64_t> shuffled(std::int64_t n, const Random& random) {
  std::vector<std::int64_t> v(at(n));
  std::iota(v.begin(), v.end(), 0);
  for (std::int64_t i = n - 1; i > 0; --i)
    std::swap(v[at(i)], v[at(random.integer(static_cast<std::uint64_t>(i), 0, i))]);
  return v;
}

// ---- Rows of k

// What a group of channels is made of.
struct Group {
  const Case& c;
  const IndexerQuant quant;
  const DType dtype;
  const Random random;

  double largest() const { return dtype == DType::kF16 ? 60000 : 1e38; }
  double rounded(double v) const { return reference::round_to(dtype, v, reference::Overflow::kSaturate); }

  // The largest magnitude that the group is to have, by kind of data: where exponents and scales change.
  double amax(std::uint64_t i) const {
    const double f = quant.divisor;
    const int most = dtype == DType::kF16 ? 6 : 20;
    const double power = std::ldexp(1.0, static_cast<int>(random.integer(2 * i, -6, most)));
    const std::int64_t kind = random.integer(2 * i + 1, 0, 8);
    const double u = random.uniform(3 * i);
    switch (kind) {
      case 0:
        return f * power;
      case 1:
        return reference::next_up(dtype, rounded(f * power));
      case 2:
        return reference::next_down(dtype, rounded(f * power));
      case 3:
        return power * (1.75 + 0.125 * u);  // 448 and 240 disagree on the exponent
      case 4:
        return power * (1.875 + 0.125 * u);
      case 5:
        return power * 1.875;
      case 6:
        return reference::next_up(dtype, rounded(power * 1.75));
      case 7:
        return power;
      default:
        return reference::next_up(dtype, power);
    }
  }
};

// fp8 numbers times a power of two, the largest among them: scale and codes are exact whatever the divisions.
void integer_group(const Group& g, std::int64_t n, std::uint64_t first, std::span<float> out) {
  const double step = std::ldexp(1.0, static_cast<int>(g.random.integer(first, -4, 3)));
  const std::int64_t peak = g.random.integer(first + 1, 0, n - 1);
  for (std::int64_t c = 0; c < n; ++c) {
    const auto i = first + static_cast<std::uint64_t>(c);
    const std::uint64_t code = g.random.bits(i) & 0x7F;
    double v = reference::decode(g.quant.fp8, code == 0x7F ? 0x7E : code);
    if (v > g.quant.divisor || c == peak) v = g.quant.divisor;
    // f16 has no room below: codes of the smallest numbers stay out.
    out[at(c)] = static_cast<float>(((g.random.bits(i) & 0x80) != 0 ? -v : v) * step);
  }
}

// Numbers whose quotient by the scale lies on the middle between two codes, or a step of k's dtype beside it.
void tie_group(const Group& g, std::int64_t n, std::uint64_t first, std::span<float> out) {
  const double amax = g.rounded(g.amax(first));
  const auto a = static_cast<float>(amax);
  const double scale = reference::group_scale(g.quant, &a, 1).scale[0];
  for (std::int64_t c = 0; c < n; ++c) {
    const auto i = first + static_cast<std::uint64_t>(c);
    const std::uint64_t code = g.random.bits(i) % 0x7D;
    const double middle =
        (reference::decode(g.quant.fp8, code) + reference::decode(g.quant.fp8, code + 1)) / 2;
    double v = g.rounded(std::min(middle * scale, amax));
    const std::uint64_t beside = g.random.bits(i) >> 40 & 3;
    if (beside == 1) v = reference::next_up(g.dtype, v);
    if (beside == 2) v = reference::next_down(g.dtype, v);
    v = std::min(std::fabs(v), amax);
    out[at(c)] = static_cast<float>((g.random.bits(i) >> 50 & 1) != 0 ? -v : v);
  }
  out[at(g.random.integer(first, 0, n - 1))] = static_cast<float>(amax);
}

void group_of(const Group& g, std::int64_t row, std::int64_t n, std::uint64_t first, std::span<float> out) {
  if (data_is(g.c, "integers")) return integer_group(g, n, first, out);
  if (data_is(g.c, "ties")) return tie_group(g, n, first, out);
  double size = 1;
  if (data_is(g.c, "floor")) size = 1e-4 * std::ldexp(1.0, static_cast<int>(g.random.integer(first, -12, 1)));
  if (data_is(g.c, "large")) size = g.largest() / 8;
  if (data_is(g.c, "boundaries")) size = g.rounded(g.amax(first));
  const bool zeros = data_is(g.c, "zero_rows") && row % 3 == 1;
  for (std::int64_t c = 0; c < n; ++c) {
    const auto i = first + static_cast<std::uint64_t>(c);
    double v = g.random.normal(i) * (data_is(g.c, "boundaries") ? size / 4 : size);
    if (data_is(g.c, "small_codes")) v *= std::ldexp(1.0, -static_cast<int>(g.random.bits(i) % 20));
    if (data_is(g.c, "signed_zero") && (g.random.bits(i) & 3) != 0) v = std::copysign(0.0, v);
    if (zeros) v = std::copysign(0.0, v);
    if (data_is(g.c, "non_finite") && row % 2 == 1 && (g.random.bits(i) & 15) == 0)
      v = row % 4 == 1 ? kNaN : std::copysign(std::numeric_limits<double>::infinity(), v);
    out[at(c)] = static_cast<float>(g.rounded(v));
  }
  if (!data_is(g.c, "boundaries")) return;
  const auto peak = static_cast<float>(size);
  for (float& v : out) v = std::clamp(v, -peak, peak);
  out[at(g.random.integer(first, 0, n - 1))] = (g.random.bits(first + 1) & 1) != 0 ? -peak : peak;
}

// Keys as a model makes them: normalized channels with gains, a few of them large, then a rotation of the first half's pairs by
// an angle of the token. sin and cos are rational in the tangent of the half angle: the same bits with every libm.
void realistic_row(const Random& random, std::int64_t row, std::span<float> out) {
  const auto n = static_cast<std::int64_t>(out.size()), half = n / 4;
  const Random gains(0, "indexer k_norm");
  for (std::int64_t c = 0; c < n; ++c) {
    const auto i = static_cast<std::uint64_t>(c);
    const double gain = gains.integer(i, 0, 31) == 0 ? 8 : 0.5 + gains.uniform(i);
    out[at(c)] = static_cast<float>(gain * random.normal(static_cast<std::uint64_t>(row * n + c)));
  }
  for (std::int64_t c = 0; c < half; ++c) {
    const double t =
        4 * random.uniform(static_cast<std::uint64_t>(row * n + c) + (std::uint64_t{1} << 50)) - 2;
    const double cosine = (1 - t * t) / (1 + t * t), sine = 2 * t / (1 + t * t);
    const double x = out[at(c)], y = out[at(c + half)];
    out[at(c)] = static_cast<float>(x * cosine - y * sine);
    out[at(c + half)] = static_cast<float>(y * cosine + x * sine);
  }
}

void fill_keys(const Case& c, Tensor& k) {
  const std::int64_t tokens = k.shape()[0], stride = k.shape()[1], dim = c.integer("head_dim"),
                     q = c.integer("quant_block");
  const Group g{c, indexer_quant(c), k.dtype(), Random(c.seed, "k")};
  std::vector<float> row(at(dim));
  if (stride > dim) fill_bytes(k, Random(c.seed, "k beyond head_dim"));
  const View view = k.view();
  for (std::int64_t t = 0; t < tokens; ++t) {
    if (data_is(c, "realistic")) {
      realistic_row(g.random, t, row);
    } else {
      for (std::int64_t first = 0; first < dim; first += q)
        group_of(g, t, q, static_cast<std::uint64_t>(t * dim + first) * 4,
                 std::span(row).subspan(at(first), at(q)));
    }
    for (std::int64_t i = 0; i < dim; ++i) view.set(t * stride + i, row[at(i)]);
  }
  for (const Edit& e : c.edits) {
    if (e.kind == "zero")
      for (std::int64_t i = 0; i < dim; ++i) view.set(e.row * stride + i, 0);
    if (e.kind == "nan") view.set(e.row * stride + e.col, kNaN);
  }
}

// ---- Slots

// Distinct slots of n tokens.
std::vector<std::int64_t> distinct_slots(const Case& c, std::int64_t n, std::int64_t blocks) {
  const std::int64_t b = c.integer("block_size"), all = blocks * b;
  const bool dummy = c.choice("skip") == "dummy_slot0";  // slot 0 is nobody's
  const Random random(c.seed, "slot_mapping");
  std::vector<std::int64_t> slots;
  if (c.choice("slots") == "random" || c.choice("slots") == "edges") {
    slots = shuffled(all, random);
    if (c.choice("slots") == "edges") {
      const auto is_edge = [&](std::int64_t s) {
        return s % b == 0 || s % b == b - 1 || s / b == blocks - 1;
      };
      std::stable_partition(slots.begin(), slots.end(), is_edge);
      std::swap(*std::find(slots.begin(), slots.end(), all - 1), slots[0]);
    }
  } else {
    const std::vector<std::int64_t> order = shuffled(blocks, random);
    const bool sequential = c.choice("slots") == "sequential";
    for (std::int64_t s = 0; s < all; ++s) slots.push_back(sequential ? s : order[at(s / b)] * b + s % b);
  }
  if (dummy) std::erase(slots, 0);
  slots.resize(at(n), 0);
  return slots;
}

void fill_slots(const Case& c, Tensor& mapping, std::int64_t blocks) {
  const std::int64_t n = mapping.shape().numel(), used = std::min(tokens_written(c), n);
  const std::string_view kind = c.choice("slots");
  std::vector<std::int64_t> slots = distinct_slots(c, used, blocks);
  slots.resize(at(n), 0);
  const bool wide = mapping.dtype() == DType::kI64;
  for (std::int64_t t = 0; t < n; ++t) {
    if (kind == "negative" && t % 3 == 1)
      slots[at(t)] = t % 2 == 1 ? -1 : wide ? std::numeric_limits<std::int64_t>::min() + t : -t - 1;
    if (kind == "duplicates" && t % 5 == 4) slots[at(t)] = slots[at(t - 1)];
    if (kind == "dummy" && t >= used - used / 4) slots[at(t)] = 0;
  }
  for (const Edit& e : c.edits)
    if (e.kind == "skip" && e.row < n) slots[at(e.row)] = -1;
  // Behind what count=min takes nothing may be written: slots that others have.
  for (std::int64_t t = used; t < n; ++t) slots[at(t)] = used > 0 ? slots[at(t % used)] : 0;
  for (std::int64_t t = 0; t < n; ++t) mapping.view().set_int(t, slots[at(t)]);
}

// ---- What tensors of a user may be

std::optional<std::string> bad_slots(const Case& c, const TensorSet& inputs) {
  const ConstView slots = inputs.view("slot_mapping");
  const std::int64_t blocks = inputs.at("kv_cache").shape()[0], all = blocks * c.integer("block_size");
  const bool skips = c.choice("skip") == "negative";
  for (std::int64_t t = 0; t < std::min(tokens_written(c), slots.shape.numel()); ++t) {
    const std::int64_t s = slots.int_at(t);
    if (s >= all)
      return fmt::format(
          "slot_mapping[{}] = {} lies past the cache: {} blocks of {} tokens end at slot {}; give the slot "
          "as block "
          "* block_size + token, or a cache with more blocks",
          t, s, blocks, c.integer("block_size"), all - 1);
    if (s < 0 && !skips)
      return fmt::format(
          "slot_mapping[{}] = {} is negative, and skip={} does not skip it: it would be written in front of "
          "the "
          "cache; use skip=negative",
          t, s, c.choice("skip"));
  }
  return std::nullopt;
}

std::optional<std::string> bad_lengths(const Case& c, ConstView cu) {
  const std::int64_t requests = cu.shape.numel() - 1, rows = c.integer("tokens") - c.integer("extra_rows");
  if (cu.int_at(0) != 0) return fmt::format("cu_seq_lens[0] = {} must be 0", cu.int_at(0));
  for (std::int64_t r = 0; r < requests; ++r)
    if (cu.int_at(r + 1) < cu.int_at(r))
      return fmt::format(
          "cu_seq_lens[{}] = {} is less than cu_seq_lens[{}] = {}: request {} would have a negative length",
          r + 1, cu.int_at(r + 1), r, cu.int_at(r), r);
  if (cu.int_at(requests) != rows)
    return fmt::format(
        "cu_seq_lens[{}] = {} tokens do not fit tokens={} extra_rows={}: write tokens={} or extra_rows={}",
        requests, cu.int_at(requests), c.integer("tokens"), c.integer("extra_rows"),
        cu.int_at(requests) + c.integer("extra_rows"), c.integer("tokens") - cu.int_at(requests));
  return std::nullopt;
}

std::optional<std::string> bad_table(const Case& c, const TensorSet& inputs) {
  const ConstView table = inputs.view("block_table"), cu = inputs.view("cu_seq_lens");
  const std::int64_t blocks = inputs.at("kv_cache").shape()[0], b = c.integer("block_size");
  const std::int64_t columns = table.shape[1] - c.integer("table_pad");
  for (std::int64_t r = 0; r + 1 < cu.shape.numel(); ++r) {
    const std::int64_t length = cu.int_at(r + 1) - cu.int_at(r), needed = ceil_div(length, b);
    if (needed > columns)
      return fmt::format(
          "block_table is too short: the {} tokens of request {} need {} blocks of {}, and it has {} columns",
          length, r, needed, b, columns);
    for (std::int64_t i = 0; i < needed; ++i)
      if (const std::int64_t id = table.int_at(r * table.shape[1] + i); id < 0 || id >= blocks)
        return fmt::format(
            "block_table[{}, {}] = {} is no block of the cache's {}, and tokens of request {} lie in it", r,
            i, id, blocks, r);
  }
  return std::nullopt;
}

}  // namespace

// ---- Paged caches

std::int64_t PagedCache::columns_needed() const {
  std::int64_t most = 0;
  for (const std::int64_t length : lengths) most = std::max(most, ceil_div(length, layout.block_size));
  return most;
}

std::int64_t PagedCache::blocks_needed() const {
  std::int64_t sum = 0;
  for (const std::int64_t length : lengths) sum += ceil_div(length, layout.block_size);
  return sum;
}

void fill_block_table(const PagedCache& p, const Random& random, View table) {
  const std::int64_t stride = table.shape[1], b = p.layout.block_size;
  const std::vector<std::int64_t> order = shuffled(p.blocks, random);
  std::int64_t next = 0;
  for (std::int64_t r = 0; r < table.shape[0]; ++r) {
    const std::int64_t length = p.lengths[at(r)], used = ceil_div(length, b);
    // Full blocks of the request before, of which half are shared: a common prefix. One token at least is its own.
    const bool shares = p.share_prefix && r % 2 == 1;
    const std::int64_t shared = shares ? std::min((p.lengths[at(r - 1)] / b + 1) / 2, (length - 1) / b) : 0;
    for (std::int64_t i = 0; i < stride; ++i) {
      std::int64_t id = order[at((r * stride + i + 1) % p.blocks)];
      if (i >= used && i < p.columns) {
        const auto position = static_cast<std::uint64_t>(r * stride + i) + (std::uint64_t{1} << 40);
        const std::array<std::int64_t, 3> odd = {-1, std::numeric_limits<std::int32_t>::max(), id};
        id = odd[at(random.integer(position, 0, 2))];
      } else if (i < shared) {
        id = ConstView(table).int_at((r - 1) * stride + i);
      } else if (i < used) {
        id = order[at(next++ % p.blocks)];
      }
      table.set_int(r * stride + i, id);
    }
  }
}

std::int64_t slot_of(const PagedCache& p, ConstView table, std::int64_t r, std::int64_t position) {
  const std::int64_t b = p.layout.block_size;
  return table.int_at(r * table.shape[1] + position / b) * b + position % b;
}

void fill_bytes(Tensor& tensor, const Random& random) {
  for (std::size_t i = 0; i < tensor.bytes(); i += 8) {
    const std::uint64_t bits = random.bits(i / 8);
    std::memcpy(tensor.data() + i, &bits, std::min<std::size_t>(8, tensor.bytes() - i));
  }
}

void fill_paged_cache(const PagedCache& p, const reference::IndexerQuant& quant, const Random& random,
                      const SlotRow& row, ConstView table, Tensor& kv_cache) {
  fill_bytes(kv_cache, random);
  const reference::CacheLayout& layout = p.layout;
  std::vector<bool> done(at(p.blocks * layout.block_size));
  std::vector<float> k(at(layout.head_dim)), scales(at(layout.scales()));
  std::vector<std::uint8_t> codes(at(layout.head_dim));
  for (std::int64_t r = 0; r < table.shape[0]; ++r)
    for (std::int64_t position = 0; position < p.lengths[at(r)]; ++position) {
      const std::int64_t slot = slot_of(p, table, r, position);
      if (done[at(slot)]) continue;
      done[at(slot)] = true;
      row(slot, k);
      reference::quantize_row(quant, layout.quant_block, k.data(), layout.head_dim, codes.data(),
                              scales.data());
      reference::put_row(layout, reinterpret_cast<std::uint8_t*>(kv_cache.data()), slot, codes.data(),
                         scales.data());
    }
}

// ---- The operator

std::vector<std::int64_t> request_lengths(const Case& c) {
  const std::int64_t rows = c.integer("tokens") - c.integer("extra_rows"), requests = c.integer("requests");
  const std::int64_t b = c.integer("block_size");
  const std::int64_t most = c.integer("columns") > 0 ? c.integer("columns") * b : rows;
  const Random random(c.seed, "cu_seq_lens");
  std::vector<std::int64_t> lengths(at(requests));
  std::int64_t left = std::max(rows, std::int64_t{0});
  for (std::int64_t r = 0; r < requests; ++r) {
    const std::int64_t behind = requests - 1 - r, mean = left / (behind + 1);
    const auto i = static_cast<std::uint64_t>(r) * 4;
    std::int64_t length = random.integer(i, 0, 2 * mean);
    const std::int64_t kind = random.integer(i + 1, 0, 7);
    if (kind == 0) length = 0;
    if (kind >= 1 && kind <= 3)
      length = std::max<std::int64_t>(0, length / b * b + kind - 2);  // B - 1, B and B + 1 modulo B
    // What is left must fit the requests behind; the last takes it, or the one before an empty last does.
    const bool empty_end = behind == 1 && random.integer(i + 2, 0, 3) == 0;
    const double room = static_cast<double>(behind) * static_cast<double>(most);
    const std::int64_t least = room >= static_cast<double>(left) ? 0 : left - behind * most;
    length = std::clamp(length, least, std::min(left, most));
    if (behind == 0 || (empty_end && left <= most)) length = left;
    lengths[at(r)] = length;
    left -= length;
  }
  return lengths;
}

void generate_indexer_cache(const Case& c, TensorSet& inputs) {
  fill_bytes(inputs.at("kv_cache"), Random(c.seed, "kv_cache"));
  if (!is_gather(c)) {
    fill_keys(c, inputs.at("k"));
    fill_slots(c, inputs.at("slot_mapping"), inputs.at("kv_cache").shape()[0]);
    return;
  }
  const PagedCache p = paged_cache(c);
  fill_block_table(p, Random(c.seed, "block_table"), inputs.view("block_table"));
  const View cu = inputs.view("cu_seq_lens");
  std::int64_t sum = 0;
  cu.set_int(0, 0);
  for (std::size_t r = 0; r < p.lengths.size(); ++r)
    cu.set_int(static_cast<std::int64_t>(r) + 1, sum += p.lengths[r]);
  for (const char* name : {"dst_k", "dst_scale"})
    if (Tensor* t = inputs.find(name)) fill_bytes(*t, Random(c.seed, name));
}

std::optional<std::string> bad_indexer_input(const Case& c, const TensorSet& inputs) {
  if (!is_gather(c)) return bad_slots(c, inputs);
  if (auto why = bad_lengths(c, inputs.view("cu_seq_lens"))) return why;
  return bad_table(c, inputs);
}

}  // namespace moecheck::harness

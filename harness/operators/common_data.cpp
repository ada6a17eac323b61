// Data of the expert operators: activations, routing, weights.
#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <numeric>

#include <fmt/format.h>

#include "harness/fault.h"
#include "harness/operators/common.h"

namespace moecheck::harness {
namespace {

using reference::GateUpLayout;
using reference::View;

constexpr std::size_t kLevels = 4096;

// Normal numbers in pairs of opposite sign: their mean is exactly 0, so long sums do not drift.
const std::array<double, kLevels>& normal_levels() {
  static const std::array<double, kLevels> levels = [] {
    std::array<double, kLevels> table{};
    const Random random(0, "normal levels");
    for (std::size_t i = 0; i < kLevels; i += 2) {
      table[i] = random.normal(i);
      table[i + 1] = -table[i];
    }
    return table;
  }();
  return levels;
}

// Four levels per draw.
std::size_t level_at(const Random& random, std::uint64_t position) {
  return random.bits(position / 4) >> (16 * (position % 4)) & (kLevels - 1);
}

template <class Word>
void fill_words(std::byte* data, const Random& random, std::int64_t count, std::int64_t position,
                const std::array<std::uint32_t, kLevels>& table) {
  for (std::int64_t i = 0; i < count; ++i) {
    const Word word = static_cast<Word>(table[level_at(random, static_cast<std::uint64_t>(position + i))]);
    std::memcpy(data + at(i) * sizeof(Word), &word, sizeof(Word));
  }
}

bool has_edit(const Case& c, std::string_view kind, std::int64_t row, std::int64_t col = -1) {
  return std::any_of(c.edits.begin(), c.edits.end(), [&](const Edit& e) {
    return e.kind == kind && e.row == row && (col < 0 || e.col == col);
  });
}

// Which ids rows may draw from, and the one that some slot must have.
struct IdSource {
  std::int64_t experts, pool_begin, pool, must_begin = 0, must = 0;
};

IdSource id_source(const Case& c) {
  const std::int64_t experts = c.integer("experts"), topk = c.integer("topk");
  const Random random(c.seed, "routing");
  IdSource s{experts, 0, experts};
  if (const int ep = c.schema().find("ep_size"); ep >= 0 && c.value(ep).i > 1) {
    s.must = experts / c.integer("ep_size");
    s.must_begin = s.must * c.integer("ep_rank");
  }
  if (data_is(c, "hot_expert")) {
    s.must_begin += random.integer(0, 0, std::max<std::int64_t>(s.must, s.must == 0 ? experts : s.must) - 1);
    s.must = 1;
  }
  if (data_is(c, "empty_experts")) {
    s.pool = std::min(experts, std::max(topk + 1, experts / 4));
    s.pool_begin = random.integer(1, 0, experts - 1);
  }
  return s;
}

void draw_row(const IdSource& s, const Random& random, std::int64_t row, std::span<std::int64_t> ids) {
  const auto topk = static_cast<std::int64_t>(ids.size());
  const std::int64_t forced = s.must > 0 ? row % topk : -1;
  std::fill(ids.begin(), ids.end(), -1);
  const auto taken = [&](std::int64_t id) { return std::find(ids.begin(), ids.end(), id) != ids.end(); };
  auto position = static_cast<std::uint64_t>(HARNESS_FAULT(kGenOneRoute) ? 0 : row) << 20;
  if (forced >= 0) ids[at(forced)] = s.must_begin + random.integer(position++, 0, s.must - 1);
  for (std::int64_t k = 0; k < topk; ++k) {
    if (k == forced) continue;
    std::int64_t id = 0;
    do id = (s.pool_begin + random.integer(position++, 0, s.pool - 1)) % s.experts;
    while (taken(id));
    ids[at(k)] = id;
  }
}

// ---- Integers. Every partial sum of every order is exact, and so is silu: gate pre-activations are odd multiples of 128.
//
//   x      +-1; A in columns 0, 128, 256, ...; +1 beside them         A = 7 (15): amax of each fp8 group, A / 448 = 2^-6
//   gate   +-128 in three columns of +-1                  -> g in 128 * {-3, -1, 1, 3}
//   up     +-1 in one such column                         -> u = +-1, a in {0, +-128, +-384}
//   one row in each 128 of I: gate reads A, up reads +1   -> a = +-128 A: the amax of its fp8 group
//   w2     +-2^-7 in a few columns, so few that slots * |y| * 2 <= 256: also sums in bf16 are exact
struct IntegerMlp {
  const MlpShape& shape;
  std::int64_t peak;  // A
  Random random;
  std::uint64_t position = 0;

  double sign() { return (random.bits(position++) & 1) != 0 ? 1 : -1; }
  // Column number i of those that hold +-1.
  static std::int64_t usable(std::int64_t i) { return i + i / 127 + 1; }
  std::int64_t usable_columns() const { return shape.hidden - ceil_div(shape.hidden, 128); }
};

std::int64_t integer_peak(const Case& c) { return c.choice("fp8") == "e4m3fnuz" ? 15 : 7; }

// A weight with or without the dimension of experts, as one with it.
ConstView stacked(const Tensor& t) {
  ConstView view = t.view();
  if (view.shape.rank == 2) view.shape = Shape(1, view.shape[0], view.shape[1]);
  return view;
}

// Sets (row, column) of a weight to `value`: code times scale, where there are block scales.
void set_weight(Tensor& weight, const Tensor* scale, std::int64_t e, std::int64_t row, std::int64_t column,
                double value) {
  const Shape s = stacked(weight).shape;
  if (scale != nullptr) value /= reference::block_scale(stacked(*scale), e, row, column);
  weight.view().set((e * s[1] + row) * s[2] + column, value);
}

void fill_integer_w13(IntegerMlp m, std::int64_t e, Tensor& w13, const Tensor* scale) {
  const std::int64_t columns = m.usable_columns(), intermediate = m.shape.intermediate;
  // Row r starts at column r + offset: consecutive rows cover all columns.
  const std::int64_t offset = m.random.integer(m.position++, 0, columns - 1);
  const std::int64_t special = m.random.integer(m.position++, 0, 127);
  for (std::int64_t i = 0; i < intermediate; ++i) {
    const std::int64_t gate = reference::gate_row(m.shape.layout, intermediate, i);
    const std::int64_t up = reference::up_row(m.shape.layout, intermediate, i);
    const std::int64_t group_end = std::min((i / 128 + 1) * 128, intermediate),
                       group = group_end - i / 128 * 128;
    if (i == i / 128 * 128 + special % group) {
      const std::int64_t column = (e + i / 128) % ceil_div(m.shape.hidden, 128) * 128;
      set_weight(w13, scale, e, gate, column, 128);
      set_weight(w13, scale, e, up, column + 1 < m.shape.hidden ? column + 1 : 1, m.sign());
      continue;
    }
    const std::int64_t first = (2 * i + offset) % columns, picks = std::min<std::int64_t>(3, columns - 1) | 1;
    for (std::int64_t p = 0; p < std::min(picks, columns); ++p) {
      const std::int64_t apart =
          p == 0 ? 0 : 1 + m.random.integer(m.position++, 0, columns / 3 - 1) + (p - 1) * (columns / 3);
      set_weight(w13, scale, e, gate, IntegerMlp::usable((first + apart) % columns), 128 * m.sign());
    }
    set_weight(w13, scale, e, up, IntegerMlp::usable((first + 1) % columns), m.sign());
  }
}

void fill_integer_w2(IntegerMlp m, std::int64_t e, Tensor& w2, const Tensor* scale) {
  const std::int64_t intermediate = m.shape.intermediate;
  const std::int64_t most = 128 / (m.peak * m.shape.slots);
  const std::int64_t picks = std::clamp<std::int64_t>(most, 1, std::min<std::int64_t>(8, intermediate));
  const std::int64_t offset = m.random.integer(m.position++, 0, intermediate - 1),
                     stride = intermediate / picks;
  for (std::int64_t h = 0; h < m.shape.hidden; ++h)
    for (std::int64_t p = 0; p < picks; ++p) {
      const std::int64_t apart =
          p == 0 ? 0
                 : (p - 1) * stride + 1 +
                       m.random.integer(m.position++, 0, std::max<std::int64_t>(stride, 2) - 2);
      set_weight(w2, scale, e, h, (h + offset + apart) % intermediate, 0x1p-7 * m.sign());
    }
}

// Scales of one expert: powers of two with exact data, else within a factor of 4.
void fill_block_scales(Tensor& scale, std::int64_t e, const Random& random, double size, bool exact) {
  const Shape s = stacked(scale).shape;
  const std::int64_t blocks = s[1] * s[2];
  for (std::int64_t b = 0; b < blocks; ++b) {
    const auto i = static_cast<std::uint64_t>(b);
    scale.view().set(e * blocks + b,
                     size * (exact ? std::ldexp(1.0, static_cast<int>(random.integer(i, 0, 1)))
                                   : 0.5 + 1.5 * random.uniform(i)));
  }
}

// Exponent of what the second GEMM is multiplied by: toward the ends of the range, short of Inf.
int magnitude(const Case& c) {
  const bool half = c.dtype("dtype") == DType::kF16;
  if (data_is(c, "large")) return half ? 11 : 100;
  if (data_is(c, "subnormal")) return half ? -16 : -110;
  return 0;
}

}  // namespace

void fill_normal(Tensor& tensor, const Random& random, double scale, std::int64_t first, std::int64_t count,
                 std::int64_t position) {
  const auto size = static_cast<std::size_t>(reference::size_bytes(tensor.dtype()));
  std::byte* data = tensor.data() + at(first) * size;
  const auto& levels = normal_levels();
  if (count < static_cast<std::int64_t>(kLevels)) {
    for (std::int64_t i = 0; i < count; ++i)
      reference::store(tensor.dtype(), data, i,
                       scale * levels[level_at(random, static_cast<std::uint64_t>(position + i))],
                       reference::Overflow::kSaturate);
    return;
  }
  std::array<std::uint32_t, kLevels> table{};
  for (std::size_t i = 0; i < kLevels; ++i)
    table[i] = static_cast<std::uint32_t>(
        reference::encode(tensor.dtype(), scale * levels[i], reference::Overflow::kSaturate));
  if (size == 1) fill_words<std::uint8_t>(data, random, count, position, table);
  if (size == 2) fill_words<std::uint16_t>(data, random, count, position, table);
  if (size == 4) fill_words<std::uint32_t>(data, random, count, position, table);
}

std::int64_t source_row(const Case& c, std::int64_t t) {
  return data_is(c, "duplicate_tokens") ? t / 2 * 2 : t;
}

std::int64_t padding_begin(const Case& c) {
  const std::int64_t tokens = c.integer("tokens");
  return data_is(c, "padding") && !HARNESS_FAULT(kGenPaddingNever) ? tokens - ceil_div(tokens, 4) : tokens;
}

void fill_topk_ids(const Case& c, View ids, std::int64_t extra) {
  const std::int64_t tokens = c.integer("tokens"), topk = c.integer("topk"), columns = topk + extra;
  const IdSource source = id_source(c);
  const Random random(c.seed, "topk_ids"), drop(c.seed, "topk_ids -1");
  const bool holes =
      !HARNESS_FAULT(kGenMinusOneNever) && (data_is(c, "minus_one") || data_is(c, "nan_in_unrouted"));
  std::vector<std::int64_t> row(at(topk));
  for (std::int64_t t = 0; t < tokens; ++t) {
    const std::int64_t r = source_row(c, t);
    draw_row(source, random, r, row);
    const bool nobody = t >= padding_begin(c) || (holes && r == 1);
    for (std::int64_t k = 0; k < columns; ++k) {
      const bool hole = holes && drop.integer(static_cast<std::uint64_t>(r * columns + k), 0, 3) == 0;
      const bool none = nobody || hole || has_edit(c, "minus_one", t, k);
      ids.set_int(t * columns + k, none ? -1 : k < topk ? row[at(k)] : c.integer("experts") + k - topk);
    }
  }
}

void fill_topk_weights(const Case& c, View weights, double fold, std::int64_t extra, double extra_weight) {
  const std::int64_t tokens = c.integer("tokens"), topk = c.integer("topk"), columns = topk + extra;
  const Random random(c.seed, "topk_weights");
  const bool exact = data_is(c, "integers");
  const int raw = c.schema().find("renormalize");
  // On the input a weight of 1/2 would take gate pre-activations below what silu maps to exactly 0.
  const int place = c.schema().find("router_weight");
  const bool on_input = place >= 0 && c.choice("router_weight") == "input";
  std::vector<double> row(at(topk));
  for (std::int64_t t = 0; t < tokens; ++t) {
    const std::int64_t r = source_row(c, t);
    for (std::int64_t k = 0; k < topk; ++k) {
      const auto i = static_cast<std::uint64_t>(r * topk + k);
      const auto bit = static_cast<double>(random.bits(i) & 1);
      row[at(k)] = !exact ? 0.25 + random.uniform(i) : on_input ? (topk <= 4 ? 1 + bit : 1) : 1 - bit / 2;
    }
    double sum = exact ? 1 : std::accumulate(row.begin(), row.end(), 0.0);
    if (!exact && raw >= 0 && c.value(raw).i == 0)
      sum *= 0.5 + random.uniform(static_cast<std::uint64_t>(tokens * topk + r));
    for (std::int64_t k = 0; k < columns; ++k)
      weights.set(t * columns + k, k < topk ? row[at(k)] / sum * fold : extra_weight);
  }
}

void poison_unrouted_weights(const Case& c, reference::ConstView ids, View weights) {
  if (!data_is(c, "nan_in_unrouted") || !weights) return;
  for (std::int64_t s = 0; s < ids.shape.numel(); ++s)
    if (ids.int_at(s) < 0) weights.set(s, kNaN);
}

void fill_hidden_states(const Case& c, Tensor& x) {
  const std::int64_t tokens = c.integer("tokens"), hidden = c.integer("hidden");
  const Random random(HARNESS_FAULT(kGenExpertSeedUnused) ? 0 : c.seed, "hidden_states"),
      channels(c.seed, "outlier channels");
  const View view = x.view();
  std::vector<std::int64_t> outliers(at(std::max<std::int64_t>(1, hidden / 128)));
  for (std::size_t i = 0; i < outliers.size(); ++i) outliers[i] = channels.integer(i, 0, hidden - 1);
  for (std::int64_t t = 0; t < tokens; ++t) {
    const std::int64_t r = source_row(c, t), base = t * hidden;
    const bool zero = (data_is(c, "zero_rows") && t % 3 == 1) || has_edit(c, "zero", t);
    // In a block padded rows have an answer: the gate masks them, or not, and the shared experts see them.
    const bool garbage = t >= padding_begin(c) && c.operator_name() != "moe_block";
    const bool nan = garbage || has_edit(c, "nan", t);
    if (zero || nan) {
      for (std::int64_t h = 0; h < hidden; ++h) view.set(base + h, zero ? 0 : kNaN);
    } else if (data_is(c, "integers")) {
      const auto peak = static_cast<double>(integer_peak(c));
      for (std::int64_t h = 0; h < hidden; ++h) {
        const bool minus = h % 128 > 1 && (random.bits(static_cast<std::uint64_t>(r * hidden + h)) & 1) != 0;
        view.set(base + h, h % 128 == 0 ? peak : minus ? -1 : 1);
      }
    } else {
      fill_normal(x, random, 1, base, hidden, r * hidden);
      for (const std::int64_t h : outliers)
        if (!HARNESS_FAULT(kGenNoOutliers))
          view.set(base + h, 6 * random.normal(static_cast<std::uint64_t>((tokens + r) * hidden + h)));
    }
  }
}

void fill_mlp(const Case& c, std::string_view stream, const MlpShape& shape, std::int64_t e,
              std::int64_t identity, Tensor& w13, Tensor& w2, Tensor* w13_scale, Tensor* w2_scale) {
  const auto random = [&](std::string_view what) {
    return Random(c.seed,
                  fmt::format("{}/{}/{}", stream, what, HARNESS_FAULT(kGenExpertsAlike) ? 0 : identity));
  };
  const double gain = std::ldexp(1.0, magnitude(c));
  const bool exact = data_is(c, "integers");
  if (exact) {
    clear_mlp(e, std::array{&w13, &w2});
    if (w13_scale != nullptr) fill_block_scales(*w13_scale, e, random("w13_scale"), 1, true);
    if (w2_scale != nullptr) fill_block_scales(*w2_scale, e, random("w2_scale"), 0x1p-7, true);
    fill_integer_w13({shape, integer_peak(c), random("w13")}, e, w13, w13_scale);
    fill_integer_w2({shape, integer_peak(c), random("w2")}, e, w2, w2_scale);
    return;
  }
  // Outputs are O(1): sum of H (I) products of variance 1/H (and 4 / I, as a = silu(g) u is about 0.4 large).
  const double size13 = 1 / std::sqrt(static_cast<double>(shape.hidden));
  const double size2 = gain * 2 / std::sqrt(static_cast<double>(shape.intermediate));
  const std::int64_t n13 = 2 * shape.intermediate * shape.hidden, n2 = shape.hidden * shape.intermediate;
  constexpr double kCode = 64;  // spread of fp8 codes, well inside every format
  if (w13_scale != nullptr) fill_block_scales(*w13_scale, e, random("w13_scale"), size13 / kCode, false);
  if (w2_scale != nullptr) fill_block_scales(*w2_scale, e, random("w2_scale"), size2 / kCode, false);
  fill_normal(w13, random("w13"), w13_scale != nullptr ? kCode : size13, e * n13, n13);
  fill_normal(w2, random("w2"), w2_scale != nullptr ? kCode : size2, e * n2, n2);
}

void clear_mlp(std::int64_t e, std::span<Tensor* const> weights) {
  for (Tensor* t : weights) {
    if (t == nullptr || t->bytes() == 0) continue;
    const std::size_t bytes = t->bytes() / at(stacked(*t).shape[0]);
    std::byte* data = t->data() + at(e) * bytes;
    // Fresh memory is zero pages: only what an earlier case has written is written again.
    const bool zero = data[0] == std::byte{0} && std::memcmp(data, data + 1, bytes - 1) == 0;
    if (!zero) std::memset(data, 0, bytes);
  }
}

void fill_mlp_with_nan(const MlpShape& shape, std::int64_t e, Tensor& w13, Tensor& w2) {
  const std::int64_t n13 = 2 * shape.intermediate * shape.hidden, n2 = shape.hidden * shape.intermediate;
  for (std::int64_t i = 0; i < n13; ++i) w13.view().set(e * n13 + i, kNaN);
  for (std::int64_t i = 0; i < n2; ++i) w2.view().set(e * n2 + i, kNaN);
}

}  // namespace moecheck::harness

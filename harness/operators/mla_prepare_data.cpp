// Inputs of mla_prepare, and why given ones cannot be used.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <numeric>

#include "harness/operators/mla_prepare.h"

namespace moecheck::harness {
namespace {

// 2^x, sin and cos by series: libm's last bits differ between machines, and data may not.
double power_of_two(double x) {
  const double whole = std::floor(x), y = (x - whole) * 0.6931471805599453;
  double term = 1, sum = 1;
  for (int n = 1; n < 20; ++n) term *= y / n, sum += term;
  return std::ldexp(sum, static_cast<int>(whole));
}

struct SinCos {
  double sin, cos;
};
SinCos sin_cos(double angle) {
  const double turns = std::floor(angle / 6.283185307179586), x = angle - turns * 6.283185307179586;
  double term = 1, sum[2] = {1, 0};  // even terms, odd terms: signs by pairs
  for (int n = 1; n < 40; ++n) {
    term *= x / n;
    sum[n % 2] += n % 4 < 2 ? term : -term;
  }
  return {sum[1], sum[0]};
}

// Rows as models have them, theta = 10000; exact data: -1, 0 and 1, anew in each channel.
void fill_tables(const Case& c, TensorSet& inputs) {
  const View cos = inputs.view("cos"), sin = inputs.view("sin");
  const std::int64_t width = cos.shape[1], pairs = c.integer("rope_dim") / 2;
  const bool full = c.choice("table") == "full", neox = c.choice("rope") == "neox";
  const Random random(c.seed, "cos and sin");
  for (std::int64_t i = 0; i < width; ++i) {
    const std::int64_t pair = !full ? i : neox ? i % pairs : i / 2;
    const double frequency =
        power_of_two(-13.287712379549449 * static_cast<double>(pair) / static_cast<double>(pairs));
    for (std::int64_t p = 0; p < cos.shape[0]; ++p) {
      const auto position = static_cast<std::uint64_t>(2 * (p * width + i));
      const bool exact = data_is(c, "integers");
      const SinCos v = exact ? SinCos{static_cast<double>(random.integer(position, -1, 1)),
                                      static_cast<double>(random.integer(position + 1, -1, 1))}
                             : sin_cos(static_cast<double>(p) * frequency);
      cos.set(p * width + i, v.cos);
      sin.set(p * width + i, v.sin);
    }
  }
}

// Distinct slots in no order; the first is the last of the cache, where offsets are largest.
std::vector<std::int64_t> distinct_slots(const Case& c) {
  const std::int64_t total = mla_slots(c);
  std::vector<std::int64_t> slots(at(total));
  std::iota(slots.begin(), slots.end(), 0);
  const Random random(c.seed, "slot_mapping");
  std::swap(slots.front(), slots.back());
  for (std::int64_t i = 1; i < mla_rows(c); ++i)
    std::swap(slots[at(i)], slots[at(random.integer(static_cast<std::uint64_t>(i), i, total - 1))]);
  return slots;
}

void fill_slots_and_positions(const Case& c, TensorSet& inputs) {
  const View slots = inputs.view("slot_mapping"), positions = inputs.view("positions");
  const std::vector<std::int64_t> distinct = distinct_slots(c);
  const std::int64_t tokens = c.integer("tokens"), table = c.integer("max_positions");
  const Random random(c.seed, "positions");
  // Padded rows of compute_q are read all the same; elsewhere they hold what the last batch left.
  const bool stale = c.choice("padded") != "compute_q";
  for (std::int64_t t = 0; t < mla_rows(c); ++t) {
    bool skipped = data_is(c, "padding") && t % 3 == 1;
    for (const Edit& e : c.edits) skipped = skipped || (e.kind == "skip" && e.row == t);
    const bool shares = data_is(c, "duplicate_slots") && t % 3 == 2;
    slots.set_int(t, skipped ? (t % 2 == 0 ? -1 : -7) : distinct[at(shares ? t - 1 : t)]);
    if (t >= tokens) continue;
    const auto i = static_cast<std::uint64_t>(t);
    const std::int64_t p = data_is(c, "large_positions")
                               ? table - 1 - random.integer(i, 0, std::min<std::int64_t>(table, 8) - 1)
                               : random.integer(i, 0, table - 1);
    positions.set_int(t, skipped && stale ? (t % 2 == 0 ? -3 : table + 5) : p);
  }
}

// `spread`: kv_c is normalised and small, k_pe lies in about [-1, 1], q is of size 1.
void fill_part(const Case& c, TensorSet& inputs, std::string_view name, double spread, bool bell) {
  Tensor* tensor = inputs.find(name);
  if (tensor == nullptr) return;
  const Random random(c.seed, name);
  const View view = tensor->view();
  const bool bits = data_is(c, "bits") && (!form_is(c, "fused") || name == "q_nope" || name == "k_nope");
  for (std::int64_t i = 0; i < view.shape.numel(); ++i) {
    const auto position = static_cast<std::uint64_t>(i);
    if (bits) {
      // One in eight is a NaN, an Inf, a zero of either sign or a subnormal.
      constexpr std::array<std::uint16_t, 8> kOdd = {0x7FC1, 0xFFA3, 0x7F81, 0x8000,
                                                     0x0001, 0x807F, 0x7F80, 0x7E03};
      const std::uint64_t r = random.bits(position);
      view.as<std::uint16_t>()[i] = (r & 7) == 0 ? kOdd[r >> 3 & 7] : static_cast<std::uint16_t>(r >> 16);
    } else if (data_is(c, "integers")) {
      view.set(i, static_cast<double>(random.integer(position, -8, 8)));
    } else {
      view.set(i, spread * (bell ? random.normal(position) : 2 * random.uniform(position) - 1));
    }
  }
}

// k_scale as calibration gives it: the largest of both parts over the largest code. data=saturating: of kv_c alone.
void fill_scales(const Case& c, TensorSet& inputs) {
  const Random random(c.seed, "scales");
  for (const std::string_view name : {"k_scale", "q_scale"}) {
    const View scale = inputs.view(name);
    if (!scale) continue;
    const std::uint64_t i = name == "k_scale" ? 0 : 1;
    const DType dtype = name == "k_scale" ? cache_dtype(c) : q_out_dtype(c);
    const double largest = reference::size_bytes(dtype) == 1 ? reference::max_finite(dtype) : 4;
    const double reach = name == "q_scale" ? 4 : data_is(c, "saturating") ? 0.1 : 1.42;
    scale.set(0, data_is(c, "integers") ? std::ldexp(1.0, static_cast<int>(random.integer(i, -2, 1)))
                                        : reach * (1 + random.uniform(i) / 4) / largest);
  }
}

void clear_row(TensorSet& inputs, std::int64_t row) {
  for (const std::string_view name : {"q_nope", "q_pe", "k_nope", "k_pe"}) {
    const View view = inputs.view(name);
    if (!view || row >= view.shape[0]) continue;
    const std::int64_t n = view.shape[1] * view.shape[2];
    for (std::int64_t i = 0; i < n; ++i) view.set(row * n + i, 0);
  }
}

void set_nan(const Case& c, TensorSet& inputs, const Edit& e) {
  const std::int64_t nope = c.integer("nope_dim");
  for (const char* which : {"q", "k"}) {
    const View view = inputs.view(fmt::format("{}_{}", which, e.col < nope ? "nope" : "pe"));
    if (!view || e.row >= view.shape[0]) continue;
    view.set(e.row * view.shape[1] * view.shape[2] + (e.col < nope ? e.col : e.col - nope), kNaN);
  }
}

}  // namespace

void generate_mla(const Case& c, TensorSet& inputs) {
  fill_part(c, inputs, "q_cat", 1, true);
  fill_part(c, inputs, "q_nope", 1, true);
  fill_part(c, inputs, "q_pe", 1, true);
  fill_part(c, inputs, "k_nope", 0.028, true);
  fill_part(c, inputs, "k_pe", 1, false);
  if (!form_is(c, "fused")) return;
  fill_tables(c, inputs);
  fill_slots_and_positions(c, inputs);
  fill_scales(c, inputs);
  Tensor& cache = inputs.at("kv_cache");
  const Random random(c.seed, "kv_cache");
  for (std::size_t i = 0; i < cache.bytes(); ++i)
    cache.data()[i] = static_cast<std::byte>(random.bits(i) & 0xFF);
  for (std::int64_t t = 1; data_is(c, "zero_rows") && t < mla_rows(c); t += 3) clear_row(inputs, t);
  for (const Edit& e : c.edits) {
    if (e.kind == "zero") clear_row(inputs, e.row);
    if (e.kind == "nan") set_nan(c, inputs, e);
  }
}

std::optional<std::string> bad_mla_input(const Case& c, const TensorSet& inputs) {
  if (!form_is(c, "fused")) return std::nullopt;
  const std::int64_t slots = mla_slots(c), table = c.integer("max_positions");
  const ConstView mapping = inputs.view("slot_mapping"), positions = inputs.view("positions");
  for (std::int64_t t = 0; t < mla_rows(c); ++t)
    if (mapping.int_at(t) >= slots)
      return fmt::format(
          "slot_mapping[{}] = {} is outside the {} slots of kv_cache (blocks={} block_size={}): kernels "
          "would "
          "write past the cache; pass a valid slot, or a negative one for padding",
          t, mapping.int_at(t), slots, c.integer("blocks"), c.integer("block_size"));
  for (std::int64_t t = 0; t < c.integer("tokens"); ++t) {
    const std::int64_t p = positions.int_at(t);
    const bool read = mapping.int_at(t) >= 0 || c.choice("padded") == "compute_q";
    if (read && (p < 0 || p >= table))
      return fmt::format(
          "positions[{}] = {} is outside the {} rows of cos and sin, and padded={} reads it{}: pass a "
          "position "
          "below {}{}",
          t, p, table, c.choice("padded"), mapping.int_at(t) < 0 ? " for rows without a slot too" : "", table,
          mapping.int_at(t) < 0 ? ", or padded=clamp_q" : "");
  }
  for (const std::string_view name : {"k_scale", "q_scale"})
    if (const ConstView scale = inputs.view(name); scale && !(scale.at(0) > 0 && std::isfinite(scale.at(0))))
      return fmt::format("{}[0] = {} must be a positive number: rows are divided by it", name, scale.at(0));
  return std::nullopt;
}

std::vector<std::int64_t> duplicate_slots(const TensorSet& inputs) {
  std::vector<std::int64_t> slots, twice;
  const ConstView mapping = inputs.view("slot_mapping");
  for (std::int64_t t = 0; t < mapping.shape.numel(); ++t)
    if (mapping.int_at(t) >= 0) slots.push_back(mapping.int_at(t));
  std::sort(slots.begin(), slots.end());
  for (std::size_t i = 1; i < slots.size(); ++i)
    if (slots[i] == slots[i - 1] && (twice.empty() || twice.back() != slots[i])) twice.push_back(slots[i]);
  return twice;
}

}  // namespace moecheck::harness

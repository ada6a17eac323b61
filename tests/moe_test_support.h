#pragma once
// What the tests of the MoE operators share: seeded tensors, the judge's last step, and specs for RapidCheck.
#include <rapidcheck.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <random>
#include <span>
#include <string>
#include <vector>

#include "reference/bounded.h"
#include "reference/shared_experts.h"

namespace moecheck::reference {

using Rng = std::mt19937_64;

inline double uniform(Rng& rng, double low, double high) {
  return low + (high - low) * static_cast<double>(rng() >> 11) * 0x1p-53;
}
inline double normal(Rng& rng) {  // a sum of twelve uniforms: the same bits with every standard library
  double s = -6;
  for (int i = 0; i < 12; ++i) s += uniform(rng, 0, 1);
  return s;
}
inline std::int64_t integer(Rng& rng, std::int64_t low, std::int64_t high) {
  return low + static_cast<std::int64_t>(rng() % static_cast<std::uint64_t>(high - low + 1));
}

inline WeightTensor normal_tensor(DType dtype, Shape shape, Rng& rng, double scale = 1) {
  WeightTensor tensor(dtype, shape);
  for (std::int64_t i = 0; i < shape.numel(); ++i) tensor.mutable_view().set(i, normal(rng) * scale);
  return tensor;
}
inline WeightTensor integer_tensor(DType dtype, Shape shape, Rng& rng, std::int64_t limit, double step = 1) {
  WeightTensor tensor(dtype, shape);
  for (std::int64_t i = 0; i < shape.numel(); ++i)
    tensor.mutable_view().set(i, static_cast<double>(integer(rng, -limit, limit)) * step);
  return tensor;
}
inline WeightTensor int_tensor(Shape shape, const std::vector<std::int64_t>& values) {
  WeightTensor tensor(DType::kI32, shape);
  for (std::size_t i = 0; i < values.size(); ++i)
    tensor.mutable_view().set_int(static_cast<std::int64_t>(i), values[i]);
  return tensor;
}
inline WeightTensor float_tensor(Shape shape, const std::vector<double>& values) {
  WeightTensor tensor(DType::kF32, shape);
  for (std::size_t i = 0; i < values.size(); ++i)
    tensor.mutable_view().set(static_cast<std::int64_t>(i), values[i]);
  return tensor;
}
inline std::vector<double> numbers_of(ConstView view) {
  std::vector<double> values;
  for (std::int64_t i = 0; i < view.shape.numel(); ++i) values.push_back(view.at(i));
  return values;
}

// The judge's last step: `got`, a number of the output dtype, is honest when it lies between the rounded ends.
inline bool accepted(double got, const Bounded& b, DType dtype) {
  if (std::isnan(b.value) || std::isnan(got)) return std::isnan(b.value) && std::isnan(got);
  return got >= round_to(dtype, b.value - b.proven) && got <= round_to(dtype, b.value + b.proven);
}
inline bool suspect(double got, const Bounded& b, DType dtype) {
  const double bound = b.suspect_bound();
  return !(got >= round_to(dtype, b.value - bound) && got <= round_to(dtype, b.value + bound));
}

// "" when all are accepted, else the first that is not. Counts, and optionally refuses, suspects.
inline std::string rejection(std::span<const double> got, std::span<const Bounded> expected, DType dtype,
                             bool refuse_suspects = true) {
  if (got.size() != expected.size()) return "sizes differ";
  for (std::size_t i = 0; i < got.size(); ++i) {
    const Bounded& b = expected[i];
    const bool fail = !accepted(got[i], b, dtype);
    if (fail || (refuse_suspects && std::isfinite(b.value) && suspect(got[i], b, dtype)))
      return std::string(fail ? "FAIL" : "SUSPECT") + " element " + std::to_string(i) + ": got " +
             std::to_string(got[i]) + ", expected " + std::to_string(b.value) + " sigma " +
             std::to_string(b.sigma * 1e9) + "e-9 proven " + std::to_string(b.proven * 1e9) + "e-9";
  }
  return "";
}
inline bool all_exact(std::span<const Bounded> values) {
  return std::all_of(values.begin(), values.end(), [](const Bounded& b) { return b.is_exact(); });
}

// topk distinct experts per token, and a few ids of -1 where asked.
inline std::vector<std::int64_t> random_ids(Rng& rng, std::int64_t tokens, std::int64_t topk,
                                            std::int64_t experts, double missing = 0) {
  std::vector<std::int64_t> ids, pool(static_cast<std::size_t>(experts));
  for (std::int64_t t = 0; t < tokens; ++t) {
    for (std::int64_t e = 0; e < experts; ++e) pool[static_cast<std::size_t>(e)] = e;
    for (std::int64_t k = 0; k < topk; ++k) {
      std::swap(pool[static_cast<std::size_t>(k)],
                pool[static_cast<std::size_t>(integer(rng, k, experts - 1))]);
      ids.push_back(uniform(rng, 0, 1) < missing ? -1 : pool[static_cast<std::size_t>(k)]);
    }
  }
  return ids;
}
// Positive weights, each row summing to about `sum`, as f32 numbers.
inline std::vector<double> random_weights(Rng& rng, std::int64_t tokens, std::int64_t topk, double sum = 1) {
  std::vector<double> weights;
  for (std::int64_t t = 0; t < tokens; ++t) {
    double total = 0;
    std::vector<double> row;
    for (std::int64_t k = 0; k < topk; ++k) total += row.emplace_back(uniform(rng, 0.1, 1));
    for (const double w : row) weights.push_back(static_cast<float>(sum * w / total));
  }
  return weights;
}

// A shared MLP in fp8 with its scales; per-channel scales as [rows] or [rows, 1].
inline SharedExpertWeights scaled_weights(WeightScale kind, std::int64_t fat, std::int64_t hidden,
                                          bool column, Rng& rng) {
  SharedExpertWeights w;
  w.scale = kind;
  const auto make = [&](std::int64_t rows, std::int64_t cols, WeightTensor& weight, WeightTensor& scale) {
    weight = normal_tensor(DType::kE4M3FN, Shape(rows, cols), rng);
    Shape shape(1);
    if (kind == WeightScale::kChannel) shape = column ? Shape(rows, 1) : Shape(rows);
    if (kind == WeightScale::kBlock) shape = Shape((rows + 127) / 128, (cols + 127) / 128);
    scale = normal_tensor(DType::kF32, shape, rng);
  };
  make(fat, hidden, w.gate, w.gate_scale);
  make(fat, hidden, w.up, w.up_scale);
  make(hidden, fat, w.down, w.down_scale);
  return w;
}

}  // namespace moecheck::reference

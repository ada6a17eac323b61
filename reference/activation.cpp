#include "reference/activation.h"

#include <cmath>

namespace moecheck::reference {
namespace {

constexpr double kSaturated = 32;  // 1 + exp(-g) rounds to 1 in fp32 from 17.4 on, whatever the exp
constexpr double kVanished =
    -128;  // exp(-g) overflows fp32 from 88.8 on; g exp(g) is below 2^-150 from -110 on

double fp32(double v) { return static_cast<double>(static_cast<float>(v)); }

//   silu:        act(g) = silu(g)                    a = act(g) * u
//   swiglu_oai:  act(g) = g * sigmoid(alpha * g)     a = act(g) * (u + 1)
Bounded act(const Bounded& gate, const ActivationOptions& options) {
  if (options.activation == Activation::kSilu) return silu_exact(gate);
  if (gate.is_exact() && gate.value == 0) return gate;
  return gate * sigmoid(gate * Bounded::exact(fp32(options.alpha)));
}

}  // namespace

std::string_view name(GateUpLayout layout) {
  constexpr std::string_view names[] = {"gate_up", "up_gate", "interleaved"};
  return names[static_cast<std::size_t>(layout)];
}

std::string_view name(Activation activation) {
  return activation == Activation::kSilu ? "silu" : "swiglu_oai";
}

std::string_view name(Clamp clamp) {
  constexpr std::string_view names[] = {"none", "before_silu", "after_silu"};
  return names[static_cast<std::size_t>(clamp)];
}

std::int64_t gate_row(GateUpLayout layout, std::int64_t intermediate, std::int64_t i) {
  if (layout == GateUpLayout::kInterleaved) return 2 * i;
  return layout == GateUpLayout::kGateUp ? i : intermediate + i;
}

std::int64_t up_row(GateUpLayout layout, std::int64_t intermediate, std::int64_t i) {
  if (layout == GateUpLayout::kInterleaved) return 2 * i + 1;
  return layout == GateUpLayout::kGateUp ? intermediate + i : i;
}

Bounded silu_exact(const Bounded& g) {
  if (g.is_exact() && g.value == 0) return g;
  if (std::isfinite(g.value) && g.value - g.proven >= kSaturated) return g;  // the derivative is 1
  if (std::isfinite(g.value) && g.value + g.proven <= kVanished) return Bounded::exact(0);
  return silu(g);
}

Bounded gated_activation(Bounded gate, Bounded up, const ActivationOptions& options) {
  const double limit = fp32(options.limit);
  const Clamp clamp = limit > 0 ? options.clamp : Clamp::kNone;
  if (clamp != Clamp::kNone) up = max(min(up, limit), -limit);
  if (clamp == Clamp::kBeforeSilu) gate = min(gate, limit);
  Bounded activated = act(gate, options);
  if (clamp == Clamp::kAfterSilu) activated = min(activated, limit);
  activated = round_to(options.dtype, activated, options.round_silu);
  if (options.activation == Activation::kSwigluOai) up = up + Bounded::exact(1);
  return round_to(options.dtype, activated * up, options.round_product);
}

void gated_activation(const Bounded* h, std::int64_t intermediate, const ActivationOptions& options,
                      Bounded* a) {
  for (std::int64_t i = 0; i < intermediate; ++i)
    a[i] = gated_activation(h[gate_row(options.layout, intermediate, i)],
                            h[up_row(options.layout, intermediate, i)], options);
}

std::vector<Bounded> silu_and_mul(ConstView gate_up, const ActivationOptions& options) {
  const std::int64_t rows = gate_up.shape[0], intermediate = gate_up.shape[1] / 2;
  ActivationOptions unrounded = options;
  unrounded.round_product = Rounding::kNone;
  std::vector<Bounded> h(static_cast<std::size_t>(2 * intermediate)),
      out(static_cast<std::size_t>(rows * intermediate));
  for (std::int64_t r = 0; r < rows; ++r) {
    for (std::int64_t i = 0; i < 2 * intermediate; ++i)
      h[static_cast<std::size_t>(i)] = Bounded::exact(gate_up.at(r, i));
    gated_activation(h.data(), intermediate, unrounded, out.data() + r * intermediate);
  }
  return out;
}

}  // namespace moecheck::reference

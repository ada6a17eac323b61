#include "reference/rope.h"

#include <vector>

namespace moecheck::reference {
namespace {

Bounded product(const RopeOptions& o, const Bounded& x, const Bounded& factor) {
  const Bounded y = x * factor;
  if (o.rounding == RopeRounding::kStored || o.rounding == RopeRounding::kOnce || o.dtype == DType::kF32)
    return y;
  return round_to(o.dtype, y, o.rounding == RopeRounding::kAny ? Rounding::kAny : Rounding::kRound);
}

Bounded result(const RopeOptions& o, const Bounded& y) {
  if (o.rounding == RopeRounding::kOnce || o.dtype == DType::kF32) return y;
  return round_to(o.dtype, y, o.rounding == RopeRounding::kAny ? Rounding::kAny : Rounding::kRound);
}

}  // namespace

std::string_view name(RopeStyle style) { return style == RopeStyle::kNeox ? "neox" : "gptj"; }

RopeTerm rope_term(const RopeOptions& o, std::int64_t channel) {
  const std::int64_t half = o.dim / 2;
  const bool neox = o.style == RopeStyle::kNeox, second = neox ? channel >= half : channel % 2 == 1;
  const std::int64_t pair = neox ? channel % half : channel / 2;
  const std::int64_t first = neox ? pair : 2 * pair, other = neox ? pair + half : 2 * pair + 1;
  return {second ? first : other, o.full_table ? channel : pair, !second};
}

void rope(const RopeOptions& o, const Bounded* cos, const Bounded* sin, Bounded* x) {
  const std::vector<Bounded> before(x, x + o.dim);
  for (std::int64_t c = 0; c < o.dim; ++c) {
    const RopeTerm t = rope_term(o, c);
    const Bounded straight = product(o, x[c], cos[t.table]);
    const Bounded crossed = product(o, before[static_cast<std::size_t>(t.partner)], sin[t.table]);
    x[c] = result(o, t.negative ? straight - crossed : straight + crossed);
  }
}

}  // namespace moecheck::reference

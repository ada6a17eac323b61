#include "harness/relation.h"

#include <fmt/format.h>

#include <array>
#include <cstring>

#include "harness/fault.h"
#include "harness/float_environment.h"
#include "harness/judge.h"

namespace moecheck::harness {

namespace {
constexpr std::array<Clause, 6> kCommon = {{
    {"writes_inside_outputs", "no byte outside the outputs is written"},
    {"inputs_unchanged", "the inputs are not written"},
    {"deterministic",
     "two runs on differently poisoned outputs write the same bytes, so every element is written"},
    {"thread_independent", "the bytes do not depend on the number of threads"},
    {"address_independent", "the bytes do not depend on the addresses of inputs and outputs"},
    {"float_environment_kept", "rounding mode and flush-to-zero are as before the run"},
}};
}  // namespace

std::span<const Clause> common_clauses() { return kCommon; }

TensorSet Trial::run(const Case& changed, const TensorSet& changed_inputs, RunOptions with,
                     std::size_t misalign) const {
  if (const auto why = op.refusal(changed)) throw NotApplicable("the changed case is refused: " + *why);
  if (const auto why = implementation.unsupported(changed))
    throw NotApplicable("the changed case is unsupported: " + *why);
  TensorSet out(op.outputs(changed), misalign);
  op.reset_outputs(changed, changed_inputs, out);
  const FloatEnvironment environment;
  implementation.run(changed, changed_inputs, out, with);
  op.blank_unspecified(changed, changed_inputs, out);
  return out;
}

void Trial::require_rows_equal(const TensorSet& got, std::int64_t from, std::int64_t to,
                               const TensorSet& expected, std::int64_t at, std::string_view name) {
  const Tensor& a = got.at(name);
  const Tensor& b = expected.at(name);
  const auto row_bytes = [](const Tensor& t) {
    return t.shape()[0] == 0 ? std::size_t{0} : t.bytes() / static_cast<std::size_t>(t.shape()[0]);
  };
  const std::size_t bytes = row_bytes(a);
  for (std::int64_t r = from; r < to; ++r) {
    const std::int64_t s = at + r - from;
    const std::byte* x = a.data() + static_cast<std::size_t>(r) * bytes;
    const std::byte* y = b.data() + static_cast<std::size_t>(s) * bytes;
    if (std::memcmp(
            x, y, HARNESS_FAULT(kRelationRowsByFirstElement) ? std::min<std::size_t>(bytes, 4) : bytes) == 0)
      continue;
    const auto size = static_cast<std::size_t>(reference::size_bytes(a.dtype()));
    std::size_t i = 0;
    while (x[i] == y[i]) ++i;
    const auto column = static_cast<std::int64_t>(i / size);
    const auto columns = static_cast<std::int64_t>(bytes / size);
    throw Broken(fmt::format("{}[{}, {}] = {} instead of {}", name, r, column,
                             a.view().at(r * columns + column), b.view().at(s * columns + column)));
  }
}

}  // namespace moecheck::harness

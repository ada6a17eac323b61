// The adapter of mla_prepare. Compiled twice: see cpu.cpp.
#include <cstring>

#include "harness/implementations/cpu_adapter.h"
#include "harness/operators/mla_prepare.h"
#include "optimized/cpu/mla_prepare.h"

namespace moecheck::harness::adapters::MOECHECK_OPTIMIZED {
namespace {

namespace cpu = moecheck::MOECHECK_OPTIMIZED;

// q_all as attention reads it, through the address and strides that it is given.
void run_cat_skip(const Case& c, const TensorSet& in, TensorSet& out) {
  const reference::ConstView q_cat = in.view("q_cat");
  const std::int64_t heads = c.integer("heads"), width = mla_width(c),
                     size = reference::size_bytes(q_cat.dtype);
  const cpu::QueryView view = cpu::cat_skip(q_cat, width, may_copy(c));
  const auto* from = static_cast<const std::byte*>(view.data);
  for (std::int64_t row = 0; row < c.integer("tokens") * heads; ++row)
    std::memcpy(out.at("q_all").data() + row * width * size,
                from + (row / heads * view.strides[0] + row % heads * view.strides[1]) * size,
                at(width * size));
  out.view("q_all_offset").set_int(0, from - q_cat.as<std::byte>());
  for (std::int64_t i = 0; i < 3; ++i) out.view("q_all_strides").set_int(i, view.strides[at(i)]);
}

void run(const Case& c, const TensorSet& in, TensorSet& out, cpu::CpuOptions options) {
  if (form_is(c, "fused"))
    cpu::mla_prepare(mla_prepare_inputs(in), mla_prepare_options(c), mla_prepare_outputs(out), options);
  else if (form_is(c, "concat"))
    cpu::concat_mla_absorb_q(in.view("q_nope"), in.view("q_pe"), out.view("q_out"), options);
  else
    run_cat_skip(c, in, out);
}

}  // namespace

extern const CpuAdapter kMlaPrepare{"mla_prepare", nothing_unsupported, run};

}  // namespace moecheck::harness::adapters::MOECHECK_OPTIMIZED

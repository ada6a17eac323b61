// The adapter of mla_prepare.
#include "optimized/gpu/mla_prepare.h"

#include "harness/implementations/gpu/adapter.h"
#include "harness/operators/mla_prepare.h"

namespace moecheck::harness::gpu_adapters::MOECHECK_OPTIMIZED::MOECHECK_GPU_BACKEND {
namespace {

std::optional<std::string> unsupported(const Case& c) {
  if (!form_is(c, "fused")) return std::nullopt;
  const DType t = c.dtype("dtype"), table = c.choice("table_dtype") == "f32" ? DType::kF32 : t;
  return kernels::gpu_mla_prepare_unsupported(t, table, q_out_dtype(c), cache_dtype(c));
}

// q_all as attention reads it, through the address and strides that it is given.
void run_cat_skip(const GpuCall& call) {
  const ConstView q_cat = call.in.view("q_cat");
  const std::int64_t width = mla_width(call.c);
  const bool copies = may_copy(call.c);
  const std::size_t bytes = kernels::gpu_cat_skip_workspace(q_cat, width, copies);
  const kernels::GpuQueryView view = kernels::gpu_cat_skip<Backend>(
      q_cat, width, copies, bytes == 0 ? nullptr : call.workspace(bytes), call.stream);
  kernels::gpu_read_query<Backend>(view, q_cat, call.out.view("q_all"), call.out.view("q_all_offset"),
                                   call.out.view("q_all_strides"), call.stream);
}

void run(const GpuCall& call) {
  if (form_is(call.c, "fused"))
    kernels::gpu_mla_prepare<Backend>(mla_prepare_inputs(call.in), mla_prepare_options(call.c),
                                      mla_prepare_outputs(call.out), call.stream);
  else if (form_is(call.c, "concat"))
    kernels::gpu_concat_mla_absorb_q<Backend>(call.in.view("q_nope"), call.in.view("q_pe"),
                                              call.out.view("q_out"), call.stream);
  else
    run_cat_skip(call);
}

}  // namespace

const GpuAdapter kMlaPrepare = {"mla_prepare", unsupported, run};

}  // namespace moecheck::harness::gpu_adapters::MOECHECK_OPTIMIZED::MOECHECK_GPU_BACKEND

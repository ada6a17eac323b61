// The kernels of block_parts.h. They are small beside the operators they stand between: simple ones.
#include "optimized/gpu/block_parts.h"
#include "optimized/gpu/combine_row.h"
#include "optimized/gpu/math.h"

namespace moecheck::MOECHECK_OPTIMIZED::block_part_kernels {

using namespace moecheck::gpu;  // NOLINT: kernels speak gpu.h
using combine_kernels::load_run;
using combine_kernels::store_run;
using reference::DType;

inline constexpr int kLogitWaves = 4, kThreads = 256;

struct LogitArgs {
  const void *x, *gate;
  float* logits;
  std::int64_t tokens, experts, hidden;
  DType dtype;
};

template <int W>
GPU_KERNEL void GPU_LAUNCH_BOUNDS(kLogitWaves* W) router_logits(const LogitArgs a) {
  const std::int64_t i = static_cast<std::int64_t>(block_x()) * kLogitWaves + wave_in_block<W>();
  if (i >= a.tokens * a.experts) return;
  const std::int64_t token = i / a.experts, expert = i % a.experts;
  float sum = 0;
  for (std::int64_t c = lane<W>(); c < a.hidden; c += W) {
    float x[1], g[1];
    load_run<1>(a.dtype, a.x, token * a.hidden + c, x);
    load_run<1>(a.dtype, a.gate, expert * a.hidden + c, g);
    sum += x[0] * g[0];
  }
  sum = wave_sum<W>(sum);
  if (lane<W>() == 0) a.logits[i] = sum;
}

struct RowsArgs {
  const void* x;
  void* y;
  std::int64_t elements;
  DType dtype;
  float factor;
};

GPU_KERNEL void GPU_LAUNCH_BOUNDS(kThreads) scale_rows(const RowsArgs a) {
  const std::int64_t i = static_cast<std::int64_t>(block_x()) * kThreads + thread_x();
  if (i >= a.elements) return;
  float v[1];
  load_run<1>(a.dtype, a.y, i, v);
  v[0] *= a.factor;
  store_run<1>(a.dtype, a.y, i, v);
}

GPU_KERNEL void GPU_LAUNCH_BOUNDS(kThreads) add_rows(const RowsArgs a) {
  const std::int64_t i = static_cast<std::int64_t>(block_x()) * kThreads + thread_x();
  if (i >= a.elements) return;
  float x[1], y[1];
  load_run<1>(a.dtype, a.x, i, x);
  load_run<1>(a.dtype, a.y, i, y);
  y[0] += x[0];
  store_run<1>(a.dtype, a.y, i, y);
}

inline unsigned blocks(std::int64_t n, int each) { return static_cast<unsigned>((n + each - 1) / each); }

}  // namespace moecheck::MOECHECK_OPTIMIZED::block_part_kernels

namespace moecheck::MOECHECK_OPTIMIZED {

template <class Backend>
void gpu_router_logits(reference::ConstView x, reference::ConstView gate, reference::View logits,
                       gpu::Stream stream) {
  namespace k = block_part_kernels;
  const k::LogitArgs a{x.data,     gate.data, static_cast<float*>(logits.data), x.shape[0], gate.shape[0],
                       x.shape[1], x.dtype};
  if (a.tokens * a.experts == 0) return;
  gpu::with_wave_width([&]<int W>() {
    gpu::launch(k::router_logits<W>,
                {.grid = k::blocks(a.tokens * a.experts, k::kLogitWaves),
                 .block = k::kLogitWaves * W,
                 .stream = stream,
                 .wave = W},
                a);
  });
}

template <class Backend>
void gpu_scale_rows(reference::View x, float factor, gpu::Stream stream) {
  namespace k = block_part_kernels;
  const k::RowsArgs a{nullptr, x.data, x.shape[0] * x.shape[1], x.dtype, factor};
  if (a.elements > 0)
    gpu::launch(k::scale_rows,
                {.grid = k::blocks(a.elements, k::kThreads), .block = k::kThreads, .stream = stream}, a);
}

template <class Backend>
void gpu_add_rows(reference::ConstView x, reference::View y, gpu::Stream stream) {
  namespace k = block_part_kernels;
  const k::RowsArgs a{x.data, y.data, y.shape[0] * y.shape[1], y.dtype, 1};
  if (a.elements > 0)
    gpu::launch(k::add_rows,
                {.grid = k::blocks(a.elements, k::kThreads), .block = k::kThreads, .stream = stream}, a);
}

template void gpu_router_logits<gpu::ThisBackend>(reference::ConstView, reference::ConstView, reference::View,
                                                  gpu::Stream);
template void gpu_scale_rows<gpu::ThisBackend>(reference::View, float, gpu::Stream);
template void gpu_add_rows<gpu::ThisBackend>(reference::ConstView, reference::View, gpu::Stream);

}  // namespace moecheck::MOECHECK_OPTIMIZED

// The weighted reduce of the slots in CUDA as a moecheck plug-in: policy sglang_cuda (fp32 sum, factor, one rounding) in bf16.
//   nvcc -shared -Xcompiler -fPIC -O2 -arch=native -I/path/to/moecheck/harness/plugin routed_scaling_plugin.cu \
//        -o librouted_scaling_plugin.so
//   moecheck check routed_scaling --impl ./librouted_scaling_plugin.so --policy sglang_cuda
#include <cuda_bf16.h>

#include "moecheck_plugin.h"

// One thread per element of out [tokens, hidden]. A slot whose id is -1 contributes nothing, whatever it holds.
__global__ void combine(const __nv_bfloat16* slots, const int* ids, const __nv_bfloat16* shared, __nv_bfloat16* out,
                        int64_t elements, int num_slots, int hidden, float factor) {
  const int64_t i = blockIdx.x * (int64_t)blockDim.x + threadIdx.x;
  if (i >= elements) return;
  const int64_t token = i / hidden, column = i % hidden;
  float sum = 0;
  for (int k = 0; k < num_slots; ++k)
    if (ids[token * num_slots + k] >= 0)
      sum += __bfloat162float(slots[(token * num_slots + k) * hidden + column]);
  __nv_bfloat16 result = __float2bfloat16(sum * factor);
  if (shared != nullptr) result = __float2bfloat16(__bfloat162float(result) + __bfloat162float(shared[i]));
  out[i] = result;
}

static const char* supports(const moecheck_case* c) {
  if (!moecheck_is(c, "policy", "sglang_cuda")) return "it follows policy sglang_cuda";
  if (!moecheck_is(c, "dtype", "bf16") || !moecheck_is(c, "ids", "i32")) return "it takes bf16 slots and i32 ids";
  return nullptr;
}

static int run(const moecheck_call* call) {
  const DLTensor* slots = moecheck_input(call, "routed_output");
  const DLTensor* shared = moecheck_input(call, "shared_output");  // absent when the shared experts are slots
  const int64_t elements = slots->shape[0] * slots->shape[2];
  const int threads = 256, blocks = (int)((elements + threads - 1) / threads);
  if (blocks == 0) return 0;
  combine<<<blocks, threads, 0, (cudaStream_t)call->stream>>>(
      (const __nv_bfloat16*)slots->data, (const int*)moecheck_input(call, "topk_ids")->data,
      shared == nullptr ? nullptr : (const __nv_bfloat16*)shared->data,
      (__nv_bfloat16*)moecheck_output(call, "out")->data, elements, (int)slots->shape[1], (int)slots->shape[2],
      (float)moecheck_real(call->c, "rsf"));
  const cudaError_t error = cudaGetLastError();
  return error == cudaSuccess ? 0 : moecheck_fail(call, cudaGetErrorString(error));
}

static const moecheck_operator combine_operator = {
    sizeof(moecheck_operator), MOECHECK_CUDA, "routed_scaling", supports, run, nullptr};
static const moecheck_operator* const operators[] = {&combine_operator};
static const moecheck_plugin plugin = {
    sizeof(moecheck_plugin), MOECHECK_PLUGIN_ABI, "moe_sum_reduce in CUDA", 1, 0, operators};
extern "C" const moecheck_plugin* moecheck_plugin_v1(void) { return &plugin; }

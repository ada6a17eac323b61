// A plain gate on the CPU as a moecheck plug-in: policy sglang_fused with fp32 logits.
//   g++ -shared -fPIC -O2 -I/path/to/moecheck/harness/plugin gating_plugin.cpp -o libgating_plugin.so
//   moecheck check gating --impl ./libgating_plugin.so --policy sglang_fused
#include <algorithm>
#include <cmath>
#include <vector>

#include "moecheck_plugin.h"

static const char* supports(const moecheck_case* c) {
  if (!moecheck_is(c, "policy", "sglang_fused")) return "it follows policy sglang_fused";
  if (!moecheck_is(c, "dtype", "f32") || !moecheck_is(c, "ids", "i32")) return "f32 logits and i32 ids only";
  if (moecheck_int(c, "shared_slots") + moecheck_int(c, "padded") + moecheck_int(c, "remap") > 0)
    return "it knows no fused shared experts, no padding and no remap";
  return nullptr;
}

// Index of the largest of v[0, n) that is not yet taken; the lower one of equals. It is taken then.
static int take_best(const float* v, int n, std::vector<char>& taken) {
  int best = -1;
  for (int i = 0; i < n; ++i)
    if (!taken[i] && (best < 0 || v[i] > v[best])) best = i;
  taken[best] = 1;
  return best;
}

static int run(const moecheck_call* call) {
  const DLTensor* logits = moecheck_input(call, "router_logits");
  const float* bias = (const float*)moecheck_input(call, "e_score_correction_bias")->data;
  float* weights = (float*)moecheck_output(call, "topk_weights")->data;
  int32_t* ids = (int32_t*)moecheck_output(call, "topk_ids")->data;
  const int E = (int)logits->shape[1], K = (int)moecheck_int(call->c, "topk");
  const int groups = (int)moecheck_int(call->c, "groups"), per_group = E / groups;
  const float factor = moecheck_int(call->c, "scale_flag") ? (float)moecheck_real(call->c, "rsf") : 1.f;
  std::vector<float> score(E), choice(E), group(groups);
  for (int64_t t = 0; t < logits->shape[0]; ++t) {
    const float* row = (const float*)logits->data + t * E;
    for (int e = 0; e < E; ++e) score[e] = 1 / (1 + std::exp(-row[e])), choice[e] = score[e] + bias[e];
    std::vector<char> closed(groups, 0), taken(E, 1);  // experts of groups that are not kept count as taken
    for (int g = 0; g < groups; ++g) {                 // a group counts as its two best experts together
      const float* members = &choice[g * per_group];
      std::vector<char> seen(per_group, 0);
      group[g] = members[take_best(members, per_group, seen)];
      if (per_group > 1) group[g] += members[take_best(members, per_group, seen)];
    }
    for (int64_t i = 0; i < moecheck_int(call->c, "topk_group"); ++i)
      std::fill_n(&taken[take_best(group.data(), groups, closed) * per_group], per_group, char(0));
    float sum = 0;
    for (int k = 0; k < K; ++k) sum += score[ids[t * K + k] = take_best(choice.data(), E, taken)];
    for (int k = 0; k < K; ++k) weights[t * K + k] = score[ids[t * K + k]] / sum * factor;
  }
  return 0;
}

static const moecheck_operator gating = {sizeof gating, MOECHECK_CPU, "gating", supports, run, nullptr};
static const moecheck_operator* const operators[] = {&gating};
static const moecheck_plugin plugin = {sizeof plugin, MOECHECK_PLUGIN_ABI, "a plain gate", 1, 0, operators};
extern "C" const moecheck_plugin* moecheck_plugin_v1(void) { return &plugin; }

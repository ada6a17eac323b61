// The list of blocks with their variants, and what a checker has to say of each.
#include "harness/streams/blocks.h"

#include <fmt/format.h>

#include "harness/case.h"
#include "harness/streams/two_batch.h"
#include "harness/text.h"

namespace moecheck::harness::streams {
namespace {

using reference::StreamProgram;

}  // namespace

Glm4Moe glm4_options(const BlockOptions& o) {
  Glm4Moe m;
  const std::string& v = o.variant;
  m.dual = v != "sound" || decide(o.policy, o.state).dual;
  m.capturing = o.state.capturing;
  m.scale_outside = scales_outside(m.dual ? ScaleGate::kDualFixed : ScaleGate::kSingle, o.platform);
  m.declares_overlap = m.dual;
  if (v == "dropped_gate") m.dual = makes_alt_stream(AltStreamGate::kCuda, {false, true, o.platform.aiter});
  if (v == "double_scaling") m.scale_outside = scales_outside(ScaleGate::kDualMain, o.platform);
  if (v == "no_fork") m.fork = Fork::kNone;
  if (v == "late_fork") m.fork = Fork::kLate;
  if (v == "no_join") m.join = Join::kNone;
  if (v == "in_place") m.input = Glm4Moe::Input::kInPlace;
  if (v == "in_place_clone") m.input = Glm4Moe::Input::kInPlaceClone;
  if (v == "late_clone") m.input = Glm4Moe::Input::kLateClone;
  if (v == "device_scratch") m.scratch = Scratch::kDevice;
  if (v == "stream_scratch") m.scratch = Scratch::kStream;
  if (v == "freed") m.output = Glm4Moe::Output::kFreed;
  if (v == "recorded") m.output = Glm4Moe::Output::kRecorded;
  if (v == "recorded_wrong") m.output = Glm4Moe::Output::kRecordedWrong;
  if (v == "outside_event") m.outside_event = m.capturing = true;
  if (v == "unjoined_capture") m.join = Join::kNone, m.capturing = true;
  if (v == "unforked_capture") m.fork = Fork::kNone, m.capturing = true;
  return m;
}

namespace {

StreamProgram make_glm4(const BlockOptions& o) { return glm4_moe(glm4_options(o)); }

StreamProgram make_deepseek(const BlockOptions& o) {
  DeepseekForm form = DeepseekForm::kMainFirst;
  if (o.variant == "gate_first") form = DeepseekForm::kGateFirst;
  if (o.variant == "alt_first_disposed") form = DeepseekForm::kAltFirst;
  if (o.variant == "alt_first") form = DeepseekForm::kAltFirstKept;
  return deepseek_moe(form, o.state.capturing, scales_outside(ScaleGate::kDualFixed, o.platform));
}

StreamProgram make_mla(const BlockOptions& o) {
  MlaPrepare m;
  const std::string& v = o.variant;
  m.capturing = o.state.capturing;
  m.a_v4 = !v.starts_with("original");
  if (v.ends_with("no_fork")) m.fork = Fork::kNone;
  if (v.ends_with("no_join")) m.join = Join::kNone;
  if (v == "late_fork" || v == "serial") m.fork = Fork::kLate;
  if (v == "early_join" || v == "serial") m.join = Join::kEarly;
  return mla_prepare(m);
}

StreamProgram make_indexer(const BlockOptions& o) {
  return indexer_two_stages(o.variant.starts_with("no_") ? o.variant.substr(3) : "", o.state.capturing);
}

StreamProgram make_two_batch(const BlockOptions& o) {
  TwoBatchPlan plan = TwoBatchPlan::kDecode;
  for (const TwoBatchPlan p :
       {TwoBatchPlan::kPrefill, TwoBatchPlan::kDecodeBefore, TwoBatchPlan::kQwen3Decode})
    if (o.variant == name(p)) plan = p;
  if (o.state.capturing) throw UsageError("two_batch is not captured here: leave --capturing out");
  return two_batch_program(plan, 2, default_delta(plan));
}

}  // namespace

const std::vector<Block>& blocks() {
  static const std::vector<Block> all{
      {"glm4_moe",
       "GLM-4 MoE: shared experts beside gate, top-k and routed experts (sglang#13778)",
       {{"sound", "as the policy decides, with fork and join", "clean"},
        {"no_fork", "alt does not wait for cur: the remedy of a review of sglang#13778", "race h RAW"},
        {"late_fork", "the fork behind the shared experts: right, and serial in disguise", "no overlap"},
        {"no_join", "cur does not wait for alt", "race y RAW WAW"},
        {"dropped_gate",
         "on HIP, where a merge left CUDA alone in the gate of the second stream: nothing fails, nothing "
         "overlaps",
         "no overlap"},
        {"double_scaling",
         "with --platform hip-aiter the dual branch multiplies by routed_scaling_factor once more (`not "
         "_is_cuda`): in "
         "order, and wrong in `streams run --case`",
         "clean"},
        {"in_place",
         "experts write into hidden_states, which the shared experts read (sglang#10352, vllm#28939)",
         "race h WAR"},
        {"in_place_clone", "the same with a clone before the fork", "clean"},
        {"late_clone", "the clone is made behind the stream switch, and nobody waits for it (vllm#28430)",
         "race h_clone RAW"},
        {"device_scratch", "one workspace per device (aiter#3288, flashinfer#4476)",
         "race workspace RAW WAR WAW"},
        {"stream_scratch", "one workspace per stream", "clean"},
        {"freed",
         "the output of alt is freed, and its bytes reused by alt, while cur reads it (TensorRT-LLM#15265, "
         "vllm-ascend#13400)",
         "lifetime reused while used"},
        {"recorded", "the same with record_stream(y, cur)", "clean"},
        {"recorded_wrong", "the same with record_stream on the stream that allocated y: ignored",
         "lifetime reused while used"},
        {"outside_event", "an event from before the capture is waited for inside (sglang#29166)",
         "capture 905"},
        {"unjoined_capture", "no join, while capturing", "capture 904"},
        {"unforked_capture", "no fork, while capturing", "capture 905"}},
       make_glm4},
      {"deepseek_moe",
       "DeepSeek forward_normal_dual_stream and its forms",
       {{"sound", "shared on cur, gate and routed on alt", "clean"},
        {"gate_first", "the gate on cur, ahead of the fork (before sglang#9405)", "clean"},
        {"alt_first", "shared on alt, launched first (sglang#29463)", "clean"},
        {"alt_first_disposed",
         "shared on alt, launched behind the routed call, which disposes of h on the host (sglang#29142, "
         "gsm8k 0.005)",
         "lifetime dead pointer"}},
       make_deepseek},
      {"mla_prepare",
       "MLA with the DSA indexer: A_v4 and the original layout",
       {{"a_v4", "q_b_proj, bmm, rope_cat_cache beside the indexer; joined before attention", "clean"},
        {"early_join", "A_v4 joined before bmm", "clean"},
        {"late_fork", "A_v4 forked behind q_b_proj", "no overlap"},
        {"serial", "late fork and early join", "no overlap"},
        {"no_fork", "A_v4 without its fork", "race q_lora RAW"},
        {"no_join", "A_v4 without its join", "race topk_idx RAW"},
        {"original", "q_b_proj on alt beside the indexer; joined before bmm", "clean"},
        {"original_no_fork", "the original without its fork", "race q_lora RAW"},
        {"original_no_join", "the original without its join", "race q RAW"}},
       make_mla},
      {"indexer",
       "the fused indexer in two stages, with two forks and two joins",
       {{"sound", "F1, J1, F2, J2", "clean"},
        {"no_F1", "without the first fork", "race q_lora RAW"},
        {"no_J1", "without the first join: a capture succeeds all the same", "race q RAW"},
        {"no_F2", "without the second fork: a capture succeeds all the same", "race key RAW"},
        {"no_J2", "without the second join", "race idx_cache RAW"}},
       make_indexer},
      {"two_batch",
       "two-batch overlap of two layers: computing and transfers of two halves in turns (sglang#6711)",
       {{"decode", "since sglang#6711, delta 2", "clean"},
        {"decode_before", "before it", "clean"},
        {"prefill", "delta 0", "clean"},
        {"qwen3_decode", "without shared experts", "clean"}},
       make_two_batch}};
  return all;
}

const Block& require_block(const std::string& given) {
  std::vector<std::string> known;
  for (const Block& b : blocks()) {
    known.emplace_back(b.name);
    if (given == b.name) return b;
  }
  throw UsageError(fmt::format("block '{}' is not known: did you mean {}? There are {}", printable(given, 60),
                               nearest(given, known), fmt::join(known, ", ")));
}

StreamProgram make_block(const Block& block, const BlockOptions& options) {
  BlockOptions o = options;
  std::vector<std::string> known;
  for (const BlockVariant& v : block.variants) known.emplace_back(v.name);
  if (o.variant.empty()) o.variant = known.front();
  bool found = false;
  for (const std::string& k : known) found = found || k == o.variant;
  if (!found)
    throw UsageError(fmt::format("{} has no variant '{}': did you mean {}? There are {}", block.name,
                                 printable(o.variant, 60), nearest(o.variant, known),
                                 fmt::join(known, ", ")));
  StreamProgram p = block.make(o);
  if (p.name.empty())
    p.name = fmt::format("{} {}{}", block.name, o.variant, o.state.capturing ? " capturing" : "");
  return p;
}

}  // namespace moecheck::harness::streams

#pragma once
// The blocks of MoE models that use two streams, as programs: sound ones, and each with the mistakes that were made of them.
//
// Every variant says what is wrong with it, so that a checker can be held to it.
#include <cstdint>
#include <string>
#include <vector>

#include "harness/streams/policy.h"
#include "reference/stream_program.h"

namespace moecheck::harness::streams {

struct BlockOptions {
  DualPolicy policy;
  DualState state;  // capturing, tokens, ...
  Platform platform;
  std::string variant;  // "": the first of the block
};

struct BlockVariant {
  const char* name;
  const char* what;     // one sentence, with where it comes from
  const char* verdict;  // "clean", "race BUFFER HAZARDS", "capture CODE", "lifetime FAULT", "no overlap"
};

struct Block {
  const char* name;
  const char* summary;
  std::vector<BlockVariant> variants;
  reference::StreamProgram (*make)(const BlockOptions&);
};
const std::vector<Block>& blocks();
const Block& require_block(const std::string& name);  // throws UsageError

// Throws UsageError for a variant that the block does not have.
reference::StreamProgram make_block(const Block& block, const BlockOptions& options);
// What make_block makes of glm4_moe.
struct Glm4Moe;
Glm4Moe glm4_options(const BlockOptions& options);

// ---- The programs, with everything that can be changed about them

enum class Fork : std::uint8_t {
  kBefore,
  kLate,
  kNone
};  // of the side stream's first work: before or behind the main one's
enum class Join : std::uint8_t { kLate, kEarly, kNone };
enum class Scratch : std::uint8_t { kNone, kDevice, kStream };

// GLM-4 MoE (sglang glm4_moe.py, #13778). Host order: alt waits for cur; shared experts S on cur; gate G, top-k T, experts E and
// scaling M on alt; cur waits for alt; add A, all-reduce R on cur. Before it the producer P of h, behind it the next writer N.
struct Glm4Moe {
  bool dual = true, capturing = false;
  bool declares_overlap = true;  // of S and E, where E does not write what S reads; without `dual` it is lost
  Fork fork = Fork::kBefore;
  Join join = Join::kLate;
  bool scale_outside = false;
  enum class Input : std::uint8_t { kOwn, kInPlace, kInPlaceClone, kLateClone } input = Input::kOwn;
  Scratch scratch = Scratch::kNone;
  enum class Output : std::uint8_t { kKept, kFreed, kRecorded, kRecordedWrong } output = Output::kKept;
  bool outside_event =
      false;  // alt's prefetch recorded an event before the capture, and cur waits for it inside
  // Of its buffers. As they are, a token of hidden 5120 in bf16: sizes only have to differ from views.
  struct Bytes {
    std::int64_t hidden = 10240, logits = 512, topk = 64, w_gate = 1024, w_shared = 10240, w_experts = 10240,
                 workspace = 4096;
  } bytes = {};
};
reference::StreamProgram glm4_moe(const Glm4Moe& options);

// DeepSeek forward_normal_dual_stream: kGateFirst (before #9405), kMainFirst (as GLM-4), kAltFirst (#29142: shared on alt, routed
// on cur, whose pre-permute disposes of h on the host before the shared kernel is launched), kAltFirstKept (#29463).
enum class DeepseekForm : std::uint8_t { kGateFirst, kMainFirst, kAltFirst, kAltFirstKept };
reference::StreamProgram deepseek_moe(DeepseekForm form, bool capturing, bool scale_outside);

// MLA with the DSA indexer. The original layout: q_b_proj on alt beside the indexer on cur, joined before bmm. A_v4: q_b_proj,
// bmm and rope_cat_cache on cur beside the whole indexer on alt, joined before attention.
struct MlaPrepare {
  bool a_v4 = true, capturing = false;
  Fork fork = Fork::kBefore;
  Join join = Join::kLate;
};
reference::StreamProgram mla_prepare(const MlaPrepare& options);

// The fused indexer in two stages (_fused_q_prepare_and_store); `dropped` is F1, J1, F2, J2 or "".
reference::StreamProgram indexer_two_stages(const std::string& dropped, bool capturing);

}  // namespace moecheck::harness::streams

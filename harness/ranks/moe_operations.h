#pragma once
// The operations of a two-batch layer (harness/streams/two_batch.h), for one rank and one of its batches, with experts spread over
// the ranks:
//
//   select       topk ids and weights; which slots go to which rank
//   dispatch_a   each slot's row, local expert and place in [M, K] leave for the expert's rank
//   dispatch_b   the rows that others sent are here
//   experts      one output row for each of them, unweighted, bf16
//   combine_a    they go back with their places
//   combine_b    the own tokens' slots are back, each put into its place
//   output       shared + rsf * sum_k w_k y_k in fp32 and in slot order, by the token's owner
//
// So no sum crosses ranks, and the bits depend neither on the number of ranks nor on who has which token.
#include <functional>

#include "harness/ranks/batch_state.h"
#include "harness/ranks/communicator.h"
#include "harness/ranks/compute.h"
#include "harness/ranks/faults.h"
#include "harness/ranks/layers.h"
#include "harness/streams/two_batch.h"

namespace moecheck::harness::ranks {

// One MoE block as it was computed: what the reference judges. Rows of the rank's own tokens.
struct MoeRecord {
  int batch = 0, layer = 0;
  std::vector<std::uint16_t> mlp_input;  // [M, H] bf16
  std::vector<std::int32_t> topk_ids;    // [M, K]
  std::vector<float> topk_weights;       // [M, K]
  bool shared = false;
  std::vector<float> out;  // [M, H]
};

// What the operations of both batches use.
struct RankContext {
  Communicator& ranks;
  Compute& compute;
  const Layers& layers;
  const RankWeights& weights;
  RankFault fault = RankFault::kNone;
  std::function<void(const MoeRecord&)> observe;  // may be empty
  std::vector<std::int64_t> last_tokens = {};     // RankFault::kTokensOfOtherBatch
};

// Slots of [M, K] by the rank of their expert, in slot order for each rank; slots with id -1 go nowhere.
struct DispatchPlan {
  std::vector<std::int64_t> counts, slots;
};
DispatchPlan plan_dispatch(std::span<const std::int32_t> topk_ids, std::int64_t experts, int ranks);

class BatchOperations {
 public:
  BatchOperations(RankContext& context, int batch);
  void run(const streams::StageOp& operation);
  std::int64_t tokens() const { return tokens_; }
  // The residual stream of the own tokens [M, H], at the end. Throws StateError where something else is left.
  std::vector<float> finish();

 private:
  using Operation = void (BatchOperations::*)();
  static Operation find(std::string_view name);
  void prep_attn();
  void prepare();
  void core();
  void prep_mlp();
  void gate();
  void select();
  void shared();
  void dispatch_a();
  void dispatch_b();
  void experts();
  void combine_a();
  void combine_b();
  void output();
  void post();

  bool fault(RankFault f) const { return context_.fault == f; }
  std::string transfer(std::string_view what) const;  // "A0.dispatch"
  template <class T>
  Buffer upload(const std::vector<T>& values);
  template <class T>
  std::vector<T> download(const Buffer& from, std::int64_t count);
  struct Topk;
  struct Slots;
  void into_arrival_order(Slots& slots);
  std::size_t row_bytes() const { return static_cast<std::size_t>(options_.hidden) * 2; }

  RankContext& context_;
  Compute& compute_;
  const LayersOptions& options_;
  int batch_, layer_ = 0;
  std::int64_t first_token_ = 0, tokens_ = 0;
  BatchState state_;
};

}  // namespace moecheck::harness::ranks

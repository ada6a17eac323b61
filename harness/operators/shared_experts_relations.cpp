// Likely causes, relations and suites of shared_experts.
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>

#include "harness/operators/operators.h"
#include "harness/operators/shared_experts.h"

namespace moecheck::harness {
namespace {

bool is_slots(const Case& c) { return c.choice("form") == "slots"; }

void need_slots(const Trial& trial) {
  if (!is_slots(trial.c)) throw NotApplicable("form=weights has no tokens");
  if (trial.c.choice("insertion") == "vllm_rocm" && trial.c.integer("ep_size") > 1)
    throw NotApplicable("insertion=vllm_rocm with ep_size>1 deals tokens to ranks by their index");
}

template <const Relation& kRelation>
void on_slots(const Trial& trial) {
  need_slots(trial);
  kRelation.check(trial);
}

// Renormalized weights do not change with the size of the scores.
void score_size(const Trial& trial) {
  need_slots(trial);
  if (trial.c.choice("insertion") != "sglang" || !trial.c.flag("renormalize"))
    throw NotApplicable("only sglang renormalizes here");
  TensorSet inputs = trial.inputs;
  const View weights = inputs.view("topk_weights");
  for (std::int64_t i = 0; i < weights.shape.numel(); ++i) weights.set(i, ConstView(weights).at(i) * 4);
  Case c = trial.c;
  c.edits.clear();
  const TensorSet got = trial.run(c, inputs);
  Trial::require_rows_equal(got, 0, c.integer("tokens"), trial.outputs, 0, "out_weights");
}

// Each token's shared slots are real on exactly one rank: the weights of real slots sum to n over the ranks.
void ep_partition(const Trial& trial) {
  const Case& c = trial.c;
  if (!is_slots(c) || c.choice("insertion") != "vllm_rocm" || c.integer("ep_size") == 1)
    throw NotApplicable("it needs insertion=vllm_rocm and ep_size>1");
  const std::int64_t tokens = c.integer("tokens"), ranks = c.integer("ep_size"),
                     experts = c.integer("experts"), n = c.integer("n_shared");
  const std::int64_t columns = slot_insertion_options(c).columns();
  std::vector<double> sums(at(tokens));
  for (std::int64_t rank = 0; rank < ranks; ++rank) {
    const TensorSet got = trial.run(with_field(c, "ep_rank", fmt::format("{}", rank)), trial.inputs);
    for (std::int64_t s = 0; s < tokens * columns; ++s) {
      const std::int64_t id = got.view("out_ids").int_at(s);
      if (id >= experts && id < experts + n) sums[at(s / columns)] += got.view("out_weights").at(s);
    }
  }
  for (std::int64_t t = 0; t < tokens; ++t)
    if (sums[at(t)] != static_cast<double>(n))
      throw Broken(fmt::format("token {}: its shared slots weigh {} over the {} ranks instead of {}", t,
                               sums[at(t)], ranks, n));
}

// Exchanges chunks 0 and n-1 of a tensor along `dim` (0 or 1).
void swap_chunks(Tensor& tensor, int dim, std::int64_t n) {
  const auto size = static_cast<std::size_t>(reference::size_bytes(tensor.dtype()));
  const Shape& s = tensor.shape();
  const std::int64_t inner = s.numel() / s[0];
  const std::int64_t outer = dim == 0 ? 1 : s[0], width = dim == 0 ? s.numel() : inner, chunk = width / n;
  for (std::int64_t o = 0; o < outer; ++o) {
    std::byte* first = tensor.data() + at(o * width) * size;
    std::swap_ranges(first, first + at(chunk) * size, first + at((n - 1) * chunk) * size);
  }
}

// The fat MLP with its chunks in another order gives the same slots in that order.
void chunk_permutation(const Trial& trial) {
  const Case& c = trial.c;
  const std::int64_t n = c.integer("n_shared");
  if (is_slots(c) || n < 2) throw NotApplicable("it needs form=weights and n_shared>=2");
  TensorSet inputs = trial.inputs;
  for (Tensor& t : inputs.tensors()) {
    const bool scale = t.name().ends_with("_scale"), down = t.name().starts_with("down");
    const auto dim = reference::split_dim(down ? reference::Projection::kDown : reference::Projection::kGate,
                                          scale, weight_scale(c));
    if (dim) swap_chunks(t, *dim, n);
  }
  const TensorSet got = trial.run(c, inputs);
  for (const Tensor& t : got.tensors())
    for (std::int64_t j = 0; j < n; ++j) {
      const std::int64_t from = j == 0 ? n - 1 : j == n - 1 ? 0 : j;
      Trial::require_rows_equal(got, j, j + 1, trial.outputs, from, t.name());
    }
}

}  // namespace

std::string slots_cause(const Case& c, const reference::Slots& expected, const TensorSet& outputs) {
  const std::int64_t columns = slot_insertion_options(c).columns(), topk = c.integer("topk"),
                     tokens = c.integer("tokens");
  if (tokens == 0 || topk >= columns) return {};
  const auto ratio = [&](std::int64_t k) {
    double got = 0, want = 0;
    for (std::int64_t t = 0; t < tokens; ++t) {
      got += outputs.view("out_weights").at(t, k);
      want += expected.weights[at(t * columns + k)].value;
    }
    return want == 0 ? 0 : got / want;
  };
  const double routed = ratio(0), shared = ratio(topk), rsf = c.real("rsf");
  const auto near = [](double a, double b) { return std::fabs(a - b) <= 0.01 * std::fabs(b); };
  const double inside = 1 / (1 + static_cast<double>(c.integer("n_shared")) / rsf);
  if (near(routed, inside) && near(shared, inside))
    return fmt::format("all weights are {:.4g} times the expected: the divisor includes the shared slots",
                       routed);
  if (near(routed, 1) && near(shared, rsf))
    return fmt::format(
        "shared slots weigh {:.4g} times the expected, which is rsf: the division by rsf is missing", shared);
  if (near(routed, 1) && near(shared, 1 / rsf))
    return fmt::format(
        "shared slots weigh {:.4g} times the expected, which is 1/rsf: they are divided by rsf once more",
        shared);
  if (near(routed, 1) && near(shared, 1 / static_cast<double>(c.integer("n_shared"))))
    return "shared slots weigh 1/n_shared of the expected: each chunk has full weight";
  if (near(shared, 1) && near(routed, 1 / rsf))
    return "routed weights are 1/rsf of the expected: the factor is missing";
  return {};
}

std::string weights_cause(const Case& c, const TensorSet& inputs, const TensorSet& outputs) {
  const Tensor& w13 = outputs.at("w13");
  const Tensor& gate = inputs.at("gate");
  const std::int64_t n = c.integer("n_shared");
  const std::size_t half = w13.bytes() / at(2 * n);
  if (n > 1 && std::memcmp(w13.data() + half, gate.data() + half, half) == 0)
    return "the second half of slot 0 holds gate rows: the stacked [gate; up] was cut, each of the two has "
           "to be";
  if (std::memcmp(w13.data(), inputs.at("up").data(), half) == 0) return "gate and up are exchanged";
  if (n > 1 && std::memcmp(w13.data() + 2 * half, w13.data(), 2 * half) == 0)
    return "slot 1 repeats slot 0: each chunk has to appear once";
  return {};
}

std::span<const Relation> shared_experts_relations() {
  static const std::array<Relation, 6> all = {
      Relation{kTokenPermutation.name, kTokenPermutation.sentence, on_slots<kTokenPermutation>},
      Relation{kBatchSplit.name, kBatchSplit.sentence, on_slots<kBatchSplit>},
      Relation{kDuplicateToken.name, kDuplicateToken.sentence, on_slots<kDuplicateToken>},
      Relation{"score_size", "four times the scores give the same renormalized weights, to the bit",
               score_size},
      Relation{"ep_partition", "over the ranks each token has each shared expert exactly once", ep_partition},
      Relation{"chunk_permutation", "chunks in another order give the slots in that order",
               chunk_permutation},
  };
  return all;
}

std::vector<Case> shared_experts_cases(Suite suite) {
  const Operator& op = shared_experts_operator();
  std::vector<Case> cases;
  const std::vector<std::string> slots = {"policy=sglang",
                                          "policy=sglang_flag",
                                          "policy=aiter_append",
                                          "policy=vllm_rocm",
                                          "policy=vllm_rocm ep_size=4 ep_rank=1",
                                          "policy=qwen3_next"};
  const std::vector<std::string> splits = {"policy=split",
                                           "policy=split dtype=f32",
                                           "policy=split dtype=f16 scale=tensor",
                                           "policy=split_fp8",
                                           "policy=split_fp8 dtype=e4m3fnuz scale=tensor",
                                           "policy=split_ptpc"};
  switch (suite) {
    case Suite::kQuick:
      add_product(cases, op,
                  {slots,
                   {"n_shared=1", "n_shared=2"},
                   {"data=realistic", "data=integers rsf=2"},
                   {"ids=i32", "ids=i64 topk=3"}});
      add_product(cases, op, {splits, {"n_shared=1", "n_shared=2", "n_shared=3"}});
      add_product(cases, op,
                  {{"policy=sglang topk=40 experts=64 tokens=9"}});  // a row for more than 32 lanes
      break;
    case Suite::kModels:
      add_product(cases, op,
                  {model_axis(), slots, {"tokens=1", "tokens=33", "tokens=17 data=integers rsf=2"}});
      add_product(cases, op,
                  {model_axis(), splits, {"hidden=256 intermediate=128", "hidden=512 intermediate=256"}});
      break;
    case Suite::kAdversarial:
      add_product(cases, op,
                  {slots,
                   {"data=minus_one", "data=duplicate_tokens", "edit=minus_one:1:0"},
                   {"n_shared=1", "n_shared=4"}});
      add_product(cases, op,
                  {slots, {"tokens=0", "tokens=1", "tokens=31", "tokens=32", "tokens=33", "tokens=513"}});
      add_product(cases, op,
                  {slots,
                   {"topk=1", "topk=6", "topk=8", "topk=10 experts=512", "topk=5 experts=5"},
                   {"renormalize=0", "rsf=1", "rsf=2.827", "n_shared=8", "append_weight=0.25"}});
      add_product(cases, op,
                  {splits,
                   {"intermediate=1 hidden=1", "intermediate=1408 hidden=40", "intermediate=127 hidden=129",
                    "intermediate=128 hidden=65", "intermediate=192 hidden=130"},
                   {"n_shared=1", "n_shared=2", "n_shared=5"}});
      break;
    case Suite::kFull:
      add_random(cases, op, 300,
                 {slots,
                  {"tokens=1", "tokens=2", "tokens=9", "tokens=70"},
                  {"topk=1", "topk=2", "topk=4", "topk=6", "topk=8"},
                  {"n_shared=1", "n_shared=2", "n_shared=3"},
                  {"rsf=1", "rsf=2.5", "rsf=2.827", "rsf=16"},
                  {"renormalize=0", "renormalize=1"},
                  {"ids=i32", "ids=i64"},
                  {"experts=8", "experts=160"},
                  {"data=realistic", "data=minus_one"}});
      add_random(cases, op, 200,
                 {splits,
                  {"n_shared=1", "n_shared=2", "n_shared=4"},
                  {"hidden=8", "hidden=100", "hidden=256"},
                  {"intermediate=16", "intermediate=128", "intermediate=384"}});
      break;
  }
  return each_once(std::move(cases));
}

}  // namespace moecheck::harness

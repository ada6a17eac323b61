#include "harness/streams/two_batch.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <map>

#include "harness/case.h"
#include "harness/fault.h"

namespace moecheck::harness::streams {
namespace {

using reference::StreamProgram;

const char* list_of(TwoBatchPlan plan) {
  switch (plan) {
    case TwoBatchPlan::kPrefill:
      return "prep_attn prepare core prep_mlp gate select dispatch_a | dispatch_b experts combine_a | shared "
             "combine_b output "
             "post";
    case TwoBatchPlan::kDecode:
      return "prep_attn prepare | core prep_mlp gate select | dispatch_a shared | dispatch_b experts "
             "combine_a | combine_b | "
             "output post";
    case TwoBatchPlan::kDecodeBefore:
      return "prep_attn prepare | core prep_mlp gate select | dispatch_a shared | dispatch_b experts "
             "combine_a | combine_b "
             "output post |";
    case TwoBatchPlan::kQwen3Decode:
      return "prep_attn prepare | core prep_mlp gate select | dispatch_a | dispatch_b experts combine_a | "
             "combine_b output "
             "post |";
  }
  return "";
}

bool issues(const std::string& op) { return op == "dispatch_a" || op == "combine_a"; }
bool awaits(const std::string& op) { return op == "dispatch_b" || op == "combine_b"; }

// What each operation reads and writes, of its batch.
struct Uses {
  std::vector<const char*> reads, writes;
};
const std::map<std::string, Uses>& uses() {
  static const std::map<std::string, Uses> all{
      {"prep_attn", {{"residual"}, {"residual", "normed"}}},
      {"prepare", {{"normed"}, {"qkv"}}},
      {"core", {{"qkv"}, {"attn"}}},
      {"prep_mlp", {{"attn", "residual"}, {"residual", "mlp_input"}}},
      {"gate", {{"mlp_input"}, {"router_logits"}}},
      {"select", {{"router_logits"}, {"topk"}}},
      {"shared", {{"mlp_input"}, {"shared_out"}}},
      {"dispatch", {{"mlp_input", "topk"}, {"received"}}},
      {"experts", {{"received"}, {"expert_out"}}},
      {"combine", {{"expert_out", "topk"}, {"routed_out"}}},
      {"output", {{"routed_out", "shared_out"}, {"hidden"}}},
      {"post", {{"hidden", "residual"}, {"residual"}}}};
  return all;
}

class Builder {
 public:
  explicit Builder(const std::string& name) {
    p_.name = name;
    cur_ = p_.stream("cur");
    comm_ = p_.stream("comm");
  }
  void run(int batch, const StageOp& op) {
    const std::string base =
        issues(op.name) || awaits(op.name) ? op.name.substr(0, op.name.size() - 2) : op.name;
    const char letter = batch == 0 ? 'A' : 'B';
    if (awaits(op.name)) {
      if (!HARNESS_FAULT(kTwoBatchWaitMissing)) p_.wait(cur_, pending_.at(fmt::format("{}{}", letter, base)));
      return;
    }
    const std::string label = fmt::format("{}{}.{}", letter, op.layer, base);
    const Uses& u = uses().at(base);
    if (!issues(op.name)) {
      p_.kernel(label, cur_, buffers(letter, u.reads), buffers(letter, u.writes));
      return;
    }
    p_.wait(comm_, p_.record(cur_));
    p_.kernel(label, comm_, buffers(letter, u.reads), buffers(letter, u.writes), 2);
    pending_[fmt::format("{}{}", letter, base)] = p_.record(comm_);
  }
  StreamProgram take() { return std::move(p_); }

 private:
  std::vector<int> buffers(char letter, const std::vector<const char*>& names) {
    std::vector<int> list;
    for (const char* n : names) {
      const std::string name = fmt::format("{}.{}", letter, n);
      auto [it, fresh] = buffers_.emplace(name, -1);
      if (fresh) it->second = p_.buffer(name, 64);
      list.push_back(it->second);
    }
    return list;
  }

  StreamProgram p_;
  int cur_ = 0, comm_ = 0;
  std::map<std::string, int> buffers_, pending_;
};

}  // namespace

std::string_view name(TwoBatchPlan plan) {
  constexpr std::string_view names[] = {"prefill", "decode", "decode_before", "qwen3_decode"};
  return names[static_cast<std::size_t>(plan)];
}

int default_delta(TwoBatchPlan plan) { return plan == TwoBatchPlan::kPrefill ? 0 : 2; }

std::vector<Stage> cut_stages(const std::vector<StageOp>& operations) {
  std::vector<Stage> all(1);
  for (const StageOp& op : operations) {
    if (HARNESS_FAULT(kTwoBatchYieldMissing) && op.name == "|") continue;
    if (op.name != "|") {
      all.back().push_back(op);
      continue;
    }
    if (all.back().empty())
      throw UsageError(fmt::format(
          "stage {} has no operations: a yield comes behind an operation, one at a time", all.size() - 1));
    all.emplace_back();
  }
  if (all.back().empty()) all.pop_back();
  return all;
}

std::vector<Stage> stages(TwoBatchPlan plan, int layers) {
  std::vector<StageOp> operations;
  for (int l = 0; l < layers; ++l)
    for (const std::string_view op : split_words(list_of(plan))) operations.push_back({l, std::string(op)});
  return cut_stages(operations);
}

std::vector<Turn> turns(int stages, int delta) {
  if (delta < 0 || delta > stages)
    throw UsageError(fmt::format("delta {} with {} stages: give 0 to {}", delta, stages, stages));
  std::vector<Turn> list;
  for (int i = 0; i < delta; ++i) list.push_back({0, i});
  for (int i = delta; i < stages; ++i) {
    list.push_back(HARNESS_FAULT(kTwoBatchOrderSwapped) ? Turn{1, i - delta} : Turn{0, i});
    list.push_back(HARNESS_FAULT(kTwoBatchOrderSwapped) ? Turn{0, i} : Turn{1, i - delta});
  }
  for (int i = stages - delta; i < stages; ++i) list.push_back({1, i});
  return list;
}

int most_outstanding(const std::vector<Stage>& all, int delta) {
  int now = 0, most = 0;
  for (const Turn& t : turns(static_cast<int>(all.size()), delta))
    for (const StageOp& op : all[static_cast<std::size_t>(t.stage)]) {
      if (awaits(op.name)) --now;
      if (issues(op.name)) most = std::max(most, ++now);
    }
  return most;
}

int uncovered_transfers(const std::vector<Stage>& all, int delta) {
  int uncovered = 0;
  std::array<std::vector<bool>, 2> covered;  // of each batch: its open transfers, oldest first
  for (const Turn& t : turns(static_cast<int>(all.size()), delta))
    for (const StageOp& op : all[static_cast<std::size_t>(t.stage)]) {
      auto &mine = covered[static_cast<std::size_t>(t.batch)],
           &other = covered[static_cast<std::size_t>(1 - t.batch)];
      if (issues(op.name)) mine.push_back(false);
      if (awaits(op.name)) {
        uncovered += !mine.front();
        mine.erase(mine.begin());
      }
      if (!issues(op.name) && !awaits(op.name)) other.assign(other.size(), true);
    }
  return uncovered;
}

StreamProgram two_batch_program(TwoBatchPlan plan, int layers, int delta, bool overlapped) {
  const std::vector<Stage> all = stages(plan, layers);
  Builder b(fmt::format("two_batch {} layers={} delta={}", name(plan), layers, delta));
  std::vector<Turn> order = turns(static_cast<int>(all.size()), delta);
  if (!overlapped)
    std::stable_sort(order.begin(), order.end(),
                     [](const Turn& x, const Turn& y) { return x.batch < y.batch; });
  for (const Turn& t : order)
    for (const StageOp& op : all[static_cast<std::size_t>(t.stage)]) b.run(t.batch, op);
  return b.take();
}

}  // namespace moecheck::harness::streams

#include "harness/streams/captured_graph.h"

#include <map>

#include "reference/stream_order.h"

namespace moecheck::harness::streams {
namespace {

class NodeOrder {
 public:
  explicit NodeOrder(const std::vector<gpu::GraphNode>& nodes) : nodes_(nodes) {
    for (std::size_t i = 0; i < nodes.size(); ++i) place_[nodes[i].id] = i;
  }

  // The nodes from which there is a path to one of these, and themselves, that are not in `taken`; all of them are then.
  std::vector<std::size_t> take_up_to(const std::vector<const void*>& ids, std::vector<bool>& taken) const {
    std::vector<std::size_t> found, open;
    for (const void* id : ids) open.push_back(place_.at(id));
    while (!open.empty()) {
      const std::size_t n = open.back();
      open.pop_back();
      if (taken[n]) continue;
      taken[n] = true;
      found.push_back(n);
      for (const void* id : nodes_[n].after) open.push_back(place_.at(id));
    }
    return found;
  }
  std::vector<bool> before(std::size_t node) const {
    std::vector<bool> seen(nodes_.size());
    (void)take_up_to({nodes_[node].id}, seen);
    return seen;
  }

 private:
  const std::vector<gpu::GraphNode>& nodes_;
  std::map<const void*, std::size_t> place_;
};

}  // namespace

std::vector<GraphDifference> compare_graph(const reference::StreamProgram& program,
                                           const std::vector<CapturedOperation>& operations,
                                           const std::vector<gpu::GraphNode>& nodes) {
  const NodeOrder graph(nodes);
  std::vector<bool> taken(nodes.size());
  std::vector<std::vector<std::size_t>> of;
  for (const CapturedOperation& o : operations) of.push_back(graph.take_up_to(o.tail, taken));

  const reference::StreamOrder order(program, true);
  std::vector<GraphDifference> all;
  for (const bool t : taken)
    if (!t) all.push_back({true, -1, -1});
  for (std::size_t b = 0; b < operations.size(); ++b) {
    std::vector<std::vector<bool>> before;
    for (const std::size_t n : of[b]) before.push_back(graph.before(n));
    for (std::size_t a = 0; a < operations.size(); ++a) {
      if (a == b || of[a].empty() || of[b].empty()) continue;
      bool ordered = true;
      for (const std::vector<bool>& up : before) {
        bool from_all = true;
        for (const std::size_t n : of[a]) from_all = from_all && up[n];
        ordered = ordered && from_all;
      }
      const bool meant = order.before(order.nodes_of(operations[a].step).front(),
                                      order.nodes_of(operations[b].step).front());
      if (meant != ordered) all.push_back({meant, operations[a].step, operations[b].step});
    }
  }
  return all;
}

}  // namespace moecheck::harness::streams

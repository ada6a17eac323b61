#pragma once
// What a stream program orders: happens-before between its operations, by vector clocks.
//
// The program is lowered to nodes with edges that all point forward. Operations are nodes, and so are records, waits and other
// points that only pass order on. The operations of a chain are in its order: a stream is a chain, and so is each stream of a graph
// in each launch. clock(x)[c] = how many operations of chain c happen before x, so
//
//   a happens before b   iff   clock(b)[chain(a)] >= number(a)          (numbers count from 1 within a chain)
#include <cstdint>
#include <functional>
#include <unordered_map>
#include <vector>

#include "reference/stream_capture.h"
#include "reference/stream_program.h"

namespace moecheck::reference {

// Who makes an edge: a step that waits (>= 0), or one of these.
enum : int { kByStream = -1, kByLegacy = -2, kByHost = -3, kByGraph = -4, kByAfter = -5 };

struct OrderEdge {
  int from = 0;
  int by = kByStream;
};

struct OrderNode {
  int step = 0;
  int launch = -1;  // the step whose launch of a graph runs it; -1: it runs as it was put on its stream
  int chain = -1;
  int number = 0;  // within the chain; 0: no operation
  std::vector<OrderEdge> before;
  bool operation() const { return number > 0; }
};

class StreamOrder {
 public:
  // The program is not refused. With `captures` false, work of captures runs as it is put on its streams, and graphs are
  // not launched: what can be said of a program whose captures fail.
  StreamOrder(const StreamProgram& program, bool captures);

  const std::vector<OrderNode>& nodes() const { return nodes_; }
  const OrderNode& node(int n) const { return nodes_[static_cast<std::size_t>(n)]; }
  const std::vector<int>& operations() const { return operations_; }  // nodes, in the host's order
  int chains() const { return chains_; }
  // The operations of a chain, by number - 1.
  const std::vector<int>& chain(int c) const { return by_chain_[static_cast<std::size_t>(c)]; }
  // The nodes of a step: one, or one for each launch of its graph.
  const std::vector<int>& nodes_of(int step) const { return of_step_[static_cast<std::size_t>(step)]; }

  const std::int32_t* clock(int n) const {
    return clocks_.data() + static_cast<std::size_t>(n) * static_cast<std::size_t>(chains_);
  }
  // Both are operations, or `b` is any node.
  bool before(int a, int b) const { return a != b && clock(b)[node(a).chain] >= node(a).number; }
  bool concurrent(int a, int b) const { return a != b && !before(a, b) && !before(b, a); }

  // Edges from `a` to `b`: the nodes from one to the other, both included; nothing where a is not before b.
  std::vector<int> path(int a, int b) const;
  // The edge of `path` that leads to its k-th node.
  OrderEdge edge(int from, int to) const;

  // The node of the host's last wait before a step, or -1: what is before it is done when the host gets to the step.
  int host_at(int step) const { return host_[static_cast<std::size_t>(step)]; }

  // Of a free step: the last node of each stream when the host gets there, or -1.
  const std::vector<int>& last_at(int step) const { return last_at_.at(step); }

  // Goes through the nodes whose clock is another one without the edges that a waiting step makes, in the order of nodes,
  // until `stop` returns true.
  using Stop = std::function<bool(int node, const std::int32_t* clock)>;
  void without(int step, const Stop& stop) const;

 private:
  friend class OrderBuilder;
  void finish();

  std::vector<OrderNode> nodes_;
  std::vector<int> operations_;
  std::vector<std::vector<int>> by_chain_, of_step_, waits_,
      followers_;  // of chain, of step, of step, of node
  std::vector<int> host_;
  std::unordered_map<int, std::vector<int>> last_at_;
  std::vector<std::int32_t> clocks_;
  int chains_ = 0;
};

}  // namespace moecheck::reference

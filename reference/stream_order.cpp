#include "reference/stream_order.h"

#include <algorithm>
#include <queue>
#include <unordered_map>

#include "reference/index.h"

namespace moecheck::reference {
namespace {}  // namespace

class OrderBuilder {
 public:
  OrderBuilder(const StreamProgram& p, bool captures, StreamOrder& order)
      : p_(p),
        order_(order),
        last_(p.streams.size(), -1),
        seen_host_(p.streams.size(), -1),
        graphs_(p.graphs.size()),
        events_(p.events.size(), {-1, -1}) {
    graph_of_step_.assign(p.steps.size(), -1);
    if (captures) graph_of_step_ = capture_facts(p).graph_of_step;
    captures_ = captures;
    for (Template& g : graphs_) g.last.assign(p.streams.size(), -1);
    for (const StreamStep& s : p.steps)
      if (s.kind == StepKind::kLaunchGraph) graphs_[index(s.graph)].launched = true;
    order_.chains_ = static_cast<int>(p.streams.size());
    order_.by_chain_.resize(p.streams.size());
    order_.of_step_.resize(p.steps.size());
    order_.waits_.resize(p.steps.size());
  }

  void run() {
    for (std::size_t i = 0; i < p_.steps.size(); ++i) {
      step_ = static_cast<int>(i);
      order_.host_.push_back(host_);
      if (p_.steps[i].kind == StepKind::kFree) order_.last_at_[step_] = last_;
      if (graph_of_step_[i] >= 0)
        captured(p_.steps[i], graph_of_step_[i]);
      else
        eager(p_.steps[i]);
    }
  }

 private:
  struct TemplateNode {
    int step = 0, stream = 0;
    std::vector<OrderEdge> before;
  };
  // A captured graph: its nodes, and while it is captured the last of each stream.
  struct Template {
    std::vector<TemplateNode> nodes;
    std::vector<int> last;
    int origin = -1, end = -1;  // the node behind its latest launch
    bool launched = false;
  };
  struct EventState {
    int graph, node;  // node of the order, or of the graph's template
  };

  void eager(const StreamStep& s) {
    switch (s.kind) {
      case StepKind::kKernel:
      case StepKind::kCopy: {
        const int n = point(s.stream);
        for (const int a : s.after) connect(order_.of_step_[index(a)].front(), n, kByAfter);
        make_operation(n, s.stream);
        return;
      }
      case StepKind::kRecord:
        events_[index(s.event)] = {-1, point(s.stream)};
        return;
      case StepKind::kWait:
        connect(events_[index(s.event)].node, point(s.stream), step_);
        return;
      case StepKind::kWaitStream:
        if (s.stream == s.on) return;
        wait_stream(s);
        return;
      case StepKind::kHostSync:
        return sync(s);
      case StepKind::kBeginCapture:
        if (captures_) graphs_[index(s.graph)].origin = s.stream;
        return;
      case StepKind::kLaunchGraph:
        if (captures_) launch(graphs_[index(s.graph)], s.stream);
        return;
      case StepKind::kEndCapture:
      case StepKind::kAlloc:
      case StepKind::kFree:
      case StepKind::kRecordStream:
        return;
    }
  }

  void wait_stream(const StreamStep& s) {
    const int from = point(s.on);
    connect(from, point(s.stream), step_);
  }

  void sync(const StreamStep& s) {
    const int n = add();
    if (host_ >= 0) connect(host_, n, kByHost);
    if (s.event >= 0) {
      connect(events_[index(s.event)].node, n, kByHost);
    } else {
      for (std::size_t t = 0; t < last_.size(); ++t)
        if (last_[t] >= 0 && (s.stream < 0 || index(s.stream) == t)) connect(last_[t], n, kByHost);
    }
    host_ = n;
  }

  void captured(const StreamStep& s, int g) {
    Template& t = graphs_[index(g)];
    switch (s.kind) {
      case StepKind::kKernel:
      case StepKind::kCopy:
        template_node(t, s.stream);
        return;
      case StepKind::kRecord:
        events_[index(s.event)] = {g, template_node(t, s.stream)};
        return;
      case StepKind::kWait: {
        const int n = template_node(t, s.stream);
        t.nodes[index(n)].before.push_back({events_[index(s.event)].node, step_});
        return;
      }
      case StepKind::kWaitStream: {
        if (s.stream == s.on) return;
        const int from = template_node(t, s.on), n = template_node(t, s.stream);
        t.nodes[index(n)].before.push_back({from, step_});
        return;
      }
      case StepKind::kEndCapture:
        t.last.assign(t.last.size(), -1);
        if (!t.launched) launch(t, t.origin);
        return;
      default:
        return;
    }
  }

  int template_node(Template& t, int stream) {
    TemplateNode n{step_, stream, {}};
    if (const int l = t.last[index(stream)]; l >= 0) n.before.push_back({l, kByStream});
    t.nodes.push_back(std::move(n));
    return t.last[index(stream)] = static_cast<int>(t.nodes.size()) - 1;
  }

  void launch(Template& t, int stream) {
    const int begin = point(stream);
    if (t.end >= 0) connect(t.end, begin, kByGraph);
    std::vector<int> made, lanes(p_.streams.size(), -1);
    const int launch_step = step_;
    for (const TemplateNode& from : t.nodes) {
      const int n = add();
      OrderNode& node = order_.nodes_[index(n)];
      node.step = from.step;
      node.launch = launch_step;
      for (const OrderEdge& e : from.before) connect(made[index(e.from)], n, e.by);
      if (from.before.empty()) connect(begin, n, kByGraph);
      if (is_operation(p_.steps[index(from.step)])) {
        int& lane = lanes[index(from.stream)];
        if (lane < 0) {
          lane = order_.chains_++;
          order_.by_chain_.emplace_back();
        }
        make_operation(n, lane);
      }
      made.push_back(n);
    }
    const int end = add();
    connect(begin, end, kByGraph);
    std::vector<int> lane_end(p_.streams.size(), -1);
    for (std::size_t i = 0; i < made.size(); ++i) lane_end[index(t.nodes[i].stream)] = made[i];
    for (const int n : lane_end)
      if (n >= 0) connect(n, end, kByGraph);
    t.end = last_[index(stream)] = end;
  }

  std::vector<int> legacy_before(int stream) const {
    std::vector<int> list;
    const StreamKind kind = p_.streams[index(stream)].kind;
    for (std::size_t t = 0; t < last_.size(); ++t) {
      const StreamKind other = p_.streams[t].kind;
      const bool tied = (kind == StreamKind::kLegacy && other == StreamKind::kBlocking) ||
                        (kind == StreamKind::kBlocking && other == StreamKind::kLegacy);
      if (tied && last_[t] >= 0) list.push_back(last_[t]);
    }
    return list;
  }

  // A node at the end of a stream.
  int point(int stream) {
    const int n = add();
    if (last_[index(stream)] >= 0) connect(last_[index(stream)], n, kByStream);
    for (const int l : legacy_before(stream)) connect(l, n, kByLegacy);
    if (host_ >= 0 && seen_host_[index(stream)] != host_) connect(host_, n, kByHost);
    seen_host_[index(stream)] = host_;
    return last_[index(stream)] = n;
  }

  int add() {
    OrderNode n;
    n.step = step_;
    order_.nodes_.push_back(std::move(n));
    return static_cast<int>(order_.nodes_.size()) - 1;
  }
  void make_operation(int n, int chain) {
    OrderNode& node = order_.nodes_[index(n)];
    node.chain = chain;
    order_.by_chain_[index(chain)].push_back(n);
    node.number = static_cast<int>(order_.by_chain_[index(chain)].size());
    order_.operations_.push_back(n);
    order_.of_step_[index(node.step)].push_back(n);
  }
  void connect(int from, int to, int by) {
    order_.nodes_[index(to)].before.push_back({from, by});
    if (by >= 0) order_.waits_[index(by)].push_back(to);
  }

  const StreamProgram& p_;
  StreamOrder& order_;
  bool captures_ = false;
  std::vector<int> graph_of_step_, last_, seen_host_;
  std::vector<Template> graphs_;
  std::vector<EventState> events_;
  int step_ = 0, host_ = -1;
};

StreamOrder::StreamOrder(const StreamProgram& program, bool captures) {
  OrderBuilder(program, captures, *this).run();
  finish();
}

void StreamOrder::finish() {
  const auto width = static_cast<std::size_t>(chains_);
  clocks_.assign(nodes_.size() * width, 0);
  followers_.resize(nodes_.size());
  for (std::size_t n = 0; n < nodes_.size(); ++n) {
    std::int32_t* const to = clocks_.data() + n * width;
    for (const OrderEdge& e : nodes_[n].before) {
      const std::int32_t* const from = clock(e.from);
      for (std::size_t c = 0; c < width; ++c) to[c] = std::max(to[c], from[c]);
      const OrderNode& f = node(e.from);
      if (f.operation()) to[f.chain] = std::max(to[f.chain], f.number);
      followers_[index(e.from)].push_back(static_cast<int>(n));
    }
  }
}

std::vector<int> StreamOrder::path(int a, int b) const {
  if (!before(a, b)) return {};
  std::unordered_map<int, int> next;  // of a node: the one behind it on the way to b
  std::queue<int> queue;
  queue.push(b);
  next[b] = -1;
  while (!queue.empty()) {
    const int n = queue.front();
    queue.pop();
    if (n == a) break;
    for (const OrderEdge& e : node(n).before)
      if (e.from >= a && (e.from == a || before(a, e.from)) && next.emplace(e.from, n).second)
        queue.push(e.from);
  }
  std::vector<int> way;
  for (int n = a; n >= 0; n = next.at(n)) way.push_back(n);
  return way;
}

OrderEdge StreamOrder::edge(int from, int to) const {
  for (const OrderEdge& e : node(to).before)
    if (e.from == from) return e;
  return {from, kByStream};
}

void StreamOrder::without(int step, const Stop& stop) const {
  const auto width = static_cast<std::size_t>(chains_);
  std::unordered_map<int, std::vector<std::int32_t>> changed;
  std::priority_queue<int, std::vector<int>, std::greater<>> queue;
  std::vector<bool> queued(nodes_.size());
  const auto push = [&](int n) {
    if (!queued[index(n)]) queue.push(n);
    queued[index(n)] = true;
  };
  for (const int n : waits_[index(step)]) push(n);
  std::vector<std::int32_t> fresh(width);
  while (!queue.empty()) {
    const int n = queue.top();
    queue.pop();
    std::fill(fresh.begin(), fresh.end(), 0);
    for (const OrderEdge& e : node(n).before) {
      if (e.by == step) continue;
      const auto found = changed.find(e.from);
      const std::int32_t* const from = found == changed.end() ? clock(e.from) : found->second.data();
      for (std::size_t c = 0; c < width; ++c) fresh[c] = std::max(fresh[c], from[c]);
      const OrderNode& f = node(e.from);
      if (f.operation()) fresh[index(f.chain)] = std::max(fresh[index(f.chain)], f.number);
    }
    if (std::equal(fresh.begin(), fresh.end(), clock(n))) continue;
    changed.emplace(n, fresh);
    if (stop(n, fresh.data())) return;
    for (const int f : followers_[index(n)]) push(f);
  }
}

}  // namespace moecheck::reference

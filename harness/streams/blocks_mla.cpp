// The attention blocks of blocks.h.
#include "harness/fault.h"
#include "harness/streams/blocks.h"

namespace moecheck::harness::streams {

using reference::StreamProgram;

namespace {

struct Indexer {
  int first = -1, last = -1;  // operations
  int topk_idx = -1;
};

// The chain of the DSA indexer, from q_lora and hid to topk_idx, on one stream.
Indexer indexer(StreamProgram& p, int stream, int hid, int q_lora) {
  const int iq = p.buffer("iq", 8192), ik = p.buffer("ik", 256), qf8 = p.buffer("qf8", 4096),
            w = p.buffer("weights", 256), cache = p.buffer("idx_cache", 132),
            logits = p.buffer("logits", 4096), topk = p.buffer("topk_idx", 8192);
  Indexer r;
  r.topk_idx = topk;
  r.first = p.kernel("wq_b", stream, {q_lora}, {iq});
  p.kernel("wk_norm", stream, {hid}, {ik});
  p.kernel("rope", stream, {iq, ik}, {iq, ik});
  p.kernel("hadamard", stream, {iq, ik}, {iq, ik});
  p.kernel("act_quant", stream, {iq}, {qf8});
  p.kernel("idx_store", stream, {ik}, {cache});
  p.kernel("weights_proj", stream, {hid}, {w});
  p.kernel("mqa_logits", stream, {qf8, w, cache}, {logits}, 2);
  r.last = p.kernel("topk", stream, {logits}, {topk});
  return r;
}

}  // namespace

StreamProgram mla_prepare(const MlaPrepare& o) {
  StreamProgram p;
  const int cur = p.stream("cur"), alt = p.stream("alt");
  const int hid = p.buffer("hid", 14336), q_lora = p.buffer("q_lora", 3072),
            latent = p.buffer("latent", 1152), q = p.buffer("q", 49152), qn = p.buffer("q_nope_out", 65536),
            q_cat = p.buffer("q_cat", 73728), kv = p.buffer("kv_cache", 1152), attn = p.buffer("attn", 32768);
  const int graph = o.capturing ? p.begin_capture(cur, "attention") : -1;
  p.kernel("input_norm", cur, {}, {hid});
  p.kernel("qkv_a_proj", cur, {hid}, {q_lora, latent});
  int topk_idx = -1, q_b = -1;
  const auto q_b_proj = [&](int stream) { q_b = p.kernel("q_b_proj", stream, {q_lora}, {q}, 2); };
  const auto fork = [&](Fork where) {
    if (o.fork == where) p.wait_stream(alt, cur);
  };
  const auto join = [&](Join where) {
    if (o.join == where) p.wait_stream(cur, alt);
  };
  fork(Fork::kBefore);
  if (o.a_v4) {
    // The host puts q_b_proj on cur first: in a HIP graph the branch that comes first keeps the stream.
    q_b_proj(cur);
    fork(Fork::kLate);
    const Indexer i = indexer(p, alt, hid, q_lora);
    topk_idx = i.topk_idx;
    p.overlaps.emplace_back(q_b, i.last);
    join(Join::kEarly);
  } else {
    if (o.fork == Fork::kLate) {
      const Indexer i = indexer(p, cur, hid, q_lora);
      topk_idx = i.topk_idx;
      fork(Fork::kLate);
      q_b_proj(alt);
      p.overlaps.emplace_back(q_b, i.last);
    } else {
      q_b_proj(alt);
      const Indexer i = indexer(p, cur, hid, q_lora);
      topk_idx = i.topk_idx;
      p.overlaps.emplace_back(q_b, i.last);
    }
    join(Join::kEarly);
    join(Join::kLate);  // one and the same place here: bmm reads q
  }
  p.kernel("bmm", cur, {q}, {qn});
  p.kernel("rope_cat_cache", cur, {q, qn, latent}, {q_cat, kv});
  if (o.a_v4 && !HARNESS_FAULT(kBlocksAttentionNotJoined)) join(Join::kLate);
  p.kernel("attention", cur, {q_cat, kv, topk_idx}, {attn}, 3);
  p.kernel("o_proj", cur, {attn}, {hid});
  if (graph >= 0) {
    p.end_capture(cur);
    p.launch_graph(graph, cur);
  }
  return p;
}

StreamProgram indexer_two_stages(const std::string& dropped, bool capturing) {
  StreamProgram p;
  const int cur = p.stream("cur"), alt = p.stream("alt");
  const int hid = p.buffer("hid", 14336), q_lora = p.buffer("q_lora", 3072), q = p.buffer("q", 8192),
            key = p.buffer("key", 256), w = p.buffer("weights", 256), qf8 = p.buffer("qf8", 4096),
            cache = p.buffer("idx_cache", 132), logits = p.buffer("logits", 4096);
  const int graph = capturing ? p.begin_capture(cur, "indexer") : -1;
  const auto edge = [&](const char* name, int from, int to) {
    if (dropped == name || (HARNESS_FAULT(kBlocksInnerForkMissing) && name == std::string("F2"))) return;
    p.wait_stream(to, from);
    p.steps.back().name = name;
  };
  p.kernel("q_a_proj", cur, {hid}, {q_lora});
  edge("F1", cur, alt);
  const int wq = p.kernel("wq_b", alt, {q_lora}, {q});
  const int wk = p.kernel("wk_weights_proj", cur, {hid}, {key, w});
  edge("J1", alt, cur);
  edge("F2", cur, alt);
  const int fq = p.kernel("fused_q", cur, {q, w}, {qf8, w});
  const int fk = p.kernel("fused_k_store", alt, {key}, {cache});
  edge("J2", alt, cur);
  p.kernel("mqa_logits", cur, {qf8, w, cache}, {logits}, 2);
  if (graph >= 0) {
    p.end_capture(cur);
    p.launch_graph(graph, cur);
  }
  p.overlaps = {{wq, wk}, {fq, fk}};
  return p;
}

}  // namespace moecheck::harness::streams

// Barriers and wave operations: who has arrived, and what each lane gets.
#include <algorithm>
#include <cstdio>
#include <cstring>

#include "optimized/gpu/host/engine.h"
#include "optimized/gpu/host/sanitizers.h"
#include "optimized/gpu/host/tile.h"

namespace moecheck::gpu::host {
namespace {

bool same(Site a, Site b) {
  return a.line == b.line && (a.file == b.file || (a.file && b.file && std::strcmp(a.file, b.file) == 0));
}

std::uint64_t bit(int lane) { return std::uint64_t{1} << lane; }

std::string hex(std::uint64_t mask, int wave) {
  char buffer[24];
  std::snprintf(buffer, sizeof buffer, "0x%0*llx", wave / 4, static_cast<unsigned long long>(mask));
  return buffer;
}

}  // namespace

SyncPoint* Engine::make_sync() {
  if (!kTsan) return nullptr;
  const TsanIgnore ignore;
  return new SyncPoint();
}

// The way out of a barrier: everything the others did before it has happened.
void Engine::acquire() {
  if (!kTsan) return;
  SyncPoint* sync = std::exchange(current_->sync, nullptr);
  if (sync == nullptr) return;
  tsan_acquire(sync);
  if (--sync->users > 0) return;
  const TsanIgnore ignore;
  delete sync;
}

PendingOp* Engine::new_op() {
  if (free_ops_.empty()) {
    const TsanIgnore ignore;
    ops_.push_back(std::make_unique<PendingOp>());
    free_ops_.reserve(ops_.size());
    free_ops_.push_back(ops_.back().get());
  }
  PendingOp* op = free_ops_.back();
  free_ops_.pop_back();
  return op;
}

void Engine::free_op(PendingOp* op) { free_ops_.push_back(op); }

// The operation this lane comes to: one that waits for it, or a new one.
PendingOp& Engine::join(Wave& wave, WaveOp op, std::uint64_t mask, Site site, int lane) {
  for (PendingOp* p : wave.pending)
    if (p->op == op && p->named == mask && !(p->arrived & bit(lane)) && same(p->site, site)) return *p;
  PendingOp* p = new_op();
  p->op = op;
  p->site = site;
  p->named = mask;
  p->arrived = 0;
  p->sync = op == WaveOp::kBarrier ? make_sync() : nullptr;
  wave.pending.push_back(p);
  return *p;
}

std::uint64_t Engine::wave_operation(WaveOp op, std::uint64_t mask, std::uint64_t value, int argument,
                                     Site site) {
  Thread& me = *current_;
  Wave& wave = me.owner->waves[static_cast<std::size_t>(me.wave_in_block)];
  mask &= wave.lanes == 64 ? ~std::uint64_t{0} : bit(wave.lanes) - 1;
  if (!(mask & bit(me.lane)))
    fail(Kind::kLane, [&] {
      return "lane: " + std::string(name(op)) + " at " + text(site) + " is called by lane " +
             std::to_string(me.lane) + ", which its mask " + hex(mask, options.wave) + " does not name" +
             in_block(*me.owner);
    });
  PendingOp& pending = join(wave, op, mask, site, me.lane);
  const auto lane = static_cast<std::size_t>(me.lane);
  pending.value[lane] = value;
  pending.argument[lane] = argument;
  pending.arrived |= bit(me.lane);
  if (pending.sync != nullptr) {
    tsan_release(pending.sync);
    me.sync = pending.sync;
    ++pending.sync->users;
  }
  if (pending.arrived == pending.named) {
    complete(wave, pending);
    if (options.order == Order::kSeeded) leave();  // it stays runnable: any of them may go on first
  } else {
    me.op = &pending;
    wait(State::kInWaveOp, site);
  }
  acquire();
  return me.answer;
}

void Engine::complete(Wave& wave, PendingOp& op) {
  Thread& last = *current_;
  last.site = op.site;
  answer_all(wave, op);
  for (int lane = 0; lane < wave.lanes; ++lane) {
    if (!(op.named & bit(lane))) continue;
    Thread& t = lane_of(wave, lane);
    if (&t != &last) set_ready(t);
    t.op = nullptr;
  }
  *std::find(wave.pending.begin(), wave.pending.end(), &op) =
      wave.pending.back();  // not erase: TSan would see its memmove
  wave.pending.pop_back();
  free_op(&op);
  ++statistics.wave_operations;
  ++progress_;
}

// What `lane` reads: shuffles up and down keep the lane's own value at the edge, an index counts modulo the width.
std::uint64_t Engine::shuffled(const Wave& wave, const PendingOp& op, int lane) {
  const int argument = op.argument[static_cast<std::size_t>(lane)], width = options.wave;
  int source = lane;
  if (op.op == WaveOp::kShfl) source = argument & (width - 1);
  if (op.op == WaveOp::kShflXor) source = lane ^ argument;
  if (op.op == WaveOp::kShflUp) source = lane - argument;
  if (op.op == WaveOp::kShflDown) source = lane + argument;
  if (source < 0 || source >= width) source = lane;
  if (!(op.named & bit(source)))
    fail(Kind::kLane, [&] {
      return "lane: " + std::string(name(op.op)) + " at " + text(op.site) + ": lane " + std::to_string(lane) +
             " reads lane " + std::to_string(source) +
             (source < wave.lanes ? ", which its mask " + hex(op.named, width) + " does not name"
                                  : ", which the block does not have") +
             in_block(*current_->owner);
    });
  return op.value[static_cast<std::size_t>(source)];
}

void Engine::answer_all(Wave& wave, PendingOp& op) {
  std::uint64_t one = 0;  // the answer of operations that give every lane the same
  const bool tile = op.op == WaveOp::kTileBF16 || op.op == WaveOp::kTileFP8;
  if (tile) {
    if (op.named != (options.wave == 64 ? ~std::uint64_t{0} : bit(options.wave) - 1))
      fail(Kind::kLane, [&] {
        return "lane: " + std::string(name(op.op)) + " at " + text(op.site) + " needs a whole wave" +
               in_block(*current_->owner);
      });
    tile_product(op.op, options.wave, op.value.data());
  }
  if (op.op == WaveOp::kReduceMin) one = ~std::uint64_t{0};
  for (int lane = 0; lane < wave.lanes; ++lane) {
    if (!(op.named & bit(lane))) continue;
    const std::uint64_t v = op.value[static_cast<std::size_t>(lane)];
    if (op.op == WaveOp::kBallot && v != 0) one |= bit(lane);
    if (op.op == WaveOp::kReduceMax) one = std::max(one, v);
    if (op.op == WaveOp::kReduceMin) one = std::min(one, v);
  }
  const bool shuffle = op.op == WaveOp::kShfl || op.op == WaveOp::kShflUp || op.op == WaveOp::kShflDown ||
                       op.op == WaveOp::kShflXor;
  for (int lane = 0; lane < wave.lanes; ++lane)
    if (op.named & bit(lane)) lane_of(wave, lane).answer = shuffle ? shuffled(wave, op, lane) : one;
}

void Engine::block_barrier(Site site) {
  Thread& me = *current_;
  Block& b = *me.owner;
  if (b.at_barrier == 0) {
    b.barrier_site = site;
    b.barriers_differ = false;
    b.sync = make_sync();
  }
  b.barriers_differ = b.barriers_differ || !same(site, b.barrier_site);
  ++b.at_barrier;
  if (b.sync != nullptr) {
    tsan_release(b.sync);
    me.sync = b.sync;
    ++b.sync->users;
  }
  if (b.at_barrier < b.count) {
    wait(State::kAtBarrier, site);
  } else {
    me.site = site;
    complete_barrier(b);
    if (options.order == Order::kSeeded) leave();
  }
  acquire();
}

void Engine::complete_barrier(Block& b) {
  if (b.barriers_differ) {
    current_->state = State::kAtBarrier;
    fail(Kind::kDivergence, [&] {
      return "divergence: threads of one block wait at different barriers" + in_block(b) + thread_ranges(b);
    });
  }
  for (std::uint32_t i = 0; i < b.count; ++i) {
    Thread& t = threads_[b.first + i];
    if (&t != current_) set_ready(t);
  }
  b.at_barrier = 0;
  b.sync = nullptr;
  ++statistics.barriers;
  ++progress_;
}

void* Engine::shared_array(std::size_t bytes, std::size_t alignment, const char* array_name, Site site) {
  SharedMemory& shared = current_->owner->shared;
  if (void* known = shared.find(array_name, site)) return known;
  void* p = shared.array(bytes, alignment, array_name, site);
  if (shared.bytes() > shared_limit())
    fail(Kind::kLaunch, [&] {
      return "launch: " + std::to_string(shared.bytes()) + " bytes of shared memory exceed the limit of " +
             std::to_string(shared_limit()) + ": " + shared.layout() + in_block(*current_->owner);
    });
  return p;
}

void* Engine::dynamic_shared(Site site) {
  if (launch_.dynamic_shared == 0)
    fail(Kind::kShared, [&] {
      return "shared: dynamic shared memory is asked for at " + text(site) + ", and the launch gave none" +
             in_block(*current_->owner);
    });
  return current_->owner->shared.find(kDynamicShared, {});
}

}  // namespace moecheck::gpu::host

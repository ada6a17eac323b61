// Streams and events: what may run next, and running it.
#include "optimized/gpu/host/streams.h"

#include <algorithm>
#include <cstring>

namespace moecheck::gpu::host {
namespace {

// Lanes are kept for later ones: under TSan their fibers are dear.
std::vector<std::shared_ptr<Lane>>& spare_lanes() {
  thread_local std::vector<std::shared_ptr<Lane>> lanes;
  return lanes;
}
constexpr std::size_t kSpareLanes = 4;

}  // namespace

Lane::Lane() : fiber(tsan_make_fiber()) {}
Lane::~Lane() {
  if (fiber != nullptr) tsan_free_fiber(fiber);
}

std::shared_ptr<Lane> take_lane() {
  if (spare_lanes().empty()) return std::make_shared<Lane>();
  std::shared_ptr<Lane> lane = std::move(spare_lanes().back());
  spare_lanes().pop_back();
  return lane;
}

Work::~Work() {
  const TsanIgnore ignore;  // that a kernel has read its arguments orders nothing
  if (destroy != nullptr) destroy(arguments);
}

std::string text(const HostStream& stream) { return "stream " + std::to_string(stream.number); }

std::string text(const Work& work) {
  const std::string what = name(work.kind, work.kernel);
  return work.kind == OperationKind::kKernel ? "kernel " + what
                                             : what + " of " + std::to_string(work.bytes) + " bytes";
}

Device::Device(Executor& executor, RuntimeOptions options)
    : executor_(executor), options_(options), random_state_(options.seed) {
  constexpr unsigned kStay[] = {0, 128, 224, 250};
  stay_ = kStay[random() % 4];
  ahead_ = options.order == Order::kSeeded && options.seed % 2 == 1;
}

Device::~Device() {
  acquire_all();
  free_released();
  for (const auto& [address, bytes] : blocks_) std::free(reinterpret_cast<void*>(address));
  for (auto& s : streams_) old_lanes_.push_back(std::move(s->lane));
  for (auto& [handle, graph] : graphs_)
    for (auto& lane : graph->lanes) old_lanes_.push_back(lane);
  for (auto& lane : old_lanes_)
    if (spare_lanes().size() < kSpareLanes) spare_lanes().push_back(std::move(lane));
}

std::uint64_t Device::random() {
  std::uint64_t z = random_state_ += 0x9E3779B97F4A7C15u;  // splitmix64
  z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9u;
  z = (z ^ z >> 27) * 0x94D049BB133111EBu;
  return z ^ z >> 31;
}

void Device::note_misuse(std::string what) noexcept {
  if (misuse_.empty()) misuse_ = std::move(what);
}

// ---- handles

HostStream& Device::stream(Stream handle, const std::string& call) const {
  for (const auto& s : streams_)
    if (s.get() == handle && !s->destroyed) return *s;
  device_error("stream: " + call + ": no stream of this runtime, or no longer");
}

HostEvent& Device::event(Event handle, const std::string& call) const {
  const auto e = events_.find(handle);
  if (e == events_.end()) device_error("event: " + call + ": no event of this runtime, or no longer");
  return *e->second;
}

HostStream& Device::create_stream() {
  HostStream& s = *streams_.emplace_back(std::make_unique<HostStream>());
  s.number = streams_made_++;
  s.lane = take_lane();
  return s;
}

void Device::destroy(HostStream& s) {
  if (s.capture != nullptr) {
    const std::shared_ptr<Capture> capture = s.capture;
    if (capture->origin == &s) {
      leave_capture(*capture);
    } else {
      if (capture->broken.empty()) capture->broken = text(s) + " was destroyed while it was captured";
      s.capture = nullptr;
    }
  }
  s.destroyed = true;
  if (s.queue.empty()) erase(s);
}

void Device::erase(HostStream& s) {
  old_lanes_.push_back(std::move(s.lane));
  std::erase_if(streams_, [&](const auto& one) { return one.get() == &s; });
}

HostEvent& Device::create_event() {
  auto e = std::make_unique<HostEvent>();
  return *(events_[e.get()] = std::move(e));
}

void Device::destroy_event(Event handle) {
  if (events_.erase(handle) == 0) note_misuse("event: destroy_event: no event of this runtime, or no longer");
}

// ---- what is put on streams

void Device::push(HostStream& s, std::unique_ptr<QueuedOperation> operation) {
  tsan_release(&operation->sync);
  s.queue.push_back(std::move(operation));
}

void Device::put(HostStream& s, std::shared_ptr<const Work> work) {
  if (s.capture != nullptr) return add_node(s, std::move(work));
  auto operation = std::make_unique<QueuedOperation>();
  operation->kind = work->kind;
  operation->work = std::move(work);
  push(s, std::move(operation));
}

void Device::record(HostEvent& e, HostStream& s) {
  if (s.capture != nullptr) return record_captured(e, s);
  e.capture = nullptr;
  e.last = std::make_shared<Record>();
  auto operation = std::make_unique<QueuedOperation>();
  operation->kind = OperationKind::kRecord;
  operation->record = e.last;
  push(s, std::move(operation));
}

void Device::wait_event(HostStream& s, HostEvent& e) {
  if (s.capture != nullptr || e.capture != nullptr) return wait_captured(s, e);
  if (e.last == nullptr) return;
  auto operation = std::make_unique<QueuedOperation>();
  operation->kind = OperationKind::kWait;
  operation->record = e.last;
  push(s, std::move(operation));
}

// ---- waiting

void Device::wait(HostStream& s) {
  if (!misuse_.empty()) device_error(std::exchange(misuse_, {}));
  if (s.capture != nullptr)
    invalidate(*s.capture, "wait(" + text(s) + "): it is being captured, and does not run");
  while (!s.queue.empty()) step("wait(" + text(s) + ")");
  acquire(*s.lane);
}

void Device::wait_all() {
  if (!misuse_.empty()) device_error(std::exchange(misuse_, {}));
  for (const auto& s : streams_)
    if (s->capture != nullptr)
      invalidate(*s->capture, "wait_all(): " + text(*s) + " is being captured, and does not run");
  while (!idle()) step("wait_all()");
  acquire_all();
}

bool Device::idle() const {
  return std::all_of(streams_.begin(), streams_.end(), [](const auto& s) { return s->queue.empty(); });
}

void Device::run_ahead() {
  if (!ahead_) return;
  while (random() % 4 != 0 && !choices().empty()) step("");
}

// The host goes on after all that the lane has done.
void Device::acquire(Lane& lane) {
  {
    const AsLane as(lane);
    tsan_release(&lane.done);
  }
  tsan_acquire(&lane.done);
}

void Device::acquire_all() {
  if (!kTsan) return;
  for (const auto& s : streams_) acquire(*s->lane);
  for (const auto& [handle, graph] : graphs_)
    for (const auto& lane : graph->lanes) acquire(*lane);
  for (const auto& lane : old_lanes_) acquire(*lane);
}

// ---- running

const std::vector<Device::Choice>& Device::choices() {
  choices_.clear();
  for (const auto& s : streams_) {
    if (s->queue.empty()) continue;
    const QueuedOperation& front = *s->queue.front();
    if (front.kind == OperationKind::kWait && !front.record->done) continue;
    if (front.kind != OperationKind::kGraph)
      choices_.push_back({s.get(), -1, 0});
    else if (front.replay->before == nullptr || front.replay->before->done)
      add_branches(*s, *front.replay);
  }
  return choices_;
}

Device::Choice Device::pick() {
  if (options_.order == Order::kForward) return choices_.front();
  if (options_.order == Order::kReverse) return choices_.back();
  if (random() % 256 < stay_)
    for (const Choice& c : choices_)
      if (c.stream == last_.stream && c.branch == last_.branch) return c;
  return choices_[random() % choices_.size()];
}

void Device::step(const std::string& call) {
  if (choices().empty()) stuck(call);
  const Choice c = last_ = pick();
  try {
    if (c.branch >= 0)
      run_node(*c.stream, c.branch, c.node);
    else
      run_front(*c.stream);
  } catch (...) {
    drop_everything();
    throw;
  }
}

// An event can only be waited for after it was recorded, so that the first operation of all that are queued can always run.
void Device::stuck(const std::string& call) const {
  std::string what = "deadlock: " + call + ": no stream can go on";
  for (const auto& s : streams_)
    if (!s->queue.empty()) what += "\n    " + text(*s) + ": " + name(s->queue.front()->kind, nullptr);
  throw Error(Kind::kDeadlock, what);
}

void Device::run_front(HostStream& s) {
  QueuedOperation& op = *s.queue.front();
  if (op.kind == OperationKind::kGraph) {  // of no nodes
    start_replay(s);
    return finish_replay(s);
  }
  trace.push_back({s.number, op.kind, -1, op.work != nullptr ? op.work->kernel : nullptr});
  {
    const AsLane as(*s.lane);
    tsan_acquire(&op.sync);
    if (op.kind == OperationKind::kRecord) tsan_release(&op.record->sync);
    if (op.kind == OperationKind::kWait) tsan_acquire(&op.record->sync);
  }
  if (op.kind == OperationKind::kRecord) {
    op.record->done = true;
    op.record->switches = switches_;
  }
  if (op.work != nullptr) execute(*op.work, *s.lane, s);
  pop(s);
}

void Device::execute(const Work& work, Lane& lane, const HostStream& s) {
  if (work.kind == OperationKind::kKernel) {
    const std::uint64_t before = executor_.statistics().switches;
    {
      const AsLane as(lane);
      executor_.engine_->run(work.shape, work.body, work.arguments, kTsan ? &lane.threads : nullptr);
    }
    switches_ += executor_.statistics().switches - before;
    return;
  }
  const std::string what = text(work) + " on " + text(s) + ", when it ran";
  check_range(work.to, work.bytes, what);
  if (work.kind == OperationKind::kCopy) check_range(work.from, work.bytes, what);
  if (work.bytes == 0) return;
  const AsLane as(lane);
  if (work.kind == OperationKind::kCopy)
    std::memcpy(work.to, work.from, work.bytes);
  else
    std::memset(work.to, work.byte, work.bytes);
}

// The stream may be gone after it.
void Device::pop(HostStream& s) {
  s.queue.pop_front();
  if (s.destroyed && s.queue.empty()) erase(s);
  if (!released_.empty() && idle()) free_released();
}

// After an error. Nobody waits for what is dropped.
void Device::drop_everything() {
  for (const auto& s : streams_) {
    for (const auto& op : s->queue) {
      if (op->record != nullptr) op->record->done = true;
      if (op->replay != nullptr) {
        op->replay->done = true;
        op->replay->before = nullptr;
      }
    }
    s->queue.clear();
  }
  acquire_all();
  std::erase_if(streams_, [&](auto& s) {
    if (s->destroyed) old_lanes_.push_back(std::move(s->lane));
    return s->destroyed;
  });
  free_released();
}

}  // namespace moecheck::gpu::host

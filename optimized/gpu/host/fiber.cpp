#include "optimized/gpu/host/fiber.h"

#include <sys/mman.h>
#include <unistd.h>

#include <boost/context/detail/fcontext.hpp>
#include <new>

#include "optimized/gpu/host/sanitizers.h"

namespace moecheck::gpu::host {
namespace {

namespace context = boost::context::detail;

// Frames are large when sanitized or compiled without optimization. Pages are only taken when touched.
constexpr std::size_t kStackBytes = std::size_t{256} << 10;

std::size_t page_bytes() {
  static const auto bytes = static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
  return bytes;
}

}  // namespace

Fiber::Fiber(ThisThread) : tsan_(tsan_this_fiber()) {}

Fiber::Fiber(void (*entry)()) : entry_(entry), size_(kStackBytes) {
  void* mapping = mmap(nullptr, size_ + page_bytes(), PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (mapping == MAP_FAILED) throw std::bad_alloc();
  memory_ = static_cast<char*>(mapping);
  mprotect(memory_, page_bytes(), PROT_NONE);
  bottom_ = memory_ + page_bytes();
  restart();
}

Fiber::~Fiber() {
  if (memory_ == nullptr) return;
  if (tsan_ != nullptr) tsan_free_fiber(tsan_);
  asan_forget_stack(bottom_, size_);
  munmap(memory_, size_ + page_bytes());
}

void Fiber::restart() {
  asan_forget_stack(bottom_, size_);
  fake_stack_ = nullptr;
  // A TSan fiber is dear. What was abandoned leaves its frames on TSan's own stack of it, which is long.
  if (tsan_ == nullptr || ++restarts_ % 256 == 0) {
    if (tsan_ != nullptr) tsan_free_fiber(tsan_);
    tsan_ = tsan_make_fiber();
  }
  context_ = context::make_fcontext(static_cast<char*>(bottom_) + size_, size_,
                                    [](context::transfer_t t) { begin(&t); });
}

void Fiber::release_for(void* sync, const Fiber& running_now) {
  tsan_switch(tsan_);
  tsan_release(sync);
  tsan_switch(running_now.tsan_);
}

// ASan tells the new fiber whose stack it came from: that is how the OS thread's own stack becomes known.
void Fiber::arrived(void* from_context, Fiber* from) {
  from->context_ = from_context;
  const void* bottom = nullptr;
  std::size_t size = 0;
  asan_enter(fake_stack_, &bottom, &size);
  if (kAsan && from->memory_ == nullptr) {
    from->bottom_ = const_cast<void*>(bottom);
    from->size_ = size;
  }
}

namespace {
struct Switch {
  Fiber *from, *to;
};
}  // namespace

void Fiber::switch_to(Fiber& from, Fiber& to) {
  Switch s{&from, &to};
  asan_leave(&from.fake_stack_, to.bottom_, to.size_);
  tsan_switch(to.tsan_);
  const context::transfer_t t = context::jump_fcontext(to.context_, &s);
  from.arrived(t.fctx, static_cast<Switch*>(t.data)->from);
}

void Fiber::begin(void* transfer) {
  const auto* t = static_cast<context::transfer_t*>(transfer);
  const Switch s = *static_cast<Switch*>(t->data);
  s.to->arrived(t->fctx, s.from);
  s.to->entry_();
}

}  // namespace moecheck::gpu::host

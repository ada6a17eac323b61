#include "harness/http/client.h"

#include <curl/curl.h>
#include <poll.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <map>
#include <new>
#include <system_error>
#include <unordered_map>
#include <utility>

#include "harness/http/transfer.h"

namespace moecheck::harness::http {
namespace {

constexpr Client::Id kTimerBit = Client::Id{1} << 63;
constexpr int kSlotBits = 24;

void global_init() {
  static const CURLcode once = curl_global_init(CURL_GLOBAL_ALL);
  if (once != CURLE_OK) throw std::bad_alloc();
}

std::string words(Failure failure, const Limits& limits) {
  switch (failure) {
    case Failure::kFirstByteTimeout:
      return "no byte of the response within " + std::to_string(limits.first_byte_s) + " s";
    case Failure::kTotalTimeout:
      return "not finished within " + std::to_string(limits.total_s) + " s";
    case Failure::kTooLarge:
      return "the body is longer than " + std::to_string(limits.max_body_bytes) + " bytes";
    case Failure::kCancelled:
      return "cancelled";
    default:
      return std::string(name(failure));
  }
}

}  // namespace

class Client::Impl {
 public:
  explicit Impl(Options options);
  ~Impl();
  Id start(Request&& request, Callbacks&& callbacks);
  void cancel(Id id);
  Id at(Nanoseconds time, std::function<void()>&& action);
  void poll(Nanoseconds max_wait);
  void wake() noexcept;
  bool has_timers() const { return !timers_.empty(); }
  std::size_t active() const { return active_.size(); }

  Counters counters;

 private:
  // How epoll knows a socket. libcurl takes a socket off after every request and puts it back for the next: it stays
  // registered in between, which saves two system calls per request.
  struct Watch {
    std::uint8_t wanted = 0;      // CURL_POLL_IN | CURL_POLL_OUT
    std::uint8_t registered = 0;  // 0: not in the epoll set
  };

  static int on_socket(CURL*, curl_socket_t fd, int what, void* self, void*);
  static int on_timer(CURLM*, long ms, void* self);
  static int on_close(void* self, curl_socket_t fd);
  void watch(int fd, std::uint8_t wanted);
  Transfer* find(Id id);
  void begin_and_end();  // what start() and cancel() asked for
  void fire_timers();
  void check_deadlines();
  Nanoseconds wait_time(Nanoseconds max_wait) const;
  int wait(Nanoseconds time);
  void handle(const epoll_event& event);
  void act(curl_socket_t fd, int mask);
  void collect();  // what libcurl has finished
  void finish(Transfer& t, Failure failure, std::string error);

  Options options_;
  CURLM* multi_;
  int epoll_ = -1, wake_ = -1;
  std::vector<std::unique_ptr<Transfer>> slots_;
  std::vector<std::size_t> free_;
  std::vector<Transfer*> active_;
  std::vector<Id> to_start_, to_cancel_;
  std::map<std::pair<Nanoseconds, Id>, std::function<void()>> timers_;
  std::unordered_map<Id, Nanoseconds> timer_times_;
  Id last_timer_ = 0;
  Nanoseconds curl_due_ = INT64_MAX;    // when libcurl wants to be called without an event
  Nanoseconds next_limit_ = INT64_MAX;  // no request passes a limit before this
  std::vector<Watch> watches_;          // by file descriptor
  std::vector<epoll_event> events_;
  std::uint64_t step_ = 0;
};

Client::Impl::Impl(Options options) : options_(std::move(options)), events_(256) {
  global_init();
  multi_ = curl_multi_init();
  epoll_ = epoll_create1(EPOLL_CLOEXEC);
  wake_ = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
  if (multi_ == nullptr || epoll_ < 0 || wake_ < 0)
    throw std::system_error(errno, std::generic_category(), "epoll");
  epoll_event event{};
  event.events = EPOLLIN;
  event.data.fd = wake_;
  epoll_ctl(epoll_, EPOLL_CTL_ADD, wake_, &event);
  curl_multi_setopt(multi_, CURLMOPT_SOCKETFUNCTION, &Impl::on_socket);
  curl_multi_setopt(multi_, CURLMOPT_SOCKETDATA, this);
  curl_multi_setopt(multi_, CURLMOPT_TIMERFUNCTION, &Impl::on_timer);
  curl_multi_setopt(multi_, CURLMOPT_TIMERDATA, this);
  curl_multi_setopt(multi_, CURLMOPT_PIPELINING, CURLPIPE_NOTHING);
  curl_multi_setopt(multi_, CURLMOPT_MAXCONNECTS, 8192L);  // kept open between requests
  curl_multi_setopt(multi_, CURLMOPT_MAX_TOTAL_CONNECTIONS, static_cast<long>(options_.max_connections));
}

Client::Impl::~Impl() {
  for (Transfer* t : active_)
    if (t->added) curl_multi_remove_handle(multi_, t->easy);
  slots_.clear();
  curl_multi_cleanup(multi_);
  close(wake_);
  close(epoll_);
}

Client::Id Client::Impl::start(Request&& request, Callbacks&& callbacks) {
  std::size_t slot = slots_.size();
  if (free_.empty()) {
    slots_.push_back(std::make_unique<Transfer>(options_));
    Transfer& made = *slots_.back();
    made.step = &step_;
    made.counters = &counters;
    curl_easy_setopt(made.easy, CURLOPT_CLOSESOCKETFUNCTION, &Impl::on_close);
    curl_easy_setopt(made.easy, CURLOPT_CLOSESOCKETDATA, this);
  } else {
    slot = free_.back();
    free_.pop_back();
  }
  Transfer& t = *slots_[slot];
  t.prepare(std::move(request), std::move(callbacks));
  t.response.timing.queued = now();
  t.id = ++t.generation << kSlotBits | (slot + 1);
  t.added = false;
  t.position = active_.size();
  active_.push_back(&t);
  to_start_.push_back(t.id);
  ++counters.started;
  return t.id;
}

Transfer* Client::Impl::find(Id id) {
  const std::size_t slot = id & ((Id{1} << kSlotBits) - 1);
  if (slot == 0 || slot > slots_.size() || slots_[slot - 1]->id != id) return nullptr;
  return slots_[slot - 1].get();
}

void Client::Impl::cancel(Id id) {
  if ((id & kTimerBit) == 0) {
    to_cancel_.push_back(id);
    return;
  }
  const auto found = timer_times_.find(id);
  if (found == timer_times_.end()) return;
  timers_.erase({found->second, id});
  timer_times_.erase(found);
}

Client::Id Client::Impl::at(Nanoseconds time, std::function<void()>&& action) {
  const Id id = ++last_timer_ | kTimerBit;
  timers_.emplace(std::make_pair(time, id), std::move(action));
  timer_times_.emplace(id, time);
  return id;
}

void Client::Impl::wake() noexcept {
  const std::uint64_t one = 1;
  [[maybe_unused]] const ssize_t written = write(wake_, &one, sizeof one);
}

int Client::Impl::on_timer(CURLM*, long ms, void* self) {
  static_cast<Impl*>(self)->curl_due_ = ms < 0 ? INT64_MAX : ms == 0 ? 0 : now() + ms * 1'000'000;
  return 0;
}

int Client::Impl::on_close(void* self, curl_socket_t fd) {
  auto* impl = static_cast<Impl*>(self);
  if (static_cast<std::size_t>(fd) < impl->watches_.size()) impl->watches_[fd] = {};  // epoll forgets it too
  return close(fd);
}

int Client::Impl::on_socket(CURL*, curl_socket_t fd, int what, void* self, void*) {
  auto* impl = static_cast<Impl*>(self);
  impl->watch(fd, what == CURL_POLL_REMOVE ? std::uint8_t{0} : static_cast<std::uint8_t>(what));
  return 0;
}

void Client::Impl::watch(int fd, std::uint8_t wanted) {
  if (static_cast<std::size_t>(fd) >= watches_.size()) watches_.resize(static_cast<std::size_t>(fd) + 64);
  Watch& w = watches_[fd];
  w.wanted = wanted;
  if (wanted == w.registered) return;
  // Left in the set with CURL_POLL_IN: handle() takes it out should anything arrive unasked.
  if (wanted == 0 && w.registered == CURL_POLL_IN) return;
  epoll_event event{};
  event.data.fd = fd;
  event.events =
      ((wanted & CURL_POLL_IN) != 0 ? EPOLLIN : 0u) | ((wanted & CURL_POLL_OUT) != 0 ? EPOLLOUT : 0u);
  const int how = wanted == 0 ? EPOLL_CTL_DEL : w.registered != 0 ? EPOLL_CTL_MOD : EPOLL_CTL_ADD;
  if (epoll_ctl(epoll_, how, fd, &event) != 0 && how != EPOLL_CTL_DEL)
    epoll_ctl(epoll_, how == EPOLL_CTL_ADD ? EPOLL_CTL_MOD : EPOLL_CTL_ADD, fd, &event);
  w.registered = wanted;
}

void Client::Impl::act(curl_socket_t fd, int mask) {
  ++step_;
  int running = 0;
  curl_multi_socket_action(multi_, fd, mask, &running);
}

void Client::Impl::handle(const epoll_event& event) {
  if (event.data.fd == wake_) {
    std::uint64_t count = 0;
    [[maybe_unused]] const ssize_t got = read(wake_, &count, sizeof count);
    return;
  }
  Watch& w = watches_[event.data.fd];
  if (w.wanted == 0) {  // an idle connection: the server has closed it, or talks out of turn
    if (w.registered != 0) epoll_ctl(epoll_, EPOLL_CTL_DEL, event.data.fd, nullptr);
    w.registered = 0;
    return;
  }
  const int mask = ((event.events & EPOLLIN) != 0 ? CURL_CSELECT_IN : 0) |
                   ((event.events & EPOLLOUT) != 0 ? CURL_CSELECT_OUT : 0) |
                   ((event.events & (EPOLLERR | EPOLLHUP)) != 0 ? CURL_CSELECT_ERR : 0);
  act(event.data.fd, mask);
}

void Client::Impl::begin_and_end() {
  while (!to_start_.empty() || !to_cancel_.empty()) {
    for (const Id id : std::exchange(to_start_, {})) {
      Transfer* t = find(id);
      if (t == nullptr) continue;
      next_limit_ = std::min(next_limit_, t->look_again(t->response.timing.queued));
      t->added = true;
      counters.body_bytes_sent += t->request.body.size();
      const CURLMcode code = curl_multi_add_handle(multi_, t->easy);
      if (code != CURLM_OK) {
        t->added = false;
        finish(*t, Failure::kOther, curl_multi_strerror(code));
      }
    }
    for (const Id id : std::exchange(to_cancel_, {}))
      if (Transfer* t = find(id))
        finish(*t, Failure::kCancelled, words(Failure::kCancelled, t->request.limits));
  }
}

void Client::Impl::fire_timers() {
  if (timers_.empty()) return;
  const Nanoseconds time = now();
  // Timers that an action adds for the past wait for the next round: they can not starve the sockets.
  const Id newest = last_timer_ | kTimerBit;
  for (auto first = timers_.begin(); first != timers_.end() && first->first.first <= time;) {
    if (first->first.second > newest) {
      ++first;
      continue;
    }
    const auto action = std::move(first->second);
    timer_times_.erase(first->first.second);
    timers_.erase(first);
    action();
    first = timers_.begin();
  }
}

void Client::Impl::check_deadlines() {
  const Nanoseconds time = now();
  if (time < next_limit_) return;
  next_limit_ = INT64_MAX;
  std::vector<std::pair<Id, Failure>> late;
  for (const Transfer* t : active_) {
    Failure what{};
    const Nanoseconds limit = t->deadline(what);
    if (limit <= time)
      late.emplace_back(t->id, what);
    else
      next_limit_ = std::min(next_limit_, t->look_again(time));
  }
  for (const auto& [id, what] : late)
    if (Transfer* t = find(id)) finish(*t, what, words(what, t->request.limits));
}

Nanoseconds Client::Impl::wait_time(Nanoseconds max_wait) const {
  if (!to_start_.empty() || !to_cancel_.empty()) return 0;
  Nanoseconds due = std::min(curl_due_, next_limit_);
  if (!timers_.empty()) due = std::min(due, timers_.begin()->first.first);
  if (due == INT64_MAX) return max_wait;
  return std::clamp<Nanoseconds>(due - now(), 0, std::max<Nanoseconds>(0, max_wait));
}

int Client::Impl::wait(Nanoseconds time) {
  int count = epoll_wait(epoll_, events_.data(), static_cast<int>(events_.size()), 0);
  if (count != 0 || time <= 0) return std::max(count, 0);
  const Nanoseconds before = now();
  if (time >= 1'000'000) {  // whole milliseconds, rounded down: the loop comes back for the rest
    const auto ms = static_cast<int>(std::min<Nanoseconds>(time / 1'000'000, 60'000));
    count = epoll_wait(epoll_, events_.data(), static_cast<int>(events_.size()), ms);
  } else {
    pollfd set{epoll_, POLLIN, 0};
    const timespec rest{0, time};
    if (ppoll(&set, 1, &rest, nullptr) > 0)
      count = epoll_wait(epoll_, events_.data(), static_cast<int>(events_.size()), 0);
  }
  counters.idle += now() - before;
  return std::max(count, 0);
}

void Client::Impl::poll(Nanoseconds max_wait) {
  const std::uint64_t finished = counters.finished;
  begin_and_end();
  const int count = wait(counters.finished == finished ? wait_time(max_wait) : 0);
  for (int i = 0; i < count; ++i) handle(events_[i]);
  if (curl_due_ != INT64_MAX && curl_due_ <= now()) {
    curl_due_ = INT64_MAX;
    act(CURL_SOCKET_TIMEOUT, 0);
  }
  collect();
  fire_timers();
  check_deadlines();
}

void Client::Impl::collect() {
  int left = 0;
  while (const CURLMsg* message = curl_multi_info_read(multi_, &left)) {
    if (message->msg != CURLMSG_DONE) continue;
    Transfer* t = nullptr;
    curl_easy_getinfo(message->easy_handle, CURLINFO_PRIVATE, &t);
    if (t->wants_a_fresh_connection(message->data.result)) {
      curl_multi_remove_handle(multi_, t->easy);
      t->added = false;
      to_start_.push_back(t->id);
      continue;
    }
    std::string error;
    const Failure failure = t->failure_of(message->data.result, error);
    if (failure == Failure::kTooLarge) error = words(failure, t->request.limits);
    finish(*t, failure, std::move(error));
  }
}

void Client::Impl::finish(Transfer& t, Failure failure, std::string error) {
  if (t.added) {
    long connects = 0;
    curl_easy_getinfo(t.easy, CURLINFO_NUM_CONNECTS, &connects);
    counters.connections += static_cast<std::uint64_t>(connects);
    t.response.reused_connection = connects == 0 && t.response.timing.sent != 0;
    curl_multi_remove_handle(multi_, t.easy);
    t.added = false;
  }
  Response response = std::move(t.response);
  const auto done = std::move(t.callbacks.done);
  const std::exception_ptr thrown = std::exchange(t.thrown, nullptr);
  t.callbacks = {};
  active_[t.position] = active_.back();
  active_[t.position]->position = t.position;
  active_.pop_back();
  const std::size_t slot = (t.id & ((Id{1} << kSlotBits) - 1)) - 1;
  t.id = 0;
  free_.push_back(slot);
  ++counters.finished;
  response.failure = failure;
  response.error = std::move(error);
  response.timing.done = now();
  if (thrown) std::rethrow_exception(thrown);
  done(std::move(response));
}

Client::Client(Options options) : impl_(std::make_unique<Impl>(std::move(options))) {}
Client::~Client() = default;
Client::Id Client::start(Request request, Callbacks callbacks) {
  return impl_->start(std::move(request), std::move(callbacks));
}
void Client::cancel(Id id) { impl_->cancel(id); }
Client::Id Client::at(Nanoseconds time, std::function<void()> action) {
  return impl_->at(time, std::move(action));
}
void Client::poll(Nanoseconds max_wait) { impl_->poll(max_wait); }
void Client::run() {
  while (impl_->active() > 0 || impl_->has_timers()) impl_->poll(kSecond);
}
void Client::wake() noexcept { impl_->wake(); }
std::size_t Client::active() const { return impl_->active(); }
const Counters& Client::counters() const { return impl_->counters; }

}  // namespace moecheck::harness::http

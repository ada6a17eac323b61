#pragma once
// An OpenAI endpoint that costs next to nothing and keeps exact time: every answer is a stream of tokens with known
// delays. One thread, raw epoll; knows of HTTP only what the tests' client sends.
#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <charconv>
#include <chrono>
#include <cstdint>
#include <map>
#include <mutex>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

namespace moecheck::harness {

class CannedServer {
 public:
  struct Behaviour {
    std::int64_t first_us = 0, gap_us = 0;  // until the first event, between later ones
    std::int64_t tokens_per_event = 1;
    std::int64_t short_by = 0;        // tokens missing from the length that was asked
    std::int64_t fail_every = 0;      // each n-th request: 503
    std::int64_t cut_every = 0;       // each n-th stream: closed in the middle
    std::int64_t no_done_every = 0;   // each n-th stream: ended in order, but without [DONE]
    std::int64_t torn_every = 0;      // each n-th stream: every event but [DONE], and no last chunk
    bool usage = true, role = false;  // a usage event; an event without text first
    bool continuous_usage = false;
    std::int64_t extra_counted = 0;  // tokens that /metrics counts too many
  };

  explicit CannedServer(Behaviour behaviour) : behaviour_(behaviour) {
    listener_ = ::socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t size = sizeof address;
    if (::bind(listener_, reinterpret_cast<sockaddr*>(&address), size) != 0 || ::listen(listener_, 4096) != 0)
      ::abort();
    ::getsockname(listener_, reinterpret_cast<sockaddr*>(&address), &size);
    port_ = ntohs(address.sin_port);
    epoll_ = ::epoll_create1(0);
    watch(listener_);
    thread_ = std::thread([this] { loop(); });
  }
  ~CannedServer() {
    stopping_ = true;
    thread_.join();
    for (const auto& [fd, c] : connections_) ::close(fd);
    ::close(listener_);
    ::close(epoll_);
  }

  std::string url() const { return "http://127.0.0.1:" + std::to_string(port_); }
  std::int64_t requests() const { return requests_; }
  std::vector<std::string> bodies() {  // of all requests, in order of arrival
    const std::lock_guard lock(mutex_);
    return bodies_;
  }
  void keep_bodies() { keep_ = true; }

 private:
  using Clock = std::chrono::steady_clock;
  struct Answer {
    std::int64_t tokens = 0, sent = 0, events = 0, prompt_tokens = 0;
    bool cut = false, no_done = false, torn = false;
  };
  struct Connection {
    std::string in;
    Answer answer;
  };

  void watch(int fd) {
    epoll_event e{};
    e.events = EPOLLIN;
    e.data.fd = fd;
    ::epoll_ctl(epoll_, EPOLL_CTL_ADD, fd, &e);
  }

  void loop() {
    std::vector<epoll_event> events(256);
    while (!stopping_) {
      timespec wait{0, 20'000'000};
      if (!due_.empty()) {
        const auto left = std::chrono::nanoseconds(due_.begin()->first - Clock::now()).count();
        wait.tv_nsec = std::clamp<std::int64_t>(left, 0, wait.tv_nsec);
      }
      const int n = ::epoll_pwait2(epoll_, events.data(), static_cast<int>(events.size()), &wait, nullptr);
      for (int i = 0; i < n; ++i) {
        const int fd = events[static_cast<std::size_t>(i)].data.fd;
        if (fd == listener_)
          accept_all();
        else
          read_from(fd);
      }
      while (!due_.empty() && due_.begin()->first <= Clock::now()) {
        const auto [when, fd] = *due_.begin();
        due_.erase(due_.begin());
        if (connections_.contains(fd)) send_next(fd, when);
      }
    }
  }

  void accept_all() {
    for (int fd; (fd = ::accept4(listener_, nullptr, nullptr, SOCK_NONBLOCK)) >= 0;) {
      const int one = 1;
      ::setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
      connections_[fd];
      watch(fd);
    }
  }

  void drop(int fd) {
    connections_.erase(fd);
    std::erase_if(due_, [&](const auto& d) { return d.second == fd; });
    ::close(fd);
  }

  void read_from(int fd) {
    Connection& c = connections_[fd];
    char buffer[65536];
    for (;;) {
      const ssize_t n = ::read(fd, buffer, sizeof buffer);
      if (n == 0) return drop(fd);
      if (n < 0) break;
      c.in.append(buffer, static_cast<std::size_t>(n));
      if (n < static_cast<ssize_t>(sizeof buffer)) break;
    }
    const std::size_t head = c.in.find("\r\n\r\n");
    if (head == std::string::npos) return;
    const std::int64_t length = number_after(std::string_view(c.in).substr(0, head), "Content-Length: ", 0);
    if (std::ssize(c.in) < static_cast<std::ptrdiff_t>(head) + 4 + length) return;
    const std::string request = std::move(c.in);
    c.in.clear();
    answer(fd, c, request, std::string_view(request).substr(head + 4));
  }

  static std::int64_t number_after(std::string_view text, std::string_view key, std::int64_t otherwise) {
    const std::size_t at = text.find(key);
    if (at == std::string_view::npos) return otherwise;
    std::int64_t v = otherwise;
    std::from_chars(text.data() + at + key.size(), text.data() + text.size(), v);
    return v;
  }

  void answer(int fd, Connection& c, std::string_view request, std::string_view body) {
    if (request.starts_with("GET")) return metrics(fd);
    const std::int64_t i = ++requests_;
    if (keep_) {
      const std::lock_guard lock(mutex_);
      bodies_.emplace_back(body);
    }
    if (behaviour_.fail_every > 0 && i % behaviour_.fail_every == 0)
      return put(
          fd,
          "HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\nContent-Length: 37\r\n\r\n"
          "{\"error\":{\"message\":\"too many here\"}}");
    c.answer = {};
    c.answer.tokens = number_after(body, "\"max_tokens\":", 16) - behaviour_.short_by;
    const std::size_t ids = body.find("\"prompt\":[");
    if (ids != std::string_view::npos) {
      const std::string_view list = body.substr(ids, body.find(']', ids) - ids);
      c.answer.prompt_tokens = 1 + std::count(list.begin(), list.end(), ',');
    }
    c.answer.cut = behaviour_.cut_every > 0 && i % behaviour_.cut_every == 0;
    c.answer.no_done = behaviour_.no_done_every > 0 && i % behaviour_.no_done_every == 0;
    c.answer.torn = behaviour_.torn_every > 0 && i % behaviour_.torn_every == 0;
    prompt_tokens_ += c.answer.prompt_tokens;
    const auto now = Clock::now();
    if (behaviour_.first_us == 0 && behaviour_.gap_us == 0) {
      std::string all = head();
      while (c.answer.sent < c.answer.tokens) all += next_event(c.answer);
      put(fd, all + tail(c.answer));
      return c.answer.torn ? drop(fd) : void();
    }
    due_.emplace(now + std::chrono::microseconds(behaviour_.first_us), fd);
  }

  void send_next(int fd, Clock::time_point when) {
    Answer& a = connections_[fd].answer;
    const bool first = a.events == 0;
    std::string out = (first ? head() : std::string()) + next_event(a);
    if (a.cut && a.sent > a.tokens / 2) {
      put(fd, out);
      return drop(fd);
    }
    if (a.sent < a.tokens)
      due_.emplace(when + std::chrono::microseconds(behaviour_.gap_us), fd);
    else
      out += tail(a);
    put(fd, out);
    if (a.torn && a.sent >= a.tokens) drop(fd);
  }

  static std::string head() {
    return "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\nTransfer-Encoding: "
           "chunked\r\n\r\n";
  }
  static std::string chunk(const std::string& text) {
    char size[20];
    const int n = std::snprintf(size, sizeof size, "%zx\r\n", text.size());
    return std::string(size, static_cast<std::size_t>(n)) + text + "\r\n";
  }
  std::string next_event(Answer& a) {
    if (behaviour_.role && a.events++ == 0)
      return chunk("data: {\"id\":\"c\",\"choices\":[{\"index\":0,\"text\":\"\",\"finish_reason\":null}]" +
                   (behaviour_.continuous_usage ? "," + usage_json(a) : "") + "}\n\n");
    ++a.events;
    const std::int64_t n = std::min(behaviour_.tokens_per_event, a.tokens - a.sent);
    a.sent += n;
    generated_ += n;
    std::string text, usage;
    for (std::int64_t i = 0; i < n; ++i) text += " w";
    if (behaviour_.continuous_usage) usage = "," + usage_json(a);
    return chunk(
        "data: "
        "{\"id\":\"c\",\"object\":\"text_completion\",\"created\":1,\"model\":\"m\",\"choices\":[{\"index\":"
        "0,\"text\":\"" +
        text + "\",\"logprobs\":null,\"finish_reason\":" + (a.sent >= a.tokens ? "\"length\"" : "null") +
        "}]" + usage + "}\n\n");
  }
  static std::string usage_json(const Answer& a) {
    return "\"usage\":{\"prompt_tokens\":" + std::to_string(a.prompt_tokens) +
           ",\"completion_tokens\":" + std::to_string(a.sent) +
           ",\"total_tokens\":" + std::to_string(a.prompt_tokens + a.sent) + "}";
  }
  std::string tail(const Answer& a) {
    ++succeeded_;
    const std::string usage =
        behaviour_.usage ? chunk("data: {\"id\":\"c\",\"choices\":[]," + usage_json(a) + "}\n\n") : "";
    if (a.torn) return usage;
    return usage + (a.no_done ? "" : chunk("data: [DONE]\n\n")) + "0\r\n\r\n";
  }
  void metrics(int fd) {
    const std::string body =
        "# TYPE vllm:prompt_tokens_total counter\nvllm:prompt_tokens_total{model_name=\"m\"} " +
        std::to_string(prompt_tokens_) + "\nvllm:generation_tokens_total{model_name=\"m\"} " +
        std::to_string(generated_ + (requests_ > 0 ? behaviour_.extra_counted : 0)) +
        "\nvllm:request_success_total{finished_reason=\"length\"} " + std::to_string(succeeded_) + "\n";
    put(fd, "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: " + std::to_string(body.size()) +
                "\r\n\r\n" + body);
  }
  static void put(int fd, const std::string& text) {
    for (std::size_t at = 0; at < text.size();) {
      const ssize_t n = ::send(fd, text.data() + at, text.size() - at, MSG_NOSIGNAL);
      if (n > 0)
        at += static_cast<std::size_t>(n);
      else if (n < 0 && errno != EAGAIN)
        return;
    }
  }

  Behaviour behaviour_;
  int listener_ = -1, epoll_ = -1, port_ = 0;
  std::map<int, Connection> connections_;
  std::multimap<Clock::time_point, int> due_;
  std::atomic<bool> stopping_ = false, keep_ = false;
  std::atomic<std::int64_t> requests_ = 0;
  std::int64_t prompt_tokens_ = 0, generated_ = 0, succeeded_ = 0;
  std::mutex mutex_;
  std::vector<std::string> bodies_;
  std::thread thread_;
};

}  // namespace moecheck::harness

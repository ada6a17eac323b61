#pragma once
// A server on a raw socket that does to its clients whatever a test asks for: each request is handed to a script,
// which sends, waits, closes or resets as it likes. One thread per connection; loopback, port chosen by the system.
#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <cstdlib>
#include <functional>
#include <mutex>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

namespace moecheck::test {

// One request and the way to answer it.
class Exchange {
 public:
  Exchange(int connection, std::string request_head, std::string request_body,
           const std::atomic<bool>& stopping)
      : head(std::move(request_head)),
        body(std::move(request_body)),
        socket_(connection),
        stopping_(stopping) {
    const std::size_t blank = head.find(' ');
    method = head.substr(0, blank);
    path = head.substr(blank + 1, head.find(' ', blank + 1) - blank - 1);
  }

  std::string method, path;
  const std::string head, body;
  bool open = true;

  void send(std::string_view bytes) {
    while (open && !bytes.empty()) {
      const ssize_t sent = ::send(socket_, bytes.data(), bytes.size(), MSG_NOSIGNAL);
      if (sent <= 0) return close();
      bytes.remove_prefix(static_cast<std::size_t>(sent));
    }
  }
  // In pieces of that size, each its own packet.
  void send_slowly(std::string_view bytes, std::size_t piece, int pause_ms = 1) {
    for (std::size_t i = 0; i < bytes.size(); i += piece) {
      send(bytes.substr(i, piece));
      wait(pause_ms);
    }
  }
  void wait(int ms) {
    const auto end = std::chrono::steady_clock::now() + std::chrono::milliseconds(ms);
    while (!stopping_ && std::chrono::steady_clock::now() < end)
      std::this_thread::sleep_for(std::chrono::milliseconds(std::min(ms, 5)));
  }
  void close() { open = false; }  // in order: what was sent arrives
  void reset() {                  // RST: what the client has not read is lost
    const linger now{1, 0};
    setsockopt(socket_, SOL_SOCKET, SO_LINGER, &now, sizeof now);
    open = false;
  }
  void respond(int status, std::string_view content,
               std::string_view headers = "Content-Type: application/json\r\n") {
    send("HTTP/1.1 " + std::to_string(status) + " X\r\n" + std::string(headers) +
         "Content-Length: " + std::to_string(content.size()) + "\r\n\r\n" + std::string(content));
  }
  void begin_stream(std::string_view headers = "Content-Type: text/event-stream\r\n") {
    send("HTTP/1.1 200 OK\r\n" + std::string(headers) + "Transfer-Encoding: chunked\r\n\r\n");
  }
  void piece(std::string_view content) {
    char size[32];
    std::snprintf(size, sizeof size, "%zx\r\n", content.size());
    send(size + std::string(content) + "\r\n");
  }
  void end_stream() { send("0\r\n\r\n"); }

 private:
  int socket_;
  const std::atomic<bool>& stopping_;
};

class ScriptedServer {
 public:
  using Script = std::function<void(Exchange&)>;

  explicit ScriptedServer(Script script) : script_(std::move(script)) {
    listener_ = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    const int on = 1;
    setsockopt(listener_, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t size = sizeof address;
    if (bind(listener_, reinterpret_cast<sockaddr*>(&address), size) != 0 || listen(listener_, 1024) != 0)
      std::abort();
    getsockname(listener_, reinterpret_cast<sockaddr*>(&address), &size);
    port_ = ntohs(address.sin_port);
    acceptor_ = std::thread([this] { accept_all(); });
  }
  ~ScriptedServer() {
    stopping_ = true;
    acceptor_.join();
    ::close(listener_);
    for (std::thread& t : threads_) t.join();
  }

  int port() const { return port_; }
  std::string url(std::string_view path = "") const {
    return "http://127.0.0.1:" + std::to_string(port_) + std::string(path);
  }
  int requests() const { return requests_; }
  int connections() const { return connections_; }
  int most_at_once() const { return most_; }

 private:
  void accept_all() {
    while (!stopping_) {
      pollfd set{listener_, POLLIN, 0};
      if (poll(&set, 1, 20) <= 0) continue;
      const int socket = accept4(listener_, nullptr, nullptr, SOCK_CLOEXEC);
      if (socket < 0) continue;
      ++connections_;
      threads_.emplace_back([this, socket] { serve(socket); });
    }
  }

  // Until `buffer` holds `size` bytes; false at the end of the connection or of the server.
  bool fill(int socket, std::string& buffer, std::size_t size) {
    while (buffer.size() < size)
      if (!read_some(socket, buffer)) return false;
    return true;
  }
  bool read_some(int socket, std::string& buffer) {
    while (!stopping_) {
      pollfd set{socket, POLLIN, 0};
      if (poll(&set, 1, 50) <= 0) continue;
      char bytes[65536];
      const ssize_t got = recv(socket, bytes, sizeof bytes, 0);
      if (got <= 0) return false;
      buffer.append(bytes, static_cast<std::size_t>(got));
      return true;
    }
    return false;
  }

  void serve(int socket) {
    const int on = 1;
    setsockopt(socket, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    std::string buffer;
    while (serve_one(socket, buffer)) {
    }
    ::close(socket);
  }
  bool serve_one(int socket, std::string& buffer) {
    std::size_t end = 0;
    while ((end = buffer.find("\r\n\r\n")) == std::string::npos)
      if (!read_some(socket, buffer)) return false;
    const std::string head = buffer.substr(0, end);
    const std::size_t found = head.find("Content-Length: ");
    const std::size_t length =
        found == std::string::npos ? 0 : std::strtoul(head.c_str() + found + 16, nullptr, 10);
    if (!fill(socket, buffer, end + 4 + length)) return false;
    Exchange exchange(socket, head, buffer.substr(end + 4, length), stopping_);
    buffer.erase(0, end + 4 + length);
    ++requests_;
    const int running = ++running_;
    for (int most = most_; running > most && !most_.compare_exchange_weak(most, running);) {
    }
    script_(exchange);
    --running_;
    return exchange.open;
  }

  Script script_;
  int listener_ = -1, port_ = 0;
  std::atomic<bool> stopping_{false};
  std::atomic<int> requests_{0}, connections_{0}, running_{0}, most_{0};
  std::thread acceptor_;
  std::vector<std::thread> threads_;  // touched by the acceptor until it has ended
};

}  // namespace moecheck::test

#pragma once
// A server in this process and clients on raw sockets, which can do what no library does.
#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <thread>
#include <utility>
#include <vector>

#include "harness/json.h"
#include "harness/serve/scripted_engine.h"
#include "harness/serve/server.h"

namespace moecheck::serve_test {

using Json = nlohmann::json;

struct Response {
  int status = 0;  // 0: the connection ended before a whole head
  std::string head, body;
  bool complete = false;            // the body ended as HTTP asks
  std::vector<std::string> pieces;  // chunks of the body

  std::string header(const std::string& name) const {  // first of that name, case as sent
    const std::size_t at = head.find("\r\n" + name + ": ");
    if (at == head.npos) return {};
    const std::size_t from = at + 4 + name.size();
    return head.substr(from, head.find("\r\n", from) - from);
  }
  Json json() const { return Json::parse(body); }
  // The data of events, as a strict client reads them.
  std::vector<std::string> events() const {
    std::vector<std::string> all;
    std::string_view text = body;
    while (!text.empty()) {
      const std::size_t end = text.find('\n');
      std::string_view line = text.substr(0, end);
      text.remove_prefix(end == text.npos ? text.size() : end + 1);
      if (line.ends_with('\r')) line.remove_suffix(1);
      if (line.starts_with("\xEF\xBB\xBF")) line.remove_prefix(3);
      if (line.starts_with("data: ")) all.emplace_back(line.substr(6));
    }
    return all;
  }
};

class Client {
 public:
  explicit Client(std::uint16_t port) {
    socket_ = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    const int one = 1;
    setsockopt(socket_, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_port = htons(port);
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    connected_ = ::connect(socket_, reinterpret_cast<sockaddr*>(&address), sizeof address) == 0;
  }
  ~Client() { close(); }
  Client(const Client&) = delete;
  Client& operator=(const Client&) = delete;

  bool connected() const { return connected_; }
  void close() {
    if (socket_ >= 0) ::close(socket_);
    socket_ = -1;
  }
  void reset() {
    const linger now{1, 0};
    setsockopt(socket_, SOL_SOCKET, SO_LINGER, &now, sizeof now);
    close();
  }
  void keep_little() {  // received bytes, so that the server's are the ones that pile up
    const int bytes = 4096;
    setsockopt(socket_, SOL_SOCKET, SO_RCVBUF, &bytes, sizeof bytes);
  }
  void shut_down_sending() { ::shutdown(socket_, SHUT_WR); }
  bool send(std::string_view bytes) {
    while (!bytes.empty()) {
      const ssize_t n = ::send(socket_, bytes.data(), bytes.size(), MSG_NOSIGNAL);
      if (n <= 0) return false;
      bytes.remove_prefix(static_cast<std::size_t>(n));
    }
    return true;
  }
  // More bytes into in(); false at the end of the connection or after the timeout.
  bool receive(int timeout_ms = 5000) {
    pollfd p{socket_, POLLIN, 0};
    if (::poll(&p, 1, timeout_ms) <= 0) return false;
    char bytes[65536];
    const ssize_t n = ::recv(socket_, bytes, sizeof bytes, 0);
    reset_ = n < 0 && errno == ECONNRESET;
    ended_ = n <= 0;
    if (n > 0) in_.append(bytes, static_cast<std::size_t>(n));
    return n > 0;
  }
  bool was_reset() const { return reset_; }
  // Whether the server has closed, waiting for it.
  bool closed(int timeout_ms = 5000) {
    while (receive(timeout_ms)) {
    }
    return ended_;
  }
  const std::string& in() const { return in_; }

  Response response(bool head_only = false) {
    Response r;
    while (in_.find("\r\n\r\n") == in_.npos)
      if (!receive()) return r;
    const std::size_t end = in_.find("\r\n\r\n") + 4;
    r.head = in_.substr(0, end);
    in_.erase(0, end);
    r.status = std::stoi(r.head.substr(9, 3));
    if (r.status == 100) return response(head_only);
    if (head_only || r.status == 204) {
      r.complete = true;
    } else if (!r.header("Content-Length").empty()) {
      const std::size_t length = std::stoul(r.header("Content-Length"));
      while (in_.size() < length && receive()) {
      }
      r.complete = in_.size() >= length;
      r.body = in_.substr(0, length);
      in_.erase(0, r.body.size());
    } else if (r.header("Transfer-Encoding") == "chunked") {
      read_chunks(r);
    } else {
      while (receive()) {
      }
      r.complete = ended_;
      r.body = std::exchange(in_, {});
    }
    return r;
  }

  Response request(const std::string& method, const std::string& path, const std::string& body = "",
                   const std::string& headers = "") {
    std::string text = method + " " + path + " HTTP/1.1\r\nHost: x\r\n" + headers;
    if (method == "POST")
      text += "Content-Type: application/json\r\nContent-Length: " + std::to_string(body.size()) + "\r\n";
    send(text + "\r\n" + body);
    return response(method == "HEAD");
  }
  Response post(const std::string& path, const Json& body, const std::string& headers = "") {
    return request("POST", path, body.dump(), headers);
  }

 private:
  void read_chunks(Response& r) {
    while (true) {
      std::size_t line;
      while ((line = in_.find("\r\n")) == in_.npos)
        if (!receive()) return;
      const std::size_t size = std::stoul(in_.substr(0, line), nullptr, 16);
      while (in_.size() < line + 2 + size + 2)
        if (!receive()) {
          r.body += in_.substr(std::min(line + 2, in_.size()));
          return;
        }
      r.pieces.push_back(in_.substr(line + 2, size));
      r.body += r.pieces.back();
      in_.erase(0, line + 2 + size + 2);
      if (size == 0) {
        r.pieces.pop_back();
        r.complete = true;
        return;
      }
    }
  }

  int socket_ = -1;
  bool connected_ = false, reset_ = false, ended_ = false;
  std::string in_;
};

inline harness::ServerOptions quick_options() {
  harness::ServerOptions o;
  o.http.read_seconds = 5;
  o.http.drain_seconds = 5;
  return o;
}

// A scripted engine behind a server on a thread.
class Served {
 public:
  explicit Served(const std::string& script = "", harness::ServerOptions options = quick_options())
      : engine(harness::make_scripted_engine(harness::parse_scripted(script))),
        server(*engine, std::move(options)) {
    server.start();
  }
  std::uint16_t port() const { return server.port(); }
  Response post(const std::string& path, const Json& body) const { return Client(port()).post(path, body); }
  Response get(const std::string& path) const { return Client(port()).request("GET", path); }
  // One number of /metrics: the name with its labels but engine and model_name.
  double metric(const std::string& name, const std::string& more = "") const {
    const std::string text = get("/metrics").body;
    const std::string start = "\n" + name + "{engine=\"0\",model_name=\"scripted\"" + more + "} ";
    const std::size_t at = text.find(start);
    return at == text.npos ? -1 : std::stod(text.substr(at + start.size()));
  }

  std::unique_ptr<harness::Engine> engine;
  harness::Server server;
};

inline Json completion(const std::string& prompt, const Json& more = Json::object()) {
  Json j{{"model", "scripted"}, {"prompt", prompt}, {"temperature", 0}, {"max_tokens", 64}};
  j.update(more);
  return j;
}

// Waits until `holds` or seconds have passed.
inline bool eventually(const std::function<bool()>& holds, double seconds = 5) {
  const auto end = std::chrono::steady_clock::now() + std::chrono::duration<double>(seconds);
  while (!holds()) {
    if (std::chrono::steady_clock::now() > end) return false;
    std::this_thread::sleep_for(std::chrono::milliseconds(2));
  }
  return true;
}

}  // namespace moecheck::serve_test

#pragma once
// Private to the client: one request in flight and the libcurl handle that carries it. Handles are kept and used
// again, so what does not change from request to request is set once.
#include <curl/curl.h>

#include <exception>

#include "harness/http/client.h"

namespace moecheck::harness::http {

struct Transfer {
  explicit Transfer(const Options& options);
  ~Transfer();
  Transfer(const Transfer&) = delete;
  Transfer& operator=(const Transfer&) = delete;

  void prepare(Request&& r, Callbacks&& c);
  // The failure libcurl's code stands for; `error` gets the words.
  Failure failure_of(CURLcode code, std::string& error) const;
  // Whether the server had only closed the kept connections that the request was tried on. The next try then makes its
  // own; true once per request.
  bool wants_a_fresh_connection(CURLcode code);
  // When this request's next limit is passed; `what` tells which.
  Nanoseconds deadline(Failure& what) const;
  // No limit is passed before this, whatever happens from `time` on: the first byte's may not run yet.
  Nanoseconds look_again(Nanoseconds time) const;

  CURL* easy = nullptr;
  Client::Id id = 0;  // 0: not in use
  std::uint64_t generation = 0;
  std::size_t position = 0;  // among the active ones
  bool added = false;        // to the multi handle

  Request request;
  Callbacks callbacks;
  Response response;
  std::size_t body_bytes = 0;
  bool too_large = false, in_body = false;
  std::exception_ptr thrown;  // by a callback: passed on by poll()

  // Set by the client before each step of libcurl, so that pieces of one read share one time.
  const std::uint64_t* step = nullptr;
  std::uint64_t last_step = 0;
  Counters* counters = nullptr;
  bool record_reads = true;

 private:
  static std::size_t on_header(char* bytes, std::size_t size, std::size_t count, void* self);
  static std::size_t on_body(char* bytes, std::size_t size, std::size_t count, void* self);
  static int on_send(void* self, char*, char*, int, int);
  bool take_header(std::string_view line);
  bool take_body(std::string_view bytes);

  std::string url_set_, method_set_;
  std::vector<std::string> headers_set_;
  curl_slist* header_list_ = nullptr;
  double connect_set_ = -1;
  bool fresh_ = false;  // CURLOPT_FRESH_CONNECT is set
  char error_[CURL_ERROR_SIZE] = {};
};

}  // namespace moecheck::harness::http

#include "harness/http/transfer.h"

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <new>

namespace moecheck::harness::http {
namespace {

// A proxy of the environment is used as everywhere, but never to reach this machine.
std::string no_proxy() {
  std::string names = "localhost,127.0.0.1,::1";
  for (const char* variable : {"no_proxy", "NO_PROXY"})
    if (const char* value = std::getenv(variable)) names.append(",").append(value);
  return names;
}

std::string_view without_blanks(std::string_view text) {
  while (!text.empty() && std::strchr(" \t\r\n", text.front()) != nullptr) text.remove_prefix(1);
  while (!text.empty() && std::strchr(" \t\r\n", text.back()) != nullptr) text.remove_suffix(1);
  return text;
}

Nanoseconds from_seconds(double seconds) { return static_cast<Nanoseconds>(seconds * 1e9); }

}  // namespace

Transfer::Transfer(const Options& options) : easy(curl_easy_init()), record_reads(options.record_reads) {
  if (easy == nullptr) throw std::bad_alloc();
  const auto set = [this](CURLoption option, auto value) { curl_easy_setopt(easy, option, value); };
  set(CURLOPT_PRIVATE, this);
  set(CURLOPT_NOSIGNAL, 1L);
  set(CURLOPT_TCP_NODELAY, 1L);
  // One request per connection at a time: what a load tool means by concurrency.
  set(CURLOPT_HTTP_VERSION, static_cast<long>(CURL_HTTP_VERSION_1_1));
  set(CURLOPT_PROTOCOLS_STR, "http,https");
  set(CURLOPT_BUFFERSIZE, 64L << 10);
  set(CURLOPT_USERAGENT, "moecheck");
  set(CURLOPT_NOPROXY, no_proxy().c_str());
  set(CURLOPT_SSL_VERIFYPEER, options.verify_tls ? 1L : 0L);
  set(CURLOPT_SSL_VERIFYHOST, options.verify_tls ? 2L : 0L);
  if (!options.ca_file.empty()) set(CURLOPT_CAINFO, options.ca_file.c_str());
  set(CURLOPT_ERRORBUFFER, error_);
  set(CURLOPT_HEADERFUNCTION, &Transfer::on_header);
  set(CURLOPT_HEADERDATA, this);
  set(CURLOPT_WRITEFUNCTION, &Transfer::on_body);
  set(CURLOPT_WRITEDATA, this);
  set(CURLOPT_PREREQFUNCTION, &Transfer::on_send);
  set(CURLOPT_PREREQDATA, this);
}

Transfer::~Transfer() {
  curl_easy_cleanup(easy);
  curl_slist_free_all(header_list_);
}

void Transfer::prepare(Request&& r, Callbacks&& c) {
  request = std::move(r);
  callbacks = std::move(c);
  response = Response();
  body_bytes = 0;
  too_large = in_body = false;
  last_step = 0;
  error_[0] = 0;
  if (fresh_) curl_easy_setopt(easy, CURLOPT_FRESH_CONNECT, 0L);
  fresh_ = false;
  if (url_set_ != request.url) {
    url_set_ = request.url;
    curl_easy_setopt(easy, CURLOPT_URL, url_set_.c_str());
  }
  if (headers_set_ != request.headers || header_list_ == nullptr) {
    headers_set_ = request.headers;
    curl_slist_free_all(header_list_);
    header_list_ = curl_slist_append(nullptr, "Expect:");  // no round trip before a long prompt
    for (const std::string& h : headers_set_) header_list_ = curl_slist_append(header_list_, h.c_str());
    curl_easy_setopt(easy, CURLOPT_HTTPHEADER, header_list_);
  }
  if (method_set_ != request.method) {
    method_set_ = request.method;
    curl_easy_setopt(easy, method_set_ == "GET" ? CURLOPT_HTTPGET : CURLOPT_POST, 1L);
  }
  if (method_set_ != "GET") {
    curl_easy_setopt(easy, CURLOPT_POSTFIELDS, request.body.data());
    curl_easy_setopt(easy, CURLOPT_POSTFIELDSIZE_LARGE, static_cast<curl_off_t>(request.body.size()));
  }
  if (connect_set_ != request.limits.connect_s) {
    connect_set_ = request.limits.connect_s;
    const long ms = connect_set_ > 0 ? static_cast<long>(connect_set_ * 1e3) + 1 : 86'400'000L;
    curl_easy_setopt(easy, CURLOPT_CONNECTTIMEOUT_MS, ms);
  }
}

// libcurl repeats a request whose kept connection turns out to be closed, but counts these repeats over the life of the
// handle, and fails the sixth with CURLE_SEND_ERROR. A server that closes every connection after a streamed answer
// (llama.cpp's does, though it promises keep-alive) would lose requests to that, which no response byte ever answered.
bool Transfer::wants_a_fresh_connection(CURLcode code) {
  if (code != CURLE_SEND_ERROR || fresh_ || response.timing.first_byte != 0) return false;
  if (!std::string_view(error_).starts_with("Connection died")) return false;
  fresh_ = true;
  error_[0] = 0;
  curl_easy_setopt(easy, CURLOPT_FRESH_CONNECT, 1L);
  return true;
}

Nanoseconds Transfer::deadline(Failure& what) const {
  Nanoseconds first = INT64_MAX;
  const Timing& t = response.timing;
  if (request.limits.total_s > 0) {
    first = t.queued + from_seconds(request.limits.total_s);
    what = Failure::kTotalTimeout;
  }
  if (request.limits.first_byte_s > 0 && t.sent != 0 && t.first_byte == 0) {
    const Nanoseconds byte = t.sent + from_seconds(request.limits.first_byte_s);
    if (byte < first) {
      first = byte;
      what = Failure::kFirstByteTimeout;
    }
  }
  return first;
}

Nanoseconds Transfer::look_again(Nanoseconds time) const {
  Failure what{};
  const Nanoseconds first = deadline(what);
  const bool may_start = request.limits.first_byte_s > 0 && response.timing.sent == 0;
  return may_start ? std::min(first, time + from_seconds(request.limits.first_byte_s)) : first;
}

Failure Transfer::failure_of(CURLcode code, std::string& error) const {
  error = error_[0] != 0 ? error_ : curl_easy_strerror(code);
  long os = 0;
  curl_easy_getinfo(easy, CURLINFO_OS_ERRNO, &os);
  switch (code) {
    case CURLE_OK:
      error.clear();
      return Failure::kNone;
    case CURLE_COULDNT_CONNECT:
      return os == ECONNREFUSED ? Failure::kRefused
             : os == ETIMEDOUT  ? Failure::kConnectTimeout
                                : Failure::kUnreachable;
    case CURLE_COULDNT_RESOLVE_HOST:
    case CURLE_COULDNT_RESOLVE_PROXY:
      return Failure::kUnreachable;
    case CURLE_OPERATION_TIMEDOUT:  // the only limit that libcurl itself was given
      return Failure::kConnectTimeout;
    case CURLE_GOT_NOTHING:
    case CURLE_SEND_ERROR:
      return Failure::kReset;
    case CURLE_RECV_ERROR:
      return os == 0 && response.status != 0 ? Failure::kMalformed : Failure::kReset;
    case CURLE_PARTIAL_FILE:
      return Failure::kTruncated;
    case CURLE_WEIRD_SERVER_REPLY:
    case CURLE_UNSUPPORTED_PROTOCOL:  // no status line: HTTP 0.9 is not spoken
    case CURLE_BAD_CONTENT_ENCODING:
      return Failure::kMalformed;
    case CURLE_WRITE_ERROR:
      return too_large ? Failure::kTooLarge : Failure::kOther;
    case CURLE_SSL_CONNECT_ERROR:
      error += "; does the server speak http, not https?";
      [[fallthrough]];
    case CURLE_PEER_FAILED_VERIFICATION:
    case CURLE_SSL_CERTPROBLEM:
    case CURLE_SSL_CIPHER:
    case CURLE_SSL_CACERT_BADFILE:
    case CURLE_SSL_ISSUER_ERROR:
    case CURLE_SSL_INVALIDCERTSTATUS:
      return Failure::kTls;
    default:
      return Failure::kOther;
  }
}

int Transfer::on_send(void* self, char*, char*, int, int) {
  auto* t = static_cast<Transfer*>(self);
  if (t->response.timing.sent == 0)
    t->response.timing.sent = now();
  else
    ++t->response.resends;
  return CURL_PREREQFUNC_OK;
}

std::size_t Transfer::on_header(char* bytes, std::size_t size, std::size_t count, void* self) {
  auto* t = static_cast<Transfer*>(self);
  const std::size_t length = size * count;
  try {
    return t->take_header({bytes, length}) ? length : 0;
  } catch (...) {  // never through libcurl
    t->thrown = std::current_exception();
    return 0;
  }
}

bool Transfer::take_header(std::string_view line) {
  if (in_body) return true;  // a trailer
  if (response.timing.first_byte == 0) response.timing.first_byte = now();
  if (line.starts_with("HTTP/")) {  // also the one after a 100 Continue
    response.headers.clear();
    response.status = 0;
    const std::size_t blank = line.find(' ');
    if (blank != std::string_view::npos) response.status = std::atoi(std::string(line.substr(blank)).c_str());
    return true;
  }
  const std::string_view text = without_blanks(line);
  if (!text.empty()) {
    const std::size_t colon = text.find(':');
    if (colon != std::string_view::npos)
      response.headers.push_back(
          {std::string(text.substr(0, colon)), std::string(without_blanks(text.substr(colon + 1)))});
    return true;
  }
  if (response.status < 200) return true;
  in_body = true;
  if (callbacks.headers) callbacks.headers(response);
  return true;
}

std::size_t Transfer::on_body(char* bytes, std::size_t size, std::size_t count, void* self) {
  auto* t = static_cast<Transfer*>(self);
  const std::size_t length = size * count;
  try {
    return t->take_body({bytes, length}) ? length : 0;
  } catch (...) {
    t->thrown = std::current_exception();
    return 0;
  }
}

bool Transfer::take_body(std::string_view bytes) {
  body_bytes += bytes.size();
  counters->body_bytes_received += bytes.size();
  if (request.limits.max_body_bytes > 0 && body_bytes > request.limits.max_body_bytes) {
    too_large = true;
    return false;
  }
  std::vector<Read>& reads = response.timing.reads;
  if (last_step != *step || reads.empty()) {
    last_step = *step;
    ++counters->reads;
    if (!record_reads) reads.clear();
    reads.push_back({now(), 0, 0});
  }
  reads.back().bytes += static_cast<std::uint32_t>(bytes.size());
  ++reads.back().pieces;
  if (callbacks.body)
    callbacks.body(bytes, reads.back().time);
  else
    response.body.append(bytes);
  return true;
}

}  // namespace moecheck::harness::http

// A Chrome trace of Kineto, event by event: traces of 100 MB are common, and most of them is of no use here.
#include <fmt/format.h>

#include <charconv>
#include <cmath>
#include <map>
#include <unordered_map>

#include "harness/case.h"
#include "harness/json.h"
#include "harness/json_error.h"
#include "harness/streams/profile.h"
#include "harness/text.h"

namespace moecheck::harness::streams {
namespace {

using Json = nlohmann::json;

// A number, or a text that may hold one.
struct Scalar {
  enum class Is : std::uint8_t { kNothing, kWhole, kReal, kText, kOther } is = Is::kNothing;
  std::int64_t whole = 0;
  double real = 0;
  std::string text = {};

  std::optional<double> number() const {
    if (is == Is::kWhole) return static_cast<double>(whole);
    if (is == Is::kReal) return real;
    double d = 0;
    const char *begin = text.data(), *end = begin + text.size();
    if (is != Is::kText || text.empty() || std::from_chars(begin, end, d).ptr != end) return std::nullopt;
    return d;
  }
  std::optional<std::int64_t> id() const {
    if (is == Is::kWhole) return whole;
    std::int64_t i = 0;
    const char *begin = text.data(), *end = begin + text.size();
    if (is != Is::kText || text.empty()) return std::nullopt;
    const auto [at, error] = std::from_chars(begin, end, i);
    if (at != end || error != std::errc{}) return std::nullopt;
    return i;
  }
};

using Fields = std::map<std::string, Scalar, std::less<>>;
constexpr std::string_view kTop[] = {"ph", "cat", "name", "pid", "tid", "ts", "dur"};
constexpr std::string_view kArguments[] = {"device",
                                           "inDevice",
                                           "stream",
                                           "correlation",
                                           "graph node id",
                                           "cuda_sync_kind",
                                           "wait_on_stream",
                                           "wait_on_cuda_event_id",
                                           "wait_on_cuda_event_record_corr_id",
                                           "event_id"};

// One event's fields become a record.
class Events {
 public:
  Events(const std::string& path, Profile& profile) : path_(path), p_(profile) {}

  void add(std::size_t number, const Fields& top, const Fields& arguments) {
    number_ = number;
    top_ = &top;
    arguments_ = &arguments;
    if (text("ph") != "X") return;
    const std::string_view category = text("cat");
    if (category == "kernel") return activity(ActivityKind::kKernel);
    if (category == "gpu_memcpy") return activity(ActivityKind::kCopy);
    if (category == "gpu_memset") return activity(ActivityKind::kMemset);
    if (category == "cuda_runtime" || category == "cuda_driver") return call();
    if (category == "cuda_sync") return sync();
    if (category == "cuda_event") return event();
  }

 private:
  [[noreturn]] void fail(std::string_view key, std::string_view what) const {
    throw UsageError(fmt::format("{}: traceEvents[{}] ({} '{}').{} {}", printable(path_), number_,
                                 printable(text("cat"), 40), printable(text("name"), 60), key, what));
  }

  static const Scalar* find(const Fields& fields, std::string_view key) {
    const auto found = fields.find(key);
    return found == fields.end() || found->second.is == Scalar::Is::kNothing ? nullptr : &found->second;
  }
  std::string_view text(std::string_view key) const {
    const Scalar* s = find(*top_, key);
    return s != nullptr && s->is == Scalar::Is::kText ? std::string_view(s->text) : std::string_view();
  }
  double time(std::string_view key) const {
    const Scalar* s = find(*top_, key);
    if (s == nullptr) fail(key, "is missing: Kineto writes ts and dur of every event, in microseconds");
    const std::optional<double> d = s->number();
    if (!d || !std::isfinite(*d)) fail(key, "is no number: give microseconds");
    return *d;
  }
  double end() const {
    const double d = time("dur");
    if (d < 0) fail("dur", fmt::format("is {}: at least 0", d));
    if (!std::isfinite(time("ts") + d)) fail("dur", "is too long: give microseconds");
    return time("ts") + d;
  }
  // The device's "none" is -1 of 32 bits, with and without a sign.
  std::int64_t id(std::string_view key, std::optional<std::int64_t> otherwise = std::nullopt) const {
    const Scalar* s = find(*arguments_, key);
    if (s == nullptr && otherwise) return *otherwise;
    if (s == nullptr)
      fail(fmt::format("args.{}", key), "is missing: is this a trace of Kineto (torch.profiler)?");
    const std::optional<std::int64_t> i = s->id();
    if (!i) fail(fmt::format("args.{}", key), "is no id: give a whole number below 2^63");
    return *i == 0xFFFFFFFF ? -1 : *i;
  }
  std::int64_t device() const {
    if (find(*arguments_, "device") == nullptr && find(*arguments_, "inDevice") != nullptr)
      return id("inDevice");
    return id("device");
  }

  void activity(ActivityKind kind) {
    Activity a{kind,  std::string(text("name")), device(), id("stream"), time("ts"),
               end(), id("correlation", 0)};
    const Scalar* node = find(*arguments_, "graph node id");  // of 64 bits: no id is made of it
    a.of_graph = node != nullptr && node->number().value_or(0) != 0;
    p_.activities.push_back(std::move(a));
  }

  void call() {
    const Scalar *pid = find(*top_, "pid"), *tid = find(*top_, "tid");
    const auto word = [](const Scalar* s) {
      if (s == nullptr) return std::string();
      return s->is == Scalar::Is::kWhole ? std::to_string(s->whole) : s->text;
    };
    const auto [thread, fresh] = threads_.emplace(word(pid) + "/" + word(tid), p_.threads);
    p_.threads += fresh;
    p_.calls.push_back({std::string(text("name")), id("correlation", 0), thread->second, time("ts"), end()});
  }

  void sync() {
    const Scalar* said = find(*arguments_, "cuda_sync_kind");
    const std::string_view kind = said == nullptr ? text("name") : std::string_view(said->text);
    SyncRecord s;
    if (kind == "Stream Wait Event")
      s.kind = SyncKind::kWaitEvent;
    else if (kind == "Event Sync")
      s.kind = SyncKind::kHostEvent;
    else if (kind == "Stream Sync")
      s.kind = SyncKind::kHostStream;
    else if (kind == "Context Sync" || kind == "Device Sync")
      s.kind = SyncKind::kHostDevice;
    else
      return;
    s.device = device();
    s.stream = s.kind == SyncKind::kWaitEvent || s.kind == SyncKind::kHostStream ? id("stream") : -1;
    s.correlation = id("correlation", 0);
    s.event = id("wait_on_cuda_event_id", -1);
    s.recorded_by = id("wait_on_cuda_event_record_corr_id", -1);
    s.on = id("wait_on_stream", -1);
    s.start = time("ts");
    p_.syncs.push_back(s);
  }

  void event() { p_.events.push_back({id("event_id"), -1, device(), id("stream"), id("correlation")}); }

  const std::string& path_;
  Profile& p_;
  std::unordered_map<std::string, int> threads_;
  std::size_t number_ = 0;
  const Fields *top_ = nullptr, *arguments_ = nullptr;
};

// Finds the events in the stream of JSON's parts.
class Scan : public nlohmann::json_sax<Json> {
 public:
  Scan(const std::string& path, Profile& profile) : path_(path), events_(path, profile) {
    for (const std::string_view k : kTop) top_.emplace(k, Scalar{});
    for (const std::string_view k : kArguments) arguments_.emplace(k, Scalar{});
  }

  bool found_events() const { return found_; }

  bool null() override { return value({}); }
  bool boolean(bool) override { return value({Scalar::Is::kOther}); }
  bool number_integer(number_integer_t n) override { return value({Scalar::Is::kWhole, n}); }
  bool number_unsigned(number_unsigned_t n) override {
    if (n > static_cast<std::uint64_t>(INT64_MAX))  // no id of ours: not equal to any
      return value({Scalar::Is::kReal, 0, static_cast<double>(n)});
    return value({Scalar::Is::kWhole, static_cast<std::int64_t>(n)});
  }
  bool number_float(number_float_t n, const string_t&) override { return value({Scalar::Is::kReal, 0, n}); }
  bool string(string_t& s) override { return value({Scalar::Is::kText, 0, 0, std::move(s)}); }
  bool binary(binary_t&) override { return value({Scalar::Is::kOther}); }

  bool start_object(std::size_t) override {
    if (inside_ == 1) {
      for (auto* fields : {&top_, &arguments_})
        for (auto& [key, scalar] : *fields) scalar.is = Scalar::Is::kNothing;
    }
    in_arguments_ = inside_ == 2 ? key_ == "args" : in_arguments_ && inside_ > 2;
    return open();
  }
  bool end_object() override {
    close();
    if (inside_ == 1) events_.add(number_++, top_, arguments_);
    if (inside_ == 2) in_arguments_ = false;
    return true;
  }
  bool start_array(std::size_t) override {
    if (inside_ == 0 && (depth_ == 0 || (depth_ == 1 && key_ == "traceEvents"))) {
      found_ = true;
      ++depth_;
      inside_ = 1;
      return true;
    }
    if (inside_ == 1) no_object();
    if (inside_ == 2) in_arguments_ = false;
    return open();
  }
  bool end_array() override {
    close();
    return true;
  }
  bool key(string_t& k) override {
    key_ = std::move(k);
    return true;
  }
  bool parse_error(std::size_t, const std::string&, const nlohmann::detail::exception& e) override {
    throw UsageError(json_error_at(path_, 1, e) +
                     ": a trace is one JSON object with traceEvents; one that was cut off has to be "
                     "exported again");
  }

 private:
  // inside_: 0 outside of the list of events, 1 in the list, 2 in an event, 3 in its arguments or deeper.
  bool open() {
    ++depth_;
    if (inside_ > 0) ++inside_;
    return true;
  }
  void close() {
    --depth_;
    if (inside_ > 0) --inside_;
  }
  [[noreturn]] void no_object() const {
    throw UsageError(fmt::format("{}: traceEvents[{}] is no object: an event is written {{\"ph\": ...}}",
                                 printable(path_), number_));
  }
  bool value(Scalar s) {
    if (inside_ == 1) no_object();
    if (inside_ != 2 && !(inside_ == 3 && in_arguments_)) return true;
    Fields& fields = inside_ == 2 ? top_ : arguments_;
    if (const auto found = fields.find(key_); found != fields.end()) found->second = std::move(s);
    return true;
  }

  const std::string& path_;
  Events events_;
  Fields top_, arguments_;
  std::string key_;
  int depth_ = 0, inside_ = 0;
  bool in_arguments_ = false, found_ = false;
  std::size_t number_ = 0;
};

}  // namespace

Profile parse_kineto(std::string_view text, const std::string& path) {
  Profile p;
  p.source = "Kineto trace";
  Scan scan(path, p);
  Json::sax_parse(text.begin(), text.end(), &scan);
  if (!scan.found_events())
    throw UsageError(fmt::format(
        "{}: has no list traceEvents: give a Chrome trace (torch.profiler, export_chrome_trace) or CUPTI "
        "records, one a line",
        printable(path)));
  return p;
}

}  // namespace moecheck::harness::streams

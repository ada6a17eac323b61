#include "harness/plugin/plugin.h"

#include <fmt/format.h>
#include <unistd.h>

#include <cstdio>
#include <cstring>
#include <filesystem>
#include <map>
#include <mutex>
#include <optional>

#include "harness/device_tensors.h"
#include "harness/fault.h"
#include "harness/json.h"
#include "harness/operator.h"
#include "harness/plugin/call.h"
#include "harness/plugin/library.h"
#include "harness/text.h"
#include "harness/workers.h"

namespace moecheck::harness {
namespace {

// ---- One call, in this process

gpu::Runtime* runtime_of(std::int32_t device) {
  return device == MOECHECK_CPU ? nullptr : device == MOECHECK_CUDA ? &gpu::cuda_runtime() : &gpu::hip_runtime();
}

// All tensors of a call, on the host or on a device.
class CallTensors {
 public:
  CallTensors(std::int32_t device, const Case& c, const TensorSet& inputs, TensorSet& outputs)
      : runtime_(runtime_of(device)) {
    where_.device_type = static_cast<decltype(where_.device_type)>(device);
    where_.device_id = 0;
    if (runtime_ != nullptr) device_.emplace(*runtime_, inputs, outputs);
    for (const Tensor& t : (device_ ? device_->inputs() : inputs).tensors()) put(in_, t, false);
    const std::vector<TensorSpec> specs = operator_of(c).outputs(c);
    for (const Tensor& t : (device_ ? device_->outputs() : outputs).tensors()) {
      bool in_place = false;
      for (const TensorSpec& s : specs) in_place = in_place || (s.name == t.name() && s.in_place);
      put(out_, t, in_place);
    }
  }

  const TensorStructs& inputs() const { return in_; }
  const TensorStructs& outputs() const { return out_; }
  void* stream() const {
    if (runtime_ == nullptr) return nullptr;
    static const gpu::Stream stream = runtime_->create_stream();  // of this process
    return stream;
  }

  // Waits, and brings results back. RunFailed when an input changed on the device; the host's are the caller's to compare.
  void finish() {
    if (device_) device_->finish();
  }

 private:
  void put(TensorStructs& to, const Tensor& t, bool in_place) {
    to.add(t, const_cast<std::byte*>(t.data()), where_, in_place);
  }

  gpu::Runtime* runtime_;
  DLDevice where_{};
  std::optional<DeviceTensors> device_;
  TensorStructs in_, out_;
};

template <class Call>
auto guarded(const char* what, Call&& call) {
  try {
    return call();
  } catch (const std::exception& e) {
    throw RunFailed(fmt::format("{} threw: {}", what, e.what()));
  } catch (const char* text) {
    throw RunFailed(fmt::format("{} threw \"{}\"", what, text));
  }
}

std::optional<std::string> ask(const PluginOperator& op, const Case& c) {
  if (op.supports == nullptr) return std::nullopt;
  const CaseStruct given(c);
  const char* why = guarded("supports()", [&] { return op.supports(given.get()); });
  std::fflush(stdout);
  return why == nullptr ? std::nullopt : std::optional<std::string>(*why == 0 ? "it gives no reason" : why);
}

void run_with(const PluginOperator& op, const Case& c, const TensorSet& inputs, TensorSet& outputs,
              int threads) {
  const CaseStruct given(c);
  CallTensors tensors(op.device, c, inputs, outputs);
  char error[1024] = "";
  moecheck_call call{};
  call.struct_size = sizeof call;
  call.num_inputs = tensors.inputs().size();
  call.num_outputs = tensors.outputs().size();
  call.threads = HARNESS_FAULT(kPluginOneThread) ? 1 : threads;
  call.c = given.get();
  call.inputs = tensors.inputs().get();
  call.outputs = tensors.outputs().get();
  call.stream = tensors.stream();
  call.error = error;
  call.error_size = sizeof error;
  const int code = guarded("run()", [&] { return op.run(&call); });
  // What the plug-in printed: its process ends without flushing.
  std::fflush(stdout);
  error[sizeof error - 1] = 0;
  if (code != 0 && !HARNESS_FAULT(kPluginCodeIgnored))
    throw RunFailed(
        fmt::format("run() returned {}: {}", code, *error == 0 ? "it left no reason in call->error" : error));
  tensors.finish();
}

void run_here(const PluginOperator& op, const Case& c, const TensorSet& inputs, TensorSet& outputs,
              int threads) {
  with_device_errors([&] { run_with(op, c, inputs, outputs, threads); });
}

// ---- The same from the process that made the implementation

struct Answer {
  std::string text;
  bool lost = false, timeout = false;
};

Answer in_child(double seconds, const std::function<std::string()>& work) {
  Answer answer;
  WorkerCallbacks callbacks;
  callbacks.work = [&](std::size_t) { return work(); };
  callbacks.done = [&](std::size_t, std::string text) { answer.text = std::move(text); };
  callbacks.lost = [&](std::size_t, std::string how, bool timeout) {
    answer = {std::move(how), true, timeout};
  };
  run_in_workers(1, {1, seconds}, callbacks);
  return answer;
}

std::string guarded_bytes(const TensorSet& set) {
  std::string bytes;
  for (const Tensor& t : set.tensors())
    bytes.append(reinterpret_cast<const char*>(t.data() - Tensor::kGuard), t.bytes() + 2 * Tensor::kGuard);
  return bytes;
}

void set_guarded_bytes(TensorSet& set, const char* from) {
  for (Tensor& t : set.tensors()) {
    const std::size_t n = t.bytes() + 2 * Tensor::kGuard;
    std::memcpy(t.data() - Tensor::kGuard, from, n);
    from += n;
  }
}

std::string to_text(const PluginTable& table) {
  auto list = nlohmann::ordered_json::array();
  for (const PluginOperator& o : table.operators)
    list.push_back({{"name", o.name}, {"device", o.device}, {"not_promised", o.not_promised}});
  return nlohmann::ordered_json{{"summary", table.summary}, {"operators", list}}.dump(
      -1, ' ', false, nlohmann::ordered_json::error_handler_t::replace);
}

PluginTable table_from(const std::string& text) {
  const auto j = nlohmann::json::parse(text);
  PluginTable table;
  table.summary = j.at("summary").get<std::string>();
  for (const auto& o : j.at("operators"))
    table.operators.push_back({o.at("name").get<std::string>(), o.at("device").get<std::int32_t>(), nullptr,
                               nullptr,
                               o.at("not_promised").get<std::vector<std::pair<std::string, std::string>>>()});
  return table;
}

// What a child says about its answer.
constexpr char kFine = '+', kError = '-';

PluginTable probe(const std::string& path, double seconds) {
  const Answer answer = in_child(seconds, [&] {
    try {
      return kFine + to_text(load_plugin(path));
    } catch (const UsageError& e) {
      return kError + std::string(e.what());
    }
  });
  if (answer.lost)
    throw UsageError(fmt::format(
        "{}: loading it in a process of its own {}{}: look at what its constructors and {} do",
        printable(path), answer.timeout ? "came to " : "ended with ", answer.text, "moecheck_plugin_v1()"));
  if (answer.text.front() == kError) throw UsageError(answer.text.substr(1));
  return table_from(answer.text.substr(1));
}

// ----

class Plugin final : public Implementation {
 public:
  Plugin(const std::string& path, const PluginOptions& options)
      : path_(path),
        name_(std::filesystem::path(path).filename().string()),
        options_(options),
        maker_(getpid()),
        table_(probe(path, options.probe_seconds)) {
    summary_ = table_.summary.empty() ? "a plug-in" : printable(table_.summary, 200);
  }

  std::string_view name() const override { return name_; }
  std::string_view summary() const override { return summary_; }
  std::string_view argument() const override { return path_; }
  bool runs_in_workers_only() const override { return true; }

  std::optional<std::string> unsupported(const Case& c) const override {
    if (table_.find(c.operator_name()) == nullptr) {
      std::string has;
      for (const PluginOperator& o : table_.operators) has += (has.empty() ? "" : ", ") + o.name;
      return fmt::format("its table has no {}, only {}", c.operator_name(), has);
    }
    if (!is_maker()) {
      try {
        return ask(here(c), c);
      } catch (const RunFailed&) {
        return std::nullopt;  // run() asks again, where a failure is this case's verdict
      }
    }
    const Answer answer = in_child(options_.probe_seconds, [&] {
      const auto why = unsupported(c);
      return why ? kError + *why : std::string(1, kFine);
    });
    // Lost: whoever runs the case loses it in the same way, as a verdict.
    return answer.lost || answer.text.front() == kFine ? std::nullopt : std::optional(answer.text.substr(1));
  }

  void run(const Case& c, const TensorSet& inputs, TensorSet& outputs,
           const RunOptions& options) const override {
    if (!is_maker()) {
      const PluginOperator& op = here(c);
      if (const auto why = ask(op, c)) throw RunFailed("supports() does not accept the case: " + *why);
      run_here(op, c, inputs, outputs, options.threads);
      return;
    }
    const Answer answer = in_child(options_.run_seconds, [&] {
      try {
        const std::uint64_t before = checksum(inputs);
        run(c, inputs, outputs, options);
        // The maker's own inputs stay as they were, so this is the place to see it.
        if (checksum(inputs) != before) throw RunFailed("it wrote into its inputs");
        return kFine + guarded_bytes(outputs);
      } catch (const RunFailed& e) {
        return kError + std::string(e.what());
      }
    });
    if (answer.lost) throw LostRun(answer.text, answer.timeout);
    if (answer.text.front() == kError) throw RunFailed(answer.text.substr(1));
    set_guarded_bytes(outputs, answer.text.data() + 1);
  }

  std::optional<std::string> not_promised_for(const Case& c, std::string_view clause) const override {
    if (const PluginOperator* o = table_.find(c.operator_name()))
      for (const auto& [name, reason] : o->not_promised)
        if (name == clause) return reason;
    return std::nullopt;
  }

 private:
  bool is_maker() const { return getpid() == maker_; }

  // The operator with its functions: loads the library, once per process.
  const PluginOperator& here(const Case& c) const {
    if (!loaded_) {
      try {
        loaded_ = load_plugin(path_);
      } catch (const UsageError& e) {
        throw RunFailed(fmt::format("it could be loaded before, and no longer: {}", e.what()));
      }
    }
    const PluginOperator* op = loaded_->find(c.operator_name());
    if (op == nullptr) throw RunFailed("its table changed while moecheck ran");
    return *op;
  }

  std::string path_, name_, summary_;
  PluginOptions options_;
  pid_t maker_;
  PluginTable table_;  // without functions
  mutable std::optional<PluginTable> loaded_;
};

}  // namespace

bool is_plugin_path(std::string_view name) {
  return name.find('/') != std::string_view::npos || name.ends_with(".so") ||
         name.find(".so.") != std::string_view::npos;
}

std::unique_ptr<Implementation> make_plugin(const std::string& path, const PluginOptions& options) {
  return std::make_unique<Plugin>(path, options);
}

const Implementation& find_plugin(const std::string& path) {
  static std::mutex mutex;
  static std::map<std::string, std::unique_ptr<Implementation>> made;  // by path
  const std::scoped_lock lock(mutex);
  if (const auto known = made.find(path); known != made.end()) return *known->second;
  std::unique_ptr<Implementation> plugin = make_plugin(path);
  for (const auto& [other, impl] : made)
    if (impl->name() == plugin->name() && !std::filesystem::equivalent(other, path))
      throw UsageError(
          fmt::format("{} and {} have the same file name, which is the name in records: rename one",
                      printable(other), printable(path)));
  return *made.emplace(path, std::move(plugin)).first->second;
}

}  // namespace moecheck::harness

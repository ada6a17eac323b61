#include "harness/plugin/moecheck_c.h"

#include <fmt/format.h>

#include <cstring>

#include "harness/json.h"
#include "harness/operator.h"
#include "harness/plugin/call.h"
#include "harness/runner.h"
#include "harness/text.h"
#include "harness/verdict_text.h"
#include "moecheck_version.h"

namespace moecheck::harness {
namespace {

using json = nlohmann::ordered_json;

thread_local std::string last_error;

char* give(const json& j) {
  const std::string text = j.dump(-1, ' ', false, json::error_handler_t::replace);
  char* copy = static_cast<char*>(std::malloc(text.size() + 1));
  if (copy == nullptr) throw std::bad_alloc();
  std::memcpy(copy, text.c_str(), text.size() + 1);
  return copy;
}

// Nothing is thrown through C: `failed` is what the caller sees, and the words are in moecheck_last_error.
template <class Result, class Body>
Result guarded(Result failed, Body&& body) noexcept {
  try {
    last_error.clear();
    return body();
  } catch (const std::bad_alloc&) {
    last_error = "out of memory: the case is too large for this machine";
  } catch (const std::exception& e) {
    last_error = e.what();
  } catch (...) {
    last_error = "an exception of an unknown type";
  }
  return failed;
}

std::string text(const char* given, const char* what) {
  if (given == nullptr) throw UsageError(fmt::format("{} is a null pointer", what));
  return given;
}

Case case_of(const char* line) {
  Case c = parse_case(text(line, "case_line"));
  if (const auto why = operator_of(c).refusal(c))
    throw UsageError(fmt::format("case '{}' is refused: {}", c.str(), *why));
  return c;
}

bool same_type(DLDataType a, DLDataType b) {
  return a.code == b.code && a.bits == b.bits && a.lanes == b.lanes;
}

void require_dtype(const moecheck_tensor& t, DType wanted) {
  const DLDataType type = t.tensor.dtype, bytes = dl_dtype(DType::kU8);
  const std::string_view name = reference::name(wanted);
  const bool named = t.dtype != nullptr && name == t.dtype;
  if (same_type(type, dl_dtype(wanted)) && (t.dtype == nullptr || named)) return;
  if (named && same_type(type, bytes) && reference::size_bytes(wanted) == 1) return;
  throw UsageError(fmt::format("{}: it must be {}, and is {} (DLPack type code {}, {} bits, {} lanes)",
                               t.name, name, t.dtype == nullptr ? "of another type" : printable(t.dtype, 40),
                               type.code, type.bits, type.lanes));
}

void require_shape(const moecheck_tensor& t, const Shape& wanted) {
  const DLTensor& d = t.tensor;
  bool same = d.ndim == wanted.rank;
  for (int i = 0; same && i < wanted.rank; ++i) same = d.shape[i] == wanted[i];
  if (!same) {
    std::vector<std::int64_t> given(d.shape, d.shape + std::max(0, d.ndim));
    throw UsageError(fmt::format("{}: its shape must be {}, and is [{}]", t.name, to_string(wanted),
                                 fmt::join(given, ", ")));
  }
  std::int64_t stride = 1;
  for (int i = wanted.rank; d.strides != nullptr && i-- > 0; stride *= wanted[i])
    if (wanted[i] > 1 && d.strides[i] != stride)
      throw UsageError(fmt::format("{}: it must be dense and row-major: make it contiguous", t.name));
}

// The caller's tensors beside the specs they must fit, in the specs' order.
std::vector<const moecheck_tensor*> matched(const std::vector<TensorSpec>& specs, std::size_t n,
                                            const moecheck_tensor* const* given, const char* what) {
  std::vector<const moecheck_tensor*> found;
  for (const TensorSpec& s : specs) {
    const moecheck_tensor* match = nullptr;
    for (std::size_t i = 0; i < n; ++i)
      if (given[i] != nullptr && given[i]->name != nullptr && s.name == given[i]->name) match = given[i];
    if (match == nullptr)
      throw UsageError(fmt::format("{} {} {} is missing", what, s.name, to_string(s.shape)));
    if (match->struct_size < sizeof(moecheck_tensor))
      throw UsageError(fmt::format("{}: struct_size must be sizeof(moecheck_tensor)", s.name));
    if (match->tensor.device.device_type != MOECHECK_CPU)
      throw UsageError(fmt::format("{}: it must be in host memory", s.name));
    require_dtype(*match, s.dtype);
    require_shape(*match, s.shape);
    if (match->tensor.data == nullptr && s.shape.numel() > 0)
      throw UsageError(fmt::format("{}: its data is a null pointer", s.name));
    found.push_back(match);
  }
  if (n > specs.size()) {
    for (std::size_t i = 0; i < n; ++i)
      if (std::find(found.begin(), found.end(), given[i]) == found.end())
        throw UsageError(
            fmt::format("{} '{}' is not one of this case, or given twice: moecheck_describe lists them", what,
                        given[i] == nullptr ? "" : printable(text(given[i]->name, "a name"), 80)));
  }
  return found;
}

std::byte* bytes_of(const moecheck_tensor& t) {
  return static_cast<std::byte*>(t.tensor.data) + t.tensor.byte_offset;
}

TensorSet copied(const std::vector<TensorSpec>& specs, std::size_t n, const moecheck_tensor* const* given,
                 const char* what) {
  const auto from = matched(specs, n, given, what);
  TensorSet set(specs);
  for (std::size_t i = 0; i < from.size(); ++i)
    if (set.tensors()[i].bytes() > 0)
      std::memcpy(set.tensors()[i].data(), bytes_of(*from[i]), set.tensors()[i].bytes());
  return set;
}

void copy_out(const TensorSet& set, const std::vector<const moecheck_tensor*>& to) {
  for (std::size_t i = 0; i < to.size(); ++i)
    if (set.tensors()[i].bytes() > 0)
      std::memcpy(bytes_of(*to[i]), set.tensors()[i].data(), set.tensors()[i].bytes());
}

TensorSet given_inputs(const Case& c, std::size_t n, const moecheck_tensor* const* inputs) {
  const Operator& op = operator_of(c);
  TensorSet set = copied(op.inputs(c), n, inputs, "input");
  if (const auto why = op.bad_input(c, set)) throw UsageError(*why);
  return set;
}

json specs_json(const std::vector<TensorSpec>& specs) {
  json list = json::array();
  for (const TensorSpec& s : specs) {
    json shape = json::array();
    for (int i = 0; i < s.shape.rank; ++i) shape.push_back(s.shape[i]);
    list.push_back({{"name", s.name},
                    {"dtype", reference::name(s.dtype)},
                    {"shape", shape},
                    {"doc", s.doc},
                    {"in_place", s.in_place}});
  }
  return list;
}

json verdict_json(const Record& r) {
  std::string printed = verdict_text(r);
  // No command line can run what was judged here.
  if (const std::size_t at = printed.rfind("moecheck repro "); at != std::string::npos)
    printed.erase(printed.rfind('\n', at) + 1);
  return {{"verdict", name(r.result.verdict)},
          {"failed", is_failure(r.result.verdict)},
          {"text", printed},
          {"reason", r.result.reason},
          {"cause", r.result.cause},
          {"smallest", r.shrunk},
          {"record", json::parse(to_json(r))}};
}

// The caller's function as an implementation.
class Function final : public Implementation {
 public:
  Function(std::string name, moecheck_function function, void* user)
      : name_(std::move(name)), run_(function), user_(user) {}

  std::string_view name() const override { return name_; }
  std::string_view summary() const override { return "a function of the caller"; }
  std::optional<std::string> unsupported(const Case&) const override { return std::nullopt; }
  void run(const Case& c, const TensorSet& inputs, TensorSet& outputs,
           const RunOptions& options) const override {
    const CaseStruct given(c);
    TensorStructs in, out;
    for (const Tensor& t : inputs.tensors()) in.add(t, const_cast<std::byte*>(t.data()), kHost, false);
    const std::vector<TensorSpec> specs = operator_of(c).outputs(c);
    for (std::size_t i = 0; i < specs.size(); ++i)
      out.add(outputs.tensors()[i], outputs.tensors()[i].data(), kHost, specs[i].in_place);
    char error[4096] = "";
    moecheck_call call{};
    call.struct_size = sizeof call;
    call.num_inputs = in.size();
    call.num_outputs = out.size();
    call.threads = options.threads;
    call.c = given.get();
    call.inputs = in.get();
    call.outputs = out.get();
    call.error = error;
    call.error_size = sizeof error;
    const int code = run_(user_, &call);
    error[sizeof error - 1] = 0;
    if (code != 0) throw RunFailed(*error == 0 ? fmt::format("it returned {}", code) : error);
  }

 private:
  static constexpr DLDevice kHost{static_cast<decltype(DLDevice::device_type)>(MOECHECK_CPU), 0};
  std::string name_;
  moecheck_function run_;
  void* user_;
};

Suite suite_of(const std::string& given) {
  std::vector<std::string> known;
  for (const Suite s : {Suite::kQuick, Suite::kModels, Suite::kAdversarial, Suite::kFull}) {
    if (name(s) == given) return s;
    known.emplace_back(name(s));
  }
  throw UsageError(
      fmt::format("suite '{}' is not known: did you mean {}?", printable(given), nearest(given, known)));
}

const Operator& operator_named(const std::string& given) {
  if (const Operator* op = find_operator(given)) return *op;
  std::vector<std::string> known;
  for (const Operator* op : operators()) known.emplace_back(op->name());
  throw UsageError(
      fmt::format("operator '{}' is not known: did you mean {}?", printable(given), nearest(given, known)));
}

json cases_json(const Operator& op, Suite suite, const char* policy) {
  if (policy != nullptr && op.schema().find_policy(policy) == nullptr) {
    std::vector<std::string> known;
    for (const Preset& p : op.schema().policies) known.push_back(p.name);
    throw UsageError(fmt::format("policy '{}' of {} is not known: did you mean {}?", printable(policy),
                                 op.name(), known.empty() ? "none" : nearest(policy, known)));
  }
  json lines = json::array();
  for (const Case& c : op.cases(suite))
    if ((policy == nullptr || c.policy() == policy) && !op.refusal(c)) lines.push_back(c.str());
  return lines;
}

json described(const Case& c) {
  const Operator& op = operator_of(c);
  json fields = json::object();
  for (const auto& [key, value] : case_fields(c)) fields[key] = value;
  json j = {{"case", c.str()}, {"operator", c.operator_name()}, {"fields", fields}, {"refused", nullptr}};
  if (const auto why = op.refusal(c)) {
    j["refused"] = *why;
    return j;
  }
  j["inputs"] = specs_json(op.inputs(c));
  j["outputs"] = specs_json(op.outputs(c));
  return j;
}

}  // namespace
}  // namespace moecheck::harness

using namespace moecheck::harness;  // NOLINT: the C functions are outside any namespace

extern "C" {

int moecheck_c_abi(void) { return MOECHECK_C_ABI; }
const char* moecheck_library_version(void) { return MOECHECK_VERSION " (" MOECHECK_COMMIT ")"; }
const char* moecheck_last_error(void) { return last_error.c_str(); }
void moecheck_free(char* text) { std::free(text); }

char* moecheck_operators(void) {
  return guarded<char*>(nullptr, [] {
    json names = json::array();
    for (const Operator* op : operators()) names.push_back(op->name());
    return give(names);
  });
}

char* moecheck_cases(const char* op, const char* suite, const char* policy) {
  return guarded<char*>(nullptr, [&] {
    return give(cases_json(operator_named(text(op, "op")), suite_of(text(suite, "suite")), policy));
  });
}

char* moecheck_describe(const char* case_line) {
  return guarded<char*>(nullptr, [&] { return give(described(parse_case(text(case_line, "case_line")))); });
}

int moecheck_generate(const char* case_line, size_t n, const moecheck_tensor* const* inputs) {
  return guarded(1, [&] {
    const Case c = case_of(case_line);
    const Operator& op = operator_of(c);
    const auto to = matched(op.inputs(c), n, inputs, "input");
    TensorSet made(op.inputs(c));
    op.generate(c, made);
    copy_out(made, to);
    return 0;
  });
}

int moecheck_reference(const char* case_line, size_t num_inputs, const moecheck_tensor* const* inputs,
                       size_t num_outputs, const moecheck_tensor* const* outputs) {
  return guarded(1, [&] {
    const Case c = case_of(case_line);
    const Operator& op = operator_of(c);
    const auto to = matched(op.outputs(c), num_outputs, outputs, "output");
    const TensorSet in = given_inputs(c, num_inputs, inputs);
    TensorSet out(op.outputs(c));
    op.reset_outputs(c, in, out, 0);
    op.reference_outputs(c, in, *op.reference(c, in), out);
    copy_out(out, to);
    return 0;
  });
}

char* moecheck_judge(const char* case_line, size_t num_inputs, const moecheck_tensor* const* inputs,
                     size_t num_outputs, const moecheck_tensor* const* outputs, const char* name) {
  return guarded<char*>(nullptr, [&] {
    const Case c = case_of(case_line);
    const TensorSet in = given_inputs(c, num_inputs, inputs);
    const TensorSet out = copied(operator_of(c).outputs(c), num_outputs, outputs, "output");
    return give(verdict_json(judge_outputs(c, in, out, text(name, "name"))));
  });
}

char* moecheck_check(const char* case_line, const char* name, moecheck_function run, void* user,
                     uint32_t flags) {
  return guarded<char*>(nullptr, [&] {
    const Case c = case_of(case_line);
    if (run == nullptr) throw UsageError("run is a null pointer");
    const Function function(text(name, "name"), run, user);
    const Implementation* one[] = {&function};
    const CheckOptions options{(flags & MOECHECK_CHECK_CLAUSES) != 0, (flags & MOECHECK_CHECK_RELATIONS) != 0,
                               1};
    Record r = check_case(c, one, options).front();
    if ((flags & MOECHECK_CHECK_SHRINK) != 0 && is_failure(r.result.verdict))
      r.shrunk = smallest_failing(c, r, function, options);
    return give(verdict_json(r));
  });
}
}

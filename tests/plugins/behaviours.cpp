// A right gate that misbehaves as MOECHECK_TEST_BEHAVIOUR says: what the loader and the workers must contain.
#include <unistd.h>

#include <atomic>
#include <cstdlib>
#include <cstring>
#include <stdexcept>
#include <string>

#define moecheck_plugin_v1 example_plugin_v1
#include "examples/plugin/gating_plugin.cpp"
#undef moecheck_plugin_v1

namespace {

bool is(const char* behaviour) {
  const char* wanted = std::getenv("MOECHECK_TEST_BEHAVIOUR");
  return wanted != nullptr && std::strcmp(wanted, behaviour) == 0;
}

void misbehave(const char* where) {
  const std::string prefix = where;
  if (is((prefix + "crash").c_str())) {
    volatile int* nowhere = nullptr;
    *nowhere = 1;
  }
  if (is((prefix + "hang").c_str()))
    for (;;) pause();
  if (is((prefix + "abort").c_str())) std::abort();
  if (is((prefix + "exit").c_str())) std::exit(0);
}

__attribute__((constructor)) void at_load() { misbehave("load_"); }

const char* test_supports(const moecheck_case* c) {
  misbehave("supports_");
  if (is("supports_throw")) throw std::runtime_error("no idea");
  if (is("refuse")) return "not on a Sunday";
  // What the header promises of a case.
  if (c->struct_size != sizeof(moecheck_case) || std::strcmp(c->op, "gating") != 0) return "a broken case";
  if (moecheck_text(c, "no_such_field") != nullptr || moecheck_int(c, "seed") == 0) return "broken fields";
  if (std::strncmp(c->line, "gating ", 7) != 0) return "a broken line";
  return supports(c);
}

const char* broken_promise(const moecheck_call* call) {
  if (call->struct_size != sizeof(moecheck_call) || call->stream != nullptr || call->threads < 1)
    return "the call";
  const moecheck_tensor* const* sets[] = {call->inputs, call->outputs};
  const std::uint32_t sizes[] = {call->num_inputs, call->num_outputs};
  for (int s = 0; s < 2; ++s)
    for (std::uint32_t i = 0; i < sizes[s]; ++i) {
      const moecheck_tensor& t = *sets[s][i];
      if (t.struct_size != sizeof t || t.tensor.strides != nullptr || t.tensor.byte_offset != 0)
        return "a tensor";
      if (t.tensor.device.device_type != MOECHECK_CPU || t.tensor.ndim < 1) return "its device or rank";
      if (reinterpret_cast<std::uintptr_t>(t.tensor.data) % 16 != 0) return "its alignment";
      const bool f32 = std::strcmp(t.dtype, "f32") == 0;
      if (t.tensor.dtype.code != (f32 ? MOECHECK_DL_FLOAT : MOECHECK_DL_INT) || t.tensor.dtype.bits != 32)
        return "its dtype";
    }
  return nullptr;
}

int test_run(const moecheck_call* call) {
  misbehave("");
  if (const char* what = broken_promise(call)) return moecheck_fail(call, what);
  if (is("throw")) throw std::runtime_error("cannot go on");
  if (is("throw_text")) throw "in plain text";
  if (is("three_threads") && call->threads != 3) return moecheck_fail(call, "it was told of other threads");
  if (is("fail")) return moecheck_fail(call, "no workspace");
  if (is("fail_long")) return moecheck_fail(call, std::string(5000, 'x').c_str());
  const auto tokens = moecheck_input(call, "router_logits")->shape[0];
  if (is("crash_from_8_experts") && moecheck_input(call, "router_logits")->shape[1] >= 8) std::abort();
  // Fails where there are 3 tokens or more, and dies on the way to the smallest such case.
  if (is("crash_while_shrinking") && tokens < 3) std::abort();
  if (is("print")) std::puts("hello from the plug-in");
  const int code = run(call);
  if (tokens == 0) return code;
  const DLTensor* weights = moecheck_output(call, "topk_weights");
  auto* w = static_cast<float*>(weights->data);
  const auto slots = weights->shape[1];
  if (is("past_end")) w[tokens * slots] = 1;
  if (is("writes_input")) static_cast<float*>(moecheck_input(call, "router_logits")->data)[0] += 1;
  if ((is("wrong_from_3_tokens") || is("crash_while_shrinking")) && tokens >= 3) w[2 * slots] *= 1.5f;
  if (is("factor"))
    for (std::int64_t i = 0; i < tokens * slots; ++i) w[i] *= 2.5f;
  // Within rounding, another result each time.
  static int runs = 0;
  if (is("unsteady") && ++runs % 2 == 0) w[0] = std::nextafter(w[0], 2.f);
  return code;
}

const moecheck_exception kNotPromised[] = {{"deterministic", "atomics: the order of summation varies"},
                                           {"thread_independent", "as deterministic"},
                                           {"address_independent", "as deterministic"},
                                           {nullptr, nullptr}};

// Larger than the header's, as a later version's would be.
struct LaterOperator {
  moecheck_operator now;
  long added;
};

}  // namespace

extern "C" const moecheck_plugin* moecheck_plugin_v1(void) {
  static LaterOperator gate = {
      {sizeof(LaterOperator), MOECHECK_CPU, "gating", test_supports, test_run, nullptr}, 7};
  static const moecheck_operator* const list[] = {&gate.now, &gate.now};
  static moecheck_plugin table = {
      sizeof(moecheck_plugin), MOECHECK_PLUGIN_ABI, "misbehaves on demand", 1, 0, list};
  misbehave("table_");
  if (is("null_table")) return nullptr;
  if (is("abi_2")) table.abi_version = 2;
  if (is("small_table")) table.struct_size = 8;
  if (is("small_operator")) gate.now.struct_size = 16;
  if (is("unknown_operator")) gate.now.name = "gatting";
  if (is("twice")) table.num_operators = 2;
  if (is("empty")) table.num_operators = 0;
  if (is("no_run")) gate.now.run = nullptr;
  if (is("device_77")) gate.now.device_type = 77;
  if (is("cuda")) gate.now.device_type = MOECHECK_CUDA;
  if (is("unsteady")) gate.now.not_promised = kNotPromised;
  return &table;
}

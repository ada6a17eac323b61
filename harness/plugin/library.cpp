#include "harness/plugin/library.h"

#include <dlfcn.h>
#include <fmt/format.h>

#include <cstring>
#include <filesystem>

#include "harness/operator.h"
#include "harness/text.h"

namespace moecheck::harness {
namespace {

constexpr const char* kSymbol = "moecheck_plugin_v1";
constexpr std::size_t kLongText = 400;

std::string text(const char* given) { return given == nullptr ? "" : given; }

// A struct of the plug-in, whatever version of the header it was built with: what it lacks is 0.
template <class T>
T struct_of(const T* given, const std::string& path, const char* what) {
  if (given == nullptr) throw UsageError(fmt::format("{}: {} is a null pointer", printable(path), what));
  std::uint32_t size = 0;
  std::memcpy(&size, given, sizeof size);
  if (size < sizeof(T))
    throw UsageError(
        fmt::format("{}: {} has struct_size {}, and ABI {} needs at least {}: set it to sizeof({})",
                    printable(path), what, size, MOECHECK_PLUGIN_ABI, sizeof(T), what));
  T copy{};
  std::memcpy(&copy, given, sizeof copy);
  return copy;
}

PluginOperator read_operator(const moecheck_operator* given, const std::string& path) {
  const auto o = struct_of(given, path, "moecheck_operator");
  PluginOperator read{text(o.name), o.device_type, o.supports, o.run, {}};
  if (find_operator(read.name) == nullptr) {
    std::vector<std::string> known;
    for (const Operator* op : operators()) known.emplace_back(op->name());
    throw UsageError(
        fmt::format("{}: its table has an operator '{}', which is not known: did you mean {}? `moecheck list "
                    "operators` shows all",
                    printable(path), printable(read.name, kLongText), nearest(read.name, known)));
  }
  if (read.run == nullptr)
    throw UsageError(
        fmt::format("{}: {} has no run function: set moecheck_operator::run", printable(path), read.name));
  if (read.device != MOECHECK_CPU && read.device != MOECHECK_CUDA && read.device != MOECHECK_ROCM)
    throw UsageError(fmt::format(
        "{}: {} has device_type {}: use MOECHECK_CPU ({}), MOECHECK_CUDA ({}) or MOECHECK_ROCM ({})",
        printable(path), read.name, read.device, int{MOECHECK_CPU}, int{MOECHECK_CUDA}, int{MOECHECK_ROCM}));
  if (o.not_promised != nullptr)
    for (const moecheck_exception* e = o.not_promised; e->clause != nullptr; ++e)
      read.not_promised.emplace_back(e->clause,
                                     e->reason == nullptr ? "the plug-in gives no reason" : e->reason);
  return read;
}

std::string dl_error() {
  const char* why = dlerror();
  return printable(why == nullptr ? "no reason given" : why, kLongText);
}

}  // namespace

const PluginOperator* PluginTable::find(std::string_view op) const {
  for (const PluginOperator& o : operators)
    if (o.name == op) return &o;
  return nullptr;
}

PluginTable read_plugin_table(const moecheck_plugin* given, const std::string& path) {
  if (given == nullptr)
    throw UsageError(fmt::format("{}: {} returned a null pointer: return the address of a static table",
                                 printable(path), kSymbol));
  // Before anything else: another ABI may have another layout behind these two members.
  if (given->abi_version != MOECHECK_PLUGIN_ABI)
    throw UsageError(
        fmt::format("{}: it speaks plug-in ABI {}, this moecheck {}: rebuild it with this moecheck's "
                    "harness/plugin/moecheck_plugin.h",
                    printable(path), given->abi_version, MOECHECK_PLUGIN_ABI));
  const auto table = struct_of(given, path, "moecheck_plugin");
  if (table.num_operators == 0 || table.operators == nullptr)
    throw UsageError(fmt::format("{}: its table lists no operator", printable(path)));
  PluginTable read;
  read.summary = text(table.summary);
  for (std::uint32_t i = 0; i < table.num_operators; ++i) {
    PluginOperator o = read_operator(table.operators[i], path);
    if (read.find(o.name) != nullptr)
      throw UsageError(fmt::format("{}: its table lists {} twice", printable(path), o.name));
    read.operators.push_back(std::move(o));
  }
  return read;
}

PluginTable load_plugin(const std::string& path) {
  std::error_code error;
  if (!std::filesystem::exists(path, error))
    throw UsageError(
        fmt::format("{}: there is no such file: --impl takes the path of a shared object", printable(path)));
  // Without a slash the loader would look in the system's folders.
  const std::string file = path.find('/') == std::string::npos ? "./" + path : path;
  void* library = dlopen(file.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr)
    throw UsageError(fmt::format("{}: cannot be loaded: {} (`ldd {}` shows which libraries are missing)",
                                 printable(path), dl_error(), printable(shell_word(file))));
  void* symbol = dlsym(library, kSymbol);
  if (symbol == nullptr)
    throw UsageError(
        fmt::format("{}: it exports no {}: define it as harness/plugin/moecheck_plugin.h declares it (in "
                    "C++: extern \"C\")",
                    printable(path), kSymbol));
  const auto table = reinterpret_cast<const moecheck_plugin* (*)()>(symbol);
  return read_plugin_table(table(), path);
}

}  // namespace moecheck::harness

#include "optimized/gpu/host/symbols.h"

#include <cxxabi.h>
#include <elf.h>
#include <fcntl.h>
#include <link.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <mutex>
#include <string_view>

namespace moecheck::gpu::host {
namespace {

// The program or library that an address lies in.
struct Module {
  std::uintptr_t address = 0, base = 0;
  std::string path;
};

int find_module(dl_phdr_info* info, std::size_t, void* data) {
  auto& m = *static_cast<Module*>(data);
  for (int i = 0; i < info->dlpi_phnum; ++i) {
    const ElfW(Phdr)& segment = info->dlpi_phdr[i];
    const std::uintptr_t first = info->dlpi_addr + segment.p_vaddr;
    if (segment.p_type != PT_LOAD || m.address < first || m.address >= first + segment.p_memsz) continue;
    m.base = info->dlpi_addr;
    m.path = info->dlpi_name[0] != '\0' ? info->dlpi_name : "/proc/self/exe";
    return 1;
  }
  return 0;
}

// The symbol that begins at `value`; empty when the file's tables have none.
std::string_view find_symbol(const char* file, std::size_t size, std::uintptr_t value) {
  const auto& header = *reinterpret_cast<const ElfW(Ehdr)*>(file);
  if (size < sizeof header || std::string_view(file, SELFMAG) != ELFMAG ||
      header.e_shoff + std::size_t{header.e_shnum} * sizeof(ElfW(Shdr)) > size)
    return {};
  const auto* sections = reinterpret_cast<const ElfW(Shdr)*>(file + header.e_shoff);
  for (unsigned i = 0; i < header.e_shnum; ++i) {
    const ElfW(Shdr)& table = sections[i];
    if ((table.sh_type != SHT_SYMTAB && table.sh_type != SHT_DYNSYM) || table.sh_link >= header.e_shnum)
      continue;
    const ElfW(Shdr)& strings = sections[table.sh_link];
    if (table.sh_offset + table.sh_size > size || strings.sh_offset + strings.sh_size > size) continue;
    const auto* symbols = reinterpret_cast<const ElfW(Sym)*>(file + table.sh_offset);
    for (std::size_t s = 0; s < table.sh_size / sizeof(ElfW(Sym)); ++s)
      if (symbols[s].st_value == value && ELF64_ST_TYPE(symbols[s].st_info) == STT_FUNC &&
          symbols[s].st_name < strings.sh_size)
        return file + strings.sh_offset + symbols[s].st_name;
  }
  return {};
}

std::string symbol(const Module& m) {
  const int fd = open(m.path.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) return {};
  struct stat status {};
  std::string found;
  if (fstat(fd, &status) == 0 && status.st_size > 0) {
    const auto size = static_cast<std::size_t>(status.st_size);
    void* const file = mmap(nullptr, size, PROT_READ, MAP_PRIVATE, fd, 0);
    if (file != MAP_FAILED) {
      found = find_symbol(static_cast<const char*>(file), size, m.address - m.base);
      munmap(file, size);
    }
  }
  close(fd);
  return found;
}

// "void a::(anonymous namespace)::add_one<64, b::C>(int*)" -> "add_one<64, b::C>"
std::string last_name(std::string_view full) {
  std::size_t begin = 0, end = full.size();
  int depth = 0;
  for (std::size_t i = 0; i < full.size(); ++i) {
    const char c = full[i];
    if (depth == 0 && full.substr(i).starts_with("(anonymous namespace)")) {
      i += std::string_view("(anonymous namespace)").size() - 1;
      continue;
    }
    if (depth == 0 && c == '(') {
      end = i;
      break;
    }
    if (c == '<' || c == '(') ++depth;
    if (c == '>' || c == ')') --depth;
    if (depth == 0 && (c == ' ' || c == ':')) begin = i + 1;
  }
  return std::string(full.substr(begin, end - begin));
}

}  // namespace

std::string function_name(const void* address) {
  static std::mutex mutex;
  static std::map<const void*, std::string> known;
  const std::lock_guard lock(mutex);
  std::string& name = known[address];
  if (!name.empty()) return name;
  Module m;
  m.address = reinterpret_cast<std::uintptr_t>(address);
  if (dl_iterate_phdr(find_module, &m) != 0) name = symbol(m);
  int status = 0;
  if (char* plain = abi::__cxa_demangle(name.c_str(), nullptr, nullptr, &status); plain != nullptr) {
    name = last_name(plain);
    std::free(plain);
  }
  if (name.empty()) {
    char buffer[40];
    std::snprintf(buffer, sizeof buffer, "function at %p", address);
    name = buffer;
  }
  return name;
}

}  // namespace moecheck::gpu::host

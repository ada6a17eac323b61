#include "harness/streams/program_blocks.h"

#include <algorithm>

#include "harness/random.h"

namespace moecheck::harness::streams {
namespace {

using reference::ByteRange;
using reference::StepKind;
using reference::StreamProgram;
using reference::StreamStep;

std::size_t at(int i) { return static_cast<std::size_t>(i); }

std::vector<std::byte> default_bytes(const reference::ProgramBuffer& b) {
  std::vector<std::byte> bytes(static_cast<std::size_t>(b.bytes));
  const std::uint64_t seed = number_of(b.name);
  for (std::size_t i = 0; i < bytes.size(); ++i) bytes[i] = static_cast<std::byte>(mix64(i ^ seed) >> 56);
  return bytes;
}

}  // namespace

std::uint64_t number_of(const std::string& name) { return Random(1, name).bits(0); }

ProgramBlocks::ProgramBlocks(const StreamProgram& p, gpu::Runtime& runtime, const OperationBody& body,
                             bool serial)
    : p_(p), runtime_(runtime), now_(p.buffers.size()), own_(p.buffers.size()), written_(p.buffers.size()) {
  for (std::size_t b = 0; b < p.buffers.size(); ++b) {
    if (p.buffers[b].base >= 0) continue;
    own_[b] = allocate(p.buffers[b].bytes);
    const std::span<const std::byte> first = body.initial(p.buffers[b]);
    if (static_cast<std::int64_t>(first.size()) < p.buffers[b].bytes) {
      const std::vector<std::byte> bytes = default_bytes(p.buffers[b]);
      runtime.copy_in(own_[b], bytes.data(), bytes.size());
    }
    runtime.copy_in(own_[b], first.data(),
                    std::min(first.size(), static_cast<std::size_t>(p.buffers[b].bytes)));
    now_[b] = own_[b];
  }
  for (const StreamStep& s : p.steps) {
    if (s.kind == StepKind::kAlloc && !serial) now_[at(root(s.buffer))] = nullptr;
    for (const ByteRange& r : s.writes) written_[at(root(r.buffer))] = true;
  }
}

int ProgramBlocks::root(int buffer) const {
  while (p_.buffers[at(buffer)].base >= 0) buffer = p_.buffers[at(buffer)].base;
  return buffer;
}

void ProgramBlocks::poison(std::byte* data, std::int64_t bytes) {
  const std::vector<std::byte> ones(static_cast<std::size_t>(bytes), std::byte{0xFF});
  runtime_.copy_in(data, ones.data(), ones.size());
}

std::byte* ProgramBlocks::allocate(std::int64_t bytes) {
  return static_cast<std::byte*>(memory_.emplace_back(runtime_, static_cast<std::size_t>(bytes)).data());
}

void ProgramBlocks::alloc(const StreamStep& s, int graph) {
  const int b = root(s.buffer);
  std::vector<Freed>& pool = pools_[{p_.buffers[at(b)].stream, graph}];
  const auto fits = [&](const Freed& f) {
    return s.reuses >= 0 ? f.buffer == root(s.reuses) : f.bytes == p_.buffers[at(b)].bytes;
  };
  const auto found = std::find_if(pool.rbegin(), pool.rend(), fits);
  now_[at(b)] = found == pool.rend() ? own_[at(b)] : found->data;
  if (found != pool.rend()) pool.erase(std::next(found).base());
}
void ProgramBlocks::free(const StreamStep& s, int graph) {
  const int b = root(s.buffer);
  std::byte* const data = std::exchange(now_[at(b)], nullptr);
  const std::int64_t bytes = p_.buffers[at(b)].bytes;
  if (p_.buffers[at(b)].stream < 0) {
    poison(data, bytes);
  } else if (!recorded_.contains(b)) {
    pools_[{p_.buffers[at(b)].stream, graph}].push_back({b, bytes, data});
  }
}
void ProgramBlocks::record_stream(const StreamStep& s) {
  const int b = root(s.buffer);
  if (s.stream != p_.buffers[at(b)].stream) recorded_.insert(b);
}

BoundRange ProgramBlocks::bind(const ByteRange& r) {
  std::int64_t offset = r.begin;
  int b = r.buffer;
  for (; p_.buffers[at(b)].base >= 0; b = p_.buffers[at(b)].base) offset += p_.buffers[at(b)].offset;
  std::byte* data = now_[at(b)];
  if (data == nullptr) {  // a dead pointer
    std::byte*& dead = dead_[b];
    if (dead == nullptr) {
      dead = allocate(p_.buffers[at(b)].bytes);
      poison(dead, p_.buffers[at(b)].bytes);
    }
    data = dead;
  }
  return {data + offset, r.end - r.begin};
}

std::map<int, std::vector<std::byte>> ProgramBlocks::contents() const {
  std::map<int, std::vector<std::byte>> all;
  for (std::size_t b = 0; b < now_.size(); ++b) {
    if (now_[b] == nullptr || !written_[b]) continue;
    std::vector<std::byte>& bytes = all[static_cast<int>(b)];
    bytes.resize(static_cast<std::size_t>(p_.buffers[b].bytes));
    runtime_.copy_out(bytes.data(), now_[b], bytes.size());
  }
  return all;
}

}  // namespace moecheck::harness::streams

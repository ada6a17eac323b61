#include "harness/safetensors.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <functional>
#include <unordered_set>

#include "harness/atomic_file.h"
#include "harness/case.h"
#include "harness/json.h"
#include "harness/safetensors_header.h"
#include "harness/text.h"

namespace moecheck::harness {
namespace {
static_assert(std::endian::native == std::endian::little,
              "tensor data are little-endian and copied as they are");

constexpr std::uint64_t kPrefix = 8;

std::uint64_t checked_header_length(const unsigned char (&prefix)[kPrefix], std::uint64_t file_bytes,
                                    std::string_view what) {
  std::uint64_t n = 0;
  for (std::size_t i = kPrefix; i-- > 0;) n = n << 8 | prefix[i];
  if (n > kMaxSafetensorsHeader)
    throw UsageError(fmt::format(
        "{}: the header would be {} bytes long; the format allows {}: this is no safetensors file", what, n,
        kMaxSafetensorsHeader));
  if (n > file_bytes - kPrefix)
    throw UsageError(fmt::format(
        "{}: the header would be {} bytes long, but the file ends after {}: it is truncated; copy it again",
        what, n, file_bytes - kPrefix));
  if (n < 2)
    throw UsageError(fmt::format(
        "{}: the header is {} long; even no tensors take 2 bytes ('{{}}'): this is no safetensors file", what,
        count(static_cast<std::int64_t>(n), "byte")));
  return n;
}

// `fetch(offset, into, bytes)` copies a part of the file. Memory is taken only for sizes that the file is
// known to hold.
using Fetch = std::function<void(std::uint64_t, void*, std::size_t)>;

TensorSet parse(std::uint64_t file_bytes, const Fetch& fetch, std::string_view what, Metadata* metadata) {
  if (file_bytes < kPrefix)
    throw UsageError(
        fmt::format("{}: {} is too short for a safetensors file: it is truncated, or another kind of file",
                    what, count(static_cast<std::int64_t>(file_bytes), "byte")));
  unsigned char prefix[kPrefix];
  fetch(0, prefix, kPrefix);
  const std::uint64_t header_bytes = checked_header_length(prefix, file_bytes, what);
  std::string header(header_bytes, ' ');
  fetch(kPrefix, header.data(), header_bytes);
  const std::uint64_t data_begin = kPrefix + header_bytes;
  TensorSet set;
  for (SafetensorsEntry& e : parse_safetensors_header(header, file_bytes - data_begin, what, metadata)) {
    Tensor& t = set.add(Tensor(std::move(e.name), e.dtype, e.shape));
    if (t.bytes() > 0) fetch(data_begin + e.begin, t.data(), t.bytes());
  }
  return set;
}

struct Layout {
  std::string header;                // with its length before and its padding behind
  std::vector<const Tensor*> order;  // of the data
};

Layout lay_out(const std::string& path, const TensorSet& tensors, const Metadata& metadata) {
  Layout layout;
  std::unordered_set<std::string_view> names;
  for (const Tensor& t : tensors.tensors()) {
    if (t.name() == kSafetensorsMetadata || !names.insert(t.name()).second)
      throw UsageError(fmt::format(
          "{}: cannot be written: the tensor name '{}' is {}: rename it", path, printable(t.name(), 120),
          t.name() == kSafetensorsMetadata ? "reserved by the format" : "used twice"));
    layout.order.push_back(&t);
  }
  std::stable_sort(layout.order.begin(), layout.order.end(), [](const Tensor* a, const Tensor* b) {
    return reference::size_bytes(a->dtype()) > reference::size_bytes(b->dtype());
  });
  std::map<const Tensor*, std::uint64_t> begins;
  std::uint64_t at = 0;
  for (const Tensor* t : layout.order) {
    begins[t] = at;
    at += t->bytes();
  }
  nlohmann::ordered_json header = nlohmann::ordered_json::object();
  if (!metadata.empty()) header[std::string(kSafetensorsMetadata)] = metadata;
  for (const Tensor& t : tensors.tensors()) {
    const std::vector<std::int64_t> shape(t.shape().dim.begin(), t.shape().dim.begin() + t.shape().rank);
    const std::uint64_t begin = begins[&t];
    header[t.name()] = {{"dtype", safetensors_name(t.dtype())},
                        {"shape", shape},
                        {"data_offsets", {begin, begin + t.bytes()}}};
  }
  try {
    layout.header = header.dump();
  } catch (const nlohmann::json::exception& e) {
    throw UsageError(
        fmt::format("{}: cannot be written: a tensor name or metadata is not valid UTF-8 ({}): rename it",
                    path, printable(e.what(), 200)));
  }
  layout.header.resize((layout.header.size() + 7) / 8 * 8, ' ');
  if (layout.header.size() > kMaxSafetensorsHeader)
    throw UsageError(fmt::format(
        "{}: cannot be written: the header would be {} bytes long; the format allows {}: split the set", path,
        layout.header.size(), kMaxSafetensorsHeader));
  std::string length;
  for (std::size_t i = 0; i < kPrefix; ++i)
    length += static_cast<char>(layout.header.size() >> (8 * i) & 0xFF);
  layout.header.insert(0, length);
  return layout;
}

}  // namespace

TensorSet parse_safetensors(std::span<const std::byte> bytes, std::string_view what, Metadata* metadata) {
  const Fetch fetch = [bytes](std::uint64_t offset, void* into, std::size_t n) {
    std::memcpy(into, bytes.data() + offset, n);
  };
  return parse(bytes.size(), fetch, what, metadata);
}

TensorSet read_safetensors(const std::string& path, Metadata* metadata) {
  std::error_code ec;
  const auto status = std::filesystem::status(path, ec);
  if (!std::filesystem::exists(status))
    throw UsageError(fmt::format("{}: there is no such file: check the path", path));
  if (!std::filesystem::is_regular_file(status))
    throw UsageError(fmt::format(
        "{}: not a regular file: safetensors are read by position; copy it to a file first", path));
  const std::uint64_t file_bytes = std::filesystem::file_size(path, ec);
  std::ifstream in(path, std::ios::binary);
  if (ec || !in) throw UsageError(fmt::format("{}: cannot be opened: check its permissions", path));
  const Fetch fetch = [&](std::uint64_t offset, void* into, std::size_t n) {
    in.seekg(static_cast<std::streamoff>(offset));
    in.read(static_cast<char*>(into), static_cast<std::streamsize>(n));
    if (!in)
      throw UsageError(fmt::format(
          "{}: reading {} bytes at {} failed: the file changed meanwhile or its disk fails; copy it again",
          path, n, offset));
  };
  return parse(file_bytes, fetch, path, metadata);
}

void write_safetensors(const std::string& path, const TensorSet& tensors, const Metadata& metadata) {
  const Layout layout = lay_out(path, tensors, metadata);
  AtomicFile file(path);
  file.write(layout.header);
  for (const Tensor* t : layout.order) file.write(std::span(t->data(), t->bytes()));
  file.commit();
}

}  // namespace moecheck::harness

#include "harness/tensor_set.h"

#include <fmt/format.h>

#include <cstdlib>
#include <cstring>
#include <new>

#include "harness/case.h"
#include "harness/fault.h"

namespace moecheck::harness {
namespace {
constexpr std::uint8_t kGuardByte = 0xC5;

// 8 bytes at a time: inputs are hashed before and after every run.
std::uint64_t hash_bytes(const std::byte* data, std::size_t n, std::uint64_t h) {
  constexpr std::uint64_t kMultiplier = 0x9E3779B97F4A7C15ull;
  std::size_t i = 0;
  for (; i + 8 <= n; i += 8) {
    std::uint64_t word = 0;
    std::memcpy(&word, data + i, 8);
    h = (h ^ word) * kMultiplier;
    h ^= h >> 29;
  }
  std::uint64_t tail = n - i;
  for (; i < n; ++i) tail = tail << 8 | static_cast<std::uint64_t>(data[i]);
  h = (h ^ tail) * kMultiplier;
  return h ^ h >> 32;
}
}  // namespace

std::string to_string(const Shape& shape) {
  return fmt::format("[{}]", fmt::join(shape.dim.begin(), shape.dim.begin() + shape.rank, ", "));
}

void Tensor::Free::operator()(std::byte* p) const noexcept { std::free(p); }

Tensor::Tensor(std::string name, DType dtype, Shape shape, std::size_t misalign)
    : name_(std::move(name)), dtype_(dtype), shape_(shape), misalign_(misalign) {
  bytes_ = static_cast<std::size_t>(shape.numel()) * static_cast<std::size_t>(reference::size_bytes(dtype));
  const std::size_t block = kGuard + kAlignment + misalign + bytes_ + kGuard;
  // calloc: large blocks are zero pages that cost nothing until written.
  block_.reset(static_cast<std::byte*>(std::calloc(1, block)));
  if (!block_) throw std::bad_alloc();
  const auto address = reinterpret_cast<std::uintptr_t>(block_.get()) + kGuard;
  const std::uintptr_t aligned = (address + kAlignment - 1) / kAlignment * kAlignment + misalign;
  data_ = block_.get() + (aligned - reinterpret_cast<std::uintptr_t>(block_.get()));
  std::memset(data_ - kGuard, kGuardByte, kGuard);
  std::memset(data_ + bytes_, kGuardByte, kGuard);
}

Tensor Tensor::elsewhere(const Tensor& like, std::byte* data) {
  Tensor t;
  t.name_ = like.name_;
  t.dtype_ = like.dtype_;
  t.shape_ = like.shape_;
  t.bytes_ = like.bytes_;
  t.data_ = data;
  return t;
}

Tensor::Tensor(const Tensor& other) {
  if (!other.block_) {
    *this = elsewhere(other, other.data_);
    return;
  }
  *this = Tensor(other.name_, other.dtype_, other.shape_, other.misalign_);
  if (bytes_ > 0) std::memcpy(data_, other.data_, bytes_);
}

Tensor& Tensor::operator=(const Tensor& other) {
  if (this != &other) *this = Tensor(other);
  return *this;
}

void Tensor::fill(std::uint8_t byte) { std::memset(data_, byte, bytes_); }

bool Tensor::guards_intact(std::ptrdiff_t* where) const {
  for (std::size_t i = 0; i < kGuard; ++i) {
    if (data_[bytes_ + i] != std::byte{kGuardByte}) {
      if (where != nullptr) *where = static_cast<std::ptrdiff_t>(bytes_ + i);
      return false;
    }
    if (*(data_ - 1 - i) != std::byte{kGuardByte} && !HARNESS_FAULT(kRunnerGuardBeforeIgnored)) {
      if (where != nullptr) *where = -1 - static_cast<std::ptrdiff_t>(i);
      return false;
    }
  }
  return true;
}

TensorSet::TensorSet(const std::vector<TensorSpec>& specs, std::size_t misalign) {
  tensors_.reserve(specs.size());
  for (const TensorSpec& s : specs) tensors_.emplace_back(s.name, s.dtype, s.shape, misalign);
}

Tensor& TensorSet::add(Tensor tensor) { return tensors_.emplace_back(std::move(tensor)); }

const Tensor* TensorSet::find(std::string_view name) const {
  for (const Tensor& t : tensors_)
    if (t.name() == name) return &t;
  return nullptr;
}

Tensor* TensorSet::find(std::string_view name) {
  return const_cast<Tensor*>(std::as_const(*this).find(name));
}

const Tensor& TensorSet::at(std::string_view name) const {
  const Tensor* t = find(name);
  if (t == nullptr) throw std::logic_error(fmt::format("there is no tensor '{}'", name));
  return *t;
}

Tensor& TensorSet::at(std::string_view name) { return const_cast<Tensor&>(std::as_const(*this).at(name)); }

ConstView TensorSet::view(std::string_view name) const {
  const Tensor* t = find(name);
  return t == nullptr ? ConstView{} : t->view();
}

View TensorSet::view(std::string_view name) {
  Tensor* t = find(name);
  return t == nullptr ? View{} : t->view();
}

std::size_t TensorSet::bytes() const {
  std::size_t n = 0;
  for (const Tensor& t : tensors_) n += t.bytes();
  return n;
}

void TensorSet::fill(std::uint8_t byte) {
  for (Tensor& t : tensors_) t.fill(byte);
}

std::string first_broken_guard(const TensorSet& set, std::ptrdiff_t* where) {
  for (const Tensor& t : set.tensors())
    if (!t.guards_intact(where)) return t.name();
  return {};
}

std::string first_difference(const TensorSet& a, const TensorSet& b, std::int64_t* element) {
  for (const Tensor& t : a.tensors()) {
    const Tensor* other = b.find(t.name());
    if (other == nullptr || other->bytes() != t.bytes()) {
      if (element != nullptr) *element = 0;
      return t.name();
    }
    if (t.bytes() == 0 || std::memcmp(t.data(), other->data(), t.bytes()) == 0) continue;
    if (element != nullptr) {
      std::size_t i = 0;
      while (t.data()[i] == other->data()[i]) ++i;
      *element = static_cast<std::int64_t>(i / static_cast<std::size_t>(reference::size_bytes(t.dtype())));
    }
    return t.name();
  }
  return {};
}

std::uint64_t checksum(const TensorSet& set) {
  std::uint64_t h = 0;
  for (const Tensor& t : set.tensors())
    if (!HARNESS_FAULT(kRunnerChecksumOfFirstTensor) || &t == &set.tensors().front())
      h = hash_bytes(t.data(), t.bytes(), h);
  return h;
}

void require_specs(const TensorSet& given, const std::vector<TensorSpec>& specs, std::string_view what) {
  for (const TensorSpec& s : specs) {
    const Tensor* t = given.find(s.name);
    if (t == nullptr)
      throw UsageError(fmt::format("{}: tensor '{}' is missing: the case needs {} {}{}", what, s.name,
                                   reference::name(s.dtype), to_string(s.shape),
                                   s.doc.empty() ? "" : ", " + s.doc));
    if (t->dtype() != s.dtype)
      throw UsageError(fmt::format(
          "{}: tensor '{}' is {}: the case needs {}; convert it, or change the case's dtype field", what,
          s.name, reference::name(t->dtype()), reference::name(s.dtype)));
    if (!(t->shape() == s.shape))
      throw UsageError(fmt::format("{}: tensor '{}' has shape {}: the case needs {}", what, s.name,
                                   to_string(t->shape()), to_string(s.shape)));
  }
  for (const Tensor& t : given.tensors()) {
    bool known = false;
    for (const TensorSpec& s : specs) known = known || s.name == t.name();
    if (!known) {
      std::vector<std::string> names;
      for (const TensorSpec& s : specs) names.push_back(s.name);
      throw UsageError(fmt::format("{}: tensor '{}' is not one the case knows ({}): rename or remove it",
                                   what, t.name(), fmt::join(names, ", ")));
    }
  }
}

}  // namespace moecheck::harness

#include "harness/safetensors_header.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <limits>
#include <numeric>
#include <unordered_set>
#include <utility>

#include "harness/case.h"
#include "harness/fault.h"
#include "harness/json.h"
#include "harness/text.h"

namespace moecheck::harness {
namespace {
using nlohmann::json;

constexpr std::array<std::pair<std::string_view, DType>, 11> kDTypes = {{{"F64", DType::kF64},
                                                                         {"F32", DType::kF32},
                                                                         {"BF16", DType::kBF16},
                                                                         {"F16", DType::kF16},
                                                                         {"F8_E4M3", DType::kE4M3FN},
                                                                         {"F8_E4M3FNUZ", DType::kE4M3FNUZ},
                                                                         {"F8_E5M2", DType::kE5M2},
                                                                         {"F8_E8M0", DType::kE8M0},
                                                                         {"I64", DType::kI64},
                                                                         {"I32", DType::kI32},
                                                                         {"U8", DType::kU8}}};

// Names come from the file: made printable, and cut, since one may be megabytes long.
std::string in_quotes(std::string_view name) { return fmt::format("'{}'", printable(name, 120)); }

// Reads the header event by event, not as a document: depth, memory and doubled keys are then ours to bound,
// and nothing recurses. The grammar is small enough for a state per kind of place.
class HeaderReader : public json::json_sax_t {
 public:
  HeaderReader(std::string_view what, Metadata* metadata) : what_(what), metadata_(metadata) {}

  std::vector<SafetensorsEntry> take() { return std::move(entries_); }

  bool null() override { unexpected("null"); }
  bool boolean(bool v) override { unexpected(v ? "true" : "false"); }
  bool number_integer(std::int64_t v) override { unexpected(fmt::format("{}", v)); }
  bool number_float(double, const std::string& text) override { unexpected(printable(text, 40)); }
  bool binary(json::binary_t&) override { unexpected("binary data"); }

  bool number_unsigned(std::uint64_t v) override {
    if (place_ == Place::kShape) {
      if (numbers_ == reference::kMaxRank)
        fail(fmt::format(
            "the shape has more than {0} dimensions; moecheck reads at most {0}: reshape the tensor",
            reference::kMaxRank));
      if (v > static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max()))
        fail(fmt::format("shape[{}] is {}, more than any file can hold: the header is corrupt", numbers_, v));
      entries_.back().shape.dim[static_cast<std::size_t>(numbers_++)] = static_cast<std::int64_t>(v);
      entries_.back().shape.rank = numbers_;
    } else if (place_ == Place::kOffsets) {
      if (numbers_ == 2) fail("data_offsets has more than 2 numbers; it must be [begin, end]");
      (numbers_++ == 0 ? entries_.back().begin : entries_.back().end) = v;
    } else {
      unexpected(fmt::format("{}", v));
    }
    return true;
  }

  bool string(std::string& v) override {
    if (place_ == Place::kMetadata) {
      if (metadata_ != nullptr) metadata_->emplace(key_, v);
      return true;
    }
    if (place_ != Place::kTensor || key_ != "dtype") unexpected(fmt::format("the string {}", in_quotes(v)));
    for (const auto& [spelling, dtype] : kDTypes) {
      if (spelling != v) continue;
      entries_.back().dtype =
          HARNESS_FAULT(kSafetensorsFnuzAsFn) && dtype == DType::kE4M3FNUZ ? DType::kE4M3FN : dtype;
      return true;
    }
    std::vector<std::string_view> known;
    for (const auto& [spelling, dtype] : kDTypes) known.push_back(spelling);
    fail(fmt::format("dtype {} is not one moecheck reads ({}): convert the tensor to one of these",
                     in_quotes(v), fmt::join(known, ", ")));
  }

  bool start_object(std::size_t) override {
    if (place_ == Place::kStart) {
      place_ = Place::kTop;
    } else if (place_ == Place::kTop && key_ == kSafetensorsMetadata) {
      place_ = Place::kMetadata;
      keys_.clear();
    } else if (place_ == Place::kTop) {
      if (entries_.size() == kMaxSafetensorsTensors)
        fail(fmt::format("the file has more than {} tensors: split it", grouped(kMaxSafetensorsTensors)));
      place_ = Place::kTensor;
      entries_.push_back({key_, {}, {}, 0, 0});
      keys_.clear();
    } else {
      unexpected("an object");
    }
    return true;
  }

  bool key(std::string& k) override {
    std::unordered_set<std::string>& seen = place_ == Place::kTop ? names_ : keys_;
    if (place_ == Place::kTensor && k != "dtype" && k != "shape" && k != "data_offsets")
      fail(fmt::format("the key {} is none of dtype, shape, data_offsets: remove it", in_quotes(k)));
    if (!seen.insert(k).second)
      fail(fmt::format("the {} {} appears twice: rename or remove one",
                       place_ == Place::kTop ? "name" : "key", in_quotes(k)));
    key_ = k;
    return true;
  }

  bool end_object() override {
    if (place_ == Place::kTensor)
      for (const char* needed : {"dtype", "shape", "data_offsets"})
        if (!keys_.contains(needed))
          fail(fmt::format("the key '{}' is missing: write the file again", needed));
    place_ = place_ == Place::kTop ? Place::kDone : Place::kTop;
    return true;
  }

  bool start_array(std::size_t) override {
    if (place_ == Place::kTensor && key_ == "shape")
      place_ = Place::kShape;
    else if (place_ == Place::kTensor && key_ == "data_offsets")
      place_ = Place::kOffsets;
    else
      unexpected("an array");
    numbers_ = 0;
    return true;
  }

  bool end_array() override {
    if (place_ == Place::kOffsets && numbers_ != 2)
      fail(fmt::format("data_offsets has {}; it must be [begin, end]", count(numbers_, "number")));
    place_ = Place::kTensor;
    return true;
  }

  bool parse_error(std::size_t position, const std::string&, const json::exception& e) override {
    std::string_view why = e.what();
    if (const auto at = why.find("parse error"); at != std::string_view::npos) why.remove_prefix(at);
    throw UsageError(fmt::format(
        "{}: the header is not JSON in UTF-8 at byte {} ({}): the file is corrupt or no safetensors file",
        what_, position + 7, printable(why, 200)));
  }

 private:
  enum class Place : std::uint8_t { kStart, kTop, kTensor, kMetadata, kShape, kOffsets, kDone };

  [[noreturn]] void fail(const std::string& why) const {
    const bool in_tensor = place_ == Place::kTensor || place_ == Place::kShape || place_ == Place::kOffsets;
    throw UsageError(fmt::format("{}: {}{}", what_,
                                 in_tensor ? fmt::format("tensor {}: ", in_quotes(entries_.back().name)) : "",
                                 why));
  }

  [[noreturn]] void unexpected(const std::string& found) const {
    switch (place_) {
      case Place::kStart:
      case Place::kDone:
        fail(fmt::format("the header is {}, not a JSON object: this is no safetensors file", found));
      case Place::kTop:
        fail(fmt::format("the entry {} is {}, not an object: the header is corrupt", in_quotes(key_), found));
      case Place::kMetadata:
        fail(fmt::format("__metadata__ {} is {}; metadata must be strings", in_quotes(key_), found));
      case Place::kShape:
        fail(fmt::format("shape[{}] is {}; it must be a whole number >= 0", numbers_, found));
      case Place::kOffsets:
        fail(fmt::format("data_offsets[{}] is {}; it must be a whole number >= 0", numbers_, found));
      case Place::kTensor:
        break;
    }
    fail(fmt::format("{} is {}; it must be {}", key_, found,
                     key_ == "dtype" ? "a string" : "an array of whole numbers"));
  }

  std::string_view what_;
  Metadata* metadata_;
  std::vector<SafetensorsEntry> entries_;
  Place place_ = Place::kStart;
  std::string key_;
  std::unordered_set<std::string> names_, keys_;
  int numbers_ = 0;
};

// Bytes of shape * dtype, or an error where the product overflows. Zeros are left out of the product on
// purpose: [2^62, 4, 0] holds nothing, but whoever multiplies from the left overflows.
std::uint64_t checked_bytes(const SafetensorsEntry& e, std::string_view what) {
  std::int64_t product = reference::size_bytes(e.dtype);
  bool empty = false;
  for (int i = 0; i < e.shape.rank; ++i) {
    if (e.shape[i] == 0)
      empty = true;
    else if (__builtin_mul_overflow(product, e.shape[i], &product) &&
             !HARNESS_FAULT(kSafetensorsProductUnchecked))
      throw UsageError(fmt::format("{}: tensor {}: shape {} of {} overflows 63 bits: the header is corrupt",
                                   what, in_quotes(e.name), to_string(e.shape), safetensors_name(e.dtype)));
  }
  return empty ? 0 : static_cast<std::uint64_t>(product);
}

void check_extent(const SafetensorsEntry& e, std::uint64_t data_bytes, std::string_view what) {
  const auto fail = [&](const std::string& why) {
    throw UsageError(fmt::format("{}: tensor {}: {}", what, in_quotes(e.name), why));
  };
  if (e.begin > e.end)
    fail(fmt::format("data_offsets [{}, {}] end before they begin: the header is corrupt", e.begin, e.end));
  if (e.end > data_bytes)
    fail(
        fmt::format("data_offsets [{}, {}] reach past the {} bytes of data: the file is truncated or "
                    "corrupt; copy it again",
                    e.begin, e.end, data_bytes));
  const std::uint64_t bytes = checked_bytes(e, what);
  if (HARNESS_FAULT(kSafetensorsSizeAtLeast) ? e.end - e.begin < bytes : e.end - e.begin != bytes)
    fail(
        fmt::format("data_offsets [{}, {}] hold {} bytes, but shape {} of {} needs {}: the header is corrupt",
                    e.begin, e.end, e.end - e.begin, to_string(e.shape), safetensors_name(e.dtype), bytes));
}

// The extents, sorted, must follow each other from 0 to the end: bytes that belong to nobody or to two are a
// sign of damage.
void check_tiling(const std::vector<SafetensorsEntry>& entries, std::uint64_t data_bytes,
                  std::string_view what) {
  std::vector<std::size_t> order(entries.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::stable_sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) {
    return std::pair(entries[a].begin, entries[a].end) < std::pair(entries[b].begin, entries[b].end);
  });
  std::uint64_t covered = 0;
  const SafetensorsEntry* before = nullptr;
  for (const std::size_t i : order) {
    const SafetensorsEntry& e = entries[i];
    if (e.begin < covered && !HARNESS_FAULT(kSafetensorsOverlapAllowed))
      throw UsageError(fmt::format(
          "{}: tensor {}: data_offsets [{}, {}] overlap those of {} [{}, {}]: write the file again", what,
          in_quotes(e.name), e.begin, e.end, in_quotes(before->name), before->begin, before->end));
    if (e.begin > covered)
      throw UsageError(
          fmt::format("{}: bytes [{}, {}] before tensor {} belong to no tensor: write the file again", what,
                      covered, e.begin, in_quotes(e.name)));
    covered = e.end;
    before = &e;
  }
  if (covered < data_bytes && !HARNESS_FAULT(kSafetensorsTrailingBytes))
    throw UsageError(
        fmt::format("{}: bytes [{}, {}] after the last tensor belong to no tensor: the file was appended to, "
                    "or its header is "
                    "another file's; write it again",
                    what, covered, data_bytes));
}

}  // namespace

std::string_view safetensors_name(DType dtype) {
  for (const auto& [spelling, d] : kDTypes)
    if (d == dtype) return spelling;
  return "?";
}

std::vector<SafetensorsEntry> parse_safetensors_header(std::string_view text, std::uint64_t data_bytes,
                                                       std::string_view what, Metadata* metadata) {
  if (!text.starts_with('{'))
    throw UsageError(
        fmt::format("{}: the header starts with '{}', not with '{{': this is no safetensors file", what,
                    printable(text.substr(0, 1))));
  // nlohmann takes a NUL for the end of the text; what follows would pass unseen.
  if (const auto nul = text.find('\0'); nul != std::string_view::npos)
    throw UsageError(fmt::format("{}: the header holds a NUL at byte {}: the file is corrupt; copy it again",
                                 what, nul + 8));
  HeaderReader reader(what, metadata);
  json::sax_parse(text.begin(), text.end(), &reader);
  std::vector<SafetensorsEntry> entries = reader.take();
  for (const SafetensorsEntry& e : entries) check_extent(e, data_bytes, what);
  check_tiling(entries, data_bytes, what);
  return entries;
}

}  // namespace moecheck::harness

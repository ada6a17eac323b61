#include "reference/number_formats.h"

#include <algorithm>
#include <array>
#include <cfloat>
#include <cmath>
#include <cstring>
#include <stdexcept>
#include <string>

#include "reference/number_format_detail.h"

namespace moecheck::reference {
namespace {

using namespace detail;

struct Entry {
  DType dtype;
  std::string_view name;
  int size;
};
constexpr Entry kEntries[] = {
    {DType::kF64, "f64", 8},   {DType::kF32, "f32", 4},       {DType::kBF16, "bf16", 2},
    {DType::kF16, "f16", 2},   {DType::kE4M3FN, "e4m3fn", 1}, {DType::kE4M3FNUZ, "e4m3fnuz", 1},
    {DType::kE5M2, "e5m2", 1}, {DType::kE8M0, "e8m0", 1},     {DType::kI64, "i64", 8},
    {DType::kI32, "i32", 4},   {DType::kU8, "u8", 1},
};

template <Format F>
u64 encode_as(double value, Overflow overflow) {
  const u64 bits = bit_cast<u64>(value);
  const u64 magnitude = bits & ~kSign64;
  const u64 sign = (bits >> 63) << F.sign_bit;
  u64 code;
  if (magnitude > kInf64) {
    code = F.nan_code;
  } else {
    code = nearest_ordinal(F, magnitude);
    if (code > F.max_code) code = overflow == Overflow::kSaturate ? F.max_code : F.inf_code;
  }
  // The one code with a sign and nothing else is NaN in e4m3fnuz: neither -0 nor a negative NaN may end there
  // by accident.
  if constexpr (F.nan_code == u64{1} << F.sign_bit)
    return code == 0 || code == F.nan_code ? code : code | sign;
  return code | sign;
}

template <Format F>
double round_as(double value, Overflow overflow) {
  const u64 bits = bit_cast<u64>(value);
  const u64 magnitude = bits & ~kSign64;
  const u64 sign = bits & kSign64;
  constexpr int drop = 52 - F.mant_bits;
  constexpr u64 max_bits = (F.max_code + rebias(F)) << drop;
  if (magnitude - min_normal_bits(F) <= max_bits - min_normal_bits(F)) [[likely]] {
    const u64 rounded =
        (magnitude + ((u64{1} << (drop - 1)) - 1) + ((magnitude >> drop) & 1)) & ~((u64{1} << drop) - 1);
    return bit_cast<double>(rounded | sign);  // magnitude <= max_bits: it cannot round past it
  }
  if (magnitude > kInf64) return value;
  const u64 ordinal = nearest_ordinal(F, magnitude);
  if (ordinal > F.max_code) {
    if (overflow == Overflow::kSaturate) return bit_cast<double>(max_bits | sign);
    return F.inf_code == F.nan_code ? kNaN : bit_cast<double>(kInf64 | sign);
  }
  const u64 result = bit_cast<u64>(value_of(F, ordinal));
  if constexpr (F.nan_code == u64{1} << F.sign_bit) return bit_cast<double>(result == 0 ? 0 : result | sign);
  return bit_cast<double>(result | sign);
}

template <Format F>
constexpr double decode_as(u64 bits) {
  const u64 code = bits & ((u64{1} << F.sign_bit) - 1);
  const bool negative = (bits >> F.sign_bit) & 1;
  double magnitude = kNaN;
  if constexpr (F.nan_code == u64{1} << F.sign_bit) {
    if (!(code == 0 && negative)) magnitude = value_of(F, code);
  } else if (code <= F.max_code) {
    magnitude = value_of(F, code);
  } else if (code == F.inf_code && F.inf_code != F.nan_code) {
    magnitude = kInf;
  }
  return negative ? -magnitude : magnitude;
}

template <Format F>
constexpr std::array<double, 256> decode_table() {
  std::array<double, 256> table{};
  for (u64 code = 0; code < 256; ++code) table[code] = decode_as<F>(code);
  return table;
}
constexpr auto kTableE4M3FN = decode_table<kFormatE4M3FN>();
constexpr auto kTableE4M3FNUZ = decode_table<kFormatE4M3FNUZ>();
constexpr auto kTableE5M2 = decode_table<kFormatE5M2>();

// A cast of a double past FLT_MAX is Inf here: the implementation follows IEC 559 (asserted below).
static_assert(std::numeric_limits<float>::is_iec559 && std::numeric_limits<double>::is_iec559);
float to_f32(double value, Overflow overflow) {
  const float f = static_cast<float>(value);
  return overflow == Overflow::kSaturate && std::isinf(f) ? std::copysign(FLT_MAX, f) : f;
}

double to_f64(double value, Overflow overflow) {
  return overflow == Overflow::kSaturate && std::isinf(value) ? std::copysign(DBL_MAX, value) : value;
}

template <class T>
T read(const void* data, std::int64_t i) {
  T element;
  std::memcpy(&element, static_cast<const char*>(data) + i * static_cast<std::int64_t>(sizeof(T)), sizeof(T));
  return element;
}

template <class T>
void write(void* data, std::int64_t i, T element) {
  std::memcpy(static_cast<char*>(data) + i * static_cast<std::int64_t>(sizeof(T)), &element, sizeof(T));
}

}  // namespace

std::uint64_t encode(DType dtype, double value, Overflow overflow) {
  switch (dtype) {
    case DType::kF64:
      return bit_cast<u64>(to_f64(value, overflow));
    case DType::kF32:
      return bit_cast<std::uint32_t>(to_f32(value, overflow));
    case DType::kE8M0:
      return encode_e8m0(value, overflow);
    default:
      return with_format("encode", dtype, [&]<Format F>() { return encode_as<F>(value, overflow); });
  }
}

double decode(DType dtype, std::uint64_t bits) {
  switch (dtype) {
    case DType::kF64:
      return bit_cast<double>(bits);
    case DType::kF32:
      return bit_cast<float>(static_cast<std::uint32_t>(bits));
    case DType::kBF16:
      return bit_cast<float>(static_cast<std::uint32_t>(bits) << 16);
    case DType::kE4M3FN:
      return kTableE4M3FN[bits & 0xFF];
    case DType::kE4M3FNUZ:
      return kTableE4M3FNUZ[bits & 0xFF];
    case DType::kE5M2:
      return kTableE5M2[bits & 0xFF];
    case DType::kE8M0:
      return decode_e8m0(bits & 0xFF);
    default:
      return with_format("decode", dtype, [&]<Format F>() { return decode_as<F>(bits); });
  }
}

double round_to(DType dtype, double value, Overflow overflow) {
  switch (dtype) {
    case DType::kF64:
      return to_f64(value, overflow);
    case DType::kF32:
      return to_f32(value, overflow);
    case DType::kE8M0:
      return decode_e8m0(encode_e8m0(value, overflow));
    default:
      return with_format("round_to", dtype, [&]<Format F>() { return round_as<F>(value, overflow); });
  }
}

std::uint8_t encode_e8m0_ceil(double value) {
  if (!(value > 0)) return static_cast<std::uint8_t>(kNaNE8M0);
  const u64 magnitude = bit_cast<u64>(value);
  constexpr u64 offset = 1023 - kBiasE8M0;
  const u64 exponent = (magnitude + ((u64{1} << 52) - 1)) >> 52;  // any bit under the leading one carries
  if (exponent <= offset) return 0;
  return static_cast<std::uint8_t>(std::min(exponent - offset, kMaxE8M0));
}

std::string_view name(DType dtype) {
  for (const Entry& e : kEntries)
    if (e.dtype == dtype) return e.name;
  return "?";
}

bool parse_dtype(std::string_view name, DType& dtype) {
  for (const Entry& e : kEntries)
    if (e.name == name) {
      dtype = e.dtype;
      return true;
    }
  return false;
}

int size_bytes(DType dtype) {
  for (const Entry& e : kEntries)
    if (e.dtype == dtype) return e.size;
  return 0;
}

bool is_float(DType dtype) { return dtype != DType::kI64 && dtype != DType::kI32 && dtype != DType::kU8; }

double load_any(DType dtype, const void* data, std::int64_t i) {
  switch (dtype) {
    case DType::kF64:
      return read<double>(data, i);
    case DType::kF32:
      return read<float>(data, i);
    case DType::kBF16:
    case DType::kF16:
      return decode(dtype, read<std::uint16_t>(data, i));
    case DType::kI64:
    case DType::kI32:
    case DType::kU8:
      return static_cast<double>(load_int(dtype, data, i));
    default:
      return decode(dtype, read<std::uint8_t>(data, i));
  }
}

void store(DType dtype, void* data, std::int64_t i, double value, Overflow overflow) {
  switch (dtype) {
    case DType::kF64:
      return write(data, i, to_f64(value, overflow));
    case DType::kF32:
      return write(data, i, to_f32(value, overflow));
    case DType::kBF16:
    case DType::kF16:
      return write(data, i, static_cast<std::uint16_t>(encode(dtype, value, overflow)));
    case DType::kI64:
    case DType::kI32:
    case DType::kU8:
      unsupported("store", dtype, "a float format: use store_int");
    default:
      return write(data, i, static_cast<std::uint8_t>(encode(dtype, value, overflow)));
  }
}

std::int64_t load_int(DType dtype, const void* data, std::int64_t i) {
  switch (dtype) {
    case DType::kI64:
      return read<std::int64_t>(data, i);
    case DType::kI32:
      return read<std::int32_t>(data, i);
    case DType::kU8:
      return read<std::uint8_t>(data, i);
    default:
      unsupported("load_int", dtype, "an integer type: use load");
  }
}

void store_int(DType dtype, void* data, std::int64_t i, std::int64_t value) {
  const auto check = [&](bool fits) {
    if (!fits)
      throw std::out_of_range("store_int: " + std::to_string(value) + " does not fit " +
                              std::string(name(dtype)));
  };
  switch (dtype) {
    case DType::kI64:
      return write(data, i, value);
    case DType::kI32:
      check(value == static_cast<std::int32_t>(value));
      return write(data, i, static_cast<std::int32_t>(value));
    case DType::kU8:
      check(value == static_cast<std::uint8_t>(value));
      return write(data, i, static_cast<std::uint8_t>(value));
    default:
      unsupported("store_int", dtype, "an integer type: use store");
  }
}

namespace detail {
void unsupported(const char* function, DType dtype, const char* wanted) {
  throw std::invalid_argument(std::string(function) + ": dtype " + std::string(name(dtype)) + " is not " +
                              wanted);
}
}  // namespace detail

}  // namespace moecheck::reference

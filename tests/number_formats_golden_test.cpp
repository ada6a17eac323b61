// Golden vectors of ml_dtypes and numpy: see datasets/golden/README.md.
#include <gtest/gtest.h>

#include <cmath>
#include <cstdlib>
#include <fstream>
#include <map>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "reference/number_formats.h"

namespace moecheck::reference {
namespace {

// Equal, with NaN equal to NaN and -0 different from +0.
bool same(double a, double b) {
  if (std::isnan(a) || std::isnan(b)) return std::isnan(a) && std::isnan(b);
  return a == b && std::signbit(a) == std::signbit(b);
}

// One file of datasets/golden/number_formats.
struct Golden {
  std::map<std::string, std::string> header;
  std::vector<std::pair<std::uint64_t, double>> decode, encode;  // code, value
};

template <class T>
T take(std::istream& in) {
  T value{};
  in.read(reinterpret_cast<char*>(&value), sizeof value);
  return value;
}

Golden read_golden(std::string_view dtype) {
  std::ifstream in(
      std::string(MOECHECK_SOURCE_DIR) + "/datasets/golden/number_formats/" + std::string(dtype) + ".golden",
      std::ios::binary);
  Golden golden;
  std::string line;
  while (std::getline(in, line) && !line.empty()) {
    const auto space = line.find(' ');
    golden.header[line.substr(0, space)] = line.substr(space + 1);
  }
  const bool wide = golden.header["input_bytes"] == "8";
  for (auto n = std::strtoul(golden.header["decode"].c_str(), nullptr, 10); n > 0; --n) {
    const auto code = take<std::uint16_t>(in);
    golden.decode.emplace_back(code, take<float>(in));
  }
  for (auto n = std::strtoul(golden.header["encode"].c_str(), nullptr, 10); n > 0; --n) {
    const double value = wide ? take<double>(in) : static_cast<double>(take<float>(in));
    golden.encode.emplace_back(take<std::uint16_t>(in), value);
  }
  if (!in || in.peek() != std::char_traits<char>::eof())
    throw std::runtime_error("golden file cut off or too long");
  return golden;
}

class GoldenNumberFormats : public ::testing::TestWithParam<DType> {};
INSTANTIATE_TEST_SUITE_P(Golden, GoldenNumberFormats,
                         ::testing::Values(DType::kBF16, DType::kF16, DType::kE4M3FN, DType::kE4M3FNUZ,
                                           DType::kE5M2, DType::kE8M0),
                         [](const auto& test) { return std::string(name(test.param)); });

TEST_P(GoldenNumberFormats, EveryRecordAgrees) {
  const DType dtype = GetParam();
  const Golden golden = read_golden(name(dtype));
  ASSERT_EQ(golden.header.at("dtype"), name(dtype));
  ASSERT_GE(golden.decode.size(), 256u);
  ASSERT_GE(golden.encode.size(), 4000u);
  for (const auto& [code, value] : golden.decode)
    ASSERT_TRUE(same(decode(dtype, code), value)) << name(dtype) << " code " << code << ": " << value;
  int departures = 0;
  for (const auto& [code, value] : golden.encode) {
    // The one known departure: ml_dtypes sends fp32 subnormals over 2^-127 up to 2^-126, however close to 2^-127.
    if (dtype == DType::kE8M0 && value > 0x1p-127 && value < 1.5 * 0x1p-127) {
      ASSERT_EQ(code, 1u) << name(dtype) << " " << std::hexfloat << value;
      ASSERT_EQ(encode(dtype, value), 0u) << name(dtype) << " " << std::hexfloat << value;
      ++departures;
    } else if (std::isnan(decode(dtype, code))) {
      ASSERT_TRUE(std::isnan(decode(dtype, encode(dtype, value))))
          << name(dtype) << " " << std::hexfloat << value;
    } else {
      ASSERT_EQ(encode(dtype, value), code) << name(dtype) << " " << std::hexfloat << value;
    }
  }
  EXPECT_EQ(departures > 0, dtype == DType::kE8M0);
}

}  // namespace
}  // namespace moecheck::reference

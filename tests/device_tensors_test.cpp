// Tensors in device memory, with the host executor as the device.
#include "harness/device_tensors.h"

#include <gtest/gtest.h>

#include <cstring>

#include "optimized/gpu/host/runtime.h"

namespace moecheck::harness {
namespace {

using reference::Shape;

class DeviceTensorsTest : public testing::Test {
 protected:
  DeviceTensorsTest() {
    in_.add(Tensor("x", DType::kF32, Shape(3, 5), 16));
    out_.add(Tensor("y", DType::kBF16, Shape(7)));
    for (int i = 0; i < 15; ++i) in_.at("x").view().set(i, i);
    out_.fill(0xFF);
  }

  gpu::host::Executor executor_;
  gpu::host::HostRuntime runtime_{executor_};
  TensorSet in_, out_;
};

TEST_F(DeviceTensorsTest, HaveTheBytesAndTheAddressesModulo256) {
  DeviceTensors device(runtime_, in_, out_);
  const Tensor& x = device.inputs().at("x");
  EXPECT_NE(x.data(), in_.at("x").data());
  EXPECT_EQ(reinterpret_cast<std::uintptr_t>(x.data()) % 256, 16u);
  EXPECT_EQ(x.shape(), Shape(3, 5));
  EXPECT_EQ(std::memcmp(x.data(), in_.at("x").data(), x.bytes()), 0);
  // A copy of a tensor that lies elsewhere is another view of it.
  EXPECT_EQ(Tensor(x).data(), x.data());
}

TEST_F(DeviceTensorsTest, ResultsComeBackAndOutputsCanBeReset) {
  DeviceTensors device(runtime_, in_, out_);
  View y = device.outputs().view("y");
  for (int i = 0; i < 7; ++i) y.set(i, i);
  device.reset_outputs();
  EXPECT_EQ(device.outputs().at("y").data()[3], std::byte{0xFF});
  for (int i = 0; i < 7; ++i) y.set(i, 10 + i);
  EXPECT_EQ(out_.at("y").data()[3], std::byte{0xFF});
  device.finish();
  EXPECT_EQ(out_.view("y").at(6), 16);
  EXPECT_TRUE(first_broken_guard(out_).empty());
}

TEST_F(DeviceTensorsTest, AWriteBesideAnOutputIsSeenOnTheHost) {
  DeviceTensors device(runtime_, in_, out_);
  device.outputs().at("y").data()[14] = std::byte{1};
  device.finish();
  std::ptrdiff_t where = 0;
  EXPECT_EQ(first_broken_guard(out_, &where), "y");
  EXPECT_EQ(where, 14);
}

TEST_F(DeviceTensorsTest, AChangedInputIsAFailedRun) {
  DeviceTensors device(runtime_, in_, out_);
  const_cast<std::byte*>(device.inputs().at("x").data())[-1] = std::byte{1};
  try {
    device.finish();
    FAIL() << "the write before x was not seen";
  } catch (const RunFailed& e) {
    EXPECT_STREQ(e.what(), "it wrote into its input x, or beside it");
  }
}

TEST(DeviceErrors, AreTheHarnesss) {
  EXPECT_THROW(with_device_errors([] { throw gpu::DeviceError("out of memory"); }), RunFailed);
  try {
    with_device_errors([] { throw gpu::DeviceLost("an illegal address"); });
    FAIL();
  } catch (const ProcessBroken& e) {
    EXPECT_EQ(e.why, "an illegal address");
  }
}

}  // namespace
}  // namespace moecheck::harness

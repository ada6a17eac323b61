#pragma once
// The tile product of a whole wave, from the fragments its lanes brought. Internal to the executor; layouts: gpu/tile.h.
#include <cstdint>

#include "optimized/gpu/host/device.h"

namespace moecheck::gpu::host {

// operands[lane]: the address of the lane's TileOperands.
void tile_product(WaveOp op, int wave, const std::uint64_t* operands);

}  // namespace moecheck::gpu::host

#pragma once
// What every operator of one forward pass read and wrote: a safetensors file that any engine can write.
//
//   ids [T] i32
//   layers.L.input_norm.output  = layers.L.attention.input [T, H]        layers.L.attention.output [T, H]
//   layers.L.mlp.input, layers.L.mlp.output [T, H]                       dense layers
//   layers.L.moe_block.input [T, H], layers.L.router.output [T, E] f32, layers.L.moe_block.output [T, H]
//   norm.input, norm.output [T, H], logits [T, V] f32
//
// Outputs are what the operator adds to the residual stream, before it is added. Activations are F32 or BF16, all alike; what is
// missing is not judged. scripts/dump_hf.py writes such a file of a transformers model.
#include <span>
#include <string>

#include "harness/glm4_moe/checkpoint.h"
#include "harness/glm4_moe/served_moe.h"
#include "harness/tensor_set.h"

namespace moecheck::harness {

// A forward over `ids` by the optimized decoder with these MoE blocks (and fault), as such a file's tensors.
TensorSet dump_forward(const Glm4MoeCheckpoint& checkpoint, DType dtype, const ServedMoeOptions& moe,
                       std::span<const std::int32_t> ids);

}  // namespace moecheck::harness

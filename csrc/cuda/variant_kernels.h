// What the kernels of a variant's single steps are told: one step of one direction, and the arrays of all steps.
#pragma once

#include <cuda_runtime.h>

#include <string>

#include "../variant_params.h"

namespace gru_fused::cuda {

struct VariantStep {
  Shape shape;  // its arrays are of the device
  Variant variant;
  VariantArguments arguments;
  int direction = 0;
  int64_t step = 0;
};

struct VariantStepForward : VariantStep {
  Rows<const void> inputs;    // [T, B, 3H]: gi without b_ih
  Rows<const void> products;  // [B, 3H]: hd W_hh^T, without b_hh; n's of reset_before is that of r hd
  const void *b_ih, *b_hh;    // [3H] or null
  Rows<const void> hx;
  void* state;    // [B, H] in float32 (float64 for float64): h0 of this step, and then of the next
  void* operand;  // [B, H] in the arrays' dtype: hd, what the next product is made of
  Rows<void> output, gates, normal, scale;  // of all steps; the last three may be null
};

enum class ForwardPhase {
  begin,   // h0 and hd of the first step, from hx
  reset,   // of reset_before, when the products of r and z are known: r hd
  finish,  // when all products are known: the step; h0 and hd of the next
};

// `step` is the one that is computed. First the product of the step after it is taken up; where there is none before it
// (step -1), what is left is dL/dhx.
struct VariantStepBackward : VariantStep {
  Rows<const void> grad_output;  // [T, B, H] or null
  Rows<const void> products;     // [B, H]: dL/dhd of the step after
  Rows<const void> candidate;    // [B, H], of reset_before: dL/d(r hd) of this step
  Rows<const void> hx, output, gates, normal, scale;
  void* state;             // [B, H] in float32 (float64 for float64): dL/dh
  void* grad_reset_state;  // the same, or null: a sum
  Rows<void> grads;        // [T, B, 4H] as in GateGrads
  Rows<void> grad_update;  // [T, B, H] or null
  // With a norm:
  Rows<void> grad_products;  // [T, B, 3H]: gradients of what was normalised
  Rows<void> grad_gain;      // [T, B, 3H] or null: what the gradient of the gain is a sum of
  Rows<void> grad_inputs;    // [T, B, 3H] or null: of gi, which is not normalised
};

enum class BackwardPhase {
  step,   // the gates' gradients
  reset,  // of reset_before, when the product of n's gradient is known: r's, and what goes through r hd
};

// The numbers that the products over all steps are made with; all of a row that is not alive is zero.
struct VariantOperands {
  Shape shape;
  Variant variant;
  VariantArguments arguments;
  int direction;
  Rows<const void> hx, output, gates;
  void* hd;        // [T, B, H], dense
  void* reset_hd;  // [T, B, H], dense, or null: r hd
};

struct AliveRows {
  Shape shape;
  Variant variant;
  Rows<const void> rows;  // [T, B, columns]
  int64_t columns;
  void* copy;  // dense; zero where a row is not alive
};

// All return an empty text, or what went wrong.
std::string run_variant_step(ForwardPhase phase, const VariantStepForward& step, cudaStream_t stream);
std::string run_variant_step(BackwardPhase phase, const VariantStepBackward& step, cudaStream_t stream);
std::string run_variant_norm(const VariantStepForward& step, cudaStream_t stream);   // finish, with a norm
std::string run_variant_norm(const VariantStepBackward& step, cudaStream_t stream);  // step, with a norm
std::string run_variant_operands(const VariantOperands& call, cudaStream_t stream);
std::string run_alive_rows(const AliveRows& call, cudaStream_t stream);

}  // namespace gru_fused::cuda

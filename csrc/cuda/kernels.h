// The kernels of every form of arithmetic, and how they are launched.
#pragma once

#include <cuda_runtime.h>

#include <array>
#include <string>

#include "loop.h"

namespace gru_fused::cuda {

template <class Forward, class Backward>
struct KernelsOf {  // by Exchange
  void (*forward[4])(Forward);
  void (*backward[4])(Backward);
};

using LoopKernels = KernelsOf<ForwardLoop, BackwardLoop>;
using VariantLoopKernels = KernelsOf<VariantForwardLoop, VariantBackwardLoop>;

const LoopKernels& loops_f32();
const LoopKernels& loops_f64();
const LoopKernels& loops_tf32();
const LoopKernels& loops_bf16();
const LoopKernels& loops_f16();

struct RowKernels {
  template <class Loop>
  using OfSizes = std::array<void (*)(Loop), kMaxRowUnits / kRowUnits>;  // by units / kRowUnits - 1
  std::array<OfSizes<ForwardLoop>, 2> forward;                           // of a packed batch the second
  std::array<OfSizes<BackwardLoop>, 2> backward;
};

const RowKernels& rows_f32();
const RowKernels& rows_bf16();
const RowKernels& rows_f16();

const VariantLoopKernels& variant_loops_f32();
const VariantLoopKernels& variant_loops_f64();
const VariantLoopKernels& variant_loops_tf32();
const VariantLoopKernels& variant_loops_bf16();
const VariantLoopKernels& variant_loops_f16();

// One step of one direction on its own, or any rows whose products with W_hh are known: gates and states of `rows`
// rows, row by row in every array.
struct StepForward {
  DType dtype;
  int64_t rows, hidden;
  Rows<const void> inputs, products;  // x W_ih^T and h W_hh^T, [rows, 3H], without biases
  const void *b_ih, *b_hh;            // or null
  Rows<const void> previous;          // [rows, H]: the states before, used where `state` is null
  void* state;                        // [rows, H] in float32 (float64 for float64): before, and then after; or null
  Rows<void> operand;                 // [rows, H] or null: the states after, in the arrays' dtype
  Rows<void> output;                  // the same
  Rows<void> gates;                   // [rows, 4H] or null
};

struct StepBackward {
  DType dtype;
  int64_t rows, hidden;
  int64_t alive;                 // rows that have this step; of the others only dL/dh is brought up to date
  int64_t multiplied;            // rows that have the step after, and products
  Rows<const void> grad_output;  // [rows, H] or null
  Rows<const void> products;     // [rows, H]: what comes through W_hh from the step after
  Rows<const void> previous;     // [rows, H]: the states before
  Rows<const void> gates;        // [rows, 4H]
  void* state;                   // [rows, H] as above: the rest of dL/dh, of the step after and then of this one
  Rows<void> grads;              // [rows, 4H] as in GateGrads
};

// The backward of a layer of one step: without products the gates' gradients, with them dL/dhx. A call of one step
// waits for the host, so that its gradients lie as the fewest products want them, r's and z's twice.
struct SingleBackward {
  DType dtype;
  int64_t rows, hidden;
  Rows<const void> grad_output, grad_h_n;  // [rows, H] or null: zero
  Rows<const void> hx;                     // [rows, H]
  Rows<const void> gates;                  // [rows, 4H]
  Rows<void> grads;                        // [rows, 6H]: a_r, a_z, a_n; a_r, a_z, a_nr
  Rows<const void> products;               // [rows, H]: the last three with W_hh; or null
  Rows<void> grad_hx;                      // [rows, H]
};

// All other gradients of a layer of one step, once those of its gates are known.
struct SingleGradients {
  BackwardParams params;      // its arrays are of the device, with the gates
  Rows<const void> grads[2];  // of each direction, as SingleBackward leaves them
};

// The sweeps of the second order have steps only. "_t" is the tangent of what stands before it.
struct StepTangent {
  DType dtype;
  int64_t rows, hidden;
  Rows<const void> given_t;   // [rows, 4H], see TangentDirection
  Rows<const void> products;  // [rows, 3H]: h_t W_hh^T
  Rows<const void> gates;     // [rows, 4H]
  Rows<const void> previous;  // [rows, H]: the states before
  void* state;                // [rows, H] in float32 (float64 for float64): h_t before, and then after
  Rows<void> operand;         // [rows, H] or null: h_t after, in the arrays' dtype
  Rows<void> output_t;        // [rows, H]
  Rows<void> gates_t;         // [rows, 4H]
};

// Of each pair the first is a value and the second its tangent; of the products the third is a part of the tangent.
struct StepTangentBackward {
  DType dtype;
  int64_t rows, hidden, alive, multiplied;  // as in StepBackward
  Rows<const void> grad_output[2];          // [rows, H] or null
  Rows<const void> products[3];             // [rows, H]: d_gh W_hh, d_gh_t W_hh, and d_gh W_hh_t or null
  Rows<const void> previous[2];             // [rows, H]
  Rows<const void> gates[2];                // [rows, 4H]
  void* state[2];                           // [rows, H] as above: dL/dh
  Rows<void> grads[2];                      // [rows, 4H] as in GateGrads
};

// The states before every step of one direction, side by side: [T, B, H], or packed rows.
struct PreviousStates {
  Shape shape;  // its batch_sizes and offsets are of the device
  int direction;
  Rows<const void> hx, output;
  void* previous;  // dense
};

// Of one direction, from its gates' gradients: b_ih's is the sums of the last 3H columns, b_hh's those of the first 3H,
// whose first H are the last of b_hh. Or, of one step, those of the first and of the last 3H.
struct BiasGradients {
  DType dtype;
  int64_t rows, hidden;
  Rows<const void> grads;  // [rows, 4H] as in GateGrads, or [rows, 6H] as in SingleBackward
  bool single;             // the latter
  void *b_ih, *b_hh;       // [3H]
  void* parts;             // [bias_gradient_parts(rows), columns()] in float32 (float64), or null if that is one

  GRU_FUSED_HD int64_t columns() const { return (single ? 6 : 4) * hidden; }
};

int64_t bias_gradient_parts(int64_t rows);

// All return an empty text, or what went wrong: the kernel, the shape and CUDA's words.
std::string run_step(const StepForward& step, cudaStream_t stream);
std::string run_step(const StepBackward& step, cudaStream_t stream);
std::string run_step(const StepTangent& step, cudaStream_t stream);
std::string run_step(const StepTangentBackward& step, cudaStream_t stream);
std::string run_single(const SingleBackward& call, cudaStream_t stream);
std::string run_single(const SingleGradients& call, cudaStream_t stream);
std::string run_single(const ForwardParams& call, cudaStream_t stream);  // its x, hx and weights are of the device
std::string run_previous(const PreviousStates& call, cudaStream_t stream);
std::string run_bias_gradients(const BiasGradients& call, cudaStream_t stream);

std::string current_device(Device& device);
// The plan, if what it asks for can be resident on this device now; or the next best plan that can.
std::string resident_plan(const Device& device, const Problem& problem, const Allowed& allowed, Plan& plan);
int64_t workspace_bytes(const Plan& plan);
// The loop's cut, teams and exchange memory are filled in from the plan and the workspace.
std::string run_loop(const Plan& plan, ForwardLoop loop, void* workspace, cudaStream_t stream);
std::string run_loop(const Plan& plan, BackwardLoop loop, void* workspace, cudaStream_t stream);
std::string run_loop(const Plan& plan, VariantForwardLoop loop, void* workspace, cudaStream_t stream);
std::string run_loop(const Plan& plan, VariantBackwardLoop loop, void* workspace, cudaStream_t stream);

}  // namespace gru_fused::cuda

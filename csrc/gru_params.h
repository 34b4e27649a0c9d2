// What a kernel is told: shapes, pointers and strides by value, no tensor.
//
// T steps, B batch rows, I inputs, H hidden units, D directions (1 or 2). Strides count elements; the last axis of
// every array is contiguous. No output overlaps an input or another output, but where it is said.
#pragma once

#include <cstdint>

#include "gru_cell.h"

namespace gru_fused {

enum class DType { f32, f64, bf16, f16 };

GRU_FUSED_HD int64_t size_of(DType dtype) {
  switch (dtype) {
    case DType::f64:
      return 8;
    case DType::f32:
      return 4;
    case DType::bf16:
    case DType::f16:
      return 2;
  }
  return 0;
}

// The rows of one array: element (t, b, i) lies at data[step_offset(t) + b * row + i].
template <class Void>  // void or const void
struct Rows {
  Void* data = nullptr;
  int64_t step = 0;
  int64_t row = 0;
};

struct Shape {
  DType dtype = DType::f32;
  int64_t steps = 0, batch = 0, inputs = 0, hidden = 0;
  int directions = 1;
  bool reversed = false;  // the only direction goes backwards in time
  // Packed batches: how many rows are alive at each step (not increasing) and where its rows begin, in rows.
  // Both [T], or both null; then `step` of every Rows is not used.
  const int64_t* batch_sizes = nullptr;
  const int64_t* offsets = nullptr;

  GRU_FUSED_HD int64_t rows_at(int64_t t) const { return batch_sizes ? batch_sizes[t] : batch; }

  // How many of the batch rows [first, last) are alive at step t.
  GRU_FUSED_HD int64_t rows_between(int64_t t, int64_t first, int64_t last) const {
    const int64_t end = rows_at(t) < last ? rows_at(t) : last;
    return end > first ? end - first : 0;
  }

  GRU_FUSED_HD bool backwards(int direction) const { return reversed || direction == 1; }

  // The s-th step that a direction takes.
  GRU_FUSED_HD int64_t time_of(int64_t s, int direction) const { return backwards(direction) ? steps - 1 - s : s; }

  template <class Void>
  GRU_FUSED_HD int64_t step_offset(const Rows<Void>& rows, int64_t t) const {
    return batch_sizes ? offsets[t] * rows.row : t * rows.step;
  }
};

// What one direction of a layer is computed from.
struct DirectionArguments {
  Rows<const void> x;          // [T, B, I]
  Rows<const void> hx;         // [B, H]
  Rows<const void> w_ih;       // [3H, I]
  Rows<const void> w_hh;       // [3H, H]
  const void* b_ih = nullptr;  // [3H] or null
  const void* b_hh = nullptr;  // [3H] or null
};

struct ForwardDirection : DirectionArguments {
  Rows<void> output;  // [T, B, H]
  Rows<void> h_n;     // [B, H]
  Rows<void> gates;   // [T, B, 4H] as in gru_cell.h, or null: nothing is saved for a backward
};

struct ForwardParams {
  Shape shape;
  ForwardDirection direction[2];
};

struct BackwardDirection : DirectionArguments {
  Rows<const void> grad_output;  // [T, B, H] or null: zero
  Rows<const void> grad_h_n;     // [B, H] or null: zero
  Rows<const void> output;       // [T, B, H]
  Rows<const void> gates;        // [T, B, 4H], or null (in both directions): recomputed
  Rows<void> grad_x;             // [T, B, I] or null: not wanted
  Rows<void> grad_hx;            // [B, H]
  void* grad_w_ih = nullptr;     // [3H, I], dense, or null: no gradient of a weight is wanted
  void* grad_w_hh = nullptr;     // [3H, H], dense, null if and only if grad_w_ih is
  void* grad_b_ih = nullptr;     // [3H] or null
  void* grad_b_hh = nullptr;     // [3H], null if and only if grad_b_ih is
};

struct BackwardParams {
  Shape shape;
  BackwardDirection direction[2];

  bool recompute() const { return !direction[0].gates.data; }
};

// The sweeps of the second order. Products without a recurrence are made by the caller, so that `shape.inputs` is 0
// and of the DirectionArguments there are only hx and w_hh. "_t" is the tangent of what stands before it.
struct TangentDirection : DirectionArguments {
  Rows<const void> output;   // [T, B, H]
  Rows<const void> gates;    // [T, B, 4H]
  Rows<const void> given_t;  // [T, B, 4H]: of gi_r + gh_r, gi_z + gh_z, gi_n, gh_n, without h_t W_hh^T
  Rows<const void> hx_t;     // [B, H]
  Rows<void> output_t;       // [T, B, H]
  Rows<void> h_n_t;          // [B, H]
  Rows<void> gates_t;        // [T, B, 4H]
};

struct TangentParams {
  Shape shape;
  TangentDirection direction[2];
};

struct TangentBackwardDirection : DirectionArguments {
  Rows<const void> grad_output, grad_output_t;  // [T, B, H] or null: zero
  Rows<const void> grad_h_n, grad_h_n_t;        // [B, H] or null: zero
  Rows<const void> hx_t;                        // [B, H]
  Rows<const void> w_hh_t;                      // [3H, H] or null: zero
  Rows<const void> output, output_t;            // [T, B, H]
  Rows<const void> gates, gates_t;              // [T, B, 4H]
  Rows<void> gate_grads, gate_grads_t;          // [T, B, 4H], the rows of gru_cell.h's GateGrads
  Rows<void> grad_hx, grad_hx_t;                // [B, H]
};

struct TangentBackwardParams {
  Shape shape;
  TangentBackwardDirection direction[2];
};

}  // namespace gru_fused

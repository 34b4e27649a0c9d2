// What the kernels of the cell's variants (variant_cell.h) are told beside the plain parameters.
//
// A row is alive at a step before its length; after it, it keeps its state, its output is zero and nothing of it gets a
// gradient. What stands in arrays where a row is not alive, NaN even, never counts.
#pragma once

#include "gru_params.h"
#include "variant_cell.h"

namespace gru_fused {

struct Variant {
  Cell cell;
  const int64_t* lengths = nullptr;  // [B], or null: all rows are as long as the batch
  Rows<const void> reset;            // [T, B] of one byte, or null: an episode begins with the step

  GRU_FUSED_HD bool alive(const Shape& shape, int64_t t, int64_t row) const {
    return row < shape.rows_at(t) && (!lengths || t < lengths[row]);
  }

  // Whether the s-th step of a direction does not begin with the state after the step before it. A direction that
  // goes backwards in time comes to an episode's last step from the first of the next.
  GRU_FUSED_HD bool resets(const Shape& shape, int64_t s, int direction, int64_t row) const {
    if (!reset.data) return false;
    const int64_t first = shape.time_of(s, direction) + (shape.backwards(direction) ? 1 : 0);
    if (first >= shape.steps || !alive(shape, first, row)) return false;
    return static_cast<const bool*>(reset.data)[shape.step_offset(reset, first) + row * reset.row];
  }

  // Whether the state before the s-th step of a direction, which the row is alive at, is the one after the step
  // before it (else it is hx), where the step does not reset.
  GRU_FUSED_HD bool continues(const Shape& shape, int64_t s, int direction, int64_t row) const {
    return s > 0 && alive(shape, shape.time_of(s - 1, direction), row);
  }
};

// Of one direction.
struct VariantArguments {
  Rows<const void> update;  // [T, B, H], or [T, B, 1] if not `update_per_unit`; or null: 1
  bool update_per_unit = false;
  Rows<const void> dropout;      // [B, H] or null: 1
  Rows<const void> reset_state;  // [B, H] or null: zero
  const void* gain = nullptr;    // [3H], of the norm
};

// With a norm, x is gi, [T, B, 3H], which the caller makes; w_ih and b_ih are null, b_hh is not.
struct VariantForwardDirection : ForwardDirection, VariantArguments {
  Rows<void> normal;  // [T, B, 3H]: (y - mean) / sqrt(variance + epsilon); null if and only if gates is, or no norm
  Rows<void> scale;   // [T, B, 1] of float (double for float64): 1 / sqrt(variance + epsilon)
};

struct VariantBackwardDirection : BackwardDirection, VariantArguments {  // gates are never null
  Rows<const void> normal, scale;
  Rows<void> grad_update;       // [T, B, H], or null
  Rows<void> grad_reset_state;  // [B, H], or null
  void* grad_gain = nullptr;    // [3H], null if and only if grad_w_hh is, or no norm
};

template <class Direction>
struct VariantParams {
  Shape shape;
  Variant variant;
  Direction direction[2];
};

using VariantForwardParams = VariantParams<VariantForwardDirection>;
using VariantBackwardParams = VariantParams<VariantBackwardDirection>;

}  // namespace gru_fused

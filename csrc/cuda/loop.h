// What the kernels that walk through time are told, by value; pointers are of the device. Layouts as in gru_params.h.
#pragma once

#include <type_traits>

#include "../variant_params.h"
#include "plan.h"

namespace gru_fused::cuda {

struct ForwardLoopDirection {
  Rows<const void> inputs;    // [T, B, 3H]: x W_ih^T, without the bias
  Rows<const void> hx, w_hh;  // [B, H], [3H, H]
  const void *b_ih, *b_hh;    // [3H] or null
  Rows<void> output, h_n;     // [T, B, H], [B, H]
  Rows<void> gates;           // [T, B, 4H] or null; `inputs` may stand where its first 3H numbers go
};

struct BackwardLoopDirection {
  Rows<const void> grad_output, grad_h_n;  // [T, B, H], [B, H]; or null: zero
  Rows<const void> hx, w_hh;
  Rows<const void> output, gates;
  Rows<void> grads;    // [T, B, 4H], the order of GateGrads: a_nr, a_r, a_z, a_n
  Rows<void> grad_hx;  // [B, H]
};

// Of the cell's variants: options within the same loop.
struct VariantForwardLoopDirection : ForwardLoopDirection, VariantArguments {};

struct VariantBackwardLoopDirection : BackwardLoopDirection, VariantArguments {
  Rows<void> grad_update;       // [T, B, H] or null
  Rows<void> grad_reset_state;  // [B, H] or null
};

template <class Direction>
struct Loop {
  static constexpr bool kVariant = std::is_base_of_v<VariantArguments, Direction>;

  Shape shape;
  Cut cut;
  int row_teams, first_team;  // of a direction; of this launch
  Direction direction[2];
  void* exchange;  // memory of the grid's exchanges, zero: exchange_bytes of it for each team
};

using ForwardLoop = Loop<ForwardLoopDirection>;
using BackwardLoop = Loop<BackwardLoopDirection>;

template <class Direction>
struct VariantLoop : Loop<Direction> {
  Variant variant;
};

using VariantForwardLoop = VariantLoop<VariantForwardLoopDirection>;
using VariantBackwardLoop = VariantLoop<VariantBackwardLoopDirection>;

// From a step's row to the next one's, which a row's loop multiplies as a number of 32 bits.
template <class Void>
GRU_FUSED_HD int64_t row_step_bytes(const Shape& shape, const Rows<Void>& rows, int64_t size) {
  return (shape.batch_sizes ? rows.row : rows.step) * size;
}

// Two operands of a team, and a counter.
GRU_FUSED_HD int64_t exchange_bytes(Exchange exchange, int64_t rows, int64_t operand_words) {
  switch (exchange) {
    case Exchange::packets:
      return 2 * rows * operand_words * 8;
    case Exchange::flags:
      return 2 * rows * operand_words * 4 + 64;
    default:
      return 0;
  }
}

}  // namespace gru_fused::cuda

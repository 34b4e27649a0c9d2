// Tangent of the backward of one share: two gradients flow back through the steps, D as in the backward, and its
// tangent D_t. By the symmetry of second derivatives D_t is also what flows back through the tangent (gru_cell.h).
//
//   step by step   (d_gates, d_gates_t) = cell_backward of the duals (D, D_t), (gates, gates_t), (h, h_t)
//                  D   <- z D                + d_gh   W_hh
//                  D_t <- its dual part      + d_gh_t W_hh + d_gh W_hh_t
//
// The gate gradients of all steps are the result: the caller makes the gradients of x and of the weights from them
// with products over all steps at once. Cost per step and row: 18 H^2 operations, 22 H numbers in and out.
#pragma once

#include "gradients.h"
#include "tangent.h"

namespace gru_fused {
namespace {

// Where the parts of the scratch memory begin, in elements of the accumulating type.
struct TangentBackwardScratch {
  int64_t padded, state_row, weight, direction, grad_h, grads, piece, total;

  TangentBackwardScratch(const Shape& shape, const cpu::Plan& plan, int64_t lanes) {
    constexpr int64_t line = 64 / sizeof(float);
    padded = round_up(shape.hidden, lanes);
    state_row = round_up(shape.hidden, 3 * lanes);
    weight = round_up(3 * shape.hidden * state_row, line);
    direction = 2 * weight;  // W_hh and its tangent
    grad_h = round_up(plan.tile_rows * state_row, line);
    grads = round_up(plan.tile_rows * 4 * padded, line);
    piece = 2 * (grad_h + grads);
    total = shape.directions * direction + plan.pieces(shape) * piece;
  }
};

template <class S>
struct TangentBackward {
  using T = Accumulate<S>;
  static constexpr int lanes = Simd<T>::lanes;

  const TangentBackwardParams& params;
  const cpu::Plan plan;
  const TangentBackwardScratch layout;
  T* const scratch;

  // One of the two gradients that flow: of a tile's states, and of its gates at one step.
  struct Flow {
    Blocks<T> grad_h, grads;
  };
  Flow flow(int64_t i, int64_t which) const {
    T* const at = scratch + params.shape.directions * layout.direction + i * layout.piece +
                  which * (layout.grad_h + layout.grads);
    return {{at, plan.tile_rows}, {at + layout.grad_h, plan.tile_rows}};
  }

  int64_t panels() const { return layout.state_row / kWidth<T>; }
  T* weight_of(int64_t direction, int64_t which) const {
    return scratch + direction * layout.direction + which * layout.weight;
  }

  // Panel i % panels of weight i / panels: W_hh and its tangent of each direction.
  void pack(int64_t i) const {
    const int64_t weight = i / panels(), p = i % panels(), rows = 3 * params.shape.hidden;
    const TangentBackwardDirection& io = params.direction[weight / 2];
    const Rows<const void>& from = weight % 2 ? io.w_hh_t : io.w_hh;
    if (from.data)
      pack_columns(static_cast<const S*>(from.data), from.row, rows, params.shape.hidden, p,
                   weight_of(weight / 2, weight % 2) + p * rows * kWidth<T>);
  }

  void piece(int64_t i) const {
    const int64_t first = i % plan.shares * plan.share_rows;
    const int64_t last = first + plan.share_rows < params.shape.batch ? first + plan.share_rows : params.shape.batch;
    for (int64_t row = first; row < last; row += plan.tile_rows)
      tile(i, row, row + plan.tile_rows < last ? row + plan.tile_rows : last);
  }

  // Rows [first, last) of the batch.
  void tile(int64_t i, int64_t first, int64_t last) const {
    const Shape& shape = params.shape;
    const int direction = int(i / plan.shares);
    const TangentBackwardDirection& io = params.direction[direction];
    const Flow d = flow(i, 0), d_t = flow(i, 1);
    begin(io.grad_h_n, d, first, last);
    begin(io.grad_h_n_t, d_t, first, last);
    for (int64_t s = shape.steps - 1; s >= 0; --s) {
      const int64_t rows = shape.rows_between(shape.time_of(s, direction), first, last);
      for (int64_t row = 0; row < rows; ++row) step(direction, s, first + row, row, d, d_t);
      if (rows == 0) continue;
      multiply(d, rows, weight_of(direction, 0), d);
      multiply(d_t, rows, weight_of(direction, 0), d_t);
      if (io.w_hh_t.data) multiply(d, rows, weight_of(direction, 1), d_t);
    }
    end(io.grad_hx, d, first, last);
    end(io.grad_hx_t, d_t, first, last);
  }

  void begin(const Rows<const void>& grad_h_n, const Flow& flow, int64_t first, int64_t last) const {
    const S* const from = static_cast<const S*>(grad_h_n.data);
    for (int64_t row = first; row < last; ++row)
      for (int64_t unit = 0; unit < params.shape.hidden; unit += lanes) {
        const int count = valid_lanes<T>(unit, params.shape.hidden);
        store(flow.grad_h.at(row - first, unit), from ? load(from + row * grad_h_n.row + unit, count) : Vec<T>{});
      }
  }

  void end(const Rows<void>& grad_hx, const Flow& flow, int64_t first, int64_t last) const {
    S* const to = static_cast<S*>(grad_hx.data);
    for (int64_t row = first; row < last; ++row)
      for (int64_t unit = 0; unit < params.shape.hidden; unit += lanes)
        store(to + row * grad_hx.row + unit, load(flow.grad_h.at(row - first, unit)),
              valid_lanes<T>(unit, params.shape.hidden));
  }

  // to.grad_h += d_gh W_hh, the product of the gate gradients of `from`.
  void multiply(const Flow& from, int64_t rows, const T* weight, const Flow& to) const {
    const GateBlocks<T> blocks{from.grads, params.shape.hidden, layout.padded, {2, 0, 1}};
    multiply_panels(blocks, rows, weight, params.shape.hidden, {0, panels()}, to.grad_h, true);
  }

  // Element by element for one row, which counts in the batch, at the s-th step of the forward.
  void step(int direction, int64_t s, int64_t row, int64_t tile_row, const Flow& d, const Flow& d_t) const {
    const Shape& shape = params.shape;
    const TangentBackwardDirection& io = params.direction[direction];
    const int64_t hidden = shape.hidden;
    const auto at = [&](const auto& rows) { return row_of<S>(shape, rows, shape.time_of(s, direction), row); };
    const S* const h = state_before<S>(shape, io.output, io.hx, direction, s, row);
    const S* const h_t = state_before<S>(shape, io.output_t, io.hx_t, direction, s, row);
    const S* const gates = at(io.gates);
    const S* const gates_t = at(io.gates_t);
    S* const grads = at(io.gate_grads);
    S* const grads_t = at(io.gate_grads_t);
    for (int64_t unit = 0; unit < hidden; unit += lanes) {
      const int count = valid_lanes<T>(unit, hidden);
      const auto gate = [&](int64_t g) -> Dual<Vec<T>> {
        return {load(gates + g * hidden + unit, count), load(gates_t + g * hidden + unit, count)};
      };
      Dual<Vec<T>> grad{load(d.grad_h.at(tile_row, unit)), load(d_t.grad_h.at(tile_row, unit))};
      if (io.grad_output.data) grad.value += load(at(io.grad_output) + unit, count);
      if (io.grad_output_t.data) grad.tangent += load(at(io.grad_output_t) + unit, count);
      const GateGrads<Dual<Vec<T>>> back = cell_backward<DualMath<VectorMath<T>>>(
          grad, {gate(0), gate(1), gate(2), gate(3)}, {load(h + unit, count), load(h_t + unit, count)});
      const Dual<Vec<T>> of_gates[4] = {back.nr, back.r, back.z, back.n};
      for (int64_t g = 0; g < 4; ++g) {
        store(d.grads.at(tile_row, g * layout.padded + unit), of_gates[g].value);
        store(d_t.grads.at(tile_row, g * layout.padded + unit), of_gates[g].tangent);
        store(grads + g * hidden + unit, of_gates[g].value, count);
        store(grads_t + g * hidden + unit, of_gates[g].tangent, count);
      }
      store(d.grad_h.at(tile_row, unit), back.h.value);
      store(d_t.grad_h.at(tile_row, unit), back.h.tangent);
    }
  }
};

template <class S>
void run_tangent_backward(const TangentBackwardParams& params, void* scratch, const cpu::Parallel& parallel) {
  const cpu::Plan plan = sweep_plan(params.shape, parallel.threads);
  const TangentBackwardScratch layout(params.shape, plan, Simd<Accumulate<S>>::lanes);
  const TangentBackward<S> sweep{params, plan, layout, static_cast<Accumulate<S>*>(scratch)};
  const auto pack = [](const void* self, int64_t i) { static_cast<const TangentBackward<S>*>(self)->pack(i); };
  const auto piece = [](const void* self, int64_t i) { static_cast<const TangentBackward<S>*>(self)->piece(i); };
  const bool parallel_now = side_by_side(plan);
  run_all(parallel_now, parallel, params.shape.directions * 2 * sweep.panels(), pack, &sweep);
  run_all(parallel_now, parallel, plan.pieces(params.shape), piece, &sweep);
}

}  // namespace
}  // namespace gru_fused

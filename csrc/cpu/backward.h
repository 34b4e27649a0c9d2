// Backward recurrence of one tile of batch rows through all time steps, from the saved gates.
//
// Per step: the gradients of the gates, element by element, and their product with W_hh, which is the gradient that
// flows to the state before. The weight gradients are one large product outside (dW_hh = d_gh^T h_prev).
// Cost per step and row: 6 H^2 operations, 12 H^2 / rows bytes of weights (float), 6H numbers in and 5H out.
#pragma once

#include "../gru_cell.h"
#include "kernels.h"
#include "panels.h"
#include "plan.h"
#include "simd_math.h"

namespace gru_fused {
namespace {

template <class T>
struct BackwardTile {
  static constexpr int lanes = Simd<T>::lanes;

  int64_t depth;     // 3 * padded: the gate gradients r, z, nr of a row, each block padded with zeros
  int64_t row_size;  // of grad_h: H rounded up to full panels
  int64_t panel_size;
  const T* panels;
  const T* grad_gh;  // [rows][depth]
  T* grad_h;         // [rows][row_size]

  template <int M, int P>
  inline __attribute__((always_inline)) void run(int64_t row, int64_t panel) const {
    Vec<T> acc[P][M][3] = {};
    multiply<T, M, P>(acc, grad_gh + row * depth, depth, panels + panel * panel_size, panel_size, depth);
    for (int p = 0; p < P; ++p)
      for (int m = 0; m < M; ++m)
        for (int g = 0; g < 3; ++g) {
          T* const to = at(row + m, panel + p, g);
          store(to, load(to) + acc[p][m][g]);
        }
  }

  inline T* at(int64_t row, int64_t panel, int g) const { return grad_h + row * row_size + (panel * 3 + g) * lanes; }
};

struct BackwardScratch {
  int64_t padded, depth, row_size, panel_size, panels, weights, bias_sums, piece, total;

  BackwardScratch(const Shape& shape, const cpu::Plan& plan, int64_t lanes) {
    constexpr int64_t line = 64 / sizeof(float);
    padded = round_up(shape.hidden, lanes);
    depth = 3 * padded;
    row_size = round_up(shape.hidden, 3 * lanes);
    panel_size = depth * 3 * lanes;
    panels = shape.single_product() ? 0 : row_size / (3 * lanes);
    weights = round_up(panels * panel_size, line);  // of one direction
    bias_sums = 4 * padded;                         // nr, r, z, n as in a row of the gates' gradients
    piece = round_up(plan.tile_rows * (depth + row_size) + 3 * bias_sums, line);
    total = shape.directions * weights + plan.pieces(shape) * piece;
  }
};

// Rows whose gate gradients are added plainly before the sum goes to the total.
constexpr int64_t kBiasBlock = 16;

template <class S>
struct Backward {
  using T = Accumulate<S>;
  static constexpr int lanes = Simd<T>::lanes;

  const BackwardParams& params;
  const cpu::Plan plan;
  const BackwardScratch layout;
  T* const scratch;

  T* weights_of(int direction) const { return scratch + direction * layout.weights; }
  T* piece_of(int64_t i) const { return scratch + params.shape.directions * layout.weights + i * layout.piece; }

  void pack(int64_t i) const {
    const int direction = int(i / layout.panels);
    const int64_t p = i % layout.panels;
    const BackwardDirection& io = params.direction[direction];
    pack_columns(static_cast<const S*>(io.w_hh.data), io.w_hh.row, params.shape.hidden, layout.padded, p,
                 weights_of(direction) + p * layout.panel_size);
  }

  // A piece's scratch: gradients of states, of gates, and the sums of the latter: over all its
  // rows, what rounding left out of these, and over a block.
  T* grad_gh_of(int64_t i) const { return piece_of(i) + plan.tile_rows * layout.row_size; }
  T* bias_sums_of(int64_t i) const { return grad_gh_of(i) + plan.tile_rows * layout.depth; }

  // Element by element for one row at step t. `before` is the row of the state before the step.
  void gate_grads(const BackwardDirection& io, int64_t t, int64_t row, const S* before, T* grad_h, T* grad_gh,
                  T* block_sums) const {
    const Shape& shape = params.shape;
    const int64_t hidden = shape.hidden, padded = layout.padded;
    const auto row_of = [&](const auto& rows) { return shape.step_offset(rows, t) + row * rows.row; };
    const S* grad_output =
        io.grad_output.data ? static_cast<const S*>(io.grad_output.data) + row_of(io.grad_output) : nullptr;
    const S* saved = static_cast<const S*>(io.gates.data) + row_of(io.gates);
    S* grad_gates = static_cast<S*>(io.grad_gates.data) + row_of(io.grad_gates);
    S* h_prev = io.h_prev.data ? static_cast<S*>(io.h_prev.data) + row_of(io.h_prev) : nullptr;
    for (int64_t unit = 0; unit < hidden; unit += lanes) {
      const int count = valid_lanes<T>(unit, hidden);
      Vec<T> d = load(grad_h + unit);
      if (grad_output) d += load(grad_output + unit, count);
      const Vec<T> h = load(before + unit, count);
      const Gates<Vec<T>> gates{load(saved + unit, count), load(saved + hidden + unit, count),
                                load(saved + 2 * hidden + unit, count), load(saved + 3 * hidden + unit, count)};
      const GateGrads<Vec<T>> grads = cell_backward<VectorMath<T>>(d, gates, h);
      if (h_prev) store(h_prev + unit, h, count);
      store(grad_gates + unit, grads.nr, count);
      store(grad_gates + hidden + unit, grads.r, count);
      store(grad_gates + 2 * hidden + unit, grads.z, count);
      store(grad_gates + 3 * hidden + unit, grads.n, count);
      store(grad_gh + unit, grads.r);
      store(grad_gh + padded + unit, grads.z);
      store(grad_gh + 2 * padded + unit, grads.nr);
      store(grad_h + unit, grads.h);
      if (io.grad_b_ih) {
        const Vec<T> added[4] = {grads.nr, grads.r, grads.z, grads.n};
        for (int g = 0; g < 4; ++g) {
          T* const sum = block_sums + g * padded + unit;
          store(sum, load(sum) + added[g]);
        }
      }
    }
  }

  // Adds the sums of a block to the sums over all rows, with the rounding error of each addition carried to the next
  // (Kahan 1965): torch's own sum, which nn.GRU's bias gradients come from, is about as exact.
  void end_block(T* sums, T* carried, T* block_sums) const {
    for (int64_t i = 0; i < layout.bias_sums; i += lanes) {
      const Vec<T> term = load(block_sums + i) - load(carried + i), before = load(sums + i), after = before + term;
      store(carried + i, (after - before) - term);
      store(sums + i, after);
      store(block_sums + i, Vec<T>{});
    }
  }

  // The bias gradients of a direction: its pieces' sums, in their order.
  void sum_biases(int direction) const {
    const BackwardDirection& io = params.direction[direction];
    if (!io.grad_b_ih) return;
    const int64_t hidden = params.shape.hidden;
    S* const b_ih = static_cast<S*>(io.grad_b_ih);
    S* const b_hh = static_cast<S*>(io.grad_b_hh);
    for (int64_t unit = 0; unit < hidden; unit += lanes) {
      Vec<T> sums[4] = {};
      for (int64_t i = direction * plan.tiles; i < (direction + 1) * plan.tiles; ++i)
        for (int g = 0; g < 4; ++g) sums[g] += load(bias_sums_of(i) + g * layout.padded + unit);
      const int count = valid_lanes<T>(unit, hidden);
      for (int g = 0; g < 3; ++g) {
        store(b_ih + g * hidden + unit, sums[g + 1], count);
        store(b_hh + g * hidden + unit, sums[(g + 1) % 3], count);  // r, z, nr
      }
    }
  }

  void piece(int64_t i) const {
    const Shape& shape = params.shape;
    const int direction = int(i / plan.tiles);
    const int64_t first = i % plan.tiles * plan.tile_rows;
    const int64_t last = first + plan.tile_rows < shape.batch ? first + plan.tile_rows : shape.batch;
    const int64_t hidden = shape.hidden;
    const BackwardDirection& io = params.direction[direction];

    T* grad_h = piece_of(i);
    T* grad_gh = grad_gh_of(i);
    T* sums = bias_sums_of(i);
    T* carried = sums + layout.bias_sums;
    T* block_sums = carried + layout.bias_sums;
    for (int64_t j = 0; j < 3 * layout.bias_sums; ++j) sums[j] = 0;
    int64_t rows_in_block = 0;
    const S* grad_h_n = static_cast<const S*>(io.grad_h_n.data);
    for (int64_t row = first; row < last; ++row) {
      T* to = grad_h + (row - first) * layout.row_size;
      for (int64_t unit = 0; unit < layout.row_size; ++unit) to[unit] = 0;
      if (grad_h_n)
        for (int64_t unit = 0; unit < hidden; unit += lanes) {
          const int count = valid_lanes<T>(unit, hidden);
          store(to + unit, load(grad_h_n + row * io.grad_h_n.row + unit, count), count);
        }
    }

    for (int64_t s = 0; s < shape.steps; ++s) {
      const int64_t t = direction == 0 ? shape.steps - 1 - s : s;
      const int64_t earlier = direction == 0 ? t - 1 : t + 1;  // the step that fed this one
      const int64_t fed = earlier < 0 || earlier == shape.steps ? 0 : shape.rows_at(earlier);
      const int64_t alive = shape.rows_at(t) < last ? shape.rows_at(t) : last;
      if (alive <= first) continue;
      for (int64_t row = first; row < alive; ++row) {
        const S* before = row < fed ? static_cast<const S*>(io.output.data) + shape.step_offset(io.output, earlier) +
                                          row * io.output.row
                                    : static_cast<const S*>(io.hx.data) + row * io.hx.row;
        gate_grads(io, t, row, before, grad_h + (row - first) * layout.row_size, grad_gh + (row - first) * layout.depth,
                   block_sums);
        if (io.grad_b_ih && ++rows_in_block == kBiasBlock) {
          end_block(sums, carried, block_sums);
          rows_in_block = 0;
        }
      }
      for_blocks(
          alive - first, layout.panels,
          BackwardTile<T>{layout.depth, layout.row_size, layout.panel_size, weights_of(direction), grad_gh, grad_h});
    }

    end_block(sums, carried, block_sums);
    S* grad_hx = static_cast<S*>(io.grad_hx.data);
    for (int64_t row = first; row < last; ++row)
      for (int64_t unit = 0; unit < hidden; unit += lanes)
        store(grad_hx + row * io.grad_hx.row + unit, load(grad_h + (row - first) * layout.row_size + unit),
              valid_lanes<T>(unit, hidden));
  }
};

template <class S>
void run_backward(const BackwardParams& params, void* scratch, const cpu::Parallel& parallel) {
  const cpu::Plan plan = cpu::plan_of(params.shape, parallel.threads);
  const Backward<S> backward{params, plan, BackwardScratch(params.shape, plan, Simd<Accumulate<S>>::lanes),
                             static_cast<Accumulate<S>*>(scratch)};
  const auto pack = [](const void* self, int64_t i) { static_cast<const Backward<S>*>(self)->pack(i); };
  const auto piece = [](const void* self, int64_t i) { static_cast<const Backward<S>*>(self)->piece(i); };
  run_all(plan.parallel, parallel, params.shape.directions * backward.layout.panels, pack, &backward);
  run_all(plan.parallel, parallel, plan.pieces(params.shape), piece, &backward);
  for (int d = 0; d < params.shape.directions; ++d) backward.sum_biases(d);
}

}  // namespace
}  // namespace gru_fused

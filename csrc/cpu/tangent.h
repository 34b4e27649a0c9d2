// Tangent of one share: batch rows of one direction through all time steps, from saved gates and states.
//
// The tangent of the state runs through the recurrence, h_t W_hh^T, and the rest of the gates' tangents is given: the
// caller made it with products over all steps at once. Step by step the product of a tile's rows and, in its epilogue,
// the tangents of gates and state. Cost per step and row: 6 H^2 operations, 15 H numbers in and out.
#pragma once

#include "../gru_cell.h"
#include "gates.h"
#include "simd_math.h"

namespace gru_fused {
namespace {

// The weights lie in panels always, and threads share rows and directions only: these calls are rarer than forwards.
inline cpu::Plan sweep_plan(const Shape& shape, int64_t threads) {
  cpu::Plan plan = cpu::plan_of(shape, threads);
  plan.team = 1;
  plan.packed = true;
  plan.parallel = plan.parallel && plan.workers(shape) > 1;
  return plan;
}

// The epilogue of the product: one step of a tile.
template <class S>
struct TangentStep {
  using T = Accumulate<S>;
  static constexpr int lanes = Simd<T>::lanes;

  const TangentDirection& io;
  const Shape& shape;
  int direction;
  int64_t s, t, first;
  Blocks<T> before, after;  // tangents of the tile's states

  inline __attribute__((always_inline)) void prefetch(int64_t row, int64_t panel) const {
    for (int g = 0; g < 4; ++g) {
      const int64_t at = g * shape.hidden + panel * lanes;
      __builtin_prefetch(row_of<S>(shape, io.gates, t, first + row) + at);
      __builtin_prefetch(row_of<S>(shape, io.given_t, t, first + row) + at);
    }
  }

  // Not inline: there would be a copy for every number of rows and panels, and memory is what it waits for.
  __attribute__((noinline)) void operator()(int64_t row, int64_t panel, const Vec<T> (&sums)[3]) const {
    const int64_t hidden = shape.hidden, unit = panel * lanes;
    const int count = valid_lanes<T>(unit, hidden);
    const auto gate = [&](const Rows<const void>& of, int64_t g) __attribute__((always_inline)) {
      return load(row_of<S>(shape, of, t, first + row) + g * hidden + unit, count);
    };
    const Gates<Vec<T>> gates{gate(io.gates, 0), gate(io.gates, 1), gate(io.gates, 2), gate(io.gates, 3)};
    const Vec<T> h = load(state_before<S>(shape, io.output, io.hx, direction, s, first + row) + unit, count);
    const Stepped<Vec<T>> tangent =
        cell_tangent<VectorMath<T>>(gates, h, gate(io.given_t, 0) + sums[0], gate(io.given_t, 1) + sums[1],
                                    gate(io.given_t, 2), gate(io.given_t, 3) + sums[2], load(before.at(row, unit)));
    store(after.at(row, unit), tangent.h);
    store(row_of<S>(shape, io.output_t, t, first + row) + unit, tangent.h, count);
    S* const to = row_of<S>(shape, io.gates_t, t, first + row) + unit;
    const Vec<T> gates_t[4] = {tangent.gates.r, tangent.gates.z, tangent.gates.n, tangent.gates.gh_n};
    for (int g = 0; g < 4; ++g) store(to + g * hidden, gates_t[g], count);
  }
};

// Where the parts of the scratch memory begin, in elements of the accumulating type.
struct TangentScratch {
  GateWeightsScratch weights;  // of one direction
  int64_t state, piece, total;

  TangentScratch(const Shape& shape, const cpu::Plan& plan, int64_t lanes) : weights(shape, plan, lanes, 1) {
    state = plan.tile_rows * weights.padded;
    piece = round_up(2 * state, 64 / int64_t(sizeof(float)));
    total = shape.directions * weights.total + plan.pieces(shape) * piece;
  }
};

template <class S>
struct Tangent {
  using T = Accumulate<S>;
  static constexpr int lanes = Simd<T>::lanes;

  const TangentParams& params;
  const cpu::Plan plan;
  const TangentScratch layout;
  T* const scratch;

  GateWeights<S> weights_of(int direction) const {
    return {params.direction[direction], params.shape, plan, layout.weights,
            scratch + direction * layout.weights.total};
  }

  // Panel i % panels of direction i / panels.
  void pack(int64_t i) const { weights_of(int(i / layout.weights.panels)).pack(i % layout.weights.panels); }

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
    const int64_t hidden = shape.hidden;
    const TangentDirection& io = params.direction[direction];
    const GateWeights<S> weights = weights_of(direction);
    T* const states = scratch + shape.directions * layout.weights.total + i * layout.piece;
    Blocks<T> state{states, plan.tile_rows}, next{states + layout.state, plan.tile_rows};
    for (int64_t row = first; row < last; ++row)
      put_row<S>(state, row - first, static_cast<const S*>(io.hx_t.data) + row * io.hx_t.row, hidden, false);

    int64_t alive = last - first;
    for (int64_t s = 0; s < shape.steps; ++s) {
      const int64_t t = shape.time_of(s, direction), rows = shape.rows_between(t, first, last);
      // A row that has just ended, or not begun, has its state in both buffers, which change places.
      for (int64_t row = rows; row < alive; ++row)
        for (int64_t unit = 0; unit < hidden; unit += lanes) store(next.at(row, unit), load(state.at(row, unit)));
      alive = rows;
      using Step = TangentStep<S>;
      const Step step{io, shape, direction, s, t, first, state, next};
      if (rows > 0)
        recurrent_step(RecurrentProduct<S, Step>{weights, state, nullptr, step}, s, rows, {0, layout.weights.panels});
      std::swap(state, next);
    }

    S* h_n_t = static_cast<S*>(io.h_n_t.data);
    for (int64_t row = first; row < last; ++row)
      for (int64_t unit = 0; unit < hidden; unit += lanes)
        store(h_n_t + row * io.h_n_t.row + unit, load(state.at(row - first, unit)), valid_lanes<T>(unit, hidden));
  }
};

template <class S>
void run_tangent(const TangentParams& params, void* scratch, const cpu::Parallel& parallel) {
  const cpu::Plan plan = sweep_plan(params.shape, parallel.threads);
  const TangentScratch layout(params.shape, plan, Simd<Accumulate<S>>::lanes);
  const Tangent<S> tangent{params, plan, layout, static_cast<Accumulate<S>*>(scratch)};
  const auto pack = [](const void* self, int64_t i) { static_cast<const Tangent<S>*>(self)->pack(i); };
  const auto piece = [](const void* self, int64_t i) { static_cast<const Tangent<S>*>(self)->piece(i); };
  const bool parallel_now = side_by_side(plan);
  run_all(parallel_now, parallel, params.shape.directions * layout.weights.panels, pack, &tangent);
  run_all(parallel_now, parallel, plan.pieces(params.shape), piece, &tangent);
}

}  // namespace
}  // namespace gru_fused

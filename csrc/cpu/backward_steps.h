// The steps of the backward of the plain cell: the gates' gradients of a chunk, from saved or recomputed gates.
#pragma once

#include <utility>

#include "backward.h"
#include "cell_step.h"

namespace gru_fused {
namespace {

// Recomputed gates lie where their gradients will.
template <class T>
struct ChunkGates {
  Blocks<T> to;  // [4 padded]
  int64_t padded;

  inline __attribute__((always_inline)) void prefetch(int64_t, int64_t) const {}

  struct Vector {
    T* to;
    int64_t next_gate;

    inline __attribute__((always_inline)) Vec<T> before(int64_t) const { return Vec<T>{}; }  // not asked for
    inline __attribute__((always_inline)) void keep(int64_t m, const Stepped<Vec<T>>& step) const {
      const Vec<T> gates[4] = {step.gates.r, step.gates.z, step.gates.n, step.gates.gh_n};
      for (int g = 0; g < 4; ++g) store(to + g * next_gate + m * Simd<T>::lanes, gates[g]);
    }
  };
  inline __attribute__((always_inline)) Vector vector(int64_t row, int64_t unit) const {
    return {to.at(row, unit), padded * to.capacity};
  }
};

template <class S>
struct PlainBackwardSteps {
  using T = Accumulate<S>;
  using Params = BackwardParams;
  using Run = Backward<S, PlainBackwardSteps>;
  static constexpr int lanes = Simd<T>::lanes;
  static constexpr bool packs_late = true;  // W_hh's panels, if a call uses them once
  // The gradients of r, z and n, of which x and the state make them.
  static constexpr int64_t kBlocksOfX[3] = {1, 2, 3}, kBlocksOfH[3] = {1, 2, 0};

  static cpu::Plan plan(const Params& params, int64_t threads) {
    cpu::Plan plan = cpu::plan_of(params.shape, threads, cpu::Sweep::backward);
    if (params.recompute()) plan.team = 1;  // each member would need the gates of all units
    plan.parallel = plan.parallel && plan.workers(params.shape) > 1;
    return plan;
  }
  static BackwardScratch scratch(const Params& params, const cpu::Plan& plan) {
    return {params.shape, plan, lanes, FactorsOf<S>::terms, Run::direct(plan), params.recompute()};
  }

  const Run& run;
  const typename Run::Piece& piece;
  const typename Run::Part& part;
  const int direction;
  const Range tile;  // rows of the batch
  const Shape& shape;
  const BackwardDirection& io;

  PlainBackwardSteps(const Run& run, const typename Run::Piece& piece, const typename Run::Part& part, int direction,
                     Range tile)
      : run(run),
        piece(piece),
        part(part),
        direction(direction),
        tile(tile),
        shape(run.params.shape),
        io(run.params.direction[direction]) {}

  int64_t make_steps(Range chunk, BiasSums<T>& biases) const {
    if (run.params.recompute()) recompute(chunk);
    int64_t done = 0;  // rows of the chunk
    for (int64_t s = chunk.end - 1; s >= chunk.begin; --s) {
      const int64_t rows = shape.rows_between(shape.time_of(s, direction), tile.begin, tile.end);
      if (rows == 0) continue;
      for (int64_t row = 0; row < rows; ++row) {
        gate_grads(s, tile.begin + row, row, done + row, biases);
        if (io.grad_b_ih) biases.end_row();
      }
      part.member.meet_after_step();  // the product needs all units
      const GateBlocks<T> blocks{run.grads_from(piece, done, 0), run.layout.depth, run.layout.gate, {2, 0, 1}};
      if (run.plan.packed) {
        run.multiply_by_panels(blocks, rows, io.w_hh, run.w_hh_of(direction), run.state_late(), shape.hidden,
                               part.states, run.grad_h_of(piece), true, s % 2);
      } else {
        // Added last, as in the epilogue of the other way: a sum that began with z * dh would be rounded at its size.
        const Blocks<T> product{piece.product, run.plan.tile_rows};
        multiply_unpacked<S, T>(blocks, rows, io.w_hh, shape.hidden, product);
        for (int64_t row = 0; row < rows; ++row)
          for (int64_t unit = 0; unit < shape.hidden; unit += lanes) {
            T* const to = run.grad_h_of(piece).at(row, unit);
            store(to, load(to) + load(product.at(row, unit)));
          }
      }
      done += rows;
    }
    return done;
  }

  void finish(Range chunk, int64_t rows, bool& fresh) const {
    if (rows == 0) return;
    if (io.grad_x.data) grad_x(chunk, rows);
    if (!io.grad_w_ih) return;
    const bool add = !std::exchange(fresh, false);
    if constexpr (kInTiles<S>) return grad_weights_in_tiles(chunk, rows, add);
    run.grad_weight(piece, piece.x_panels, part.inputs, rows, piece.grad_w_ih, shape.inputs, kBlocksOfX, add);
    run.grad_weight(piece, piece.h_panels, part.states, rows, piece.grad_w_hh, shape.hidden, kBlocksOfH, add);
  }

  // The same from pairs of rows; x and the states are turned into them first.
  void grad_weights_in_tiles(Range chunk, int64_t rows, bool add) const {
    const int64_t panel_rows = run.layout.panel_rows;
    const S *low_x = nullptr, *low_h = nullptr;
    int64_t done = 0;
    const auto pack = [&](const S* high_x, const S* high_h) {
      const int64_t panel = panel_rows * kWidth<T>, pair = done / 2 * kWidth<T>;
      pack_pair(low_x, high_x, shape.inputs, part.inputs, piece.x_panels + part.inputs.begin * panel + pair, panel);
      pack_pair(low_h, high_h, shape.hidden, part.states, piece.h_panels + part.states.begin * panel + pair, panel);
    };
    for (int64_t s = chunk.end - 1; s >= chunk.begin; --s) {
      const int64_t t = shape.time_of(s, direction), alive = shape.rows_between(t, tile.begin, tile.end);
      for (int64_t row = tile.begin; row < tile.begin + alive; ++row, ++done) {
        const S* const x = row_of<S>(shape, io.x, t, row);
        const S* const h = state_before<S>(shape, io.output, io.hx, direction, s, row);
        if (done % 2)
          pack(x, h);
        else
          low_x = x, low_h = h;
      }
    }
    if (done % 2) pack(nullptr, nullptr), ++done;
    for (low_x = low_h = nullptr; done < 2 * factors_in(rows, 2); done += 2) pack(nullptr, nullptr);

    T* const turned = piece.turned + part.member.part(run.plan.team).begin * 2 * kTileRows * panel_rows;
    const auto make = [&](const int64_t (&blocks)[3], const T* panels, Range columns, auto* to, int64_t count) {
      for (int64_t gate = 0; gate < 3; ++gate)
        add_weight_gradients(run.grads_from(piece, 0, blocks[gate]), shape.hidden, rows, panels, panel_rows, columns,
                             to + gate * shape.hidden * count, count, add, turned);
    };
    const auto make_both = [&](auto* grad_w_ih, auto* grad_w_hh) {
      make(kBlocksOfX, piece.x_panels, part.inputs, grad_w_ih, shape.inputs);
      make(kBlocksOfH, piece.h_panels, part.states, grad_w_hh, shape.hidden);
    };
    if (Run::direct(run.plan))
      make_both(static_cast<S*>(io.grad_w_ih), static_cast<S*>(io.grad_w_hh));
    else
      make_both(piece.grad_w_ih, piece.grad_w_hh);
  }

  void end() const {}

  // The gates of a chunk, steps [begin, end), into the rows of their gradients. x and the states lie for so long where
  // their panels will.
  void recompute(Range chunk) const {
    const Blocks<T> x{piece.x_panels, run.plan.chunk_rows()}, states{piece.h_panels, run.plan.chunk_rows()};
    int64_t rows = 0;
    for (int64_t s = chunk.end - 1; s >= chunk.begin; --s) {
      const int64_t t = shape.time_of(s, direction), alive = shape.rows_between(t, tile.begin, tile.end);
      for (int64_t row = tile.begin; row < tile.begin + alive; ++row, ++rows) {
        put_row<S>(x, rows, row_of<S>(shape, io.x, t, row), shape.inputs, run.plan.packed);
        put_row<S>(states, rows, state_before<S>(shape, io.output, io.hx, direction, s, row), shape.hidden,
                   run.plan.packed);
      }
    }
    if (rows == 0) return;
    const GateWeights<S> weights = run.gate_weights_of(direction);
    const ChunkGates<T> gates{run.grads_of(piece), run.layout.padded};
    const Range all{0, weights.panels};
    make_projection<S>(weights, x, piece.gi, rows, all);
    using Step = CellStep<S, ChunkGates<T>>;
    make(RecurrentProduct<S, Step>{weights, states, piece.gh, Step{weights, piece.gi, run.plan.chunk_rows(), gates}},
         rows, all);
  }

  // Element by element for one row at the s-th step of the forward: `row` counts in the batch, `tile_row` in the tile
  // and `chunk_row` in the chunk. The row's x and state before the step go into panels.
  void gate_grads(int64_t s, int64_t row, int64_t tile_row, int64_t chunk_row, BiasSums<T>& biases) const {
    const int64_t hidden = shape.hidden, padded = run.layout.padded, t = shape.time_of(s, direction);
    const S* const before = state_before<S>(shape, io.output, io.hx, direction, s, row);
    const S* const grad_output = io.grad_output.data ? row_of<S>(shape, io.grad_output, t, row) : nullptr;
    const S* const saved = run.params.recompute() ? nullptr : row_of<S>(shape, io.gates, t, row);
    const Blocks<T> grad_h = run.grad_h_of(piece).from(tile_row), to = run.grads_of(piece).from(chunk_row);
    const auto keep = [&](int64_t block, int64_t unit, Vec<T> grad) __attribute__((always_inline)) {
      if constexpr (kInTiles<S>)
        store(reinterpret_cast<S*>(to.at(0, block * run.layout.gate + unit / 2)), grad);
      else
        store(to.at(0, block * padded + unit), grad);
    };
    for (int64_t unit = part.units.begin; unit < part.units.end; unit += lanes) {
      const int count = valid_lanes<T>(unit, hidden);
      Vec<T> d = load(grad_h.at(0, unit));
      if (grad_output) d += load(grad_output + unit, count);
      const auto gate = [&](int64_t g) {
        return saved ? load(saved + g * hidden + unit, count) : load(to.at(0, g * padded + unit));
      };
      const Gates<Vec<T>> gates{gate(0), gate(1), gate(2), gate(3)};
      const GateGrads<Vec<T>> grads = cell_backward<VectorMath<T>>(d, gates, load(before + unit, count));
      const Vec<T> of_gates[4] = {grads.nr, grads.r, grads.z, grads.n};
      for (int g = 0; g < 4; ++g) {
        keep(g, unit, of_gates[g]);
        if (io.grad_b_ih) biases.add(g * padded + unit, of_gates[g]);
      }
      store(grad_h.at(0, unit), grads.h);
    }
    if constexpr (kInTiles<S>) {
      if (part.units.begin < part.units.end && part.units.end == hidden)
        for (int64_t unit = padded; unit < 2 * run.layout.gate; unit += lanes)
          for (int g = 0; g < 4; ++g) keep(g, unit, Vec<T>{});
      return;
    }
    if (!io.grad_w_ih) return;
    pack_row(before, hidden, part.states, piece.h_panels, run.plan.chunk_rows(), chunk_row);
    pack_row(row_of<S>(shape, io.x, t, row), shape.inputs, part.inputs, piece.x_panels, run.plan.chunk_rows(),
             chunk_row);
  }

  void grad_x(Range chunk, int64_t all_rows) const {
    run.multiply_grad_x(piece, part, direction, all_rows);
    const Range columns = Run::Part::columns(part.inputs, shape.inputs);
    int64_t from = 0;
    for (int64_t s = chunk.end - 1; s >= chunk.begin; --s) {
      const int64_t t = shape.time_of(s, direction), rows = shape.rows_between(t, tile.begin, tile.end);
      S* to = static_cast<S*>(io.grad_x.data) + shape.step_offset(io.grad_x, t) + tile.begin * io.grad_x.row;
      for (int64_t row = 0; row < rows; ++row, ++from)
        for (int64_t k = columns.begin; k < columns.end; k += lanes)
          store(to + row * io.grad_x.row + k, load(run.grad_x_of(piece).at(from, k)), valid_lanes<T>(k, shape.inputs));
    }
  }
};

}  // namespace
}  // namespace gru_fused

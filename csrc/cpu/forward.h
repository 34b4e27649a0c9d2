// Forward recurrence of one tile of batch rows through all time steps.
//
// Per step: the recurrent product of the tile's states with W_hh, and in its epilogue, while the sums are in
// registers, the gates and the new state. States live in two private buffers in the accumulating type.
// Cost per step and row: 6 H^2 operations, 12 H^2 / rows bytes of weights (float), 4H numbers in and out.
#pragma once

#include "../gru_cell.h"
#include "kernels.h"
#include "panels.h"
#include "plan.h"
#include "simd_math.h"

namespace gru_fused {
namespace {

template <class S>
struct ForwardTile {
  using T = Accumulate<S>;
  static constexpr int lanes = Simd<T>::lanes;

  const ForwardDirection& io;
  int64_t hidden, padded;  // H, and H rounded up to full vectors: the row length of the states
  int64_t panel_size;
  const T* panels;                     // packed W_hh; not used if the product is there already
  const T* biases;                     // [units / lanes][4][lanes]: r and z, of both projections; n of gh; n of gi
  const T* state;                      // [rows][padded], before the step
  T* next;                             // [rows][padded], after it
  int64_t first_row;                   // of the tile, in the batch
  int64_t gi_at, output_at, gates_at;  // offset of this step's row 0

  template <int M, int P>
  inline __attribute__((always_inline)) void run(int64_t row, int64_t panel) const {
    Vec<T> acc[P][M][3];
    for (int p = 0; p < P; ++p)
      for (int m = 0; m < M; ++m)
        for (int g = 0; g < 3; ++g) acc[p][m][g] = load(biases + ((panel + p) * 4 + g) * lanes);
    multiply<T, M, P>(acc, state + row * padded, padded, panels + panel * panel_size, panel_size, hidden);
    for (int p = 0; p < P; ++p)
      for (int m = 0; m < M; ++m) epilogue(row + m, (panel + p) * lanes, acc[p][m]);
  }

  // Without panels: the product of the row is there already, only the biases are missing. `gate_size` is the distance
  // between the gates' blocks.
  template <class P>
  inline void finish_row(int64_t row, const P* gh_row, int64_t gate_size) const {
    for (int64_t unit = 0; unit < hidden; unit += lanes) {
      Vec<T> gh[3];
      for (int g = 0; g < 3; ++g)
        gh[g] = load(gh_row + g * gate_size + unit, valid_lanes<T>(unit, hidden)) + load(biases + unit * 4 + g * lanes);
      epilogue(row, unit, gh);
    }
  }

  inline __attribute__((always_inline)) void epilogue(int64_t row, int64_t unit, const Vec<T> (&gh)[3]) const {
    const int count = valid_lanes<T>(unit, hidden);
    const S* gi = static_cast<const S*>(io.gi.data) + gi_at + (first_row + row) * io.gi.row + unit;
    const auto step = cell_forward<VectorMath<T>>(load(gi, count), load(gi + hidden, count),
                                                  load(gi + 2 * hidden, count) + load(biases + unit * 4 + 3 * lanes),
                                                  gh[0], gh[1], gh[2], load(state + row * padded + unit));
    store(next + row * padded + unit, step.h);
    store(static_cast<S*>(io.output.data) + output_at + (first_row + row) * io.output.row + unit, step.h, count);
    if (io.gates.data) {
      S* gates = static_cast<S*>(io.gates.data) + gates_at + (first_row + row) * io.gates.row + unit;
      store(gates, step.gates.r, count);
      store(gates + hidden, step.gates.z, count);
      store(gates + 2 * hidden, step.gates.n, count);
      store(gates + 3 * hidden, step.gates.gh_n, count);
    }
  }
};

// h W_hh^T for a few rows straight from the weights, one dot product each: for calls too short to pay for packing.
template <class S, class T>
void multiply_unpacked(const S* w, int64_t w_row, int64_t hidden, const T* h, int64_t padded, T* product) {
  constexpr int lanes = Simd<T>::lanes;
  for (int g = 0; g < 3; ++g)
    for (int64_t unit = 0; unit < hidden; unit += 4) {
      // Four units at once hide the latency; past the last unit the last one is computed again.
      const S* rows[4];
      for (int u = 0; u < 4; ++u) rows[u] = w + (g * hidden + (unit + u < hidden ? unit + u : hidden - 1)) * w_row;
      Vec<T> acc[4] = {};
      int64_t k = 0;
      for (; k + lanes <= hidden; k += lanes)
#pragma GCC unroll 4
        for (int u = 0; u < 4; ++u) acc[u] += load(h + k) * load(rows[u] + k);
      if (k < hidden)
        for (int u = 0; u < 4; ++u) acc[u] += load(h + k) * load(rows[u] + k, int(hidden - k));
      for (int u = 0; u < 4 && unit + u < hidden; ++u) product[g * padded + unit + u] = sum_lanes<T>(acc[u]);
    }
}

// Where the parts of the scratch memory begin, in elements of the accumulating type.
struct ForwardScratch {
  int64_t padded, panel_size, panels, weights, biases, piece, total;

  ForwardScratch(const Shape& shape, const cpu::Plan& plan, int64_t lanes) {
    constexpr int64_t line = 64 / sizeof(float);  // keeps every part on its own cache lines
    padded = round_up(shape.hidden, lanes);
    panel_size = shape.hidden * 3 * lanes;
    panels = padded / lanes;
    weights = plan.packed ? round_up(panels * panel_size, line) : 0;  // of one direction
    biases = round_up(4 * padded, line);                              // of one direction
    piece = round_up((2 * plan.tile_rows + 3) * padded, line);        // two states, and the product of one row
    total = shape.directions * (weights + biases) + plan.pieces(shape) * piece;
  }
};

template <class S>
struct Forward {
  using T = Accumulate<S>;
  static constexpr int lanes = Simd<T>::lanes;

  const ForwardParams& params;
  const cpu::Plan plan;
  const ForwardScratch layout;
  T* const scratch;

  T* weights_of(int direction) const { return scratch + direction * (layout.weights + layout.biases); }
  T* biases_of(int direction) const { return weights_of(direction) + layout.weights; }
  T* piece_of(int64_t i) const {
    return scratch + params.shape.directions * (layout.weights + layout.biases) + i * layout.piece;
  }

  void pack(int64_t i) const {
    const int direction = int(i / layout.panels);
    const int64_t p = i % layout.panels, hidden = params.shape.hidden;
    const ForwardDirection& io = params.direction[direction];
    if (plan.packed)
      pack_gates(static_cast<const S*>(io.w_hh.data), io.w_hh.row, hidden, p,
                 weights_of(direction) + p * layout.panel_size);
    const int count = valid_lanes<T>(p * lanes, hidden);
    const auto bias = [&](const void* b, int64_t g) {
      return b ? load(static_cast<const S*>(b) + g * hidden + p * lanes, count) : Vec<T>{};
    };
    T* to = biases_of(direction) + p * 4 * lanes;
    store(to, bias(io.b_ih, 0) + bias(io.b_hh, 0));
    store(to + lanes, bias(io.b_ih, 1) + bias(io.b_hh, 1));
    store(to + 2 * lanes, bias(io.b_hh, 2));
    store(to + 3 * lanes, bias(io.b_ih, 2));
  }

  void piece(int64_t i) const {
    const Shape& shape = params.shape;
    const int direction = int(i / plan.tiles);
    const int64_t first = i % plan.tiles * plan.tile_rows;
    const int64_t last = first + plan.tile_rows < shape.batch ? first + plan.tile_rows : shape.batch;
    const int64_t hidden = shape.hidden, padded = layout.padded;
    const ForwardDirection& io = params.direction[direction];

    T* state = piece_of(i);
    T* next = state + plan.tile_rows * padded;
    T* product = next + plan.tile_rows * padded;
    const S* hx = static_cast<const S*>(io.hx.data);
    for (int64_t row = first; row < last; ++row)
      for (int64_t unit = 0; unit < padded; unit += lanes) {
        const int count = valid_lanes<T>(unit, hidden);
        store(state + (row - first) * padded + unit, load(hx + row * io.hx.row + unit, count));
      }

    int64_t alive = last - first;
    for (int64_t s = 0; s < shape.steps; ++s) {
      const int64_t t = direction == 0 ? s : shape.steps - 1 - s;
      const int64_t bound = shape.rows_at(t) < last ? shape.rows_at(t) : last;
      const int64_t rows = bound > first ? bound - first : 0;
      // A row that has just ended, or not begun, has its state in both buffers, which change places.
      for (int64_t row = rows; row < alive; ++row)
        for (int64_t unit = 0; unit < padded; ++unit) next[row * padded + unit] = state[row * padded + unit];
      alive = rows;
      if (rows > 0) {
        const ForwardTile<S> tile{io,
                                  hidden,
                                  padded,
                                  layout.panel_size,
                                  weights_of(direction),
                                  biases_of(direction),
                                  state,
                                  next,
                                  first,
                                  shape.step_offset(io.gi, t),
                                  shape.step_offset(io.output, t),
                                  shape.step_offset(io.gates, t)};
        if (plan.packed) {
          for_blocks(rows, layout.panels, tile);
        } else if (shape.single_product()) {
          const S* gh = static_cast<const S*>(io.gh.data);
          for (int64_t row = 0; row < rows; ++row) tile.finish_row(row, gh + (first + row) * io.gh.row, hidden);
        } else {
          for (int64_t row = 0; row < rows; ++row) {
            multiply_unpacked(static_cast<const S*>(io.w_hh.data), io.w_hh.row, hidden, state + row * padded, padded,
                              product);
            tile.finish_row(row, product, padded);
          }
        }
      }
      T* const before = state;
      state = next;
      next = before;
    }

    S* h_n = static_cast<S*>(io.h_n.data);
    for (int64_t row = first; row < last; ++row)
      for (int64_t unit = 0; unit < hidden; unit += lanes) {
        const int count = valid_lanes<T>(unit, hidden);
        store(h_n + row * io.h_n.row + unit, load(state + (row - first) * padded + unit), count);
      }
  }
};

template <class S>
void run_forward(const ForwardParams& params, void* scratch, const cpu::Parallel& parallel) {
  const cpu::Plan plan = cpu::plan_of(params.shape, parallel.threads);
  const Forward<S> forward{params, plan, ForwardScratch(params.shape, plan, Simd<Accumulate<S>>::lanes),
                           static_cast<Accumulate<S>*>(scratch)};
  const auto pack = [](const void* self, int64_t i) { static_cast<const Forward<S>*>(self)->pack(i); };
  const auto piece = [](const void* self, int64_t i) { static_cast<const Forward<S>*>(self)->piece(i); };
  run_all(plan.parallel, parallel, params.shape.directions * forward.layout.panels, pack, &forward);
  run_all(plan.parallel, parallel, plan.pieces(params.shape), piece, &forward);
}

}  // namespace
}  // namespace gru_fused

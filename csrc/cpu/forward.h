// Forward of one share: batch rows of one direction through all time steps.
//
// Chunk by chunk of steps: first the input projection of all of the chunk's rows, one product at full speed, whose
// result stays in the second-level cache; then step by step the recurrent product of a tile's states with W_hh, and in
// its epilogue, while the sums are in registers, the gates and the new state.
// Cost per step and row: 6 H (I + H) operations, 12 H (I / chunk rows + H / tile rows) bytes of weights (float).
#pragma once

#include "../gru_cell.h"
#include "kernels.h"
#include "plan.h"
#include "simd_math.h"
#include "weights.h"

namespace gru_fused {
namespace {

// x W_ih^T with the biases of both projections, but for b_hn.
template <class S>
struct Projection {
  using T = Accumulate<S>;
  using Factors = FactorsOf<S>;
  static constexpr int lanes = Simd<T>::lanes;

  const ForwardDirection& io;
  int64_t inputs, hidden, panels;
  const T* weights;   // panels, not used if there are none
  const T* biases;    // [panels][4][lanes]
  Blocks<const T> x;  // factors if there are panels, else numbers
  T* gi;              // [panels][capacity of x][3][lanes]

  template <int M, int P>
  inline __attribute__((always_inline)) void run(int64_t row, int64_t panel) const {
    Vec<T> acc[P][M][3];
    const T* of_panel[P];
    const int64_t depth = factors_in(inputs, Factors::terms);
    for (int p = 0; p < P; ++p) {
      of_panel[p] = weights + (panel + p) * depth * kWidth<T>;
      for (int m = 0; m < M; ++m)
        for (int g = 0; g < 3; ++g) acc[p][m][g] = load(biases + ((panel + p) * 4 + g) * lanes);
    }
    multiply<T, M, P, Factors>(acc, RowsOf<T>{x.from(row)}, of_panel, depth);
    for (int p = 0; p < P; ++p)
      for (int m = 0; m < M; ++m)
        for (int g = 0; g < 3; ++g) store(at(row + m, panel + p) + g * lanes, acc[p][m][g]);
  }

  void run_unpacked(int64_t rows) const {
    multiply_unpacked<S, T>(x, rows, io.w_ih, hidden, inputs, gi, x.capacity);
    for (int64_t panel = 0; panel < panels; ++panel)
      for (int64_t row = 0; row < rows; ++row)
        for (int g = 0; g < 3; ++g) {
          T* const sum = at(row, panel) + g * lanes;
          store(sum, load(sum) + load(biases + (panel * 4 + g) * lanes));
        }
  }

  inline T* at(int64_t row, int64_t panel) const { return gi + (panel * x.capacity + row) * kWidth<T>; }
};

// A row of x, as factors or as numbers.
template <class S, class T>
inline void put_row(const Blocks<T>& to, int64_t row, const S* x, int64_t count, bool factors) {
  using Factors = FactorsOf<S>;
  constexpr int64_t step = Simd<T>::lanes * Factors::terms;
  if (factors)
    for (int64_t k = 0; k < count; k += step)
      store(to.at(row, k / Factors::terms), Factors::load_factors(x + k, count - k));
  else
    for (int64_t k = 0; k < count; k += Simd<T>::lanes) store(to.at(row, k), load(x + k, valid_lanes<T>(k, count)));
}

// The states of a tile, as numbers and as the factors of the product; where these are numbers too, they are the same.
template <class S>
struct States {
  using T = Accumulate<S>;
  static constexpr bool pairs = FactorsOf<S>::terms == 2;

  Blocks<T> numbers, factors;

  static States at(T* memory, T* factors, int64_t rows) { return {{memory, rows}, {pairs ? factors : memory, rows}}; }

  inline __attribute__((always_inline)) void set(int64_t row, int64_t unit, Vec<T> h) const {
    store(numbers.at(row, unit), h);
    if constexpr (pairs) store(reinterpret_cast<bf16*>(factors.at(row, unit / 2)), h);
  }
};

// One step of one tile.
template <class S>
struct ForwardStep {
  using T = Accumulate<S>;
  using Factors = FactorsOf<S>;
  static constexpr int lanes = Simd<T>::lanes;

  const ForwardDirection& io;
  int64_t hidden, panels;
  const T* weights;
  bool far;  // they are past the second-level cache
  const T* biases;
  const T* gi;  // [panels][gi_rows][3][lanes], from the tile's first row
  int64_t gi_rows;
  States<S> state, next;  // before and after the step
  S* output;              // of the tile's first row
  S* gates;               // of the tile's first row, or null

  template <int M, int P>
  inline __attribute__((always_inline)) void run(int64_t row, int64_t panel) const {
    Vec<T> acc[P][M][3] = {};
    const T* of_panel[P];
    const int64_t depth = factors_in(hidden, Factors::terms);
    for (int p = 0; p < P; ++p) {
      of_panel[p] = weights + (panel + p) * depth * kWidth<T>;
      for (int m = 0; m < M; ++m) prefetch(row + m, panel + p);
    }
    const RowsOf<T> rows{state.factors.from(row)};
    if constexpr (M == 1) {
      if (far) {
        multiply_far<T, P, Factors>(acc, rows, of_panel, depth);
        for (int p = 0; p < P; ++p) epilogue(row, panel + p, acc[p][0]);
        return;
      }
    }
    multiply<T, M, P, Factors>(acc, rows, of_panel, depth);
    for (int p = 0; p < P; ++p)
      for (int m = 0; m < M; ++m) epilogue(row + m, panel + p, acc[p][m]);
  }

  // What the epilogue will touch: the product takes longer than its way from the outer caches.
  inline __attribute__((always_inline)) void prefetch(int64_t row, int64_t panel) const {
    for (int g = 0; g < 3; ++g) __builtin_prefetch(gi + (panel * gi_rows + row) * kWidth<T> + g * lanes);
    __builtin_prefetch(output + row * io.output.row + panel * lanes, 1);
    if (gates)
      for (int g = 0; g < 4; ++g) __builtin_prefetch(gates + row * io.gates.row + g * hidden + panel * lanes, 1);
  }

  // gh: room for [panels][capacity of the states][3][lanes]
  void run_unpacked(int64_t rows, T* gh) const {
    const int64_t capacity = state.numbers.capacity;
    multiply_unpacked<S, T>(state.numbers, rows, io.w_hh, hidden, hidden, gh, capacity);
    for (int64_t panel = 0; panel < panels; ++panel)
      for (int64_t row = 0; row < rows; ++row) {
        const T* const product = gh + (panel * capacity + row) * kWidth<T>;
        epilogue(row, panel, {load(product), load(product + lanes), load(product + 2 * lanes)});
      }
  }

  inline __attribute__((always_inline)) void epilogue(int64_t row, int64_t panel, const Vec<T> (&gh)[3]) const {
    const int64_t unit = panel * lanes;
    const int count = valid_lanes<T>(unit, hidden);
    const T* const in = gi + (panel * gi_rows + row) * kWidth<T>;
    const auto step =
        cell_forward<VectorMath<T>>(load(in), load(in + lanes), load(in + 2 * lanes), gh[0], gh[1],
                                    gh[2] + load(biases + (panel * 4 + 3) * lanes), load(state.numbers.at(row, unit)));
    next.set(row, unit, step.h);
    store(output + row * io.output.row + unit, step.h, count);
    if (gates) {
      S* const to = gates + row * io.gates.row + unit;
      store(to, step.gates.r, count);
      store(to + hidden, step.gates.z, count);
      store(to + 2 * hidden, step.gates.n, count);
      store(to + 3 * hidden, step.gates.gh_n, count);
    }
  }
};

// Where the parts of the scratch memory begin, in elements of the accumulating type.
struct ForwardScratch {
  int64_t padded, panels, w_ih, w_hh, biases, direction, inputs, gi, gh, state, factors, piece, total;

  ForwardScratch(const Shape& shape, const cpu::Plan& plan, int64_t lanes, int terms) {
    constexpr int64_t line = 64 / sizeof(float);  // keeps every part on its own cache lines
    padded = round_up(shape.hidden, lanes);
    panels = padded / lanes;
    w_ih = plan.packed ? round_up(3 * padded * factors_in(shape.inputs, terms), line) : 0;
    w_hh = plan.packed ? round_up(3 * padded * factors_in(shape.hidden, terms), line) : 0;
    biases = round_up(4 * padded, line);
    direction = w_ih + w_hh + biases;
    inputs = round_up(plan.chunk_rows() * round_up(shape.inputs, lanes), line);
    gi = round_up(plan.chunk_rows() * 3 * padded, line);
    gh = plan.packed ? 0 : round_up(plan.tile_rows * 3 * padded, line);
    state = plan.tile_rows * padded;
    factors = terms == 1 ? 0 : plan.tile_rows * round_up(factors_in(padded, terms), lanes);
    piece = inputs + gi + gh + round_up(2 * (state + factors), line);
    total = shape.directions * direction + plan.pieces(shape) * piece;
  }
};

template <class S>
struct Forward {
  using T = Accumulate<S>;
  using Factors = FactorsOf<S>;
  static constexpr int lanes = Simd<T>::lanes;

  const ForwardParams& params;
  const cpu::Plan plan;
  const ForwardScratch layout;
  T* const scratch;

  T* biases_of(int direction) const { return scratch + direction * layout.direction; }
  T* w_ih_of(int direction) const { return biases_of(direction) + layout.biases; }
  T* w_hh_of(int direction) const { return w_ih_of(direction) + layout.w_ih; }
  T* piece_of(int64_t i) const { return scratch + params.shape.directions * layout.direction + i * layout.piece; }

  // Panel i % panels of direction i / panels.
  void pack(int64_t i) const {
    const int direction = int(i / layout.panels);
    const int64_t p = i % layout.panels;
    const ForwardDirection& io = params.direction[direction];
    const int64_t inputs = params.shape.inputs, hidden = params.shape.hidden;
    if (plan.packed) {
      const auto panel = [&](T* panels, int64_t depth) {
        return panels + p * factors_in(depth, Factors::terms) * kWidth<T>;
      };
      pack_gates<Factors>(static_cast<const S*>(io.w_ih.data), io.w_ih.row, hidden, inputs, p,
                          panel(w_ih_of(direction), inputs));
      pack_gates<Factors>(static_cast<const S*>(io.w_hh.data), io.w_hh.row, hidden, hidden, p,
                          panel(w_hh_of(direction), hidden));
    }
    const int count = valid_lanes<T>(p * lanes, hidden);
    const auto bias = [&](const void* data, int64_t gate) {
      return data ? load(static_cast<const S*>(data) + gate * hidden + p * lanes, count) : Vec<T>{};
    };
    T* to = biases_of(direction) + p * 4 * lanes;
    store(to, bias(io.b_ih, 0) + bias(io.b_hh, 0));
    store(to + lanes, bias(io.b_ih, 1) + bias(io.b_hh, 1));
    store(to + 2 * lanes, bias(io.b_ih, 2));
    store(to + 3 * lanes, bias(io.b_hh, 2));
  }

  void piece(int64_t i) const {
    const int direction = int(i / plan.shares);
    const int64_t first = i % plan.shares * plan.share_rows;
    const int64_t last = first + plan.share_rows < params.shape.batch ? first + plan.share_rows : params.shape.batch;
    for (int64_t row = first; row < last; row += plan.tile_rows)
      tile(i, direction, row, row + plan.tile_rows < last ? row + plan.tile_rows : last);
  }

  // Rows [first, last) of the batch.
  void tile(int64_t i, int direction, int64_t first, int64_t last) const {
    const Shape& shape = params.shape;
    const int64_t hidden = shape.hidden, padded = layout.padded;
    const ForwardDirection& io = params.direction[direction];
    T* const scratch = piece_of(i);
    const Blocks<T> inputs{scratch, plan.chunk_rows()};
    T* const gi = scratch + layout.inputs;
    T* const gh = gi + layout.gi;
    T* const states = gh + layout.gh;
    const auto states_at = [&](int64_t which) {
      return States<S>::at(states + which * layout.state, states + 2 * layout.state + which * layout.factors,
                           plan.tile_rows);
    };
    States<S> state = states_at(0), next = states_at(1);
    const S* hx = static_cast<const S*>(io.hx.data);
    for (int64_t row = first; row < last; ++row)
      for (int64_t unit = 0; unit < padded; unit += lanes)
        state.set(row - first, unit, load(hx + row * io.hx.row + unit, valid_lanes<T>(unit, hidden)));

    int64_t alive = last - first;
    for (int64_t begin = 0; begin < shape.steps; begin += plan.chunk_steps) {
      const int64_t end = begin + plan.chunk_steps < shape.steps ? begin + plan.chunk_steps : shape.steps;
      project(direction, first, last, begin, end, inputs, gi);
      int64_t done = 0;  // rows of the chunk
      for (int64_t s = begin; s < end; ++s) {
        const int64_t t = shape.time_of(s, direction), rows = shape.rows_between(t, first, last);
        // A row that has just ended, or not begun, has its state in both buffers, which change places.
        for (int64_t row = rows; row < alive; ++row)
          for (int64_t unit = 0; unit < padded; unit += lanes) next.set(row, unit, load(state.numbers.at(row, unit)));
        alive = rows;
        if (rows > 0) {
          S* const output = static_cast<S*>(io.output.data) + shape.step_offset(io.output, t) + first * io.output.row;
          S* const gates = io.gates.data
                               ? static_cast<S*>(io.gates.data) + shape.step_offset(io.gates, t) + first * io.gates.row
                               : nullptr;
          const ForwardStep<S> step{io,
                                    hidden,
                                    layout.panels,
                                    w_hh_of(direction),
                                    layout.w_hh * int64_t(sizeof(T)) > kFarWeights,
                                    biases_of(direction),
                                    gi + done * kWidth<T>,
                                    plan.chunk_rows(),
                                    state,
                                    next,
                                    output,
                                    gates};
          if (plan.packed)
            for_blocks(rows, layout.panels, step);
          else
            step.run_unpacked(rows, gh);
        }
        done += rows;
        std::swap(state, next);
      }
    }

    S* h_n = static_cast<S*>(io.h_n.data);
    for (int64_t row = first; row < last; ++row)
      for (int64_t unit = 0; unit < hidden; unit += lanes)
        store(h_n + row * io.h_n.row + unit, load(state.numbers.at(row - first, unit)), valid_lanes<T>(unit, hidden));
  }

  // The input projection of the steps [begin, end), in the order of the recurrence, of a tile's rows that are alive.
  void project(int direction, int64_t first, int64_t last, int64_t begin, int64_t end, const Blocks<T>& inputs,
               T* gi) const {
    const Shape& shape = params.shape;
    const ForwardDirection& io = params.direction[direction];
    int64_t rows = 0;
    for (int64_t s = begin; s < end; ++s) {
      const int64_t t = shape.time_of(s, direction), alive = shape.rows_between(t, first, last);
      const S* x = static_cast<const S*>(io.x.data) + shape.step_offset(io.x, t) + first * io.x.row;
      for (int64_t row = 0; row < alive; ++row, ++rows)
        put_row<S>(inputs, rows, x + row * io.x.row, shape.inputs, plan.packed);
    }
    const Projection<S> projection{io,
                                   shape.inputs,
                                   shape.hidden,
                                   layout.panels,
                                   w_ih_of(direction),
                                   biases_of(direction),
                                   {inputs.data, inputs.capacity},
                                   gi};
    if (rows == 0) return;
    if (plan.packed)
      for_blocks(rows, layout.panels, projection);
    else
      projection.run_unpacked(rows);
  }
};

template <class S>
void run_forward(const ForwardParams& params, void* scratch, const cpu::Parallel& parallel) {
  const cpu::Plan plan = cpu::plan_of(params.shape, parallel.threads);
  const Forward<S> forward{params, plan,
                           ForwardScratch(params.shape, plan, Simd<Accumulate<S>>::lanes, FactorsOf<S>::terms),
                           static_cast<Accumulate<S>*>(scratch)};
  const auto pack = [](const void* self, int64_t i) { static_cast<const Forward<S>*>(self)->pack(i); };
  const auto piece = [](const void* self, int64_t i) { static_cast<const Forward<S>*>(self)->piece(i); };
  run_all(plan.parallel, parallel, params.shape.directions * forward.layout.panels, pack, &forward);
  run_all(plan.parallel, parallel, plan.pieces(params.shape), piece, &forward);
}

}  // namespace
}  // namespace gru_fused

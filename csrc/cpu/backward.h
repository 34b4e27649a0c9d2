// Backward of one share: batch rows of one direction through all time steps, from saved or recomputed gates.
//
// Chunk by chunk of steps, in the order opposite to the forward's: step by step the gradients of the gates, element by
// element, and their product with W_hh, which is the gradient that flows to the state before; then, while the chunk's
// gate gradients are in the cache, their products with W_ih (the gradient of x) and with x and the states
// (the weights' gradients). No array of gate gradients over all steps is ever made.
// Cost per step and row: 12 H (I + H) operations, 6H + 2I numbers in and out. Without saved gates those of a chunk are
// made first, from its x and the states before its steps, which all are known: no recurrence, two products at full
// speed. That is 6 H (I + H) operations more and 4H numbers less.
#pragma once

#include <utility>

#include "backward_scratch.h"
#include "gradients.h"

namespace gru_fused {
namespace {

// Panels of fewer bytes stay in the second-level cache.
constexpr int64_t kNearPanels = 192 * 1024;

// Recomputed gates lie where their gradients will.
template <class T>
struct ChunkGates {
  Blocks<T> to;  // [4 padded]
  int64_t padded;

  inline __attribute__((always_inline)) Vec<T> before(int64_t, int64_t) const { return Vec<T>{}; }  // not asked for
  inline __attribute__((always_inline)) void prefetch(int64_t, int64_t) const {}
  inline __attribute__((always_inline)) void keep(int64_t row, int64_t unit, const Stepped<Vec<T>>& step) const {
    const Vec<T> gates[4] = {step.gates.r, step.gates.z, step.gates.n, step.gates.gh_n};
    for (int g = 0; g < 4; ++g) store(to.at(row, g * padded + unit), gates[g]);
  }
};

template <class S>
struct Backward {
  using T = Accumulate<S>;
  static constexpr int lanes = Simd<T>::lanes;

  const BackwardParams& params;
  const cpu::Plan plan;
  const BackwardScratch layout;
  T* const scratch;

  // One share in the accumulating type writes the weights' gradients where they belong; several are added up.
  static bool direct(const cpu::Plan& plan) { return std::is_same_v<S, T> && plan.shares == 1; }

  struct Piece {
    T *gi, *gh, *grad_h, *product, *grads, *x_panels, *h_panels, *grad_x, *bias_sums, *grad_w_ih, *grad_w_hh;
  };

  // What one member of a team does: the units and columns of some panels. So it needs nothing of the others but the
  // gate gradients of a step.
  struct Part {
    Member& member;
    Range states, inputs;  // panels
    Range units;

    static Range columns(Range panels, int64_t count) {
      return {panels.begin * kWidth<T>, panels.end * kWidth<T> < count ? panels.end * kWidth<T> : count};
    }
  };
  Part part_of(Member& member) const {
    const Range states = member.part(state_panels());
    return {member, states, member.part(input_panels()), Part::columns(states, params.shape.hidden)};
  }

  Blocks<T> grad_h_of(const Piece& piece) const { return {piece.grad_h, plan.tile_rows}; }
  Blocks<T> grads_of(const Piece& piece) const { return {piece.grads, plan.chunk_rows()}; }
  Blocks<T> grad_x_of(const Piece& piece) const { return {piece.grad_x, plan.chunk_rows()}; }

  // The gate gradients of a chunk from one row and one of the four blocks on.
  Blocks<const T> grads_from(const Piece& piece, int64_t row, int64_t block) const {
    return grads_of(piece).from(row, block * layout.padded);
  }

  GateWeights<S> gate_weights_of(int direction) const {
    return {params.direction[direction], params.shape, plan, layout.gates, scratch + direction * layout.direction};
  }
  T* w_ih_of(int direction) const { return scratch + direction * layout.direction + layout.gate_weights; }
  T* w_hh_of(int direction) const { return w_ih_of(direction) + round_up(layout.w_ih, 16); }

  Piece piece_of(int64_t i) const {
    const BackwardDirection& io = params.direction[i / plan.shares];
    T* at = scratch + params.shape.directions * layout.direction + i * layout.piece;
    const auto next = [&](int64_t size) { return std::exchange(at, at + size); };
    Piece piece{next(layout.gi),        next(layout.gh),        next(layout.grad_h),   next(layout.product),
                next(layout.grads),     next(layout.x_panels),  next(layout.h_panels), next(layout.grad_x),
                next(layout.bias_sums), next(layout.grad_w_ih), next(layout.grad_w_hh)};
    if (direct(plan)) {
      piece.grad_w_ih = static_cast<T*>(io.grad_w_ih);
      piece.grad_w_hh = static_cast<T*>(io.grad_w_hh);
    }
    return piece;
  }

  int64_t state_panels() const { return layout.state_row / kWidth<T>; }
  int64_t input_panels() const { return layout.input_row / kWidth<T>; }
  int64_t gate_panels() const { return params.recompute() ? layout.gates.panels : 0; }
  int64_t panels() const { return gate_panels() + (plan.packed ? state_panels() + input_panels() : 0); }

  // Panel i of a direction: what recomputes the gates, W_hh, then W_ih.
  void pack(int64_t i) const {
    const int direction = int(i / panels());
    const BackwardDirection& io = params.direction[direction];
    const int64_t p = i % panels() - gate_panels(), rows = 3 * params.shape.hidden, size = rows * kWidth<T>;
    if (p < 0) {
      gate_weights_of(direction).pack(p + gate_panels());
    } else if (p < state_panels()) {
      pack_columns(static_cast<const S*>(io.w_hh.data), io.w_hh.row, rows, params.shape.hidden, p,
                   w_hh_of(direction) + p * size);
    } else if (io.grad_x.data) {
      const int64_t q = p - state_panels();
      pack_columns(static_cast<const S*>(io.w_ih.data), io.w_ih.row, rows, params.shape.inputs, q,
                   w_ih_of(direction) + q * size);
    }
  }

  Team* team_of(int64_t i) const { return reinterpret_cast<Team*>(scratch + layout.teams) + i; }

  // Worker i: one of the team of piece i / team.
  void work(int64_t i) const {
    Member member(team_of(i / plan.team), int(plan.team));
    if (member.joined()) piece(i / plan.team, part_of(member));
  }

  void piece(int64_t i, const Part& part) const {
    const Piece piece = piece_of(i);
    const int direction = int(i / plan.shares);
    const int64_t first = i % plan.shares * plan.share_rows;
    const int64_t last = first + plan.share_rows < params.shape.batch ? first + plan.share_rows : params.shape.batch;
    BiasSums<T> biases{layout.padded, part.units, piece.bias_sums};
    biases.clear();
    bool fresh = true;  // the weights' gradients hold nothing yet
    for (int64_t row = first; row < last; row += plan.tile_rows)
      tile(piece, part, direction, row, row + plan.tile_rows < last ? row + plan.tile_rows : last, biases, fresh);
    biases.end_block();
  }

  // Rows [first, last) of the batch.
  void tile(const Piece& piece, const Part& part, int direction, int64_t first, int64_t last, BiasSums<T>& biases,
            bool& fresh) const {
    const Shape& shape = params.shape;
    const int64_t hidden = shape.hidden;
    const BackwardDirection& io = params.direction[direction];
    const S* grad_h_n = static_cast<const S*>(io.grad_h_n.data);
    for (int64_t row = first; row < last; ++row)
      for (int64_t unit = part.units.begin; unit < part.units.end; unit += lanes)
        store(grad_h_of(piece).at(row - first, unit),
              grad_h_n ? load(grad_h_n + row * io.grad_h_n.row + unit, valid_lanes<T>(unit, hidden)) : Vec<T>{});

    for (int64_t end = shape.steps; end > 0; end -= plan.chunk_steps) {
      const int64_t begin = end > plan.chunk_steps ? end - plan.chunk_steps : 0;
      if (params.recompute()) recompute(piece, direction, first, last, begin, end);
      int64_t done = 0;  // rows of the chunk
      for (int64_t s = end - 1; s >= begin; --s) {
        const int64_t rows = shape.rows_between(shape.time_of(s, direction), first, last);
        if (rows == 0) continue;
        for (int64_t row = 0; row < rows; ++row) {
          gate_grads(piece, part, direction, s, first + row, row, done + row, biases);
          if (io.grad_b_ih) biases.end_row();
        }
        part.member.meet_after_step();  // the product needs all units
        const GateBlocks<T> blocks{grads_from(piece, done, 0), hidden, layout.padded, {2, 0, 1}};
        if (plan.packed) {
          multiply_panels(blocks, rows, w_hh_of(direction), hidden, part.states, grad_h_of(piece), true);
        } else {
          // Added last, as in the epilogue of the other way: a sum that began with z * dh would be rounded at its size.
          const Blocks<T> product{piece.product, plan.tile_rows};
          multiply_unpacked<S, T>(blocks, rows, io.w_hh, hidden, product);
          for (int64_t row = 0; row < rows; ++row)
            for (int64_t unit = 0; unit < hidden; unit += lanes) {
              T* const to = grad_h_of(piece).at(row, unit);
              store(to, load(to) + load(product.at(row, unit)));
            }
        }
        done += rows;
      }
      if (done == 0) continue;
      if (io.grad_x.data) grad_x(piece, part, direction, first, last, begin, end, done);
      if (io.grad_w_ih) {
        const bool add = !std::exchange(fresh, false);
        grad_weight(piece, piece.x_panels, part.inputs, done, piece.grad_w_ih, shape.inputs, {1, 2, 3}, add);
        grad_weight(piece, piece.h_panels, part.states, done, piece.grad_w_hh, hidden, {1, 2, 0}, add);
      }
      part.member.meet_after_chunk();  // the gate gradients have been used
    }

    S* grad_hx = static_cast<S*>(io.grad_hx.data);
    for (int64_t row = first; row < last; ++row)
      for (int64_t unit = part.units.begin; unit < part.units.end; unit += lanes)
        store(grad_hx + row * io.grad_hx.row + unit, load(grad_h_of(piece).at(row - first, unit)),
              valid_lanes<T>(unit, hidden));
  }

  // The gates of a chunk, steps [begin, end), into the rows of their gradients. x and the states lie for so long where
  // their panels will.
  void recompute(const Piece& piece, int direction, int64_t first, int64_t last, int64_t begin, int64_t end) const {
    const Shape& shape = params.shape;
    const BackwardDirection& io = params.direction[direction];
    const Blocks<T> x{piece.x_panels, plan.chunk_rows()}, states{piece.h_panels, plan.chunk_rows()};
    int64_t rows = 0;
    for (int64_t s = end - 1; s >= begin; --s) {
      const int64_t t = shape.time_of(s, direction), alive = shape.rows_between(t, first, last);
      for (int64_t row = first; row < first + alive; ++row, ++rows) {
        put_row<S>(x, rows, row_of<S>(shape, io.x, t, row), shape.inputs, plan.packed);
        put_row<S>(states, rows, state_before<S>(shape, io.output, io.hx, direction, s, row), shape.hidden,
                   plan.packed);
      }
    }
    if (rows == 0) return;
    const GateWeights<S> weights = gate_weights_of(direction);
    const ChunkGates<T> gates{grads_of(piece), layout.padded};
    const Range all{0, weights.panels};
    make(Projection<S>{weights, x, piece.gi}, rows, all);
    using Step = CellStep<S, ChunkGates<T>>;
    make(RecurrentProduct<S, Step>{weights, states, piece.gh, Step{weights, piece.gi, plan.chunk_rows(), gates}}, rows,
         all);
  }

  // Element by element for one row at the s-th step of the forward: `row` counts in the batch, `tile_row` in the tile
  // and `chunk_row` in the chunk. The row's x and state before the step go into panels.
  void gate_grads(const Piece& piece, const Part& part, int direction, int64_t s, int64_t row, int64_t tile_row,
                  int64_t chunk_row, BiasSums<T>& biases) const {
    const Shape& shape = params.shape;
    const BackwardDirection& io = params.direction[direction];
    const int64_t hidden = shape.hidden, padded = layout.padded, t = shape.time_of(s, direction);
    const S* const before = state_before<S>(shape, io.output, io.hx, direction, s, row);
    const S* const grad_output = io.grad_output.data ? row_of<S>(shape, io.grad_output, t, row) : nullptr;
    const S* const saved = params.recompute() ? nullptr : row_of<S>(shape, io.gates, t, row);
    const Blocks<T> grad_h = grad_h_of(piece).from(tile_row), to = grads_of(piece).from(chunk_row);
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
        store(to.at(0, g * padded + unit), of_gates[g]);
        if (io.grad_b_ih) biases.add(g * padded + unit, of_gates[g]);
      }
      store(grad_h.at(0, unit), grads.h);
    }
    if (!io.grad_w_ih) return;
    pack_row(before, hidden, part.states, piece.h_panels, plan.chunk_rows(), chunk_row);
    pack_row(row_of<S>(shape, io.x, t, row), shape.inputs, part.inputs, piece.x_panels, plan.chunk_rows(), chunk_row);
  }

  // The gradient of x of a chunk, steps [begin, end), which has `done` rows.
  void grad_x(const Piece& piece, const Part& part, int direction, int64_t first, int64_t last, int64_t begin,
              int64_t end, int64_t done) const {
    const Shape& shape = params.shape;
    const BackwardDirection& io = params.direction[direction];
    const GateBlocks<T> blocks{grads_from(piece, 0, 1), shape.hidden, layout.padded, {0, 1, 2}};
    if (plan.packed)
      multiply_panels(blocks, done, w_ih_of(direction), shape.inputs, part.inputs, grad_x_of(piece), false);
    else
      multiply_unpacked<S, T>(blocks, done, io.w_ih, shape.inputs, grad_x_of(piece));
    const Range columns = Part::columns(part.inputs, shape.inputs);
    int64_t from = 0;
    for (int64_t s = end - 1; s >= begin; --s) {
      const int64_t t = shape.time_of(s, direction), rows = shape.rows_between(t, first, last);
      S* to = static_cast<S*>(io.grad_x.data) + shape.step_offset(io.grad_x, t) + first * io.grad_x.row;
      for (int64_t row = 0; row < rows; ++row, ++from)
        for (int64_t k = columns.begin; k < columns.end; k += lanes)
          store(to + row * io.grad_x.row + k, load(grad_x_of(piece).at(from, k)), valid_lanes<T>(k, shape.inputs));
    }
  }

  // A part of the columns. blocks: where the gradients of r, z and n stand in a row of gate gradients.
  void grad_weight(const Piece& piece, const T* panels, Range part, int64_t rows, T* to, int64_t columns,
                   const int64_t (&blocks)[3], bool add) const {
    const int64_t hidden = params.shape.hidden;
    if (rows < kRows && !add && plan.team == 1) {
      for (int64_t gate = 0; gate < 3; ++gate)
        write_outer_products(grads_from(piece, 0, blocks[gate]), rows, hidden, panels, to + gate * hidden * columns,
                             columns);
      return;
    }
    const auto block = [&](int64_t gate, int64_t unit, int64_t column) {
      with_vectors<T>(column, columns, [&](auto vectors) {
        for_blocks(valid_lanes<T>(unit, hidden), {0, 1},
                   WeightGradient<T, vectors>{grads_from(piece, 0, blocks[gate]), rows, unit,
                                              panels + column * plan.chunk_rows(), column, to + gate * hidden * columns,
                                              columns, add});
      });
    };
    // The panels stay in the cache, the result is written in order; or a panel stays, and the result comes by.
    if (rows * (part.end - part.begin) * kWidth<T> * int64_t(sizeof(T)) <= kNearPanels) {
      for (int64_t gate = 0; gate < 3; ++gate)
        for (int64_t unit = 0; unit < hidden; unit += lanes)
          for (int64_t p = part.begin; p < part.end; ++p) block(gate, unit, p * kWidth<T>);
    } else {
      for (int64_t p = part.begin; p < part.end; ++p)
        for (int64_t gate = 0; gate < 3; ++gate)
          for (int64_t unit = 0; unit < hidden; unit += lanes) block(gate, unit, p * kWidth<T>);
    }
  }

  // One gate of a direction: the gradients of weights and biases, the sums over the pieces in their order.
  void sum_pieces(int64_t i) const {
    const int64_t hidden = params.shape.hidden, inputs = params.shape.inputs;
    const int direction = int(i / 3);
    const int64_t gate = i % 3, row = gate * hidden;
    const BackwardDirection& io = params.direction[direction];
    if (io.grad_w_ih && !direct(plan)) {
      add_up(direction, row * inputs, hidden * inputs, &Piece::grad_w_ih, io.grad_w_ih);
      add_up(direction, row * hidden, hidden * hidden, &Piece::grad_w_hh, io.grad_w_hh);
    }
    if (io.grad_b_ih) {
      const int64_t blocks[2][3] = {{1, 2, 3}, {1, 2, 0}};
      for (int64_t unit = 0; unit < hidden; unit += lanes) {
        Vec<T> sums[2] = {};
        for (int64_t p = direction * plan.shares; p < (direction + 1) * plan.shares; ++p)
          for (int b = 0; b < 2; ++b) sums[b] += load(piece_of(p).bias_sums + blocks[b][gate] * layout.padded + unit);
        const int count = valid_lanes<T>(unit, hidden);
        store(static_cast<S*>(io.grad_b_ih) + row + unit, sums[0], count);
        store(static_cast<S*>(io.grad_b_hh) + row + unit, sums[1], count);
      }
    }
  }

  void add_up(int direction, int64_t begin, int64_t count, T* Piece::* part, void* to) const {
    for (int64_t k = 0; k < count; k += lanes) {
      Vec<T> sum = {};
      const int valid = valid_lanes<T>(k, count);
      for (int64_t p = direction * plan.shares; p < (direction + 1) * plan.shares; ++p)
        sum += load(piece_of(p).*part + begin + k, valid);
      store(static_cast<S*>(to) + begin + k, sum, valid);
    }
  }

  // An empty batch: sums of no terms.
  void clear_grads() const {
    const int64_t rows = 3 * params.shape.hidden;
    for (int d = 0; d < params.shape.directions; ++d) {
      const BackwardDirection& io = params.direction[d];
      const auto clear = [](void* to, int64_t count) {
        for (int64_t i = 0; to && i < count; ++i) static_cast<S*>(to)[i] = S{};
      };
      clear(io.grad_w_ih, rows * params.shape.inputs);
      clear(io.grad_w_hh, rows * params.shape.hidden);
      clear(io.grad_b_ih, rows);
      clear(io.grad_b_hh, rows);
    }
  }
};

inline cpu::Plan backward_plan(const BackwardParams& params, int64_t threads) {
  cpu::Plan plan = cpu::plan_of(params.shape, threads);
  if (params.recompute()) plan.team = 1;  // each member would need the gates of all units
  plan.parallel = plan.parallel && plan.workers(params.shape) > 1;
  return plan;
}

template <class S>
BackwardScratch backward_layout(const BackwardParams& params, const cpu::Plan& plan) {
  return BackwardScratch(params.shape, plan, Simd<Accumulate<S>>::lanes, FactorsOf<S>::terms, Backward<S>::direct(plan),
                         params.recompute());
}

template <class S>
void run_backward(const BackwardParams& params, void* scratch, const cpu::Parallel& parallel) {
  const cpu::Plan plan = backward_plan(params, parallel.threads);
  const Backward<S> backward{params, plan, backward_layout<S>(params, plan), static_cast<Accumulate<S>*>(scratch)};
  if (params.shape.batch == 0) return backward.clear_grads();
  const auto pack = [](const void* self, int64_t i) { static_cast<const Backward<S>*>(self)->pack(i); };
  const auto work = [](const void* self, int64_t i) { static_cast<const Backward<S>*>(self)->work(i); };
  const auto sum = [](const void* self, int64_t i) { static_cast<const Backward<S>*>(self)->sum_pieces(i); };
  const bool parallel_now = side_by_side(plan, params.shape);
  for (int64_t i = 0; i < plan.pieces(params.shape); ++i) new (backward.team_of(i)) Team;
  const int64_t directions = params.shape.directions;
  run_all(parallel_now, parallel, directions * backward.panels(), pack, &backward);
  run_all(parallel_now, parallel, plan.workers(params.shape), work, &backward);
  run_all(parallel_now, parallel, directions * 3, sum, &backward);
}

}  // namespace
}  // namespace gru_fused

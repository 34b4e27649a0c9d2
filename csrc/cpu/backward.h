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
#include "tile_gradients.h"

namespace gru_fused {
namespace {

// Panels of fewer bytes stay in the second-level cache.
constexpr int64_t kNearPanels = 192 * 1024;

// The steps of a chunk, and what gradients come of them, are up to `Steps`: backward_steps.h has those of the plain
// cell.
//   static plan, scratch                       of a call
//   Steps(backward, piece, part, direction, rows)
//   int64_t make_steps(steps, biases)          fills grads of so many rows; the panels too, if weights want gradients
//   void finish(steps, rows, fresh)            the gradients of x and of the weights, which are `fresh` at first
//   void end()                                 of the tile
//   static packs_late                          whether it multiplies by W_hh's panels once a step
template <class S, class Steps>
struct Backward {
  using T = Accumulate<S>;
  using Params = typename Steps::Params;
  static constexpr int lanes = Simd<T>::lanes;

  const Params& params;
  const cpu::Plan plan;
  const BackwardScratch layout;
  T* const scratch;

  // One share writes the weights' gradients where they belong, if these are of the accumulating type or made at once;
  // several are added up.
  static bool direct(const cpu::Plan& plan) {
    return plan.shares == 1 && (std::is_same_v<S, T> || (kInTiles<S> && plan.once));
  }

  struct Piece {
    T *gi, *gh, *grad_h, *product, *grads, *x_panels, *h_panels, *grad_x, *bias_sums, *grad_w_ih, *grad_w_hh, *turned,
        *more;
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
    return grads_of(piece).from(row, block * layout.gate);
  }

  GateWeights<S> gate_weights_of(int direction) const {
    return {params.direction[direction], params.shape, plan, layout.gates, scratch + direction * layout.direction};
  }
  T* w_ih_of(int direction) const { return scratch + direction * layout.direction + layout.gate_weights; }
  T* w_hh_of(int direction) const { return w_ih_of(direction) + round_up(layout.w_ih, 16); }

  Piece piece_of(int64_t i) const {
    const auto& io = params.direction[i / plan.shares];
    T* at = scratch + params.shape.directions * layout.direction + i * layout.piece;
    const auto next = [&](int64_t size) { return std::exchange(at, at + size); };
    Piece piece{next(layout.gi),        next(layout.gh),        next(layout.grad_h),    next(layout.product),
                next(layout.grads),     next(layout.x_panels),  next(layout.h_panels),  next(layout.grad_x),
                next(layout.bias_sums), next(layout.grad_w_ih), next(layout.grad_w_hh), next(layout.turned),
                next(layout.more)};
    if (std::is_same_v<S, T> && direct(plan)) {
      piece.grad_w_ih = static_cast<T*>(io.grad_w_ih);
      piece.grad_w_hh = static_cast<T*>(io.grad_w_hh);
    }
    return piece;
  }

  int64_t state_panels() const { return layout.state_row / kWidth<T>; }
  int64_t input_panels() const { return layout.input_row / kWidth<T>; }
  int64_t gate_panels() const { return layout.gate_weights ? layout.gates.panels : 0; }
  int64_t panels() const { return gate_panels() + (plan.packed ? state_panels() + input_panels() : 0); }

  // Panel i of a direction: what recomputes the gates, W_hh, then W_ih.
  void pack(int64_t i) const {
    const int direction = int(i / panels());
    const auto& io = params.direction[direction];
    const int64_t p = i % panels() - gate_panels(), size = 3 * layout.depth * kWidth<T>;
    if (p < 0) {
      gate_weights_of(direction).pack(p + gate_panels());
    } else if (p < state_panels()) {
      pack_panel(io.w_hh, params.shape.hidden, p, w_hh_of(direction) + p * size);
    } else if (io.grad_x.data) {
      const int64_t q = p - state_panels();
      pack_panel(io.w_ih, params.shape.inputs, q, w_ih_of(direction) + q * size);
    }
  }
  void pack_panel(const Rows<const void>& weight, int64_t columns, int64_t p, T* panel) const {
    const S* const w = static_cast<const S*>(weight.data);
    if constexpr (kInTiles<S>)
      pack_pairs_of_columns(w, weight.row, params.shape.hidden, columns, p, layout.depth, panel);
    else
      pack_columns(w, weight.row, 3 * params.shape.hidden, columns, p, panel);
  }

  // The panels that one member multiplies by.
  void pack_own(int direction, const Part& part) const {
    const int64_t first = direction * panels(), first_of_states = first + gate_panels();
    const auto pack_range = [&](int64_t from, Range range) {
      for (int64_t p = range.begin; p < range.end; ++p) pack(from + p);
    };
    pack_range(first, part.member.part(gate_panels()));
    if (!plan.packed) return;
    if (!state_late()) pack_range(first_of_states, part.states);
    if (!plan.once) pack_range(first_of_states + state_panels(), part.inputs);
  }

  Team* team_of(int64_t i) const { return reinterpret_cast<Team*>(scratch + layout.teams) + i; }

  // Worker i: one of the team of piece i / team.
  void work(int64_t i) const {
    Member member(team_of(i / plan.team), int(plan.team));
    const TilesFor<S> tiles(plan.packed);
    if (member.joined()) piece(i / plan.team, part_of(member));
  }

  void piece(int64_t i, const Part& part) const {
    const Piece piece = piece_of(i);
    const int direction = int(i / plan.shares);
    const int64_t first = i % plan.shares * plan.share_rows;
    const int64_t last = first + plan.share_rows < params.shape.batch ? first + plan.share_rows : params.shape.batch;
    if (plan.shares == 1) pack_own(direction, part);
    BiasSums<T> biases{layout.padded, layout.sums, part.units, piece.bias_sums};
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
    const auto& io = params.direction[direction];
    const S* grad_h_n = static_cast<const S*>(io.grad_h_n.data);
    for (int64_t row = first; row < last; ++row)
      for (int64_t unit = part.units.begin; unit < part.units.end; unit += lanes)
        store(grad_h_of(piece).at(row - first, unit),
              grad_h_n ? load(grad_h_n + row * io.grad_h_n.row + unit, valid_lanes<T>(unit, hidden)) : Vec<T>{});

    Steps steps(*this, piece, part, direction, {first, last});
    for (int64_t end = shape.steps; end > 0; end -= plan.chunk_steps) {
      const Range chunk{end > plan.chunk_steps ? end - plan.chunk_steps : 0, end};
      const int64_t rows = steps.make_steps(chunk, biases);
      steps.finish(chunk, rows, fresh);
      part.member.meet_after_chunk();  // the gate gradients have been used
    }
    steps.end();

    S* grad_hx = static_cast<S*>(io.grad_hx.data);
    for (int64_t row = first; row < last; ++row)
      for (int64_t unit = part.units.begin; unit < part.units.end; unit += lanes)
        store(grad_hx + row * io.grad_hx.row + unit, load(grad_h_of(piece).at(row - first, unit)),
              valid_lanes<T>(unit, hidden));
  }

  // Whether W_hh's panels are used once; W_ih's are if all is one chunk.
  bool state_late() const { return Steps::packs_late && plan.once && params.shape.steps == 1; }

  // The product of all three blocks of gate gradients with a part of a weight's panels. Those that are used once,
  // `late`, are packed just before, always in the same place, so that the cache keeps it.
  void multiply_by_panels(const GateBlocks<T>& blocks, int64_t rows, const Rows<const void>& weight, T* panels,
                          bool late, int64_t columns, Range part, const Blocks<T>& to, bool add,
                          bool backwards = false) const {
    const auto multiply = [&](const T* from, int64_t count, Range some, const Blocks<T>& into) {
      if constexpr (kInTiles<S>)
        multiply_panels_in_tiles(blocks, rows, from, count, some, into, add, backwards);
      else
        multiply_panels(blocks, rows, from, count, some, into, add, backwards);
    };
    if (!late) return multiply(panels, columns, part, to);
    T* const place = panels + part.begin * 3 * layout.depth * kWidth<T>;
    for (int64_t p = part.begin; p < part.end; ++p) {
      pack_panel(weight, columns, p, place);
      multiply(place, columns - p * kWidth<T>, {0, 1}, to.from(0, p * kWidth<T>));
    }
  }

  // The gradient of x for the rows of a chunk, in grad_x_of.
  void multiply_grad_x(const Piece& piece, const Part& part, int direction, int64_t rows) const {
    const GateBlocks<T> blocks{grads_from(piece, 0, 1), layout.depth, layout.gate, {0, 1, 2}};
    if (plan.packed)
      multiply_by_panels(blocks, rows, params.direction[direction].w_ih, w_ih_of(direction), plan.once,
                         params.shape.inputs, part.inputs, grad_x_of(piece), false);
    else
      multiply_unpacked<S, T>(blocks, rows, params.direction[direction].w_ih, params.shape.inputs, grad_x_of(piece));
  }

  // A part of the columns, for some gates. blocks: where the gradients of r, z and n stand in a row of gate gradients.
  void grad_weight(const Piece& piece, const T* panels, Range part, int64_t rows, T* to, int64_t columns,
                   const int64_t (&blocks)[3], bool add, Range gates = {0, 3}) const {
    const int64_t hidden = params.shape.hidden;
    if (rows > 0 && rows < kRows && !add && plan.team == 1) {
      for (int64_t gate = gates.begin; gate < gates.end; ++gate)
        write_outer_products(grads_from(piece, 0, blocks[gate]), rows, hidden, panels, to + gate * hidden * columns,
                             columns);
      return;
    }
    const auto block = [&](int64_t gate, int64_t unit, int64_t column) {
      with_vectors<T>(column, columns, [&](auto vectors) {
        for_blocks({0, valid_lanes<T>(unit, hidden)}, {0, 1},
                   WeightGradient<T, vectors>{grads_from(piece, 0, blocks[gate]), rows, unit,
                                              panels + column * plan.chunk_rows(), column, to + gate * hidden * columns,
                                              columns, add});
      });
    };
    // The panels stay in the cache, the result is written in order; or a panel stays, and the result comes by.
    if (rows * (part.end - part.begin) * kWidth<T> * int64_t(sizeof(T)) <= kNearPanels) {
      for (int64_t gate = gates.begin; gate < gates.end; ++gate)
        for (int64_t unit = 0; unit < hidden; unit += lanes)
          for (int64_t p = part.begin; p < part.end; ++p) block(gate, unit, p * kWidth<T>);
    } else {
      for (int64_t p = part.begin; p < part.end; ++p)
        for (int64_t gate = gates.begin; gate < gates.end; ++gate)
          for (int64_t unit = 0; unit < hidden; unit += lanes) block(gate, unit, p * kWidth<T>);
    }
  }

  // One gate of a direction: the gradients of weights and biases, the sums over the pieces in their order.
  void sum_pieces(int64_t i) const {
    const int64_t hidden = params.shape.hidden, inputs = params.shape.inputs;
    const int direction = int(i / 3);
    const int64_t gate = i % 3, row = gate * hidden;
    const auto& io = params.direction[direction];
    if (io.grad_w_hh && !direct(plan)) {
      add_up(direction, row * inputs, hidden * inputs, &Piece::grad_w_ih, io.grad_w_ih);
      add_up(direction, row * hidden, hidden * hidden, &Piece::grad_w_hh, io.grad_w_hh);
    }
    const auto sum = [&](const int64_t (&blocks)[3], void* to) {
      if (to) sum_biases(direction, blocks[gate], static_cast<S*>(to) + row);
    };
    sum({1, 2, 3}, io.grad_b_ih);
    sum({1, 2, 0}, io.grad_b_hh);
    if constexpr (requires { io.grad_gain; }) sum({5, 6, 4}, io.grad_gain);
  }

  void sum_biases(int direction, int64_t block, S* to) const {
    for (int64_t unit = 0; unit < params.shape.hidden; unit += lanes) {
      Vec<T> sum = {};
      for (int64_t p = direction * plan.shares; p < (direction + 1) * plan.shares; ++p)
        sum += load(piece_of(p).bias_sums + block * layout.padded + unit);
      store(to + unit, sum, valid_lanes<T>(unit, params.shape.hidden));
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
};

template <class S, class Steps>
void run_backward(const typename Steps::Params& params, void* scratch, const cpu::Parallel& parallel) {
  using Run = Backward<S, Steps>;
  const cpu::Plan plan = Steps::plan(params, parallel.threads);
  const Run backward{params, plan, Steps::scratch(params, plan), static_cast<Accumulate<S>*>(scratch)};
  const auto pack = [](const void* self, int64_t i) { static_cast<const Run*>(self)->pack(i); };
  const auto work = [](const void* self, int64_t i) { static_cast<const Run*>(self)->work(i); };
  const auto sum = [](const void* self, int64_t i) { static_cast<const Run*>(self)->sum_pieces(i); };
  const bool parallel_now = side_by_side(plan);
  for (int64_t i = 0; i < plan.pieces(params.shape); ++i) new (backward.team_of(i)) Team;
  const int64_t directions = params.shape.directions;
  // Several shares of a direction read the same panels, which are packed before; else each member packs its own.
  if (plan.shares > 1) run_all(parallel_now, parallel, directions * backward.panels(), pack, &backward);
  run_all(parallel_now, parallel, plan.workers(params.shape), work, &backward);
  run_all(parallel_now && !Run::direct(plan), parallel, directions * 3, sum, &backward);
}

// Bytes of scratch memory.
template <class S, class Steps>
size_t backward_bytes(const typename Steps::Params& params, int64_t threads) {
  return size_t(Steps::scratch(params, Steps::plan(params, threads)).total) * sizeof(Accumulate<S>);
}

}  // namespace
}  // namespace gru_fused

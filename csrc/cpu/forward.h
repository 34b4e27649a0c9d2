// Forward of one share: batch rows of one direction through all time steps.
//
// Chunk by chunk of steps: first the input projection of all of the chunk's rows, one product at full speed, whose
// result stays in the cache; then step by step the recurrent product of a tile's states with W_hh, and in
// its epilogue, while the sums are in registers, the gates and the new state.
// Cost per step and row: 6 H (I + H) operations, 12 H (I / chunk rows + H / tile rows) bytes of weights (float).
#pragma once

#include "gates.h"
#include "team.h"

namespace gru_fused {
namespace {

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

// One step of one tile: the new states, and the gates if a backward will want them.
template <class S>
struct TileStates {
  using T = Accumulate<S>;
  static constexpr int lanes = Simd<T>::lanes;

  const ForwardDirection& io;
  int64_t hidden;
  States<S> state, next;  // before and after the step
  S* output;              // of the tile's first row
  S* gates;               // of the tile's first row, or null

  inline __attribute__((always_inline)) Vec<T> before(int64_t row, int64_t unit) const {
    return load(state.numbers.at(row, unit));
  }

  inline __attribute__((always_inline)) void prefetch(int64_t row, int64_t unit) const {
    __builtin_prefetch(output + row * io.output.row + unit, 1);
    if (gates)
      for (int g = 0; g < 4; ++g) __builtin_prefetch(gates + row * io.gates.row + g * hidden + unit, 1);
  }

  inline __attribute__((always_inline)) void keep(int64_t row, int64_t unit, const Stepped<Vec<T>>& step) const {
    const int count = valid_lanes<T>(unit, hidden);
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
  GateWeightsScratch weights;  // of one direction
  int64_t padded, inputs, gi, gh, state, factors, piece, teams, total;

  ForwardScratch(const Shape& shape, const cpu::Plan& plan, int64_t lanes, int terms)
      : weights(shape, plan, lanes, terms) {
    constexpr int64_t line = 64 / sizeof(float);  // keeps every part on its own cache lines
    padded = weights.padded;
    inputs = round_up(plan.chunk_rows() * round_up(shape.inputs, lanes), line);
    gi = round_up(plan.chunk_rows() * 3 * padded, line);
    gh = plan.packed ? 0 : round_up(plan.tile_rows * 3 * padded, line);
    state = plan.tile_rows * padded;
    factors = terms == 1 ? 0 : plan.tile_rows * round_up(factors_in(padded, terms), lanes);
    piece = inputs + gi + gh + round_up(2 * (state + factors), line);
    teams = shape.directions * weights.total + plan.pieces(shape) * piece;
    total = teams + plan.pieces(shape) * int64_t(sizeof(Team) / sizeof(float));
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

  GateWeights<S> weights_of(int direction) const {
    return {params.direction[direction], params.shape, plan, layout.weights,
            scratch + direction * layout.weights.total};
  }
  T* piece_of(int64_t i) const { return scratch + params.shape.directions * layout.weights.total + i * layout.piece; }

  // Panel i % panels of direction i / panels.
  void pack(int64_t i) const {
    const int64_t panels = layout.weights.panels;
    weights_of(int(i / panels)).pack(i % panels);
  }

  Team* team_of(int64_t i) const { return reinterpret_cast<Team*>(scratch + layout.teams) + i; }

  // Worker i: one of the team of piece i / team.
  void work(int64_t i) const {
    Member member(team_of(i / plan.team), int(plan.team));
    if (member.joined()) piece(i / plan.team, member);
  }

  void piece(int64_t i, Member& member) const {
    const int direction = int(i / plan.shares);
    const int64_t first = i % plan.shares * plan.share_rows;
    const int64_t last = first + plan.share_rows < params.shape.batch ? first + plan.share_rows : params.shape.batch;
    for (int64_t row = first; row < last; row += plan.tile_rows)
      tile(i, direction, row, row + plan.tile_rows < last ? row + plan.tile_rows : last, member);
  }

  // Rows [first, last) of the batch, a member's part of the units.
  void tile(int64_t i, int direction, int64_t first, int64_t last, Member& member) const {
    const Shape& shape = params.shape;
    const int64_t hidden = shape.hidden;
    const ForwardDirection& io = params.direction[direction];
    const Range part = member.part(layout.weights.panels), units{part.begin * lanes, part.end * lanes};
    const GateWeights<S> weights = weights_of(direction);
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
      for (int64_t unit = units.begin; unit < units.end; unit += lanes)
        state.set(row - first, unit, load(hx + row * io.hx.row + unit, valid_lanes<T>(unit, hidden)));

    int64_t alive = last - first;
    for (int64_t begin = 0; begin < shape.steps; begin += plan.chunk_steps) {
      const int64_t end = begin + plan.chunk_steps < shape.steps ? begin + plan.chunk_steps : shape.steps;
      project(weights, direction, first, last, begin, end, inputs, gi, member);
      int64_t done = 0;  // rows of the chunk
      for (int64_t s = begin; s < end; ++s) {
        const int64_t t = shape.time_of(s, direction), rows = shape.rows_between(t, first, last);
        // A row that has just ended, or not begun, has its state in both buffers, which change places.
        for (int64_t row = rows; row < alive; ++row)
          for (int64_t unit = units.begin; unit < units.end; unit += lanes)
            next.set(row, unit, load(state.numbers.at(row, unit)));
        alive = rows;
        if (rows > 0) {
          S* const output = static_cast<S*>(io.output.data) + shape.step_offset(io.output, t) + first * io.output.row;
          S* const gates = io.gates.data
                               ? static_cast<S*>(io.gates.data) + shape.step_offset(io.gates, t) + first * io.gates.row
                               : nullptr;
          const TileStates<S> results{io, hidden, state, next, output, gates};
          using Step = CellStep<S, TileStates<S>>;
          make(RecurrentProduct<S, Step>{weights, plan.packed ? state.factors : state.numbers, gh,
                                         Step{weights, gi + done * kWidth<T>, plan.chunk_rows(), results}},
               rows, part);
        }
        member.meet_after_step();  // the next needs all units
        done += rows;
        std::swap(state, next);
      }
    }

    S* h_n = static_cast<S*>(io.h_n.data);
    for (int64_t row = first; row < last; ++row)
      for (int64_t unit = units.begin; unit < units.end; unit += lanes)
        store(h_n + row * io.h_n.row + unit, load(state.numbers.at(row - first, unit)), valid_lanes<T>(unit, hidden));
  }

  // The input projection of the steps [begin, end), in the order of the recurrence, of a tile's rows that are alive.
  void project(const GateWeights<S>& weights, int direction, int64_t first, int64_t last, int64_t begin, int64_t end,
               const Blocks<T>& inputs, T* gi, Member& member) const {
    const Shape& shape = params.shape;
    const ForwardDirection& io = params.direction[direction];
    int64_t rows = 0;
    for (int64_t s = begin; s < end; ++s) {
      const int64_t t = shape.time_of(s, direction), alive = shape.rows_between(t, first, last);
      const S* x = static_cast<const S*>(io.x.data) + shape.step_offset(io.x, t) + first * io.x.row;
      const Range part = member.part(alive);
      for (int64_t row = part.begin; row < part.end; ++row)
        put_row<S>(inputs, rows + row, x + row * io.x.row, shape.inputs, plan.packed);
      rows += alive;
    }
    member.meet_after_chunk();  // all rows are there, and, before the first step, the states
    if (rows > 0) make(Projection<S>{weights, inputs, gi}, rows, member.part(layout.weights.panels));
    member.meet_after_chunk();  // so that a step's time is its own
  }
};

template <class S>
void run_forward(const ForwardParams& params, void* scratch, const cpu::Parallel& parallel) {
  const cpu::Plan plan = cpu::plan_of(params.shape, parallel.threads);
  const Forward<S> forward{params, plan,
                           ForwardScratch(params.shape, plan, Simd<Accumulate<S>>::lanes, FactorsOf<S>::terms),
                           static_cast<Accumulate<S>*>(scratch)};
  const auto pack = [](const void* self, int64_t i) { static_cast<const Forward<S>*>(self)->pack(i); };
  const auto work = [](const void* self, int64_t i) { static_cast<const Forward<S>*>(self)->work(i); };
  const bool parallel_now = side_by_side(plan, params.shape);
  for (int64_t i = 0; i < plan.pieces(params.shape); ++i) new (forward.team_of(i)) Team;
  run_all(parallel_now, parallel, params.shape.directions * forward.layout.weights.panels, pack, &forward);
  run_all(parallel_now, parallel, plan.workers(params.shape), work, &forward);
}

}  // namespace
}  // namespace gru_fused

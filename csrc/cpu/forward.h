// Forward of one share: batch rows of one direction through all time steps.
//
// Chunk by chunk of steps: first the input projection of all of the chunk's rows, one product at full speed, whose
// result stays in the cache; then step by step the recurrent product of a tile's states with W_hh, and in
// its epilogue, while the sums are in registers, the gates and the new state. Whole steps (plan.h) make both products.
// Cost per step and row: 6 H (I + H) operations, 12 H (I / chunk rows + H / tile rows) bytes of weights (float).
#pragma once

#include "cell_step.h"
#include "team.h"

namespace gru_fused {
namespace {

// The states of a tile, as numbers and as the factors of the product; where these are numbers too, they are the same.
template <class S>
struct States {
  using T = Accumulate<S>;
  static constexpr bool pairs = FactorsOf<S>::terms == 2;
  static constexpr int lanes = Simd<T>::lanes;

  Blocks<T> numbers, factors;

  static States at(T* memory, T* factors, int64_t rows) { return {{memory, rows}, {pairs ? factors : memory, rows}}; }

  // One vector of units of some rows, of which the first `count` are units: they lie side by side, vectors of numbers
  // and half as long ones of pairs.
  struct Vector {
    T* numbers;
    T* factors;
    int count;

    inline __attribute__((always_inline)) void set(int64_t m, Vec<T> h) const {
      store(numbers + m * lanes, h);
      if constexpr (pairs) store(reinterpret_cast<bf16*>(factors + m * lanes), h, count);
    }
  };
  inline __attribute__((always_inline)) Vector vector(int64_t row, int64_t unit, int count) const {
    return {numbers.at(row, unit), pairs ? factors.at(row, unit / 2) : nullptr, count};
  }
};

// One step of one tile: the new states, and the gates if a backward will want them.
template <class S>
struct TileStates {
  using T = Accumulate<S>;
  static constexpr int lanes = Simd<T>::lanes;

  int64_t hidden;
  States<S> state, next;  // before and after the step
  S* output;              // of the tile's first row
  int64_t output_row;
  S* gates;  // of the tile's first row, or null
  int64_t gates_row;

  inline __attribute__((always_inline)) void prefetch(int64_t row, int64_t unit) const {
    __builtin_prefetch(output + row * output_row + unit, 1);
    if (gates)
      for (int g = 0; g < 4; ++g) __builtin_prefetch(gates + row * gates_row + g * hidden + unit, 1);
  }

  struct Vector {
    const T* state;
    typename States<S>::Vector next;
    S* output;
    int64_t output_row;
    S* gates;
    int64_t gates_row, hidden;
    int count;  // of units

    inline __attribute__((always_inline)) Vec<T> before(int64_t m) const { return load(state + m * lanes); }

    inline __attribute__((always_inline)) void keep(int64_t m, const Stepped<Vec<T>>& step) const {
      next.set(m, step.h);
      store(output + m * output_row, step.h, count);
      if (gates) {
        S* const to = gates + m * gates_row;
        store(to, step.gates.r, count);
        store(to + hidden, step.gates.z, count);
        store(to + 2 * hidden, step.gates.n, count);
        store(to + 3 * hidden, step.gates.gh_n, count);
      }
    }
  };
  inline __attribute__((always_inline)) Vector vector(int64_t row, int64_t unit) const {
    return {state.numbers.at(row, unit),
            next.vector(row, unit, valid_lanes<T>(unit, hidden)),
            output + row * output_row + unit,
            output_row,
            gates ? gates + row * gates_row + unit : nullptr,
            gates_row,
            hidden,
            valid_lanes<T>(unit, hidden)};
  }
};

// Where the parts of the scratch memory begin, in elements of the accumulating type.
struct ForwardScratch {
  GateWeightsScratch weights;  // of one direction
  int64_t padded, inputs, gi, gh, state, factors, piece, teams, total;

  // `more`: what `Steps` of Forward wants beside the states of a tile.
  ForwardScratch(const Shape& shape, const cpu::Plan& plan, int64_t lanes, int terms, int64_t more = 0)
      : weights(shape, plan, lanes, terms) {
    constexpr int64_t line = 64 / sizeof(float);  // keeps every part on its own cache lines
    padded = weights.padded;
    inputs = round_up(plan.chunk_rows() * round_up(shape.inputs, lanes), line);
    gi = plan.whole ? 0 : round_up(plan.chunk_rows() * 3 * padded, line);
    gh = plan.packed ? 0 : round_up(plan.tile_rows * 3 * padded, line);
    state = plan.tile_rows * padded;
    factors = terms == 1 ? 0 : plan.tile_rows * round_up(factors_in(padded, terms), lanes);
    piece = inputs + gi + gh + round_up(2 * (state + factors) + more + kTileSlack, line);
    teams = shape.directions * weights.total + plan.pieces(shape) * piece;
    total = teams + plan.pieces(shape) * int64_t(sizeof(Team) / sizeof(float));
  }
};

// A member's part of a tile: batch rows [first, last) of one direction, and the panels of some units.
template <class S>
struct TilePart {
  using T = Accumulate<S>;

  const Shape& shape;
  const cpu::Plan& plan;
  const GateWeights<S>& weights;
  Member& member;
  int direction;
  int64_t first, last;
  Range panels, units;
  T* gh;      // as RecurrentProduct wants it
  T* states;  // two of them, and what `Steps` of Forward wants beside them

  bool has_last_units() const { return units.begin < units.end && units.end == weights.panels * Simd<T>::lanes; }
};

// The steps of a tile: the plain cell.
template <class S>
struct PlainSteps {
  using T = Accumulate<S>;
  using Params = ForwardParams;
  static constexpr int lanes = Simd<T>::lanes;
  static constexpr bool packs_late = true;

  static cpu::Plan plan(const Params& params, int64_t threads) {
    return cpu::plan_of(params.shape, threads, cpu::Sweep::forward, kProductsOf<S>);
  }
  static ForwardScratch scratch(const Params& params, const cpu::Plan& plan) {
    return {params.shape, plan, lanes, FactorsOf<S>::terms};
  }

  const TilePart<S>& tile;
  const ForwardDirection& io;
  States<S> state, next;  // before and after a step

  PlainSteps(const Params& params, const ForwardScratch& layout, const TilePart<S>& tile)
      : tile(tile), io(params.direction[tile.direction]) {
    const auto states_at = [&](int64_t which) {
      return States<S>::at(tile.states + which * layout.state, tile.states + 2 * layout.state + which * layout.factors,
                           tile.plan.tile_rows);
    };
    state = states_at(0), next = states_at(1);
  }

  bool projects() const { return true; }

  // The state before the first step of a row of the tile.
  void begin(int64_t row) const {
    const S* const hx = static_cast<const S*>(io.hx.data) + (tile.first + row) * io.hx.row;
    if (tile.has_last_units())
      for (const States<S>& each : {state, next}) end_factors<S>(each.factors, row, tile.shape.hidden);
    for (int64_t unit = tile.units.begin; unit < tile.units.end; unit += lanes) {
      const int count = valid_lanes<T>(unit, tile.shape.hidden);
      state.vector(row, unit, count).set(0, load(hx + unit, count));
    }
  }

  // A row that takes no part in a step.
  void stay(int64_t row) const {
    for (int64_t unit = tile.units.begin; unit < tile.units.end; unit += lanes)
      next.vector(row, unit, valid_lanes<T>(unit, tile.shape.hidden)).set(0, load(state.numbers.at(row, unit)));
  }

  // The s-th step of the first `rows` rows; gi is theirs, or if the plan says so x, as factors.
  void make_step(int64_t s, int64_t rows, const Blocks<const T>& x, const T* gi) const {
    const int64_t t = tile.shape.time_of(s, tile.direction);
    S* const gates = io.gates.data ? row_of<S>(tile.shape, io.gates, t, tile.first) : nullptr;
    S* const output = row_of<S>(tile.shape, io.output, t, tile.first);
    const TileStates<S> results{tile.shape.hidden, state, next, output, io.output.row, gates, io.gates.row};
    using Step = CellStep<S, TileStates<S>>;
    if (tile.plan.whole) {
      const WholeProduct<S, Step> product{tile.weights, x, state.factors, Step{tile.weights, nullptr, 0, results}};
      return make(product, rows, tile.panels, s % 2);
    }
    recurrent_step(RecurrentProduct<S, Step>{tile.weights, tile.plan.packed ? state.factors : state.numbers, tile.gh,
                                             Step{tile.weights, gi, tile.plan.chunk_rows(), results}},
                   s, rows, tile.panels);
  }
};

template <class S, class Steps = PlainSteps<S>>
struct Forward {
  using T = Accumulate<S>;
  using Params = typename Steps::Params;
  static constexpr int lanes = Simd<T>::lanes;

  const Params& params;
  const cpu::Plan plan;
  const ForwardScratch layout;
  T* const scratch;

  GateWeights<S> weights_of(int direction) const {
    GateWeights<S> weights(params.direction[direction], params.shape, plan, layout.weights,
                           scratch + direction * layout.weights.total);
    weights.state_late = Steps::packs_late && plan.once && params.shape.steps == 1;
    weights.input_late = plan.whole ? weights.state_late : plan.once;
    return weights;
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
    const TilesFor<S> tiles(plan.packed);
    if (member.joined()) piece(i / plan.team, member);
  }

  void piece(int64_t i, Member& member) const {
    const int direction = int(i / plan.shares);
    const int64_t first = i % plan.shares * plan.share_rows;
    const int64_t last = first + plan.share_rows < params.shape.batch ? first + plan.share_rows : params.shape.batch;
    if (plan.shares == 1) {
      const Range own = member.part(layout.weights.panels);
      for (int64_t panel = own.begin; panel < own.end; ++panel) weights_of(direction).pack(panel);
    }
    for (int64_t row = first; row < last; row += plan.tile_rows)
      tile(i, direction, row, row + plan.tile_rows < last ? row + plan.tile_rows : last, member);
  }

  // Rows [first, last) of the batch, a member's part of the units.
  void tile(int64_t i, int direction, int64_t first, int64_t last, Member& member) const {
    const Shape& shape = params.shape;
    const Range panels = member.part(layout.weights.panels), units{panels.begin * lanes, panels.end * lanes};
    GateWeights<S> weights = weights_of(direction);
    weights.place = panels.begin;
    T* const scratch = piece_of(i);
    const Blocks<T> inputs{scratch, plan.chunk_rows()};
    T* const gi = scratch + layout.inputs;
    T* const gh = gi + layout.gi;
    const TilePart<S> part{shape, plan, weights, member, direction, first, last, panels, units, gh, gh + layout.gh};
    Steps steps(params, layout, part);
    for (int64_t row = 0; row < last - first; ++row) steps.begin(row);

    int64_t alive = last - first;
    for (int64_t begin = 0; begin < shape.steps; begin += plan.chunk_steps) {
      const int64_t end = begin + plan.chunk_steps < shape.steps ? begin + plan.chunk_steps : shape.steps;
      if (steps.projects()) project(weights, direction, first, last, begin, end, inputs, gi, member);
      member.meet_after_chunk();  // so that a step's time is its own; and before the first step the states are there
      int64_t done = 0;           // rows of the chunk
      for (int64_t s = begin; s < end; ++s) {
        const int64_t rows = shape.rows_between(shape.time_of(s, direction), first, last);
        // A row that has just ended, or not begun, has its state in both buffers, which change places.
        for (int64_t row = rows; row < alive; ++row) steps.stay(row);
        alive = rows;
        if (rows > 0) steps.make_step(s, rows, inputs.from(done), gi + done * kWidth<T>);
        member.meet_after_step();  // the next needs all units
        done += rows;
        std::swap(steps.state, steps.next);
      }
    }

    const auto& h_n = params.direction[direction].h_n;
    for (int64_t row = first; row < last; ++row)
      for (int64_t unit = units.begin; unit < units.end; unit += lanes)
        store(static_cast<S*>(h_n.data) + row * h_n.row + unit, load(steps.state.numbers.at(row - first, unit)),
              valid_lanes<T>(unit, shape.hidden));
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
    member.meet_after_chunk();  // all rows are there
    if (rows > 0 && !plan.whole) make_projection<S>(weights, inputs, gi, rows, member.part(layout.weights.panels));
  }
};

template <class S, class Steps = PlainSteps<S>>
void run_forward(const typename Steps::Params& params, void* scratch, const cpu::Parallel& parallel) {
  using Run = Forward<S, Steps>;
  cpu::Plan plan = Steps::plan(params, parallel.threads);
  if (plan.brief && !cpu::streak().goes_on(cpu::OtherWork::Clock::now())) plan.team = 1;
  const bool parallel_now = plan.workers(params.shape) > 1 && side_by_side(plan);
  if (!parallel_now) plan.team = 1;  // nobody would come
  const Run forward{params, plan, Steps::scratch(params, plan), static_cast<Accumulate<S>*>(scratch)};
  const auto pack = [](const void* self, int64_t i) { static_cast<const Run*>(self)->pack(i); };
  const auto work = [](const void* self, int64_t i) { static_cast<const Run*>(self)->work(i); };
  for (int64_t i = 0; i < plan.pieces(params.shape); ++i) new (forward.team_of(i)) Team;
  // Several shares of a direction read the same panels, which are packed before; else each member packs its own.
  if (plan.shares > 1)
    run_all(parallel_now, parallel, params.shape.directions * forward.layout.weights.panels, pack, &forward);
  run_all(parallel_now, parallel, plan.workers(params.shape), work, &forward);
}

// Bytes of scratch memory.
template <class S, class Steps = PlainSteps<S>>
size_t forward_bytes(const typename Steps::Params& params, int64_t threads) {
  return size_t(Steps::scratch(params, Steps::plan(params, threads)).total) * sizeof(Accumulate<S>);
}

}  // namespace
}  // namespace gru_fused

// Forward of the variants of the cell: the steps of a tile, in the loop of forward.h.
//
// reset_after is one product with the cell in its epilogue, as the plain cell is. The others take two turns, between
// which a team meets: the candidate of reset_before has a product of its own, of the same panels, and a norm needs the
// sums of all units. For those the weights lie in panels always.
#pragma once

#include <cmath>

#include "forward.h"
#include "variant_gates.h"

namespace gru_fused {
namespace {

template <class S>
struct VariantSteps {
  using T = Accumulate<S>;
  using Params = VariantForwardParams;
  static constexpr int lanes = Simd<T>::lanes;

  static constexpr bool packs_late = false;  // some make several products with a panel

  static cpu::Plan plan(const Params& params, int64_t threads) {
    cpu::Plan plan = cpu::plan_of(params.shape, threads, cpu::Sweep::variant_forward);
    plan.packed = plan.packed || params.variant.cell.two_phases();
    plan.brief = plan.brief && !plan.packed;
    return plan;
  }

  // Beside the states: masked ones; what is between the two turns; a RowStep of each row for each member.
  static int64_t masked(const Params& params, int64_t state) {
    return params.direction[0].dropout.data ? 2 * state : 0;
  }
  static int64_t between(const Params& params, int64_t state) {
    return params.variant.cell.norm() ? 3 * state : params.variant.cell.two_phases() ? 2 * state : 0;
  }
  static ForwardScratch scratch(const Params& params, const cpu::Plan& plan) {
    static_assert(sizeof(RowStep<S>) % sizeof(T) == 0);
    const int64_t state = plan.tile_rows * round_up(params.shape.hidden, lanes);
    const int64_t rows = plan.team * plan.tile_rows * int64_t(sizeof(RowStep<S>) / sizeof(T));
    return {params.shape, plan, lanes, FactorsOf<S>::terms, masked(params, state) + between(params, state) + rows};
  }

  const TilePart<S>& tile;
  const Variant& variant;
  const VariantForwardDirection& io;
  const bool pairs;
  MaskedStates<S> state, next;  // before and after a step
  Blocks<T> z, reset;           // reset_before: the gate, and the factors of the candidate's product
  T* y;                         // a norm: NormSums
  RowStep<S>* rows;

  VariantSteps(const Params& params, const ForwardScratch& layout, const TilePart<S>& tile)
      : tile(tile),
        variant(params.variant),
        io(params.direction[tile.direction]),
        pairs(tile.plan.packed && FactorsOf<S>::terms == 2) {
    const int64_t capacity = tile.plan.tile_rows;
    T* const factors = tile.states + 2 * layout.state;
    T* const more = factors + 2 * layout.factors;
    const auto states_at = [&](int64_t which) -> MaskedStates<S> {
      T* const numbers = tile.states + which * layout.state;
      T* const of_product = pairs             ? factors + which * layout.factors
                            : io.dropout.data ? more + which * layout.state
                                              : numbers;
      return {{numbers, capacity}, {of_product, capacity}};
    };
    state = states_at(0), next = states_at(1);
    y = more + masked(params, layout.state);
    z = {y, capacity}, reset = {y + layout.state, capacity};
    rows = reinterpret_cast<RowStep<S>*>(y + between(params, layout.state)) +
           tile.member.part(tile.plan.team).begin * capacity;
  }

  bool projects() const { return !variant.cell.norm(); }

  void begin(int64_t row) const {
    const VariantStep<S> step = step_of(-1, nullptr);
    const bool resets = variant.resets(tile.shape, 0, tile.direction, tile.first + row);
    const S* const hx = static_cast<const S*>(io.hx.data) + (tile.first + row) * io.hx.row;
    if (pairs && tile.has_last_units()) {
      for (const MaskedStates<S>& each : {state, next}) end_factors<S>(each.factors, row, tile.shape.hidden);
      if (variant.cell.recurrence == Recurrence::reset_before) end_factors<S>(reset, row, tile.shape.hidden);
    }
    for (int64_t unit = tile.units.begin; unit < tile.units.end; unit += lanes)
      step.set(state, row, unit, resets ? step.reset_state(row, unit) : load(hx + unit, step.valid(unit)));
  }

  // A row that has no place in a step of packed rows.
  void stay(int64_t row) const {
    const VariantStep<S> step = step_of(-1, nullptr);
    for (int64_t unit = tile.units.begin; unit < tile.units.end; unit += lanes)
      step.set(next, row, unit, load(state.numbers.at(row, unit)));
  }

  // What the epilogues are told of the s-th step. -1: of no step, to set a state only.
  VariantStep<S> step_of(int64_t s, const T* gi) const {
    const int64_t t = tile.shape.time_of(s, tile.direction);
    const auto at = [&](const Rows<void>& array) {
      return s >= 0 && array.data ? row_of<S>(tile.shape, array, t, tile.first) : nullptr;
    };
    return {io,   variant.cell, tile.weights,  tile.first,   rows, state,
            next, pairs,        at(io.output), at(io.gates), gi,   tile.plan.chunk_rows()};
  }

  RowStep<S> row_step(int64_t s, int64_t row) const {
    const Shape& shape = tile.shape;
    const int64_t t = shape.time_of(s, tile.direction);
    const bool resets = s + 1 < shape.steps && variant.resets(shape, s + 1, tile.direction, row);
    const S* const update = io.update.data ? row_of<S>(shape, io.update, t, row) : nullptr;
    const bool per_unit = update && io.update_per_unit;
    return {per_unit ? update : nullptr, per_unit || !update ? T(1) : load(update, 1)[0], variant.alive(shape, t, row),
            resets};
  }

  void make_step(int64_t s, int64_t count, const Blocks<const T>&, const T* gi) const {
    for (int64_t row = 0; row < count; ++row) rows[row] = row_step(s, tile.first + row);
    const VariantStep<S> step = step_of(s, gi);
    const Blocks<const T> factors = state.factors;
    if (variant.cell.norm()) {
      normalize(s, count, step);
    } else if (variant.cell.recurrence == Recurrence::reset_before) {
      recurrent_step_from_panels(
          RecurrentProduct<S, ResetBefore<S>, 0, 2>{tile.weights, factors, nullptr, {step, z, reset}}, s, count,
          tile.panels);
      tile.member.meet_after_step();  // the candidate needs all units
      recurrent_step_from_panels(
          RecurrentProduct<S, ResetBeforeCandidate<S>, 2, 1>{tile.weights, reset, nullptr, {step, z}}, s, count,
          tile.panels);
    } else {
      recurrent_step(RecurrentProduct<S, ResetAfter<S>>{tile.weights, factors, tile.gh, {step}}, s, count, tile.panels);
    }
  }

  void normalize(int64_t s, int64_t count, const VariantStep<S>& step) const {
    const int64_t t = tile.shape.time_of(s, tile.direction);
    const NormSums<S> sums{step, row_of<S>(tile.shape, io.x, t, tile.first), y, tile.plan.tile_rows};
    recurrent_step_from_panels(RecurrentProduct<S, NormSums<S>>{tile.weights, state.factors, nullptr, sums}, s, count,
                               tile.panels);
    tile.member.meet_after_step();  // mean and variance are of all units
    const bool writes_scale = io.scale.data && tile.units.begin == 0 && tile.units.end > 0;  // one member
    for (int64_t row = 0; row < count; ++row) {
      S* const normal = io.normal.data ? row_of<S>(tile.shape, io.normal, t, tile.first + row) : nullptr;
      T scale = 0;
      if (rows[row].alive) {
        const Normalized<S> normalized(sums, row);
        normalized.make(tile.panels, normal);
        scale = normalized.scale;
      } else {
        for (int64_t unit = tile.units.begin; unit < tile.units.end; unit += lanes) {
          step.stay(row, unit);
          for (int g = 0; normal && g < 3; ++g)
            store(normal + g * tile.shape.hidden + unit, Vec<T>{}, step.valid(unit));
        }
      }
      if (writes_scale) *row_of<T>(tile.shape, io.scale, t, tile.first + row) = scale;
    }
  }
};

}  // namespace
}  // namespace gru_fused

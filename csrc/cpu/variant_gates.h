// What the forward of a variant (variant_cell.h) makes of the recurrent product: its epilogues.
//
// The state in memory is the one that the next step begins with: where that step resets, the state that is set there.
// So the product and the cell need to know nothing of episodes, and of the mask of recurrent dropout only that the
// factors of the product are not the state itself.
#pragma once

#include "../variant_params.h"
#include "gates.h"
#include "simd_math.h"

namespace gru_fused {
namespace {

// What holds for one row at one step, found once for all of its units.
template <class S>
struct RowStep {
  const S* update;             // of its units, or null
  Accumulate<S> whole_update;  // of all units, if `update` is null
  bool alive;
  bool resets_next;  // the next step resets
};

// The states of a tile as numbers, and as the factors of the product: masked, or pairs, or the same.
template <class S>
struct MaskedStates {
  using T = Accumulate<S>;

  Blocks<T> numbers, factors;
};

// Numbers of a row into the factors of a product: as they are, or as pairs, of which the first `count` numbers count.
template <class S, class T>
inline __attribute__((always_inline)) void put_factors(const Blocks<T>& to, int64_t row, int64_t unit, Vec<T> x,
                                                       bool pairs, int count) {
  if constexpr (FactorsOf<S>::terms == 2)
    if (pairs) return store(reinterpret_cast<bf16*>(to.at(row, unit / 2)), x, count);
  store(to.at(row, unit), x);
}

// One step of one tile. Rows count from the tile's first.
template <class S>
struct VariantStep {
  using T = Accumulate<S>;
  using Math = VectorMath<T>;
  static constexpr int lanes = Simd<T>::lanes;

  const VariantForwardDirection& io;
  const Cell& cell;
  const GateWeights<S>& weights;
  int64_t first;  // row of the batch
  const RowStep<S>* rows;
  MaskedStates<S> state, next;  // before and after the step
  bool pairs;                   // the factors are
  S *output, *gates;            // of the first row; no gates: null
  const T* gi;                  // [panels][gi_rows][3][lanes], from the first row on; none with a norm
  int64_t gi_rows;

  int valid(int64_t unit) const { return valid_lanes<T>(unit, weights.hidden); }

  inline __attribute__((always_inline)) void prefetch(int64_t row, int64_t unit) const {
    __builtin_prefetch(output + row * io.output.row + unit, 1);
    if (gates)
      for (int g = 0; g < 4; ++g) __builtin_prefetch(gates + row * io.gates.row + g * weights.hidden + unit, 1);
    if (gi)
      for (int g = 0; g < 3; ++g) __builtin_prefetch(gi_at(row, unit / lanes) + g * lanes);
    if (rows[row].update) __builtin_prefetch(rows[row].update + unit);
  }

  const T* gi_at(int64_t row, int64_t panel) const { return gi + (panel * gi_rows + row) * kWidth<T>; }
  inline Vec<T> bias(int64_t panel, int g) const { return load(weights.biases + (panel * 4 + g) * lanes); }

  // The state as the recurrent product sees it.
  inline __attribute__((always_inline)) Vec<T> masked(int64_t row, int64_t unit, Vec<T> h) const {
    if (!io.dropout.data) return h;
    return h * load(static_cast<const S*>(io.dropout.data) + (first + row) * io.dropout.row + unit, valid(unit));
  }

  // What a step begins with.
  inline __attribute__((always_inline)) void set(const MaskedStates<S>& to, int64_t row, int64_t unit, Vec<T> h) const {
    store(to.numbers.at(row, unit), h);
    if (pairs || to.factors.data != to.numbers.data)
      put_factors<S>(to.factors, row, unit, masked(row, unit, h), pairs, valid(unit));
  }

  // The state that a reset sets.
  inline __attribute__((always_inline)) Vec<T> reset_state(int64_t row, int64_t unit) const {
    if (!io.reset_state.data) return Vec<T>{};
    return load(static_cast<const S*>(io.reset_state.data) + (first + row) * io.reset_state.row + unit, valid(unit));
  }

  inline __attribute__((always_inline)) void save(int64_t row, int64_t unit, int gate, Vec<T> value) const {
    if (gates) store(gates + row * io.gates.row + gate * weights.hidden + unit, value, valid(unit));
  }

  // A row that is past its length, or not yet within it. What is saved of it is not used, but is the op's result.
  void stay(int64_t row, int64_t unit) const {
    for (int g = 0; g < 4; ++g) save(row, unit, g, Vec<T>{});
    set(next, row, unit, load(state.numbers.at(row, unit)));
    store(output + row * io.output.row + unit, Vec<T>{}, valid(unit));
  }

  inline __attribute__((always_inline)) void end(int64_t row, int64_t unit, Vec<T> z, Vec<T> n) const {
    const RowStep<S>& now = rows[row];
    const Vec<T> update = now.update ? load(now.update + unit, valid(unit)) : broadcast(now.whole_update);
    const Vec<T> h = variant_state<Math>(z, n, update, load(state.numbers.at(row, unit)));
    store(output + row * io.output.row + unit, h, valid(unit));
    set(next, row, unit, now.resets_next ? reset_state(row, unit) : h);
  }

  // The gates when all of gh is known; not for reset_before.
  inline __attribute__((always_inline)) void all_gates(int64_t row, int64_t unit, const Vec<T> (&gi)[3],
                                                       const Vec<T> (&gh)[3]) const {
    const Vec<T> r = activate<Math>(cell.gate, gi[0] + gh[0]), z = activate<Math>(cell.gate, gi[1] + gh[1]);
    const Vec<T> n = variant_candidate<Math>(cell, r, gi[2], gh[2]);
    const Vec<T> of_row[4] = {r, z, n, gh[2]};
    for (int g = 0; g < 4; ++g) save(row, unit, g, of_row[g]);
    end(row, unit, z, n);
  }
};

// The epilogues are not inline: there would be a copy, with all activations, for every number of rows and panels.

// reset_after: the whole step.
template <class S>
struct ResetAfter {
  using T = Accumulate<S>;
  static constexpr int lanes = Simd<T>::lanes;

  VariantStep<S> step;

  inline __attribute__((always_inline)) void prefetch(int64_t row, int64_t panel) const {
    step.prefetch(row, panel * lanes);
  }
  __attribute__((noinline)) void operator()(int64_t row, int64_t panel, const Vec<T> (&sums)[3]) const {
    if (!step.rows[row].alive) return step.stay(row, panel * lanes);
    const T* const gi = step.gi_at(row, panel);
    step.all_gates(row, panel * lanes, {load(gi), load(gi + lanes), load(gi + 2 * lanes)},
                   {sums[0], sums[1], sums[2] + step.bias(panel, 3)});
  }
};

// reset_before, first: r and z, and with r the factors of the second product.
template <class S>
struct ResetBefore {
  using T = Accumulate<S>;
  using Math = VectorMath<T>;
  static constexpr int lanes = Simd<T>::lanes;

  VariantStep<S> step;
  Blocks<T> z, factors;

  inline __attribute__((always_inline)) void prefetch(int64_t row, int64_t panel) const {
    step.prefetch(row, panel * lanes);
  }
  __attribute__((noinline)) void operator()(int64_t row, int64_t panel, const Vec<T> (&sums)[2]) const {
    if (!step.rows[row].alive) return;
    const int64_t unit = panel * lanes;
    const T* const gi = step.gi_at(row, panel);
    const Vec<T> gates[2] = {activate<Math>(step.cell.gate, load(gi) + sums[0]),
                             activate<Math>(step.cell.gate, load(gi + lanes) + sums[1])};
    for (int g = 0; g < 2; ++g) step.save(row, unit, g, gates[g]);
    store(z.at(row, unit), gates[1]);
    put_factors<S>(factors, row, unit, gates[0] * step.masked(row, unit, load(step.state.numbers.at(row, unit))),
                   step.pairs, step.valid(unit));
  }
};

// reset_before, then: the candidate and the state.
template <class S>
struct ResetBeforeCandidate {
  using T = Accumulate<S>;
  using Math = VectorMath<T>;
  static constexpr int lanes = Simd<T>::lanes;

  VariantStep<S> step;
  Blocks<T> z;

  inline __attribute__((always_inline)) void prefetch(int64_t, int64_t) const {}
  __attribute__((noinline)) void operator()(int64_t row, int64_t panel, const Vec<T> (&sums)[1]) const {
    const int64_t unit = panel * lanes;
    if (!step.rows[row].alive) return step.stay(row, unit);
    const Vec<T> gh_n = sums[0] + step.bias(panel, 3);
    const Vec<T> n = variant_candidate<Math>(step.cell, Vec<T>{}, load(step.gi_at(row, panel) + 2 * lanes), gh_n);
    step.save(row, unit, 2, n);
    step.save(row, unit, 3, gh_n);
    step.end(row, unit, load(z.at(row, unit)), n);
  }
};

// A norm, first: what is normalized, y.
template <class S>
struct NormSums {
  using T = Accumulate<S>;
  static constexpr int lanes = Simd<T>::lanes;

  const VariantStep<S>& step;
  const S* x;  // of the first row
  T* y;        // [panels][capacity][3][lanes]
  int64_t capacity;

  T* at(int64_t row, int64_t panel) const { return y + (panel * capacity + row) * kWidth<T>; }
  Vec<T> gi(int64_t row, int64_t panel, int g) const {
    return load(x + row * step.io.x.row + g * step.weights.hidden + panel * lanes, step.valid(panel * lanes));
  }

  inline __attribute__((always_inline)) void prefetch(int64_t row, int64_t panel) const {
    for (int g = 0; g < 3; ++g) __builtin_prefetch(x + row * step.io.x.row + g * step.weights.hidden + panel * lanes);
    step.prefetch(row, panel * lanes);
  }
  __attribute__((noinline)) void operator()(int64_t row, int64_t panel, const Vec<T> (&sums)[3]) const {
    const bool add = step.cell.recurrence == Recurrence::norm_sum;
    for (int g = 0; g < 3; ++g) store(at(row, panel) + g * lanes, add ? gi(row, panel, g) + sums[g] : sums[g]);
  }
};

// A norm, then: some panels of one row. Every member of a team finds mean and scale itself.
template <class S>
struct Normalized {
  using T = Accumulate<S>;
  static constexpr int lanes = Simd<T>::lanes;

  const NormSums<S>& sums;
  int64_t row;
  T mean, scale;

  Normalized(const NormSums<S>& sums, int64_t row) : sums(sums), row(row) {
    const int64_t panels = sums.step.weights.panels, count = 3 * sums.step.weights.hidden;
    Vec<T> total[3] = {};
    for (int64_t panel = 0; panel < panels; ++panel)
      for (int g = 0; g < 3; ++g) total[g] += load(sums.at(row, panel) + g * lanes);  // zero past H
    mean = sum_lanes<T>(total[0] + total[1] + total[2]) / T(count);
    Vec<T> squares[3] = {};
    for (int64_t panel = 0; panel < panels; ++panel)
      for (int g = 0; g < 3; ++g) {
        const Vec<T> deviation = difference(panel, g);
        squares[g] += deviation * deviation;
      }
    const T variance = sum_lanes<T>(squares[0] + squares[1] + squares[2]) / T(count);
    scale = T(1) / std::sqrt(variance + T(sums.step.cell.epsilon));
  }

  // y - mean, zero past H.
  Vec<T> difference(int64_t panel, int g) const {
    const T* const y = sums.at(row, panel) + g * lanes;
    const int count = sums.step.valid(panel * lanes);
    if (count == lanes) return load(y) - mean;
    T part[lanes];
    store(part, load(y) - mean);
    return load(part, count);
  }

  void make(Range panels, S* normal) const {
    const VariantStep<S>& step = sums.step;
    const int64_t hidden = step.weights.hidden;
    const bool add = step.cell.recurrence == Recurrence::norm_recurrent;
    for (int64_t panel = panels.begin; panel < panels.end; ++panel) {
      const int64_t unit = panel * lanes;
      const int count = step.valid(unit);
      Vec<T> gi[3], gh[3];
      for (int g = 0; g < 3; ++g) {
        const auto of_unit = [&](const void* data) {
          return load(static_cast<const S*>(data) + g * hidden + unit, count);
        };
        const Vec<T> y = difference(panel, g) * scale;
        if (normal) store(normal + g * hidden + unit, y, count);
        gh[g] = y * of_unit(step.io.gain) + of_unit(step.io.b_hh);
        gi[g] = add ? sums.gi(row, panel, g) : Vec<T>{};
      }
      step.all_gates(row, unit, gi, gh);
    }
  }
};

}  // namespace
}  // namespace gru_fused

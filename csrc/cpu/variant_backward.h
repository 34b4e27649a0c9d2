// Backward of the variants of the cell: the steps of a chunk, in the loop of backward.h.
//
// A step goes on with the rows that are alive, which stand one after the other in the arrays of a chunk; the others
// keep the gradient of their state. Row by row
//   1. gate_grads         the gates' gradients, as far as they are known, and the factors of the weights' gradients
//   2. reset_grads        reset_before: the product with W_hn is r's gradient
//      norm_grads         a norm: from the gradients past it those of the product before it
//   3. pass_on            the product with W_hh goes to the state before, or to the one that a reset has set
// and a team meets after 1 and 2.
#pragma once

#include "backward.h"

namespace gru_fused {
namespace {

// What holds for one row at one step, found once for all of its units.
template <class S>
struct BackwardRow {
  int64_t row;                 // of the tile
  const S* before;             // the state that the step began with; null: zero
  const S* update;             // of its units, or null
  Accumulate<S> whole_update;  // of all units, if `update` is null
  bool resets;
};

template <class S>
struct VariantBackwardSteps {
  using T = Accumulate<S>;
  using Math = VectorMath<T>;
  using Params = VariantBackwardParams;
  using Run = Backward<S, VariantBackwardSteps>;
  static constexpr int lanes = Simd<T>::lanes;
  static constexpr bool packs_late = false;         // some make several products with a panel
  static constexpr int64_t kGateOf[3] = {2, 0, 1};  // of the first three blocks of gate gradients

  static cpu::Plan plan(const Params& params, int64_t threads) {
    cpu::Plan plan = cpu::plan_of(params.shape, threads, cpu::Sweep::backward);
    plan.packed = plan.packed || params.variant.cell.two_phases();
    return plan;
  }

  // What is wanted of a piece beside the plain cell's: a BackwardRow of each row for each member, and arrays.
  struct More {
    int64_t rows, product, grad_reset_state, past_norm, reset_panels;

    More(const Params& params, const cpu::Plan& plan) {
      static_assert(sizeof(BackwardRow<S>) % sizeof(T) == 0);
      const VariantBackwardDirection& io = params.direction[0];
      const Cell& cell = params.variant.cell;
      const int64_t hidden = params.shape.hidden, state_row = round_up(hidden, kWidth<T>);
      rows = plan.team * plan.tile_rows * int64_t(sizeof(BackwardRow<S>) / sizeof(T));
      product = plan.tile_rows * state_row;
      grad_reset_state = io.grad_reset_state.data ? product : 0;
      past_norm = cell.norm() ? plan.tile_rows * 4 * round_up(hidden, lanes) : 0;
      reset_panels = cell.recurrence == Recurrence::reset_before && io.grad_w_hh ? plan.chunk_rows() * state_row : 0;
    }
    int64_t total() const { return rows + product + grad_reset_state + past_norm + reset_panels; }
  };
  static BackwardScratch scratch(const Params& params, const cpu::Plan& plan) {
    return {params.shape,
            plan,
            lanes,
            FactorsOf<S>::terms,
            Run::direct(plan),
            /*recompute=*/false,
            params.variant.cell.norm() ? 7 : 4,
            More(params, plan).total()};
  }

  const Run& run;
  const typename Run::Piece& piece;
  const typename Run::Part& part;
  const int direction;
  const Range tile;  // rows of the batch
  const Shape& shape;
  const Variant& variant;
  const VariantBackwardDirection& io;
  const int64_t hidden, padded;
  const bool norm, before;  // norm: of either kind; before: reset_before
  BackwardRow<S>* rows;
  Blocks<T> product, grad_reset_state;
  Blocks<T> past_norm;  // gate gradients of a step
  T* reset_panels;      // r * hd, as h_panels

  VariantBackwardSteps(const Run& run, const typename Run::Piece& piece, const typename Run::Part& part, int direction,
                       Range tile)
      : run(run),
        piece(piece),
        part(part),
        direction(direction),
        tile(tile),
        shape(run.params.shape),
        variant(run.params.variant),
        io(run.params.direction[direction]),
        hidden(shape.hidden),
        padded(run.layout.padded),
        norm(variant.cell.norm()),
        before(variant.cell.recurrence == Recurrence::reset_before) {
    const More more(run.params, run.plan);
    const int64_t capacity = run.plan.tile_rows;
    T* const arrays = piece.more + more.rows;
    rows = reinterpret_cast<BackwardRow<S>*>(piece.more) + part.member.part(run.plan.team).begin * capacity;
    product = {arrays, capacity};
    grad_reset_state = {product.data + more.product, capacity};
    past_norm = {grad_reset_state.data + more.grad_reset_state, capacity};
    reset_panels = past_norm.data + more.past_norm;
    if (io.grad_reset_state.data)
      for (int64_t row = 0; row < tile.end - tile.begin; ++row)
        for_units([&](int64_t unit, int) { store(grad_reset_state.at(row, unit), Vec<T>{}); });
  }

  // Calls action(unit, how many of the vector's lanes are units) for a member's units.
  template <class Action>
  void for_units(const Action& action) const {
    for (int64_t unit = part.units.begin; unit < part.units.end; unit += lanes)
      action(unit, valid_lanes<T>(unit, hidden));
  }

  int64_t make_steps(Range chunk, BiasSums<T>& biases) const {
    int64_t done = 0;  // rows of the chunk
    for (int64_t s = chunk.end - 1; s >= chunk.begin; --s) {
      const int64_t count = find_rows(s);
      if (count == 0) continue;
      for (int64_t i = 0; i < count; ++i)
        gate_grads(s, rows[i], norm ? past_norm.from(i) : grads(done + i), done + i, biases);
      part.member.meet_after_step();  // the product needs all units
      if (before) {
        multiply(GateBlocks<T, 1>{run.grads_from(piece, done, 0), hidden, padded, {2}}, count, false);
        for (int64_t i = 0; i < count; ++i) reset_grads(s, i, grads(done + i), biases);
      } else if (norm) {
        for (int64_t i = 0; i < count; ++i) norm_grads(s, i, grads(done + i));
      }
      if (variant.cell.two_phases()) part.member.meet_after_step();
      if (before)
        multiply(GateBlocks<T, 2>{run.grads_from(piece, done, 1), hidden, padded, {0, 1}}, count, true);
      else if (run.plan.packed)
        multiply(GateBlocks<T>{run.grads_from(piece, done, 0), hidden, padded, {2, 0, 1}}, count, false);
      else
        multiply_unpacked<S, T>(GateBlocks<T>{run.grads_from(piece, done, 0), hidden, padded, {2, 0, 1}}, count,
                                io.w_hh, hidden, product);
      for (int64_t i = 0; i < count; ++i) pass_on(i);
      done += count;
    }
    return done;
  }

  Blocks<T> grads(int64_t chunk_row) const { return run.grads_of(piece).from(chunk_row); }

  template <int count>
  void multiply(const GateBlocks<T, count>& blocks, int64_t rows, bool add) const {
    multiply_panels(blocks, rows, run.w_hh_of(direction), hidden, part.states, product, add);
  }

  // The rows that are alive at a step. Those that are not have no gradients.
  int64_t find_rows(int64_t s) const {
    const int64_t t = shape.time_of(s, direction), all = shape.rows_between(t, tile.begin, tile.end);
    int64_t count = 0;
    for (int64_t row = 0; row < all; ++row) {
      const int64_t b = tile.begin + row;
      if (variant.alive(shape, t, b))
        rows[count++] = row_at(s, row);
      else
        clear(t, b);
    }
    return count;
  }

  BackwardRow<S> row_at(int64_t s, int64_t row) const {
    const int64_t t = shape.time_of(s, direction), b = tile.begin + row;
    const bool resets = variant.resets(shape, s, direction, b);
    const S* state = nullptr;
    if (!resets && variant.continues(shape, s, direction, b))
      state = row_of<S>(shape, io.output, shape.time_of(s - 1, direction), b);
    else if (!resets)
      state = static_cast<const S*>(io.hx.data) + b * io.hx.row;
    else if (io.reset_state.data)
      state = static_cast<const S*>(io.reset_state.data) + b * io.reset_state.row;
    const S* const update = io.update.data ? row_of<S>(shape, io.update, t, b) : nullptr;
    const bool per_unit = update && io.update_per_unit;
    return {row, state, per_unit ? update : nullptr, per_unit || !update ? T(1) : load(update, 1)[0], resets};
  }

  // With a norm x is gi; else grad_x is made at the end of a chunk.
  void clear(int64_t t, int64_t b) const {
    for_units([&](int64_t unit, int count) {
      if (io.grad_update.data) store(row_of<S>(shape, io.grad_update, t, b) + unit, Vec<T>{}, count);
      for (int g = 0; norm && io.grad_x.data && g < 3; ++g)
        store(row_of<S>(shape, io.grad_x, t, b) + g * hidden + unit, Vec<T>{}, count);
    });
  }

  // The mask of recurrent dropout.
  inline __attribute__((always_inline)) Vec<T> masked(int64_t row, int64_t unit, Vec<T> x) const {
    if (!io.dropout.data) return x;
    const S* const mask = static_cast<const S*>(io.dropout.data) + (tile.begin + row) * io.dropout.row;
    return x * load(mask + unit, valid_lanes<T>(unit, hidden));
  }

  T* in_panel(T* panels, int64_t chunk_row, int64_t unit) const {
    return panels + (unit / kWidth<T> * run.plan.chunk_rows() + chunk_row) * kWidth<T> + unit % kWidth<T>;
  }

  void gate_grads(int64_t s, const BackwardRow<S>& now, const Blocks<T>& to, int64_t chunk_row,
                  BiasSums<T>& biases) const {
    const int64_t t = shape.time_of(s, direction), b = tile.begin + now.row;
    const auto at = [&](const auto& array) { return array.data ? row_of<S>(shape, array, t, b) : nullptr; };
    const S *const saved = at(io.gates), *const grad_output = at(io.grad_output), *const normal = at(io.normal);
    S* const grad_update = at(io.grad_update);
    S* const grad_gi = variant.cell.recurrence == Recurrence::norm_recurrent ? at(io.grad_x) : nullptr;
    const Blocks<T> grad_h = run.grad_h_of(piece).from(now.row);
    const bool sums = io.grad_b_hh && !before;
    for_units([&](int64_t unit, int count) {
      const auto gate = [&](int64_t g) { return load(saved + g * hidden + unit, count); };
      const Gates<Vec<T>> gates{gate(0), gate(1), gate(2), before ? Vec<T>{} : gate(3)};
      const Vec<T> h0 = now.before ? load(now.before + unit, count) : Vec<T>{};
      const Vec<T> update = now.update ? load(now.update + unit, count) : broadcast(now.whole_update);
      Vec<T> d = load(grad_h.at(0, unit));
      if (grad_output) d += load(grad_output + unit, count);
      const VariantGrads<Vec<T>> found = variant_backward<Math>(variant.cell, d, gates, update, h0);
      const Vec<T> of_gates[4] = {found.nr, found.r, found.z, found.n};
      for (int g = 0; g < 4; ++g) {
        store(to.at(0, g * padded + unit), of_gates[g]);
        if (sums) biases.add(g * padded + unit, of_gates[g]);
      }
      for (int g = 0; norm && sums && g < 3; ++g)
        biases.add((4 + g) * padded + unit, of_gates[g] * load(normal + kGateOf[g] * hidden + unit, count));
      for (int g = 0; grad_gi && g < 3; ++g) store(grad_gi + g * hidden + unit, of_gates[1 + g], count);
      if (grad_update) store(grad_update + unit, found.update, count);
      store(grad_h.at(0, unit), found.h);
      if (!io.grad_w_hh) return;
      const Vec<T> hd = masked(now.row, unit, h0);
      store(in_panel(piece.h_panels, chunk_row, unit), hd);
      if (before) store(in_panel(reset_panels, chunk_row, unit), gates.r * hd);
    });
    if (sums) biases.end_row();
    if (io.grad_w_ih)
      pack_row(row_of<S>(shape, io.x, t, b), shape.inputs, part.inputs, piece.x_panels, run.plan.chunk_rows(),
               chunk_row);
  }

  // reset_before, the i-th row of a step: from the product a_n W_hn the gradient of r; in its place what flows to hd.
  void reset_grads(int64_t s, int64_t i, const Blocks<T>& to, BiasSums<T>& biases) const {
    const BackwardRow<S>& now = rows[i];
    const S* const saved = row_of<S>(shape, io.gates, shape.time_of(s, direction), tile.begin + now.row);
    for_units([&](int64_t unit, int count) {
      const Vec<T> r = load(saved + unit, count), of_product = load(product.at(i, unit));
      const Vec<T> hd = masked(now.row, unit, now.before ? load(now.before + unit, count) : Vec<T>{});
      store(to.at(0, padded + unit), of_product * hd * slope<Math>(variant.cell.gate, r));
      store(product.at(i, unit), of_product * r);
      for (int g = 0; io.grad_b_hh && g < 4; ++g) biases.add(g * padded + unit, load(to.at(0, g * padded + unit)));
    });
    if (io.grad_b_hh) biases.end_row();
  }

  // A norm, the i-th row of a step. Every member of a team finds the means itself.
  void norm_grads(int64_t s, int64_t i, const Blocks<T>& to) const {
    const int64_t t = shape.time_of(s, direction), b = tile.begin + rows[i].row;
    const S *const normal = row_of<S>(shape, io.normal, t, b), *const gain = static_cast<const S*>(io.gain);
    S* const grad_gi =
        variant.cell.recurrence == Recurrence::norm_sum && io.grad_x.data ? row_of<S>(shape, io.grad_x, t, b) : nullptr;
    const auto of_normal = [&](int64_t g, int64_t unit, int count) {
      return load(past_norm.at(i, g * padded + unit)) * load(gain + kGateOf[g] * hidden + unit, count);
    };
    const auto normal_at = [&](int64_t g, int64_t unit, int count) {
      return load(normal + kGateOf[g] * hidden + unit, count);
    };
    Vec<T> sums[3] = {}, sums_with_normal[3] = {};
    for (int64_t unit = 0; unit < hidden; unit += lanes)
      for (int g = 0; g < 3; ++g) {
        const int count = valid_lanes<T>(unit, hidden);
        const Vec<T> grad = of_normal(g, unit, count);
        sums[g] += grad;
        sums_with_normal[g] += grad * normal_at(g, unit, count);
      }
    const T mean = sum_lanes<T>(sums[0] + sums[1] + sums[2]) / T(3 * hidden);
    const T along = sum_lanes<T>(sums_with_normal[0] + sums_with_normal[1] + sums_with_normal[2]) / T(3 * hidden);
    const T scale = *row_of<T>(shape, io.scale, t, b);
    for_units([&](int64_t unit, int count) {
      for (int g = 0; g < 3; ++g) {
        const Vec<T> grad = scale * (of_normal(g, unit, count) - mean - normal_at(g, unit, count) * along);
        store(to.at(0, g * padded + unit), grad);
        if (grad_gi) store(grad_gi + kGateOf[g] * hidden + unit, grad, count);
      }
    });
  }

  // The gradient of the state before the i-th row of a step.
  void pass_on(int64_t i) const {
    const BackwardRow<S>& now = rows[i];
    for_units([&](int64_t unit, int) {
      T* const grad_h = run.grad_h_of(piece).at(now.row, unit);
      // The product is added last: a sum that began with what flows past the gates would be rounded at its size.
      const Vec<T> grad = load(grad_h) + masked(now.row, unit, load(product.at(i, unit)));
      store(grad_h, now.resets ? Vec<T>{} : grad);
      if (!now.resets || !io.grad_reset_state.data) return;
      T* const sum = grad_reset_state.at(now.row, unit);
      store(sum, load(sum) + grad);
    });
  }

  void finish(Range chunk, int64_t count, bool& fresh) const {
    if (io.grad_x.data && !norm) grad_x(chunk, count);
    if (!io.grad_w_hh || (count == 0 && !fresh)) return;  // of no rows at all they are zero
    const bool add = !std::exchange(fresh, false);
    if (!norm)
      run.grad_weight(piece, piece.x_panels, part.inputs, count, piece.grad_w_ih, shape.inputs, {1, 2, 3}, add);
    const Range of_states{0, before ? 2 : 3};
    run.grad_weight(piece, piece.h_panels, part.states, count, piece.grad_w_hh, hidden, {1, 2, 0}, add, of_states);
    if (before)
      run.grad_weight(piece, reset_panels, part.states, count, piece.grad_w_hh, hidden, {1, 2, 0}, add, {2, 3});
  }

  void grad_x(Range chunk, int64_t count) const {
    if (count > 0) run.multiply_grad_x(piece, part, direction, count);
    const Range columns = Run::Part::columns(part.inputs, shape.inputs);
    int64_t from = 0;
    for (int64_t s = chunk.end - 1; s >= chunk.begin; --s) {
      const int64_t t = shape.time_of(s, direction), all = shape.rows_between(t, tile.begin, tile.end);
      for (int64_t b = tile.begin; b < tile.begin + all; ++b) {
        const bool alive = variant.alive(shape, t, b);
        S* const to = row_of<S>(shape, io.grad_x, t, b);
        for (int64_t k = columns.begin; k < columns.end; k += lanes)
          store(to + k, alive ? load(run.grad_x_of(piece).at(from, k)) : Vec<T>{}, valid_lanes<T>(k, shape.inputs));
        from += alive;
      }
    }
  }

  void end() const {
    if (!io.grad_reset_state.data) return;
    for (int64_t row = tile.begin; row < tile.end; ++row) {
      S* const to = static_cast<S*>(io.grad_reset_state.data) + row * io.grad_reset_state.row;
      for_units(
          [&](int64_t unit, int count) { store(to + unit, load(grad_reset_state.at(row - tile.begin, unit)), count); });
    }
  }
};

}  // namespace
}  // namespace gru_fused

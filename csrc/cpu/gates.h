// The two products that make the gates of some rows: the input projection, and the recurrent product, in whose
// epilogue, while the sums are in registers, the cell is computed (cell_step.h). The forward takes the second step by
// step, a tile's rows at a time, or with many rows both at once; a backward without saved gates knows all states and
// takes the rows of a chunk at once.
#pragma once

#include "kernels.h"
#include "plan.h"
#include "tiles.h"
#include "weights.h"

namespace gru_fused {
namespace {

// A batch row of an array at time t.
template <class S, class Void>
inline auto row_of(const Shape& shape, const Rows<Void>& rows, int64_t t, int64_t row) {
  using Element = std::conditional_t<std::is_const_v<Void>, const S, S>;
  return static_cast<Element*>(rows.data) + shape.step_offset(rows, t) + row * rows.row;
}

// A batch row's state before the s-th step of a direction (or its tangent), from the states of all steps.
template <class S>
inline const S* state_before(const Shape& shape, const Rows<const void>& output, const Rows<const void>& hx,
                             int direction, int64_t s, int64_t row) {
  const int64_t earlier = shape.time_of(s - 1, direction);  // the step that fed this one
  const bool fed = s > 0 && row < shape.rows_at(earlier);
  return fed ? row_of<S>(shape, output, earlier, row) : static_cast<const S*>(hx.data) + row * hx.row;
}

// A row of a matrix, as factors or as numbers.
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

// Pairs of a row that have no unit, or one, but are multiplied: zeros, which stay. (The numbers there may become NaN,
// if an input is infinite.)
template <class S, class T>
inline void end_factors(const Blocks<T>& factors, int64_t row, int64_t hidden) {
  constexpr int lanes = Simd<T>::lanes;
  if constexpr (FactorsOf<S>::terms == 2)
    for (int64_t unit = hidden / lanes * lanes; unit < 2 * factors_in(hidden, 2); unit += lanes)
      store(reinterpret_cast<bf16*>(factors.at(row, unit / 2)), Vec<T>{});
}

// Where the parts of one direction's weights begin in scratch memory, in elements of the accumulating type.
struct GateWeightsScratch {
  int64_t padded, panels, w_ih, w_hh, biases, total;

  GateWeightsScratch(const Shape& shape, const cpu::Plan& plan, int64_t lanes, int terms) {
    constexpr int64_t line = 64 / sizeof(float);  // keeps every part on its own cache lines
    padded = round_up(shape.hidden, lanes);
    panels = padded / lanes;
    w_ih = plan.packed ? round_up(3 * padded * factors_in(shape.inputs, terms), line) : 0;
    w_hh = plan.packed ? round_up(3 * padded * factors_in(shape.hidden, terms), line) : 0;
    biases = round_up(4 * padded, line);
    total = w_ih + w_hh + biases;
  }
};

// The weights of one direction as the two products read them.
template <class S>
struct GateWeights {
  using T = Accumulate<S>;
  using Factors = FactorsOf<S>;
  static constexpr int lanes = Simd<T>::lanes;

  const DirectionArguments& io;
  int64_t inputs, hidden, panels;
  bool packed;          // if not, the weights are read where they are
  int64_t state_bytes;  // of W_hh's panels
  // A panel is packed just before its only use, always in the same place, so that the cache keeps it. No other thread
  // has that place, which is that of the panel of this number.
  bool input_late = false, state_late = false;
  int64_t place = 0;
  T* biases;  // [panels][4][lanes]: of r, z, n, but for b_hn, which is the fourth
  T* w_ih;    // panels
  T* w_hh;    // panels

  GateWeights(const DirectionArguments& io, const Shape& shape, const cpu::Plan& plan, const GateWeightsScratch& layout,
              T* scratch)
      : io(io),
        inputs(shape.inputs),
        hidden(shape.hidden),
        panels(layout.panels),
        packed(plan.packed),
        state_bytes(layout.w_hh * int64_t(sizeof(T))),
        biases(scratch),
        w_ih(biases + layout.biases),
        w_hh(w_ih + layout.w_ih) {}

  int64_t input_factors() const { return factors_in(inputs, Factors::terms); }
  int64_t state_factors() const { return factors_in(hidden, Factors::terms); }
  T* w_ih_panel(int64_t p) const { return w_ih + (input_late ? place : p) * input_factors() * kWidth<T>; }
  T* w_hh_panel(int64_t p) const { return w_hh + (state_late ? place : p) * state_factors() * kWidth<T>; }

  void pack_input(int64_t p, Range factors) const {
    pack_gates<Factors>(static_cast<const S*>(io.w_ih.data), io.w_ih.row, hidden, inputs, p, factors, w_ih_panel(p));
  }
  void pack_state(int64_t p) const {
    pack_gates<Factors>(static_cast<const S*>(io.w_hh.data), io.w_hh.row, hidden, hidden, p, {0, state_factors()},
                        w_hh_panel(p));
  }

  void pack(int64_t p) const {
    if (packed && io.w_ih.data && !input_late) pack_input(p, {0, input_factors()});
    if (packed && !state_late) pack_state(p);
    const int count = valid_lanes<T>(p * lanes, hidden);
    const auto bias = [&](const void* data, int64_t gate) {
      return data ? load(static_cast<const S*>(data) + gate * hidden + p * lanes, count) : Vec<T>{};
    };
    T* const to = biases + p * 4 * lanes;
    store(to, bias(io.b_ih, 0) + bias(io.b_hh, 0));
    store(to + lanes, bias(io.b_ih, 1) + bias(io.b_hh, 1));
    store(to + 2 * lanes, bias(io.b_ih, 2));
    store(to + 3 * lanes, bias(io.b_hh, 2));
  }
};

// Makes one of the products below from panels that were packed before.
template <class Product>
void for_some(const Product& product, Range rows, Range part, bool backwards = false) {
  if constexpr (Product::makes_tiles)
    for_tiles(rows, part, product, backwards);
  else
    for_blocks(rows, part, product, backwards);
}
template <class Product>
void for_all(const Product& product, int64_t rows, Range part, bool backwards = false) {
  for_near_rows(rows, product.row_bytes(), [&](Range near) { for_some(product, near, part, backwards); });
}

// Makes one of the products below for some rows: a part of its panels.
template <class Product>
void make(const Product& product, int64_t rows, Range part, bool backwards = false) {
  if constexpr (requires { product.make_unpacked(rows, part); })
    if (!product.weights.packed) return product.make_unpacked(rows, part);
  if (!product.late()) return for_all(product, rows, part, backwards);
  for (int64_t panel = part.begin; panel < part.end; ++panel) {
    product.pack(panel);
    for_some(product, {0, rows}, {panel, panel + 1});
  }
}

// A recurrent product of the s-th step of a sequence, from weights that were packed before.
template <class Product>
void recurrent_step_from_panels(const Product& product, int64_t s, int64_t rows, Range part) {
  if (!Product::makes_tiles && in_turn(rows, product.weights.state_bytes))
    for_panels_in_turn(part, s % 2, product);
  else
    for_all(product, rows, part, s % 2);
}

// The same from any weights.
template <class Product>
void recurrent_step(const Product& product, int64_t s, int64_t rows, Range part) {
  if (product.weights.packed && !product.late())
    recurrent_step_from_panels(product, s, rows, part);
  else
    make(product, rows, part);
}

// x W_ih^T with the biases of both projections, but for b_hn.
template <class S>
struct Projection {
  using T = Accumulate<S>;
  static constexpr bool makes_tiles = kInTiles<S>;
  static constexpr int lanes = Simd<T>::lanes;

  const GateWeights<S>& weights;
  Blocks<const T> x;  // factors if the weights are packed, else numbers
  T* gi;              // [panels][capacity of x][3][lanes]
  Range slice;        // of the factors; the first makes gi, the others add to it

  int64_t row_bytes() const { return (slice.end - slice.begin) * int64_t(sizeof(T)); }
  bool late() const { return weights.input_late; }
  void pack(int64_t panel) const { weights.pack_input(panel, slice); }

  template <int M, int P>
  inline __attribute__((always_inline)) void run(int64_t row, int64_t panel) const {
    Vec<T> acc[P][M][3];
    const T* of_panel[P];
    for (int p = 0; p < P; ++p) of_panel[p] = weights.w_ih_panel(panel + p) + (late() ? 0 : slice.begin) * kWidth<T>;
    multiply<T, M, P, FactorsOf<S>>(acc, RowsOf<T>{x.from(row, slice.begin)}, of_panel, slice.end - slice.begin);
    finish(row, panel, acc);
  }

  template <int groups>
  void run_tiles(int64_t row, int rows, int64_t panel) const {
    clear_tiles<3 * groups>();
    multiply_first_tiles<groups, 3>(x.at(row, 0), x.capacity * lanes, rows, weights.w_ih_panel(panel),
                                    weights.input_factors());
    for_tile_sums<groups, 3>(rows, [&](int m, auto& sums) { finish(row + m, panel, sums); });
  }

  template <int P, int M>
  inline __attribute__((always_inline)) void finish(int64_t row, int64_t panel, const Vec<T> (&acc)[P][M][3]) const {
    for_sums<P, M, 3>([&](int p, int m, int g) __attribute__((always_inline)) {
      T* const to = at(row + m, panel + p) + g * lanes;
      store(to, acc[p][m][g] + (slice.begin == 0 ? bias(panel + p, g) : load(to)));
    });
  }

  void make_unpacked(int64_t rows, Range part) const {
    multiply_unpacked<S, T>(x, rows, weights.io.w_ih, weights.hidden, weights.inputs, part, gi, x.capacity);
    for (int64_t panel = part.begin; panel < part.end; ++panel)
      for (int64_t row = 0; row < rows; ++row)
        for (int g = 0; g < 3; ++g) {
          T* const sum = at(row, panel) + g * lanes;
          store(sum, load(sum) + bias(panel, g));
        }
  }

  inline Vec<T> bias(int64_t panel, int g) const { return load(weights.biases + (panel * 4 + g) * lanes); }
  inline T* at(int64_t row, int64_t panel) const { return gi + (panel * x.capacity + row) * kWidth<T>; }
};

// The input projection of some rows, from panels in slices; tiles take them whole.
template <class S>
void make_projection(const GateWeights<S>& weights, const Blocks<const Accumulate<S>>& x, Accumulate<S>* gi,
                     int64_t rows, Range part) {
  const bool in_slices = !kInTiles<S> && has_slices() && weights.packed;
  const int64_t factors = weights.input_factors(), most = in_slices ? kSumBlock : factors;
  int64_t begin = 0;
  do {
    const int64_t end = begin + most < factors ? begin + most : factors;
    make(Projection<S>{weights, x, gi, {begin, end}}, rows, part);
    begin = end;
  } while (begin < factors);
}

// h W_hh^T, and what an epilogue makes of it while the sums are in registers: for each row and panel
//   void prefetch(row, panel)              called some time before
//   void operator()(row, panel, sums)      takes one vector of sums for each gate; or those of P panels and M rows,
//                                          [P][M][gates]
// Of r, z, n all gates, or `count` from one of them on; then the weights lie in panels.
template <class S, class Epilogue, int first_gate = 0, int count = 3>
struct RecurrentProduct {
  using T = Accumulate<S>;
  static constexpr bool makes_tiles = kInTiles<S>;
  static constexpr int lanes = Simd<T>::lanes;

  const GateWeights<S>& weights;
  Blocks<const T> h;  // factors if the weights are packed, else numbers
  T* gh;              // [panels][capacity of h][3][lanes], used only if the weights are not packed
  Epilogue epilogue;

  int64_t row_bytes() const { return weights.state_factors() * int64_t(sizeof(T)); }
  bool late() const { return weights.state_late; }
  void pack(int64_t panel) const { weights.pack_state(panel); }

  template <int M, int P>
  inline __attribute__((always_inline)) void run(int64_t row, int64_t panel) const {
    Vec<T> acc[P][M][count];
    const T* of_panel[P];
    for (int p = 0; p < P; ++p) {
      of_panel[p] = weights.w_hh_panel(panel + p) + first_gate * lanes;
      for (int m = 0; m < M; ++m) epilogue.prefetch(row + m, panel + p);
    }
    multiply<T, M, P, FactorsOf<S>>(acc, RowsOf<T>{h.from(row)}, of_panel, weights.state_factors());
    finish(row, panel, acc);
  }

  template <int groups>
  void run_tiles(int64_t row, int rows, int64_t panel) const {
    for (int m = 0; m < rows; ++m) epilogue.prefetch(row + m, panel);
    clear_tiles<count * groups>();
    multiply_first_tiles<groups, count>(h.at(row, 0), h.capacity * lanes, rows,
                                        weights.w_hh_panel(panel) + first_gate * lanes, weights.state_factors());
    for_tile_sums<groups, count>(rows, [&](int m, auto& sums) { finish(row + m, panel, sums); });
  }

  template <bool early>
  void run_row(int64_t panel, int64_t next) const {
    const auto at = [&](int64_t p) { return weights.w_hh_panel(p) + first_gate * lanes; };
    Vec<T> acc[1][1][count] = {};
    epilogue.prefetch(0, panel);
    multiply_row<early, T, FactorsOf<S>>(acc[0][0], RowsOf<T>{h}, at(panel), at(next), weights.state_factors());
    finish(0, panel, acc);
  }

  void make_unpacked(int64_t rows, Range part) const {
    multiply_unpacked<S, T>(h, rows, weights.io.w_hh, weights.hidden, weights.hidden, part, gh, h.capacity);
    for (int64_t panel = part.begin; panel < part.end; ++panel) {
      int64_t row = 0;
      for (; row + 4 <= rows; row += 4) finish_product<4>(row, panel);
      for (; row < rows; ++row) finish_product<1>(row, panel);
    }
  }

 private:
  template <int M>
  inline void finish_product(int64_t row, int64_t panel) const {
    const T* const product = gh + (panel * h.capacity + row) * kWidth<T>;
    Vec<T> sums[1][M][3];
    for_sums<1, M, 3>([&](int, int m, int g) __attribute__((always_inline)) {
      sums[0][m][g] = load(product + m * kWidth<T> + g * lanes);
    });
    finish(row, panel, sums);
  }

  template <int P, int M>
  inline __attribute__((always_inline)) void finish(int64_t row, int64_t panel, Vec<T> (&sums)[P][M][count]) const {
    if constexpr (requires { epilogue(row, panel, sums); })
      epilogue(row, panel, sums);
    else
      for (int p = 0; p < P; ++p)
        for (int m = 0; m < M; ++m) epilogue(row + m, panel + p, sums[p][m]);
  }
};

// Both products of a step at once, from panels, and the cell (a CellStep), which gets the sums and besides them, for
// each panel and row, what x adds to n. So the projection needs no memory of its own.
template <class S, class Epilogue>
struct WholeProduct {
  using T = Accumulate<S>;
  using Factors = FactorsOf<S>;
  static constexpr bool makes_tiles = kInTiles<S>;
  static constexpr int lanes = Simd<T>::lanes;

  const GateWeights<S>& weights;
  Blocks<const T> x, h;  // factors
  Epilogue epilogue;

  int64_t row_bytes() const { return (weights.input_factors() + weights.state_factors()) * int64_t(sizeof(T)); }
  bool late() const { return weights.state_late; }
  void pack(int64_t panel) const {
    weights.pack_input(panel, {0, weights.input_factors()});
    weights.pack_state(panel);
  }

  template <int M, int P>
  inline __attribute__((always_inline)) void run(int64_t row, int64_t panel) const {
    Vec<T> acc[P][M][3], of_x[P][M];
    const T *of_input[P], *of_state[P];
    for (int p = 0; p < P; ++p) {
      of_input[p] = weights.w_ih_panel(panel + p), of_state[p] = weights.w_hh_panel(panel + p);
      for (int m = 0; m < M; ++m) epilogue.results.prefetch(row + m, (panel + p) * lanes);
    }
    multiply<T, M, P, Factors>(acc, RowsOf<T>{x.from(row)}, of_input, weights.input_factors());
    for_sums<P, M, 1>([&](int p, int m, int) __attribute__((always_inline)) {
      of_x[p][m] = acc[p][m][2];
      acc[p][m][2] = Vec<T>{};
    });
    multiply<T, M, P, Factors, false>(acc, RowsOf<T>{h.from(row)}, of_state, weights.state_factors());
    finish(row, panel, acc, of_x);
  }

  template <int groups>
  void run_tiles(int64_t row, int rows, int64_t panel) const {
    for (int m = 0; m < rows; ++m) epilogue.results.prefetch(row + m, panel * lanes);
    alignas(64) T of_x[groups * kTileRows][lanes];  // in n
    clear_tiles<3 * groups>();
    multiply_first_tiles<groups, 3>(x.at(row, 0), x.capacity * lanes, rows, weights.w_ih_panel(panel),
                                    weights.input_factors());
    store_tile<2>(of_x[0], lanes), clear_tile<2>();
    if constexpr (groups == 2) store_tile<5>(of_x[kTileRows], lanes), clear_tile<5>();
    multiply_first_tiles<groups, 3>(h.at(row, 0), h.capacity * lanes, rows, weights.w_hh_panel(panel),
                                    weights.state_factors());
    for_tile_sums<groups, 3>(rows, [&]<int M>(int m, Vec<T>(&sums)[1][M][3]) {
      Vec<T> n_of_x[1][M];
      for (int i = 0; i < M; ++i) n_of_x[0][i] = load(of_x[m + i]);
      finish(row + m, panel, sums, n_of_x);
    });
  }

 private:
  template <int P, int M>
  inline __attribute__((always_inline)) void finish(int64_t row, int64_t panel, Vec<T> (&acc)[P][M][3],
                                                    const Vec<T> (&of_x)[P][M]) const {
    const auto in = [&](int p, int m, int g) __attribute__((always_inline)) {
      const Vec<T> bias = load(weights.biases + ((panel + p) * 4 + g) * lanes);
      return g == 2 ? of_x[p][m] + bias : bias;
    };
    epilogue.step(row, panel, acc, in);
  }
};

}  // namespace
}  // namespace gru_fused

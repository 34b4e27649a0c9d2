// The products of the backward, over rows of gate gradients in the order a_nr, a_r, a_z, a_n (gru_cell.h).
#pragma once

#include "weights.h"

namespace gru_fused {
namespace {

// Columns of a weight [3H, columns] as panels: copied, or, if `panel` is kWidth, where the weight lies.
template <class T>
struct WeightPanels {
  const T* data;
  int64_t panel, step;   // distance of two panels, and of two rows within one
  int64_t first, count;  // the panels there are
};

// to (+)= three blocks of gate gradients, each H wide, times the weight's rows that belong to them.
template <class T>
struct GateProduct {
  static constexpr int lanes = Simd<T>::lanes;

  WeightPanels<T> weights;
  int64_t hidden, padded;
  Blocks<const T> grads;    // begins with the first of the three
  int64_t weight_block[3];  // the gate (r, z, n: 0, 1, 2) of each block
  Blocks<T> to;
  bool add;

  template <int M, int P>
  inline __attribute__((always_inline)) void run(int64_t row, int64_t panel) const {
    Vec<T> acc[P][M][3] = {};
    for (int b = 0; b < 3; ++b) {
      const T* of_panel[P];
      for (int p = 0; p < P; ++p)
        of_panel[p] = weights.data + (panel + p) * weights.panel + weight_block[b] * hidden * weights.step;
      multiply<T, M, P>(acc, RowsOf<T>{grads.from(row, b * padded)}, of_panel, weights.step, hidden);
    }
    for (int p = 0; p < P; ++p)
      for (int m = 0; m < M; ++m)
        for (int g = 0; g < 3; ++g) {
          T* const at = to.at(row + m, (weights.first + panel + p) * kWidth<T> + g * lanes);
          store(at, add ? load(at) + acc[p][m][g] : acc[p][m][g]);
        }
  }
};

// to (+)= one block of gate gradients, turned, times the rows that the gates were made from, which lie in panels.
template <class T>
struct WeightGradient {
  static constexpr int lanes = Simd<T>::lanes;

  Blocks<const T> grads;     // begins with the block
  int64_t rows, first_unit;  // units from there on, of one block
  const T* panel;            // [capacity of grads][kWidth]
  int64_t first_column;
  T* to;  // [H][columns]
  int64_t columns;
  bool add;

  template <int M, int P>
  inline __attribute__((always_inline)) void run(int64_t row, int64_t) const {
    const int64_t unit = first_unit + row;
    Vec<T> acc[1][M][3] = {};
    if (add)  // the product takes longer than the sums' way from the third-level cache
      for (int m = 0; m < M; ++m)
        for (int g = 0; g < 3; ++g) __builtin_prefetch(to + (unit + m) * columns + first_column + g * lanes, 1);
    multiply<T, M, 1>(acc, ColumnsOf<T>{grads.at(0, unit)}, {panel}, kWidth<T>, rows);
    for (int m = 0; m < M; ++m)
      for (int g = 0; g < 3; ++g) {
        const int64_t column = first_column + g * lanes;
        const int count = valid_lanes<T>(column, columns);
        T* const at = to + (unit + m) * columns + column;
        store(at, add ? load(at, count) + acc[0][m][g] : acc[0][m][g], count);
      }
  }
};

// The sum over all rows of their gate gradients: in blocks of kBlock rows, whose sums are added with the rounding
// error of each addition carried to the next (Kahan 1965). torch's own sum, which nn.GRU's bias gradients come from,
// is about as exact.
template <class T>
struct BiasSums {
  static constexpr int lanes = Simd<T>::lanes;
  static constexpr int kBlock = 16;

  int64_t size;  // 4 blocks of gate gradients, each padded to full vectors
  T* sums;       // [3][size]: over all rows, what rounding left out of it, over a block
  int rows_in_block = 0;

  T* carried() const { return sums + size; }
  T* block() const { return sums + 2 * size; }

  void clear() {
    for (int64_t i = 0; i < 3 * size; ++i) sums[i] = 0;
    rows_in_block = 0;
  }

  inline __attribute__((always_inline)) void add(int64_t at, Vec<T> grads) const {
    store(block() + at, load(block() + at) + grads);
  }

  void end_row() {
    if (++rows_in_block == kBlock) end_block();
  }

  void end_block() {
    for (int64_t i = 0; i < size; i += lanes) {
      const Vec<T> term = load(block() + i) - load(carried() + i), before = load(sums + i), after = before + term;
      store(carried() + i, (after - before) - term);
      store(sums + i, after);
      store(block() + i, Vec<T>{});
    }
    rows_in_block = 0;
  }
};

}  // namespace
}  // namespace gru_fused

// The products of the backward, over rows of gate gradients in the order a_nr, a_r, a_z, a_n (gru_cell.h).
#pragma once

#include "weights.h"

namespace gru_fused {
namespace {

// Blocks of gate gradients and the rows of a weight [3H, columns] that belong to them.
template <class T, int count = 3>
struct GateBlocks {
  Blocks<const T> grads;  // begins with the first of them
  int64_t depth, next;    // of one, and from one to the next: units, or factors
  int64_t gate[count];    // the gate (r, z, n: 0, 1, 2) of each block
};

// to (+)= their product with the first G vectors of a weight's panels.
template <class T, int G, int count>
struct GateProduct {
  static constexpr int lanes = Simd<T>::lanes;

  GateBlocks<T, count> blocks;
  const T* weights;  // [panels][3H][kWidth]
  Blocks<T> to;
  bool add;

  template <int M, int P>
  inline __attribute__((always_inline)) void run(int64_t row, int64_t panel) const {
    Vec<T> acc[P][M][G];
    multiply_gate(acc, row, panel, 0);
    for (int b = 1; b < count; ++b) {
      Vec<T> more[P][M][G];
      multiply_gate(more, row, panel, b);
      add_sums(acc, more);
    }
    for (int p = 0; p < P; ++p)
      for (int m = 0; m < M; ++m) keep(row + m, panel + p, acc[p][m]);
  }

  template <bool early>
  void run_row(int64_t panel, int64_t next) const {
    Vec<T> acc[G] = {};
    for (int b = 0; b < count; ++b)
      multiply_row<early>(acc, RowsOf<T>{blocks.grads.from(0, b * blocks.next)}, of_gate(panel, b),
                          b + 1 < count ? of_gate(panel, b + 1) : of_gate(next, 0), blocks.depth);
    keep(0, panel, acc);
  }

  const T* of_gate(int64_t panel, int b) const {
    return weights + (3 * panel + blocks.gate[b]) * blocks.depth * kWidth<T>;
  }

 private:
  template <int M, int P>
  inline __attribute__((always_inline)) void multiply_gate(Vec<T> (&sum)[P][M][G], int64_t row, int64_t panel,
                                                           int b) const {
    const T* of_panel[P];
    for (int p = 0; p < P; ++p) of_panel[p] = of_gate(panel + p, b);
    multiply(sum, RowsOf<T>{blocks.grads.from(row, b * blocks.next)}, of_panel, blocks.depth);
  }

  inline __attribute__((always_inline)) void keep(int64_t row, int64_t panel, const Vec<T> (&sums)[G]) const {
    for (int g = 0; g < G; ++g) {
      T* const at = to.at(row, panel * kWidth<T> + g * lanes);
      store(at, add ? load(at) + sums[g] : sums[g]);
    }
  }
};

// The same with some of the rows of each panel, for as many columns of one block of gate gradients.
template <class T, int G>
struct GateSlice {
  Blocks<const T> grads;
  const T* weights;  // of panel 0: [depth][kWidth]
  int64_t panel;     // from one panel to the next
  int64_t depth;
  Blocks<T> to;
  bool add;

  template <int M, int P>
  inline __attribute__((always_inline)) void run(int64_t row, int64_t first) const {
    Vec<T> acc[P][M][G];
    const T* of_panel[P];
    for (int p = 0; p < P; ++p) of_panel[p] = weights + (first + p) * panel;
    multiply_block<T, M, P>(acc, RowsOf<T>{grads.from(row, 0)}, of_panel, 0, depth);
    for_sums<P, M, G>([&](int p, int m, int g) __attribute__((always_inline)) {
      T* const at = to.at(row + m, (first + p) * kWidth<T> + g * Simd<T>::lanes);
      store(at, add ? load(at) + acc[p][m][g] : acc[p][m][g]);
    });
  }
};

// The same in slices of the panels, which are 3H rows long. Those of the rows' numbers that a slice meets stay in the
// second-level cache for all panels.
template <class T, int G, int count>
void multiply_slices(const GateProduct<T, G, count>& product, int64_t rows, Range panels) {
  const GateBlocks<T, count>& blocks = product.blocks;
  for_near_rows(rows, kSumBlock * int64_t(sizeof(T)), [&](Range near) {
    for (int b = 0; b < count; ++b)
      for (int64_t k = 0; k < blocks.depth; k += kSumBlock) {
        const int64_t depth = k + kSumBlock < blocks.depth ? kSumBlock : blocks.depth - k;
        for_blocks(near, panels,
                   GateSlice<T, G>{blocks.grads.from(0, b * blocks.next + k), product.of_gate(0, b) + k * kWidth<T>,
                                   3 * blocks.depth * kWidth<T>, depth, product.to, product.add || b > 0 || k > 0});
      }
  });
}

// The product with a part of a weight's panels. Every other step of a sequence may ask for them `backwards`.
template <class T, int count>
void multiply_panels(const GateBlocks<T, count>& blocks, int64_t rows, const T* weights, int64_t columns, Range part,
                     const Blocks<T>& to, bool add, bool backwards = false) {
  const bool turns = in_turn(rows, columns * 3 * blocks.depth * int64_t(sizeof(T)));
  for_panels<T>(columns, part, backwards, [&](auto vectors, Range panels) {
    const GateProduct<T, vectors, count> product{blocks, weights, to, add};
    if (turns)
      for_panels_in_turn(panels, backwards, product);
    else if (rows > kRows && has_slices() && (GRU_FUSED_VECTOR_BYTES < 64 || blocks.depth > kSumBlock))
      multiply_slices(product, rows, panels);
    else
      for_blocks({0, rows}, panels, product, backwards);
  });
}

// to = the same product for a few rows with a weight where it lies, read once and in order.
template <class S, class T>
void multiply_unpacked(const GateBlocks<T>& blocks, int64_t rows, const Rows<const void>& weight, int64_t columns,
                       const Blocks<T>& to) {
  constexpr int lanes = Simd<T>::lanes, together = lanes < 8 ? lanes : 8;  // within a block
  for (int64_t row = 0; row < rows; ++row)
    for (int64_t column = 0; column < columns; column += lanes) store(to.at(row, column), Vec<T>{});
  for (int b = 0; b < 3; ++b)
    for (int64_t k = 0; k < blocks.depth; k += together) {
      const int count = int(blocks.depth - k < together ? blocks.depth - k : together);
      const S* w = static_cast<const S*>(weight.data) + (blocks.gate[b] * blocks.depth + k) * weight.row;
      for (int64_t column = 0; column < columns; column += lanes) {
        const int valid = valid_lanes<T>(column, columns);
        Vec<T> terms[together];
#pragma GCC unroll 8
        for (int i = 0; i < together; ++i) terms[i] = load(w + (i < count ? i : 0) * weight.row + column, valid);
        for (int64_t row = 0; row < rows; ++row) {
          const T* const grads = blocks.grads.at(row, b * blocks.next + k);  // zeros past H
          Vec<T> sum = terms[0] * grads[0];
#pragma GCC unroll 8
          for (int i = 1; i < together; ++i) sum += terms[i] * (i < count ? grads[i] : T(0));
          store(to.at(row, column), load(to.at(row, column)) + sum);
        }
      }
    }
}

// to (+)= one block of gate gradients, turned, times the rows that the gates were made from, which lie in panels.
template <class T, int G>
struct WeightGradient {
  static constexpr int lanes = Simd<T>::lanes;

  Blocks<const T> grads;     // begins with the block
  int64_t rows, first_unit;  // units from there on, of one block
  const T* panel;            // [capacity of grads][kWidth], of which G vectors count
  int64_t first_column;
  T* to;  // [H][columns]
  int64_t columns;
  bool add;

  template <int M, int P>
  inline __attribute__((always_inline)) void run(int64_t row, int64_t) const {
    const int64_t unit = first_unit + row;
    Vec<T> acc[1][M][G];
    // The product takes longer than the result's way from the third-level cache.
    for (int m = 0; m < M; ++m)
      for (int g = 0; g < G; ++g) __builtin_prefetch(to + (unit + m) * columns + first_column + g * lanes, 1);
    multiply_block<T, M, 1>(acc, ColumnsOf<T>{grads.at(0, unit)}, {panel}, 0, rows);
    for_sums<1, M, G>([&](int p, int m, int g) __attribute__((always_inline)) {
      const int64_t column = first_column + g * lanes;
      const int count = valid_lanes<T>(column, columns);
      T* const at = to + (unit + m) * columns + column;
      store(at, add ? load(at, count) + acc[p][m][g] : acc[p][m][g], count);
    });
  }
};

// The same for fewer than kRows rows, where writing the result is all that counts: row by row, in order.
template <class T>
void write_outer_products(const Blocks<const T>& grads, int64_t rows, int64_t hidden, const T* panels, T* to,
                          int64_t columns) {
  constexpr int lanes = Simd<T>::lanes;
  for (int64_t unit = 0; unit < hidden; ++unit) {
    T factors[kRows];
    for (int64_t k = 0; k < rows; ++k) factors[k] = *grads.at(k, unit);
    const T* panel = panels;
    for (int64_t column = 0; column < columns; column += kWidth<T>, panel += grads.capacity * kWidth<T>)
      for (int64_t part = 0; part < kWidth<T> && column + part < columns; part += lanes) {
        Vec<T> sum = factors[0] * load(panel + part);
        for (int64_t k = 1; k < rows; ++k) sum += factors[k] * load(panel + k * kWidth<T> + part);
        store(to + unit * columns + column + part, sum, valid_lanes<T>(column + part, columns));
      }
  }
}

// The sum over all rows of their gate gradients: in blocks of kBlock rows, whose sums are added with the rounding
// error of each addition carried to the next (Kahan 1965). torch's own sum, which nn.GRU's bias gradients come from,
// is about as exact.
template <class T>
struct BiasSums {
  static constexpr int lanes = Simd<T>::lanes;
  static constexpr int kBlock = 16;

  int64_t padded, blocks;  // of gate gradients: 4, and more if more is summed
  Range units;             // whose sums these are
  T* sums;                 // [3][blocks padded]: over all rows, what rounding left out of it, over a block
  int rows_in_block = 0;

  T* carried() const { return sums + blocks * padded; }
  T* block() const { return sums + 2 * blocks * padded; }

  template <class Action>
  void for_each(const Action& action) const {
    for (int64_t g = 0; g < blocks; ++g)
      for (int64_t unit = units.begin; unit < units.end; unit += lanes) action(g * padded + unit);
  }

  void clear() {
    for_each([&](int64_t i) {
      for (T* const part : {sums, carried(), block()}) store(part + i, Vec<T>{});
    });
    rows_in_block = 0;
  }

  inline __attribute__((always_inline)) void add(int64_t at, Vec<T> grads) const {
    store(block() + at, load(block() + at) + grads);
  }

  void end_row() {
    if (++rows_in_block == kBlock) end_block();
  }

  void end_block() {
    for_each([&](int64_t i) {
      const Vec<T> term = load(block() + i) - load(carried() + i), before = load(sums + i), after = before + term;
      store(carried() + i, (after - before) - term);
      store(sums + i, after);
      store(block() + i, Vec<T>{});
    });
    rows_in_block = 0;
  }
};

}  // namespace
}  // namespace gru_fused

// The weights in the order that the kernels read them: copied into panels (panels.h), or where they are.
#pragma once

#include "panels.h"

namespace gru_fused {
namespace {

// Forward: panel p, from a weight [3H, depth], with the rows of units p * lanes and on of each gate, turned.
// Units past H are zero.
template <class S, class T>
void pack_gates(const S* w, int64_t w_row, int64_t hidden, int64_t depth, int64_t p, T* panel) {
  constexpr int lanes = Simd<T>::lanes;
  const int valid = valid_lanes<T>(p * lanes, hidden);
  for (int64_t g = 0; g < 3; ++g) {
    const S* const first = w + (g * hidden + p * lanes) * w_row;
    for (int64_t k = 0; k < depth; k += lanes) {
      const int count = valid_lanes<T>(k, depth);
      Vec<T> block[lanes];
      for (int v = 0; v < lanes; ++v) block[v] = v < valid ? load(first + v * w_row + k, count) : Vec<T>{};
      transpose<T>(block);
      for (int i = 0; i < count; ++i) store(panel + ((k + i) * 3 + g) * lanes, block[i]);
    }
  }
}

// One row of a matrix into row k of its panels, [panels][rows][kWidth]: zeros past its last column.
template <class S, class T>
inline void pack_row(const S* row, int64_t columns, T* panels, int64_t rows, int64_t k) {
  constexpr int lanes = Simd<T>::lanes;
  for (int64_t column = 0; column < round_up(columns, kWidth<T>); column += lanes)
    store(panels + (column / kWidth<T> * rows + k) * kWidth<T> + column % kWidth<T>,
          load(row + column, valid_lanes<T>(column, columns)));
}

// The same for all rows of one panel p, whose columns begin at p * kWidth.
template <class S, class T>
void pack_columns(const S* w, int64_t w_row, int64_t rows, int64_t columns, int64_t p, T* panel) {
  constexpr int lanes = Simd<T>::lanes;
  for (int64_t k = 0; k < rows; ++k)
    for (int64_t part = 0; part < 3; ++part) {
      const int64_t column = p * kWidth<T> + part * lanes;
      const int count = valid_lanes<T>(column, columns);
      store(panel + k * kWidth<T> + part * lanes, count ? load(w + k * w_row + column, count) : Vec<T>{});
    }
}

// Adds vector i + width to vector i so that in the end lane l of v[0] is the sum of vector l.
template <class T, int width = Simd<T>::lanes / 2>
inline __attribute__((always_inline)) Vec<T> sum_each(Vec<T> (&v)[Simd<T>::lanes]) {
  constexpr int lanes = Simd<T>::lanes;
#pragma GCC unroll 16
  for (int i = 0; i < width; ++i) {
    swap_blocks<width>(v[i], v[i + width], std::make_integer_sequence<int, lanes>{});
    v[i] += v[i + width];
  }
  if constexpr (width > 1)
    return sum_each<T, width / 2>(v);
  else
    return v[0];
}

// A row of Blocks times `lanes` rows of a weight where it lies, one dot product each: for calls too short to pay for
// packing. Lanes past the `valid` first ones have no meaning.
template <class S, class T>
inline Vec<T> dot_rows(const Blocks<const T>& x, const S* w, int64_t w_row, int valid, int64_t depth) {
  constexpr int lanes = Simd<T>::lanes;
  const S* rows[lanes];
  for (int v = 0; v < lanes; ++v) rows[v] = w + (v < valid ? v : 0) * w_row;
  Vec<T> acc[lanes] = {};
  int64_t k = 0;
  for (; k + lanes <= depth; k += lanes) {
    const Vec<T> terms = load(x.at(0, k));
#pragma GCC unroll 16
    for (int v = 0; v < lanes; ++v) acc[v] += terms * load(rows[v] + k);
  }
  if (k < depth) {
    const int count = int(depth - k);
    const Vec<T> terms = load(x.at(0, k), count);
    for (int v = 0; v < lanes; ++v) acc[v] += terms * load(rows[v] + k, count);
  }
  return sum_each<T>(acc);
}

}  // namespace
}  // namespace gru_fused

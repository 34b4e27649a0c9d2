// The weights in the order that the kernels read them: copied into panels (panels.h), or where they are.
#pragma once

#include "panels.h"

namespace gru_fused {
namespace {

// Forward: panel p, from a weight [3H, depth], with the rows of units p * lanes and on of each gate, turned.
// Units past H are zero.
template <class Factors, class S, class T>
void pack_gates(const S* w, int64_t w_row, int64_t hidden, int64_t depth, int64_t p, T* panel) {
  constexpr int lanes = Simd<T>::lanes;
  const int valid = valid_lanes<T>(p * lanes, hidden);
  const int64_t factors = factors_in(depth, Factors::terms);
  for (int64_t g = 0; g < 3; ++g) {
    const S* const first = w + (g * hidden + p * lanes) * w_row;
    for (int64_t k = 0; k < factors; k += lanes) {
      const int64_t term = k * Factors::terms;
      Vec<T> block[lanes];
      for (int v = 0; v < lanes; ++v)
        block[v] = v < valid ? Factors::load_factors(first + v * w_row + term, depth - term) : Vec<T>{};
      transpose<T>(block);
      const int count = valid_lanes<T>(k, factors);
      for (int i = 0; i < count; ++i) store(panel + ((k + i) * 3 + g) * lanes, block[i]);
    }
  }
}

// One row of a matrix into row k of a part of its panels, [panels][rows][kWidth]: zeros past its last column.
template <class S, class T>
inline void pack_row(const S* row, int64_t columns, Range part, T* panels, int64_t rows, int64_t k) {
  constexpr int lanes = Simd<T>::lanes;
  for (int64_t p = part.begin; p < part.end; ++p)
    for (int64_t vector = 0; vector < kWidth<T>; vector += lanes) {
      const int64_t column = p * kWidth<T> + vector;
      const int count = valid_lanes<T>(column, columns);
      store(panels + (p * rows + k) * kWidth<T> + vector, count ? load(row + column, count) : Vec<T>{});
    }
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

// How many bytes ahead weights past the second-level cache are asked for.
constexpr int64_t kFarAhead = 2048;

// x W^T for M rows of Blocks and lanes / M rows of a weight where it lies, one dot product each: lane m * (lanes / M) +
// v is row m times weight row v. For calls too short to pay for packing. Weight rows past the `valid` first ones count
// as the first.
template <int M, bool far, class S, class T>
inline Vec<T> dot_rows(const Blocks<const T>& x, const S* w, int64_t w_row, int valid, int64_t depth) {
  constexpr int lanes = Simd<T>::lanes, outputs = lanes / M;
  // Along the row of a weight, so that memory is read in order; several sums hide the latency of a multiply-add.
  constexpr int together = M == 1 ? 1 : outputs, parts = M == 1 ? 4 : 1;
  Vec<T> sums[lanes];
  for (int first = 0; first < outputs; first += together) {
    Vec<T> acc[parts][M][together] = {};
    const S* rows[together];
    for (int v = 0; v < together; ++v) rows[v] = w + (first + v < valid ? first + v : 0) * w_row;
    int64_t k = 0;
    for (; k + parts * lanes <= depth; k += parts * lanes)
#pragma GCC unroll 4
      for (int part = 0; part < parts; ++part) {
        const int64_t at = k + part * lanes;
        Vec<T> terms[M];
        for (int m = 0; m < M; ++m) terms[m] = load(x.at(m, at));
#pragma GCC unroll 16
        for (int v = 0; v < together; ++v) {
          const Vec<T> weights = load(rows[v] + at);
          if constexpr (far) __builtin_prefetch(rows[v] + at + kFarAhead / sizeof(S));
#pragma GCC unroll 4
          for (int m = 0; m < M; ++m) acc[part][m][v] += terms[m] * weights;
        }
      }
    for (; k < depth; k += lanes) {
      const int count = valid_lanes<T>(k, depth);
      for (int v = 0; v < together; ++v) {
        const Vec<T> weights = load(rows[v] + k, count);
        for (int m = 0; m < M; ++m) acc[0][m][v] += load(x.at(m, k), count) * weights;
      }
    }
    for (int m = 0; m < M; ++m)
      for (int v = 0; v < together; ++v) {
        Vec<T> sum = acc[0][m][v];
        if constexpr (parts == 4) sum = (sum + acc[1][m][v]) + (acc[2][m][v] + acc[3][m][v]);
        sums[m * outputs + first + v] = sum;
      }
  }
  return sum_each<T>(sums);
}

// to[panel][row][gate] = x W^T for `rows` rows of x, from a weight [3H, depth] where it lies.
template <class S, class T>
void multiply_unpacked(const Blocks<const T>& x, int64_t rows, const Rows<const void>& weight, int64_t hidden,
                       int64_t depth, T* to, int64_t to_rows) {
  constexpr int lanes = Simd<T>::lanes, several = lanes >= 8 ? lanes / 4 : 1;
  const S* const w = static_cast<const S*>(weight.data);
  const bool far = 3 * hidden * depth * int64_t(sizeof(S)) > kFarWeights;
  for (int64_t unit = 0; unit < hidden; unit += lanes)
    for (int64_t gate = 0; gate < 3; ++gate) {
      const S* const first = w + (gate * hidden + unit) * weight.row;
      T* const out = to + unit / lanes * to_rows * kWidth<T> + gate * lanes;
      int64_t row = 0;
      for (; several > 1 && row + several <= rows; row += several)
        for (int part = 0; part < several; ++part) {
          constexpr int outputs = lanes / several;
          const int valid = valid_lanes<T>(unit + part * outputs, hidden);
          T sums[lanes];
          store(sums, dot_rows<several, false>(x.from(row), first + (valid ? part * outputs * weight.row : 0),
                                               weight.row, valid, depth));
          for (int m = 0; m < several; ++m)
            for (int v = 0; v < outputs; ++v) out[(row + m) * kWidth<T> + part * outputs + v] = sums[m * outputs + v];
        }
      const int valid = valid_lanes<T>(unit, hidden);
      for (; row < rows; ++row)
        store(out + row * kWidth<T>, far ? dot_rows<1, true>(x.from(row), first, weight.row, valid, depth)
                                         : dot_rows<1, false>(x.from(row), first, weight.row, valid, depth));
    }
}

}  // namespace
}  // namespace gru_fused

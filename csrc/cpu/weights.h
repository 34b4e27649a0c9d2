// The weights in the order that the kernels read them: copied into panels (panels.h), or where they are.
#pragma once

#include "panels.h"

namespace gru_fused {
namespace {

// Forward: some of the factors of panel p, from a weight [3H, depth], with the rows of units p * lanes and on of each
// gate, turned. They begin with a full vector. Units past H are zero.
template <class Factors, class S, class T>
void pack_gates(const S* w, int64_t w_row, int64_t hidden, int64_t depth, int64_t p, Range some, T* panel) {
  constexpr int lanes = Simd<T>::lanes;
  const int valid = valid_lanes<T>(p * lanes, hidden);
  for (int64_t g = 0; g < 3; ++g) {
    const S* const first = w + (g * hidden + p * lanes) * w_row;
    for (int64_t k = some.begin; k < some.end; k += lanes) {
      const int64_t term = k * Factors::terms;
      Vec<T> block[lanes];
      for (int v = 0; v < lanes; ++v)
        block[v] = v < valid ? Factors::load_factors(first + v * w_row + term, depth - term) : Vec<T>{};
      transpose<T>(block);
      const int count = valid_lanes<T>(k, some.end);
      for (int i = 0; i < count; ++i) store(panel + ((k - some.begin + i) * 3 + g) * lanes, block[i]);
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

// How a core reads the rows of a weight where it lies: so many `together`, each with so many sums side by side
// (`parts`) against the latency of a multiply-add, and memory asked for `ahead` bytes before it is read, in its order;
// or left to the core's own prefetchers.
template <int together_, int parts_, int64_t ahead_ = 0>
struct RowReads {
  static constexpr int together = together_, parts = parts_;
  static constexpr int64_t ahead = ahead_;
};

// x W^T for one row of Blocks and `lanes` rows of a weight where it lies, one dot product each. For calls too short to
// pay for packing. Weight rows past the `valid` first ones count as the first.
template <class Reads, class S, class T>
inline Vec<T> dot_row(const Blocks<const T>& x, const S* w, int64_t w_row, int valid, int64_t depth) {
  constexpr int lanes = Simd<T>::lanes, parts = Reads::parts,
                together = Reads::together < lanes ? Reads::together : lanes;
  constexpr int line = 64, lines = together * parts * lanes * int(sizeof(S)) / line;  // of a turn
  const int64_t next_terms = x.capacity * lanes;
  const char* soon = reinterpret_cast<const char*>(w) + Reads::ahead;
  Vec<T> sums[lanes];
  for (int first = 0; first < lanes; first += together) {
    Vec<T> acc[1][parts][together];
    for_sums<1, parts, together>([&](int, int part, int v)
                                     __attribute__((always_inline)) { acc[0][part][v] = Vec<T>{}; });
    const S* rows[together];
    for (int v = 0; v < together; ++v) rows[v] = w + (first + v < valid ? first + v : 0) * w_row;
    const T* terms = x.data;
    int64_t k = 0;
    for (; k + parts * lanes <= depth; k += parts * lanes) {
      if constexpr (Reads::ahead > 0)
#pragma GCC unroll 8
        for (int i = 0; i < lines; ++i, soon += line) __builtin_prefetch(soon);
#pragma GCC unroll 4
      for (int part = 0; part < parts; ++part, terms += next_terms) {
        const Vec<T> term = load(terms);
#pragma GCC unroll 4
        for (int v = 0; v < together; ++v) acc[0][part][v] += term * load(rows[v] + k + part * lanes);
      }
    }
    for (; k < depth; k += lanes, terms += next_terms) {
      const int count = valid_lanes<T>(k, depth);
      for (int v = 0; v < together; ++v) acc[0][0][v] += load(terms, count) * load(rows[v] + k, count);
    }
    for (int v = 0; v < together; ++v) {
      sums[first + v] = acc[0][0][v] + acc[0][1][v];
      if constexpr (parts == 4) sums[first + v] += acc[0][2][v] + acc[0][3][v];
    }
  }
  return sum_each<T>(sums);
}

// The best of them for a weight of so many bytes. (docs/notes/2026-11-25-single-rows.md, 2026-11-27-zen3-streams.md)
template <class S, class T>
auto dot_row_for(int64_t bytes) {
  const bool far = bytes > kFarWeights;
  switch (core()) {
    case Core::zen5:
      return far ? dot_row<RowReads<1, 4, 4096>, S, T> : dot_row<RowReads<2, 4, 4096>, S, T>;
    case Core::zen3:
      return dot_row<RowReads<4, 2, 8192>, S, T>;
    default:
      return far ? dot_row<RowReads<1, 2>, S, T> : dot_row<RowReads<2, 2>, S, T>;
  }
}

// The same for M rows and a few rows of a weight, `outputs`: lane m * outputs + v is row m times weight row v. There is
// time to ask for a row of a weight that comes later, `soon`, and to have it in the second-level cache.
template <int M, int outputs, class S, class T>
inline Vec<T> dot_rows(const Blocks<const T>& x, const S* w, int64_t w_row, int valid, int64_t depth, const S* soon) {
  constexpr int lanes = Simd<T>::lanes;
  static_assert(M * outputs <= lanes);
  Vec<T> sums[lanes] = {};
  const S* rows[outputs];
  for (int v = 0; v < outputs; ++v) rows[v] = w + (v < valid ? v : 0) * w_row;
  for (int64_t k = 0; k < depth; k += lanes) {
    const int count = valid_lanes<T>(k, depth);
    const auto add = [&](const auto& load_some) __attribute__((always_inline)) {
      __builtin_prefetch(soon + k, 0, 2);
      Vec<T> terms[M];
      for (int m = 0; m < M; ++m) terms[m] = load_some(x.at(m, k));
#pragma GCC unroll 16
      for (int v = 0; v < outputs; ++v) {
        const Vec<T> weights = load_some(rows[v] + k);
#pragma GCC unroll 4
        for (int m = 0; m < M; ++m) sums[m * outputs + v] += terms[m] * weights;
      }
    };
    if (count == lanes)
      add([](const auto* from) { return load(from); });
    else
      add([&](const auto* from) { return load(from, count); });
  }
  return sum_each<T>(sums);
}

// The same for M rows, the first of which is `row`, and `lanes` rows of a weight: lane v of row m goes to
// to[m * kWidth + v]. Meanwhile some of the next `lanes` rows are asked for, of which all rows together ask for all.
template <int M, class S, class T>
inline void put_dot_rows(const Blocks<const T>& x, int64_t row, const S* w, int64_t w_row, int valid, int64_t depth,
                         T* to) {
  constexpr int lanes = Simd<T>::lanes, outputs = M == 3 ? lanes / 4 : lanes / M;
  for (int first = 0; first < lanes; first += outputs) {
    const S* const soon = w + (lanes + (row + first / outputs) % lanes) * w_row;
    T sums[lanes];
    store(sums, dot_rows<M, outputs>(x, w + (first < valid ? first * w_row : 0), w_row, valid - first, depth, soon));
    for (int m = 0; m < M; ++m)
      for (int v = 0; v < outputs; ++v) to[m * kWidth<T> + first + v] = sums[m * outputs + v];
  }
}

// to[panel][row][gate] = x W^T for `rows` rows of x and some panels, from a weight [3H, depth] where it lies.
template <class S, class T>
void multiply_unpacked(const Blocks<const T>& x, int64_t rows, const Rows<const void>& weight, int64_t hidden,
                       int64_t depth, Range panels, T* to, int64_t to_rows) {
  constexpr int lanes = Simd<T>::lanes, most = lanes >= 8 ? lanes / 4 : 1;  // rows at once
  const S* const w = static_cast<const S*>(weight.data);
  const auto dot = dot_row_for<S, T>(3 * hidden * depth * int64_t(sizeof(S)));
  // In the order of memory, of which one row asks for all in time.
  for (int64_t gate = 0; gate < 3; ++gate)
    for (int64_t unit = panels.begin * lanes; unit < panels.end * lanes; unit += lanes) {
      const S* const first = w + (gate * hidden + unit) * weight.row;
      const int valid = valid_lanes<T>(unit, hidden);
      T* const out = to + unit / lanes * to_rows * kWidth<T> + gate * lanes;
      int64_t row = 0;
      const auto some = [&](auto together) {
        for (; row + together <= rows; row += together)
          put_dot_rows<together>(x.from(row), row, first, weight.row, valid, depth, out + row * kWidth<T>);
      };
      if constexpr (most > 1) some(std::integral_constant<int, most>{});
      if constexpr (most > 3) some(std::integral_constant<int, 3>{});
      if constexpr (most > 2) some(std::integral_constant<int, 2>{});
      for (; row < rows; ++row) store(out + row * kWidth<T>, dot(x.from(row), first, weight.row, valid, depth));
    }
}

}  // namespace
}  // namespace gru_fused

// The product of a few rows with a matrix that lies in panels: the microkernel of every large product here.
//
// A panel holds, for every k, three vectors side by side: panel[k][3][lanes]. In the forward they are the r, z and n
// weights of `lanes` units, so that the epilogue has all three gates of a unit in registers; elsewhere they are
// 3 * lanes consecutive columns of a matrix.
#pragma once

#include <type_traits>

#include "core.h"
#include "factors.h"
#include "kernels.h"
#include "other_work.h"
#include "plan.h"

namespace gru_fused {
namespace {

// Rows of a full microkernel: 3 accumulators a row, 3 weights and 1 broadcast fill the registers
// (16 of them, or 32 with AVX-512).
constexpr int kRows = GRU_FUSED_VECTOR_BYTES == 64 ? 8 : 4;

template <class T>
constexpr int kWidth = 3 * Simd<T>::lanes;  // columns of a panel

// How many lanes of the vector that begins at this column are columns.
template <class T>
inline int valid_lanes(int64_t column, int64_t columns) {
  const int64_t left = columns - column;
  return left >= Simd<T>::lanes ? Simd<T>::lanes : left > 0 ? int(left) : 0;
}

// A sum over more terms than this is made in blocks, which keeps the rounding error of long sums small (a whole step's
// first block of the state goes on from the inputs' sum). So many rows of a panel, 24 KiB at most but with AVX-512,
// stay in the first-level cache for all rows of a product that takes the panels in such slices. With AVX-512, where
// they are 48 KiB, that was measured on Golden Cove only (docs/notes/2026-11-29-golden-cove.md).
constexpr int64_t kSumBlock = 256;
inline bool has_slices() { return GRU_FUSED_VECTOR_BYTES < 64 || core() == Core::golden_cove; }

// Rows in blocks of one vector: element (row, k) lies at data[k / lanes][row][k % lanes], so that the rows of a
// microkernel lie side by side. `capacity` is how many rows an array has room for.
template <class T>
struct Blocks {
  static constexpr int lanes = Simd<std::remove_const_t<T>>::lanes;

  T* data;
  int64_t capacity;

  inline __attribute__((always_inline)) T* at(int64_t row, int64_t k) const {
    return data + (k / lanes * capacity + row) * lanes + k % lanes;
  }
  operator Blocks<const T>() const { return {data, capacity}; }
  Blocks from(int64_t row, int64_t k = 0) const { return {at(row, k), capacity}; }  // k at the start of a block
};

// The left factor of a product: for m from `row` on and any k, element (m, k) of an array.
template <class T>
struct RowsOf {
  static constexpr int64_t run = Simd<T>::lanes, next_m = Simd<T>::lanes, next_k = 1;
  Blocks<const T> blocks;
  inline __attribute__((always_inline)) const T* at(int64_t k) const { return blocks.at(0, k); }
};
// Element (k, m), for the m of one block.
template <class T>
struct ColumnsOf {
  static constexpr int64_t run = 256, next_m = 1, next_k = Simd<T>::lanes;
  const T* block;
  inline __attribute__((always_inline)) const T* at(int64_t k) const { return block + k * next_k; }
};

// Calls action(p, m, g) for every sum of a microkernel, unrolled: so the sums stay in registers.
template <int P, int M, int G, class Action>
inline __attribute__((always_inline)) void for_sums(const Action& action) {
#pragma GCC unroll 8
  for (int p = 0; p < P; ++p)
#pragma GCC unroll 8
    for (int m = 0; m < M; ++m)
#pragma GCC unroll 3
      for (int g = 0; g < G; ++g) action(p, m, g);
}

// sum[p][m][g] = sum over k in [begin, end) of a(m, k) * panels[p][k][g], for M rows, P panels and their first G
// vectors at once; or, if it does not begin, that is added to it. They are no more than kSumBlock.
template <class T, int M, int P, class Factors = Numbers, bool begins = true, int G, class Left>
inline __attribute__((always_inline)) void multiply_block(Vec<T> (&sum)[P][M][G], const Left& a,
                                                          const T* const (&panels)[P], int64_t begin, int64_t end) {
  constexpr int lanes = Simd<T>::lanes;
  // One by one: `= {}` clears an array in memory, which takes as long as ten terms of the sums.
  if constexpr (begins)
    for_sums<P, M, G>([&](int p, int m, int g) __attribute__((always_inline)) { sum[p][m][g] = Vec<T>{}; });
  for (int64_t k = begin; k < end; k += Left::run) {
    const T* left = a.at(k);
    const int64_t stop = k + Left::run < end ? k + Left::run : end;
    for (int64_t i = k; i < stop; ++i, left += Left::next_k) {
#pragma GCC unroll 8
      for (int p = 0; p < P; ++p) {
        const T* weights = panels[p] + i * kWidth<T>;
        Vec<T> w[G];
        for (int g = 0; g < G; ++g) {
          w[g] = load(weights + g * lanes);
          if constexpr (M > 2) in_order(w[g]);  // one load for all rows
        }
#pragma GCC unroll 8
        for (int m = 0; m < M; ++m) {
          const T x = left[m * Left::next_m];
#pragma GCC unroll 3
          for (int g = 0; g < G; ++g) Factors::add(sum[p][m][g], x, w[g]);
        }
      }
    }
  }
}

// sum += more
template <int P, int M, int G, class V>
inline __attribute__((always_inline)) void add_sums(V (&sum)[P][M][G], const V (&more)[P][M][G]) {
  for_sums<P, M, G>([&](int p, int m, int g) __attribute__((always_inline)) { sum[p][m][g] += more[p][m][g]; });
}

// The same over any number of terms.
template <class T, int M, int P, class Factors = Numbers, bool begins = true, int G, class Left>
inline __attribute__((always_inline)) void multiply(Vec<T> (&sum)[P][M][G], const Left& a, const T* const (&panels)[P],
                                                    int64_t depth) {
  multiply_block<T, M, P, Factors, begins>(sum, a, panels, 0, depth < kSumBlock ? depth : kSumBlock);
  for (int64_t begin = kSumBlock; begin < depth; begin += kSumBlock) {
    Vec<T> more[P][M][G];
    multiply_block<T, M, P, Factors>(more, a, panels, begin, begin + kSumBlock < depth ? begin + kSumBlock : depth);
    add_sums(sum, more);
  }
}

// The same for one row and one panel, read in order and, if `early`, asked for ahead; `next` is the panel that will be
// read after it.
template <bool early, class T, class Factors = Numbers, int G, class Left>
inline __attribute__((always_inline)) void multiply_row(Vec<T> (&acc)[G], const Left& a, const T* panel, const T* next,
                                                        int64_t depth) {
  constexpr int lanes = Simd<T>::lanes, parts = 4;  // sums side by side, against the latency of a multiply-add
  constexpr int64_t ahead = 8;
  Vec<T> sum[parts][G] = {};
  const auto term = [&](int part, int64_t k, const T* soon) __attribute__((always_inline)) {
    const T x = *a.at(k);
    for (int g = 0; g < G; ++g) {
      if constexpr (early) __builtin_prefetch(soon + g * lanes);
      Factors::add(sum[part][g], x, load(panel + k * kWidth<T> + g * lanes));
    }
  };
  int64_t k = 0;
  for (; k + parts + ahead <= depth; k += parts)
#pragma GCC unroll 4
    for (int part = 0; part < parts; ++part) term(part, k + part, panel + (k + part + ahead) * kWidth<T>);
  const T* const rest = next + (ahead - depth) * kWidth<T>;
  for (; k + parts <= depth; k += parts)
#pragma GCC unroll 4
    for (int part = 0; part < parts; ++part) term(part, k + part, rest + (k + part) * kWidth<T>);
  for (; k < depth; ++k) term(0, k, rest + k * kWidth<T>);
  for (int g = 0; g < G; ++g) acc[g] += (sum[0][g] + sum[1][g]) + (sum[2][g] + sum[3][g]);
}

// What one thread does of several equal things.
struct Range {
  int64_t begin, end;
};

// Calls tile.template run<M, P>(row, panel) over `rows` x the panels of a range in blocks of M rows and P panels, rows
// inside, so that a panel stays in the first-level cache for all rows. Rows are spread evenly: 5 rows are 3 + 2, not
// 4 + 1. Every other step of a sequence may take the panels `backwards`: what the cache still holds, the last that were
// read, are then the first to be read.
template <class Tile>
inline void for_blocks(Range of_rows, Range panels, const Tile& tile, bool backwards = false) {
  const int64_t rows = of_rows.end - of_rows.begin, groups = (rows + kRows - 1) / kRows;
  const auto row_groups = [&](auto several, int64_t panel) {
    int64_t row = of_rows.begin;
    for (int64_t g = 0; g < groups; ++g) {
      const int64_t end = of_rows.begin + rows * (g + 1) / groups;
      switch (end - row) {
#define GRU_FUSED_ROWS(M)                                                                          \
  case M:                                                                                          \
    tile.template run<M, (decltype(several)::value && kRows / M > 1 ? kRows / M : 1)>(row, panel); \
    break;
        GRU_FUSED_ROWS(1)
        GRU_FUSED_ROWS(2)
        GRU_FUSED_ROWS(3)
        GRU_FUSED_ROWS(4)
#if GRU_FUSED_VECTOR_BYTES == 64
        GRU_FUSED_ROWS(5)
        GRU_FUSED_ROWS(6)
        GRU_FUSED_ROWS(7)
        GRU_FUSED_ROWS(8)
#endif
#undef GRU_FUSED_ROWS
      }
      row = end;
    }
  };
  // With few rows one panel has too few accumulators to hide the latency of a multiply-add: take several.
  const int64_t together = groups == 1 ? kRows / rows : 1, all = panels.end - panels.begin;
  const int64_t several = together > 1 ? all / together : 0, parts = all - several * (together - 1);
  for (int64_t i = 0; i < parts; ++i) {
    const int64_t part = backwards ? parts - 1 - i : i;
    if (part < several)
      row_groups(std::true_type{}, panels.begin + part * together);
    else
      row_groups(std::false_type{}, panels.begin + several * (together - 1) + part);
  }
}

// Calls action with parts of the rows, `row_bytes` each, that stay in the second-level cache while panels pass by. Each
// part has panels pass by again, and so is no smaller than pays for that.
template <class Action>
inline void for_near_rows(int64_t rows, int64_t row_bytes, const Action& action) {
  constexpr int64_t least = 8 * kRows;
  const int64_t fit = near_bytes() / (row_bytes > 0 ? row_bytes : 1), most = fit > least ? fit : least;
  const int64_t parts = (rows + most - 1) / most;
  for (int64_t i = 0; i < parts; ++i) action(Range{rows * i / parts, rows * (i + 1) / parts});
}

// Whether the panels of a matrix of so many bytes had better be read one after the other.
inline bool in_turn(int64_t rows, int64_t bytes) { return rows == 1 && (bytes > kFarWeights || !asks_early()); }

// For one row: calls tile.run_row<early>(panel, next panel) for each, as for_blocks does.
template <class Tile>
inline void for_panels_in_turn(Range panels, bool backwards, const Tile& tile) {
  const int64_t step = backwards ? -1 : 1, first = backwards ? panels.end - 1 : panels.begin;
  const auto run = [&](auto early) {
    for (int64_t i = 0, panel = first; i < panels.end - panels.begin; ++i, panel += step)
      tile.template run_row<early>(panel, i + 1 < panels.end - panels.begin ? panel + step : panel);
  };
  if (asks_early())
    run(std::true_type{});
  else
    run(std::false_type{});
}

// Calls action with the number of vectors, as a constant, that the columns of the panel at `column` take.
template <class T, class Action>
inline void with_vectors(int64_t column, int64_t columns, const Action& action) {
  const int64_t left = columns - column;
  if (left > 2 * Simd<T>::lanes) return action(std::integral_constant<int, 3>{});
  if (left > Simd<T>::lanes) return action(std::integral_constant<int, 2>{});
  action(std::integral_constant<int, 1>{});
}

// Calls action(vectors, panels) for a part of the panels of a matrix, and by itself for its last panel, which may have
// columns for fewer than three vectors; `backwards` that one comes first.
template <class T, class Action>
inline void for_panels(int64_t columns, Range part, bool backwards, const Action& action) {
  const int64_t full = columns / kWidth<T>;
  const auto last = [&] {
    if (part.end > full)
      with_vectors<T>(full * kWidth<T>, columns, [&](auto vectors) { action(vectors, Range{full, full + 1}); });
  };
  if (backwards) last();
  action(std::integral_constant<int, 3>{}, Range{part.begin, part.end < full ? part.end : full});
  if (!backwards) last();
}

// Whether the workers of a plan run side by side.
inline bool side_by_side(const cpu::Plan& plan) {
  return plan.parallel && !cpu::other_work().expected(cpu::OtherWork::Clock::now());
}

// Waking another thread costs more than a small call: then everything runs here.
inline void run_all(bool in_parallel, const cpu::Parallel& parallel, int64_t count, cpu::Parallel::Body body,
                    const void* context) {
  if (in_parallel) return parallel.run(count, body, context);
  for (int64_t i = 0; i < count; ++i) body(context, i);
}

}  // namespace
}  // namespace gru_fused

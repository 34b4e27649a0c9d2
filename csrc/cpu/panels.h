// The product of a few rows with W_hh, in panels.
//
// A panel holds, for every k, three vectors side by side: panel[k][3][lanes]. In the forward they are the r, z and n
// weights of `lanes` units, so that the epilogue has all three gates of a unit in registers; in the backward they are
// 3 * lanes consecutive columns of W_hh. Both use the one microkernel below.
#pragma once

#include <type_traits>

#include "kernels.h"
#include "simd.h"

namespace gru_fused {
namespace {

constexpr int64_t round_up(int64_t n, int64_t to) { return (n + to - 1) / to * to; }

// Rows of a full microkernel: 3 accumulators a row, 3 weights and 1 broadcast fill the registers
// (16 of them, or 32 with AVX-512).
constexpr int kRows = GRU_FUSED_VECTOR_BYTES == 64 ? 8 : 4;

// How many lanes of the vector that begins at this unit are units.
template <class T>
inline int valid_lanes(int64_t unit, int64_t hidden) {
  return hidden - unit < Simd<T>::lanes ? int(hidden - unit) : Simd<T>::lanes;
}

// A sum over more terms than this is made in blocks, which keeps the rounding error of long sums small.
constexpr int64_t kSumBlock = 256;

// acc[p][m][g] += sum over k of a[m][k] * panels[p][k][g], for M rows and P panels at once.
template <class T, int M, int P>
inline __attribute__((always_inline)) void multiply(Vec<T> (&acc)[P][M][3], const T* a, int64_t a_row, const T* panels,
                                                    int64_t panel_size, int64_t depth) {
  constexpr int lanes = Simd<T>::lanes;
  for (int64_t begin = 0; begin < depth; begin += kSumBlock) {
    const int64_t end = begin + kSumBlock < depth ? begin + kSumBlock : depth;
    Vec<T> sum[P][M][3] = {};
    for (int64_t k = begin; k < end; ++k) {
#pragma GCC unroll 8
      for (int p = 0; p < P; ++p) {
        const T* weights = panels + p * panel_size + k * 3 * lanes;
        const Vec<T> w0 = load(weights), w1 = load(weights + lanes), w2 = load(weights + 2 * lanes);
#pragma GCC unroll 8
        for (int m = 0; m < M; ++m) {
          const T x = a[m * a_row + k];
          sum[p][m][0] += x * w0;
          sum[p][m][1] += x * w1;
          sum[p][m][2] += x * w2;
        }
      }
    }
    for (int p = 0; p < P; ++p)
      for (int m = 0; m < M; ++m)
        for (int g = 0; g < 3; ++g) acc[p][m][g] += sum[p][m][g];
  }
}

// Calls tile.template run<M, P>(row, panel) over `rows` x `panels` in blocks of M rows and P panels, rows inside, so
// that a panel stays in the first-level cache for all rows. Rows are spread evenly: 5 rows are 3 + 2, not 4 + 1.
template <class Tile>
inline void for_blocks(int64_t rows, int64_t panels, const Tile& tile) {
  const int64_t groups = (rows + kRows - 1) / kRows;
  const auto row_groups = [&](auto several, int64_t panel) {
    int64_t row = 0;
    for (int64_t g = 0; g < groups; ++g) {
      const int64_t end = rows * (g + 1) / groups;
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
  int64_t panel = 0;
  // With few rows one panel has too few accumulators to hide the latency of a multiply-add: take several.
  const int64_t together = groups == 1 ? kRows / rows : 1;
  if (together > 1)
    for (; panel + together <= panels; panel += together) row_groups(std::true_type{}, panel);
  for (; panel < panels; ++panel) row_groups(std::false_type{}, panel);
}

// Forward: panel p, from W_hh [3H, H], with the gates' weights of units p * lanes and on. Units past H are zero.
template <class S, class T>
void pack_gates(const S* w, int64_t w_row, int64_t hidden, int64_t p, T* panel) {
  constexpr int lanes = Simd<T>::lanes;
  const int valid = valid_lanes<T>(p * lanes, hidden);
  for (int64_t g = 0; g < 3; ++g) {
    const S* const first = w + (g * hidden + p * lanes) * w_row;
    for (int64_t k = 0; k < hidden; k += lanes) {
      const int count = valid_lanes<T>(k, hidden);
      Vec<T> block[lanes];
      for (int v = 0; v < lanes; ++v) block[v] = v < valid ? load(first + v * w_row + k, count) : Vec<T>{};
      transpose<T>(block);
      for (int i = 0; i < count; ++i) store(panel + ((k + i) * 3 + g) * lanes, block[i]);
    }
  }
}

// Backward: panel p with columns p * 3 * lanes and on of W_hh [3H, H]. Its rows follow the gradients of the gates in
// a tile, three blocks of `padded` rows (see backward.h); columns past H and rows past each block's H are zero.
template <class S, class T>
void pack_columns(const S* w, int64_t w_row, int64_t hidden, int64_t padded, int64_t p, T* panel) {
  constexpr int lanes = Simd<T>::lanes;
  for (int64_t g = 0; g < 3; ++g)
    for (int64_t k = 0; k < padded; ++k)
      for (int64_t part = 0; part < 3; ++part) {
        const int64_t column = (p * 3 + part) * lanes;
        const bool inside = k < hidden && column < hidden;
        store(panel + ((g * padded + k) * 3 + part) * lanes,
              inside ? load(w + (g * hidden + k) * w_row + column, valid_lanes<T>(column, hidden)) : Vec<T>{});
      }
}

// Waking another thread costs more than a small call: then everything runs here.
inline void run_all(bool in_parallel, const cpu::Parallel& parallel, int64_t count, cpu::Parallel::Body body,
                    const void* context) {
  if (in_parallel) return parallel.run(count, body, context);
  for (int64_t i = 0; i < count; ++i) body(context, i);
}

}  // namespace
}  // namespace gru_fused

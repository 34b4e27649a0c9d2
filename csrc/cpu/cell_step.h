// The cell as the epilogue of the products that make its gates.
#pragma once

#include "../gru_cell.h"
#include "gates.h"
#include "simd_math.h"

namespace gru_fused {
namespace {

// What comes of a step is up to `Results`:
//   void prefetch(row, unit)           called some time before
//   Vector vector(row, unit)           one vector of units, of the rows from there on:
//     Vec<T> before(m)                   the state of the m-th of them before the step
//     void keep(m, step)                 takes a Stepped
template <class S, class Results>
struct CellStep {
  using T = Accumulate<S>;
  using Math = VectorMath<T>;
  static constexpr int lanes = Simd<T>::lanes;

  const GateWeights<S>& weights;
  const T* gi;  // [panels][gi_rows][3][lanes], from the first row on
  int64_t gi_rows;
  Results results;

  // What the step will touch: the product takes longer than its way from the outer caches.
  inline __attribute__((always_inline)) void prefetch(int64_t row, int64_t panel) const {
    for (int g = 0; g < 3; ++g) __builtin_prefetch(gi + (panel * gi_rows + row) * kWidth<T> + g * lanes);
    results.prefetch(row, panel * lanes);
  }

  template <int P, int M>
  inline __attribute__((always_inline)) void operator()(int64_t row, int64_t panel, Vec<T> (&sums)[P][M][3]) const {
    const T* const first = gi + (panel * gi_rows + row) * kWidth<T>;
    const int64_t next_panel = gi_rows * kWidth<T>;
    step(row, panel, sums, [&](int p, int m, int g) __attribute__((always_inline)) {
      return load(first + p * next_panel + m * kWidth<T> + g * lanes);
    });
  }

  // M rows and P panels; in(p, m, g) is added to the sums. First r and z of all, then n of all: the core has many
  // exponentials under way, and none waits for another.
  template <int P, int M, class In>
  inline __attribute__((always_inline)) void step(int64_t row, int64_t panel, Vec<T> (&sums)[P][M][3],
                                                  const In& in) const {
#pragma GCC unroll 8
    for (int p = 0; p < P; ++p)
#pragma GCC unroll 8
      for (int m = 0; m < M; ++m)
#pragma GCC unroll 2
        for (int g = 0; g < 2; ++g) {
          sums[p][m][g] = Math::sigmoid(in(p, m, g) + sums[p][m][g]);
          in_order(sums[p][m][g]);
        }
    Vec<T> n[P][M];
#pragma GCC unroll 8
    for (int p = 0; p < P; ++p) {
      const Vec<T> b_hn = load(weights.biases + ((panel + p) * 4 + 3) * lanes);
#pragma GCC unroll 8
      for (int m = 0; m < M; ++m) {
        sums[p][m][2] += b_hn;
        n[p][m] = cell_candidate<Math>(in(p, m, 2), sums[p][m][0], sums[p][m][2]);
        in_order(n[p][m]);
      }
    }
#pragma GCC unroll 8
    for (int p = 0; p < P; ++p) {
      const auto vector = results.vector(row, (panel + p) * lanes);
#pragma GCC unroll 8
      for (int m = 0; m < M; ++m) {
        const auto& [r, z, gh_n] = sums[p][m];
        vector.keep(m, cell_state<Vec<T>>({r, z, n[p][m], gh_n}, vector.before(m)));
      }
    }
  }
};

}  // namespace
}  // namespace gru_fused

// The products of the backward in tiles (tiles.h): gate gradients, x and states are pairs of bfloat16.
//
// A tile of sums is often what memory holds too, 16 rows of a block or a corner of a weight's gradient: then it is
// loaded, added to and stored with nothing in between. (So z * dh comes first in the sum of dh, not last as elsewhere:
// beside gate gradients that are rounded to bfloat16 the difference is nothing.)
#pragma once

#include "gradients.h"
#include "tiles.h"

#if GRU_FUSED_TILES  // a tile's row is a vector of 64 bytes
namespace gru_fused {
namespace {

// Pairs of two rows' numbers, column by column.
inline __attribute__((always_inline)) Vec<float> pair_up(const bf16* low, const bf16* high, int count) {
  const auto bits = [&](const bf16* from) __attribute__((always_inline)) {
    return from && count ? bits_as<u32v>(load(from, count)) : u32v{};  // a bfloat16 is a float's upper half
  };
  return bits_as<Vec<float>>(bits(low) >> 16 | bits(high));
}

// Two rows of a matrix, or one and null, into a pair of a part of its panels, `panel` numbers from one to the next;
// `to` is the pair's place in the part's first.
inline void pack_pair(const bf16* low, const bf16* high, int64_t columns, Range part, float* to, int64_t panel) {
  constexpr int lanes = Simd<float>::lanes;
  for (int64_t p = part.begin; p < part.end; ++p, to += panel)
    for (int64_t vector = 0; vector < kWidth<float>; vector += lanes) {
      const int64_t column = p * kWidth<float> + vector;
      const auto at = [&](const bf16* row) { return row ? row + column : nullptr; };
      store(to + vector, pair_up(at(low), at(high), valid_lanes<float>(column, columns)));
    }
}

// Panel p of a weight [3H, columns]: the pairs of each gate's rows, filled up to `factors`.
inline void pack_pairs_of_columns(const bf16* w, int64_t w_row, int64_t hidden, int64_t columns, int64_t p,
                                  int64_t factors, float* panel) {
  for (int64_t gate = 0; gate < 3; ++gate)
    for (int64_t k = 0; k < factors; ++k, panel += kWidth<float>) {
      const auto row = [&](int64_t unit) { return unit < hidden ? w + (gate * hidden + unit) * w_row : nullptr; };
      pack_pair(row(2 * k), row(2 * k + 1), columns, {p, p + 1}, panel, 0);
    }
}

// 16 units from `unit` on of some rows of gate gradients, turned: tiles of [16 units][16 pairs of rows], `next` numbers
// from one to the next, with zeros past the last row.
static_assert(Simd<float>::lanes == kTileColumns && kTileFactors == kTileColumns && kTileRows == kTileColumns);
inline void turn_pairs(const Blocks<const float>& grads, int64_t unit, int64_t rows, float* to, int64_t next) {
  const auto row = [&](int64_t k) { return k < rows ? reinterpret_cast<const bf16*>(grads.at(k, unit / 2)) : nullptr; };
  for (int64_t first = 0; first < rows; first += 2 * kTileFactors, to += next) {
    Vec<float> block[kTileFactors];
    for (int i = 0; i < kTileFactors; ++i) block[i] = pair_up(row(first + 2 * i), row(first + 2 * i + 1), kTileRows);
    transpose<float>(block);
    for (int i = 0; i < kTileRows; ++i) store(to + i * kTileFactors, block[i]);
  }
}

// Calls action(tile, where) for the tiles of sums of some groups of 16 rows and G vectors of a matrix, `row` and
// `vector` numbers from one row and vector to the next.
template <int groups, int G, class Action>
inline __attribute__((always_inline)) void for_tiles_of(float* first, int64_t row, int64_t vector,
                                                        const Action& action) {
  const auto each = [&]<int... i>(std::integer_sequence<int, i...>) __attribute__((always_inline)) {
    (action(std::integral_constant<int, i>{}, first + i / G * kTileRows * row + i % G * vector), ...);
  };
  each(std::make_integer_sequence<int, groups * G>{});
}

// Adds a product of tiles to that matrix, or writes it there; of the last rows or vectors only what is there, by
// keep(m, sums) for one row.
template <int groups, int G, class Multiply, class Keep>
inline __attribute__((always_inline)) void add_tiles(float* first, int64_t row, int64_t vector, bool add, int rows,
                                                     bool whole, const Multiply& multiply, const Keep& keep) {
  if (add && whole)
    for_tiles_of<groups, G>(first, row, vector, [&](auto tile, float* at) __attribute__((always_inline)) {
      load_tile<decltype(tile)::value>(at, row, kTileRows);
    });
  else
    clear_tiles<groups * G>();
  multiply();
  if (whole)
    for_tiles_of<groups, G>(first, row, vector, [&](auto tile, float* at) __attribute__((always_inline)) {
      store_tile<decltype(tile)::value>(at, row);
    });
  else
    for_tile_sums<groups, G>(rows, [&]<int M>(int m, const Vec<float>(&sums)[1][M][G]) {
      for (int i = 0; i < M; ++i) keep(m + i, sums[0][i]);
    });
}

// GateProduct (gradients.h) in tiles. Depth and distances of the blocks are in factors.
template <int G>
struct GateTiles {
  static constexpr int lanes = Simd<float>::lanes;

  GateBlocks<float> blocks;
  const float* weights;  // [panels][3 gates][depth][kWidth]
  Blocks<float> to;
  bool add;

  int64_t row_bytes() const { return 3 * blocks.depth * int64_t(sizeof(float)); }

  template <int groups>
  void run_tiles(int64_t row, int rows, int64_t panel) const {
    float* const first = to.at(row, panel * kWidth<float>);
    const int64_t vector = to.capacity * lanes;
    const auto multiply = [&] {
      for (int b = 0; b < 3; ++b) {
        const float* const grads = blocks.grads.at(row, b * blocks.next);
        multiply_first_tiles<groups, G>(grads, blocks.grads.capacity * lanes, rows,
                                        weights + (3 * panel + blocks.gate[b]) * blocks.depth * kWidth<float>,
                                        blocks.depth);
      }
    };
    add_tiles<groups, G>(first, lanes, vector, add, rows, rows == groups * kTileRows, multiply,
                         [&](int m, const Vec<float>(&sums)[G]) {
                           for (int g = 0; g < G; ++g) {
                             float* const at = first + g * vector + m * lanes;
                             store(at, add ? load(at) + sums[g] : sums[g]);
                           }
                         });
  }
};

// multiply_panels (gradients.h) in tiles.
inline void multiply_panels_in_tiles(const GateBlocks<float>& blocks, int64_t rows, const float* weights,
                                     int64_t columns, Range part, const Blocks<float>& to, bool add, bool backwards) {
  for_panels<float>(columns, part, backwards, [&](auto vectors, Range panels) {
    for_tiles({0, rows}, panels, GateTiles<vectors>{blocks, weights, to, add}, backwards);
  });
}

// to[units][columns] (+)= gate gradients, turned (one tile of each group after the other), times G vectors of a panel
// of the rows that the gates were made from: WeightGradient in tiles. To a result of bfloat16 nothing is added.
template <int groups, int G, class To>
inline void add_weight_gradient(const float* turned, const float* panel, int64_t pairs, To* to, int units,
                                int64_t columns, int64_t column, bool add) {
  constexpr int lanes = Simd<float>::lanes;
  const auto multiply = [&] {
    multiply_first_tiles<groups, G>(turned, groups * kTileRows * kTileFactors, units, panel, pairs);
  };
  const auto keep = [&](int m, const Vec<float>(&sums)[G]) {
    for (int g = 0; g < G; ++g) {
      const int count = valid_lanes<float>(column + g * lanes, columns);
      To* const at = to + m * columns + column + g * lanes;
      store(at, add ? load(at, count) + sums[g] : sums[g], count);
    }
  };
  if constexpr (std::is_same_v<To, float>) {
    const bool whole = units == groups * kTileRows && column + G * lanes <= columns;
    add_tiles<groups, G>(to + column, columns, lanes, add, units, whole, multiply, keep);
  } else {
    add_tiles<groups, G>(nullptr, 0, 0, false, units, false, multiply, keep);
  }
}

// to[H][columns] (+)= the same of one block of gate gradients, a part of the panels, [panels][panel_rows][kWidth].
// turned: room for two tiles of every 32 rows.
template <class To>
void add_weight_gradients(const Blocks<const float>& grads, int64_t hidden, int64_t rows, const float* panels,
                          int64_t panel_rows, Range part, To* to, int64_t columns, bool add, float* turned) {
  constexpr int64_t tile = kTileRows * kTileFactors;
  const int64_t pairs = factors_in(rows, 2);
  const auto some = [&](auto groups, int64_t unit, int units) {
    for (int i = 0; i < groups; ++i) turn_pairs(grads, unit + i * kTileRows, rows, turned + i * tile, groups * tile);
    for (int64_t p = part.begin; p < part.end; ++p)
      with_vectors<float>(p * kWidth<float>, columns, [&](auto vectors) {
        add_weight_gradient<groups, vectors>(turned, panels + p * panel_rows * kWidth<float>, pairs,
                                             to + unit * columns, units, columns, p * kWidth<float>, add);
      });
  };
  for (int64_t unit = 0; unit < hidden; unit += 2 * kTileRows) {
    const int64_t left = hidden - unit;
    if (left > kTileRows)
      some(std::integral_constant<int, 2>{}, unit, int(left < 2 * kTileRows ? left : 2 * kTileRows));
    else
      some(std::integral_constant<int, 1>{}, unit, int(left));
  }
}

}  // namespace
}  // namespace gru_fused
#endif

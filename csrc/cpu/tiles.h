// Products of bfloat16 in the tiles of AMX: 16 rows x 32 terms times 32 terms x 16 columns in one instruction.
//
// A tile is 16 rows of 64 bytes. What the other kernels of pairs read is what its instructions want: 16 rows of a block
// (Blocks) are a left factor, 16 factors of one vector of a panel a right one. Depth is in whole tiles: factors.h
// rounds it up, with zeros on both sides. Rows past the last of an array are whatever follows it in memory; they only
// make sums that nobody reads.
#pragma once

#include "panels.h"

namespace gru_fused {
namespace {

template <class S>
constexpr bool kInTiles = tiled(FactorsOf<S>::terms);

template <class S>
constexpr cpu::Products kProductsOf =
    kInTiles<S>                                                ? cpu::Products::tiles
    : GRU_FUSED_VECTOR_BYTES == 64 && std::is_same_v<S, float> ? cpu::Products::wide
                                                               : cpu::Products::vectors;

constexpr int kTileRows = 16, kTileColumns = 16;
// Numbers past the end of an array that a tile of its last rows takes along.
constexpr int64_t kTileSlack = GRU_FUSED_TILES ? kTileRows * kTileFactors : 0;

constexpr int kTiles = 8;

struct NoTiles {
  explicit NoTiles(bool) {}
};

#if defined(__AMX_BF16__)
// While one is there that is wanted, its thread has tiles of full size.
struct Tiles {
  explicit Tiles(bool wanted) : wanted(wanted) {
    if (!wanted) return;
    alignas(64) struct {
      uint8_t palette = 1, start_row = 0, reserved[14] = {};
      uint16_t row_bytes[16] = {};
      uint8_t rows[16] = {};
    } config;
    for (int i = 0; i < kTiles; ++i) config.row_bytes[i] = 64, config.rows[i] = kTileRows;
    asm volatile("ldtilecfg %0" ::"m"(config));
  }
  ~Tiles() {
    if (wanted) asm volatile("tilerelease");
  }
  Tiles(const Tiles&) = delete;

 private:
  bool wanted;
};

template <int tile>
inline __attribute__((always_inline)) void clear_tile() {
  asm volatile("tilezero %%tmm%c0" ::"i"(tile));
}
// Of the rows the first `rows` matter.
template <int tile>
inline __attribute__((always_inline)) void load_tile(const float* from, int64_t row, int /*rows*/) {
  asm volatile("tileloadd (%0,%1,1), %%tmm%c2" ::"r"(from), "r"(row * int64_t(sizeof(float))), "i"(tile) : "memory");
}
template <int tile>
inline __attribute__((always_inline)) void store_tile(float* to, int64_t row) {
  asm volatile("tilestored %%tmm%c2, (%0,%1,1)" ::"r"(to), "r"(row * int64_t(sizeof(float))), "i"(tile) : "memory");
}
template <int sums, int left, int right>
inline __attribute__((always_inline)) void add_product_of_tiles() {
  asm volatile("tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0" ::"i"(sums), "i"(left), "i"(right));
}
#else  // the same in loops, for tests on machines without; rows that do not matter are NaN
using Tiles = NoTiles;
inline thread_local float of_tile[kTiles][kTileRows][kTileColumns];

template <int tile>
inline void clear_tile() {
  for (auto& row : of_tile[tile])
    for (float& number : row) number = 0;
}
template <int tile>
inline void load_tile(const float* from, int64_t row, int rows) {
  for (int i = 0; i < kTileRows; ++i) {
    __builtin_memcpy(of_tile[tile][i], from + i * row, sizeof of_tile[tile][i]);
    if (i >= rows) __builtin_memset(of_tile[tile][i], 0xff, sizeof of_tile[tile][i]);
  }
}
template <int tile>
inline void store_tile(float* to, int64_t row) {
  for (int i = 0; i < kTileRows; ++i) __builtin_memcpy(to + i * row, of_tile[tile][i], sizeof of_tile[tile][i]);
}
template <int sums, int left, int right>
inline void add_product_of_tiles() {
  const auto term = [](float pair, int i) { return bits_as<float>(bits_as<uint32_t>(pair) << 16 * !i & 0xffff0000u); };
  for (int m = 0; m < kTileRows; ++m)
    for (int k = 0; k < kTileFactors; ++k)
      for (int n = 0; n < kTileColumns; ++n)
        for (int i = 0; i < 2; ++i) of_tile[sums][m][n] += term(of_tile[left][m][k], i) * term(of_tile[right][k][n], i);
}
#endif

template <class S>
using TilesFor = std::conditional_t<kInTiles<S>, Tiles, NoTiles>;

template <int count>
inline __attribute__((always_inline)) void clear_tiles() {
  const auto each = []<int... i>(std::integer_sequence<int, i...>)
                        __attribute__((always_inline)) { (clear_tile<i>(), ...); };
  each(std::make_integer_sequence<int, count>{});
}
// One after the other.
template <int count>
inline __attribute__((always_inline)) void store_tiles(float* to) {
  const auto each = [&]<int... i>(std::integer_sequence<int, i...>) __attribute__((always_inline)) {
    (store_tile<i>(to + i * kTileRows * kTileColumns, kTileColumns), ...);
  };
  each(std::make_integer_sequence<int, count>{});
}

// Adds the product of some rows with as many vectors of a panel to the tiles `sums`. Of the left factor, which is tiles
// in memory, rows are side by side and terms `next_left` numbers from one tile to the next.
template <int... sums>
inline __attribute__((always_inline)) void multiply_tiles(const float* left, int64_t next_left, int rows,
                                                          const float* panel, int64_t depth) {
  constexpr int a = 4, b = 5;
  for (int64_t k = 0; k < depth; k += kTileFactors, left += next_left, panel += kTileFactors * kWidth<float>) {
    load_tile<a>(left, kTileFactors, rows);
    const auto for_vectors = [&]<int... g>(std::integer_sequence<int, g...>) __attribute__((always_inline)) {
      (load_tile<b + g>(panel + g * kTileColumns, kWidth<float>, kTileFactors), ...);
      (add_product_of_tiles<sums, a, b + g>(), ...);
    };
    for_vectors(std::make_integer_sequence<int, sizeof...(sums)>{});
  }
}
// The same for 17 to 32 rows: the second 16 have their sums in the tiles after the G of the first.
template <int G>
inline __attribute__((always_inline)) void multiply_many_tiles(const float* left, int64_t next_left, int rows,
                                                               const float* panel, int64_t depth) {
  constexpr int a = 6, b = 7;
  for (int64_t k = 0; k < depth; k += kTileFactors, left += next_left, panel += kTileFactors * kWidth<float>) {
    const auto multiply = [&]<int g>(std::integral_constant<int, g>) __attribute__((always_inline)) {
      load_tile<b>(panel + g * kTileColumns, kWidth<float>, kTileFactors);
      load_tile<a>(left, kTileFactors, kTileRows);
      add_product_of_tiles<g, a, b>();
      load_tile<a>(left + kTileRows * kTileFactors, kTileFactors, rows - kTileRows);
      add_product_of_tiles<G + g, a, b>();
    };
    const auto for_vectors = [&]<int... g>(std::integer_sequence<int, g...>)
                                 __attribute__((always_inline)) { (multiply(std::integral_constant<int, g>{}), ...); };
    for_vectors(std::make_integer_sequence<int, G>{});
  }
}
// Either, to the first tiles.
template <int groups, int G>
inline __attribute__((always_inline)) void multiply_first_tiles(const float* left, int64_t next_left, int rows,
                                                                const float* panel, int64_t depth) {
  if constexpr (groups == 2) return multiply_many_tiles<G>(left, next_left, rows, panel, depth);
  const auto multiply = [&]<int... g>(std::integer_sequence<int, g...>) __attribute__((always_inline)) {
    multiply_tiles<g...>(left, next_left, rows, panel, depth);
  };
  multiply(std::make_integer_sequence<int, G>{});
}

// Calls action with the sums of the first tiles as an epilogue takes them, [1][M][G], for some of `rows` rows at a
// time, and the first of these.
template <int groups, int G, class Action>
inline __attribute__((always_inline)) void for_tile_sums(int rows, const Action& action) {
  alignas(64) float memory[groups][G][kTileRows][kTileColumns];
  store_tiles<groups * G>(&memory[0][0][0][0]);
  const auto some = [&](auto several, int row) __attribute__((always_inline)) {
    constexpr int M = decltype(several)::value;
    Vec<float> sums[1][M][G];
    for_sums<1, M, G>([&](int, int m, int g) __attribute__((always_inline)) {
      sums[0][m][g] = load(memory[(row + m) / kTileRows][g][(row + m) % kTileRows]);
    });
    action(row, sums);
  };
  int row = 0;
  for (; row + 4 <= rows; row += 4) some(std::integral_constant<int, 4>{}, row);
  if (rows - row >= 2) some(std::integral_constant<int, 2>{}, row), row += 2;
  if (rows > row) some(std::integral_constant<int, 1>{}, row);
}

// From so many bytes of a row's factors on, reading panels half as often is worth more than what it costs.
#ifndef GRU_FUSED_WORTH_MANY_ROWS  // a test has them worth it always
#define GRU_FUSED_WORTH_MANY_ROWS 1024
#endif
constexpr int64_t kWorthManyRows = GRU_FUSED_WORTH_MANY_ROWS;

// Calls product.template run_tiles<groups>(row, rows, panel) over some rows x panels, no more rows than so many groups
// of 16, rows inside. Every other step of a sequence may take the panels `backwards`, the last ones first, which the
// cache still holds.
template <class Product>
inline void for_tiles(Range of_rows, Range panels, const Product& product, bool backwards = false) {
  const int64_t most = product.row_bytes() < kWorthManyRows ? kTileRows : 2 * kTileRows;
  for (int64_t i = panels.begin; i < panels.end; ++i) {
    const int64_t panel = backwards ? panels.begin + panels.end - 1 - i : i;
    for (int64_t row = of_rows.begin; row < of_rows.end; row += most) {
      const int64_t rows = row + most < of_rows.end ? most : of_rows.end - row;
      if (rows > kTileRows)
        product.template run_tiles<2>(row, int(rows), panel);
      else
        product.template run_tiles<1>(row, int(rows), panel);
    }
  }
}

}  // namespace
}  // namespace gru_fused

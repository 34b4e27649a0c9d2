// How one call is cut into pieces of work: pure functions of the shape and the thread count.
#pragma once

#include <cstdint>

#include "../gru_params.h"

namespace gru_fused::cpu {

// A piece is one direction of a tile of batch rows through all time steps; pieces never wait for each other.
struct Plan {
  int64_t tile_rows = 0;  // rows of the largest tile
  int64_t tiles = 0;      // tiles of one direction
  bool packed = false;    // W_hh is copied into panels first
  bool parallel = false;  // more than one thread has work

  GRU_FUSED_HD int64_t pieces(const Shape& shape) const { return tiles * shape.directions; }
};

Plan plan_of(const Shape& shape, int64_t threads);

}  // namespace gru_fused::cpu

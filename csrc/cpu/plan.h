// How one call is cut into pieces of work: pure functions of the shape and the thread count.
#pragma once

#include <cstdint>

#include "../gru_params.h"

namespace gru_fused::cpu {

// A share is one direction of some batch rows through all time steps; shares never wait for each other. It is done
// tile by tile, and a tile chunk by chunk of time steps, so that what passes between the products of a chunk stays
// in the cache. With fewer rows than threads a team of threads shares the hidden units of a share and meets after every
// step (team.h).
struct Plan {
  int64_t share_rows = 0;   // batch rows of the largest share
  int64_t shares = 0;       // of one direction
  int64_t tile_rows = 0;    // batch rows of the largest tile
  int64_t chunk_steps = 0;  // time steps of the longest chunk
  int64_t team = 1;         // threads of one share
  bool packed = false;      // the weights are copied into panels first
  bool whole = false;       // a step makes its input projection itself, where it needs it
  bool once = false;        // a product uses each panel of W_ih once, in a single step of W_hh: all is one chunk
  bool parallel = false;    // more than one thread has work
  bool brief = false;       // a team is worth it only if its threads are awake: other_work.h

  GRU_FUSED_HD int64_t chunk_rows() const { return tile_rows * chunk_steps; }
  GRU_FUSED_HD int64_t pieces(const Shape& shape) const { return shares * shape.directions; }
  GRU_FUSED_HD int64_t workers(const Shape& shape) const { return pieces(shape) * team; }
};

enum class Sweep { forward, variant_forward, backward };

// What they are made in: panels.h, tiles.h; wide are AVX-512's vectors of float, whose many registers make dot products
// with weights where they lie (weights.h) as fast as products with panels.
enum class Products { vectors, wide, tiles };

Plan plan_of(const Shape& shape, int64_t threads, Sweep sweep = Sweep::forward, Products products = Products::vectors);

}  // namespace gru_fused::cpu

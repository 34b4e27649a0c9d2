#include "plan.h"

namespace gru_fused::cpu {
namespace {

// States of a tile stay in the second-level cache; W_hh is read once per step and tile.
constexpr int64_t kMaxTileRows = 64;
// Below this many multiply-adds another thread costs more than it brings.
constexpr int64_t kWorthAThread = 64 * 1024;

}  // namespace

Plan plan_of(const Shape& shape, int64_t threads) {
  Plan plan;
  if (shape.batch == 0) return plan;
  const int64_t work = 3 * shape.hidden * shape.hidden * shape.batch * shape.steps;
  const int64_t worth = work / kWorthAThread + 1;
  if (threads > worth) threads = worth;
  const int64_t wanted = (threads + shape.directions - 1) / shape.directions;
  int64_t tiles = (shape.batch + kMaxTileRows - 1) / kMaxTileRows;
  tiles = (tiles + wanted - 1) / wanted * wanted;  // every thread gets as many tiles as the others
  if (tiles > shape.batch) tiles = shape.batch;
  plan.tile_rows = (shape.batch + tiles - 1) / tiles;
  plan.tiles = (shape.batch + plan.tile_rows - 1) / plan.tile_rows;
  plan.parallel = threads > 1 && tiles * shape.directions > 1;
  plan.packed = shape.batch * shape.steps > kPackingRows && !shape.single_product();
  return plan;
}

}  // namespace gru_fused::cpu

#include "plan.h"

#include <algorithm>

namespace gru_fused::cpu {
namespace {

// States of a tile stay in the second-level cache; the weights are read once per step and tile. A single step keeps
// nothing for a next one and may have more rows: in the forward as long as they leave room there for the weights that
// pass by, in the backward as the weights' gradients pass by with every tile.
constexpr int64_t kMaxTileRows = 64, kMaxSingleStepRows = 256, kSingleStepBytes = 128 * 1024;
// The gates of a chunk, 4H numbers a row, take at most this many bytes. That is more than the second-level cache: with
// every chunk all weights pass by, and in the backward their gradients, which costs more than the rows of the chunk.
constexpr int64_t kChunkBytes = 4 * 1024 * 1024;
constexpr int64_t kMaxChunkRows = 256;
// Copying a weight into panels costs about as much as this many products of one row with it.
constexpr int64_t kPackingRows = 16;
// In wide vectors, where four rows or more go together, as one row for so many bytes of a weight: the longer a dot
// product, the less its end counts, a sum over lanes, and the larger a weight, the longer is the way of its panels to
// memory and back (docs/notes/2026-11-30-zen4.md).
constexpr int64_t kRowsTogether = 4, kBytesOfAPackingRow = 24 * 1024;
// Below this many multiply-adds another thread costs more than it brings.
constexpr int64_t kWorthAThread = 64 * 1024;

// The same for a step, after which a team meets.
constexpr int64_t kWorthATeammate = 24 * 1024;
// And for a step with its input where nothing is packed: few steps, which pay for waking the others.
constexpr int64_t kWorthATeammateInPlace = 160 * 1024;
// And for a call that is worth waking them.
constexpr int64_t kWorthWaking = 4 * 1024 * 1024;
// Every share copies all weights' gradients once more. With fewer rows and steps than this for each, a team is better.
constexpr int64_t kWorthAShare = 256;

// With so many rows of a tile on average a step may read the weights of both products; with more terms of both than
// that their panels are too far beyond the first-level cache (measured with AVX2,
// docs/notes/2026-11-27-zen3-streams.md).
constexpr int64_t kWholeRows = 16, kWholeTerms = 400;
// Tiles multiply so fast that memory beyond the second-level cache (2 MB on every core that has them) is what counts:
// the sums of a projection, or W_ih once more with every step, unless it stays there with W_hh
// (docs/notes/2026-11-29-golden-cove.md#tiles).
constexpr int64_t kWholeInputsOfARow = 8, kWholeBytes = 2 * 1024 * 1024;

constexpr int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Of all steps: of a packed batch those that are alive.
int64_t rows_of(const Shape& shape) {
  const int64_t last = shape.steps - 1;
  return shape.batch_sizes ? shape.offsets[last] + shape.batch_sizes[last] : shape.batch * shape.steps;
}

int64_t packing_rows(const Shape& shape, int64_t threads_of_direction, Sweep sweep, Products products) {
  if (sweep != Sweep::forward || products != Products::wide || shape.batch < kRowsTogether * threads_of_direction)
    return kPackingRows;
  const int64_t bytes = 3 * shape.hidden * (shape.inputs + shape.hidden) / 2 * size_of(shape.dtype);
  return std::clamp(bytes / kBytesOfAPackingRow, kPackingRows, kMaxSingleStepRows);
}

// A team would meet three times a step.
bool makes_whole_steps(const Shape& shape, const Plan& plan, int64_t threads, Products products) {
  const int64_t tiles = ceil_div(shape.batch, plan.tile_rows), terms = shape.inputs + shape.hidden;
  const bool near = products == Products::tiles ? shape.inputs <= kWholeInputsOfARow * plan.tile_rows ||
                                                      3 * shape.hidden * terms * size_of(shape.dtype) <= kWholeBytes
                                                : terms <= kWholeTerms;
  return plan.packed && shape.inputs > 0 && near && rows_of(shape) >= kWholeRows * tiles * shape.steps &&
         (shape.steps == 1 || plan.pieces(shape) >= threads);
}

}  // namespace

Plan plan_of(const Shape& shape, int64_t threads, Sweep sweep, Products products) {
  Plan plan;
  if (shape.batch == 0) return plan;
  const int64_t work = 3 * shape.hidden * (shape.hidden + shape.inputs) * shape.batch * shape.steps;
  threads = std::min(threads, work / kWorthAThread + 1);
  const int64_t of_direction = ceil_div(threads, shape.directions);
  const int64_t worth = std::max<int64_t>(shape.batch * shape.steps / kWorthAShare, 1);
  plan.packed = shape.batch * shape.steps > packing_rows(shape, of_direction, sweep, products);
  const int64_t shares = std::min({of_direction, shape.batch, plan.packed ? worth : of_direction});
  plan.share_rows = ceil_div(shape.batch, shares);
  plan.shares = ceil_div(shape.batch, plan.share_rows);
  const int64_t accumulator = std::max<int64_t>(size_of(shape.dtype), 4);
  int64_t most_rows = kMaxTileRows;
  if (shape.steps == 1) {
    const int64_t beside_weights = kSingleStepBytes / (shape.hidden * accumulator);
    most_rows =
        sweep == Sweep::backward ? kMaxSingleStepRows : std::clamp(beside_weights, kMaxTileRows, kMaxSingleStepRows);
  }
  plan.tile_rows = ceil_div(plan.share_rows, ceil_div(plan.share_rows, most_rows));
  const int64_t rows = std::min(kChunkBytes / (4 * shape.hidden * accumulator), kMaxChunkRows);
  plan.whole = sweep == Sweep::forward && makes_whole_steps(shape, plan, threads, products);
  plan.chunk_steps = plan.whole ? 1 : std::clamp<int64_t>(rows / plan.tile_rows, 1, shape.steps);
  if (plan.pieces(shape) < threads && (plan.packed || sweep != Sweep::backward)) {
    const int64_t terms = shape.hidden + (plan.packed ? 0 : shape.inputs);
    const int64_t step = 3 * shape.hidden * terms * plan.share_rows;
    plan.team = std::clamp<int64_t>(step / (plan.packed ? kWorthATeammate : kWorthATeammateInPlace), 1,
                                    threads / plan.pieces(shape));
  }
  plan.once = plan.packed && plan.chunk_steps == shape.steps && plan.tile_rows == shape.batch;
  plan.parallel = threads > 1 && plan.workers(shape) > 1;
  plan.brief = plan.team > 1 && !plan.packed && work < kWorthWaking;
  return plan;
}

}  // namespace gru_fused::cpu

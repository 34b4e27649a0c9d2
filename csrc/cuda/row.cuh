// What the loops of one batch row share, whose CTA holds all of W_hh in its threads' registers, as float32: no product
// is summed in shared memory, and a step's chain is short. Four neighbouring lanes end up with a unit's sums, and share
// out what is read and stored of it.
#pragma once

#include "loop.h"
#include "scalar.cuh"

namespace gru_fused::cuda {

constexpr int kRowUnitsOfWarp = kWarp / kRowLanes;

template <int kUnits>
struct RowPlace {
  char* const shared;
  const int thread, lane;
  const int direction, row;
  static constexpr int kThreads = kUnits * kRowLanes;

  template <class AnyLoop>
  __device__ __forceinline__ RowPlace(const AnyLoop& loop, char* shared)
      : shared(shared),
        thread(int(threadIdx.x)),
        lane(thread % kWarp),
        direction(int(blockIdx.x) / loop.row_teams),
        row(int(blockIdx.x) % loop.row_teams) {}

  __device__ __forceinline__ int unit() const { return thread / kRowLanes; }
  __device__ __forceinline__ int part() const { return thread % kRowLanes; }
  __device__ __forceinline__ int first_unit_of_warp() const { return thread / kWarp * kRowUnitsOfWarp; }
  __device__ __forceinline__ float* operands() const { return reinterpret_cast<float*>(shared + kRowOperands); }
};

// The row's steps, and where each lies in the arrays: in steps, or in rows where the batch is packed. Then the places
// come by way of shared memory, as a thread that may wait for memory waits for all that it has asked for.
template <int kUnits, bool kBackward, bool kPacked>
class RowSteps {
 public:
  const int count;

  __device__ __forceinline__ RowSteps(const RowPlace<kUnits>& place, const Shape& shape)
      : count(kPacked ? count_of(place, shape) : arch::kept(int(shape.steps))),
        shape_(shape),
        places_(reinterpret_cast<int*>(place.shared)),
        thread_(place.thread),
        backwards_(shape.backwards(place.direction) != kBackward) {}

  // By all threads, for k = 0, kRowPlaces / 2, and so on: step k and those up to the next such k may be asked for, and
  // as many before them.
  __device__ __forceinline__ void prepare(int k) const {
    if constexpr (kPacked) {
      if (k % kHalf) return;
      GRU_FUSED_NO_UNROLL
      for (int i = k + thread_; i < k + kHalf && i < count; i += RowPlace<kUnits>::kThreads)
        places_[i % kRowPlaces] = int(shape_.offsets[time(i)]);
      __syncthreads();
    }
  }
  // Of step k of those; of others a number that nobody uses.
  __device__ __forceinline__ uint32_t place_of(int k) const {
    return uint32_t(kPacked ? places_[k % kRowPlaces] : time(k));
  }

  // From a step's place to the next one's, where the batch is not packed.
  __device__ __forceinline__ int apart() const { return backwards_ ? -1 : 1; }

 private:
  static constexpr int kHalf = kRowPlaces / 2;

  __device__ __forceinline__ int time(int k) const { return backwards_ ? count - 1 - k : k; }

  // A packed batch's rows end one after the other: how many of the first steps have this one. Each turn looks at 32.
  static __device__ __forceinline__ int count_of(const RowPlace<kUnits>& place, const Shape& shape) {
    int left = int(shape.steps), known = 0;
    while (left > 0) {
      const int apart = (left + kWarp - 1) / kWarp, i = (place.lane + 1) * apart - 1;
      const bool alive = i < left && shape.batch_sizes[known + i] > place.row;
      const int more = __popc(__ballot_sync(0xffffffffu, alive)) * apart;
      known += more;
      left = left - more < apart - 1 ? left - more : apart - 1;
    }
    return known;
  }

  const Shape& shape_;
  int* const places_;
  const int thread_;
  const bool backwards_;
};

// A lane's column of the row in an array, at any step: an address, and bytes, in as few registers as can be; of an
// array that is not there, numbers that nobody uses.
template <class Scalar>
struct RowCursor {
  uint64_t first;
  uint32_t of_step;

  template <class Place, class Void>
  __device__ __forceinline__ RowCursor(const Place& place, const Shape& shape, const Rows<Void>& rows, int column)
      : first(reinterpret_cast<uintptr_t>(at<Scalar>(rows, place.row, column))),
        of_step(uint32_t(row_step_bytes(shape, rows, sizeof(Scalar)))) {}
  __device__ __forceinline__ Scalar* at_place(uint32_t place) const {
    return reinterpret_cast<Scalar*>(first + uint64_t(place) * of_step);
  }
};

// One of the four numbers of a unit, by the lane's part.
__device__ __forceinline__ float own_part(int part, float first, float second, float third, float fourth) {
  const float low = part % 2 ? second : first, high = part % 2 ? fourth : third;
  return part / 2 ? high : low;
}

// The number of a unit's lane, in all four.
__device__ __forceinline__ float of_part(float number, int part) {
  return __shfl_sync(0xffffffffu, number, part, kRowLanes);
}

// What the lane gives that is `apart` away, and gets this one's.
__device__ __forceinline__ float from_lane(float given, int apart) {
  return __shfl_xor_sync(0xffffffffu, given, apart);
}

// Half of the numbers stay, and come from the lane `apart` away too; that one has the other half.
template <int kCount>
__device__ __forceinline__ void share_out(const float (&all)[2 * kCount], float (&half)[kCount], int lane, int apart) {
  const bool upper = lane & apart;
  GRU_FUSED_UNROLL
  for (int i = 0; i < kCount; ++i) {
    const float keep = upper ? all[kCount + i] : all[i], give = upper ? all[i] : all[kCount + i];
    half[i] = keep + from_lane(give, apart);
  }
}

// Threads read W_hh side by side and by way of shared memory, a chunk at a time: of each gate all rows and kRowChunk
// columns, or the other way round. A thread's numbers are those of 8 rows, `apart`, of three gates; `width` is from row
// to row there.
template <class Scalar>
__device__ __forceinline__ void stage(const Rows<const void>& w_hh, int hidden, int row, int apart, int column,
                                      float* to, int width) {
  constexpr int kRows = kRowChunk / kRowLanes;
  const auto first =
      reinterpret_cast<const Scalar*>(arch::kept(reinterpret_cast<uintptr_t>(at<Scalar>(w_hh, row, column))));
  const int64_t of_gate = arch::kept(hidden * w_hh.row), of_row = arch::kept(apart * w_hh.row);
  Scalar numbers[kGates][kRows];
  GRU_FUSED_UNROLL
  for (int gate = 0; gate < kGates; ++gate) GRU_FUSED_UNROLL
  for (int i = 0; i < kRows; ++i) {
    const bool exists = row + i * apart < hidden && column < hidden;
    numbers[gate][i] = exists ? first[gate * of_gate + i * of_row] : narrow<Scalar>(0.f);
  }
  GRU_FUSED_UNROLL
  for (int gate = 0; gate < kGates; ++gate) GRU_FUSED_UNROLL
  for (int i = 0; i < kRows; ++i) to[(gate * kRows + i) * apart * width] = widen<float>(numbers[gate][i]);
}

// ---- The forward's products: a lane has three gates of two units, and of each 32 inputs four side by side. Eight
// lanes then have all inputs of the two.
template <class Scalar, int kUnits>
struct RowProducts {
  static constexpr int kSlices = 8, kQuads = kUnits / kRowChunk;
  float weights[kQuads][2][kGates][4];

  __device__ __forceinline__ void load(const RowPlace<kUnits>& place, const Rows<const void>& w_hh, int hidden) {
    float* const staged = place.operands() + 2 * kUnits;  // [kGates][kUnits][kRowChunk]
    const int warp = place.thread / kWarp, unit = place.thread / kSlices * 2;
    GRU_FUSED_UNROLL
    for (int quad = 0; quad < kQuads; ++quad) {
      if (quad > 0) __syncthreads();
      stage<Scalar>(w_hh, hidden, warp, kUnits / 8, quad * kRowChunk + place.lane,
                    staged + warp * kRowChunk + place.lane, kRowChunk);
      __syncthreads();
      GRU_FUSED_UNROLL
      for (int u = 0; u < 2; ++u) GRU_FUSED_UNROLL
      for (int gate = 0; gate < kGates; ++gate) GRU_FUSED_UNROLL
      for (int i = 0; i < 4; ++i)
        weights[quad][u][gate][i] = staged[(gate * kUnits + unit + u) * kRowChunk + place.lane % kSlices * 4 + i];
    }
  }

  // Of the lane's unit, from the state [kUnits]: the sum of r in its first lane, of z in the second, of n in the
  // others, each with what that lane brings; of n, with what the fourth does. The two calls are what a thread does
  // while it waits: for the state, for other lanes.
  template <class First, class Second>
  __device__ __forceinline__ float multiply(const RowPlace<kUnits>& place, const float* state, float addend,
                                            const First& first, const Second& second) const {
    float sums[2 * kGates] = {};
    const float4* const inputs = reinterpret_cast<const float4*>(state) + place.lane % kSlices;
    // All are asked for before the first is used, as far as there are registers for them.
    constexpr int kAtOnce = kUnits > 64 ? 1 : kQuads;
    float4 asked[kAtOnce];
    GRU_FUSED_UNROLL
    for (int quad = 0; quad < kAtOnce; ++quad) asked[quad] = inputs[quad * kSlices];
    first();
    GRU_FUSED_UNROLL
    for (int quad = 0; quad < kQuads; ++quad) {
      const float4 four = asked[quad % kAtOnce];
      if (quad + kAtOnce < kQuads) asked[quad % kAtOnce] = inputs[(quad + kAtOnce) * kSlices];
      const float h[4] = {four.x, four.y, four.z, four.w};
      GRU_FUSED_UNROLL
      for (int i = 0; i < 4; ++i) GRU_FUSED_UNROLL
      for (int u = 0; u < 2; ++u) GRU_FUSED_UNROLL
      for (int gate = 0; gate < kGates; ++gate) sums[u * kGates + gate] += weights[quad][u][gate][i] * h[i];
    }
    second();
    float all[kGates];
    share_out(sums, all, place.lane, kRowLanes);
    const int part = place.part();
    const bool of_n = part >= 2;
    const float own_rn = (of_n ? all[2] : all[0]) + (part == 0 || part == 3 ? addend : 0.f);
    const float own_z = all[1] + (part == 1 ? addend : 0.f);
    const float rn = own_rn + from_lane(of_n ? all[0] : all[2], 2), z = own_z + from_lane(all[1], 2);
    return (part == 1 ? z : rn) + from_lane(part == 0 ? z : rn, 1);
  }
};

// Steps whose numbers are asked for before their turn: memory takes longer than a step.
constexpr int row_ahead(int units, bool packed) { return units > 96 && packed ? 1 : 2; }

template <class Scalar, int kUnits, int kAhead>
struct RowProductsBack {
  static constexpr int kInputs = kUnits / kRowChunk, kWidth = row_staged_width(kUnits, true);
  // Of the last chunk's n: where numbers are asked for two steps ahead, there is no register left for so many.
  static constexpr int kStaged = kUnits > 96 && kAhead > 1 ? kRowUnitsOfWarp : 0;
  float weights[kInputs][kGates][kRowUnitsOfWarp];

  // [kGates][kRowChunk][kWidth], where the last chunk stays.
  static __device__ __forceinline__ float* staged(const RowPlace<kUnits>& place) {
    return place.operands() + 2 * kGates * kUnits;
  }
  static __device__ __forceinline__ const float* staged_of(const RowPlace<kUnits>& place, int gate) {
    return staged(place) + (gate * kRowChunk + place.lane) * kWidth + place.first_unit_of_warp();
  }

  __device__ __forceinline__ void load(const RowPlace<kUnits>& place, const Rows<const void>& w_hh, int hidden) {
    const int input = place.thread / kUnits, unit = place.thread % kUnits;
    GRU_FUSED_UNROLL
    for (int i = 0; i < kInputs; ++i) {
      if (i > 0) __syncthreads();
      stage<Scalar>(w_hh, hidden, i * kRowChunk + input, kRowLanes, unit, staged(place) + input * kWidth + unit,
                    kWidth);
      __syncthreads();
      GRU_FUSED_UNROLL
      for (int gate = 0; gate < kGates; ++gate) GRU_FUSED_UNROLL
      for (int u = 0; u < kRowUnitsOfWarp; ++u) weights[i][gate][u] = staged_of(place, gate)[u];
    }
  }

  // Of the lane's unit, from the gates' gradients [kGates][kUnits].
  template <class First, class Second>
  __device__ __forceinline__ float multiply(const RowPlace<kUnits>& place, const float* grads, const First& first,
                                            const Second& second) const {
    float sums[kRowUnitsOfWarp] = {};
    // All are asked for before the first is used, as far as there are registers for them.
    constexpr int kAll = kInputs * kGates, kAtOnce = kUnits > 96 ? 1 : kAll;
    const auto grad_of = [&](int i) { return grads[i * kWarp + place.lane]; };
    float asked[kAtOnce], last[kRowUnitsOfWarp];
    GRU_FUSED_UNROLL
    for (int i = 0; i < kAtOnce; ++i) asked[i] = grad_of(i);
    first();
    GRU_FUSED_UNROLL
    for (int i = 0; i < kAll; ++i) {
      const float grad = asked[i % kAtOnce];
      if (i + 1 == kAll) {
        GRU_FUSED_UNROLL
        for (int u = 0; u < kStaged; ++u) last[u] = staged_of(place, kGates - 1)[u];
      }
      if (i + kAtOnce < kAll) asked[i % kAtOnce] = grad_of(i + kAtOnce);
      GRU_FUSED_UNROLL
      for (int u = 0; u < kRowUnitsOfWarp; ++u)
        sums[u] += (i + 1 == kAll && u < kStaged ? last[u] : weights[i % kInputs][i / kInputs][u]) * grad;
    }
    second();
    float four[4], two[2], one[1];
    share_out(sums, four, place.lane, 16);
    share_out(four, two, place.lane, 8);
    share_out(two, one, place.lane, kRowLanes);
    GRU_FUSED_UNROLL
    for (int apart = kRowLanes / 2; apart > 0; apart /= 2) one[0] += from_lane(one[0], apart);
    return one[0];  // the same bits in all of the unit's lanes
  }
};

}  // namespace gru_fused::cuda

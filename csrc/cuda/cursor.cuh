// Where a lane's numbers lie in the arrays of all steps.
#pragma once

#include "team.cuh"

namespace gru_fused::cuda {

// A step's place in time: where its rows begin in the arrays (in steps, or in rows where the batch is packed), and how
// many of them are the team's.
struct At {
  int index, alive;
};

// The places of a direction's steps, asked for one after the other by all threads of the CTA. Those of a packed batch
// come by way of shared memory, many at once: a thread that might wait for memory at each step, be it never so seldom,
// would wait there for all that it has asked for ahead.
template <bool kBackward>
struct Times {
  const Shape& shape;
  At* const shared;
  const int thread, threads, valid_rows, steps;
  const bool backwards;
  const int64_t first_row;

  template <class Place>
  __device__ __forceinline__ Times(const Place& place, const Shape& shape)
      : shape(shape),
        shared(reinterpret_cast<At*>(place.shared + place.layout.times)),
        thread(place.thread),
        threads(place.threads),
        valid_rows(place.valid_rows),
        steps(arch::kept(int(shape.steps))),
        backwards(shape.backwards(place.direction) != kBackward),
        first_row(place.first_row) {}

  // The k-th step that the loop takes; past the last one, none of the rows.
  __device__ __forceinline__ At of(int k) const {
    if (shape.batch_sizes) {
      if (k % kTimes == 0) {
        __syncthreads();
        GRU_FUSED_NO_UNROLL
        for (int i = thread; i < kTimes && k + i < steps; i += threads) {
          const int64_t t = time(k + i), alive = shape.batch_sizes[t] - first_row;
          shared[i] = {int(shape.offsets[t]), alive < 0 ? 0 : alive < valid_rows ? int(alive) : valid_rows};
        }
        __syncthreads();
      }
      return k < steps ? shared[k % kTimes] : At{0, 0};
    }
    return {time(k), k < steps ? valid_rows : 0};
  }

 private:
  __device__ __forceinline__ int time(int k) const { return backwards ? steps - 1 - k : k; }
};

// Where the lane's number of its first piece lies in an array: at any step, and from there to its other pieces.
template <class Scalar, class Void>
struct Cursor {
  uint64_t first;         // an address; of an array that is not there, a number that nobody uses
  int64_t of_step;        // bytes; of a row where the batch is packed
  const int64_t& of_row;  // numbers
  int apart;              // a warp's pieces, in rows

  template <class Place>
  __device__ __forceinline__ Cursor(const Place& place, const Shape& shape, const Rows<Void>& rows)
      : of_row(rows.row), apart(place.splits * kPieceRows) {
    const int64_t row = place.first_row + place.row(place.split), size = sizeof(Scalar);
    first = arch::kept(reinterpret_cast<uintptr_t>(rows.data) + uint64_t((row * rows.row + place.unit()) * size));
    of_step = arch::kept((shape.batch_sizes ? rows.row : rows.step) * size);
  }
  __device__ __forceinline__ auto* at(int index, int piece) const {
    using Number = std::conditional_t<std::is_const_v<Void>, const Scalar, Scalar>;
    return reinterpret_cast<Number*>(first +
                                     uint64_t(index * of_step + piece * apart * of_row * int64_t(sizeof(Scalar))));
  }
};

template <class Scalar, class Place, class Void>
__device__ __forceinline__ Cursor<Scalar, Void> cursor(const Place& place, const Shape& shape, const Rows<Void>& rows) {
  return Cursor<Scalar, Void>(place, shape, rows);
}

}  // namespace gru_fused::cuda

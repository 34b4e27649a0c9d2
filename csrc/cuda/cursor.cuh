// Where a lane's numbers lie in the arrays of all steps.
#pragma once

#include "team.cuh"

namespace gru_fused::cuda {

// A step's place in time: where its rows begin in the arrays (in steps, or in rows where the batch is packed), and how
// many of them are the team's.
struct At {
  int64_t index;
  int alive;
};

// The places of a direction's steps, asked for one after the other by all threads of the CTA. Those of a packed batch
// come by way of shared memory, many at once: a thread that might wait for memory at each step, be it never so seldom,
// would wait there for all that it has asked for ahead.
template <bool kBackward>
struct Times {
  const Shape& shape;
  At* const shared;
  const int thread, threads, direction, valid_rows;
  const int64_t first_row;

  template <class Place>
  __device__ __forceinline__ Times(const Place& place, const Shape& shape)
      : shape(shape),
        shared(reinterpret_cast<At*>(place.shared + place.layout.times)),
        thread(place.thread),
        threads(place.threads),
        direction(place.direction),
        valid_rows(place.valid_rows),
        first_row(place.first_row) {}

  // The k-th step that the loop takes; past the last one, none of the rows.
  __device__ __forceinline__ At of(int64_t k) const {
    if (shape.batch_sizes) {
      if (k % kTimes == 0) {
        __syncthreads();
        GRU_FUSED_NO_UNROLL
        for (int i = thread; i < kTimes && k + i < shape.steps; i += threads) {
          const int64_t t = time(k + i), alive = shape.batch_sizes[t] - first_row;
          shared[i] = {shape.offsets[t], alive < 0 ? 0 : alive < valid_rows ? int(alive) : valid_rows};
        }
        __syncthreads();
      }
      return k < shape.steps ? shared[k % kTimes] : At{0, 0};
    }
    return {time(k), k < shape.steps ? valid_rows : 0};
  }

 private:
  __device__ __forceinline__ int64_t time(int64_t k) const {
    return shape.time_of(kBackward ? shape.steps - 1 - k : k, direction);
  }
};

// Where the lane's number of its first piece lies in an array: at any step, and from there to its other pieces.
template <class Scalar, class Void>
struct Cursor {
  Void* const data;
  int64_t first, of_step, of_piece;  // bytes; of_step is of a row where the batch is packed

  template <class Place>
  __device__ __forceinline__ Cursor(const Place& place, const Shape& shape, const Rows<Void>& rows) : data(rows.data) {
    const int64_t row = place.first_row + place.row(place.split), size = sizeof(Scalar);
    first = arch::kept((row * rows.row + place.unit()) * size);
    of_step = arch::kept((shape.batch_sizes ? rows.row : rows.step) * size);
    of_piece = rows.row * place.splits * kPieceRows * size;
  }
  __device__ __forceinline__ auto* at(int64_t index, int piece) const {
    using Byte = std::conditional_t<std::is_const_v<Void>, const char, char>;
    using Number = std::conditional_t<std::is_const_v<Void>, const Scalar, Scalar>;
    return reinterpret_cast<Number*>(static_cast<Byte*>(data) + (first + index * of_step + piece * of_piece));
  }
};

template <class Scalar, class Place, class Void>
__device__ __forceinline__ Cursor<Scalar, Void> cursor(const Place& place, const Shape& shape, const Rows<Void>& rows) {
  return Cursor<Scalar, Void>(place, shape, rows);
}

}  // namespace gru_fused::cuda

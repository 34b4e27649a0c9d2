// What is left of the backward of one step when the gates' gradients are there, as one kernel: dL/dx, dL/dhx and the
// gradients of the weights, where few rows take the step (single_forward.cu).
//
// A block makes a tile of one of them. Of the weights' gradients, sums over the rows: 32 rows of them by 128 columns,
// a thread eight in a column. Of dL/dx and dL/dhx, sums over the 3H gates: 8 rows by 32 columns, whose sums the warps
// share out and then add up.
#include "steps.cuh"

namespace gru_fused::cuda {
namespace {

constexpr int kTileThreads = 512, kEach = 8;
constexpr int kTileColumns = 128, kTileRows = kTileThreads / kTileColumns * kEach;
constexpr int kShares = kTileThreads / kWarp;

GRU_FUSED_HD int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

// One of the two products of a direction: with the inputs (d_gi) or with the states (d_gh).
struct Side {
  Rows<const void> given, weights;  // [rows, columns], [3H, columns]
  Rows<void> grad_given;            // [rows, columns] or null
  void *grad_weights, *grad_bias;   // [3H, columns], [3H], or null
  int64_t columns, first;           // first: of its 3H columns of the gates' gradients

  __device__ __forceinline__ Side(const SingleGradients& call, int d, bool state) {
    const BackwardDirection& my = call.params.direction[d];
    const Shape& shape = call.params.shape;
    given = state ? my.hx : my.x;
    weights = state ? my.w_hh : my.w_ih;
    grad_given = state ? my.grad_hx : my.grad_x;
    grad_weights = state ? my.grad_w_hh : my.grad_w_ih;
    grad_bias = state ? my.grad_b_hh : my.grad_b_ih;
    columns = state ? shape.hidden : shape.inputs;
    first = state ? kGates * shape.hidden : 0;
  }
};

// Tiles of one side; the weights' come first.
struct Tiles {
  int64_t across, of_weights, narrow, all;

  GRU_FUSED_HD Tiles(int64_t batch, int64_t columns, int64_t H)
      : across(columns > 0 ? ceil_div(columns, kTileColumns) : 1),  // of no inputs there are biases' gradients
        of_weights(across * ceil_div(kGates * H, kTileRows)),
        narrow(ceil_div(columns, kWarp)),
        all(of_weights + narrow * ceil_div(batch, kEach)) {}
};

template <class Scalar, class Value>
__device__ __forceinline__ void weights_tile(const Side& side, const Rows<const void>& grads, int64_t batch, int64_t H,
                                             int64_t tile, int64_t across) {
  if (!side.grad_weights) return;
  const int64_t rows = kGates * H, column = tile % across * kTileColumns + threadIdx.x % kTileColumns;
  const int64_t row = tile / across * kTileRows + threadIdx.x / kTileColumns * kEach;
  if (row >= rows) return;
  const int count = rows - row < kEach ? int(rows - row) : kEach;
  // What is not there counts as the last that is: without branches the loads do not wait for each other.
  const int64_t terms = side.columns > 0 ? batch : 0;
  const Scalar* const given = at<Scalar>(side.given, 0, column < side.columns ? column : side.columns - 1);
  const Scalar* const gates = at<Scalar>(grads, 0, side.first + row);
  Value sums[kEach] = {};
  GRU_FUSED_UNROLL_BY(4)
  for (int64_t b = 0; b < terms; ++b) {
    const Value number = widen<Value>(given[b * side.given.row]);
    GRU_FUSED_UNROLL
    for (int i = 0; i < kEach; ++i) sums[i] += number * widen<Value>(gates[b * grads.row + (i < count ? i : count - 1)]);
  }
  Scalar* const to = static_cast<Scalar*>(side.grad_weights) + row * side.columns + column;
  if (column < side.columns) {
    GRU_FUSED_UNROLL
    for (int i = 0; i < kEach; ++i)
      if (i < count) to[i * side.columns] = narrow<Scalar>(sums[i]);
  }
  if (!side.grad_bias || column >= count) return;  // the first threads of the first tile: a gate each
  Value sum = 0;
  GRU_FUSED_UNROLL_BY(4)
  for (int64_t b = 0; b < batch; ++b) sum += widen<Value>(gates[b * grads.row + column]);
  static_cast<Scalar*>(side.grad_bias)[row + column] = narrow<Scalar>(sum);
}

template <class Scalar, class Value>
__device__ __forceinline__ Value number_or_zero(const Rows<const void>& rows, int64_t row, int64_t column) {
  return rows.data ? widen<Value>(*at<Scalar>(rows, row, column)) : Value(0);
}

template <class Scalar, class Value>
__device__ __forceinline__ void rows_tile(const Side& side, const Rows<const void>& grads, int64_t batch, int64_t H,
                                          int64_t tile, int64_t narrow_tiles, Value* shared,
                                          const BackwardDirection* own) {
  if (!side.grad_given.data) return;
  const int lane = int(threadIdx.x) % kWarp, share = int(threadIdx.x) / kWarp;
  const int64_t column = tile % narrow_tiles * kWarp + lane, row = tile / narrow_tiles * kEach;
  const int count = batch - row < kEach ? int(batch - row) : kEach;
  const Scalar* const weights = at<Scalar>(side.weights, 0, column < side.columns ? column : side.columns - 1);
  const Scalar* of_row[kEach];
  GRU_FUSED_UNROLL
  for (int i = 0; i < kEach; ++i) of_row[i] = at<Scalar>(grads, row + (i < count ? i : count - 1), side.first);
  Value sums[kEach] = {};
  GRU_FUSED_UNROLL_BY(4)
  for (int64_t gate = share; gate < kGates * H; gate += kShares) {
    const Value weight = widen<Value>(weights[gate * side.weights.row]);
    GRU_FUSED_UNROLL
    for (int i = 0; i < kEach; ++i) sums[i] += weight * widen<Value>(of_row[i][gate]);
  }
  GRU_FUSED_UNROLL
  for (int i = 0; i < kEach; ++i) shared[(share * kEach + i) * kWarp + lane] = sums[i];
  __syncthreads();
  if (share >= count || column >= side.columns) return;
  Value sum = 0;
  for (int i = 0; i < kShares; ++i) sum += shared[(i * kEach + share) * kWarp + lane];
  if (own) {  // what of dL/dh does not go through W_hh
    const Value d = number_or_zero<Scalar, Value>(own->grad_output, row + share, column) +
                    number_or_zero<Scalar, Value>(own->grad_h_n, row + share, column);
    sum += d * widen<Value>(*at<Scalar>(own->gates, row + share, H + column));
  }
  *at<Scalar>(side.grad_given, row + share, column) = narrow<Scalar>(sum);
}

template <class Types>
__global__ void __launch_bounds__(kTileThreads) single_gradients(const __grid_constant__ SingleGradients call) {
  using Scalar = typename Types::Scalar;
  using Value = typename Types::Value;
  GRU_FUSED_DYNAMIC_SHARED(memory);
  const Shape& shape = call.params.shape;
  const int64_t of_inputs = Tiles(shape.batch, shape.inputs, shape.hidden).all;
  const int64_t of_direction = of_inputs + Tiles(shape.batch, shape.hidden, shape.hidden).all;
  const int64_t block = blockIdx.x % of_direction;
  const int d = int(blockIdx.x / of_direction);
  const bool state = block >= of_inputs;
  const int64_t tile = state ? block - of_inputs : block;
  const Side side(call, d, state);
  const Tiles tiles(shape.batch, side.columns, shape.hidden);
  const Rows<const void>& grads = call.grads[d];
  if (tile < tiles.of_weights)
    weights_tile<Scalar, Value>(side, grads, shape.batch, shape.hidden, tile, tiles.across);
  else
    rows_tile<Scalar>(side, grads, shape.batch, shape.hidden, tile - tiles.of_weights, tiles.narrow,
                      reinterpret_cast<Value*>(memory), state ? &call.params.direction[d] : nullptr);
}

}  // namespace

std::string run_single(const SingleGradients& call, cudaStream_t stream) {
  static void (*const kernels[4])(SingleGradients) = {
      single_gradients<ArithmeticOf<float>>, single_gradients<ArithmeticOf<double>>,
      single_gradients<ArithmeticOf<__nv_bfloat16>>, single_gradients<ArithmeticOf<__half>>};
  const Shape& shape = call.params.shape;
  const int64_t H = shape.hidden, of_direction = Tiles(shape.batch, shape.inputs, H).all + Tiles(shape.batch, H, H).all;
  const int64_t value = shape.dtype == DType::f64 ? sizeof(double) : sizeof(float);
  return launch("single_gradients", kernels, shape.dtype, call, of_direction * shape.directions, shape.batch, H, stream,
                size_t(kTileThreads * kEach * value), kTileThreads);
}

}  // namespace gru_fused::cuda

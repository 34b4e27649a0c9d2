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
// Of the gates' gradients, what a block has in shared memory at once: so many rows of a tile of the weights'; or so
// many gates of 8 rows, of which a warp takes some.
constexpr int kRowsAtOnce = 32, kAhead = 8, kGatesAtOnce = kShares * kAhead;

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

// Eight numbers of shared memory, from a multiple of their size on.
template <class Value>
__device__ __forceinline__ void eight(const Value* from, Value (&to)[kEach]) {
  constexpr int kWidth = 16 / sizeof(Value);
  GRU_FUSED_UNROLL
  for (int i = 0; i < kEach; i += kWidth) {
    const auto pack = *reinterpret_cast<const Pack<Value, kWidth>*>(from + i);
    GRU_FUSED_UNROLL
    for (int k = 0; k < kWidth; ++k) to[i + k] = pack.numbers[k];
  }
}

template <class Scalar, class Value>
__device__ __forceinline__ void weights_tile(const Side& side, const Rows<const void>& grads, int64_t batch, int64_t H,
                                             int64_t tile, int64_t across, Value* shared) {
  if (!side.grad_weights) return;
  const int group = int(threadIdx.x) / kTileColumns;
  const int64_t column = tile % across * kTileColumns + threadIdx.x % kTileColumns, first = tile / across * kTileRows;
  const int64_t rows = kGates * H;
  const bool of_bias = side.grad_bias && column < kEach;  // the first threads of the first tile: a gate each
  // A column that is not there counts as the last that is: without branches the loads do not wait for each other.
  const Scalar* const given = at<Scalar>(side.given, 0, column < side.columns ? column : side.columns - 1);
  Value sums[kEach] = {}, bias = 0;
  for (int64_t from = 0; from < batch; from += kRowsAtOnce) {
    const int count = batch - from < kRowsAtOnce ? int(batch - from) : kRowsAtOnce;
    __syncthreads();
    for (int i = int(threadIdx.x); i < count * kTileRows; i += kTileThreads) {
      const int64_t gate = first + i % kTileRows;
      shared[i] = gate < rows ? widen<Value>(*at<Scalar>(grads, from + i / kTileRows, side.first + gate)) : Value(0);
    }
    __syncthreads();
    const Value* const mine = shared + group * kEach;
    if (side.columns > 0) {
      GRU_FUSED_UNROLL_BY(8)
      for (int b = 0; b < count; ++b) {
        const Value number = widen<Value>(given[(from + b) * side.given.row]);
        Value gates[kEach];
        eight(mine + b * kTileRows, gates);
        GRU_FUSED_UNROLL
        for (int i = 0; i < kEach; ++i) sums[i] += number * gates[i];
      }
    }
    if (of_bias)
      for (int b = 0; b < count; ++b) bias += mine[b * kTileRows + column];
  }
  const int64_t row = first + group * kEach;
  Scalar* const to = static_cast<Scalar*>(side.grad_weights) + row * side.columns + column;
  GRU_FUSED_UNROLL
  for (int i = 0; i < kEach; ++i)
    if (row + i < rows && column < side.columns) to[i * side.columns] = narrow<Scalar>(sums[i]);
  if (of_bias && row + column < rows) static_cast<Scalar*>(side.grad_bias)[row + column] = narrow<Scalar>(bias);
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
  const int64_t column = tile % narrow_tiles * kWarp + lane, row = tile / narrow_tiles * kEach, gates = kGates * H;
  const int count = batch - row < kEach ? int(batch - row) : kEach;
  const Scalar* const weights = at<Scalar>(side.weights, 0, column < side.columns ? column : side.columns - 1);
  const auto ask = [&](int64_t from, Scalar(&to)[kAhead]) {  // for what a warp takes of the gates from there on
    GRU_FUSED_UNROLL
    for (int k = 0; k < kAhead; ++k) {
      const int64_t gate = from + share * kAhead + k;
      to[k] = gate < gates ? weights[gate * side.weights.row] : Scalar(0.f);
    }
  };
  Scalar ahead[kAhead];
  ask(0, ahead);
  Value sums[kEach] = {};
  for (int64_t from = 0; from < gates; from += kGatesAtOnce) {
    Value weight[kAhead];
    GRU_FUSED_UNROLL
    for (int k = 0; k < kAhead; ++k) weight[k] = widen<Value>(ahead[k]);
    ask(from + kGatesAtOnce, ahead);
    __syncthreads();
    for (int i = int(threadIdx.x); i < kEach * kGatesAtOnce; i += kTileThreads) {
      const int of_row = i / kGatesAtOnce, k = i % kGatesAtOnce;
      const bool there = of_row < count && from + k < gates;
      shared[k * kEach + of_row] =
          there ? widen<Value>(*at<Scalar>(grads, row + of_row, side.first + from + k)) : Value(0);
    }
    __syncthreads();
    GRU_FUSED_UNROLL
    for (int k = 0; k < kAhead; ++k) {
      Value of_rows[kEach];
      eight(shared + (share * kAhead + k) * kEach, of_rows);
      GRU_FUSED_UNROLL
      for (int i = 0; i < kEach; ++i) sums[i] += weight[k] * of_rows[i];
    }
  }
  __syncthreads();
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
  Value* const shared = reinterpret_cast<Value*>(memory);
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
    weights_tile<Scalar, Value>(side, grads, shape.batch, shape.hidden, tile, tiles.across, shared);
  else
    rows_tile<Scalar>(side, grads, shape.batch, shape.hidden, tile - tiles.of_weights, tiles.narrow, shared,
                      state ? &call.params.direction[d] : nullptr);
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

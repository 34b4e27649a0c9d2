// Gradients of the biases: sums over the rows of all steps of what the backward left of the gates' gradients.
#include "steps.cuh"

namespace gru_fused::cuda {
namespace {

// A block sums some rows of 32 columns; many rows are summed in parts, and then the parts.
constexpr int kColumns = 32, kRowsAtOnce = kThreads / kColumns;
constexpr int64_t kRowsOfPart = 512;

GRU_FUSED_HD int64_t count_parts(int64_t rows) {
  return rows > kRowsOfPart ? (rows + kRowsOfPart - 1) / kRowsOfPart : 1;
}

template <class Value, class Source>
__device__ __forceinline__ Value column_sum(const Source* column, int64_t stride, int64_t rows, Value* shared) {
  const int lane = int(threadIdx.x) % kColumns, first = int(threadIdx.x) / kColumns;
  Value sum = 0;
  if (column) {
    GRU_FUSED_UNROLL_BY(8)
    for (int64_t row = first; row < rows; row += kRowsAtOnce) sum += widen<Value>(column[row * stride]);
  }
  shared[threadIdx.x] = sum;
  __syncthreads();
  sum = 0;
  for (int i = 0; i < kRowsAtOnce; ++i) sum += shared[i * kColumns + lane];
  return sum;
}

// The columns are those of GateGrads: a_nr, a_r, a_z, a_n, so that the first and the last are one bias's each; or those
// of a single step, where each is.
template <class Scalar, class Value>
__device__ __forceinline__ void store_sum(const BiasGradients& call, int64_t column, Value sum) {
  const int64_t H = call.hidden;
  const Scalar rounded = narrow<Scalar>(sum);
  if (call.single) {
    static_cast<Scalar*>(column < 3 * H ? call.b_ih : call.b_hh)[column % (3 * H)] = rounded;
    return;
  }
  if (column >= H) static_cast<Scalar*>(call.b_ih)[column - H] = rounded;
  if (column < 3 * H) static_cast<Scalar*>(call.b_hh)[column < H ? column + 2 * H : column - H] = rounded;
}

// kParts: the second of two passes, over the sums that the first left in `parts`.
template <class Types, bool kParts>
__global__ void __launch_bounds__(kThreads) bias_gradients(const __grid_constant__ BiasGradients call) {
  using Scalar = typename Types::Scalar;
  using Value = typename Types::Value;
  GRU_FUSED_DYNAMIC_SHARED(memory);
  Value* const shared = reinterpret_cast<Value*>(memory);
  const int64_t count = call.columns();
  const auto blocks = unsigned((count + kColumns - 1) / kColumns);
  const int64_t column = int64_t(blockIdx.x % blocks) * kColumns + threadIdx.x % kColumns, part = blockIdx.x / blocks;
  const bool exists = column < count;
  Value* const parts = static_cast<Value*>(call.parts);
  Value sum;
  if constexpr (kParts) {
    sum = column_sum<Value>(exists ? parts + column : nullptr, count, count_parts(call.rows), shared);
  } else {
    const int64_t first = part * kRowsOfPart, left = call.rows - first;
    const Scalar* const from = at<Scalar>(call.grads, first, column);
    sum = column_sum<Value>(exists ? from : nullptr, call.grads.row, left < kRowsOfPart ? left : kRowsOfPart, shared);
  }
  if (!exists || threadIdx.x >= kColumns) return;
  if (kParts || !parts)
    store_sum<Scalar>(call, column, sum);
  else
    parts[part * count + column] = sum;
}

template <bool kParts>
std::string run(const BiasGradients& call, int64_t parts, cudaStream_t stream) {
  static void (*const kernels[4])(BiasGradients) = {
      bias_gradients<ArithmeticOf<float>, kParts>, bias_gradients<ArithmeticOf<double>, kParts>,
      bias_gradients<ArithmeticOf<__nv_bfloat16>, kParts>, bias_gradients<ArithmeticOf<__half>, kParts>};
  const int64_t blocks = (call.columns() + kColumns - 1) / kColumns * parts;
  return launch("bias_gradients", kernels, call.dtype, call, blocks, call.rows, call.hidden, stream,
                kThreads * (call.dtype == DType::f64 ? sizeof(double) : sizeof(float)));
}

}  // namespace

int64_t bias_gradient_parts(int64_t rows) { return count_parts(rows); }

std::string run_bias_gradients(const BiasGradients& call, cudaStream_t stream) {
  const int64_t parts = count_parts(call.rows);
  if (std::string status = run<false>(call, parts, stream); !status.empty() || parts == 1) return status;
  return run<true>(call, 1, stream);
}

}  // namespace gru_fused::cuda

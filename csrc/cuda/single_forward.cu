// The forward of a layer of one step as one kernel, products and gates. Where few rows take the step, the host is
// longer over two products of torch's than the device over all of it.
#include "steps.cuh"

namespace gru_fused::cuda {
namespace {

constexpr int kFewThreads = 128;  // a warp makes one unit, so that even a small layer is on many SMs
constexpr int kFewUnits = kFewThreads / kWarp;

template <class Scalar>
constexpr int kWide = 16 / sizeof(Scalar);

// A lane's part of the products of `count` rows of `given`, from row `first` on, with the three rows of `weights`
// [3H, n] that are a unit's. Rows that are not there count as the last one: without branches the loads do not wait for
// each other.
template <int kRows, int kWidth, class Scalar, class Value>
__device__ __forceinline__ void add_products(const Rows<const void>& given, int64_t first, int count, int64_t n,
                                             const Rows<const void>& weights, int64_t unit, int64_t H,
                                             Value (&r)[kRows], Value (&z)[kRows], Value (&of_n)[kRows]) {
  using Numbers = Pack<Scalar, kWidth>;
  const Scalar* const of_gate[kGates] = {at<Scalar>(weights, unit, 0), at<Scalar>(weights, H + unit, 0),
                                         at<Scalar>(weights, 2 * H + unit, 0)};
  const Scalar* of_row[kRows];
  GRU_FUSED_UNROLL
  for (int row = 0; row < kRows; ++row) of_row[row] = at<Scalar>(given, first + (row < count ? row : count - 1), 0);
  constexpr int kAtOnce = kRows > 4 && kWidth > 1 ? 1 : 4;
  GRU_FUSED_UNROLL_BY(kAtOnce)
  for (int64_t i = int(threadIdx.x) % kWarp * kWidth; i < n; i += kWarp * kWidth) {
    Numbers weight[kGates], numbers[kRows];
    GRU_FUSED_UNROLL
    for (int gate = 0; gate < kGates; ++gate) weight[gate] = *reinterpret_cast<const Numbers*>(of_gate[gate] + i);
    GRU_FUSED_UNROLL
    for (int row = 0; row < kRows; ++row) numbers[row] = *reinterpret_cast<const Numbers*>(of_row[row] + i);
    GRU_FUSED_UNROLL
    for (int k = 0; k < kWidth; ++k) {
      const Value w_r = widen<Value>(weight[0].numbers[k]), w_z = widen<Value>(weight[1].numbers[k]);
      const Value w_n = widen<Value>(weight[2].numbers[k]);
      GRU_FUSED_UNROLL
      for (int row = 0; row < kRows; ++row) {
        const Value number = widen<Value>(numbers[row].numbers[k]);
        r[row] += w_r * number;
        z[row] += w_z * number;
        of_n[row] += w_n * number;
      }
    }
  }
}

template <class Types, int kRows, bool kAligned>
__global__ void __launch_bounds__(kFewThreads) single_forward(const __grid_constant__ ForwardParams call) {
  using Scalar = typename Types::Scalar;
  using Value = typename Types::Value;
  constexpr int kWidth = kAligned ? kWide<Scalar> : 1;
  const Shape& shape = call.shape;
  const int64_t H = shape.hidden;
  const unsigned of_units = unsigned((H + kFewUnits - 1) / kFewUnits), others = blockIdx.x / of_units;
  const int64_t unit = int64_t(blockIdx.x % of_units) * kFewUnits + threadIdx.x / kWarp;
  if (unit >= H) return;
  const int64_t first = int64_t(others / unsigned(shape.directions)) * kRows;
  const int count = shape.batch - first < kRows ? int(shape.batch - first) : kRows;
  const ForwardDirection& my = call.direction[others % unsigned(shape.directions)];

  Value r[kRows] = {}, z[kRows] = {}, gi_n[kRows] = {}, gh_n[kRows] = {};
  add_products<kRows, kWidth, Scalar>(my.x, first, count, shape.inputs, my.w_ih, unit, H, r, z, gi_n);
  add_products<kRows, kWidth, Scalar>(my.hx, first, count, H, my.w_hh, unit, H, r, z, gh_n);

  const int lane = int(threadIdx.x) % kWarp;
  Value mine[4] = {};  // a lane takes the sums of its row
  GRU_FUSED_UNROLL
  for (int row = 0; row < kRows; ++row) {
    Value sums[4] = {r[row], z[row], gi_n[row], gh_n[row]};
    GRU_FUSED_UNROLL
    for (Value& sum : sums) {
      GRU_FUSED_UNROLL
      for (int lanes = kWarp / 2; lanes > 0; lanes /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, lanes);
    }
    GRU_FUSED_UNROLL
    for (int i = 0; i < 4; ++i)
      if (lane == row) mine[i] = sums[i];
  }
  if (lane >= count) return;

  const int64_t row = first + lane;
  const auto bias = [&](const void* from, int gate) {
    return from ? widen<Value>(static_cast<const Scalar*>(from)[gate * H + unit]) : Value(0);
  };
  const auto stepped = cell_forward<typename Types::Math>(
      mine[0] + bias(my.b_ih, 0), mine[1] + bias(my.b_ih, 1), mine[2] + bias(my.b_ih, 2), bias(my.b_hh, 0),
      bias(my.b_hh, 1), mine[3] + bias(my.b_hh, 2), widen<Value>(*at<Scalar>(my.hx, row, unit)));
  *at<Scalar>(my.h_n, row, unit) = narrow<Scalar>(stepped.h);
  *at<Scalar>(my.output, row, unit) = narrow<Scalar>(stepped.h);  // in a cell the same place
  if (my.gates.data) store_gates(at<Scalar>(my.gates, row, unit), H, stepped.gates);
}

// Whether every row of an array begins at sixteen bytes, and ends there.
bool is_aligned(const Rows<const void>& rows, int64_t columns, int64_t bytes) {
  return reinterpret_cast<uintptr_t>(rows.data) % 16 == 0 && rows.row * bytes % 16 == 0 && columns * bytes % 16 == 0;
}
bool is_aligned(const ForwardParams& call) {
  const int64_t I = call.shape.inputs, H = call.shape.hidden, bytes = size_of(call.shape.dtype);
  for (int d = 0; d < call.shape.directions; ++d) {
    const ForwardDirection& my = call.direction[d];
    if (!is_aligned(my.x, I, bytes) || !is_aligned(my.w_ih, I, bytes)) return false;
    if (!is_aligned(my.hx, H, bytes) || !is_aligned(my.w_hh, H, bytes)) return false;
  }
  return true;
}

template <int kRows, bool kAligned>
std::string run(const ForwardParams& call, cudaStream_t stream) {
  static void (*const kernels[4])(ForwardParams) = {single_forward<ArithmeticOf<float>, kRows, kAligned>,
                                                    single_forward<ArithmeticOf<double>, kRows, kAligned>,
                                                    single_forward<ArithmeticOf<__nv_bfloat16>, kRows, kAligned>,
                                                    single_forward<ArithmeticOf<__half>, kRows, kAligned>};
  const Shape& shape = call.shape;
  const int64_t of_units = (shape.hidden + kFewUnits - 1) / kFewUnits, of_rows = (shape.batch + kRows - 1) / kRows;
  return launch("single_forward", kernels, shape.dtype, call, of_units * of_rows * shape.directions, shape.batch,
                shape.hidden, stream, 0, kFewThreads);
}

template <int kRows>
std::string run(const ForwardParams& call, cudaStream_t stream) {
  return is_aligned(call) ? run<kRows, true>(call, stream) : run<kRows, false>(call, stream);
}

}  // namespace

std::string run_single(const ForwardParams& call, cudaStream_t stream) {
  return call.shape.batch == 1   ? run<1>(call, stream)
         : call.shape.batch <= 4 ? run<4>(call, stream)
                                 : run<8>(call, stream);
}

}  // namespace gru_fused::cuda

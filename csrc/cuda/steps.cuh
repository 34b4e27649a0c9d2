// What the kernels without a loop share. In most a thread is one unit of one row.
#pragma once

#include "kernels.h"
#include "scalar.cuh"

namespace gru_fused::cuda {
namespace {

constexpr int kThreads = 256;

template <class S>
struct ArithmeticOf {
  using Scalar = S;
  using Value = std::conditional_t<std::is_same_v<S, double>, double, float>;
  using Math = std::conditional_t<sizeof(S) == 2, FastMath, ExactMath<Value>>;
};

// Numbers that are read at once.
template <class Scalar, int kWidth>
struct alignas(kWidth * sizeof(Scalar)) Pack {
  Scalar numbers[kWidth];
};

// What a step saved, and what its backward leaves, of one unit: the numbers of a row lie H apart.
template <class Value, class Scalar>
__device__ __forceinline__ Gates<Value> saved_gates(const Scalar* from, int64_t H) {
  return {widen<Value>(from[0]), widen<Value>(from[H]), widen<Value>(from[2 * H]), widen<Value>(from[3 * H])};
}
template <class Scalar, class Value>
__device__ __forceinline__ void store_gates(Scalar* to, int64_t H, const Gates<Value>& gates) {
  to[0] = narrow<Scalar>(gates.r);
  to[H] = narrow<Scalar>(gates.z);
  to[2 * H] = narrow<Scalar>(gates.n);
  to[3 * H] = narrow<Scalar>(gates.gh_n);
}
template <class Scalar, class Value>
__device__ __forceinline__ void store_grads(Scalar* to, int64_t H, const GateGrads<Value>& grads) {
  to[0] = narrow<Scalar>(grads.nr);
  to[H] = narrow<Scalar>(grads.r);
  to[2 * H] = narrow<Scalar>(grads.z);
  to[3 * H] = narrow<Scalar>(grads.n);
}

std::string status_text(const char* kernel, cudaError_t status, int64_t rows, int64_t hidden) {
  if (status == cudaSuccess) return {};
  return std::string(kernel) + ", " + std::to_string(rows) + " rows of H=" + std::to_string(hidden) + ": " +
         cudaGetErrorString(status);
}

template <class Call>
std::string launch(const char* name, void (*const (&by_dtype)[4])(Call), DType dtype, const Call& call, int64_t blocks,
                   int64_t rows, int64_t hidden, cudaStream_t stream, size_t shared_bytes = 0, int threads = kThreads) {
  if (blocks == 0) return {};
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(unsigned(blocks));
  config.blockDim = dim3(unsigned(threads));
  config.dynamicSmemBytes = shared_bytes;
  config.stream = stream;
  return status_text(name, cudaLaunchKernelEx(&config, by_dtype[int(dtype)], call), rows, hidden);
}

inline int64_t blocks_of(int64_t rows, int64_t hidden) { return (rows * hidden + kThreads - 1) / kThreads; }

}  // namespace
}  // namespace gru_fused::cuda

// Fills one instruction set's table of kernels: each isa_*.cpp includes this once, with its own compiler flags.
#pragma once

#include "backward_steps.h"
#include "forward.h"
#include "tangent_backward.h"
#include "variant_backward.h"
#include "variant_forward.h"

namespace gru_fused {
namespace {

// Calls action(S{}) with the type that stores this dtype.
template <class Action>
auto with_storage(DType dtype, const Action& action) {
  switch (dtype) {
    case DType::f64:
      return action(double{});
    case DType::bf16:
      return action(bf16{});
    case DType::f16:
      return action(f16{});
    case DType::f32:
      break;
  }
  return action(float{});
}

size_t forward_scratch(const ForwardParams& params, int64_t threads) {
  return with_storage(params.shape.dtype,
                      [&](auto storage) { return forward_bytes<decltype(storage)>(params, threads); });
}

size_t variant_forward_scratch(const VariantForwardParams& params, int64_t threads) {
  return with_storage(params.shape.dtype, [&](auto storage) {
    using S = decltype(storage);
    return forward_bytes<S, VariantSteps<S>>(params, threads);
  });
}

size_t backward_scratch(const BackwardParams& params, int64_t threads) {
  return with_storage(params.shape.dtype, [&](auto storage) {
    using S = decltype(storage);
    return backward_bytes<S, PlainBackwardSteps<S>>(params, threads);
  });
}

size_t variant_backward_scratch(const VariantBackwardParams& params, int64_t threads) {
  return with_storage(params.shape.dtype, [&](auto storage) {
    using S = decltype(storage);
    return backward_bytes<S, VariantBackwardSteps<S>>(params, threads);
  });
}

void forward(const ForwardParams& params, void* scratch, const cpu::Parallel& parallel) {
  with_storage(params.shape.dtype, [&](auto storage) { run_forward<decltype(storage)>(params, scratch, parallel); });
}

void variant_forward(const VariantForwardParams& params, void* scratch, const cpu::Parallel& parallel) {
  with_storage(params.shape.dtype, [&](auto storage) {
    using S = decltype(storage);
    run_forward<S, VariantSteps<S>>(params, scratch, parallel);
  });
}

void backward(const BackwardParams& params, void* scratch, const cpu::Parallel& parallel) {
  with_storage(params.shape.dtype, [&](auto storage) {
    using S = decltype(storage);
    run_backward<S, PlainBackwardSteps<S>>(params, scratch, parallel);
  });
}

void variant_backward(const VariantBackwardParams& params, void* scratch, const cpu::Parallel& parallel) {
  with_storage(params.shape.dtype, [&](auto storage) {
    using S = decltype(storage);
    run_backward<S, VariantBackwardSteps<S>>(params, scratch, parallel);
  });
}

template <class Layout>
size_t sweep_scratch(const Shape& shape, int64_t threads) {
  return with_storage(shape.dtype, [&](auto storage) {
    using T = Accumulate<decltype(storage)>;
    return size_t(Layout(shape, sweep_plan(shape, threads), Simd<T>::lanes).total) * sizeof(T);
  });
}

size_t tangent_scratch(const TangentParams& params, int64_t threads) {
  return sweep_scratch<TangentScratch>(params.shape, threads);
}

size_t tangent_backward_scratch(const TangentBackwardParams& params, int64_t threads) {
  return sweep_scratch<TangentBackwardScratch>(params.shape, threads);
}

void tangent(const TangentParams& params, void* scratch, const cpu::Parallel& parallel) {
  with_storage(params.shape.dtype, [&](auto storage) { run_tangent<decltype(storage)>(params, scratch, parallel); });
}

void tangent_backward(const TangentBackwardParams& params, void* scratch, const cpu::Parallel& parallel) {
  with_storage(params.shape.dtype,
               [&](auto storage) { run_tangent_backward<decltype(storage)>(params, scratch, parallel); });
}

constexpr cpu::Kernels kernels_named(const char* name) {
  return {name,
          forward_scratch,
          backward_scratch,
          forward,
          backward,
          variant_forward_scratch,
          variant_backward_scratch,
          variant_forward,
          variant_backward,
          tangent_scratch,
          tangent_backward_scratch,
          tangent,
          tangent_backward};
}

}  // namespace
}  // namespace gru_fused

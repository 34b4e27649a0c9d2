// The loops of one row, of one type of numbers.
#pragma once

#include "kernels.h"
#include "row_backward.cuh"
#include "row_forward.cuh"

namespace gru_fused::cuda {

template <class Scalar, class Math, bool kPacked>
constexpr RowKernels::OfSizes<ForwardLoop> row_forward = {
    row_forward_loop<Scalar, Math, 32, kPacked>, row_forward_loop<Scalar, Math, 64, kPacked>,
    row_forward_loop<Scalar, Math, 96, kPacked>, row_forward_loop<Scalar, Math, 128, kPacked>};
template <class Scalar, class Math, bool kPacked>
constexpr RowKernels::OfSizes<BackwardLoop> row_backward = {
    row_backward_loop<Scalar, Math, 32, kPacked>, row_backward_loop<Scalar, Math, 64, kPacked>,
    row_backward_loop<Scalar, Math, 96, kPacked>, row_backward_loop<Scalar, Math, 128, kPacked>};

template <class Scalar, class Math>
const RowKernels& rows_of() {
  static const RowKernels kernels = {{row_forward<Scalar, Math, false>, row_forward<Scalar, Math, true>},
                                     {row_backward<Scalar, Math, false>, row_backward<Scalar, Math, true>}};
  return kernels;
}

}  // namespace gru_fused::cuda

// The backward of one row's time steps: row.cuh.
#pragma once

#include "row.cuh"

namespace gru_fused::cuda {

template <class Scalar, class Math, int kUnits, bool kPacked>
__global__ void __launch_bounds__(kUnits* kRowLanes, 1) row_backward_loop(const __grid_constant__ BackwardLoop loop) {
  constexpr int kAhead = row_ahead(kUnits, kPacked);
  GRU_FUSED_DYNAMIC_SHARED(shared);
  const Shape& shape = loop.shape;
  const RowPlace<kUnits> place(loop, shared);
  const auto& my = loop.direction[place.direction];
  const int hidden = int(shape.hidden), unit = place.unit(), part = place.part();
  const bool of_layer = unit < hidden;

  RowProductsBack<Scalar, kUnits, kAhead> weights;
  weights.load(place, my.w_hh, hidden);

  // The part of dL/dh that does not come through W_hh.
  float d = of_layer && my.grad_h_n.data ? widen<float>(*at<Scalar>(my.grad_h_n, place.row, unit)) : 0.f;
  float* const operands = place.operands();  // [2][kGates][kUnits]: gradients of r, z, and of n times r
  float* const own_operand = operands + part * kUnits + unit;
  if (part < kGates) *own_operand = 0.f;

  const RowSteps<kUnits, true, kPacked> steps(place, shape);
  const RowCursor<const Scalar> saved(place, shape, my.gates, part * hidden + unit);
  const RowCursor<Scalar> grads(place, shape, my.grads, part * hidden + unit);
  // The first lane reads the state before, the second the output's gradient.
  RowCursor<const Scalar> beside(place, shape, my.output, unit);
  if (part > 0)
    beside = RowCursor<const Scalar>(place, shape, my.grad_output, unit);
  else if (!kPacked)
    beside.first += steps.apart() * int64_t(beside.of_step);
  const bool reads_beside = of_layer && (part == 0 || (part == 1 && my.grad_output.data));
  const Scalar hx = of_layer && part == 0 ? *at<Scalar>(my.hx, place.row, unit) : narrow<Scalar>(0.f);
  // Of the next steps; widened when they are used: before, that would be a wait for memory.
  Scalar next_gate[kAhead] = {}, next_beside[kAhead] = {};
  const auto ask_for_saved = [&](int back, Scalar& to_gate, Scalar& to_beside) {
    const Scalar* const gate = saved.at_place(steps.place_of(back));
    const int of_beside = back + (part == 0);
    const Scalar* const other = beside.at_place(steps.place_of(kPacked ? of_beside : back));
    arch::ask_for(gate, of_layer && back < steps.count, to_gate);
    if (part == 0 && of_beside == steps.count) to_beside = hx;
    arch::ask_for(other, reads_beside && of_beside < steps.count, to_beside);
  };
  steps.prepare(0);
  GRU_FUSED_UNROLL
  for (int i = 0; i < kAhead; ++i) ask_for_saved(i, next_gate[i], next_beside[i]);

  float own_grad = 0.f;  // of the step before
  const auto store = [&](int back) {
    Scalar* const to = grads.at_place(steps.place_of(back));
    if (of_layer) *to = narrow<Scalar>(own_grad);
  };
  const auto take = [&](int back, Scalar& next_gate, Scalar& next_beside) {
    __syncthreads();
    steps.prepare(back + kAhead + 1);
    const auto store_before = [&] {
      if (back > 0) store(back - 1);
    };
    float to_operand = 0.f, to_grads = 0.f, to_h = 0.f;  // all gradients are proportional to dL/dh
    const float product = weights.multiply(place, operands + back % 2 * kGates * kUnits, store_before, [&] {
      const float gate = widen<float>(next_gate), two = widen<float>(next_beside);
      const Gates<float> gates = {of_part(gate, 0), of_part(gate, 1), of_part(gate, 2), of_part(gate, 3)};
      d += of_part(two, 1);
      const auto of_d = cell_backward<Math>(1.f, gates, of_part(two, 0));
      to_operand = own_part(part, of_d.r, of_d.z, of_d.nr, 0.f);
      to_grads = own_part(part, of_d.nr, of_d.r, of_d.z, of_d.n);
      to_h = of_d.h;
      ask_for_saved(back + kAhead, next_gate, next_beside);
    });
    d += product;
    if (part < kGates) own_operand[(back + 1) % 2 * kGates * kUnits] = d * to_operand;
    own_grad = d * to_grads;
    d *= to_h;
  };
  GRU_FUSED_NO_UNROLL
  for (int first = 0; first < steps.count; first += kAhead) {
    GRU_FUSED_UNROLL
    for (int i = 0; i < kAhead; ++i) {
      if (i > 0 && first + i >= steps.count) break;
      take(first + i, next_gate[i], next_beside[i]);
    }
  }

  __syncthreads();
  if (steps.count > 0) store(steps.count - 1);
  d += weights.multiply(place, operands + steps.count % 2 * kGates * kUnits, [] {}, [] {});
  if (of_layer && part == 0) *at<Scalar>(my.grad_hx, place.row, unit) = narrow<Scalar>(d);
}

}  // namespace gru_fused::cuda

// The forward of one row's time steps: row.cuh.
#pragma once

#include "row.cuh"

namespace gru_fused::cuda {

template <class Scalar, class Math, int kUnits, bool kPacked>
__global__ void __launch_bounds__(kUnits* kRowLanes, 1) row_forward_loop(const __grid_constant__ ForwardLoop loop) {
  constexpr int kAhead = row_ahead(kUnits, kPacked);
  GRU_FUSED_DYNAMIC_SHARED(shared);
  const Shape& shape = loop.shape;
  const RowPlace<kUnits> place(loop, shared);
  const auto& my = loop.direction[place.direction];
  const int hidden = int(shape.hidden), unit = place.unit(), part = place.part();
  const bool of_layer = unit < hidden;

  RowProducts<Scalar, kUnits> weights;
  weights.load(place, my.w_hh, hidden);

  // By the lane's part: b_ih + b_hh of r, of z; b_ih of n; b_hh of n.
  float bias = 0.f;
  if (of_layer && my.b_ih) {
    const auto number = [&](const void* from, int gate) {
      return widen<float>(static_cast<const Scalar*>(from)[gate * hidden + unit]);
    };
    bias = part < kGates ? number(my.b_ih, part) : number(my.b_hh, 2);
    if (part < 2) bias += number(my.b_hh, part);
  }

  float h = of_layer ? widen<float>(*at<Scalar>(my.hx, place.row, unit)) : 0.f;
  float* const states = place.operands();  // [2][kUnits]; units that there are not stay zero
  if (part == 2) states[unit] = h;

  const RowSteps<kUnits, false, kPacked> steps(place, shape);
  const RowCursor<const Scalar> inputs(place, shape, my.inputs, part * hidden + unit);
  const RowCursor<Scalar> output(place, shape, my.output, unit);
  const RowCursor<Scalar> saved(place, shape, my.gates, part * hidden + unit);
  const bool reads = of_layer && part < kGates, writes = of_layer && part == 2, saves = of_layer && my.gates.data;
  // The part's gate of the next steps; widened when it is used: before, that would be a wait for memory.
  Scalar ahead[kAhead];
  const auto ask_for_input = [&](int step, Scalar& to) {
    arch::ask_for<Scalar>(inputs.at_place(steps.place_of(step)), reads && step < steps.count, to);
  };
  steps.prepare(0);
  GRU_FUSED_UNROLL
  for (int i = 0; i < kAhead; ++i) ask_for_input(i, ahead[i] = narrow<Scalar>(0.f));

  float own_gate = 0.f;  // of the step before
  const auto store = [&](int step) {
    const uint32_t at = steps.place_of(step);
    Scalar *const to_output = output.at_place(at), *const to_saved = saved.at_place(at);
    if (writes) *to_output = narrow<Scalar>(h);
    if (saves) *to_saved = narrow<Scalar>(own_gate);
  };
  const auto take = [&](int step, Scalar& input) {
    __syncthreads();
    steps.prepare(step + kAhead);
    const float addend = widen<float>(input) + bias;
    const auto store_before = [&] {
      if (step > 0) store(step - 1);
    };
    const auto ask_ahead = [&] { ask_for_input(step + kAhead, input); };
    const float sum = weights.multiply(place, states + step % 2 * kUnits, addend, store_before, ask_ahead);
    // The first lane has r, the second z, and the third the candidate and the state.
    const float gate = Math::sigmoid(sum), r = of_part(gate, 0), z = of_part(gate, 1);
    const float n = cell_candidate<Math>(addend, r, sum);
    h = cell_state<float>({r, z, n, sum}, h).h;
    own_gate = part < 2 ? gate : part == 2 ? n : sum;
    if (part == 2) states[(step + 1) % 2 * kUnits + unit] = h;
  };
  GRU_FUSED_NO_UNROLL
  for (int first = 0; first < steps.count; first += kAhead) {
    GRU_FUSED_UNROLL
    for (int i = 0; i < kAhead; ++i) {
      if (i > 0 && first + i >= steps.count) break;
      take(first + i, ahead[i]);
    }
  }

  if (steps.count > 0) store(steps.count - 1);
  if (writes) *at<Scalar>(my.h_n, place.row, unit) = narrow<Scalar>(h);
}

}  // namespace gru_fused::cuda

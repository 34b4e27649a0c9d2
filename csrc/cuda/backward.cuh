// The backward of a layer's time steps in one launch, W_hh^T held still: a team's operand is the gradients of the
// gates of all units, and each member owns some units of dL/dh. With a VariantBackwardLoop, of a variant of the cell.
#pragma once

#include "exchange.cuh"

namespace gru_fused::cuda {

template <class Form, template <class, bool> class ExchangeOf, class AnyLoop = BackwardLoop>
__global__ void __launch_bounds__(kMaxWarps* kWarp, 1) backward_loop(const __grid_constant__ AnyLoop loop) {
  using Scalar = typename Form::Scalar;
  using Value = typename Form::Value;
  using Exchanging = ExchangeOf<Form, true>;
  constexpr int kElements = Form::kElements;
  constexpr bool kVariant = AnyLoop::kVariant;
  GRU_FUSED_DYNAMIC_SHARED(shared);
  if constexpr (!Exchanging::kNeedsClusters || arch::kHasClusters) {
    const Shape& shape = loop.shape;
    const Place<Form, true> place(loop, shared, Exchanging::kExchange);
    const auto& my = loop.direction[place.direction];
    const auto options = options_of<Scalar, Value>(loop, place.direction);
    const int64_t H = shape.hidden;
    Exchanging exchange(place, loop.exchange, shape.steps + 1);

    HeldWeights<Form::kTraits.held> weights;
    place.load(weights, [&](int gate, int unit, int input) {
      return unit < H && input < H ? *at<Scalar>(my.w_hh, 0, gate * H + input, unit) : narrow<Scalar>(0.f);
    });

    fill_operands(place, Exchanging::kExchange, [](int, int) { return Value(0); });
    // The part of dL/dh that does not come through W_hh.
    place.for_own_tiles([&](int tile) {
      for (int e = 0; e < kElements; ++e)
        place.state(tile, e) =
            my.grad_h_n.data && place.exists(tile, e)
                ? widen<Value>(*at<Scalar>(my.grad_h_n, 0, place.first_row + place.row(tile, e), place.unit(e)))
                : Value(0);
      if constexpr (kVariant) {
        for (int e = 0; e < kElements; ++e) {
          place.dropout(tile, e) =
              place.exists(tile, e) ? options.dropout(place.first_row + place.row(tile, e), place.unit(e)) : Value(0);
          place.reset_grad(tile, e) = 0;
        }
      }
    });
    exchange.start();

    struct Saved {
      Gates<Value> gates[kElements];
      Value h[kElements], grad[kElements];
      OptionsAhead<Value, kElements, kVariant> options;
    };
    const auto load_saved = [&](int64_t back, int tile, Saved& saved) {
      const int64_t step = shape.steps - 1 - back, t = shape.time_of(step, place.direction);
      if constexpr (kVariant) {
        // Whether dL/dh0 of the step just done is that of a state that was set.
        saved.options.alive = saved.options.resets = 0;
        GRU_FUSED_UNROLL
        for (int e = 0; e < kElements; ++e)
          saved.options.resets |= uint32_t(back > 0 && place.exists(tile, e) &&
                                           options.resets(step + 1, place.first_row + place.row(tile, e)))
                                  << e;
        if (step < 0) return;
      }
      const int64_t alive = shape.rows_at(t);
      const int64_t before = step > 0 ? shape.time_of(step - 1, place.direction) : 0;
      const int64_t alive_before = step > 0 ? shape.rows_at(before) : 0;
      GRU_FUSED_UNROLL
      for (int e = 0; e < kElements; ++e) {
        const int64_t row = place.first_row + place.row(tile, e), unit = place.unit(e);
        if (!place.exists(tile, e) || row >= alive) continue;
        if constexpr (kVariant) {
          if (!options.alive(step, row)) continue;
          saved.options.alive |= 1u << e;
          saved.options.update[e] = options.update(step, row, unit);
        }
        const Scalar* const gates = at<Scalar>(my.gates, shape.step_offset(my.gates, t), row, unit);
        saved.gates[e] = {widen<Value>(gates[0]), widen<Value>(gates[H]), widen<Value>(gates[2 * H]),
                          widen<Value>(gates[3 * H])};
        if constexpr (kVariant)
          saved.h[e] = options.state_before(step, row, unit, my.hx, my.output);
        else
          saved.h[e] =
              widen<Value>(row < alive_before ? *at<Scalar>(my.output, shape.step_offset(my.output, before), row, unit)
                                              : *at<Scalar>(my.hx, 0, row, unit));
        saved.grad[e] = my.grad_output.data
                            ? widen<Value>(*at<Scalar>(my.grad_output, shape.step_offset(my.grad_output, t), row, unit))
                            : Value(0);
      }
    };

    Saved ahead = {};
    if (place.split < place.cut.tiles) load_saved(0, place.split, ahead);

    for (int64_t back = 0; back <= shape.steps; ++back) {
      const uint32_t* const operand = exchange.wait(back);
      const bool last = back == shape.steps;  // what is left is dL/dhx
      const int64_t t = last ? 0 : shape.time_of(shape.steps - 1 - back, place.direction);
      const int64_t alive = last ? 0 : shape.rows_at(t);
      place.step(weights, operand, int(back % 2), Exchanging::kBarrierAfterProducts,
                 [&](int tile, const Value(&products)[1][kElements]) {
                   Saved saved = ahead;
                   if (tile != place.split && (kVariant || !last)) load_saved(back, tile, saved);
                   Value sent[kGates][kElements];  // d_gh: a_r, a_z, a_nr
                   Value a_n[kElements];
                   [[maybe_unused]] Value of_update[kElements];
                   GRU_FUSED_UNROLL
                   for (int e = 0; e < kElements; ++e) {
                     Value product = products[0][e];
                     if constexpr (kVariant) product *= place.dropout(tile, e);
                     Value d = place.state(tile, e) + product;
                     if constexpr (kVariant) {
                       of_update[e] = 0;
                       if (saved.options.is_reset(e)) {
                         place.reset_grad(tile, e) += d;
                         d = 0;
                       }
                     }
                     sent[0][e] = sent[1][e] = sent[2][e] = a_n[e] = 0;
                     if (place.exists(tile, e) && place.first_row + place.row(tile, e) < alive) {
                       if constexpr (kVariant) {
                         if (!saved.options.is_alive(e)) {
                           place.state(tile, e) = d;
                           continue;
                         }
                       }
                       const auto grads = cell_back<typename Form::Math>(loop, d + saved.grad[e], saved.gates[e],
                                                                         saved.h[e], saved.options, e);
                       if constexpr (kVariant) of_update[e] = grads.update;
                       d = grads.h;
                       sent[0][e] = grads.r;
                       sent[1][e] = grads.z;
                       sent[2][e] = grads.nr;
                       a_n[e] = grads.n;
                     }
                     place.state(tile, e) = d;
                   }
                   if (last) return;
                   GRU_FUSED_UNROLL
                   for (int gate = 0; gate < kGates; ++gate)
                     send_elements(place, exchange, back + 1, tile, gate, sent[gate]);
                   if (tile == place.split && back + 1 < shape.steps + kVariant) load_saved(back + 1, tile, ahead);
                   GRU_FUSED_UNROLL
                   for (int e = 0; e < kElements; ++e) {
                     const int64_t row = place.first_row + place.row(tile, e);
                     if (!place.exists(tile, e) || row >= alive) continue;
                     Scalar* const grads = at<Scalar>(my.grads, shape.step_offset(my.grads, t), row, place.unit(e));
                     grads[0] = narrow<Scalar>(sent[2][e]);
                     grads[H] = narrow<Scalar>(sent[0][e]);
                     grads[2 * H] = narrow<Scalar>(sent[1][e]);
                     grads[3 * H] = narrow<Scalar>(a_n[e]);
                     if constexpr (kVariant) {
                       if (my.grad_update.data)
                         *at<Scalar>(my.grad_update, shape.step_offset(my.grad_update, t), row, place.unit(e)) =
                             narrow<Scalar>(of_update[e]);
                     }
                   }
                 });
      if (!last) exchange.sent(back + 1);
    }

    place.for_own_tiles([&](int tile) {
      for (int e = 0; e < kElements; ++e)
        if (place.exists(tile, e))
          *at<Scalar>(my.grad_hx, 0, place.first_row + place.row(tile, e), place.unit(e)) =
              narrow<Scalar>(place.state(tile, e));
      if constexpr (kVariant) {
        for (int e = 0; e < kElements; ++e)
          if (my.grad_reset_state.data && place.exists(tile, e))
            *at<Scalar>(my.grad_reset_state, 0, place.first_row + place.row(tile, e), place.unit(e)) =
                narrow<Scalar>(place.reset_grad(tile, e));
      }
    });
    exchange.end();
  }
}

}  // namespace gru_fused::cuda

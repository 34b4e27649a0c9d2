// The forward of a layer's time steps in one launch, W_hh held still. With a VariantForwardLoop, of a variant of the
// cell: what is sent after a step is the next step's h0, which a reset may set, times the mask of dropout.
#pragma once

#include "exchange.cuh"

namespace gru_fused::cuda {

template <class Form, template <class, bool> class ExchangeOf, class AnyLoop = ForwardLoop>
__global__ void __launch_bounds__(kMaxWarps* kWarp, 1) forward_loop(const __grid_constant__ AnyLoop loop) {
  using Scalar = typename Form::Scalar;
  using Value = typename Form::Value;
  using Exchanging = ExchangeOf<Form, false>;
  constexpr int kElements = Form::kElements;
  constexpr bool kVariant = AnyLoop::kVariant;
  GRU_FUSED_DYNAMIC_SHARED(shared);
  if constexpr (!Exchanging::kNeedsClusters || arch::kHasClusters) {
    const Shape& shape = loop.shape;
    const Place<Form, false> place(loop, shared, Exchanging::kExchange);
    const auto& my = loop.direction[place.direction];
    const auto options = options_of<Scalar, Value>(loop, place.direction);
    const int64_t H = shape.hidden;
    Exchanging exchange(place, loop.exchange, shape.steps);

    HeldWeights<Form::kTraits.held> weights;
    place.load(weights, [&](int gate, int unit, int input) {
      return unit < H && input < H ? *at<Scalar>(my.w_hh, 0, gate * H + unit, input) : narrow<Scalar>(0.f);
    });

    // b_ih + b_hh of r and z; b_ih of n; b_hh of n.
    Value bias[4][Form::kUnits] = {};
    GRU_FUSED_UNROLL
    for (int e = 0; e < kElements; ++e) {
      const int unit = place.unit(e), i = Form::unit_index(e);
      if (unit >= H || !my.b_ih) continue;
      const auto number = [&](const void* from, int gate) {
        return widen<Value>(static_cast<const Scalar*>(from)[gate * H + unit]);
      };
      bias[0][i] = number(my.b_ih, 0) + number(my.b_hh, 0);
      bias[1][i] = number(my.b_ih, 1) + number(my.b_hh, 1);
      bias[2][i] = number(my.b_ih, 2);
      bias[3][i] = number(my.b_hh, 2);
    }

    // The state before the first step, of a row of the batch.
    const auto first_state = [&](int64_t row, int unit) {
      if constexpr (kVariant) {
        if (options.resets(0, row)) return options.reset_state(row, unit);
      }
      return widen<Value>(*at<Scalar>(my.hx, 0, row, unit));
    };
    const auto mask = [&](int64_t row, int unit) {
      if constexpr (kVariant)
        return options.dropout(row, unit);
      else
        return Value(1);
    };
    // Every CTA reads the whole of hx; the rows and units that there are not stay zero in every operand.
    fill_operands(place, Exchanging::kExchange, [&](int row, int unit) {
      return row < place.valid_rows && unit < H
                 ? first_state(place.first_row + row, unit) * mask(place.first_row + row, unit)
                 : Value(0);
    });
    place.for_own_tiles([&](int tile) {
      for (int e = 0; e < kElements; ++e)
        place.state(tile, e) =
            place.exists(tile, e) ? first_state(place.first_row + place.row(tile, e), place.unit(e)) : Value(0);
      if constexpr (kVariant) {
        for (int e = 0; e < kElements; ++e)
          place.dropout(tile, e) =
              place.exists(tile, e) ? options.dropout(place.first_row + place.row(tile, e), place.unit(e)) : Value(0);
      }
    });
    exchange.start();

    struct Inputs {
      Value gate[kGates][kElements];
      OptionsAhead<Value, kElements, kVariant> options;
    };
    const auto load_inputs = [&](int64_t step, int tile, Inputs& inputs) {
      const int64_t t = shape.time_of(step, place.direction), offset = shape.step_offset(my.inputs, t);
      const int64_t alive = shape.rows_at(t);
      if constexpr (kVariant) inputs.options.alive = inputs.options.resets = 0;
      GRU_FUSED_UNROLL
      for (int e = 0; e < kElements; ++e) {
        const int64_t row = place.first_row + place.row(tile, e);
        if (!place.exists(tile, e) || row >= alive) continue;
        if constexpr (kVariant) {
          if (!options.alive(step, row)) continue;
          inputs.options.alive |= 1u << e;
          inputs.options.resets |= uint32_t(step + 1 < shape.steps && options.resets(step + 1, row)) << e;
          inputs.options.update[e] = options.update(step, row, place.unit(e));
        }
        GRU_FUSED_UNROLL
        for (int gate = 0; gate < kGates; ++gate)
          inputs.gate[gate][e] = widen<Value>(*at<Scalar>(my.inputs, offset, row, gate * H + place.unit(e)));
      }
    };

    Inputs ahead = {};  // of the first tile that this warp finishes, asked for before the wait of their step
    if (place.split < place.cut.tiles) load_inputs(0, place.split, ahead);

    for (int64_t step = 0; step < shape.steps; ++step) {
      const int64_t t = shape.time_of(step, place.direction), alive = shape.rows_at(t);
      const uint32_t* const operand = exchange.wait(step);
      place.step(weights, operand, int(step % 2), Exchanging::kBarrierAfterProducts,
                 [&](int tile, const Value(&products)[kGates][kElements]) {
                   Inputs inputs = ahead;
                   if (tile != place.split) load_inputs(step, tile, inputs);
                   Value h[kElements];
                   Gates<Value> gates[kElements];
                   GRU_FUSED_UNROLL
                   for (int e = 0; e < kElements; ++e) {
                     h[e] = place.state(tile, e);
                     if (!place.exists(tile, e) || place.first_row + place.row(tile, e) >= alive) continue;
                     if constexpr (kVariant) {
                       gates[e] = {};
                       if (!inputs.options.is_alive(e)) {
                         h[e] = 0;  // the output past a row's length
                         continue;
                       }
                     }
                     const int u = Form::unit_index(e);
                     const auto stepped = cell_step<typename Form::Math>(
                         loop, inputs.gate[0][e], inputs.gate[1][e], inputs.gate[2][e] + bias[2][u],
                         products[0][e] + bias[0][u], products[1][e] + bias[1][u], products[2][e] + bias[3][u], h[e],
                         inputs.options, e);
                     place.state(tile, e) = h[e] = stepped.h;
                     gates[e] = stepped.gates;
                   }
                   if (step + 1 < shape.steps) {
                     if constexpr (kVariant) {
                       Value operand[kElements];
                       GRU_FUSED_UNROLL
                       for (int e = 0; e < kElements; ++e) {
                         if (inputs.options.is_reset(e))
                           place.state(tile, e) =
                               options.reset_state(place.first_row + place.row(tile, e), place.unit(e));
                         operand[e] = place.state(tile, e) * place.dropout(tile, e);
                       }
                       send_elements(place, exchange, step + 1, tile, 0, operand);
                     } else {
                       send_elements(place, exchange, step + 1, tile, 0, h);
                     }
                     if (tile == place.split) load_inputs(step + 1, tile, ahead);
                   }
                   const int64_t output = shape.step_offset(my.output, t);
                   GRU_FUSED_UNROLL
                   for (int e = 0; e < kElements; ++e) {
                     const int64_t row = place.first_row + place.row(tile, e), unit = place.unit(e);
                     if (!place.exists(tile, e) || row >= alive) continue;
                     *at<Scalar>(my.output, output, row, unit) = narrow<Scalar>(h[e]);
                     if (!my.gates.data) continue;
                     Scalar* const saved = at<Scalar>(my.gates, shape.step_offset(my.gates, t), row, unit);
                     saved[0] = narrow<Scalar>(gates[e].r);
                     saved[H] = narrow<Scalar>(gates[e].z);
                     saved[2 * H] = narrow<Scalar>(gates[e].n);
                     saved[3 * H] = narrow<Scalar>(gates[e].gh_n);
                   }
                 });
      if (step + 1 < shape.steps) exchange.sent(step + 1);
    }

    place.for_own_tiles([&](int tile) {
      for (int e = 0; e < kElements; ++e)
        if (place.exists(tile, e))
          *at<Scalar>(my.h_n, 0, place.first_row + place.row(tile, e), place.unit(e)) =
              narrow<Scalar>(place.state(tile, e));
    });
    exchange.end();
  }
}

}  // namespace gru_fused::cuda

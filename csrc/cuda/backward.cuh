// The backward of a layer's time steps in one launch, W_hh^T held still: a team's operand is the gradients of the
// gates of all units, and each member owns some units of dL/dh. With a VariantBackwardLoop, of a variant of the cell.
#pragma once

#include "cursor.cuh"
#include "exchange.cuh"

namespace gru_fused::cuda {

template <class Form, template <class, bool> class ExchangeOf, class AnyLoop = BackwardLoop>
__global__ void __launch_bounds__(kMaxWarps* kWarp, 1) backward_loop(const __grid_constant__ AnyLoop loop) {
  using Scalar = typename Form::Scalar;
  using Value = typename Form::Value;
  using Exchanging = ExchangeOf<Form, true>;
  constexpr int kAhead = sizeof(Scalar) > 2 ? 1 : 2;  // pieces whose saved numbers a warp asks for a step ahead
  constexpr bool kVariant = AnyLoop::kVariant;
  GRU_FUSED_DYNAMIC_SHARED(shared);
  if constexpr (!Exchanging::kNeedsClusters || arch::kHasClusters) {
    const Shape& shape = loop.shape;
    const Place<Form, true> place(loop, shared, Exchanging::kExchange);
    const auto& my = loop.direction[place.direction];
    const auto options = options_of<Scalar, Value>(loop, place.direction);
    const int64_t H = shape.hidden, unit = place.unit();
    Exchanging exchange(place, loop.exchange, int(shape.steps) + 1);

    HeldWeights<Form::kTraits.held> weights;
    place.load(weights, my.w_hh, H);

    fill_operands(place, Exchanging::kExchange, [](int, int) { return Value(0); });
    // The part of dL/dh that does not come through W_hh.
    place.for_own_pieces([&](int piece) {
      const int64_t row = place.first_row + place.row(piece);
      place.state(piece) =
          my.grad_h_n.data && place.exists(piece) ? widen<Value>(*at<Scalar>(my.grad_h_n, 0, row, unit)) : Value(0);
      if constexpr (kVariant) {
        place.dropout(piece) = place.exists(piece) ? options.dropout(row, unit) : Value(0);
        place.reset_grad(piece) = 0;
      }
    });
    exchange.start();

    struct Saved {  // widened when they are used: before, that would be a wait for memory
      Scalar gates[4], h, grad;
      OptionsAhead<Value, kVariant> options;
    };
    const Times<true> times(place, shape);
    const auto gates_of = cursor<Scalar>(place, shape, my.gates), output_of = cursor<Scalar>(place, shape, my.output);
    const auto grad_output_of = cursor<Scalar>(place, shape, my.grad_output);
    const auto grads_of = cursor<Scalar>(place, shape, my.grads);
    const bool given = arch::kept(int(my.grad_output.data != nullptr));
    const bool of_layer = place.lane % kGroup < place.units_left;
    const int hidden = arch::kept(int(H));
    const auto load_saved = [&](int back, const At& here, const At& before, int piece, int i, Saved& saved) {
      [[maybe_unused]] const int64_t step = shape.steps - 1 - back, row = place.first_row + place.row(piece);
      if constexpr (kVariant) {
        // Whether dL/dh0 of the step just done is that of a state that was set.
        saved.options.alive = false;
        saved.options.resets = step + 1 < shape.steps && place.exists(piece) && options.resets(step + 1, row);
        if (step < 0) return;
      }
      if (!of_layer || place.row(piece) >= here.alive) return;
      if constexpr (kVariant) {
        if (!options.alive(step, row)) return;
        saved.options.alive = true;
        saved.options.update = options.update(step, row, unit);
        saved.h = narrow<Scalar>(options.state_before(step, row, unit, my.hx, my.output));
      } else {
        saved.h = place.row(piece) < before.alive ? *output_of.at(before.index, i) : *at<Scalar>(my.hx, 0, row, unit);
      }
      const Scalar* const gates = gates_of.at(here.index, i);
      GRU_FUSED_UNROLL
      for (int gate = 0; gate < 4; ++gate) saved.gates[gate] = gates[gate * hidden];
      saved.grad = given ? *grad_output_of.at(here.index, i) : narrow<Scalar>(Value(0));
    };

    Saved ahead[kAhead] = {};
    At next = times.of(0), after = times.of(1);
    place.for_own_pieces(ahead, [&](int piece, int i, Saved* kept) {
      if (kept) load_saved(0, next, after, piece, i, *kept);
    });

    for (int back = 0; back <= times.steps; ++back) {
      const bool last = back == times.steps;  // what is left is dL/dhx
      const At now = next;
      next = after;
      after = times.of(back + 2);
      const int parity = back % 2;
      const uint32_t* const operand = exchange.wait(back);
      place.multiply(weights, operand, parity, Exchanging::kBarrierAfterProducts);
      place.for_own_pieces(ahead, [&](int piece, int i, Saved* kept) {
        Saved saved;
        if (kept)
          saved = *kept;
        else if (kVariant || !last)
          load_saved(back, now, next, piece, i, saved);
        Value product[1];
        place.collect(parity, piece, product);
        if constexpr (kVariant) product[0] *= place.dropout(piece);
        Value d = place.state(piece) + product[0];
        if constexpr (kVariant) {
          if (saved.options.resets) {
            place.reset_grad(piece) += d;
            d = 0;
          }
        }
        const bool present = of_layer && place.row(piece) < now.alive;
        bool is_alive = present;
        if constexpr (kVariant) is_alive = present && saved.options.alive;
        const Gates<Value> gates = {widen<Value>(saved.gates[0]), widen<Value>(saved.gates[1]),
                                    widen<Value>(saved.gates[2]), widen<Value>(saved.gates[3])};
        auto grads = cell_back<typename Form::Math>(loop, d + widen<Value>(saved.grad), gates, widen<Value>(saved.h),
                                                    saved.options);
        if (!is_alive) {
          grads = {};
          grads.h = d;
        }
        place.state(piece) = grads.h;
        if (last) return;
        send_piece(place, exchange, back + 1, piece, 0, grads.r);
        send_piece(place, exchange, back + 1, piece, 1, grads.z);
        send_piece(place, exchange, back + 1, piece, 2, grads.nr);
        if (kept && back + 1 < times.steps + kVariant) load_saved(back + 1, next, after, piece, i, *kept);
        if (!present) return;
        Scalar* const to = grads_of.at(now.index, i);
        to[0] = narrow<Scalar>(grads.nr);
        to[hidden] = narrow<Scalar>(grads.r);
        to[2 * hidden] = narrow<Scalar>(grads.z);
        to[3 * hidden] = narrow<Scalar>(grads.n);
        if constexpr (kVariant) {
          const int64_t t = shape.time_of(shape.steps - 1 - back, place.direction),
                        row = place.first_row + place.row(piece);
          if (my.grad_update.data)
            *at<Scalar>(my.grad_update, shape.step_offset(my.grad_update, t), row, unit) = narrow<Scalar>(grads.update);
        }
      });
      if (!last) exchange.sent(back + 1);
    }

    place.for_own_pieces([&](int piece) {
      if (!place.exists(piece)) return;
      const int64_t row = place.first_row + place.row(piece);
      *at<Scalar>(my.grad_hx, 0, row, unit) = narrow<Scalar>(place.state(piece));
      if constexpr (kVariant) {
        if (my.grad_reset_state.data)
          *at<Scalar>(my.grad_reset_state, 0, row, unit) = narrow<Scalar>(place.reset_grad(piece));
      }
    });
    exchange.end();
  }
}

}  // namespace gru_fused::cuda

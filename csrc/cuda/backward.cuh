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
  constexpr int kAhead = 2;  // pieces whose saved numbers a warp asks for a step ahead
  constexpr bool kVariant = AnyLoop::kVariant;
  GRU_FUSED_DYNAMIC_SHARED(shared);
  if constexpr (!Exchanging::kNeedsClusters || arch::kHasClusters) {
    const Shape& shape = loop.shape;
    const Place<Form, true> place(loop, shared, Exchanging::kExchange);
    const auto& my = loop.direction[place.direction];
    const auto options = options_of<Scalar, Value>(loop, place.direction);
    const int64_t H = shape.hidden, unit = place.unit();
    Exchanging exchange(place, loop.exchange, shape.steps + 1);

    HeldWeights<Form::kTraits.held> weights;
    place.load(weights, [&](int gate, int of_unit, int input) {
      const bool exists = of_unit < H && input < H;  // read in any case, so that many reads are under way at once
      const Scalar weight = *at<Scalar>(my.w_hh, 0, exists ? gate * H + input : 0, exists ? of_unit : 0);
      return exists ? weight : narrow<Scalar>(0.f);
    });

    fill_operands(place, Exchanging::kExchange, [](int, int) { return Value(0); });
    // The part of dL/dh that does not come through W_hh.
    place.for_own_pieces([&](int piece) {
      const int64_t row = place.first_row + place.row(piece);
      place.state(piece) = my.grad_h_n.data && place.exists(piece)
                               ? widen<Value>(*at<Scalar>(my.grad_h_n, 0, row, unit))
                               : Value(0);
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
    struct At {  // a step's place in the arrays, known before the step is waited for
      int64_t step, alive = 0, alive_before = 0, output_before = 0, gates = 0, grad_output = 0, grads = 0;
    };
    const auto place_of = [&](int64_t back) {
      At at{shape.steps - 1 - back};
      if (at.step < 0) return at;
      const int64_t t = shape.time_of(at.step, place.direction);
      at.alive = shape.rows_at(t);
      at.gates = shape.step_offset(my.gates, t);
      at.grads = shape.step_offset(my.grads, t);
      if (my.grad_output.data) at.grad_output = shape.step_offset(my.grad_output, t);
      if (at.step == 0) return at;
      const int64_t before = shape.time_of(at.step - 1, place.direction);
      at.alive_before = shape.rows_at(before);
      at.output_before = shape.step_offset(my.output, before);
      return at;
    };
    const auto load_saved = [&](const At& now, int piece, Saved& saved) {
      const int64_t step = now.step, row = place.first_row + place.row(piece);
      if constexpr (kVariant) {
        // Whether dL/dh0 of the step just done is that of a state that was set.
        saved.options.alive = false;
        saved.options.resets = step + 1 < shape.steps && place.exists(piece) && options.resets(step + 1, row);
        if (step < 0) return;
      }
      if (!place.exists(piece) || row >= now.alive) return;
      if constexpr (kVariant) {
        if (!options.alive(step, row)) return;
        saved.options.alive = true;
        saved.options.update = options.update(step, row, unit);
        saved.h = narrow<Scalar>(options.state_before(step, row, unit, my.hx, my.output));
      } else {
        saved.h = row < now.alive_before ? *at<Scalar>(my.output, now.output_before, row, unit)
                                         : *at<Scalar>(my.hx, 0, row, unit);
      }
      const Scalar* const gates = at<Scalar>(my.gates, now.gates, row, unit);
      GRU_FUSED_UNROLL
      for (int i = 0; i < 4; ++i) saved.gates[i] = gates[i * H];
      saved.grad = my.grad_output.data ? *at<Scalar>(my.grad_output, now.grad_output, row, unit)
                                       : narrow<Scalar>(Value(0));
    };

    Saved ahead[kAhead] = {};
    place.for_own_pieces(ahead, [&](int piece, Saved* kept) {
      if (kept) load_saved(place_of(0), piece, *kept);
    });

    for (int64_t back = 0; back <= shape.steps; ++back) {
      const bool last = back == shape.steps;  // what is left is dL/dhx
      const At now = place_of(back), next = place_of(back + 1);
      const int parity = int(back % 2);
      const uint32_t* const operand = exchange.wait(back);
      place.multiply(weights, operand, parity, Exchanging::kBarrierAfterProducts);
      place.for_own_pieces(ahead, [&](int piece, Saved* kept) {
        Saved saved;
        if (kept)
          saved = *kept;
        else if (kVariant || !last)
          load_saved(now, piece, saved);
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
        const int64_t row = place.first_row + place.row(piece);
        const bool present = place.exists(piece) && row < now.alive;
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
        if (kept && back + 1 < shape.steps + kVariant) load_saved(next, piece, *kept);
        if (!present) return;
        Scalar* const to = at<Scalar>(my.grads, now.grads, row, unit);
        to[0] = narrow<Scalar>(grads.nr);
        to[H] = narrow<Scalar>(grads.r);
        to[2 * H] = narrow<Scalar>(grads.z);
        to[3 * H] = narrow<Scalar>(grads.n);
        if constexpr (kVariant) {
          if (my.grad_update.data)
            *at<Scalar>(my.grad_update, shape.step_offset(my.grad_update, shape.time_of(now.step, place.direction)), row,
                        unit) =
                narrow<Scalar>(grads.update);
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

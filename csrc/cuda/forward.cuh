// The forward of a layer's time steps in one launch, W_hh held still. With a VariantForwardLoop, of a variant of the
// cell: what is sent after a step is the next step's h0, which a reset may set, times the mask of dropout.
#pragma once

#include "cursor.cuh"
#include "exchange.cuh"

namespace gru_fused::cuda {

template <class Form, template <class, bool> class ExchangeOf, class AnyLoop = ForwardLoop>
__global__ void __launch_bounds__(kMaxWarps* kWarp, 1) forward_loop(const __grid_constant__ AnyLoop loop) {
  using Scalar = typename Form::Scalar;
  using Value = typename Form::Value;
  using Exchanging = ExchangeOf<Form, false>;
  constexpr int kAhead =
      sizeof(Scalar) == 8 ? 2 : 4;  // pieces whose inputs a warp asks for a step ahead: all, in most plans
  constexpr bool kVariant = AnyLoop::kVariant;
  GRU_FUSED_DYNAMIC_SHARED(shared);
  if constexpr (!Exchanging::kNeedsClusters || arch::kHasClusters) {
    const Shape& shape = loop.shape;
    const Place<Form, false> place(loop, shared, Exchanging::kExchange);
    const auto& my = loop.direction[place.direction];
    const auto options = options_of<Scalar, Value>(loop, place.direction);
    const int64_t H = shape.hidden, unit = place.unit();
    Exchanging exchange(place, loop.exchange, int(shape.steps));

    HeldWeights<Form::kTraits.held> weights;
    place.load(weights, my.w_hh, H);

    // b_ih + b_hh of r and z; b_ih of n; b_hh of n.
    Value bias[4] = {};
    if (unit < H && my.b_ih) {
      const auto number = [&](const void* from, int gate) {
        return widen<Value>(static_cast<const Scalar*>(from)[gate * H + unit]);
      };
      bias[0] = number(my.b_ih, 0) + number(my.b_hh, 0);
      bias[1] = number(my.b_ih, 1) + number(my.b_hh, 1);
      bias[2] = number(my.b_ih, 2);
      bias[3] = number(my.b_hh, 2);
    }

    // The state before the first step, of a row of the batch.
    const auto first_state = [&](int64_t row, int of_unit) {
      if constexpr (kVariant) {
        if (options.resets(0, row)) return options.reset_state(row, of_unit);
      }
      return widen<Value>(*at<Scalar>(my.hx, 0, row, of_unit));
    };
    const auto mask = [&](int64_t row, int of_unit) {
      if constexpr (kVariant)
        return options.dropout(row, of_unit);
      else
        return Value(1);
    };
    // Every CTA reads the whole of hx; the rows and units that there are not stay zero in every operand.
    fill_operands(place, Exchanging::kExchange, [&](int row, int of_unit) {
      return row < place.valid_rows && of_unit < H
                 ? first_state(place.first_row + row, of_unit) * mask(place.first_row + row, of_unit)
                 : Value(0);
    });
    place.for_own_pieces([&](int piece) {
      const int64_t row = place.first_row + place.row(piece);
      place.state(piece) = place.exists(piece) ? first_state(row, int(unit)) : Value(0);
      if constexpr (kVariant) place.dropout(piece) = place.exists(piece) ? options.dropout(row, unit) : Value(0);
    });
    exchange.start();

    struct Inputs {
      Scalar gate[kGates];  // widened when they are used: before, that would be a wait for memory
      OptionsAhead<Value, kVariant> options;
    };
    const Times<false> times(place, shape);
    const auto input_of = cursor<Scalar>(place, shape, my.inputs);
    const auto output_of = cursor<Scalar>(place, shape, my.output), gates_of = cursor<Scalar>(place, shape, my.gates);
    const bool saves = arch::kept(int(my.gates.data != nullptr)), of_layer = place.lane % kGroup < place.units_left;
    const int hidden = arch::kept(int(H));
    const auto load_inputs = [&](int step, const At& here, int piece, int i, Inputs& inputs) {
      [[maybe_unused]] const int64_t row = place.first_row + place.row(piece);
      if constexpr (kVariant) inputs.options.alive = inputs.options.resets = false;
      if (!of_layer || place.row(piece) >= here.alive) return;
      if constexpr (kVariant) {
        if (!options.alive(step, row)) return;
        inputs.options.alive = true;
        inputs.options.resets = step + 1 < shape.steps && options.resets(step + 1, row);
        inputs.options.update = options.update(step, row, unit);
      }
      const Scalar* const from = input_of.at(here.index, i);
      GRU_FUSED_UNROLL
      for (int gate = 0; gate < kGates; ++gate) inputs.gate[gate] = from[gate * hidden];
    };

    Inputs ahead[kAhead] = {};
    At next = times.of(0);
    place.for_own_pieces(ahead, [&](int piece, int i, Inputs* kept) {
      if (kept) load_inputs(0, next, piece, i, *kept);
    });

    for (int step = 0; step < times.steps; ++step) {
      const At now = next;
      next = times.of(step + 1);
      const int parity = step % 2;
      const uint32_t* const operand = exchange.wait(step);
      place.multiply(weights, operand, parity, Exchanging::kBarrierAfterProducts);
      place.for_own_pieces(ahead, [&](int piece, int i, Inputs* kept) {
        Inputs inputs;
        if (kept)
          inputs = *kept;
        else
          load_inputs(step, now, piece, i, inputs);
        Value products[kGates];
        place.collect(parity, piece, products);
        [[maybe_unused]] const int64_t row = place.first_row + place.row(piece);
        const bool present = of_layer && place.row(piece) < now.alive;
        bool is_alive = present;
        if constexpr (kVariant) is_alive = present && inputs.options.alive;
        Value h = place.state(piece);
        auto stepped = cell_step<typename Form::Math>(loop, widen<Value>(inputs.gate[0]), widen<Value>(inputs.gate[1]),
                                                      widen<Value>(inputs.gate[2]) + bias[2], products[0] + bias[0],
                                                      products[1] + bias[1], products[2] + bias[3], h, inputs.options);
        if (is_alive) place.state(piece) = h = stepped.h;
        if (step + 1 < times.steps) {
          if constexpr (kVariant) {
            if (inputs.options.resets) place.state(piece) = options.reset_state(row, unit);
            send_piece(place, exchange, step + 1, piece, 0, place.state(piece) * place.dropout(piece));
          } else {
            send_piece(place, exchange, step + 1, piece, 0, h);
          }
          if (kept) load_inputs(step + 1, next, piece, i, *kept);
        }
        if (!present) return;
        if (kVariant && !is_alive) stepped = {};  // the output past a row's length, and its gates
        *output_of.at(now.index, i) = narrow<Scalar>(stepped.h);
        if (!saves) return;
        Scalar* const saved = gates_of.at(now.index, i);
        saved[0] = narrow<Scalar>(stepped.gates.r);
        saved[hidden] = narrow<Scalar>(stepped.gates.z);
        saved[2 * hidden] = narrow<Scalar>(stepped.gates.n);
        saved[3 * hidden] = narrow<Scalar>(stepped.gates.gh_n);
      });
      if (step + 1 < times.steps) exchange.sent(step + 1);
    }

    place.for_own_pieces([&](int piece) {
      if (place.exists(piece))
        *at<Scalar>(my.h_n, 0, place.first_row + place.row(piece), unit) = narrow<Scalar>(place.state(piece));
    });
    exchange.end();
  }
}

}  // namespace gru_fused::cuda

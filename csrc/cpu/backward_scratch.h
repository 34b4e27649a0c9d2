// Where the parts of a backward's scratch memory begin, in elements of the accumulating type.
#pragma once

#include "gates.h"
#include "team.h"

namespace gru_fused {
namespace {

struct BackwardScratch {
  GateWeightsScratch gates;              // to recompute
  int64_t padded, state_row, input_row;  // H to full vectors; H and I to full panels
  int64_t gate, depth;  // factors from one block of gate gradients to the next, and of a product with it
  int64_t panel_rows;   // rows of x and states in panels: of a chunk, or pairs of them
  int64_t w_ih, w_hh, gate_weights, direction;                            // packed weights
  int64_t gi, gh;                                                         // of a piece, to recompute
  int64_t grad_h, product, grads, x_panels, h_panels, grad_x, bias_sums;  // of a piece
  int64_t grad_w_ih, grad_w_hh;  // of a piece, unless it writes its result directly
  int64_t turned;                // of a piece: gate gradients, for tiles
  int64_t sums;                  // how many numbers for each unit are summed over all rows, for the biases
  int64_t more;                  // of a piece: what `Steps` of Backward wants beside all this
  int64_t piece, teams, total;

  BackwardScratch(const Shape& shape, const cpu::Plan& plan, int64_t lanes, int terms, bool direct, bool recompute,
                  int64_t sums = 4, int64_t more = 0)
      : gates(shape, plan, lanes, terms), sums(sums), more(more) {
    constexpr int64_t line = 64 / sizeof(float);
    const int64_t width = 3 * lanes, hidden = shape.hidden, inputs = shape.inputs;
    padded = round_up(hidden, lanes);
    state_row = round_up(hidden, width);
    input_row = round_up(inputs, width);
    const bool tiles = tiled(terms);
    gate = tiles ? factors_in(hidden, terms) : padded;
    depth = tiles ? gate : hidden;
    w_ih = plan.packed ? 3 * depth * input_row : 0;
    w_hh = plan.packed ? 3 * depth * state_row : 0;
    gate_weights = recompute ? gates.total : 0;
    direction = round_up(w_ih, line) + round_up(w_hh, line) + gate_weights;
    const int64_t chunk = plan.chunk_rows();
    gi = recompute ? round_up(chunk * 3 * padded, line) : 0;
    gh = plan.packed ? 0 : gi;
    grad_h = round_up(plan.tile_rows * state_row, line);
    product = plan.packed ? 0 : grad_h;
    grads = round_up(chunk * 4 * gate + kTileSlack, line);
    panel_rows = tiles ? factors_in(chunk, terms) : chunk;
    x_panels = panel_rows * input_row;
    h_panels = panel_rows * state_row;
    turned = tiles ? plan.team * 2 * kTileRows * panel_rows : 0;
    grad_x = chunk * input_row;
    bias_sums = 3 * sums * padded;
    grad_w_ih = direct ? 0 : round_up(3 * hidden * inputs, line);
    grad_w_hh = direct ? 0 : round_up(3 * hidden * hidden, line);
    piece = round_up(gi + gh + grad_h + product + grads + x_panels + h_panels + grad_x + bias_sums + grad_w_ih +
                         grad_w_hh + turned + more,
                     line);
    teams = shape.directions * direction + plan.pieces(shape) * piece;
    total = teams + plan.pieces(shape) * int64_t(sizeof(Team) / sizeof(float));
  }
};

}  // namespace
}  // namespace gru_fused

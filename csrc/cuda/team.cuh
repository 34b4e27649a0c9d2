// A thread's place in its team, and the products that its warp computes there.
#pragma once

#include "loop.h"
#include "product.cuh"
#include "variant.cuh"

namespace gru_fused::cuda {

// The weights of one warp: its group's units, its split's inputs, three gates.
template <int kHeld>
struct HeldWeights {
  uint4 held[kHeld][kGates];
  uint4* beyond;  // in shared memory, of this lane: [step][gate], kWarp apart
  int first = 0, count = 0;
};

template <class Form, bool kBackward>
struct Place {
  using Value = typename Form::Value;
  static constexpr int kHeld = Form::kTraits.held, kRows = Form::kTraits.rows, kSums = Form::kSums;
  static constexpr int kOutputs = kBackward ? 1 : kGates;  // sums that a product ends in
  static constexpr int kTileSums = kRows * kSumStride;

  const Cut cut;
  const Layout layout;
  char* const shared;
  int threads, thread, lane, warp;
  int group, split;  // of this CTA; of the group
  int rank, team, direction;
  int first_unit;     // of the group in the layer
  bool live;          // whether the layer has such a group
  int64_t first_row;  // of the team in the batch
  int valid_rows;     // of the team
  int tiles, pieces;  // of this group, that have such rows
  int units_left;     // of the layer, from the group's first on
  // What the loop needs of the cut and the layout, kept in registers: a step has no time to read them again.
  int splits, row_words, gate_words;
  int sums, sums_of_split, sums_of_tile, sums_of_parity;  // in Values; the first: where this group's begin
  int states, states_of_piece;                            // in Values; the first: this lane's first

  template <class AnyLoop>
  __device__ __forceinline__ Place(const AnyLoop& loop, char* shared, Exchange exchange)
      : cut(loop.cut),
        layout(layout_of(Form::kArithmetic, exchange, kBackward, loop.cut, AnyLoop::kVariant)),
        shared(shared) {
    threads = int(blockDim.x);
    thread = arch::kept(int(threadIdx.x));
    lane = thread % kWarp;
    warp = __shfl_sync(0xffffffffu, thread / kWarp, 0);  // the same in all lanes, and the compiler may know it
    splits = arch::kept(cut.splits);
    group = warp / splits;
    split = warp % splits;
    rank = int(blockIdx.x) % cut.ctas;
    team = int(blockIdx.x) / cut.ctas + loop.first_team;
    direction = team / loop.row_teams;
    const int group_of_layer = rank * cut.groups_per_cta + group;
    first_unit = group_of_layer * kGroup;
    live = group_of_layer < cut.groups;
    units_left = loop.shape.hidden - first_unit < kGroup ? int(loop.shape.hidden - first_unit) : kGroup;
    const int64_t rows = int64_t(cut.tiles) * kRows;
    first_row = team % loop.row_teams * rows;
    valid_rows = arch::kept(int(loop.shape.batch - first_row < rows ? loop.shape.batch - first_row : rows));
    tiles = live ? (valid_rows + kRows - 1) / kRows : 0;
    pieces = live ? (valid_rows + kPieceRows - 1) / kPieceRows : 0;
    row_words = arch::kept(layout.row_words);
    gate_words = arch::kept(layout.operand_words / (kBackward ? kGates : 1));
    sums = arch::kept(int(layout.partials / sizeof(Value)) + group * kOutputs * kTileSums);
    sums_of_split = arch::kept(cut.groups_per_cta * kOutputs * kTileSums);
    sums_of_tile = arch::kept(splits * sums_of_split);
    sums_of_parity = arch::kept(cut.tiles * sums_of_tile);
    states = arch::kept(int(layout.state / sizeof(Value)) + group * kWarp + lane);
    states_of_piece = arch::kept(cut.groups_per_cta * kWarp);
  }

  // Of a piece, this lane has one unit of one row of the team.
  __device__ __forceinline__ int unit() const { return first_unit + lane % kGroup; }
  __device__ __forceinline__ int row(int piece) const { return piece * kPieceRows + lane / kGroup; }
  __device__ __forceinline__ bool exists(int piece) const {
    return row(piece) < valid_rows && lane % kGroup < units_left;
  }

  __device__ __forceinline__ uint32_t* operand(int buffer) const {
    return reinterpret_cast<uint32_t*>(shared + layout.operand) + buffer * cut.tiles * kRows * layout.row_words;
  }

  // What this thread remembers of its units from step to step.
  __device__ __forceinline__ Value& state(int piece) const {
    return reinterpret_cast<Value*>(shared)[states + piece * states_of_piece];
  }
  // And with a variant: the mask of recurrent dropout; the sum of the gradients of the state that resets set.
  __device__ __forceinline__ Value& dropout(int piece) const {
    return reinterpret_cast<Value*>(shared + layout.dropout - layout.state)[states + piece * states_of_piece];
  }
  __device__ __forceinline__ Value& reset_grad(int piece) const {
    return reinterpret_cast<Value*>(shared + layout.reset_grad - layout.state)[states + piece * states_of_piece];
  }

  // Sums of one tile by one split of this group: [output][row][kSumStride].
  __device__ __forceinline__ Value* partial(int parity, int tile, int of_split) const {
    return reinterpret_cast<Value*>(shared) + sums + parity * sums_of_parity + tile * sums_of_tile +
           of_split * sums_of_split;
  }

  // Of W_hh [3H, H], or in the backward of its transposed gates; 0 beyond their ends.
  __device__ __forceinline__ void load(HeldWeights<kHeld>& weights, const Rows<const void>& w_hh, int64_t H) const {
    using Scalar = typename Form::Scalar;
    const int beyond = cut.steps_per_warp > kHeld ? cut.steps_per_warp - kHeld : 0;
    weights.beyond = reinterpret_cast<uint4*>(shared + layout.weights) + int64_t(warp) * beyond * kGates * kWarp + lane;
    weights.first = split * cut.steps_per_warp;
    const int left = cut.steps - weights.first;
    weights.count = left < cut.steps_per_warp ? left : cut.steps_per_warp;
    // From the lane's first unit and input on all is small numbers: a load is then hardly more than a load.
    const int64_t of_unit = kBackward ? 1 : w_hh.row, of_input = kBackward ? w_hh.row : 1, of_gate = H * w_hh.row;
    const int64_t unit = first_unit + Form::first_unit(lane);
    const int64_t input = int64_t(weights.first) * Form::kTraits.step + Form::first_input(lane);
    const int units = int(H - unit), inputs = int(H - input);
    const Scalar* const first = at<Scalar>(w_hh, 0, 0, unit * of_unit + input * of_input);
    const auto fragment = [&](int step, int gate) {
      const Scalar* const from = first + gate * of_gate + step * Form::kTraits.step * of_input;
      return Form::fragment([&](int unit, int input) {
        const bool exists = unit < units && step * Form::kTraits.step + input < inputs;
        return exists ? from[unit * of_unit + input * of_input] : narrow<Scalar>(0.f);
      });
    };
    GRU_FUSED_UNROLL
    for (int step = 0; step < kHeld; ++step) {
      if (step >= weights.count) break;
      GRU_FUSED_UNROLL
      for (int gate = 0; gate < kGates; ++gate) weights.held[step][gate] = fragment(step, gate);
    }
    for (int step = kHeld; step < weights.count; ++step)
      for (int gate = 0; gate < kGates; ++gate)
        weights.beyond[((step - kHeld) * kGates + gate) * kWarp] = fragment(step, gate);
  }

  // The warp's part of the products with one tile: in the forward three gates of one state, in the backward one sum
  // over the gradients of three gates.
  __device__ __forceinline__ void multiply(const HeldWeights<kHeld>& weights, const uint32_t* operand, int tile,
                                           Value* to) const {
    using Operand = typename Form::Operand;
    constexpr int kChunk = kBackward ? Form::kChunkBackward : Form::kChunk, kOperands = kBackward ? kGates : 1;
    Value sums[kGates][kSums] = {};
    const uint32_t* const rows = operand + tile * kRows * row_words + weights.first * Form::kStepWords;
    const auto read = [&](int step, Operand(&operands)[kOperands]) {
      GRU_FUSED_UNROLL
      for (int gate = 0; gate < kOperands; ++gate)
        operands[gate] = Form::operand(rows + step * Form::kStepWords + gate * gate_words, row_words, lane);
    };
    const auto multiply = [&](const uint4& r, const uint4& z, const uint4& n, const Operand(&operands)[kOperands]) {
      Form::multiply(sums[0], r, operands[0]);
      Form::multiply(sums[1], z, operands[kBackward ? 1 : 0]);
      Form::multiply(sums[2], n, operands[kBackward ? 2 : 0]);
    };
    GRU_FUSED_UNROLL
    for (int chunk = 0; chunk < kHeld; chunk += kChunk) {
      if (chunk > 0 && chunk >= weights.count) break;  // a warp has at least one
      Operand operands[kChunk][kOperands];
      GRU_FUSED_UNROLL
      for (int s = chunk; s < kHeld && s < chunk + kChunk; ++s)
        if (s == 0 || s < weights.count) read(s, operands[s - chunk]);
      GRU_FUSED_UNROLL
      for (int s = chunk; s < kHeld && s < chunk + kChunk; ++s)
        if (s == 0 || s < weights.count)
          multiply(weights.held[s][0], weights.held[s][1], weights.held[s][2], operands[s - chunk]);
    }
    for (int s = kHeld; s < weights.count; ++s) {
      const uint4* const shared_weights = weights.beyond + (s - kHeld) * kGates * kWarp;
      Operand operands[kOperands];
      read(s, operands);
      multiply(shared_weights[0], shared_weights[kWarp], shared_weights[2 * kWarp], operands);
    }
    if constexpr (kBackward) {
      GRU_FUSED_UNROLL
      for (int i = 0; i < kSums; ++i) sums[0][i] += sums[1][i] + sums[2][i];
    }
    GRU_FUSED_UNROLL
    for (int output = 0; output < kOutputs; ++output) Form::leave(sums[output], to + output * kTileSums, lane);
  }

  // One step's products of the team's rows, left where any warp of the group finds them. Double-buffered: one barrier
  // a step is enough.
  __device__ __forceinline__ void multiply(const HeldWeights<kHeld>& weights, const uint32_t* operand, int parity,
                                           bool barrier) const {
    for (int tile = 0; tile < tiles; ++tile) multiply(weights, operand, tile, partial(parity, tile, split));
    if (splits > 1 || barrier)
      __syncthreads();
    else
      __syncwarp();  // what a warp sends after this shows that all of its lanes have read their operand
  }

  // A piece's sums over all splits, in the splits' order: the same for every piece and every run.
  __device__ __forceinline__ void collect(int parity, int piece, Value (&sums)[kOutputs]) const {
    const Value* const from = partial(parity, piece * kPieceRows / kRows, 0) +
                              (piece * kPieceRows % kRows + lane / kGroup) * kSumStride + lane % kGroup;
    GRU_FUSED_UNROLL
    for (int output = 0; output < kOutputs; ++output) sums[output] = 0;
    constexpr int kAtOnce = kMaxWarps / 2;
    GRU_FUSED_UNROLL
    for (int first = 0; first < kMaxWarps; first += kAtOnce) {
      if (first > 0 && first >= splits) break;
      Value of_split[kAtOnce][kOutputs];  // all asked for before the first is added
      GRU_FUSED_UNROLL
      for (int s = 0; s < kAtOnce; ++s) GRU_FUSED_UNROLL
      for (int output = 0; output < kOutputs; ++output)
        of_split[s][output] =
            first + s == 0 || first + s < splits ? from[(first + s) * sums_of_split + output * kTileSums] : Value(0);
      GRU_FUSED_UNROLL
      for (int s = 0; s < kAtOnce; ++s) GRU_FUSED_UNROLL
      for (int output = 0; output < kOutputs; ++output) sums[output] += of_split[s][output];
    }
  }

  // Calls visit(piece) for the pieces that this warp finishes.
  template <class Visit>
  __device__ __forceinline__ void for_own_pieces(const Visit& visit) const {
    for (int piece = split; piece < pieces; piece += splits) visit(piece);
  }
  // The same, visit(piece, i, ahead) for the i-th of them, with what is kept for the first few from step to step and
  // null for the others. Most warps have one.
  template <int kAhead, class Ahead, class Visit>
  __device__ __forceinline__ void for_own_pieces(Ahead (&ahead)[kAhead], const Visit& visit) const {
    if (split >= pieces) return;
    visit(split, 0, &ahead[0]);
    if (split + splits >= pieces) return;
    GRU_FUSED_UNROLL
    for (int i = 1; i < kAhead; ++i)
      if (split + i * splits < pieces) visit(split + i * splits, i, &ahead[i]);
    GRU_FUSED_NO_UNROLL
    for (int i = kAhead; split + i * splits < pieces; ++i) visit(split + i * splits, i, static_cast<Ahead*>(nullptr));
  }
};

}  // namespace gru_fused::cuda

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
  int64_t hidden;

  template <class AnyLoop>
  __device__ __forceinline__ Place(const AnyLoop& loop, char* shared, Exchange exchange)
      : cut(loop.cut),
        layout(layout_of(Form::kArithmetic, exchange, kBackward, loop.cut, AnyLoop::kVariant)),
        shared(shared) {
    threads = int(blockDim.x);
    thread = int(threadIdx.x);
    lane = thread % kWarp;
    warp = thread / kWarp;
    group = warp / cut.splits;
    split = warp % cut.splits;
    rank = int(blockIdx.x) % cut.ctas;
    team = int(blockIdx.x) / cut.ctas;
    direction = team / loop.row_teams;
    const int group_of_layer = rank * cut.groups_per_cta + group;
    first_unit = group_of_layer * kGroup;
    live = group_of_layer < cut.groups;
    hidden = loop.shape.hidden;
    const int64_t rows = int64_t(cut.tiles) * kRows;
    first_row = team % loop.row_teams * rows;
    valid_rows = int(loop.shape.batch - first_row < rows ? loop.shape.batch - first_row : rows);
    tiles = live ? (valid_rows + kRows - 1) / kRows : 0;
    pieces = live ? (valid_rows + kPieceRows - 1) / kPieceRows : 0;
  }

  // Of a piece, this lane has one unit of one row of the team.
  __device__ __forceinline__ int unit() const { return first_unit + lane % kGroup; }
  __device__ __forceinline__ int row(int piece) const { return piece * kPieceRows + lane / kGroup; }
  __device__ __forceinline__ bool exists(int piece) const { return row(piece) < valid_rows && unit() < hidden; }

  __device__ __forceinline__ uint32_t* operand(int buffer) const {
    return reinterpret_cast<uint32_t*>(shared + layout.operand) +
           int64_t(buffer) * cut.tiles * kRows * layout.row_words;
  }

  // What this thread remembers of its units from step to step.
  __device__ __forceinline__ Value& state(int piece) const {
    return reinterpret_cast<Value*>(shared + layout.state)[own(piece)];
  }
  // And with a variant: the mask of recurrent dropout; the sum of the gradients of the state that resets set.
  __device__ __forceinline__ Value& dropout(int piece) const {
    return reinterpret_cast<Value*>(shared + layout.dropout)[own(piece)];
  }
  __device__ __forceinline__ Value& reset_grad(int piece) const {
    return reinterpret_cast<Value*>(shared + layout.reset_grad)[own(piece)];
  }

  __device__ __forceinline__ Value* partial(int parity, int tile, int of_split) const {
    const int index = ((parity * cut.tiles + tile) * cut.splits + of_split) * cut.groups_per_cta + group;
    return reinterpret_cast<Value*>(shared + layout.partials) + index * kOutputs * kTileSums;
  }

  // weight(gate, unit, input) of the layer; beyond its ends: 0.
  template <class Weight>
  __device__ __forceinline__ void load(HeldWeights<kHeld>& weights, const Weight& weight) const {
    const int beyond = cut.steps_per_warp > kHeld ? cut.steps_per_warp - kHeld : 0;
    weights.beyond = reinterpret_cast<uint4*>(shared + layout.weights) + int64_t(warp) * beyond * kGates * kWarp + lane;
    weights.first = split * cut.steps_per_warp;
    const int left = cut.steps - weights.first;
    weights.count = left < cut.steps_per_warp ? left : cut.steps_per_warp;
    const auto fragment = [&](int step, int gate) {
      return Form::fragment(lane, [&](int unit, int input) {
        return weight(gate, first_unit + unit, (weights.first + step) * Form::kTraits.step + input);
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
    Value sums[kGates][kSums] = {};
    const uint32_t* const rows = operand + tile * kRows * layout.row_words + weights.first * Form::kStepWords;
    const int gate_words = layout.operand_words / kGates;
    const auto step = [&](int step, const uint4& r, const uint4& z, const uint4& n) {
      const uint32_t* const at = rows + step * Form::kStepWords;
      const auto of_gate = [&](int gate) { return Form::operand(at + gate * gate_words, layout.row_words, lane); };
      if constexpr (kBackward) {
        Form::multiply(sums[0], r, of_gate(0));
        Form::multiply(sums[1], z, of_gate(1));
        Form::multiply(sums[2], n, of_gate(2));
      } else {
        const auto state = of_gate(0);
        Form::multiply(sums[0], r, state);
        Form::multiply(sums[1], z, state);
        Form::multiply(sums[2], n, state);
      }
    };
    GRU_FUSED_UNROLL
    for (int s = 0; s < kHeld; ++s)
      if (s < weights.count) step(s, weights.held[s][0], weights.held[s][1], weights.held[s][2]);
    for (int s = kHeld; s < weights.count; ++s) {
      const uint4* const shared_weights = weights.beyond + (s - kHeld) * kGates * kWarp;
      step(s, shared_weights[0], shared_weights[kWarp], shared_weights[2 * kWarp]);
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
    if (cut.splits > 1 || barrier)
      __syncthreads();
    else
      __syncwarp();  // what a warp sends after this shows that all of its lanes have read their operand
  }

  // A piece's sums over all splits, in the splits' order: the same for every piece and every run.
  __device__ __forceinline__ void collect(int parity, int piece, Value (&sums)[kOutputs]) const {
    const int team_row = row(piece), next = cut.groups_per_cta * kOutputs * kTileSums;
    const Value* const from =
        partial(parity, piece * kPieceRows / kRows, 0) + team_row % kRows * kSumStride + lane % kGroup;
    Value of_split[kMaxWarps][kOutputs];  // all asked for before the first is added
    GRU_FUSED_UNROLL
    for (int s = 0; s < kMaxWarps; ++s) GRU_FUSED_UNROLL
    for (int output = 0; output < kOutputs; ++output)
      of_split[s][output] = s < cut.splits ? from[s * next + output * kTileSums] : Value(0);
    GRU_FUSED_UNROLL
    for (int output = 0; output < kOutputs; ++output) {
      sums[output] = of_split[0][output];
      GRU_FUSED_UNROLL
      for (int s = 1; s < kMaxWarps; ++s) sums[output] += of_split[s][output];
    }
  }

  __device__ __forceinline__ int own(int piece) const {
    return (piece * cut.groups_per_cta + group) * kWarp + lane;
  }

  // Calls visit(piece) for the pieces that this warp finishes.
  template <class Visit>
  __device__ __forceinline__ void for_own_pieces(const Visit& visit) const {
    for (int piece = split; piece < pieces; piece += cut.splits) visit(piece);
  }
  // The same, with what is kept for the first of them from step to step; for the others with null.
  template <int kAhead, class Ahead, class Visit>
  __device__ __forceinline__ void for_own_pieces(Ahead (&ahead)[kAhead], const Visit& visit) const {
    GRU_FUSED_UNROLL
    for (int i = 0; i < kAhead; ++i)
      if (split + i * cut.splits < pieces) visit(split + i * cut.splits, &ahead[i]);
    for (int piece = split + kAhead * cut.splits; piece < pieces; piece += cut.splits)
      visit(piece, static_cast<Ahead*>(nullptr));
  }
};

}  // namespace gru_fused::cuda

// Which kernel computes a layer's time steps on a CUDA device, and how its work is cut: a pure function of the device,
// the shape and the dtype. It needs no CUDA toolkit, so that it can be printed and tested anywhere.
//
// A team of CTAs holds W_hh of one direction still, in registers and shared memory, and walks through time with some
// rows of the batch. What differs is how the members of a team hand each other the state at each step:
//
//   row       a team is one CTA with one row of the batch, whose threads' registers hold all of W_hh in float32
//   block     a team is one CTA: through its shared memory
//   cluster   the CTAs of a thread-block cluster write into each other's shared memory (sm_90 and newer)
//   grid      CTAs anywhere on the device, all resident at once: through global memory, in packets that carry
//             their step's number, or in plain words behind a counter ("flags"). Teams that the device has no room
//             for are launched after the others
//   single    no team, but for a sequence of one step that few rows take: kernels that make all products too, those
//   with
//             x and the weights' gradients
//   steps     no team: W_hh can't be held still, or is used by so many rows that it needn't be. A matrix product
//             and a kernel of the gates for each step
//
// Inside a CTA, a warp computes the products of one group of 16 units with a part of their inputs; the warps of a
// group are its splits. One fragment is what a warp multiplies at once: 16 units of one gate by a few inputs. What the
// products end in goes through shared memory, and the warps of a group share out what is left of the step in pieces:
// 16 units of two batch rows, one a lane. A step is a chain, so that what counts is how few instructions a lane has.
#pragma once

#include <cstdint>
#include <string>

#include "../gru_params.h"

namespace gru_fused::cuda {

constexpr int kGroup = 16;           // units of a group
constexpr int kWarp = 32;            // lanes
constexpr int kMaxWarps = 8;         // of a CTA: 255 registers are left to a thread
constexpr int kFragmentBytes = 512;  // 16 bytes a lane
constexpr int kGates = 3;
constexpr int kPieceRows = kWarp / kGroup;
constexpr int kTimes = 64;  // steps of a packed batch whose places in the arrays lie in shared memory
// A row's CTA has four threads for each of its units, which are a multiple of 32: at 128 units W_hh takes 96 of a
// thread's 128 registers.
constexpr int kRowLanes = 4, kRowUnits = 32, kMaxRowUnits = 128;
constexpr int kRowChunk = 32;  // inputs whose weights come by at once
// From one batch row of a tile's sums to the next: neither writing nor reading them meets a bank more than twice.
constexpr int kSumStride = kGroup + 4;

// How products are computed. The tensor cores' forms round the state and the weights to their operands' type.
enum class Arithmetic { f32, f64, tf32, bf16, f16 };

enum class Regime { block, cluster, grid, steps, row, single };
enum class Exchange { block, cluster, packets, flags, row };

struct Traits {
  int step;           // inputs that a fragment spans
  int rows;           // batch rows that it is multiplied with at once: a tile
  int operand_bytes;  // of one state or gradient, as the products read it
  int value_bytes;    // of a sum
  int held;           // fragments of each gate that a warp holds in registers; the rest: shared memory
};

// A variant of the cell needs a few of the registers for its options.
GRU_FUSED_HD constexpr Traits traits_of(Arithmetic arithmetic, bool variant = false) {
  switch (arithmetic) {
    case Arithmetic::f32:
      return {8, 4, 4, 4, 4};
    case Arithmetic::f64:
      return {4, 4, 8, 8, 4};
    case Arithmetic::tf32:
      return {8, 8, 4, 4, variant ? 7 : 10};
    case Arithmetic::bf16:
    case Arithmetic::f16:
      break;
  }
  return {16, 8, 2, 4, variant ? 8 : 10};
}

struct Device {
  int arch = 0;  // 90: compute capability 9.0
  int sms = 0;
  int64_t shared_bytes = 0;  // that a CTA can ask for
  int max_cluster = 1;       // CTAs; 1: no clusters
  bool cooperative = false;  // whether a grid can be launched resident as a whole
  int index = 0;             // CUDA's number of it

  bool operator==(const Device&) const = default;
};

constexpr int kPortableCluster = 8;

// What a device of its compute capability has: clusters of 8 from sm_90 on, and where it is asked for, of 16 on those
// of data centres.
Device make_device(int arch, int sms, int64_t shared_bytes, bool cooperative);

struct Problem {
  Arithmetic arithmetic = Arithmetic::f32;
  int64_t batch = 0, hidden = 0;
  int directions = 1;
  bool backward = false;
  bool variant = false;  // of the cell: variant_cell.h
  int64_t steps = 0;     // of the sequence; 0: many
  int64_t inputs = -1;   // of a single step; -1: as many as units

  bool operator==(const Problem&) const = default;
};

// How one team's work is cut. Goes to the kernel by value.
struct Cut {
  int groups = 0;          // of the layer: H / 16, rounded up
  int ctas = 0;            // of a team
  int groups_per_cta = 0;  // the last CTA may have fewer
  int splits = 0;          // warps of a group
  int steps = 0;           // fragments of a gate, over all splits
  int steps_per_warp = 0;
  int tiles = 0;  // of batch rows

  GRU_FUSED_HD int warps() const { return groups_per_cta * splits; }
  GRU_FUSED_HD int units() const { return groups * kGroup; }  // H, rounded up
};

struct Plan {
  Regime regime = Regime::steps;
  Exchange exchange = Exchange::block;
  Arithmetic arithmetic = Arithmetic::f32;
  bool backward = false, variant = false;
  int64_t batch = 0, steps = 0;
  Cut cut;
  int row_teams = 0;  // teams of one direction: they share out the batch
  int teams = 0;
  int teams_at_once = 0;          // of a launch
  int64_t shared_bytes = 0;       // of a CTA
  double step_nanoseconds = 0.0;  // an estimate, see plan.cpp; never a measurement

  int threads() const { return cut.warps() * kWarp; }
  int64_t rows() const {
    return regime == Regime::row ? 1 : int64_t(cut.tiles) * traits_of(arithmetic).rows;
  }  // of a team
};

// Which regimes may be chosen: one that turns out not to be resident is asked for no more. A cut can be fixed, for
// measurements.
struct Allowed {
  bool block = true, cluster = true, packets = true, flags = true, steps = true, row = true, single = true;
  int groups_per_cta = 0, tiles = 0;  // 0: any

  bool operator==(const Allowed&) const = default;
};

Plan make_plan(const Device& device, const Problem& problem, const Allowed& allowed = {});
std::string describe(const Device& device, const Problem& problem, const Plan& plan);

// Shared memory of a CTA, in bytes from its beginning.
struct Layout {
  int row_words;                // from one row of the operand to the next, in 32-bit words
  int operand_words;            // of a row, without padding
  int64_t times;                // [kTimes]: At
  int64_t operand;              // [buffers][rows] rows
  int64_t partials;             // sums of each split: [2][tile][split][group][gate][row][kSumStride]
  int64_t state;                // of the units that this CTA owns: [piece][group][lane]
  int64_t weights;              // fragments beyond the registers': [warp][step][gate][lane]
  int64_t dropout, reset_grad;  // of a variant, as state; the second in the backward
  int64_t bytes;
};

// Of a CTA of one row: the places of packed steps, its two operands, and where W_hh comes by.
constexpr int kRowPlaces = 2 * kTimes;
constexpr int64_t kRowOperands = kRowPlaces * 4;
GRU_FUSED_HD constexpr int row_staged_width(int units, bool backward) {
  return backward ? units + 4 : units;  // 16 bytes of 8 rows then meet no bank twice
}
GRU_FUSED_HD constexpr int64_t row_shared_bytes(int units, bool backward) {
  const int operands = 2 * (backward ? kGates : 1);
  return kRowOperands + (operands * units + kGates * kRowChunk * row_staged_width(units, backward)) * int64_t(4);
}

GRU_FUSED_HD int operand_buffers(Exchange exchange) {
  return exchange == Exchange::block || exchange == Exchange::cluster ? 2 : 1;
}

GRU_FUSED_HD Layout layout_of(Arithmetic arithmetic, Exchange exchange, bool backward, const Cut& cut,
                              bool variant = false) {
  const Traits traits = traits_of(arithmetic, variant);
  const auto aligned = [](int64_t bytes) { return (bytes + 15) / 16 * 16; };
  Layout layout{};
  // The backward multiplies with the gradients of three gates, the forward with one state.
  layout.operand_words = (backward ? kGates : 1) * cut.units() * traits.operand_bytes / 4;
  // 8 words past a multiple of 32: the eight rows that a warp reads at once, 8 bytes a lane, meet no bank twice.
  layout.row_words = (layout.operand_words + 31) / 32 * 32 + 8;
  const int64_t rows = int64_t(cut.tiles) * traits.rows;
  const int64_t sums = rows * cut.groups_per_cta * kSumStride * traits.value_bytes;
  const int64_t owned = rows * cut.groups_per_cta * kGroup * traits.value_bytes;
  layout.times = 16;  // two barriers before it
  layout.operand = layout.times + kTimes * 16;
  layout.partials = aligned(layout.operand + operand_buffers(exchange) * rows * layout.row_words * 4);
  layout.state = layout.partials + 2 * cut.splits * (backward ? 1 : kGates) * sums;
  layout.weights = layout.state + owned;
  const int64_t beyond = cut.steps_per_warp > traits.held ? cut.steps_per_warp - traits.held : 0;
  layout.dropout = layout.weights + cut.warps() * beyond * kGates * kFragmentBytes;
  layout.reset_grad = layout.dropout + owned;
  layout.bytes = layout.dropout + (variant ? (backward ? 2 : 1) * owned : 0);
  return layout;
}

}  // namespace gru_fused::cuda

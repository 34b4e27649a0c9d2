// How a warp multiplies: 16 units of each gate with a tile of batch rows, some inputs at a time.
//
// A form says how the 16 bytes of a fragment that a lane holds are laid out, which operand it reads with them from
// shared memory, and where in a tile's sums its own belong. The kernels know no more of it.
// The order of the inputs within a fragment is free, as long as weights and operand agree: each lane's inputs lie side
// by side, so that it reads its operand in one load.
#pragma once

#include "plan.h"
#include "scalar.cuh"

namespace gru_fused::cuda {

// Tensor cores. T is the operands' type; float stands for TF32.
template <class T>
struct TensorCores {
  using Scalar = T;
  using Value = float;
  using Math = FastMath;
  static constexpr Arithmetic kArithmetic = sizeof(T) == 4              ? Arithmetic::tf32
                                            : std::is_same_v<T, __half> ? Arithmetic::f16
                                                                        : Arithmetic::bf16;
  static constexpr Traits kTraits = traits_of(kArithmetic);
  static constexpr int kSums = 4;
  static constexpr int kAtOnce =
      sizeof(T) == 4 && !arch::kHasClusters ? 3 : 4;    // loads of 16 bytes in flight; more would spill
  static constexpr int kChunk = 5, kChunkBackward = 2;  // fragments' operands that are read at once
  static constexpr int kPerWord = 4 / int(sizeof(T));   // inputs
  static constexpr int kLanesPerWord = kPerWord, kWordsPerLane = 1;
  static constexpr int kStepWords = kTraits.step / kPerWord;
  using Operand = uint2;

  // Row g of the product stands for unit 2g and row g + 8 for unit 2g + 1: a lane's two units are neighbours.
  static __device__ __forceinline__ int first_unit(int lane) { return lane / 4 * 2; }              // of the group
  static __device__ __forceinline__ int first_input(int lane) { return lane % 4 * 2 * kPerWord; }  // of the fragment

  // weight(unit, input), both from the lane's first on.
  template <class Weight>
  static __device__ __forceinline__ uint4 fragment(const Weight& weight) {
    uint32_t words[4];
    GRU_FUSED_UNROLL
    for (int i = 0; i < 4; ++i) {
      const int unit = i % 2, input = i / 2 * kPerWord;
      if constexpr (kPerWord == 1)
        words[i] = arch::round_to_tf32(weight(unit, input));
      else
        words[i] = bits_of<T>(weight(unit, input)) | bits_of<T>(weight(unit, input + 1)) << 16;
    }
    return {words[0], words[1], words[2], words[3]};
  }

  // tile: the operand's first row of the tile, at the fragment's first word.
  static __device__ __forceinline__ Operand operand(const uint32_t* tile, int row_words, int lane) {
    return *reinterpret_cast<const uint2*>(tile + lane / 4 * row_words + lane % 4 * 2);
  }

  // Word `index` of a row, of value(unit).
  template <class ValueAt>
  static __device__ __forceinline__ uint32_t operand_word(int index, const ValueAt& value) {
    if constexpr (kPerWord == 1)
      return arch::round_to_tf32(value(index));
    else
      return bits_of<T>(narrow<T>(value(2 * index))) | bits_of<T>(narrow<T>(value(2 * index + 1))) << 16;
  }

  static __device__ __forceinline__ void multiply(Value (&sums)[kSums], const uint4& weights, const Operand& operand) {
    arch::mma<T>(sums, weights, operand);
  }

  // To [row][kSumStride] of the tile.
  static __device__ __forceinline__ void leave(const Value (&sums)[kSums], Value* to, int lane) {
    GRU_FUSED_UNROLL
    for (int i = 0; i < 2; ++i)
      *reinterpret_cast<float2*>(to + (lane % 4 * 2 + i) * kSumStride + lane / 4 * 2) = {sums[i], sums[i + 2]};
  }

  // What a lane of a piece has, as it stands in the operand; two lanes with a word between them both get it.
  static __device__ __forceinline__ void words(Value value, int lane, uint32_t (&words)[kWordsPerLane]) {
    if constexpr (kPerWord == 1) {
      words[0] = arch::round_to_tf32(value);
    } else {
      const uint32_t mine = bits_of<T>(narrow<T>(value)), other = __shfl_xor_sync(0xffffffffu, mine, 1);
      words[0] = lane % 2 ? other | mine << 16 : mine | other << 16;
    }
  }
};

// Multiply-adds in the arrays' own precision: a lane has a unit and every other part of its inputs.
template <class T>
struct MultiplyAdd {
  using Scalar = T;
  using Value = T;
  using Math = ExactMath<T>;
  static constexpr Arithmetic kArithmetic = sizeof(T) == 8 ? Arithmetic::f64 : Arithmetic::f32;
  static constexpr Traits kTraits = traits_of(kArithmetic);
  static constexpr int kRows = kTraits.rows, kSums = kRows;
  static constexpr int kAtOnce = 2, kChunk = 2, kChunkBackward = 1;
  static constexpr int kInputs = 16 / int(sizeof(T));  // of a lane's fragment
  static constexpr int kWordsOf = int(sizeof(T)) / 4;  // words of a number
  static constexpr int kLanesPerWord = 1, kWordsPerLane = kWordsOf;
  static constexpr int kStepWords = kTraits.step * kWordsOf;
  struct Operand {
    uint4 of_row[kRows];
  };

  static __device__ __forceinline__ int first_unit(int lane) { return lane / 2; }
  static __device__ __forceinline__ int first_input(int lane) { return lane % 2 * kInputs; }

  template <class Weight>
  static __device__ __forceinline__ uint4 fragment(const Weight& weight) {
    const auto word = [&](int i) { return word_of(weight(0, i / kWordsOf), i % kWordsOf); };
    return {word(0), word(1), word(2), word(3)};
  }

  static __device__ __forceinline__ Operand operand(const uint32_t* tile, int row_words, int lane) {
    Operand operand;
    GRU_FUSED_UNROLL
    for (int r = 0; r < kRows; ++r)
      operand.of_row[r] = *reinterpret_cast<const uint4*>(tile + r * row_words + lane % 2 * 4);
    return operand;
  }

  template <class ValueAt>
  static __device__ __forceinline__ uint32_t operand_word(int index, const ValueAt& value) {
    return word_of(value(index / kWordsOf), index % kWordsOf);
  }

  static __device__ __forceinline__ void multiply(Value (&sums)[kSums], const uint4& weights, const Operand& operand) {
    GRU_FUSED_UNROLL
    for (int r = 0; r < kRows; ++r) GRU_FUSED_UNROLL
    for (int i = 0; i < kInputs; ++i) sums[r] += number(weights, i) * number(operand.of_row[r], i);
  }

  // Each of the two lanes of a unit keeps two rows, and gives the other two away.
  static __device__ __forceinline__ void leave(const Value (&sums)[kSums], Value* to, int lane) {
    const bool upper = lane % 2;
    GRU_FUSED_UNROLL
    for (int i = 0; i < kSums / 2; ++i) {
      const Value mine = upper ? sums[i + 2] : sums[i], given = upper ? sums[i] : sums[i + 2];
      to[(lane % 2 * 2 + i) * kSumStride + lane / 2] = mine + __shfl_xor_sync(0xffffffffu, given, 1);
    }
  }

  static __device__ __forceinline__ void words(Value value, int, uint32_t (&words)[kWordsPerLane]) {
    GRU_FUSED_UNROLL
    for (int i = 0; i < kWordsPerLane; ++i) words[i] = word_of(value, i);
  }

 private:
  static __device__ __forceinline__ uint32_t word_of(Value value, int part) {
    if constexpr (kWordsOf == 1)
      return __float_as_uint(value);
    else
      return uint32_t(uint64_t(__double_as_longlong(value)) >> (32 * part));
  }
  static __device__ __forceinline__ Value number(const uint4& words, int i) {
    if constexpr (kWordsOf == 1)
      return __uint_as_float(i == 0 ? words.x : i == 1 ? words.y : i == 2 ? words.z : words.w);
    else
      return __longlong_as_double((long long)(uint64_t(i ? words.w : words.y) << 32 | (i ? words.z : words.x)));
  }
};

// Sixteen bytes of the operand, in each of the lanes of a piece that have a part of them.
template <class Form>
__device__ __forceinline__ uint4 gathered(const uint32_t (&words)[Form::kWordsPerLane], int lane) {
  constexpr int kLanes = 16 / Form::kTraits.operand_bytes;
  uint32_t all[4];
  GRU_FUSED_UNROLL
  for (int i = 0; i < 4; ++i)
    all[i] = __shfl_sync(0xffffffffu, words[i % Form::kWordsPerLane],
                         lane / kLanes * kLanes + i * Form::kLanesPerWord / Form::kWordsPerLane);
  return {all[0], all[1], all[2], all[3]};
}

// The same with what a variant of the cell leaves of the registers.
template <class Form>
struct OfVariant : Form {
  static constexpr Traits kTraits = traits_of(Form::kArithmetic, true);
};

}  // namespace gru_fused::cuda

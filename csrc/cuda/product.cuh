// How a warp multiplies: 16 units of each gate with a tile of batch rows, some inputs at a time.
//
// A form says how the 16 bytes of a fragment that a lane holds are laid out, which operand it reads with them from
// shared memory, and which units and rows of the sums it ends up with ("elements"). The kernels know no more of it.
// The order of the inputs within a fragment is free, as long as weights and operand agree: each lane's inputs lie side
// by side, so that it reads its operand in one load.
#pragma once

#include "plan.h"
#include "scalar.cuh"

namespace gru_fused::cuda {

// A lane's part of the operand that goes to the other members of a team.
struct Word {
  int row;    // of the tile
  int index;  // from the group's first word on
  uint32_t bits;
};

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
  static constexpr int kElements = kTraits.elements, kSums = 4;
  static constexpr int kPerWord = 4 / int(sizeof(T));  // inputs
  static constexpr int kWords = kElements / kPerWord;  // that a lane sends
  static constexpr int kStepWords = kTraits.step / kPerWord;
  using Operand = uint2;

  // Row g of the product stands for unit 2g and row g + 8 for unit 2g + 1: a lane's two units are neighbours.
  static constexpr int kUnits = 2;
  static constexpr __device__ int unit_index(int element) { return element / 2; }
  static __device__ __forceinline__ int unit(int lane, int element) { return lane / 4 * 2 + element / 2; }
  static __device__ __forceinline__ int row(int lane, int element) { return lane % 4 * 2 + element % 2; }

  // weight(unit, input) with units of the group and inputs of the fragment.
  template <class Weight>
  static __device__ __forceinline__ uint4 fragment(int lane, const Weight& weight) {
    uint32_t words[4];
    GRU_FUSED_UNROLL
    for (int i = 0; i < 4; ++i) {
      const int unit = lane / 4 * 2 + i % 2, input = (lane % 4 * 2 + i / 2) * kPerWord;
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

  static __device__ __forceinline__ void reduce(const Value (&sums)[kSums], Value (&elements)[kElements], int) {
    GRU_FUSED_UNROLL
    for (int e = 0; e < kElements; ++e) elements[e] = sums[e];
  }

  static __device__ __forceinline__ Word word(const Value (&elements)[kElements], int i, int lane) {
    if constexpr (kPerWord == 1)
      return {row(lane, i), unit(lane, i), arch::round_to_tf32(elements[i])};
    else
      return {row(lane, i), lane / 4,
              bits_of<T>(narrow<T>(elements[i])) | bits_of<T>(narrow<T>(elements[i + 2])) << 16};
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
  static constexpr int kRows = kTraits.rows, kElements = kTraits.elements, kSums = kRows;
  static constexpr int kInputs = 16 / int(sizeof(T));  // of a lane's fragment
  static constexpr int kWordsOf = int(sizeof(T)) / 4;  // words of a number
  static constexpr int kWords = kElements * kWordsOf;
  static constexpr int kStepWords = kTraits.step * kWordsOf;
  struct Operand {
    uint4 of_row[kRows];
  };

  static constexpr int kUnits = 1;  // of a lane
  static constexpr __device__ int unit_index(int) { return 0; }
  static __device__ __forceinline__ int unit(int lane, int) { return lane / 2; }
  static __device__ __forceinline__ int row(int lane, int element) { return lane % 2 * 2 + element; }

  template <class Weight>
  static __device__ __forceinline__ uint4 fragment(int lane, const Weight& weight) {
    const auto word = [&](int i) { return word_of(weight(lane / 2, lane % 2 * kInputs + i / kWordsOf), i % kWordsOf); };
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
  static __device__ __forceinline__ void reduce(const Value (&sums)[kSums], Value (&elements)[kElements], int lane) {
    const bool upper = lane % 2;
    GRU_FUSED_UNROLL
    for (int e = 0; e < kElements; ++e) {
      const Value mine = upper ? sums[e + 2] : sums[e], given = upper ? sums[e] : sums[e + 2];
      elements[e] = mine + __shfl_xor_sync(0xffffffffu, given, 1);
    }
  }

  static __device__ __forceinline__ Word word(const Value (&elements)[kElements], int i, int lane) {
    const int element = i / kWordsOf, part = i % kWordsOf;
    return {row(lane, element), lane / 2 * kWordsOf + part, word_of(elements[element], part)};
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

// The same with what a variant of the cell leaves of the registers.
template <class Form>
struct OfVariant : Form {
  static constexpr Traits kTraits = traits_of(Form::kArithmetic, true);
};

}  // namespace gru_fused::cuda

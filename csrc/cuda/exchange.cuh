// How the members of a team hand each other an operand: the state, or in the backward the gradients of the gates.
//
//   start()            once every CTA has filled its own operand of step 0
//   wait(step)         the operand of this step, when all of it has come
//   send(step, ...)    one word of the operand of that step, to every member
//   sent(step)         this thread has sent all of its words
//   end()              before a CTA ends
//
// Two operands are in turn. A member that sends the words of step s + 2 has those of step s + 1 from all members, and
// each of them sent its own after it had read all of step s: so nothing that is still read is overwritten.
#pragma once

#include "team.cuh"

namespace gru_fused::cuda {

// The operand of step 0: value(row, unit) of every unit, padded ones too; 0 in every other word of every buffer.
template <class Form, bool kBackward, class ValueAt>
__device__ __forceinline__ void fill_operands(const Place<Form, kBackward>& place, Exchange exchange,
                                              const ValueAt& value) {
  const int row_words = place.layout.row_words, rows = place.cut.tiles * Form::kTraits.rows;
  uint32_t* const operand = place.operand(0);
  for (int row = 0; row < operand_buffers(exchange) * rows; ++row)
    for (int word = place.thread; word < row_words; word += place.threads)
      operand[row * row_words + word] = row < rows && word < place.layout.operand_words
                                            ? Form::operand_word(
                                                  word, [&](int unit) { return value(row, unit); })
                                            : 0;
}

// What a lane has of one gate's operand (the forward's: the state), to every member.
template <class Exchanging, class Form, bool kBackward>
__device__ __forceinline__ void send_elements(const Place<Form, kBackward>& place, const Exchanging& exchange,
                                              int64_t step, int tile, int gate,
                                              const typename Form::Value (&values)[Form::kElements]) {
  if (!place.live) return;
  const int gate_words = place.cut.units() * Form::kTraits.operand_bytes / 4;
  const int first = gate * gate_words + place.first_unit * Form::kTraits.operand_bytes / 4;
  GRU_FUSED_UNROLL
  for (int i = 0; i < Form::kWords; ++i) {
    const Word word = Form::word(values, i, place.lane);
    const int row = tile * Form::kTraits.rows + word.row;
    if (row < place.valid_rows) exchange.send(step, row, first + word.index, word.bits);
  }
}

template <class Form, bool kBackward>
class BlockExchange {
 public:
  static constexpr Exchange kExchange = Exchange::block;
  static constexpr bool kNeedsClusters = false, kBarrierAfterProducts = false;

  __device__ __forceinline__ BlockExchange(const Place<Form, kBackward>& place, void*, int64_t) : place_(place) {}
  __device__ __forceinline__ void start() const { __syncthreads(); }
  __device__ __forceinline__ const uint32_t* wait(int64_t step) const {
    if (step > 0) __syncthreads();
    return place_.operand(step % 2);
  }
  __device__ __forceinline__ void send(int64_t step, int row, int word, uint32_t bits) const {
    place_.operand(step % 2)[row * place_.layout.row_words + word] = bits;
  }
  __device__ __forceinline__ void sent(int64_t) const {}
  __device__ __forceinline__ void end() const {}

 private:
  const Place<Form, kBackward>& place_;
};

template <class Form, bool kBackward>
class ClusterExchange {
 public:
  static constexpr Exchange kExchange = Exchange::cluster;
  static constexpr bool kNeedsClusters = true, kBarrierAfterProducts = false;

  // operands: how many there are, of step 0 to operands - 1.
  __device__ __forceinline__ ClusterExchange(const Place<Form, kBackward>& place, void*, int64_t operands)
      : place_(place), operands_(operands), barriers_(reinterpret_cast<uint64_t*>(place.shared)) {
    if (place_.thread == 0) {
      arch::mbarrier_init(barriers_);
      arch::mbarrier_init(barriers_ + 1);
    }
  }
  __device__ __forceinline__ void start() const { arch::cluster_sync(); }  // every barrier of the cluster is made
  __device__ __forceinline__ const uint32_t* wait(int64_t step) const {
    // A warp without a group sends nothing that the others would wait for, so that it must not look: it could be late
    // by a whole turn of the barrier, and wait for ever. It reads no operand either.
    if (step > 0 && place_.live) arch::mbarrier_wait(barriers_ + step % 2, uint32_t((step - 1) / 2 % 2));
    // The other barrier's last phase is over: everybody's words of step - 1 have come.
    if (place_.thread == 0 && step + 1 < operands_)
      arch::mbarrier_expect(barriers_ + (step + 1) % 2, uint32_t(place_.valid_rows * place_.layout.operand_words * 4));
    return place_.operand(step % 2);
  }
  __device__ __forceinline__ void send(int64_t step, int row, int word, uint32_t bits) const {
    uint32_t* const mine = place_.operand(step % 2) + row * place_.layout.row_words + word;
    for (int rank = 0; rank < place_.cut.ctas; ++rank) arch::store_async(mine, bits, barriers_ + step % 2, rank);
  }
  __device__ __forceinline__ void sent(int64_t) const {}
  __device__ __forceinline__ void end() const { arch::cluster_sync(); }  // peers may still be storing here

 private:
  const Place<Form, kBackward>& place_;
  const int64_t operands_;
  uint64_t* const barriers_;
};

// Steps through [row][word] of the operand, `threads` words at a time, without a division.
struct WordWalk {
  int row, word, words;
  __device__ __forceinline__ WordWalk(int start, int words) : row(start / words), word(start % words), words(words) {}
  __device__ __forceinline__ void advance(int by) {
    for (word += by; word >= words; word -= words) ++row;
  }
};

// Eight-byte packets: a word and the step that it belongs to. Whoever sees the step sees the word.
template <class Form, bool kBackward>
class PacketExchange {
 public:
  static constexpr Exchange kExchange = Exchange::packets;
  static constexpr bool kNeedsClusters = false, kBarrierAfterProducts = true;

  __device__ __forceinline__ PacketExchange(const Place<Form, kBackward>& place, void* memory, int64_t)
      : place_(place), words_(place.layout.operand_words) {
    const int64_t rows = int64_t(place.cut.tiles) * Form::kTraits.rows;
    const int64_t of_team = exchange_bytes(kExchange, rows, words_);
    packets_ = reinterpret_cast<uint64_t*>(static_cast<char*>(memory) + place.team * of_team);
    next_ = rows * words_;
  }
  __device__ __forceinline__ void start() const { __syncthreads(); }
  __device__ __forceinline__ const uint32_t* wait(int64_t step) const {
    uint32_t* const operand = place_.operand(0);
    if (step == 0) return operand;
    const uint64_t* const packets = packets_ + step % 2 * next_;
    const int all = place_.valid_rows * words_;
    WordWalk to(place_.thread, words_);
    for (int begin = place_.thread; begin < all; begin += kAtOnce * place_.threads) {
      uint64_t packet[kAtOnce];
      GRU_FUSED_UNROLL
      for (int i = 0; i < kAtOnce; ++i) {
        const int index = begin + i * place_.threads;
        packet[i] = index < all ? arch::load_packet(packets + index) : 0;
      }
      GRU_FUSED_UNROLL
      for (int i = 0; i < kAtOnce; ++i) {
        const int index = begin + i * place_.threads;
        if (index >= all) break;
        for (uint32_t polls = 0; uint32_t(packet[i] >> 32) != uint32_t(step); ++polls) {
          arch::poll_again(polls);
          packet[i] = arch::load_packet(packets + index);
        }
        operand[to.row * place_.layout.row_words + to.word] = uint32_t(packet[i]);
        to.advance(place_.threads);
      }
    }
    __syncthreads();
    return operand;
  }
  __device__ __forceinline__ void send(int64_t step, int row, int word, uint32_t bits) const {
    arch::store_packet(packets_ + step % 2 * next_ + int64_t(row) * words_ + word, bits, uint32_t(step));
  }
  __device__ __forceinline__ void sent(int64_t) const {}
  __device__ __forceinline__ void end() const {}

 private:
  static constexpr int kAtOnce = 4;  // loads in flight
  const Place<Form, kBackward>& place_;
  const int words_;
  uint64_t* packets_;
  int64_t next_;
};

// Plain words, and a counter of the members that have stored theirs.
template <class Form, bool kBackward>
class FlagExchange {
 public:
  static constexpr Exchange kExchange = Exchange::flags;
  static constexpr bool kNeedsClusters = false, kBarrierAfterProducts = true;

  __device__ __forceinline__ FlagExchange(const Place<Form, kBackward>& place, void* memory, int64_t)
      : place_(place),
        memory_(reinterpret_cast<uint32_t*>(
            static_cast<char*>(memory) + place.team * exchange_bytes(kExchange, rows(), place.layout.operand_words))) {}
  __device__ __forceinline__ void start() const { __syncthreads(); }
  __device__ __forceinline__ const uint32_t* wait(int64_t step) const {
    uint32_t* const operand = place_.operand(0);
    if (step == 0) return operand;
    if (place_.thread == 0) {
      const auto expected = uint32_t(step) * uint32_t(place_.cut.ctas);
      for (uint32_t polls = 0; int32_t(arch::load_acquire(counter()) - expected) < 0; ++polls) arch::poll_again(polls);
    }
    __syncthreads();
    const uint32_t* const from = of_step(step);
    const int all = place_.valid_rows * place_.layout.operand_words;
    WordWalk to(place_.thread, place_.layout.operand_words);
    for (int index = place_.thread; index < all; index += place_.threads) {
      operand[to.row * place_.layout.row_words + to.word] = arch::load_word(from + index);
      to.advance(place_.threads);
    }
    __syncthreads();
    return operand;
  }
  __device__ __forceinline__ void send(int64_t step, int row, int word, uint32_t bits) const {
    arch::store_word(of_step(step) + int64_t(row) * place_.layout.operand_words + word, bits);
  }
  __device__ __forceinline__ void sent(int64_t) const {
    __syncthreads();
    if (place_.thread == 0) arch::add_release(counter());
  }
  __device__ __forceinline__ void end() const {}

 private:
  // Derived when they are wanted: a thread has few registers to spare.
  __device__ __forceinline__ int64_t rows() const { return int64_t(place_.cut.tiles) * Form::kTraits.rows; }
  __device__ __forceinline__ uint32_t* of_step(int64_t step) const {
    return memory_ + step % 2 * rows() * place_.layout.operand_words;
  }
  __device__ __forceinline__ uint32_t* counter() const { return memory_ + 2 * rows() * place_.layout.operand_words; }

  const Place<Form, kBackward>& place_;
  uint32_t* const memory_;
};

}  // namespace gru_fused::cuda

// How the members of a team hand each other an operand: the state, or in the backward the gradients of the gates.
//
//   start()            once every CTA has filled its own operand of step 0
//   wait(step)         the operand of this step, when all of it has come
//   send(step, ...)    a piece of the operand of that step, to every member; all lanes of a warp together
//   sent(step)         this thread has sent all of its words
//   end()              before a CTA ends
//
// Two operands are in turn. A member that sends the words of step s + 2 has those of step s + 1 from all members, and
// each of them sent its own after it had read all of step s: so nothing that is still read is overwritten.
#pragma once

#include "team.cuh"

#ifdef __CUDACC__
#pragma nv_diag_suppress 549  // "used before its value is set": a packet is looked at where it was loaded
#endif

namespace gru_fused::cuda {

// The operand of step 0: value(row, unit) of every unit, padded ones too; 0 in every other word of every buffer.
template <class Form, bool kBackward, class ValueAt>
__device__ __forceinline__ void fill_operands(const Place<Form, kBackward>& place, Exchange exchange,
                                              const ValueAt& value) {
  constexpr int kRows = Form::kTraits.rows;
  const int row_words = place.layout.row_words, rows = place.cut.tiles * kRows;
  uint32_t* const operand = place.operand(0);
  for (int first = 0; first < operand_buffers(exchange) * rows; first += kRows)
    for (int word = place.thread; word < row_words; word += place.threads) {
      uint32_t words[kRows] = {};  // all asked for before the first is stored
      GRU_FUSED_UNROLL
      for (int row = 0; row < kRows; ++row)
        if (first < rows && word < place.layout.operand_words)
          words[row] = Form::operand_word(word, [&](int unit) { return value(first + row, unit); });
      GRU_FUSED_UNROLL
      for (int row = 0; row < kRows; ++row) operand[(first + row) * row_words + word] = words[row];
    }
}

// What a lane has of one gate's operand (the forward's: the state), to every member.
template <class Exchanging, class Form, bool kBackward>
__device__ __forceinline__ void send_piece(const Place<Form, kBackward>& place, const Exchanging& exchange, int step,
                                           int piece, int gate, typename Form::Value value) {
  uint32_t words[Form::kWordsPerLane];
  Form::words(value, place.lane, words);
  exchange.send(step, place.row(piece), gate * place.cut.units() + place.unit(), words);
}

// Calls store(word, bits) for this lane's words of a row of the operand, from its number `index` on.
template <class Form, bool kBackward, class Store>
__device__ __forceinline__ void store_words(const Place<Form, kBackward>& place, int row, int index,
                                            const uint32_t (&words)[Form::kWordsPerLane], const Store& store) {
  if (row >= place.valid_rows || place.lane % Form::kLanesPerWord) return;
  GRU_FUSED_UNROLL
  for (int i = 0; i < Form::kWordsPerLane; ++i) store(index * Form::kTraits.operand_bytes / 4 + i, words[i]);
}

template <class Form, bool kBackward>
class BlockExchange {
 public:
  static constexpr Exchange kExchange = Exchange::block;
  static constexpr bool kNeedsClusters = false, kBarrierAfterProducts = false;

  __device__ __forceinline__ BlockExchange(const Place<Form, kBackward>& place, void*, int) : place_(place) {}
  __device__ __forceinline__ void start() const { __syncthreads(); }
  __device__ __forceinline__ const uint32_t* wait(int step) const {
    if (step > 0) __syncthreads();
    return place_.operand(step % 2);
  }
  __device__ __forceinline__ void send(int step, int row, int index,
                                       const uint32_t (&words)[Form::kWordsPerLane]) const {
    uint32_t* const to = place_.operand(step % 2) + row * place_.row_words;
    store_words(place_, row, index, words, [&](int word, uint32_t bits) { to[word] = bits; });
  }
  __device__ __forceinline__ void sent(int) const {}
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
  __device__ __forceinline__ ClusterExchange(const Place<Form, kBackward>& place, void*, int operands)
      : place_(place), operands_(operands), barriers_(reinterpret_cast<uint64_t*>(place.shared)) {
    if (place_.thread == 0) {
      arch::mbarrier_init(barriers_);
      arch::mbarrier_init(barriers_ + 1);
    }
  }
  __device__ __forceinline__ void start() const { arch::cluster_sync(); }  // every barrier of the cluster is made
  __device__ __forceinline__ const uint32_t* wait(int step) const {
    // A warp without a group sends nothing that the others would wait for, so that it must not look: it could be late
    // by a whole turn of the barrier, and wait for ever. It reads no operand either.
    if (step > 0 && place_.live) arch::mbarrier_wait(barriers_ + step % 2, uint32_t(step - 1) / 2 % 2);
    // The other barrier's last phase is over: everybody's words of step - 1 have come.
    if (place_.thread == 0 && step + 1 < operands_)
      arch::mbarrier_expect(barriers_ + (step + 1) % 2, uint32_t(place_.valid_rows * place_.layout.operand_words * 4));
    return place_.operand(step % 2);
  }
  // The lanes that have a part of sixteen bytes share out the members.
  __device__ __forceinline__ void send(int step, int row, int index,
                                       const uint32_t (&words)[Form::kWordsPerLane]) const {
    constexpr int kLanes = 16 / Form::kTraits.operand_bytes;
    const uint4 sixteen = gathered<Form>(words, place_.lane);
    if (row >= place_.valid_rows) return;
    uint32_t* const mine = place_.operand(step % 2) + row * place_.row_words + index / kLanes * 4;
    GRU_FUSED_NO_UNROLL
    for (int rank = place_.lane % kLanes; rank < place_.cut.ctas; rank += kLanes)
      arch::store_async(mine, sixteen, barriers_ + step % 2, rank);
  }
  __device__ __forceinline__ void sent(int) const {}
  __device__ __forceinline__ void end() const { arch::cluster_sync(); }  // peers may still be storing here

 private:
  const Place<Form, kBackward>& place_;
  const int operands_;
  uint64_t* const barriers_;
};

// Steps through the rows of the operand, some columns (words, or vectors of them) at a time, without a division.
struct Walk {
  int row, column, columns;
  __device__ __forceinline__ Walk(int start, int columns)
      : row(start / columns), column(start % columns), columns(columns) {}
  __device__ __forceinline__ void advance(int by) {
    for (column += by; column >= columns; column -= columns) ++row;
  }
};

// Eight-byte packets: a word and the step that it belongs to. Whoever sees the step sees the word.
template <class Form, bool kBackward>
class PacketExchange {
 public:
  static constexpr Exchange kExchange = Exchange::packets;
  static constexpr bool kNeedsClusters = false, kBarrierAfterProducts = true;

  __device__ __forceinline__ PacketExchange(const Place<Form, kBackward>& place, void* memory, int)
      : place_(place), words_(place.layout.operand_words) {
    const int rows = place.cut.tiles * Form::kTraits.rows;
    const int64_t of_team = exchange_bytes(kExchange, rows, words_);
    packets_ = reinterpret_cast<uint64_t*>(static_cast<char*>(memory) + place.team * of_team);
    next_ = rows * words_;
  }
  __device__ __forceinline__ void start() const { __syncthreads(); }
  __device__ __forceinline__ const uint32_t* wait(int step) const {
    uint32_t* const operand = place_.operand(0);
    if (step == 0) return operand;
    const uint64_t* const packets = packets_ + step % 2 * next_;
    const int all = place_.valid_rows * words_ / 2;  // pairs of packets
    Walk to(place_.thread, words_ / 2);
    for (int begin = place_.thread; begin < all; begin += kAtOnce * place_.threads) {
      arch::Packets pair[kAtOnce];
      const auto has_come = [&](int i) {
        return uint32_t(pair[i].first >> 32) == uint32_t(step) && uint32_t(pair[i].second >> 32) == uint32_t(step);
      };
      const auto is_there = [&](int i) { return begin + i * place_.threads < all; };
      GRU_FUSED_UNROLL
      for (int i = 0; i < kAtOnce; ++i)
        if (is_there(i)) pair[i] = arch::load_packets(packets + 2 * (begin + i * place_.threads));
      bool all_came = false;
      for (uint32_t polls = 0; !all_came; ++polls) {  // those that are late are asked for together
        all_came = true;
        GRU_FUSED_UNROLL
        for (int i = 0; i < kAtOnce; ++i) all_came = all_came && (!is_there(i) || has_come(i));
        if (all_came) break;
        arch::poll_again(polls);
        GRU_FUSED_UNROLL
        for (int i = 0; i < kAtOnce; ++i)
          if (is_there(i) && !has_come(i)) pair[i] = arch::load_packets(packets + 2 * (begin + i * place_.threads));
      }
      GRU_FUSED_UNROLL
      for (int i = 0; i < kAtOnce; ++i) {
        if (!is_there(i)) break;
        *reinterpret_cast<uint2*>(operand + to.row * place_.row_words + 2 * to.column) = {uint32_t(pair[i].first),
                                                                                          uint32_t(pair[i].second)};
        to.advance(place_.threads);
      }
    }
    __syncthreads();
    return operand;
  }
  __device__ __forceinline__ void send(int step, int row, int index,
                                       const uint32_t (&words)[Form::kWordsPerLane]) const {
    uint64_t* const to = packets_ + (step % 2 * next_ + row * words_);
    store_words(place_, row, index, words,
                [&](int word, uint32_t bits) { arch::store_packet(to + word, bits, uint32_t(step)); });
  }
  __device__ __forceinline__ void sent(int) const {}
  __device__ __forceinline__ void end() const {}

 private:
  static constexpr int kAtOnce = Form::kAtOnce;  // loads in flight
  const Place<Form, kBackward>& place_;
  const int words_;
  uint64_t* packets_;
  int next_;  // packets of one operand
};

// Plain words, and a counter of the members that have stored theirs.
template <class Form, bool kBackward>
class FlagExchange {
 public:
  static constexpr Exchange kExchange = Exchange::flags;
  static constexpr bool kNeedsClusters = false, kBarrierAfterProducts = true;

  __device__ __forceinline__ FlagExchange(const Place<Form, kBackward>& place, void* memory, int)
      : place_(place),
        memory_(reinterpret_cast<uint32_t*>(
            static_cast<char*>(memory) + place.team * exchange_bytes(kExchange, rows(), place.layout.operand_words))) {}
  __device__ __forceinline__ void start() const { __syncthreads(); }
  __device__ __forceinline__ const uint32_t* wait(int step) const {
    uint32_t* const operand = place_.operand(0);
    if (step == 0) return operand;
    if (place_.thread == 0) {
      const auto expected = uint32_t(step) * uint32_t(place_.cut.ctas);
      for (uint32_t polls = 0; int32_t(arch::load_acquire(counter()) - expected) < 0; ++polls) arch::poll_again(polls);
    }
    __syncthreads();
    const uint4* const from = reinterpret_cast<const uint4*>(of_step(step));
    const int all = place_.valid_rows * place_.layout.operand_words / 4;
    Walk to(place_.thread, place_.layout.operand_words / 4);
    for (int begin = place_.thread; begin < all; begin += kAtOnce * place_.threads) {
      uint4 four[kAtOnce];
      GRU_FUSED_UNROLL
      for (int i = 0; i < kAtOnce; ++i)
        if (begin + i * place_.threads < all) four[i] = arch::load_words(from + begin + i * place_.threads);
      GRU_FUSED_UNROLL
      for (int i = 0; i < kAtOnce; ++i) {
        if (begin + i * place_.threads >= all) break;
        *reinterpret_cast<uint4*>(operand + to.row * place_.row_words + 4 * to.column) = four[i];
        to.advance(place_.threads);
      }
    }
    __syncthreads();
    return operand;
  }
  __device__ __forceinline__ void send(int step, int row, int index,
                                       const uint32_t (&words)[Form::kWordsPerLane]) const {
    uint32_t* const to = of_step(step) + int64_t(row) * place_.layout.operand_words;
    store_words(place_, row, index, words, [&](int word, uint32_t bits) { arch::store_word(to + word, bits); });
  }
  __device__ __forceinline__ void sent(int) const {
    __syncthreads();
    if (place_.thread == 0) arch::add_release(counter());
  }
  __device__ __forceinline__ void end() const {}

 private:
  static constexpr int kAtOnce = Form::kAtOnce;  // loads in flight
  // Derived when they are wanted: a thread has few registers to spare.
  __device__ __forceinline__ int64_t rows() const { return int64_t(place_.cut.tiles) * Form::kTraits.rows; }
  __device__ __forceinline__ uint32_t* of_step(int step) const {
    return memory_ + step % 2 * rows() * place_.layout.operand_words;
  }
  __device__ __forceinline__ uint32_t* counter() const { return memory_ + 2 * rows() * place_.layout.operand_words; }

  const Place<Form, kBackward>& place_;
  uint32_t* const memory_;
};

}  // namespace gru_fused::cuda

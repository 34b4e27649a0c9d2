// What C++ can't say of a CUDA device: the one file with inline PTX. Beside each instruction stands a scalar model of
// it, with which the same kernels run on a CPU (tests/emulator). Kernels are written in these functions' terms.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <cstdint>

#ifdef GRU_FUSED_EMULATED
#include <atomic>
#include <cmath>
#include <cstring>

#include "emulator.h"
#define GRU_FUSED_DYNAMIC_SHARED(name) char* const name = static_cast<char*>(emulator::dynamic_shared())
#define GRU_FUSED_UNROLL
#define GRU_FUSED_NO_UNROLL
#define GRU_FUSED_UNROLL_BY(times)
#else
#define GRU_FUSED_DYNAMIC_SHARED(name) extern __shared__ __align__(1024) char name[]
#define GRU_FUSED_UNROLL _Pragma("unroll")
#define GRU_FUSED_NO_UNROLL _Pragma("unroll 1")
#define GRU_FUSED_PRAGMA(text) _Pragma(#text)
#define GRU_FUSED_UNROLL_BY(times) GRU_FUSED_PRAGMA(unroll times)
#endif

namespace gru_fused::cuda::arch {

#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 900
constexpr bool kHasClusters = false;
#else
constexpr bool kHasClusters = true;
#endif

// A fault must be an error and not a hang: a wait gives up after so many polls of memory, or tries at a barrier, each
// of which the hardware may draw out. That is seconds, far beyond any real wait.
constexpr uint32_t kMaxPolls = 1u << 25, kMaxTries = 1u << 22;

// ---- Tensor cores: D (16x8, float) += A (16x16 or 16x8, by rows) B (16x8 or 8x8, by columns); lane = 4 g + t.
// A word of a fragment holds two 16-bit numbers of neighbouring columns, or one TF32 number.
//   16-bit: A words: rows g, g+8, g, g+8 of columns 2t.. (first two) and 2t+8..; B: rows 2t.. and 2t+8.. of column g
//   TF32:   A words: rows g, g+8, g, g+8 of columns t (first two) and t+4;      B: rows t and t+4 of column g
//   D: row g, columns 2t and 2t+1; row g+8, columns 2t and 2t+1
#ifdef GRU_FUSED_EMULATED
struct MmaIn {
  float d[4];
  uint32_t a[4], b[2];
};
struct MmaOut {
  float d[4];
};

template <class T>
inline float mma_number(uint32_t word, int half) {
  const auto bits = uint16_t(word >> (16 * half));
  if constexpr (sizeof(T) == 4)
    return __uint_as_float(word & 0xffffe000u);  // the hardware reads TF32's 19 bits
  else if constexpr (std::is_same_v<T, __half>)
    return __half2float(__ushort_as_half(bits));
  else
    return __bfloat162float(__ushort_as_bfloat16(bits));
}

template <class T>
inline void mma_model(const MmaIn (&in)[32], MmaOut (&out)[32], uint32_t) {
  constexpr int kPerWord = 4 / int(sizeof(T)), kColumns = 8 * kPerWord;
  float a[16][kColumns], b[kColumns][8];
  for (int lane = 0; lane < 32; ++lane)
    for (int half = 0; half < kPerWord; ++half) {
      const int g = lane / 4, low = lane % 4 * kPerWord + half, high = low + kColumns / 2;
      a[g][low] = mma_number<T>(in[lane].a[0], half);
      a[g + 8][low] = mma_number<T>(in[lane].a[1], half);
      a[g][high] = mma_number<T>(in[lane].a[2], half);
      a[g + 8][high] = mma_number<T>(in[lane].a[3], half);
      b[low][g] = mma_number<T>(in[lane].b[0], half);
      b[high][g] = mma_number<T>(in[lane].b[1], half);
    }
  for (int lane = 0; lane < 32; ++lane)
    for (int i = 0; i < 4; ++i) {
      float sum = in[lane].d[i];
      for (int k = 0; k < kColumns; ++k) sum += a[lane / 4 + i / 2 * 8][k] * b[k][lane % 4 * 2 + i % 2];
      out[lane].d[i] = sum;
    }
}
#endif

// T: float stands for TF32.
template <class T>
__device__ __forceinline__ void mma(float (&d)[4], const uint4& a, const uint2& b) {
#ifdef GRU_FUSED_EMULATED
  const MmaIn in{{d[0], d[1], d[2], d[3]}, {a.x, a.y, a.z, a.w}, {b.x, b.y}};
  const MmaOut out = emulator::warp_collective<MmaIn, MmaOut>(0xffffffffu, in, mma_model<T>, "mma.sync");
  std::memcpy(d, out.d, sizeof d);
#elif !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 800
#define GRU_FUSED_MMA(form)                                                                   \
  asm volatile("mma.sync.aligned." form " {%0,%1,%2,%3},{%4,%5,%6,%7},{%8,%9},{%0,%1,%2,%3};" \
               : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])                               \
               : "r"(a.x), "r"(a.y), "r"(a.z), "r"(a.w), "r"(b.x), "r"(b.y))
  if constexpr (sizeof(T) == 4)
    GRU_FUSED_MMA("m16n8k8.row.col.f32.tf32.tf32.f32");
  else if constexpr (std::is_same_v<T, __half>)
    GRU_FUSED_MMA("m16n8k16.row.col.f32.f16.f16.f32");
  else
    GRU_FUSED_MMA("m16n8k16.row.col.f32.bf16.bf16.f32");
#undef GRU_FUSED_MMA
#else
  __trap();  // the plan gives such a device no kernel with products
#endif
}

// To the nearest TF32 number (10 bits of fraction), ties away from zero.
__device__ __forceinline__ uint32_t round_to_tf32(float value) {
#ifdef GRU_FUSED_EMULATED
  const uint32_t bits = __float_as_uint(value);
  const bool finite = (bits & 0x7f800000u) != 0x7f800000u;
  return finite ? (bits + 0x1000u) & 0xffffe000u : bits;
#elif !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 800
  uint32_t bits;
  asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(bits) : "f"(value));
  return bits;
#else
  return __float_as_uint(value);
#endif
}

// ---- Registers: a number that the compiler keeps, and does not read or compute again wherever it is used.
template <class Number>
__device__ __forceinline__ Number kept(Number number) {
#ifndef GRU_FUSED_EMULATED
  if constexpr (sizeof(Number) == 8)
    asm volatile("" : "+l"(number));
  else
    asm volatile("" : "+r"(number));
#endif
  return number;
}

// ---- Global memory: a number that is asked for long before its turn, and comes into the very register that it is used
// from. To the compiler a load is a number of its own, which it may move at the end of a loop, and then waits for.
template <class Number>
__device__ __forceinline__ void ask_for(const Number* from, bool wanted, Number& to) {
#ifdef GRU_FUSED_EMULATED
  if (wanted) to = *from;
#else
  static_assert(sizeof(Number) == 4 || sizeof(Number) == 2);
#define GRU_FUSED_ASK(bits, constraint, type)                                                \
  asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %2, 0;\n@p ld.global." type " %0, [%1];\n}" \
               : constraint(bits)                                                            \
               : "l"(from), "r"(int(wanted)))
  if constexpr (sizeof(Number) == 4)
    GRU_FUSED_ASK(to, "+f", "f32");
  else
    GRU_FUSED_ASK(reinterpret_cast<unsigned short&>(to), "+h", "b16");
#undef GRU_FUSED_ASK
#endif
}

// ---- 2^x and 1 / x by the hardware's tables, to some 2^-22 of the result; denormal numbers are 0.
__device__ __forceinline__ float fast_exp2(float x) {
#ifdef GRU_FUSED_EMULATED
  return std::exp2(x);
#else
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
#endif
}

__device__ __forceinline__ float fast_reciprocal(float x) {
#ifdef GRU_FUSED_EMULATED
  return 1.f / x;
#else
  float y;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
#endif
}

// ---- Clusters of CTAs (sm_90): ranks, a barrier, and stores into a peer's shared memory that its mbarrier counts.
__device__ __forceinline__ uint32_t shared_address(const void* pointer) {
#ifdef GRU_FUSED_EMULATED
  return uint32_t(reinterpret_cast<uintptr_t>(pointer));
#else
  return uint32_t(__cvta_generic_to_shared(pointer));
#endif
}

__device__ __forceinline__ void cluster_sync() {
#ifdef GRU_FUSED_EMULATED
  emulator::cluster_arrive();
  emulator::cluster_wait();
#elif !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 900
  asm volatile(
      "barrier.cluster.arrive.release.aligned;\n"
      "barrier.cluster.wait.acquire.aligned;" ::
          : "memory");
#endif
}

// One arrival completes a phase, once the bytes that it expects have come.
__device__ __forceinline__ void mbarrier_init(uint64_t* barrier) {
#ifdef GRU_FUSED_EMULATED
  emulator::mbarrier_init(barrier, 1);
#elif !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 900
  asm volatile(
      "mbarrier.init.shared::cta.b64 [%0], 1;\n"
      "fence.mbarrier_init.release.cluster;" ::"r"(shared_address(barrier))
      : "memory");
#endif
}

__device__ __forceinline__ void mbarrier_expect(uint64_t* barrier, uint32_t bytes) {
#ifdef GRU_FUSED_EMULATED
  emulator::mbarrier_arrive_expect_tx(barrier, bytes);
#elif !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 900
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(barrier)), "r"(bytes)
               : "memory");
#endif
}

__device__ __forceinline__ bool mbarrier_try_wait(uint64_t* barrier, uint32_t parity) {
#ifdef GRU_FUSED_EMULATED
  return emulator::mbarrier_try_wait(barrier, parity);
#elif !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 900
  uint32_t done;
  asm volatile(
      "{\n.reg .pred p;\n"
      "mbarrier.try_wait.parity.acquire.cluster.shared::cta.b64 p, [%1], %2;\n"
      "selp.u32 %0, 1, 0, p;\n}"
      : "=r"(done)
      : "r"(shared_address(barrier)), "r"(parity)
      : "memory");
  return done;
#else
  return true;
#endif
}

__device__ __forceinline__ void mbarrier_wait(uint64_t* barrier, uint32_t parity) {
  for (uint32_t tries = 0; !mbarrier_try_wait(barrier, parity); ++tries)
    if (tries > kMaxTries) __trap();
}

// Stores sixteen bytes where `mine` is in this CTA's shared memory, but in that of CTA `rank` of the cluster, and
// counts them on the barrier that stands there where `barrier` stands here.
__device__ __forceinline__ void store_async(uint32_t* mine, const uint4& words, uint64_t* barrier, uint32_t rank) {
#ifdef GRU_FUSED_EMULATED
  emulator::store_async(emulator::map_shared_rank(mine, rank), &words, sizeof words,
                        static_cast<uint64_t*>(emulator::map_shared_rank(barrier, rank)));
#elif !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 900
  asm volatile(
      "{\n.reg .u32 to, bar;\n"
      "mapa.shared::cluster.u32 to, %0, %6;\n"
      "mapa.shared::cluster.u32 bar, %5, %6;\n"
      "st.async.weak.shared::cluster.mbarrier::complete_tx::bytes.v4.b32 [to], {%1, %2, %3, %4}, [bar];\n}" ::"r"(
          shared_address(mine)),
      "r"(words.x), "r"(words.y), "r"(words.z), "r"(words.w), "r"(shared_address(barrier)), "r"(rank)
      : "memory");
#endif
}

// ---- Between CTAs anywhere on the device, through global memory.
// Eight bytes, stored and loaded as one: a word that carries its own arrival.
__device__ __forceinline__ void store_packet(uint64_t* to, uint32_t word, uint32_t tag) {
  const uint64_t packet = uint64_t(tag) << 32 | word;
#ifdef GRU_FUSED_EMULATED
  std::atomic_ref<uint64_t>(*to).store(packet, std::memory_order_relaxed);
#else
  asm volatile("st.relaxed.gpu.global.u64 [%0], %1;" ::"l"(to), "l"(packet) : "memory");
#endif
}

// Two of them side by side, each whole, though not both of one time.
struct Packets {
  uint64_t first, second;
};

__device__ __forceinline__ Packets load_packets(const uint64_t* from) {
  Packets packets;
#ifdef GRU_FUSED_EMULATED
  const auto load = [](const uint64_t* packet) {
    return std::atomic_ref<uint64_t>(*const_cast<uint64_t*>(packet)).load(std::memory_order_relaxed);
  };
  packets = {load(from), load(from + 1)};
#else
  asm volatile("ld.relaxed.gpu.global.v2.u64 {%0, %1}, [%2];"
               : "=l"(packets.first), "=l"(packets.second)
               : "l"(from)
               : "memory");
#endif
  return packets;
}

// Plain words past the first-level cache, which does not see what other SMs store.
__device__ __forceinline__ void store_word(uint32_t* to, uint32_t word) { __stcg(to, word); }
__device__ __forceinline__ uint4 load_words(const uint4* from) { return __ldcg(from); }

// The release orders what this CTA stored before it (its other threads' too, past a barrier).
__device__ __forceinline__ void add_release(uint32_t* counter) {
#ifdef GRU_FUSED_EMULATED
  std::atomic_ref<uint32_t>(*counter).fetch_add(1, std::memory_order_release);
#else
  asm volatile("red.release.gpu.global.add.u32 [%0], 1;" ::"l"(counter) : "memory");
#endif
}

__device__ __forceinline__ uint32_t load_acquire(const uint32_t* counter) {
#ifdef GRU_FUSED_EMULATED
  return std::atomic_ref<uint32_t>(*const_cast<uint32_t*>(counter)).load(std::memory_order_acquire);
#else
  uint32_t value;
  asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(value) : "l"(counter) : "memory");
  return value;
#endif
}

// One poll in vain: on the CPU, somebody else's turn.
__device__ __forceinline__ void poll_again(uint32_t polls) {
#ifdef GRU_FUSED_EMULATED
  emulator::yield("a poll of global memory");
#endif
  if (polls > kMaxPolls) __trap();
}

}  // namespace gru_fused::cuda::arch

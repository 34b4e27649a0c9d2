// Device basics of the latency microbenchmarks: every inline instruction, bounded waits, what a thread reports.
#pragma once
#include <cooperative_groups.h>
#include <cuda_bf16.h>
#include <cuda_runtime.h>
#include <cstdint>
#include <cstring>
namespace cg = cooperative_groups;
#define DEV __device__ __forceinline__
#define SMEM() extern __shared__ __align__(128) unsigned char smem[]
constexpr int kThreads = 256;
constexpr unsigned long long kLimitNs = 1000000000ull;  // a wait longer than this is given up

// ---- [ptx]
DEV uint32_t saddr(const void* p) { return (uint32_t)__cvta_generic_to_shared(p); }
DEV unsigned long long gtime() {
  unsigned long long t;
  asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(t));
  return t;
}
DEV unsigned smid() {
  unsigned r;
  asm volatile("mov.u32 %0, %%smid;" : "=r"(r));
  return r;
}
DEV unsigned cta_rank() {
  unsigned r;
  asm("mov.u32 %0, %%cluster_ctarank;" : "=r"(r));
  return r;
}
DEV unsigned cluster_size() {
  unsigned r;
  asm("mov.u32 %0, %%cluster_nctarank;" : "=r"(r));
  return r;
}
DEV uint32_t mapa(uint32_t a, uint32_t rank) {  // my shared address, in CTA rank of the cluster
  uint32_t r;
  asm("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(r) : "r"(a), "r"(rank));
  return r;
}
// -- flags in global memory
DEV void st_release(unsigned* p, unsigned v) {
  asm volatile("st.release.gpu.global.u32 [%0], %1;" ::"l"(p), "r"(v) : "memory");
}
DEV void st_relaxed(unsigned* p, unsigned v) {
  asm volatile("st.relaxed.gpu.global.u32 [%0], %1;" ::"l"(p), "r"(v) : "memory");
}
DEV void red_release(unsigned* p, unsigned v) {
  asm volatile("red.release.gpu.global.add.u32 [%0], %1;" ::"l"(p), "r"(v) : "memory");
}
DEV unsigned ld_acquire(const unsigned* p) {
  unsigned v;
  asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(v) : "l"(p) : "memory");
  return v;
}
DEV unsigned ld_relaxed(const unsigned* p) {
  unsigned v;
  asm volatile("ld.relaxed.gpu.global.u32 %0, [%1];" : "=r"(v) : "l"(p) : "memory");
  return v;
}
// -- packets: b64 and b128 are single accesses, so a packet is never torn (.v2 and .v4 promise nothing)
DEV void st64_relaxed(void* p, uint2 v) {
  asm volatile("{\n.reg .b64 q;\nmov.b64 q, {%1, %2};\nst.relaxed.gpu.global.b64 [%0], q;\n}" ::"l"(p), "r"(v.x),
               "r"(v.y)
               : "memory");
}
DEV uint2 ld64_relaxed(const void* p) {
  uint2 v;
  asm volatile("{\n.reg .b64 q;\nld.relaxed.gpu.global.b64 q, [%2];\nmov.b64 {%0, %1}, q;\n}"
               : "=r"(v.x), "=r"(v.y)
               : "l"(p)
               : "memory");
  return v;
}
DEV void st128_relaxed(void* p, uint4 v) {
  asm volatile(
      "{\n.reg .b128 q;\n.reg .b64 l, h;\nmov.b64 l, {%1, %2};\nmov.b64 h, {%3, %4};\nmov.b128 q, {l, h};\n"
      "st.relaxed.gpu.global.b128 [%0], q;\n}" ::"l"(p),
      "r"(v.x), "r"(v.y), "r"(v.z), "r"(v.w)
      : "memory");
}
DEV uint4 ld128_relaxed(const void* p) {
  uint4 v;
  asm volatile(
      "{\n.reg .b128 q;\n.reg .b64 l, h;\nld.relaxed.gpu.global.b128 q, [%4];\nmov.b128 {l, h}, q;\n"
      "mov.b64 {%0, %1}, l;\nmov.b64 {%2, %3}, h;\n}"
      : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
      : "l"(p)
      : "memory");
  return v;
}
DEV uint4 ldcg128(const void* p) {  // data that a flag or a barrier has ordered; through L2, never from a stale L1 line
  uint4 v;
  asm volatile("ld.global.cg.v4.u32 {%0, %1, %2, %3}, [%4];"
               : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
               : "l"(p)
               : "memory");
  return v;
}
// -- clusters. The barriers are .aligned: the warp must be converged.
DEV void cluster_arrive() { asm volatile("barrier.cluster.arrive.release.aligned;" ::: "memory"); }
DEV void cluster_arrive_relaxed() { asm volatile("barrier.cluster.arrive.relaxed.aligned;" ::: "memory"); }
DEV void cluster_wait() { asm volatile("barrier.cluster.wait.acquire.aligned;" ::: "memory"); }
// Shared memory is named by 32-bit addresses; "mine" of a peer is my address, moved into CTA rank by mapa.
DEV void mbar_init(uint32_t m, unsigned n) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;\nfence.mbarrier_init.release.cluster;" ::"r"(m), "r"(n)
               : "memory");
}
DEV void mbar_expect(uint32_t m, unsigned bytes) {  // arrive once and announce the bytes of the current phase
  asm volatile("mbarrier.arrive.expect_tx.release.cta.shared::cta.b64 _, [%0], %1;" ::"r"(m), "r"(bytes) : "memory");
}
template <bool CLUSTER>
DEV bool mbar_try(uint32_t m, unsigned parity) {  // CLUSTER: acquire what peers wrote, by the book
  unsigned ok;                                    // (drops the L1 too); else CUTLASS's cta-scope wait
  if (CLUSTER)
    asm volatile(
        "{\n.reg .pred p;\nmbarrier.try_wait.parity.acquire.cluster.shared::cta.b64 p, [%1], %2;\n"
        "selp.u32 %0, 1, 0, p;\n}"
        : "=r"(ok)
        : "r"(m), "r"(parity)
        : "memory");
  else
    asm volatile(
        "{\n.reg .pred p;\nmbarrier.try_wait.parity.acquire.cta.shared::cta.b64 p, [%1], %2;\n"
        "selp.u32 %0, 1, 0, p;\n}"
        : "=r"(ok)
        : "r"(m), "r"(parity)
        : "memory");
  return ok;
}
DEV void st_async(uint32_t mine, unsigned v, uint32_t m,
                  unsigned rank) {  // 16 bytes into CTA rank, counted by its mbarrier
  asm volatile("st.async.weak.shared::cluster.mbarrier::complete_tx::bytes.v4.b32 [%0], {%1, %1, %1, %1}, [%2];" ::"r"(
                   mapa(mine, rank)),
               "r"(v), "r"(mapa(m, rank))
               : "memory");
}
DEV void st_peer(uint32_t mine, unsigned v, unsigned rank) {
  asm volatile("st.shared::cluster.v4.b32 [%0], {%1, %1, %1, %1};" ::"r"(mapa(mine, rank)), "r"(v) : "memory");
}
DEV void bulk_to_peer(uint32_t mine, uint32_t src, unsigned n, uint32_t m, unsigned rank) {
  asm volatile("cp.async.bulk.shared::cluster.shared::cta.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(
                   mapa(mine, rank)),
               "r"(src), "r"(n), "r"(mapa(m, rank))
               : "memory");
}
DEV void bulk_from_global(uint32_t dst, const void* src, unsigned n, uint32_t m) {
  asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(dst),
               "l"(src), "r"(n), "r"(m)
               : "memory");
}
DEV void fence_async_shared() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }
DEV void fence_async_global() { asm volatile("fence.proxy.async.global;" ::: "memory"); }
DEV void sts128(uint32_t a, unsigned v) {
  asm volatile("st.shared.v4.b32 [%0], {%1, %1, %1, %1};" ::"r"(a), "r"(v) : "memory");
}
DEV uint4 lds128(uint32_t a) {
  uint4 v;
  asm volatile("ld.shared.v4.u32 {%0, %1, %2, %3}, [%4];"
               : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
               : "r"(a)
               : "memory");
  return v;
}
// -- matrix
DEV void mma(float (&d)[4], uint4 a, unsigned b0, unsigned b1) {  // D(16x8) += A(16x16) B(16x8), bf16 in, fp32 out
  asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3},{%4,%5,%6,%7},{%8,%9},{%0,%1,%2,%3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a.x), "r"(a.y), "r"(a.z), "r"(a.w), "r"(b0), "r"(b1));
}
DEV uint4 ldmatrix4(uint32_t a) {
  uint4 v;
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
               : "r"(a)
               : "memory");
  return v;
}
// ---- [/ptx]

// The compiler re-reads thread, CTA and rank numbers in loops (S2R, slow); what went through a shuffle it keeps in a
// register.
DEV unsigned keep(unsigned x) { return __shfl_sync(~0u, x, threadIdx.x & 31); }
DEV unsigned differs(uint4 v, unsigned tag) { return (v.x ^ tag) | (v.y ^ tag) | (v.z ^ tag) | (v.w ^ tag); }
struct Out {
  unsigned* status;
  long long* cycles;
};  // status: timeouts, bad, sink; cycles: one per CTA
struct Me {
  unsigned bad = 0;
  bool dead = false;
};  // a thread's own record
template <class F>
DEV void wait_until(Me& me, F ready) {  // the clock is read only at every 64th failed poll
  if (me.dead) return;
  unsigned n = 0;
  unsigned long long t0 = 0;
  while (!ready()) {
    if (++n & 63) continue;
    const unsigned long long now = gtime();
    if (!t0)
      t0 = now;
    else if (now - t0 > kLimitNs) {
      me.dead = true;
      return;
    }
  }
}
DEV void finish(const Out& o, const Me& me, long long cycles) {
  if (me.dead) atomicAdd(o.status, 1u);
  if (me.bad) atomicAdd(o.status + 1, 1u);
  if (threadIdx.x == 0) o.cycles[blockIdx.x] = cycles;
}

// Kernels that exchange h between CTAs, (a) to (e) and (g) of latency.cu. Every word sent is the number of its step +
// 1, and every word received is compared with it, so stale or torn data shows.
#pragma once
#include "device.cuh"

// ---- (a)
__global__ void __launch_bounds__(kThreads) k_grid_sync(int steps, Out o) {
  cg::this_grid().sync();
  const long long t0 = clock64();
  for (int s = 0; s < steps; s++) cg::this_grid().sync();
  finish(o, Me(), clock64() - t0);
}

// ---- (b) one hop: CTA 0 and a partner answer each other. Two flags, 256 bytes apart.
enum Hop { kAcqRel, kRelaxed, kPacket8, kPacket16 };
template <int M>
DEV void hop_put(unsigned* p, unsigned v) {
  if (M == kAcqRel) st_release(p, v);
  if (M == kRelaxed) st_relaxed(p, v);
  if (M == kPacket8) st64_relaxed(p, {v, v});
  if (M == kPacket16) st128_relaxed(p, {v, v, v, v});
}
template <int M>
DEV bool hop_got(unsigned* p, unsigned s, Me& me) {
  if (M == kAcqRel) return ld_acquire(p) == s;
  if (M == kRelaxed) return ld_relaxed(p) == s;
  uint4 v;
  if (M == kPacket8) {
    const uint2 w = ld64_relaxed(p);
    v = {w.x, w.x, w.x, w.y};
  } else
    v = ld128_relaxed(p);
  if (v.w == s) me.bad |= differs(v, s);
  return v.w == s;
}
template <int M>
__global__ void k_hop(unsigned* flags, int partner, int steps, Out o, unsigned* sm) {
  if (threadIdx.x || (blockIdx.x && blockIdx.x != (unsigned)partner)) return;
  const int second = blockIdx.x != 0;
  unsigned *mine = flags + 64 * second, *other = flags + 64 * !second;
  Me me;
  sm[second] = smid();
  const long long t0 = clock64();
  for (unsigned s = 1; s <= (unsigned)steps; s++) {
    if (!second) hop_put<M>(mine, s);
    wait_until(me, [&] { return hop_got<M>(other, s, me); });
    if (second) hop_put<M>(mine, s);
  }
  finish(o, me, clock64() - t0);
}

// ---- (b) all-to-all: each CTA publishes its slice of h, then has all of it. Two buffers, by the step's parity.
// A CTA may overwrite buffer s&1 at step s+2: it has then seen every other CTA's step s+1, which each publishes only
// after a __syncthreads that follows its last read of step s. For the tagged methods the packet itself is the flag.
enum Method { kGridSync, kFlags, kCounter, kTag8, kTag16, kMethods };
template <int M, int U>
DEV void gather_tagged(const unsigned char* b, int tid, int packets, unsigned tag, Me& me) {
  for (int i0 = tid; i0 < packets; i0 += U * kThreads) {
    unsigned pending = 0;
#pragma unroll
    for (int u = 0; u < U; u++) pending |= (i0 + u * kThreads < packets) << u;
    wait_until(me, [&] {  // U loads in flight; ask again only for those that had not arrived
      uint4 v[U];
#pragma unroll
      for (int u = 0; u < U; u++)
        if (pending >> u & 1) {
          if (M == kTag8) {
            const uint2 w = ld64_relaxed(b + 8 * (size_t)(i0 + u * kThreads));
            v[u] = {w.x, w.x, w.x, w.y};
          } else
            v[u] = ld128_relaxed(b + 16 * (size_t)(i0 + u * kThreads));
        }
#pragma unroll
      for (int u = 0; u < U; u++)
        if ((pending >> u & 1) && v[u].w == tag) {
          me.bad |= differs(v[u], tag);
          pending &= ~(1u << u);
        }
      return pending == 0;
    });
  }
}
template <int U>
DEV void gather(const unsigned char* b, int tid, int n16, unsigned tag, Me& me) {
  for (int i0 = tid; i0 < n16; i0 += U * kThreads) {
    uint4 v[U];
#pragma unroll
    for (int u = 0; u < U; u++) {
      const int i = i0 + u * kThreads;
      v[u] = i < n16 ? ldcg128(b + 16 * (size_t)i) : uint4{tag, tag, tag, tag};
    }
#pragma unroll
    for (int u = 0; u < U; u++) me.bad |= differs(v[u], tag);
  }
}
template <int M>
__global__ void __launch_bounds__(kThreads, 1)
    k_exchange(unsigned char* buf, unsigned* flags, int slice, int steps, Out o) {
  const int n = gridDim.x, c = keep(blockIdx.x), tid = keep(threadIdx.x);
  constexpr bool tagged = M == kTag8 || M == kTag16;
  constexpr int unit = M == kTag16 ? 16 : 8, payload = M == kTag8    ? 4
                                                       : M == kTag16 ? 12
                                                                     : 8;  // bytes per store, of them h
  const int each = (slice + payload - 1) / payload;                        // stores per CTA
  Me me;
  const long long t0 = clock64();
  for (int s = 0; s < steps; s++) {
    const unsigned tag = s + 1;
    unsigned char* b = buf + (s & 1) * (size_t)n * each * unit;
    for (int i = tid; i < each; i += kThreads) {
      unsigned char* p = b + ((size_t)c * each + i) * unit;
      if (M == kTag16)
        st128_relaxed(p, {tag, tag, tag, tag});
      else if (M == kTag8)
        st64_relaxed(p, {tag, tag});
      else
        *reinterpret_cast<uint2*>(p) = {tag, tag};
    }
    if (M == kGridSync) cg::this_grid().sync();
    if (M == kFlags || M == kCounter) {
      __syncthreads();  // the slice is written; thread 0's release covers it
      if (tid == 0) {
        if (M == kFlags)
          st_release(flags + c, tag);
        else
          red_release(flags, 1u);
      }
      if (M == kFlags) {
        if (tid < n) wait_until(me, [&] { return ld_acquire(flags + tid) >= tag; });
      } else if (tid == 0)
        wait_until(me, [&] { return ld_acquire(flags) >= tag * n; });
      __syncthreads();
    }
    if constexpr (tagged)
      gather_tagged<M, 4>(b, tid, n * each, tag, me);
    else
      gather<4>(b, tid, n * slice / 16, tag, me);
    __syncthreads();
  }
  finish(o, me, clock64() - t0);
}

// ---- (c)
template <bool RELAXED>
__global__ void __launch_bounds__(kThreads) k_cluster_barrier(int steps, Out o) {
  cluster_arrive();
  cluster_wait();
  const long long t0 = clock64();
  for (int s = 0; s < steps; s++) {
    if (RELAXED)
      cluster_arrive_relaxed();
    else
      cluster_arrive();
    cluster_wait();
  }
  finish(o, Me(), clock64() - t0);
}

// ---- (d) each CTA of a cluster sends P bytes to every CTA (itself too) each step; slot r of a buffer belongs to
// sender r. mbarrier full[b] has one arrival, thread 0's, which announces the bytes of the buffer's next use; step s
// waits for parity (s>>1)&1. Bytes of step s+2 cannot reach full[b] before phase s is over: a peer sends them only when
// it has all of step s+1, ours too, which we send after our wait for step s. They may come before thread 0 re-arms: a
// phase needs its arrival as well as its bytes. The same chain, with the __syncthreads after the reads, keeps s+2 from
// overwriting what s still reads.
enum Push { kStAsync, kStAsyncCta, kStores, kBulk, kPushes };
template <int KIND>
__global__ void __launch_bounds__(kThreads, 1) k_push(int log2p, int steps, Out o) {
  SMEM();
  const unsigned C = cluster_size(), rank = keep(cta_rank()), tid = keep(threadIdx.x);
  const unsigned P = 1u << log2p, bytes = C * P, chunks = P / 16;
  const uint32_t full = keep(saddr(smem)), buf = full + 128, stage = buf + 2 * bytes;
  Me me;
  if (KIND != kStores && tid == 0)
    for (int i = 0; i < 2; i++) {
      mbar_init(full + 8 * i, 1);
      mbar_expect(full + 8 * i, bytes);
    }
  __syncthreads();
  cluster_arrive();
  cluster_wait();  // every CTA runs and its mbarriers are ready
  const long long t0 = clock64();
  for (int s = 0; s < steps; s++) {
    const unsigned tag = s + 1;
    const uint32_t dst = buf + (s & 1) * bytes, bar = full + 8 * (s & 1);
    if (KIND == kBulk) {  // this half of stage is free: every peer had our step s-2 before it sent us its s-1
      const uint32_t src = stage + (s & 1) * P;
      for (unsigned i = tid; i < chunks; i += kThreads) sts128(src + 16 * i, tag);
      fence_async_shared();
      __syncthreads();
      if (tid < C && !me.dead) bulk_to_peer(dst + rank * P, src, P, bar, tid);
    } else if (!me.dead)
      for (unsigned i = tid; i < C * chunks; i += kThreads) {
        const unsigned peer = (rank + (i >> (log2p - 4))) & (C - 1);  // a different first peer for each sender
        const uint32_t p = dst + rank * P + 16 * (i & (chunks - 1));
        if (KIND == kStores)
          st_peer(p, tag, peer);
        else
          st_async(p, tag, bar, peer);
      }
    if (KIND == kStores) {
      __syncwarp();
      cluster_arrive();
      cluster_wait();
    } else {
      wait_until(me, [&] { return mbar_try<KIND != kStAsyncCta>(bar, s >> 1 & 1); });
      if (tid == 0 && s + 2 < steps && !me.dead) mbar_expect(bar, bytes);
    }
    for (unsigned i = tid; i < bytes / 16; i += kThreads) me.bad |= differs(lds128(dst + 16 * i), tag);
    if (KIND != kStores) __syncthreads();
  }
  const long long t = clock64() - t0;
  __syncwarp();
  cluster_arrive();
  cluster_wait();  // nobody leaves while a peer may still write to it
  finish(o, me, t);
}

// ---- (e)
__global__ void k_empty() {}

// ---- (g) a vector that all CTAs have just written, read whole by each: only the read is timed, from grid.sync to
// __syncthreads.
template <bool BULK>
__global__ void __launch_bounds__(kThreads, 1) k_broadcast(unsigned char* buf, int bytes, int steps, Out o) {
  SMEM();
  const int tid = keep(threadIdx.x);
  const uint32_t full = keep(saddr(smem)), data = full + 128;
  Me me;
  long long sum = 0;
  if (BULK && tid == 0) mbar_init(full, 1);
  __syncthreads();
  for (int s = 0; s < steps; s++) {
    const unsigned tag = s + 1;
    unsigned char* b = buf + (s & 1) * (size_t)bytes;
    for (int i = tid * gridDim.x + blockIdx.x; i < bytes / 16; i += gridDim.x * kThreads)
      reinterpret_cast<uint4*>(b)[i] = {tag, tag, tag, tag};
    if (BULK) fence_async_global();
    cg::this_grid().sync();
    const long long t0 = clock64();
    if (BULK) {
      if (tid == 0 && !me.dead) {
        fence_async_global();
        mbar_expect(full, bytes);
        bulk_from_global(data, b, bytes, full);
      }
      wait_until(me, [&] { return mbar_try<false>(full, s & 1); });
    } else
      gather<4>(b, tid, bytes / 16, tag, me);
    __syncthreads();
    sum += clock64() - t0;
    if (BULK)
      for (int i = tid; i < bytes / 16; i += kThreads) me.bad |= differs(lds128(data + 16 * i), tag);
  }
  finish(o, me, sum);
}

// Kernels of one GRU step's arithmetic, (f) of latency.cu.
#pragma once
#include "device.cuh"

// ---- (f) the arithmetic of one step: a CTA's [3U x K] slice of W_hh times h [K x 8]. Warp (wm, wk) owns the three
// gates of units 16 wm .. +15 and one WK-th of K. FULL adds the sum over wk, the gates and the new h; else products
// alone. Weights in registers, or read from SMEM in fragment order. The rest of h stays as it is: no exchange here.
DEV float sigmoid(float x) { return __fdividef(1.f, 1.f + __expf(-x)); }
DEV float gru(float r, float z, float n, float h) {
  n = 2.f * sigmoid(2.f * sigmoid(r) * n) - 1.f;
  return n + sigmoid(z) * (h - n);
}
DEV void sink(const Out& o, float x) {
  if (x == 123.456f) o.status[2] = 1;
}
template <int U, int K, int WK, bool WSMEM>
struct Mma {
  static constexpr int WM = U / 16, KT = K / 16 / WK, HS = K + 8, NB = WK == 1 ? 2 : 1, threads = WM * WK * 32;
  static constexpr int wbytes = WSMEM ? 3 * U * K * 2 : 0, pbytes = WK > 1 ? WK * WM * 3 * 4 * 32 * 4 : 0;
  static constexpr int smem = wbytes + pbytes + NB * 8 * HS * 2;
};
template <int U, int K, int WK, bool WSMEM, bool FULL>
__global__ void __launch_bounds__((Mma<U, K, WK, WSMEM>::threads), 1) k_mma_step(const uint4* w, int steps, Out o) {
  using C = Mma<U, K, WK, WSMEM>;
  SMEM();
  uint4* ws = reinterpret_cast<uint4*>(smem);
  float* part = reinterpret_cast<float*>(smem + C::wbytes);
  __nv_bfloat16* hs = reinterpret_cast<__nv_bfloat16*>(smem + C::wbytes + C::pbytes);  // [buffer][batch][HS]
  const int tid = keep(threadIdx.x), lane = tid & 31, wm = tid / 32 % C::WM, wk = tid / 32 / C::WM;
  auto tile = [&](int q, int t) { return ((wm * 3 + q) * (K / 16) + wk * C::KT + t) * 32 + lane; };
  uint4 a[3][C::KT];
#pragma unroll
  for (int q = 0; q < 3; q++)
#pragma unroll
    for (int t = 0; t < C::KT; t++) {
      if (WSMEM)
        ws[tile(q, t)] = w[tile(q, t)];
      else
        a[q][t] = w[tile(q, t)];
    }
  for (int i = tid; i < C::NB * 8 * C::HS; i += C::threads) hs[i] = __float2bfloat16(0.01f * (i % C::HS % 17));
  const uint32_t h0 = keep(saddr(hs));
  float d[3][4] = {}, h[4] = {};
  __syncthreads();
  const long long t0 = clock64();
  for (int s = 0; s < steps; s++) {
    const uint32_t hb = h0 + (s & (C::NB - 1)) * 16 * C::HS;
    __nv_bfloat16* hn = hs + (~s & (C::NB - 1)) * 8 * C::HS;
    if (FULL) memset(d, 0, sizeof d);
    uint4 b[C::KT / 2];  // one ldmatrix brings B for two tiles of K
#pragma unroll
    for (int t = 0; t < C::KT; t += 2)
      b[t / 2] = ldmatrix4(hb + 2 * ((lane & 7) * C::HS + (wk * C::KT + t) * 16 + (lane >> 3) * 8));
#pragma unroll
    for (int t = 0; t < C::KT; t++)
#pragma unroll
      for (int q = 0; q < 3; q++)
        mma(d[q], WSMEM ? ws[tile(q, t)] : a[q][t], t & 1 ? b[t / 2].z : b[t / 2].x, t & 1 ? b[t / 2].w : b[t / 2].y);
    if (FULL) {
      if (WK > 1) {  // also the point after which hs may be overwritten
#pragma unroll
        for (int q = 0; q < 3; q++)
#pragma unroll
          for (int i = 0; i < 4; i++) part[(((wk * C::WM + wm) * 3 + q) * 4 + i) * 32 + lane] = d[q][i];
        __syncthreads();
      }
#pragma unroll
      for (int e = 0; e < 4 / WK; e++) {
        const int i = WK == 1 ? e : wk * (4 / WK) + e;
        float g[3];
#pragma unroll
        for (int q = 0; q < 3; q++) {
          g[q] = WK == 1 ? d[q][e] : 0.f;
          if (WK > 1)
            for (int k = 0; k < WK; k++) g[q] += part[(((k * C::WM + wm) * 3 + q) * 4 + i) * 32 + lane];
        }
        h[e] = gru(g[0], g[1], g[2], h[e]);
        hn[((lane & 3) * 2 + (i & 1)) * C::HS + wm * 16 + (lane >> 2) + (i >> 1) * 8] = __float2bfloat16(h[e]);
      }
    }
    __syncthreads();
  }
  const long long t = clock64() - t0;
  for (int q = 0; q < 3; q++) sink(o, d[q][0] + d[q][1] + d[q][2] + d[q][3] + h[q]);
  finish(o, Me(), t);
}
// fp32, U=32, K=256 (a larger slice fits neither registers nor SMEM): warp = 32 of K; thread = 2 units x 3 gates x 16
// of K.
constexpr int kFfmaW = 96 * 256 * 4, kFfmaPart = 8 * 3 * 8 * 32 * 4, kFfmaH = 8 * 256 * 4;
template <bool WSMEM, bool FULL>
__global__ void __launch_bounds__(kThreads, 1) k_ffma_step(const float4* w, int steps, Out o) {
  SMEM();
  float4* ws = reinterpret_cast<float4*>(smem);
  float* part = reinterpret_cast<float*>(smem + (WSMEM ? kFfmaW : 0));  // [warp][gate][batch][unit]
  float* hs = part + kFfmaPart / 4;                                     // [batch][K]
  const int tid = keep(threadIdx.x), lane = tid & 31, warp = tid >> 5, half = lane >> 4, pair = lane & 15;
  float4 wr[6][4];
#pragma unroll
  for (int r = 0; r < 6; r++)
#pragma unroll
    for (int j = 0; j < 4; j++) {
      const int i = (r * 4 + j) * kThreads + tid;
      if (WSMEM)
        ws[i] = w[i];
      else
        wr[r][j] = w[i];
    }
  for (int i = tid; i < 8 * 256; i += kThreads) hs[i] = 0.01f * (i % 17);
  float acc[6][8] = {}, h = 0.f;
  __syncthreads();
  const long long t0 = clock64();
  for (int s = 0; s < steps; s++) {
    if (FULL) memset(acc, 0, sizeof acc);
#pragma unroll
    for (int j = 0; j < 4; j++) {
      float4 v[6];
#pragma unroll
      for (int r = 0; r < 6; r++) v[r] = WSMEM ? ws[(r * 4 + j) * kThreads + tid] : wr[r][j];
#pragma unroll
      for (int b = 0; b < 8; b++) {
        const float4 x = *reinterpret_cast<const float4*>(hs + b * 256 + warp * 32 + half * 16 + j * 4);
#pragma unroll
        for (int r = 0; r < 6; r++)
          acc[r][b] = fmaf(v[r].w, x.w, fmaf(v[r].z, x.z, fmaf(v[r].y, x.y, fmaf(v[r].x, x.x, acc[r][b]))));
      }
    }
    if (FULL) {
#pragma unroll
      for (int g = 0; g < 3; g++)
#pragma unroll
        for (int b = 0; b < 4; b++) {  // the halves of K swap: each ends with four batches
          float m[2];
#pragma unroll
          for (int u = 0; u < 2; u++) {
            const float lo = acc[g * 2 + u][b], hi = acc[g * 2 + u][b + 4];
            m[u] = (half ? hi : lo) + __shfl_xor_sync(~0u, half ? lo : hi, 16);
          }
          *reinterpret_cast<float2*>(part + ((warp * 3 + g) * 8 + b + 4 * half) * 32 + pair * 2) = {m[0], m[1]};
        }
      __syncthreads();
      float g[3] = {};
#pragma unroll
      for (int q = 0; q < 3; q++)
#pragma unroll
        for (int k = 0; k < 8; k++) g[q] += part[((k * 3 + q) * 8 + warp) * 32 + lane];  // batch = warp, unit = lane
      h = gru(g[0], g[1], g[2], h);
      hs[warp * 256 + lane] = h;
    }
    __syncthreads();
  }
  const long long t = clock64() - t0;
  for (int r = 0; r < 6; r++)
    for (int b = 0; b < 8; b++) sink(o, acc[r][b] + h);
  finish(o, Me(), t);
}

// Latency microbenchmarks for the fused GRU: what one time step's exchange of h, and its arithmetic, cost.
//   latency [--quick] [a-g ...]     a grid.sync  b global hop and all-to-all  c cluster barrier  d exchange inside a
//   cluster
//                                   e cluster occupancy  f one step's arithmetic  g broadcast read of h from L2
// One JSON object a line. us: slope of event time between a short and a long launch, so launch cost cancels (median of
// the repetitions, with min and max). cycles: SM clock per step of the long launch, mean and max over its CTAs. No
// kernel can hang: a spin of more than a second gives up ("timeouts") and its thread waits no more, but still goes
// through every barrier. "bad" != 0 means stale or torn data: that exchange is wrong on this device.
#include <algorithm>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <random>
#include <string>
#include <vector>
#include "exchange.cuh"
#include "step.cuh"

constexpr size_t kBufBytes = 8u << 20, kAlone = 120 << 10;  // kAlone: so much SMEM that a CTA has its SM to itself
constexpr int kShort = 200, kLong = 2200, kMaxCtas = 1024;
static unsigned char* g_buf;
static unsigned *g_flags, *g_sm;
static Out g_out;
static cudaEvent_t g_ev[2];
static int g_sms, g_reps = 5;

static void print_json(const char* fmt, va_list ap, const char* tail) {  // 'x' in fmt becomes "x"
  char s[768];
  vsnprintf(s, sizeof s, fmt, ap);
  for (char* c = s; *c; c++)
    if (*c == '\'') *c = '"';
  printf("{%s%s}\n", s, tail);
  fflush(stdout);
}
static void line(const char* fmt, ...) {
  va_list ap;
  va_start(ap, fmt);
  print_json(fmt, ap, "");
  va_end(ap);
}
static void check(cudaError_t e, const char* what, int at) {  // an error that the process can't outlive
  if (e == cudaSuccess) return;
  line("'test':'fatal','line':%d,'call':'%s','error':'%s'", at, what, cudaGetErrorName(e));
  exit(3);
}
#define CK(x) check((x), #x, __LINE__)

template <class... P, class... A>
static cudaError_t launch(void (*k)(P...), int grid, int block, int cluster, size_t smem, bool coop, A... a) {
  const void* f = reinterpret_cast<const void*>(k);
  cudaError_t e = cudaFuncSetAttribute(f, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)smem);
  if (!e && cluster > 8) e = cudaFuncSetAttribute(f, cudaFuncAttributeNonPortableClusterSizeAllowed, 1);
  if (e) return e;
  cudaLaunchConfig_t c = {};
  cudaLaunchAttribute at[2] = {};
  c.gridDim = dim3(grid);
  c.blockDim = dim3(block);
  c.dynamicSmemBytes = smem;
  c.attrs = at;
  if (cluster > 1) {
    at[c.numAttrs].id = cudaLaunchAttributeClusterDimension;
    at[c.numAttrs++].val.clusterDim = {(unsigned)cluster, 1, 1};
  }
  if (coop) {
    at[c.numAttrs].id = cudaLaunchAttributeCooperative;
    at[c.numAttrs++].val.cooperative = 1;
  }
  return cudaLaunchKernelEx(&c, k, static_cast<P>(a)...);
}
template <class... P>
static cudaError_t max_clusters(void (*k)(P...), int cluster, size_t smem, int* n) {
  const void* f = reinterpret_cast<const void*>(k);
  cudaError_t e = cudaFuncSetAttribute(f, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)smem);
  if (!e && cluster > 8) e = cudaFuncSetAttribute(f, cudaFuncAttributeNonPortableClusterSizeAllowed, 1);
  if (e) return e;
  cudaLaunchConfig_t c = {};
  cudaLaunchAttribute at = {};
  at.id = cudaLaunchAttributeClusterDimension;
  at.val.clusterDim = {(unsigned)cluster, 1, 1};
  c.gridDim = dim3(g_sms / cluster * cluster);
  c.blockDim = dim3(kThreads);
  c.dynamicSmemBytes = smem;
  c.attrs = &at;
  c.numAttrs = 1;
  return cudaOccupancyMaxActiveClusters(n, f, &c);
}

struct Stat {
  double us = 0, lo = 0, hi = 0, cycles = 0, cycles_max = 0;
  unsigned timeouts = 0, bad = 0;
  cudaError_t err = cudaSuccess;
};
static Stat measure(const std::function<cudaError_t(int)>& go) {
  Stat r;
  float ms = 0;
  unsigned st[3];
  long long cyc[kMaxCtas];
  auto run = [&](int steps) {  // false: stop measuring this case
    CK(cudaMemset(g_buf, 0, kBufBytes));
    CK(cudaMemset(g_flags, 0, 4096));
    CK(cudaMemset(g_out.status, 0, 12));
    CK(cudaMemset(g_out.cycles, 0, sizeof cyc));
    CK(cudaEventRecord(g_ev[0]));
    if ((r.err = go(steps))) {
      cudaGetLastError();
      return false;
    }  // a launch this device refuses is a result, not fatal
    CK(cudaEventRecord(g_ev[1]));
    CK(cudaEventSynchronize(g_ev[1]));
    CK(cudaEventElapsedTime(&ms, g_ev[0], g_ev[1]));
    CK(cudaMemcpy(st, g_out.status, 12, cudaMemcpyDeviceToHost));
    r.timeouts += st[0];
    r.bad += st[1];
    return st[0] == 0;
  };
  std::vector<double> v;
  if (!run(kShort)) return r;  // warm-up
  for (int i = 0; i < g_reps; i++) {
    if (!run(kShort)) return r;
    const double a = ms;
    if (!run(kLong)) return r;
    v.push_back((ms - a) * 1e3 / (kLong - kShort));
  }
  std::sort(v.begin(), v.end());
  r.us = v[v.size() / 2];
  r.lo = v.front();
  r.hi = v.back();
  CK(cudaMemcpy(cyc, g_out.cycles, sizeof cyc, cudaMemcpyDeviceToHost));
  int n = 0;
  for (long long c : cyc)
    if (c) {
      n++;
      r.cycles += (double)c / kLong;
      r.cycles_max = std::max(r.cycles_max, (double)c / kLong);
    }
  if (n) r.cycles /= n;
  return r;
}
static void report(const Stat& s, const char* fmt, ...) {
  char tail[256];
  if (s.err)
    snprintf(tail, sizeof tail, ",\"error\":\"%s\"", cudaGetErrorName(s.err));
  else
    snprintf(
        tail, sizeof tail,
        ",\"us\":%.4f,\"us_min\":%.4f,\"us_max\":%.4f,\"cycles\":%.0f,\"cycles_max\":%.0f,\"timeouts\":%u,\"bad\":%u",
        s.us, s.lo, s.hi, s.cycles, s.cycles_max, s.timeouts, s.bad);
  va_list ap;
  va_start(ap, fmt);
  print_json(fmt, ap, tail);
  va_end(ap);
}

__global__ void k_spin(long long cycles) {
  const long long t0 = clock64();
  while (clock64() - t0 < cycles) {
  }
}

static void section_a() {
  for (int n : {8, 16, 32, 64, g_sms})
    report(measure([&](int s) { return launch(k_grid_sync, n, kThreads, 1, kAlone, true, s, g_out); }),
           "'test':'grid_sync','ctas':%d", n);
}

template <int M>
static void hop(const char* name) {
  for (int p : {1, 2, 3, 17, 34, 66, 99, g_sms - 1}) {
    const Stat s =
        measure([&](int n) { return launch(k_hop<M>, g_sms, 32, 1, kAlone, true, g_flags, p, n, g_out, g_sm); });
    unsigned sm[2];
    CK(cudaMemcpy(sm, g_sm, 8, cudaMemcpyDeviceToHost));
    report(s, "'test':'hop','method':'%s','partner':%d,'sm':[%u,%u],'hop_us':%.4f", name, p, sm[0], sm[1], s.us / 2);
  }
}
template <int M>
static void exchange(const char* name, int n, int H, int B) {
  const int slice = H * B * 2 / n;  // bytes a CTA publishes; a multiple of 8
  report(measure([&](int s) {
           return launch(k_exchange<M>, n, kThreads, 1, kAlone, true, g_buf, g_flags, slice, s, g_out);
         }),
         "'test':'exchange','method':'%s','ctas':%d,'H':%d,'B':%d,'bytes':%d", name, n, H, B, n * slice);
}
static void section_b() {
  hop<kAcqRel>("release/acquire");
  hop<kRelaxed>("relaxed");
  hop<kPacket8>("packet8");
  hop<kPacket16>("packet16");
  for (int H : {512, 1024, 2048})
    for (int B : {1, 16, 64})
      for (int n : {16, 32, 64, 128}) {
        if (n > g_sms) continue;
        exchange<kGridSync>("grid.sync", n, H, B);
        exchange<kFlags>("flags", n, H, B);
        exchange<kCounter>("counter", n, H, B);
        exchange<kTag8>("tag8", n, H, B);
        exchange<kTag16>("tag16", n, H, B);
      }
}

static void section_c() {
  for (int c : {2, 4, 8, 16}) {
    report(measure([&](int s) { return launch(k_cluster_barrier<false>, c, kThreads, c, kAlone, false, s, g_out); }),
           "'test':'cluster_barrier','cluster':%d,'arrive':'release'", c);
    report(measure([&](int s) { return launch(k_cluster_barrier<true>, c, kThreads, c, kAlone, false, s, g_out); }),
           "'test':'cluster_barrier','cluster':%d,'arrive':'relaxed'", c);
  }
}

template <int KIND>
static void push(const char* name, int c, int log2p) {
  const size_t smem = std::max<size_t>(kAlone, 128 + (size_t)(2 * c + 2) << log2p);
  int most = 0;
  if (max_clusters(k_push<KIND>, c, smem, &most)) {
    cudaGetLastError();
    most = 0;
  }
  for (int n : {1, most})  // alone, and as many as the device holds
    if (n > 0)
      report(measure([&](int s) { return launch(k_push<KIND>, n * c, kThreads, c, smem, false, log2p, s, g_out); }),
             "'test':'cluster_exchange','method':'%s','cluster':%d,'clusters':%d,'bytes_each':%d,'bytes':%d", name, c,
             n, 1 << log2p, c << log2p);
    else
      line("'test':'cluster_exchange','method':'%s','cluster':%d,'bytes_each':%d,'error':'no cluster fits'", name, c,
           1 << log2p);
}
static void section_d() {
  for (int c : {2, 4, 8, 16})
    for (int l = 6; l <= 12; l++) {
      push<kStAsync>("st.async", c, l);
      push<kStAsyncCta>("st.async/cta-scope wait", c, l);
      push<kStores>("stores+cluster barrier", c, l);
      push<kBulk>("bulk copy", c, l);
    }
}

static void section_e() {
  for (int c : {2, 4, 8, 16})
    for (int kb : {100, 160, 200, 227}) {
      int n = 0;
      const cudaError_t e = max_clusters(k_empty, c, (size_t)kb << 10, &n);
      if (e) cudaGetLastError();
      line("'test':'occupancy','cluster':%d,'smem_kb':%d,'max_active_clusters':%d,'status':'%s'", c, kb, n,
           cudaGetErrorName(e));
    }
}

template <int U, int K, int WK, bool WSMEM, bool FULL>
static void mma_step(const void* w) {
  using C = Mma<U, K, WK, WSMEM>;
  report(measure([&](int s) {
           return launch(k_mma_step<U, K, WK, WSMEM, FULL>, g_sms, C::threads, 1, C::smem, false, (const uint4*)w, s,
                         g_out);
         }),
         "'test':'step','unit':'mma bf16','U':%d,'K':%d,'N':8,'threads':%d,'weights':'%s','part':'%s'", U, K,
         C::threads, WSMEM ? "smem" : "registers", FULL ? "whole" : "products");
}
template <int U, int K, int WK>
static void mma_steps(const void* w) {
  mma_step<U, K, WK, false, false>(w);
  mma_step<U, K, WK, false, true>(w);
  mma_step<U, K, WK, true, false>(w);
  mma_step<U, K, WK, true, true>(w);
}
template <bool WSMEM, bool FULL>
static void ffma_step(const void* w) {
  const int smem = (WSMEM ? kFfmaW : 0) + kFfmaPart + kFfmaH;
  report(measure([&](int s) {
           return launch(k_ffma_step<WSMEM, FULL>, g_sms, kThreads, 1, smem, false, (const float4*)w, s, g_out);
         }),
         "'test':'step','unit':'ffma fp32','U':32,'K':256,'N':8,'threads':%d,'weights':'%s','part':'%s'", kThreads,
         WSMEM ? "smem" : "registers", FULL ? "whole" : "products");
}
static void section_f() {
  const int n = 192 * 512;  // the largest slice
  std::mt19937 rng(0);
  std::uniform_real_distribution<float> u(-0.05f, 0.05f);
  std::vector<float> f(n);
  std::vector<__nv_bfloat16> h(n);
  for (int i = 0; i < n; i++) {
    f[i] = u(rng);
    h[i] = __float2bfloat16(f[i]);
  }
  void *wf, *wh;
  CK(cudaMalloc(&wf, n * 4));
  CK(cudaMalloc(&wh, n * 2));
  CK(cudaMemcpy(wf, f.data(), n * 4, cudaMemcpyHostToDevice));
  CK(cudaMemcpy(wh, h.data(), n * 2, cudaMemcpyHostToDevice));
  mma_steps<32, 256, 4>(wh);
  mma_steps<64, 512, 4>(wh);
  mma_steps<128, 128, 1>(wh);
  ffma_step<false, false>(wf);
  ffma_step<false, true>(wf);
  ffma_step<true, false>(wf);
  ffma_step<true, true>(wf);
  CK(cudaFree(wf));
  CK(cudaFree(wh));
}

template <bool BULK>
static void broadcast(int bytes) {
  report(measure([&](int s) {
           return launch(k_broadcast<BULK>, g_sms, kThreads, 1, kAlone, true, g_buf, bytes, s, g_out);
         }),
         "'test':'broadcast','method':'%s','ctas':%d,'bytes':%d,'note':'cycles: the read alone; us: with grid.sync and "
         "writing'",
         BULK ? "bulk to smem" : "ld.cg", g_sms, bytes);
}
static void section_g() {
  for (int kb = 2; kb <= 64; kb *= 2) {
    broadcast<false>(kb << 10);
    broadcast<true>(kb << 10);
  }
}

int main(int argc, char** argv) {
  std::string want;
  for (int i = 1; i < argc; i++) {
    if (std::string(argv[i]) == "--quick")
      g_reps = 1;
    else
      want += argv[i][0];
  }
  if (want.empty()) want = "abcdefg";
  cudaDeviceProp p;
  CK(cudaSetDevice(0));
  CK(cudaGetDeviceProperties(&p, 0));
  int khz = 0, driver = 0, runtime = 0;
  CK(cudaDeviceGetAttribute(&khz, cudaDevAttrClockRate, 0));
  CK(cudaDriverGetVersion(&driver));
  CK(cudaRuntimeGetVersion(&runtime));
  g_sms = p.multiProcessorCount;
  CK(cudaMalloc(&g_buf, kBufBytes));
  CK(cudaMalloc(&g_flags, 4096));
  CK(cudaMalloc(&g_sm, 64));
  CK(cudaMalloc(&g_out.status, 64));
  CK(cudaMalloc(&g_out.cycles, kMaxCtas * 8));
  for (auto& e : g_ev) CK(cudaEventCreate(&e));
  float ms = 0;
  for (int i = 0; i < 2; i++) {  // first to wake the clocks, then to read them
    CK(cudaEventRecord(g_ev[0]));
    k_spin<<<g_sms, 128>>>(i ? 20000000 : 600000000);
    CK(cudaGetLastError());
    CK(cudaEventRecord(g_ev[1]));
    CK(cudaEventSynchronize(g_ev[1]));
    CK(cudaEventElapsedTime(&ms, g_ev[0], g_ev[1]));
  }
  line(
      "'test':'device','name':'%s','cc':'%d.%d','sms':%d,'l2_mb':%d,'smem_optin_kb':%d,'max_mhz':%d,'measured_mhz':%."
      "0f,"
      "'driver':%d,'runtime':%d",
      p.name, p.major, p.minor, g_sms, p.l2CacheSize >> 20, (int)(p.sharedMemPerBlockOptin >> 10), khz / 1000, 2e4 / ms,
      driver, runtime);
  void (*const sections[])() = {section_a, section_b, section_c, section_d, section_e, section_f, section_g};
  for (char c : want)
    if (c >= 'a' && c <= 'g') sections[c - 'a']();
  CK(cudaDeviceSynchronize());
  return 0;
}

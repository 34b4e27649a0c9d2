// Every wrapper of csrc/cuda/arch.h does on the device what its scalar model does on the CPU: this program, compiled by
// nvcc and, with the emulator, by a C++ compiler, prints the same lines. Operands are small integers, so that sums are
// exact in any order.
#include <cstdio>
#include <vector>

#include "cuda/arch.h"

namespace {

using namespace gru_fused::cuda;

constexpr int kCtas = 4, kThreads = 64, kRounds = 40;
int failures = 0;

void check(cudaError_t status, const char* what) {
  if (status == cudaSuccess) return;
  std::printf("%s: %s\n", what, cudaGetErrorString(status));
  ++failures;
}

struct Call {
  uint32_t* out;
  uint64_t* packets;
  uint32_t* counter;
};

template <class T>
__device__ uint32_t operand_word(int row, int column) {
  const auto number = [&](int c) { return float((row * 7 + c * 3) % 11 - 5); };
  if constexpr (sizeof(T) == 4)
    return arch::round_to_tf32(number(column));
  else if constexpr (std::is_same_v<T, __half>)
    return __half_as_ushort(__float2half_rn(number(column))) |
           uint32_t(__half_as_ushort(__float2half_rn(number(column + 1)))) << 16;
  else
    return __bfloat16_as_ushort(__float2bfloat16_rn(number(column))) |
           uint32_t(__bfloat16_as_ushort(__float2bfloat16_rn(number(column + 1)))) << 16;
}

// out: [lane][4] sums.
template <class T>
__global__ void products(Call call) {
  constexpr int kPerWord = 4 / int(sizeof(T)), kHalf = 4 * kPerWord;
  const int lane = int(threadIdx.x), g = lane / 4, column = lane % 4 * kPerWord;
  const uint4 a = {operand_word<T>(g, column), operand_word<T>(g + 8, column), operand_word<T>(g, column + kHalf),
                   operand_word<T>(g + 8, column + kHalf)};
  const uint2 b = {operand_word<T>(g + 3, column), operand_word<T>(g + 3, column + kHalf)};
  float d[4] = {1.f, 2.f, 3.f, float(lane)};
  arch::mma<T>(d, a, b);
  arch::mma<T>(d, a, b);
  for (int i = 0; i < 4; ++i) call.out[lane * 4 + i] = __float_as_uint(d[i]);
}

// Patterns around every kind of float: signs, subnormals, ties, infinities, NaN only as "is one".
__global__ void rounding(Call call) {
  const uint32_t thread = blockIdx.x * blockDim.x + threadIdx.x;
  const uint32_t exponents[8] = {0, 1, 100, 127, 128, 200, 254, 255};
  const uint32_t fractions[8] = {0, 0x0fff, 0x1000, 0x1001, 0x2fff, 0x3000, 0x7fefff, 0x7ff000};
  const uint32_t bits = (thread & 1) << 31 | exponents[thread / 2 % 8] << 23 | fractions[thread / 16 % 8];
  const bool nan = (bits & 0x7f800000u) == 0x7f800000u && (bits & 0x7fffffu);
  // Which of its own bits a NaN keeps is nobody's business; no more is it whether the largest number rounds to
  // infinity.
  call.out[thread] = nan ? 1 : arch::round_to_tf32(__uint_as_float(bits)) & 0xffffe000u;
}

// Rounds of words passed around a cluster by store_async, as the kernels do: two buffers, two barriers.
__global__ void cluster_words(Call call) {
  GRU_FUSED_DYNAMIC_SHARED(shared);
  if constexpr (arch::kHasClusters) {
    auto* const barriers = reinterpret_cast<uint64_t*>(shared);
    auto* const words = reinterpret_cast<uint32_t*>(shared + 16);  // [2][kCtas][kThreads]
    const int rank = int(blockIdx.x), thread = int(threadIdx.x), all = kCtas * kThreads;
    if (thread == 0) {
      arch::mbarrier_init(barriers);
      arch::mbarrier_init(barriers + 1);
    }
    arch::cluster_sync();
    uint32_t mine = uint32_t(rank * 1000 + thread);
    for (int round = 1; round <= kRounds; ++round) {
      const int buffer = round % 2;
      if (thread == 0) arch::mbarrier_expect(barriers + buffer, all * 4);
      const auto of = [&](int i) { return __shfl_sync(0xffffffffu, mine, thread % 32 / 4 * 4 + i); };
      const uint4 four{of(0), of(1), of(2), of(3)};
      for (int to = thread % 4; to < kCtas; to += 4)
        arch::store_async(words + buffer * all + rank * kThreads + thread / 4 * 4, four, barriers + buffer,
                          uint32_t(to));
      arch::mbarrier_wait(barriers + buffer, uint32_t((round - 1) / 2 % 2));
      uint32_t sum = uint32_t(rank) + 2166136261u;
      for (int from = 0; from < kCtas; ++from)
        sum = (sum ^ words[buffer * all + from * kThreads + (thread + round) % kThreads]) * 16777619u;
      mine = sum + uint32_t(thread) * 2654435761u;
      __syncthreads();  // a buffer's words are read by all before its second next round
    }
    call.out[rank * kThreads + thread] = mine;
    arch::cluster_sync();
  }
}

// The same through global memory: packets that carry their round.
__global__ void packet_words(Call call) {
  const int rank = int(blockIdx.x), thread = int(threadIdx.x), all = kCtas * kThreads;
  uint32_t mine = uint32_t(rank * 1000 + thread);
  for (int round = 1; round <= kRounds; ++round) {
    uint64_t* const packets = call.packets + round % 2 * all;
    arch::store_packet(packets + rank * kThreads + thread, mine, uint32_t(round));
    uint32_t sum = uint32_t(rank) + 2166136261u;
    for (int from = 0; from < kCtas; ++from) {
      const int at = from * kThreads + (thread + round) % kThreads;
      const auto load = [&] {
        const arch::Packets pair = arch::load_packets(packets + at / 2 * 2);
        return at % 2 ? pair.second : pair.first;
      };
      uint64_t found = load();
      for (uint32_t polls = 0; uint32_t(found >> 32) != uint32_t(round); ++polls) {
        arch::poll_again(polls);
        found = load();
      }
      sum = (sum ^ uint32_t(found)) * 16777619u;
    }
    mine = sum + uint32_t(thread) * 2654435761u;
    __syncthreads();
  }
  call.out[rank * kThreads + thread] = mine;
}

// And through plain words behind a counter.
__global__ void flag_words(Call call) {
  const int rank = int(blockIdx.x), thread = int(threadIdx.x), all = kCtas * kThreads;
  auto* const words = reinterpret_cast<uint32_t*>(call.packets);
  uint32_t mine = uint32_t(rank * 1000 + thread);
  for (int round = 1; round <= kRounds; ++round) {
    uint32_t* const of_round = words + round % 2 * all;
    arch::store_word(of_round + rank * kThreads + thread, mine);
    __syncthreads();
    if (thread == 0) {
      arch::add_release(call.counter);
      for (uint32_t polls = 0; arch::load_acquire(call.counter) < uint32_t(kCtas * round); ++polls)
        arch::poll_again(polls);
    }
    __syncthreads();
    uint32_t sum = uint32_t(rank) + 2166136261u;
    for (int from = 0; from < kCtas; ++from) {
      const int at = from * kThreads + (thread + round) % kThreads;
      const uint4 four = arch::load_words(reinterpret_cast<const uint4*>(of_round) + at / 4);
      sum = (sum ^ (at % 4 == 0 ? four.x : at % 4 == 1 ? four.y : at % 4 == 2 ? four.z : four.w)) * 16777619u;
    }
    mine = sum + uint32_t(thread) * 2654435761u;
    __syncthreads();
  }
  call.out[rank * kThreads + thread] = mine;
}

enum class Kind { plain, cluster, cooperative };

void run(const char* name, void (*kernel)(Call), int ctas, int threads, Kind kind) {
  const size_t words = size_t(kCtas) * kThreads * 4, bytes = words * 4;
  char* memory = nullptr;
  check(cudaMalloc(reinterpret_cast<void**>(&memory), 4 * bytes), "memory");
  check(cudaMemsetAsync(memory, 0, 4 * bytes, nullptr), "clearing");
  const Call call = {reinterpret_cast<uint32_t*>(memory), reinterpret_cast<uint64_t*>(memory + bytes),
                     reinterpret_cast<uint32_t*>(memory + 3 * bytes)};
  cudaLaunchConfig_t config{};
  cudaLaunchAttribute attribute[1];
  config.gridDim = dim3(unsigned(ctas));
  config.blockDim = dim3(unsigned(threads));
  config.attrs = attribute;
  config.numAttrs = kind == Kind::plain ? 0 : 1;
  if (kind == Kind::cluster) {
    attribute[0].id = cudaLaunchAttributeClusterDimension;
    attribute[0].val.clusterDim.x = unsigned(ctas);
    attribute[0].val.clusterDim.y = attribute[0].val.clusterDim.z = 1;
    config.dynamicSmemBytes = 16 + 2 * size_t(kCtas) * kThreads * 4;
  } else if (kind == Kind::cooperative) {
    attribute[0].id = cudaLaunchAttributeCooperative;
    attribute[0].val.cooperative = 1;
  }
  check(cudaLaunchKernelEx(&config, kernel, call), name);
  std::vector<uint32_t> out(words);
  check(cudaMemcpyAsync(out.data(), memory, bytes, cudaMemcpyDeviceToHost, nullptr), name);
  check(cudaStreamSynchronize(nullptr), name);
  uint64_t hash = 1469598103934665603ull;  // FNV-1a
  for (const uint32_t word : out) hash = (hash ^ word) * 1099511628211ull;
  std::printf("%s %016llx first %08x %08x %08x\n", name, (unsigned long long)hash, out[0], out[1], out[2]);
  check(cudaFree(memory), "memory");
}

}  // namespace

int main() {
  run("mma bfloat16", products<__nv_bfloat16>, 1, 32, Kind::plain);
  run("mma float16", products<__half>, 1, 32, Kind::plain);
  run("mma tf32", products<float>, 1, 32, Kind::plain);
  run("round_to_tf32", rounding, 2, 64, Kind::plain);
  int major = 0;
  check(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, 0), "device");
  if (major >= 9) run("store_async, mbarrier, cluster_sync", cluster_words, kCtas, kThreads, Kind::cluster);
  run("store_packet, load_packets", packet_words, kCtas, kThreads, Kind::cooperative);
  run("store_word, load_words, add_release, load_acquire", flag_words, kCtas, kThreads, Kind::cooperative);
  return failures != 0;
}

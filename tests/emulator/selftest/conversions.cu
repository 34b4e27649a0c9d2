// bfloat16 and half, for a comparison with torch's.

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

namespace {

template <class In, class Out>
int convert(const In* in, Out* out, int count, Out (*one)(In)) {
  cudaLaunchConfig_t config{};
  config.gridDim = (count + 255) / 256;
  config.blockDim = 256;
  const auto kernel = +[](const In* in, Out* out, int count, Out (*one)(In)) {
    const int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < count) out[i] = one(in[i]);
  };
  return cudaLaunchKernelEx(&config, kernel, in, out, count, one);
}

uint16_t to_bfloat16(float x) { return __bfloat16_as_ushort(__float2bfloat16_rn(x)); }
float from_bfloat16(uint16_t bits) { return __bfloat162float(__ushort_as_bfloat16(bits)); }
uint16_t to_half(float x) { return __half_as_ushort(__float2half_rn(x)); }
float from_half(uint16_t bits) { return __half2float(__ushort_as_half(bits)); }

}  // namespace

extern "C" {
int float_to_bfloat16(const float* in, uint16_t* out, int count) { return convert(in, out, count, to_bfloat16); }
int bfloat16_to_float(const uint16_t* in, float* out, int count) { return convert(in, out, count, from_bfloat16); }
int float_to_half(const float* in, uint16_t* out, int count) { return convert(in, out, count, to_half); }
int half_to_float(const uint16_t* in, float* out, int count) { return convert(in, out, count, from_half); }
}

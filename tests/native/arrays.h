// What the programs that check the kernels share: arrays, threads and random shapes.
#pragma once

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "../../csrc/cpu/kernels.h"

using namespace gru_fused;

namespace {

std::mt19937 generator(0);

int64_t pick(int64_t low, int64_t high) { return std::uniform_int_distribution<int64_t>(low, high)(generator); }

template <class Number>
Number number_at(const unsigned char* p) {
  Number x;
  std::memcpy(&x, p, sizeof x);
  return x;
}

// Rows with a gap between them, as strided tensors have, and no byte past the last.
struct Matrix {
  DType dtype;
  int64_t rows, columns, stride;
  std::vector<unsigned char> bytes;

  // scale 0: an output. Gradients of weights are dense.
  Matrix(DType dtype, int64_t rows, int64_t columns, double scale = 0, bool dense = false)
      : dtype(dtype), rows(rows), columns(columns), stride(columns + (dense ? 0 : pick(0, 3))) {
    bytes.resize(rows > 0 ? ((rows - 1) * stride + columns) * size_of(dtype) : 0);
    std::uniform_real_distribution<double> uniform(-scale, scale);
    for (int64_t r = 0; r < rows; ++r)
      for (int64_t c = 0; c < columns; ++c) set(r, c, scale ? uniform(generator) : NAN);  // outputs begin as NaN
  }

  double get(int64_t r, int64_t c) const {
    const unsigned char* p = bytes.data() + (r * stride + c) * size_of(dtype);
    switch (dtype) {
      case DType::f64:
        return number_at<double>(p);
      case DType::f32:
        return number_at<float>(p);
      case DType::f16:
        return number_at<_Float16>(p);
      case DType::bf16:
        break;
    }
    const uint32_t bits = uint32_t(number_at<uint16_t>(p)) << 16;
    return number_at<float>(reinterpret_cast<const unsigned char*>(&bits));
  }

  void set(int64_t r, int64_t c, double x) {
    unsigned char* p = bytes.data() + (r * stride + c) * size_of(dtype);
    const float single = float(x);
    const _Float16 half = _Float16(single);
    if (dtype == DType::f64) std::memcpy(p, &x, 8);
    if (dtype == DType::f32) std::memcpy(p, &single, 4);
    if (dtype == DType::f16) std::memcpy(p, &half, 2);
    if (dtype == DType::bf16) std::memcpy(p, reinterpret_cast<const unsigned char*>(&single) + 2, 2);  // cut off
  }

  Rows<const void> in(int64_t step_rows = 0) const { return {bytes.data(), step_rows * stride, stride}; }
  Rows<void> out(int64_t step_rows = 0) { return {bytes.data(), step_rows * stride, stride}; }
};

void larger(double& worst, double error) {
  if (!(error <= worst)) worst = error;  // NaN counts as larger
}

// Every piece of work on its own thread: nothing orders them but the end of the call.
cpu::Parallel threads(int64_t count) {
  return {[](int64_t pieces, cpu::Parallel::Body body, const void* context) {
            std::vector<std::thread> running;
            for (int64_t i = 0; i < pieces; ++i) running.emplace_back([=] { body(context, i); });
            for (std::thread& thread : running) thread.join();
          },
          count};
}

// As inside another parallel region: one piece after the other, whatever was asked for.
cpu::Parallel one_by_one(int64_t count) {
  return {[](int64_t pieces, cpu::Parallel::Body body, const void* context) {
            for (int64_t i = 0; i < pieces; ++i) body(context, i);
          },
          count};
}

// Runs a kernel with scratch memory full of NaN in every type.
template <class Params, class ScratchBytes, class Run>
void launch(const Params& params, ScratchBytes scratch_bytes, Run run, int64_t thread_count) {
  const size_t bytes = (scratch_bytes(params, thread_count) + 63) / 64 * 64;
  void* const memory = std::memset(std::aligned_alloc(64, bytes), 0xff, bytes);
  run(params, memory, pick(0, 3) ? threads(thread_count) : one_by_one(thread_count));
  std::free(memory);
}

// A random layout of rows for a shape whose steps and batch are known: packed or padded. Returns the number of rows.
struct Packing {
  std::vector<int64_t> batch_sizes, offsets;

  int64_t apply(Shape& s) {
    if (!pick(0, 1)) return s.steps * s.batch;
    int64_t rows = 0;
    for (int64_t t = 0, alive = s.batch; t < s.steps; ++t, alive = pick(1, alive)) {
      batch_sizes.push_back(alive), offsets.push_back(rows);
      rows += alive;
    }
    s.batch_sizes = batch_sizes.data(), s.offsets = offsets.data();
    return rows;
  }
};

const cpu::Kernels& kernels_of(const std::string& name) {
  return name == "base"     ? cpu::kernels_base()
         : name == "avx2"   ? cpu::kernels_avx2()
         : name == "avx512" ? cpu::kernels_avx512()
                            : cpu::kernels_avx512_bf16();
}

// `CHECK NAME CASES`: runs that many cases of the named kernels, and exits with 1 if one is wrong.
int check_cases(char** arguments, bool (*run_case)(const cpu::Kernels&, int64_t)) {
  const cpu::Kernels& kernels = kernels_of(arguments[1]);
  const int64_t cases = std::atoll(arguments[2]);
  int64_t wrong = 0;
  for (int64_t i = 0; i < cases; ++i) wrong += !run_case(kernels, i);
  std::printf("%s: %lld cases, %lld wrong\n", kernels.name, (long long)cases, (long long)wrong);
  return wrong ? 1 : 0;
}

}  // namespace

// What the programs that check the kernels share, on the CPU and on CUDA: arrays of their exact size and random shapes.
#pragma once

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "../../csrc/gru_params.h"

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
  if (!(error <= worst) && !std::isnan(worst)) worst = error;  // NaN is larger than anything, whatever comes after it
}

// A random layout of rows for a shape whose steps and batch are known: packed or padded. Returns the number of rows.
struct Packing {
  std::vector<int64_t> batch_sizes, offsets;

  int64_t apply(Shape& s) { return pick(0, 1) ? pack(s) : s.steps * s.batch; }

  int64_t pack(Shape& s) {
    int64_t rows = 0;
    for (int64_t t = 0, alive = s.batch; t < s.steps; ++t, alive = pick(1, alive)) {
      batch_sizes.push_back(alive), offsets.push_back(rows);
      rows += alive;
    }
    s.batch_sizes = batch_sizes.data(), s.offsets = offsets.data();
    return rows;
  }
};

}  // namespace

// The kernels of a single step that make all of its products, against plain loops in double.
#pragma once

#include "kernels_check.h"

namespace {

struct Size {
  int64_t rows, I, H;
  bool dense = false;  // or rows with gaps, which are read number by number
};

// The forward of a single step as a whole: more rows than a warp takes, fewer, and one; both directions.
bool check_single(DType dtype, double bound) {
  double worst = 0;
  bool good = true;
  const Size sizes[] = {{9, 3, 7},         {8, 3, 1},         {3, 37, 7},      {1, 3, 7},
                        {13, 16, 8, true}, {4, 264, 8, true}, {1, 8, 16, true}};
  for (int i = 0; i < 7; ++i) {
    const auto [rows, I, H, dense] = sizes[i];
    const int directions = 1 + i % 2;
    const bool bare = i == 2, cell = i == 3;  // no bias, no gates; output and h_n are one
    ForwardParams call;
    call.shape = {dtype, 1, rows, I, H, directions};
    Matrix x(dtype, rows, I, 1, dense);
    std::vector<Matrix> hx, w_ih, w_hh, b_ih, b_hh, output, h_n, gates;
    for (int d = 0; d < directions; ++d) {
      hx.emplace_back(dtype, rows, H, 1, dense);
      w_ih.emplace_back(dtype, 3 * H, I, I < 100 ? 0.5 : 0.1, dense);
      w_hh.emplace_back(dtype, 3 * H, H, 0.5, dense);
      b_ih.emplace_back(dtype, 1, 3 * H, 1);
      b_hh.emplace_back(dtype, 1, 3 * H, 1);
      output.emplace_back(dtype, rows, H);
      h_n.emplace_back(dtype, rows, H);
      gates.emplace_back(dtype, rows, 4 * H);
    }
    for (int d = 0; d < directions; ++d)
      call.direction[d] = {{x.in(), hx[d].in(), w_ih[d].in(), w_hh[d].in(), bare ? nullptr : b_ih[d].bytes.data(),
                            bare ? nullptr : b_hh[d].bytes.data()},
                           (cell ? h_n : output)[d].out(),
                           h_n[d].out(),
                           bare ? Rows<void>{} : gates[d].out()};
    if (const std::string problem = run_single(call, nullptr); !problem.empty()) {
      good = false;
      std::printf("failed: %s\n", problem.c_str());
    }
    for (int d = 0; d < directions; ++d) {
      Matrix true_h(dtype, rows, H), true_gates(dtype, rows, 4 * H);
      for (int64_t row = 0; row < rows; ++row)
        for (int64_t u = 0; u < H; ++u) {
          const auto product = [&](const Matrix& given, const Matrix& weights, const Matrix& bias, int gate) {
            double sum = bare ? 0 : bias.get(0, gate * H + u);
            for (int64_t k = 0; k < given.columns; ++k) sum += given.get(row, k) * weights.get(gate * H + u, k);
            return sum;
          };
          const auto gi = [&](int gate) { return product(x, w_ih[d], b_ih[d], gate); };
          const auto gh = [&](int gate) { return product(hx[d], w_hh[d], b_hh[d], gate); };
          const double reset = sigmoid(gi(0) + gh(0)), z = sigmoid(gi(1) + gh(1));
          const double n = std::tanh(gi(2) + reset * gh(2)), all[] = {reset, z, n, gh(2)};
          for (int g = 0; g < 4; ++g) true_gates.set(row, g * H + u, all[g]);
          true_h.set(row, u, n + z * (hx[d].get(row, u) - n));
        }
      larger(worst, difference(h_n[d], true_h));
      if (!cell) larger(worst, difference(output[d], true_h));
      if (!bare) larger(worst, difference(gates[d], true_gates));
    }
  }
  if (!(worst <= bound)) std::printf("single: wrong by %.3g\n", worst);
  return good && worst <= bound;
}

// All gradients from those of the gates, which are any numbers here: tiles that end within the arrays, more than one.
bool check_single_gradients(DType dtype, double bound) {
  double worst = 0;
  bool good = true;
  const Size sizes[] = {{9, 3, 7}, {1, 1, 1}, {8, 130, 12}, {37, 33, 44}};
  for (int i = 0; i < 4; ++i) {
    const auto [rows, I, H, dense] = sizes[i];
    const int directions = 1 + i % 2;
    const bool bare = i == 2;  // no biases, no dL/dx, no gradients from outside
    SingleGradients call{};
    call.params.shape = {dtype, 1, rows, I, H, directions};
    struct Side {
      Matrix given, weights, grad_given, grad_weights, grad_bias;
    };
    struct Direction {
      Matrix grads, gates, grad_output, grad_h_n;
      Side side[2];
    };
    const auto side = [&](int64_t columns) {
      return Side{Matrix(dtype, rows, columns, 1), Matrix(dtype, 3 * H, columns, 0.3), Matrix(dtype, rows, columns),
                  Matrix(dtype, 3 * H, columns, 0, true), Matrix(dtype, 1, 3 * H)};
    };
    std::vector<Direction> all;
    for (int d = 0; d < directions; ++d)
      all.push_back({Matrix(dtype, rows, 6 * H, 0.3),
                     Matrix(dtype, rows, 4 * H, 1),
                     Matrix(dtype, rows, H, 1),
                     Matrix(dtype, rows, H, 1),
                     {side(I), side(H)}});
    for (int d = 0; d < directions; ++d) {
      Direction& a = all[d];
      Side &x = a.side[0], &h = a.side[1];
      BackwardDirection& to = call.params.direction[d];
      to.x = x.given.in();
      to.hx = h.given.in();
      to.w_ih = x.weights.in();
      to.w_hh = h.weights.in();
      to.gates = a.gates.in();
      to.grad_hx = h.grad_given.out();
      to.grad_w_ih = x.grad_weights.bytes.data();
      to.grad_w_hh = h.grad_weights.bytes.data();
      call.grads[d] = a.grads.in();
      if (bare) continue;
      to.grad_output = a.grad_output.in();
      to.grad_h_n = a.grad_h_n.in();
      to.grad_x = x.grad_given.out();
      to.grad_b_ih = x.grad_bias.bytes.data();
      to.grad_b_hh = h.grad_bias.bytes.data();
    }
    if (const std::string problem = run_single(call, nullptr); !problem.empty()) {
      good = false;
      std::printf("failed: %s\n", problem.c_str());
    }
    for (Direction& a : all)
      for (int s = 0; s < 2; ++s) {
        Side& one = a.side[s];
        const int64_t columns = one.given.columns, first = s * 3 * H;
        Matrix true_given(dtype, rows, columns), true_weights(dtype, 3 * H, columns), true_bias(dtype, 1, 3 * H);
        for (int64_t gate = 0; gate < 3 * H; ++gate) {
          double bias = 0;
          for (int64_t row = 0; row < rows; ++row) bias += a.grads.get(row, first + gate);
          true_bias.set(0, gate, bias);
          for (int64_t c = 0; c < columns; ++c) {
            double sum = 0;
            for (int64_t row = 0; row < rows; ++row) sum += a.grads.get(row, first + gate) * one.given.get(row, c);
            true_weights.set(gate, c, sum);
          }
        }
        for (int64_t row = 0; row < rows; ++row)
          for (int64_t c = 0; c < columns; ++c) {
            double sum = 0;
            if (s == 1 && !bare) sum = (a.grad_output.get(row, c) + a.grad_h_n.get(row, c)) * a.gates.get(row, H + c);
            for (int64_t gate = 0; gate < 3 * H; ++gate)
              sum += a.grads.get(row, first + gate) * one.weights.get(gate, c);
            true_given.set(row, c, sum);
          }
        larger(worst, difference(one.grad_weights, true_weights));
        if (s == 1 || !bare) larger(worst, difference(one.grad_given, true_given));
        if (!bare) larger(worst, difference(one.grad_bias, true_bias));
      }
  }
  if (!(worst <= bound)) std::printf("gradients of a single step: wrong by %.3g\n", worst);
  return good && worst <= bound;
}

}  // namespace

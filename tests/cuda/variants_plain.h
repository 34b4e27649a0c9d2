// Plain loops of the cell's variants in double: reset_after with every option.
#pragma once

#include "kernels_check.h"

namespace {

// The arrays of one direction. What a backward starts from is the plain loops' and not the kernel's.
struct Direction {
  Matrix inputs, hx, w_hh, b_ih, b_hh, update, dropout, reset_state, gain;
  Matrix output, h_n, gates, true_output, true_h_n, true_gates;
  Matrix grad_output, grad_h_n, grads, grad_hx, grad_update, grad_reset_state;

  Direction(const Shape& s, int64_t n, bool per_unit)
      : inputs(s.dtype, n, 3 * s.hidden, 1),
        hx(s.dtype, s.batch, s.hidden, 1),
        w_hh(s.dtype, 3 * s.hidden, s.hidden, 1.5 / std::sqrt(double(s.hidden))),
        b_ih(s.dtype, 1, 3 * s.hidden, 1),
        b_hh(s.dtype, 1, 3 * s.hidden, 1),
        update(s.dtype, n, per_unit ? s.hidden : 1, 1),
        dropout(s.dtype, s.batch, s.hidden, 1.5),
        reset_state(s.dtype, s.batch, s.hidden, 1),
        gain(s.dtype, 1, 3 * s.hidden, 1),
        output(s.dtype, n, s.hidden),
        h_n(s.dtype, s.batch, s.hidden),
        gates(s.dtype, n, 4 * s.hidden),
        true_output(s.dtype, n, s.hidden),
        true_h_n(s.dtype, s.batch, s.hidden),
        true_gates(s.dtype, n, 4 * s.hidden),
        grad_output(s.dtype, n, s.hidden, 1),
        grad_h_n(s.dtype, s.batch, s.hidden, 1),
        grads(s.dtype, n, 4 * s.hidden),
        grad_hx(s.dtype, s.batch, s.hidden),
        grad_update(s.dtype, n, s.hidden),
        grad_reset_state(s.dtype, s.batch, s.hidden) {}

  VariantArguments arguments(const Shape& s, bool bare) const {
    if (bare) return {};
    return {update.in(s.batch), update.columns > 1, dropout.in(), reset_state.in(), gain.bytes.data()};
  }
};

// A batch whose rows end where `lengths` says, and where the episodes begin.
struct Rules {
  const Shape& shape;
  bool bare;
  std::vector<int64_t> lengths;
  std::vector<unsigned char> reset;

  Rules(const Shape& shape, int64_t n, bool bare) : shape(shape), bare(bare) {
    for (int64_t b = 0; b < shape.batch; ++b) lengths.push_back(pick(b ? -1 : shape.steps, shape.steps + 1));
    for (int64_t i = 0; i < n; ++i) reset.push_back(pick(0, 2) == 0);
  }

  Variant variant(Recurrence recurrence = Recurrence::reset_after) const {
    Variant variant;
    variant.cell.recurrence = recurrence;
    variant.cell.epsilon = 1e-3;
    if (bare) return variant;
    if (!shape.batch_sizes) variant.lengths = lengths.data();
    variant.reset = {reset.data(), shape.batch, 1};
    return variant;
  }

  int64_t row(int64_t t, int64_t b) const { return (shape.offsets ? shape.offsets[t] : t * shape.batch) + b; }
  int64_t length(int64_t b) const {
    if (bare || shape.batch_sizes) {
      int64_t length = 0;
      while (length < shape.steps && shape.rows_at(length) > b) ++length;
      return length;
    }
    return std::min(std::max<int64_t>(lengths[b], 0), shape.steps);
  }
};

// The steps of one row in its direction: the k-th is at time t.
struct Sequence {
  const Rules& rules;
  bool reverse;
  int64_t b, length;
  Sequence(const Rules& rules, bool reverse, int64_t b)
      : rules(rules), reverse(reverse), b(b), length(rules.length(b)) {}
  int64_t at(int64_t k) const { return rules.row(reverse ? length - 1 - k : k, b); }
  bool begins(int64_t k) const {  // backwards, an episode's last step comes after the first of the next
    return !rules.bare && (reverse ? k > 0 && rules.reset[at(k - 1)] : rules.reset[at(k)]);
  }
};

void clear(Matrix& matrix) {
  for (int64_t r = 0; r < matrix.rows; ++r)
    for (int64_t c = 0; c < matrix.columns; ++c) matrix.set(r, c, 0);
}

void plain_forward(const Shape& s, const Rules& rules, Direction& d, bool reverse) {
  const int64_t H = s.hidden;
  const bool bare = rules.bare;
  clear(d.true_output), clear(d.true_gates);
  for (int64_t b = 0; b < s.batch; ++b) {
    const Sequence sequence(rules, reverse, b);
    std::vector<double> h(H), gh(3 * H);
    for (int64_t i = 0; i < H; ++i) h[i] = d.hx.get(b, i);
    for (int64_t k = 0; k < sequence.length; ++k) {
      const int64_t row = sequence.at(k);
      if (sequence.begins(k))
        for (int64_t i = 0; i < H; ++i) h[i] = d.reset_state.get(b, i);
      for (int64_t j = 0; j < 3 * H; ++j) {
        gh[j] = bare ? 0 : d.b_hh.get(0, j);
        for (int64_t i = 0; i < H; ++i) gh[j] += d.w_hh.get(j, i) * h[i] * (bare ? 1 : d.dropout.get(b, i));
      }
      for (int64_t i = 0; i < H; ++i) {
        const auto gi = [&](int64_t gate) {
          return d.inputs.get(row, gate * H + i) + (bare ? 0 : d.b_ih.get(0, gate * H + i));
        };
        const double r = sigmoid(gi(0) + gh[i]), z = sigmoid(gi(1) + gh[H + i]);
        const double n = std::tanh(gi(2) + r * gh[2 * H + i]), gates[] = {r, z, n, gh[2 * H + i]};
        const double u = bare ? 1 : d.update.get(row, d.update.columns > 1 ? i : 0);
        h[i] = n + (1 - u * (1 - z)) * (h[i] - n);
        d.true_output.set(row, i, h[i]);
        for (int gate = 0; gate < 4; ++gate) d.true_gates.set(row, gate * H + i, gates[gate]);
      }
    }
    for (int64_t i = 0; i < H; ++i) d.true_h_n.set(b, i, h[i]);
  }
}

// The largest difference of the kernel's gradients.
double compare_backward(const Shape& s, const Rules& rules, const Direction& d, bool reverse) {
  const int64_t H = s.hidden;
  const bool bare = rules.bare;
  double worst = 0;
  Matrix grads(DType::f64, d.grads.rows, 4 * H), update(DType::f64, d.grads.rows, H);
  clear(grads), clear(update);
  for (int64_t b = 0; b < s.batch; ++b) {
    const Sequence sequence(rules, reverse, b);
    std::vector<double> grad(H), next(H), of_reset(H), a(3 * H);
    for (int64_t i = 0; i < H; ++i) grad[i] = bare ? 0 : d.grad_h_n.get(b, i);
    for (int64_t k = sequence.length - 1; k >= 0; --k) {
      const int64_t row = sequence.at(k);
      for (int64_t i = 0; i < H; ++i) {
        const double before = sequence.begins(k) ? d.reset_state.get(b, i)
                              : k == 0           ? d.hx.get(b, i)
                                                 : d.true_output.get(sequence.at(k - 1), i);
        const double r = d.true_gates.get(row, i), z = d.true_gates.get(row, H + i);
        const double n = d.true_gates.get(row, 2 * H + i), gh_n = d.true_gates.get(row, 3 * H + i);
        const double u = bare ? 1 : d.update.get(row, d.update.columns > 1 ? i : 0);
        const double dh = grad[i] + d.grad_output.get(row, i);
        const double a_n = dh * u * (1 - z) * (1 - n * n), a_z = dh * (before - n) * u * z * (1 - z);
        const double found[4] = {a_n * r, a_n * gh_n * r * (1 - r), a_z, a_n};
        for (int gate = 0; gate < 4; ++gate) grads.set(row, gate * H + i, found[gate]);
        update.set(row, i, dh * (n - before) * (1 - z));
        a[i] = found[1], a[H + i] = a_z, a[2 * H + i] = found[0], next[i] = dh * (1 - u * (1 - z));
      }
      for (int64_t i = 0; i < H; ++i) {
        double through = 0;
        for (int64_t j = 0; j < 3 * H; ++j) through += a[j] * d.w_hh.get(j, i);
        next[i] += through * (bare ? 1 : d.dropout.get(b, i));
        if (sequence.begins(k)) of_reset[i] += next[i], next[i] = 0;
      }
      grad = next;
    }
    for (int64_t i = 0; i < H; ++i) {
      larger(worst, std::fabs(grad[i] - d.grad_hx.get(b, i)));
      if (!bare) larger(worst, std::fabs(of_reset[i] - d.grad_reset_state.get(b, i)));
    }
  }
  larger(worst, difference(d.grads, grads));
  if (!bare) larger(worst, difference(d.grad_update, update));
  return worst;
}

double compare_forward(const Direction& d, bool bare) {
  double worst = difference(d.output, d.true_output);
  larger(worst, difference(d.h_n, d.true_h_n));
  if (!bare) larger(worst, difference(d.gates, d.true_gates));
  return worst;
}

}  // namespace

// The variants of the cell in gru_cell.h, said once for every kernel: policies of its formulas, not other kernels.
//
//   h0 = the state before the step, or where the step resets, the state that is set there
//   hd = m * h0                                     m: the mask of recurrent dropout (Gal & Ghahramani 2016), or 1
//   reset_after      gh = hd W_hh^T + b_hh          r, z, n as in gru_cell.h
//   reset_before     gh_n = (r * hd) W_hn^T + b_hn  n = tanh(gi_n + gh_n)       (Cho et al. 2014)
//   norm_recurrent   gh = LN(hd W_hh^T) + b_hh      LN(y) = gain (y - mean) / sqrt(variance + epsilon), over all 3H
//   norm_sum         gh = LN(gi + hd W_hh^T) + b_hh r = sigmoid(gh_r), z = sigmoid(gh_z), n = tanh(r * gh_n)
//   h' = h0 + u (1 - z) (n - h0)                    u: how much of the update is made, or 1; with 0, h' is h0 exactly
//
// u is an attention's score (AUGRU, Zhou et al. 2019), the mask of zoneout (Krueger et al. 2017), or their product. The
// sigmoids and the tanh may be other functions.
//
// Beside what gru_cell.h asks of `Math`: the type's operator /, and Math::max, Math::min of two values,
// Math::positive(y), which is 1 where y > 0 and else 0, and Math::number(double).
#pragma once

#include "gru_cell.h"

namespace gru_fused {

enum class Recurrence { reset_after, reset_before, norm_recurrent, norm_sum };

// Of the gates: the first three; of the candidate n: the others.
enum class Activation { sigmoid, hard_sigmoid, hard_sigmoid_fifth, tanh, relu, softsign };

struct Cell {
  Recurrence recurrence = Recurrence::reset_after;
  Activation gate = Activation::sigmoid, candidate = Activation::tanh;
  double epsilon = 0;  // of the norm

  GRU_FUSED_HD bool norm() const {
    return recurrence == Recurrence::norm_recurrent || recurrence == Recurrence::norm_sum;
  }
  // The n of reset_before and every norm need all units of a first product before the gates are known.
  GRU_FUSED_HD bool two_phases() const { return recurrence != Recurrence::reset_after; }
};

template <class Math>
GRU_FUSED_HD typename Math::Value activate(Activation activation, typename Math::Value x) {
  using Value = typename Math::Value;
  const Value one = Math::one(), zero = Math::number(0);
  switch (activation) {
    case Activation::sigmoid:
      return Math::sigmoid(x);
    case Activation::hard_sigmoid:  // torch's and Keras 3's
      return Math::min(Math::max(x * Math::number(1.0 / 6) + Math::number(0.5), zero), one);
    case Activation::hard_sigmoid_fifth:  // ONNX's and Keras 2's
      return Math::min(Math::max(x * Math::number(0.2) + Math::number(0.5), zero), one);
    case Activation::tanh:
      return Math::tanh(x);
    case Activation::relu:
      return Math::max(x, zero);
    case Activation::softsign:
      break;
  }
  return x / (one + Math::max(x, zero - x));
}

// The derivative of an activation where its value is y.
template <class Math>
GRU_FUSED_HD typename Math::Value slope(Activation activation, typename Math::Value y) {
  using Value = typename Math::Value;
  const Value one = Math::one();
  switch (activation) {
    case Activation::sigmoid:
      return y * (one - y);
    case Activation::hard_sigmoid:
      return Math::number(1.0 / 6) * Math::positive(y) * Math::positive(one - y);
    case Activation::hard_sigmoid_fifth:
      return Math::number(0.2) * Math::positive(y) * Math::positive(one - y);
    case Activation::tanh:
      return one - y * y;
    case Activation::relu:
      return Math::positive(y);
    case Activation::softsign:
      break;
  }
  const Value rest = one - Math::max(y, Math::number(0) - y);
  return rest * rest;
}

// The step when all of gh is known. For norm_sum gi is zero: it is within gh.
template <class Math>
GRU_FUSED_HD typename Math::Value variant_candidate(const Cell& cell, typename Math::Value r, typename Math::Value gi_n,
                                                    typename Math::Value gh_n) {
  return activate<Math>(cell.candidate, cell.recurrence == Recurrence::reset_before ? gi_n + gh_n : gi_n + r * gh_n);
}

template <class Math>
GRU_FUSED_HD typename Math::Value variant_state(typename Math::Value z, typename Math::Value n,
                                                typename Math::Value update, typename Math::Value h0) {
  return h0 + update * (Math::one() - z) * (n - h0);
}

// Gradients of a step; as GateGrads, with the one of u. For reset_before r and nr are not known yet: gh_n's gradient
// is that of n, and with dp = a_n W_hn of all units, r's is dp * hd * slope(r), and hd's has the part dp * r.
template <class Value>
struct VariantGrads {
  Value nr, r, z, n;
  Value h;  // the part of dL/dh0 that does not go through W_hh
  Value update;
};

template <class Math>
GRU_FUSED_HD VariantGrads<typename Math::Value> variant_backward(const Cell& cell, typename Math::Value d,
                                                                 const Gates<typename Math::Value>& gates,
                                                                 typename Math::Value update, typename Math::Value h0) {
  using Value = typename Math::Value;
  const Value one = Math::one(), made = update * (one - gates.z), difference = d * (h0 - gates.n);
  const Value n = d * made * slope<Math>(cell.candidate, gates.n);
  const Value z = difference * update * slope<Math>(cell.gate, gates.z);
  const Value of_update = Math::number(0) - difference * (one - gates.z);
  const Value h = d * (one - made);
  if (cell.recurrence == Recurrence::reset_before) return {n, Math::number(0), z, n, h, of_update};
  const Value r = n * gates.gh_n * slope<Math>(cell.gate, gates.r);
  return {n * gates.r, r, z, n, h, of_update};
}

}  // namespace gru_fused

// The GRU cell, said once for every kernel, on the host and on the device.
//
//   r = sigmoid(gi_r + gh_r)    z = sigmoid(gi_z + gh_z)    n = tanh(gi_n + r * gh_n)
//   h' = n + z * (h - n)
//
// with gi = x W_ih^T + b_ih and gh = h W_hh^T + b_hh, gate order r, z, n (torch's and cuDNN's).
// A kernel brings its arithmetic as `Math`: a type `Math::Value` (a number, or a vector of them) with
// + - *, and the functions `Math::sigmoid` and `Math::tanh`.
#pragma once

#if defined(__CUDACC__)
#define GRU_FUSED_HD __host__ __device__ __forceinline__
#else
#define GRU_FUSED_HD inline __attribute__((always_inline))
#endif

namespace gru_fused {

// What the backward of one step needs of its forward. In memory a row holds r, z, n, gh_n side by side: 4H.
template <class Value>
struct Gates {
  Value r, z, n, gh_n;
};

template <class Value>
struct Stepped {
  Gates<Value> gates;
  Value h;  // the new state
};

// Gradients with respect to the arguments of the two sigmoids and the tanh.
//   d_gi = [a_r, a_z, a_n]    d_gh = [a_r, a_z, a_nr]
// A row of them is a_nr, a_r, a_z, a_n: d_gi is its last 3H numbers, and d_gh is the first 3H with the
// n block in front, so that one row of 4H serves both without a copy.
template <class Value>
struct GateGrads {
  Value nr, r, z, n;
  Value h;  // the part of dL/dh that does not go through W_hh
};

template <class Math>
GRU_FUSED_HD typename Math::Value cell_candidate(typename Math::Value gi_n, typename Math::Value r,
                                                 typename Math::Value gh_n) {
  return Math::tanh(gi_n + r * gh_n);
}

template <class Value>
GRU_FUSED_HD Stepped<Value> cell_state(const Gates<Value>& gates, Value h) {
  return {gates, gates.n + gates.z * (h - gates.n)};
}

template <class Math>
GRU_FUSED_HD Stepped<typename Math::Value> cell_forward(typename Math::Value gi_r, typename Math::Value gi_z,
                                                        typename Math::Value gi_n, typename Math::Value gh_r,
                                                        typename Math::Value gh_z, typename Math::Value gh_n,
                                                        typename Math::Value h) {
  using Value = typename Math::Value;
  const Value r = Math::sigmoid(gi_r + gh_r);
  const Value z = Math::sigmoid(gi_z + gh_z);
  return cell_state<Value>({r, z, cell_candidate<Math>(gi_n, r, gh_n), gh_n}, h);
}

// d = dL/dh' of this step, from the output and from the step after it; h is the state before the step.
template <class Math>
GRU_FUSED_HD GateGrads<typename Math::Value> cell_backward(typename Math::Value d,
                                                           const Gates<typename Math::Value>& gates,
                                                           typename Math::Value h) {
  using Value = typename Math::Value;
  const Value one = Math::one();
  const Value a_n = d * (one - gates.z) * (one - gates.n * gates.n);
  const Value a_z = d * (h - gates.n) * gates.z * (one - gates.z);
  const Value a_r = a_n * gates.gh_n * gates.r * (one - gates.r);
  return {a_n * gates.r, a_r, a_z, a_n, d * gates.z};
}

// The same step one order on: from the tangents of the arguments those of the gates and of the new state. The
// tangents of gi and gh come as sums where only their sum counts; h_t is the tangent of the state before the step.
template <class Math>
GRU_FUSED_HD Stepped<typename Math::Value> cell_tangent(const Gates<typename Math::Value>& gates,
                                                        typename Math::Value h, typename Math::Value r_t,
                                                        typename Math::Value z_t, typename Math::Value gi_n_t,
                                                        typename Math::Value gh_n_t, typename Math::Value h_t) {
  using Value = typename Math::Value;
  const Value one = Math::one();
  const Value r = gates.r * (one - gates.r) * r_t;
  const Value z = gates.z * (one - gates.z) * z_t;
  const Value n = (one - gates.n * gates.n) * (gi_n_t + r * gates.gh_n + gates.r * gh_n_t);
  return {{r, z, n, gh_n_t}, n + z * (h - gates.n) + gates.z * (h_t - n)};
}

// A number with its tangent. cell_backward of duals is the tangent of the backward; and as second derivatives commute,
// it is the backward of the tangent too: the gradient of <tangent(v), d> with respect to the arguments is the tangent,
// along v, of the gradient of <forward, d>.
template <class Value>
struct Dual {
  Value value, tangent;

  GRU_FUSED_HD Dual operator+(const Dual& y) const { return {value + y.value, tangent + y.tangent}; }
  GRU_FUSED_HD Dual operator-(const Dual& y) const { return {value - y.value, tangent - y.tangent}; }
  GRU_FUSED_HD Dual operator*(const Dual& y) const { return {value * y.value, value * y.tangent + tangent * y.value}; }
};

template <class Math>
struct DualMath {
  using Value = Dual<typename Math::Value>;
  static GRU_FUSED_HD Value one() { return {Math::one(), Math::one() - Math::one()}; }
};

}  // namespace gru_fused

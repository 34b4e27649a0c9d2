// The ops' schemas, said once. One op is one layer over both of its directions; gru_forward takes any number of layers.
//
// T steps, B rows, I inputs, H units, D directions; with batch_sizes, packed rows: N stands in place of T, B.
//   x                        [T, B, I] or [N, I]
//   hx, h_n                  [D, B, H]
//   weights                  of each direction w_ih [3H, I], w_hh [3H, H] and, with bias, b_ih [3H], b_hh [3H]
//   batch_sizes              int64 [T] on the CPU, never increasing
//   output                   [T, B, D H] or [N, D H]
//   gates                    what the backward needs, r, z, n, gh_n: [D, T B, 4H] or [D, N, 4H];
//                            None: it makes them again
//   gru_forward, L layers    hx, h_n [L D, B, H]; weights of each layer in turn
//   h                        of a cell, one step: [B, H], x [B, I] and hx [B, H]
//   grads                    of hx; of x, if need_x; of the weights in their order, if need_weights
//
// Variants of the cell (csrc/variant_cell.h); what is None is not used:
//   recurrence               0 reset_after, 1 reset_before, 2 norm_recurrent, 3 norm_sum; gate, candidate: Activation
//   x, weights               with a norm (2, 3) x is gi, [T, B, D 3H], and the weights are of each direction w_hh, gain
//                            [3H] and b_hh
//   reverse                  the only direction goes backwards in time
//   lengths                  int64 [B]; one out of range counts as 0 or T
//   reset                    bool [T, B] or [N]: an episode begins, with reset_state [D, B, H] or zero
//   update                   how much of the update is made: [D, T, B, H or 1] or [D, N, H or 1]
//   dropout                  the mask of the recurrent product: [D, B, H]
//   normal, scale            what the norm's backward needs: [D, T B, 3H], [D, T B, 1] in float32 or float64; else
//   empty save                     false: gates, normal and scale are empty grads                    as above; then of
//   update, [D, T B, H], and of reset_state, if needed
//
// The second order, without the products that have no recurrence; "_t" is the tangent of what stands before it:
//   given_t                  of gi_r + gh_r, gi_z + gh_z, gi_n, gh_n, without h_t W_hh^T: [D, T B, 4H]
//   w_hh, w_hh_t             of each direction [3H, H]; w_hh_t may be empty: zero
//   gate_grads               a_nr, a_r, a_z, a_n (csrc/gru_cell.h): [D, T B, 4H]
#include <torch/csrc/stable/library.h>

// The tests' library with emulated CUDA kernels has the same ops in a namespace of its own.
#ifndef GRU_FUSED_LIBRARY
#define GRU_FUSED_LIBRARY gru_fused
#endif

STABLE_TORCH_LIBRARY(GRU_FUSED_LIBRARY, m) {
  m.def(
      "gru_forward(Tensor x, Tensor hx, Tensor[] weights, bool bias, bool bidirectional, Tensor? batch_sizes, bool "
      "tf32=False) "
      "-> (Tensor output, Tensor h_n)");
  m.def(
      "gru_forward_train(Tensor x, Tensor hx, Tensor[] weights, bool bias, Tensor? batch_sizes, bool tf32=False) "
      "-> (Tensor output, Tensor h_n, Tensor gates)");
  m.def(
      "gru_backward(Tensor? grad_output, Tensor? grad_h_n, Tensor x, Tensor hx, Tensor output, Tensor? gates, "
      "Tensor[] weights, bool bias, Tensor? batch_sizes, bool need_x, bool need_weights, bool tf32=False) -> Tensor[] "
      "grads");
  m.def("gru_cell(Tensor x, Tensor hx, Tensor[] weights, bool bias, bool tf32=False) -> Tensor h");
  m.def(
      "gru_cell_train(Tensor x, Tensor hx, Tensor[] weights, bool bias, bool tf32=False) -> (Tensor h, Tensor gates)");
  m.def(
      "gru_cell_backward(Tensor grad_h, Tensor x, Tensor hx, Tensor h, Tensor gates, Tensor[] weights, bool bias, "
      "bool need_x, bool need_weights, bool tf32=False) -> Tensor[] grads");
  m.def(
      "gru_tangent(Tensor given_t, Tensor hx_t, Tensor hx, Tensor output, Tensor gates, Tensor[] w_hh, "
      "Tensor? batch_sizes) -> (Tensor output_t, Tensor h_n_t, Tensor gates_t)");
  m.def(
      "gru_tangent_backward(Tensor? grad_output, Tensor? grad_h_n, Tensor? grad_output_t, Tensor? grad_h_n_t, "
      "Tensor hx, Tensor output, Tensor gates, Tensor hx_t, Tensor output_t, Tensor gates_t, Tensor[] w_hh, "
      "Tensor[] w_hh_t, Tensor? batch_sizes) "
      "-> (Tensor grad_hx, Tensor grad_hx_t, Tensor gate_grads, Tensor gate_grads_t)");
  m.def(
      "gru_variant(Tensor x, Tensor hx, Tensor[] weights, bool bias, Tensor? batch_sizes, int recurrence, int gate, "
      "int candidate, float epsilon, bool reverse, Tensor? lengths, Tensor? reset, Tensor? reset_state, "
      "Tensor? update, Tensor? dropout, bool save, bool tf32=False) "
      "-> (Tensor output, Tensor h_n, Tensor gates, Tensor normal, Tensor scale)");
  m.def(
      "gru_variant_backward(Tensor? grad_output, Tensor? grad_h_n, Tensor x, Tensor hx, Tensor output, Tensor gates, "
      "Tensor normal, Tensor scale, Tensor[] weights, bool bias, Tensor? batch_sizes, int recurrence, int gate, "
      "int candidate, float epsilon, bool reverse, Tensor? lengths, Tensor? reset, Tensor? reset_state, "
      "Tensor? update, Tensor? dropout, bool need_x, bool need_weights, bool need_update, bool need_reset_state, "
      "bool tf32=False) -> Tensor[] grads");
  m.def("cpu_capability() -> str");
  m.def(
      "cuda_plan(int arch, int sms, int shared_bytes, str arithmetic, int batch, int hidden, bool bidirectional, "
      "bool backward, bool variant=False, int steps=0) -> str");
}

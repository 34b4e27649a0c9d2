// The ops' schemas, said once. One op is one layer over both of its directions.
//
// T steps, B rows, H units, D directions (2 if w_hh_reverse is given); with batch_sizes the rows are packed: N rows
// stand in place of T x B.
//   gi, gi_reverse   x W_ih^T + b_ih, [T, B, 3H] or [N, 3H]
//   hx, h_n          [D, B, H]
//   output           [T, B, D H] or [N, D H]
//   gates            what the backward needs, r, z, n, gh_n: [D, T, B, 4H] or [D, N, 4H]
//   grad_gates       a_nr, a_r, a_z, a_n, as gates (gru_cell.h says what they are)
//   h_prev           the state before each step: [D, T, B, H] or [D, N, H]
#include <torch/csrc/stable/library.h>

STABLE_TORCH_LIBRARY(gru_fused, m) {
  m.def(
      "gru_forward(Tensor gi, Tensor? gi_reverse, Tensor hx, Tensor w_hh, Tensor? w_hh_reverse, Tensor? b_hh, "
      "Tensor? b_hh_reverse, Tensor? batch_sizes) -> (Tensor output, Tensor h_n)");
  m.def(
      "gru_forward_train(Tensor gi, Tensor? gi_reverse, Tensor hx, Tensor w_hh, Tensor? w_hh_reverse, Tensor? b_hh, "
      "Tensor? b_hh_reverse, Tensor? batch_sizes) -> (Tensor output, Tensor h_n, Tensor gates)");
  m.def(
      "gru_backward(Tensor? grad_output, Tensor? grad_h_n, Tensor output, Tensor gates, Tensor hx, Tensor w_hh, "
      "Tensor? w_hh_reverse, Tensor? batch_sizes) -> (Tensor grad_gates, Tensor h_prev, Tensor grad_hx)");
  m.def("cpu_capability() -> str");
}

// Runs the sweeps of the second order over random shapes against plain loops, for sanitizers to watch.
//
//   sweeps_check NAME CASES    as kernels_check.cpp
//
// The gates and states are random numbers, not those of a forward: a sweep takes them for what they are.
#include <algorithm>

#include "arrays.h"

namespace {

struct Direction {
  Matrix hx, hx_t, w_hh, w_hh_t, output, gates, given_t, random_output_t, random_gates_t;
  Matrix grad_output, grad_output_t, grad_h_n, grad_h_n_t;
  Matrix output_t, h_n_t, gates_t, gate_grads, gate_grads_t, grad_hx, grad_hx_t;

  Direction(const Shape& s, int64_t n)
      : hx(s.dtype, s.batch, s.hidden, 1),
        hx_t(s.dtype, s.batch, s.hidden, 1),
        w_hh(s.dtype, 3 * s.hidden, s.hidden, 1 / std::sqrt(double(s.hidden))),
        w_hh_t(s.dtype, 3 * s.hidden, s.hidden, 1 / std::sqrt(double(s.hidden))),
        output(s.dtype, n, s.hidden, 1),
        gates(s.dtype, n, 4 * s.hidden, 1),
        given_t(s.dtype, n, 4 * s.hidden, 1),
        random_output_t(s.dtype, n, s.hidden, 1),
        random_gates_t(s.dtype, n, 4 * s.hidden, 1),
        grad_output(s.dtype, n, s.hidden, 1),
        grad_output_t(s.dtype, n, s.hidden, 1),
        grad_h_n(s.dtype, s.batch, s.hidden, 1),
        grad_h_n_t(s.dtype, s.batch, s.hidden, 1),
        output_t(s.dtype, n, s.hidden),
        h_n_t(s.dtype, s.batch, s.hidden),
        gates_t(s.dtype, n, 4 * s.hidden),
        gate_grads(s.dtype, n, 4 * s.hidden),
        gate_grads_t(s.dtype, n, 4 * s.hidden),
        grad_hx(s.dtype, s.batch, s.hidden),
        grad_hx_t(s.dtype, s.batch, s.hidden) {}
};

// The rows of one sequence in the order of a direction.
std::vector<int64_t> rows_of(const Shape& s, int64_t b, bool reverse) {
  std::vector<int64_t> rows;
  for (int64_t t = 0; t < s.steps && s.rows_at(t) > b; ++t)
    rows.push_back((s.offsets ? s.offsets[t] : t * s.batch) + b);
  if (reverse) std::reverse(rows.begin(), rows.end());
  return rows;
}

double compare_tangent(const Shape& s, const Direction& d, bool reverse) {
  double worst = 0;
  const int64_t H = s.hidden;
  for (int64_t b = 0; b < s.batch; ++b) {
    std::vector<double> h_t(H), next(H);
    for (int64_t i = 0; i < H; ++i) h_t[i] = d.hx_t.get(b, i);
    int64_t before = -1;
    for (const int64_t row : rows_of(s, b, reverse)) {
      for (int64_t i = 0; i < H; ++i) {
        double a[4];
        for (int g = 0; g < 4; ++g) a[g] = d.given_t.get(row, g * H + i);
        for (int64_t k = 0; k < H; ++k) {
          a[0] += d.w_hh.get(i, k) * h_t[k];
          a[1] += d.w_hh.get(H + i, k) * h_t[k];
          a[3] += d.w_hh.get(2 * H + i, k) * h_t[k];
        }
        const double r = d.gates.get(row, i), z = d.gates.get(row, H + i);
        const double n = d.gates.get(row, 2 * H + i), gh_n = d.gates.get(row, 3 * H + i);
        const double h = before < 0 ? d.hx.get(b, i) : d.output.get(before, i);
        const double r_t = r * (1 - r) * a[0], z_t = z * (1 - z) * a[1];
        const double n_t = (1 - n * n) * (a[2] + r_t * gh_n + r * a[3]);
        next[i] = (1 - z) * n_t + z_t * (h - n) + z * h_t[i];
        const double found[4] = {r_t, z_t, n_t, a[3]};
        for (int g = 0; g < 4; ++g) larger(worst, std::fabs(found[g] - d.gates_t.get(row, g * H + i)));
        larger(worst, std::fabs(next[i] - d.output_t.get(row, i)));
      }
      h_t = next;
      before = row;
    }
    for (int64_t i = 0; i < H; ++i) larger(worst, std::fabs(h_t[i] - d.h_n_t.get(b, i)));
  }
  return worst;
}

double compare_tangent_backward(const Shape& s, const Direction& d, bool reverse, bool weights_move) {
  double worst = 0;
  const int64_t H = s.hidden;
  std::vector<double> grad(H), grad_t(H), a(4 * H), a_t(4 * H);
  for (int64_t b = 0; b < s.batch; ++b) {
    for (int64_t i = 0; i < H; ++i) grad[i] = d.grad_h_n.get(b, i), grad_t[i] = d.grad_h_n_t.get(b, i);
    const std::vector<int64_t> rows = rows_of(s, b, reverse);
    for (int64_t k = int64_t(rows.size()) - 1; k >= 0; --k) {
      const int64_t row = rows[k];
      for (int64_t i = 0; i < H; ++i) {
        const double r = d.gates.get(row, i), r_t = d.random_gates_t.get(row, i);
        const double z = d.gates.get(row, H + i), z_t = d.random_gates_t.get(row, H + i);
        const double n = d.gates.get(row, 2 * H + i), n_t = d.random_gates_t.get(row, 2 * H + i);
        const double g = d.gates.get(row, 3 * H + i), g_t = d.random_gates_t.get(row, 3 * H + i);
        const double h = k == 0 ? d.hx.get(b, i) : d.output.get(rows[k - 1], i);
        const double h_t = k == 0 ? d.hx_t.get(b, i) : d.random_output_t.get(rows[k - 1], i);
        const double dh = grad[i] + d.grad_output.get(row, i), dh_t = grad_t[i] + d.grad_output_t.get(row, i);
        const double dn = dh * (1 - z), dn_t = dh_t * (1 - z) - dh * z_t;
        const double dz = dh * (h - n), dz_t = dh_t * (h - n) + dh * (h_t - n_t);
        const double a_n = dn * (1 - n * n), a_n_t = dn_t * (1 - n * n) - dn * 2 * n * n_t;
        const double a_z = dz * z * (1 - z), a_z_t = dz_t * z * (1 - z) + dz * z_t * (1 - 2 * z);
        const double dr = a_n * g, dr_t = a_n_t * g + a_n * g_t;
        const double a_r = dr * r * (1 - r), a_r_t = dr_t * r * (1 - r) + dr * r_t * (1 - 2 * r);
        const double exact[4] = {a_n * r, a_r, a_z, a_n}, exact_t[4] = {a_n_t * r + a_n * r_t, a_r_t, a_z_t, a_n_t};
        for (int j = 0; j < 4; ++j) {
          a[j * H + i] = exact[j], a_t[j * H + i] = exact_t[j];
          larger(worst, std::fabs(exact[j] - d.gate_grads.get(row, j * H + i)));
          larger(worst, std::fabs(exact_t[j] - d.gate_grads_t.get(row, j * H + i)));
        }
        grad[i] = dh * z, grad_t[i] = dh_t * z + dh * z_t;
      }
      for (int64_t j = 0; j < 3 * H; ++j) {
        const int64_t of = j < 2 * H ? j + H : j - 2 * H;  // r, z, and n's own
        for (int64_t i = 0; i < H; ++i) {
          grad[i] += a[of] * d.w_hh.get(j, i);
          grad_t[i] += a_t[of] * d.w_hh.get(j, i) + (weights_move ? a[of] * d.w_hh_t.get(j, i) : 0);
        }
      }
    }
    for (int64_t i = 0; i < H; ++i) {
      larger(worst, std::fabs(grad[i] - d.grad_hx.get(b, i)));
      larger(worst, std::fabs(grad_t[i] - d.grad_hx_t.get(b, i)));
    }
  }
  return worst;
}

bool run_case(const cpu::Kernels& kernels, int64_t index) {
  Shape s;
  s.dtype = DType(index % 4);
  s.directions = int(pick(1, 2));
  s.steps = pick(1, 4);
  s.batch = index % 13 == 1 ? pick(60, 90) : pick(1, 11);
  s.hidden = index % 7 == 0 ? pick(60, 70) : pick(1, 20);
  const int64_t thread_count = index % 5 == 0 ? 64 : pick(1, 3);
  Packing packing;
  const int64_t n = packing.apply(s);
  const bool weights_move = pick(0, 1);

  std::vector<Direction> directions;
  TangentParams tangent{s, {}};
  TangentBackwardParams backward{s, {}};
  for (int d = 0; d < s.directions; ++d) directions.emplace_back(s, n);
  for (int d = 0; d < s.directions; ++d) {
    Direction& a = directions[d];
    TangentDirection& forth = tangent.direction[d];
    forth.hx = a.hx.in(), forth.hx_t = a.hx_t.in(), forth.w_hh = a.w_hh.in();
    forth.output = a.output.in(s.batch), forth.gates = a.gates.in(s.batch), forth.given_t = a.given_t.in(s.batch);
    forth.output_t = a.output_t.out(s.batch), forth.h_n_t = a.h_n_t.out(), forth.gates_t = a.gates_t.out(s.batch);
    TangentBackwardDirection& back = backward.direction[d];
    back.hx = a.hx.in(), back.hx_t = a.hx_t.in(), back.w_hh = a.w_hh.in();
    if (weights_move) back.w_hh_t = a.w_hh_t.in();
    back.output = a.output.in(s.batch), back.output_t = a.random_output_t.in(s.batch);
    back.gates = a.gates.in(s.batch), back.gates_t = a.random_gates_t.in(s.batch);
    back.grad_output = a.grad_output.in(s.batch), back.grad_output_t = a.grad_output_t.in(s.batch);
    back.grad_h_n = a.grad_h_n.in(), back.grad_h_n_t = a.grad_h_n_t.in();
    back.gate_grads = a.gate_grads.out(s.batch), back.gate_grads_t = a.gate_grads_t.out(s.batch);
    back.grad_hx = a.grad_hx.out(), back.grad_hx_t = a.grad_hx_t.out();
  }
  launch(tangent, kernels.tangent_scratch, kernels.tangent, thread_count);
  launch(backward, kernels.tangent_backward_scratch, kernels.tangent_backward, thread_count);

  // Some 20 units in the last place of the stored type, at the scale of the numbers here (a few units).
  const double bound = s.dtype == DType::f64   ? 1e-13
                       : s.dtype == DType::f32 ? 1e-5
                       : s.dtype == DType::f16 ? 2e-2
                                               : 0.15;
  bool good = true;
  for (int d = 0; d < s.directions; ++d) {
    const double forth = compare_tangent(s, directions[d], d == 1);
    const double back = compare_tangent_backward(s, directions[d], d == 1, weights_move);
    if (forth <= bound && back <= bound) continue;
    good = false;
    std::printf("case %lld direction %d dtype %d T%lld B%lld H%lld %s: tangent %.3g backward %.3g\n", (long long)index,
                d, int(s.dtype), (long long)s.steps, (long long)s.batch, (long long)s.hidden,
                s.batch_sizes ? "packed" : "padded", forth, back);
  }
  return good;
}

}  // namespace

int main(int, char** arguments) { return check_cases(arguments, run_case); }

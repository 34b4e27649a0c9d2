// Runs the loops and the single steps of the plain cell: kernels_check.h.
#include "kernels_check.h"
#include "single_check.h"

namespace {

// The arrays of one direction. What a backward starts from is the plain loops' and not the kernel's.
struct Direction {
  Matrix inputs, hx, w_hh, b_ih, b_hh, output, h_n, gates, true_output, true_h_n, true_gates;
  Matrix grad_output, grad_h_n, grads, grad_hx;

  Direction(const Shape& s, int64_t n)
      : inputs(s.dtype, n, 3 * s.hidden, 1),
        hx(s.dtype, s.batch, s.hidden, 1),
        w_hh(s.dtype, 3 * s.hidden, s.hidden, 1.5 / std::sqrt(double(s.hidden))),
        b_ih(s.dtype, 1, 3 * s.hidden, 1),
        b_hh(s.dtype, 1, 3 * s.hidden, 1),
        output(s.dtype, n, s.hidden),
        h_n(s.dtype, s.batch, s.hidden),
        gates(s.dtype, n, 4 * s.hidden),
        true_output(s.dtype, n, s.hidden),
        true_h_n(s.dtype, s.batch, s.hidden),
        true_gates(s.dtype, n, 4 * s.hidden),
        grad_output(s.dtype, n, s.hidden, 1),
        grad_h_n(s.dtype, s.batch, s.hidden, 1),
        grads(s.dtype, n, 4 * s.hidden),
        grad_hx(s.dtype, s.batch, s.hidden) {}
};

struct Sequence {  // the rows of one batch row's steps
  const Shape& shape;
  bool reverse;
  int64_t row, length = 0;
  Sequence(const Shape& shape, bool reverse, int64_t row) : shape(shape), reverse(reverse), row(row) {
    while (length < shape.steps && shape.rows_at(length) > row) ++length;
  }
  int64_t at(int64_t step) const {
    const int64_t t = reverse ? length - 1 - step : step;
    return (shape.offsets ? shape.offsets[t] : t * shape.batch) + row;
  }
};

void plain_forward(const Shape& s, Direction& d, bool reverse, bool bare) {
  const int64_t H = s.hidden;
  const auto bias = [&](const Matrix& of, int64_t j) { return bare ? 0 : of.get(0, j); };
  for (int64_t b = 0; b < s.batch; ++b) {
    const Sequence sequence(s, reverse, b);
    std::vector<double> h(H), gh(3 * H);
    for (int64_t i = 0; i < H; ++i) h[i] = d.hx.get(b, i);
    for (int64_t k = 0; k < sequence.length; ++k) {
      const int64_t row = sequence.at(k);
      for (int64_t j = 0; j < 3 * H; ++j) {
        gh[j] = bias(d.b_hh, j);
        for (int64_t i = 0; i < H; ++i) gh[j] += d.w_hh.get(j, i) * h[i];
      }
      for (int64_t i = 0; i < H; ++i) {
        const auto gi = [&](int64_t gate) { return d.inputs.get(row, gate * H + i) + bias(d.b_ih, gate * H + i); };
        const double r = sigmoid(gi(0) + gh[i]), z = sigmoid(gi(1) + gh[H + i]);
        const double n = std::tanh(gi(2) + r * gh[2 * H + i]), gates[] = {r, z, n, gh[2 * H + i]};
        h[i] = n + z * (h[i] - n);
        d.true_output.set(row, i, h[i]);
        for (int gate = 0; gate < 4; ++gate) d.true_gates.set(row, gate * H + i, gates[gate]);
      }
    }
    for (int64_t i = 0; i < H; ++i) d.true_h_n.set(b, i, h[i]);
  }
}

// The largest difference of the kernel's gradients.
double compare_backward(const Shape& s, const Direction& d, bool reverse, bool bare) {
  const int64_t H = s.hidden;
  double worst = 0;
  for (int64_t b = 0; b < s.batch; ++b) {
    const Sequence sequence(s, reverse, b);
    std::vector<double> grad(H), next(H), a(3 * H);
    for (int64_t i = 0; i < H; ++i) grad[i] = bare ? 0 : d.grad_h_n.get(b, i);
    for (int64_t k = sequence.length - 1; k >= 0; --k) {
      const int64_t row = sequence.at(k);
      for (int64_t i = 0; i < H; ++i) {
        const double before = k == 0 ? d.hx.get(b, i) : d.true_output.get(sequence.at(k - 1), i);
        const double r = d.true_gates.get(row, i), z = d.true_gates.get(row, H + i);
        const double n = d.true_gates.get(row, 2 * H + i), gh_n = d.true_gates.get(row, 3 * H + i);
        // Where nothing comes from outside, every step would be zero: the output's gradient stays.
        const double dh = grad[i] + d.grad_output.get(row, i);
        const double a_n = dh * (1 - z) * (1 - n * n), a_z = dh * (before - n) * z * (1 - z);
        const double found[4] = {a_n * r, a_n * gh_n * r * (1 - r), a_z, a_n};
        for (int gate = 0; gate < 4; ++gate) larger(worst, std::fabs(found[gate] - d.grads.get(row, gate * H + i)));
        a[i] = found[1], a[H + i] = a_z, a[2 * H + i] = found[0], next[i] = dh * z;
      }
      for (int64_t j = 0; j < 3 * H; ++j)
        for (int64_t i = 0; i < H; ++i) next[i] += a[j] * d.w_hh.get(j, i);
      grad = next;
    }
    for (int64_t i = 0; i < H; ++i) larger(worst, std::fabs(grad[i] - d.grad_hx.get(b, i)));
  }
  return worst;
}

bool run_case(const Case& c, Arithmetic arithmetic, Exchange exchange, bool backward) {
  Shape s;
  s.dtype = dtype_of(arithmetic);
  s.steps = c.steps, s.batch = c.batch, s.hidden = c.hidden, s.directions = c.directions;
  Packing packing;
  const int64_t n = c.packed ? packing.pack(s) : s.steps * s.batch;
  std::vector<Direction> directions;
  ForwardLoop forward{};
  BackwardLoop back{};
  forward.shape = back.shape = s;
  for (int d = 0; d < s.directions; ++d) directions.emplace_back(s, n);
  for (int d = 0; d < s.directions; ++d) {
    Direction& a = directions[d];
    plain_forward(s, a, d == 1, c.bare);
    const bool in_place = !c.bare && !c.packed;  // the inputs stand where the gates go
    if (in_place)
      for (int64_t r = 0; r < n; ++r)
        for (int64_t j = 0; j < 3 * s.hidden; ++j) a.gates.set(r, j, a.inputs.get(r, j));
    forward.direction[d] = {in_place ? a.gates.in(s.batch) : a.inputs.in(s.batch),
                            a.hx.in(),
                            a.w_hh.in(),
                            c.bare ? nullptr : a.b_ih.bytes.data(),
                            c.bare ? nullptr : a.b_hh.bytes.data(),
                            a.output.out(s.batch),
                            a.h_n.out(),
                            c.bare ? Rows<void>{} : a.gates.out(s.batch)};
    back.direction[d] = {a.grad_output.in(s.batch),
                         c.bare ? Rows<const void>{} : a.grad_h_n.in(),
                         a.hx.in(),
                         a.w_hh.in(),
                         a.true_output.in(s.batch),
                         a.true_gates.in(s.batch),
                         a.grads.out(s.batch),
                         a.grad_hx.out()};
  }
  const Problem problem{arithmetic, s.batch, s.hidden, s.directions, backward};
  Plan plan;
  std::string wrong = plan_of(c, problem, exchange, plan);
  if (wrong.empty() && plan.regime == Regime::steps) wrong = "the plan goes step by step";
  if (wrong.empty()) wrong = backward ? launch(plan, back) : launch(plan, forward);
  if (!wrong.empty()) {
    std::printf("%s %s: failed: %s\n", c.name, backward ? "backward" : "forward", wrong.c_str());
    return false;
  }
  double worst = 0;
  for (int d = 0; d < s.directions; ++d) {
    const Direction& a = directions[d];
    if (backward) {
      larger(worst, compare_backward(s, a, d == 1, c.bare));
      continue;
    }
    larger(worst, difference(a.output, a.true_output));
    larger(worst, difference(a.h_n, a.true_h_n));
    if (!c.bare) larger(worst, difference(a.gates, a.true_gates));
  }
  if (worst <= bound_of(arithmetic)) return true;
  std::printf("%s %s: wrong by %.3g\n", c.name, backward ? "backward" : "forward", worst);
  return false;
}

// ---- The kernels without a loop.

bool check_steps(DType dtype, double bound) {
  double worst = 0;
  bool good = true;
  const auto succeeded = [&](const std::string& problem) {
    if (problem.empty()) return;
    good = false;
    std::printf("failed: %s\n", problem.c_str());
  };
  for (int i = 0; i < 4; ++i) {
    const int64_t H = i == 3 ? 130 : 7, rows = i == 1 ? 1 : 5, alive = i == 2 ? 3 : rows;
    const bool with_state = i % 2;
    const DType wide = dtype == DType::f64 ? DType::f64 : DType::f32;
    Matrix inputs(dtype, rows, 3 * H, 1), products(dtype, rows, 3 * H, 1), b_ih(dtype, 1, 3 * H, 1),
        b_hh(dtype, 1, 3 * H, 1), previous(dtype, rows, H, 1), operand(dtype, rows, H), output(dtype, rows, H),
        gates(dtype, rows, 4 * H), state(wide, rows, H, 1, true), true_state(wide, rows, H, 0, true);
    Matrix true_output(dtype, rows, H), true_gates(dtype, rows, 4 * H);
    for (int64_t r = 0; r < rows; ++r)
      for (int64_t u = 0; u < H; ++u) {
        const auto gi = [&](int g) { return inputs.get(r, g * H + u) + (i ? b_ih.get(0, g * H + u) : 0); };
        const auto gh = [&](int g) { return products.get(r, g * H + u) + (i ? b_hh.get(0, g * H + u) : 0); };
        const double h = with_state ? state.get(r, u) : previous.get(r, u), z = sigmoid(gi(1) + gh(1));
        const double reset = sigmoid(gi(0) + gh(0)), n = std::tanh(gi(2) + reset * gh(2));
        const double all[] = {reset, z, n, gh(2)};
        for (int g = 0; g < 4; ++g) true_gates.set(r, g * H + u, all[g]);
        true_output.set(r, u, n + z * (h - n));
      }
    succeeded(run_step(StepForward{dtype, rows, H, inputs.in(), products.in(), i ? b_ih.bytes.data() : nullptr,
                                   i ? b_hh.bytes.data() : nullptr, previous.in(),
                                   with_state ? state.bytes.data() : nullptr, operand.out(), output.out(), gates.out()},
                       nullptr));
    larger(worst, difference(output, true_output));
    larger(worst, difference(operand, true_output));
    larger(worst, difference(gates, true_gates));
    if (with_state) larger(worst, difference(state, true_output));

    // Fewer rows have products than have the step, or more.
    const int64_t multiplied = i == 1 ? 0 : i == 2 ? 5 : 2;
    Matrix grad_output(dtype, alive, H, 1), through(dtype, multiplied, H, 1), before(dtype, alive, H, 1),
        saved(dtype, alive, 4 * H, 1), grad(wide, rows, H, 1, true), grads(dtype, alive, 4 * H),
        true_grad(wide, rows, H, 0, true), true_grads(dtype, alive, 4 * H);
    for (int64_t r = 0; r < rows; ++r)
      for (int64_t u = 0; u < H; ++u) {
        double d = grad.get(r, u) + (r < multiplied ? through.get(r, u) : 0);
        if (r < alive) {
          d += i ? grad_output.get(r, u) : 0;
          const double reset = saved.get(r, u), z = saved.get(r, H + u), n = saved.get(r, 2 * H + u);
          const double a_n = d * (1 - z) * (1 - n * n), a_z = d * (before.get(r, u) - n) * z * (1 - z);
          const double all[] = {a_n * reset, a_n * saved.get(r, 3 * H + u) * reset * (1 - reset), a_z, a_n};
          for (int g = 0; g < 4; ++g) true_grads.set(r, g * H + u, all[g]);
          d *= z;
        }
        true_grad.set(r, u, d);
      }
    succeeded(run_step(StepBackward{dtype, rows, H, alive, multiplied, i ? grad_output.in() : Rows<const void>{},
                                    through.in(), before.in(), saved.in(), grad.bytes.data(), grads.out()},
                       nullptr));
    larger(worst, difference(grad, true_grad));
    larger(worst, difference(grads, true_grads));

    Shape s{dtype, 4, rows, 0, H, 2};
    Packing packing;
    const int64_t n = i % 2 ? packing.pack(s) : s.steps * s.batch;
    const bool reverse = i > 1;
    Matrix hx(dtype, rows, H, 1), states(dtype, n, H, 1), found(dtype, n, H, 0, true), expected(dtype, n, H);
    for (int64_t b = 0; b < rows; ++b) {
      const Sequence sequence(s, reverse, b);
      for (int64_t k = 0; k < sequence.length; ++k)
        for (int64_t u = 0; u < H; ++u)
          expected.set(sequence.at(k), u, k == 0 ? hx.get(b, u) : states.get(sequence.at(k - 1), u));
    }
    succeeded(run_previous({s, reverse, hx.in(), states.in(s.batch), found.bytes.data()}, nullptr));
    larger(worst, difference(found, expected));
  }
  if (!(worst <= bound)) std::printf("steps: wrong by %.3g\n", worst);
  return good && worst <= bound;
}

bool check_without_loops(DType dtype, double bound) {
  const bool steps = check_steps(dtype, bound), single = check_single(dtype, bound);
  return check_single_gradients(dtype, bound) && steps && single;
}

}  // namespace

int main(int count, char** arguments) { return check_all(count, arguments, false, run_case, check_without_loops); }

// Runs the loops and the single steps of the cell's variants: kernels_check.h. The numbers checked are those of
// reset_after with every option; the other recurrences are run for the sanitizers, and must leave nothing out.
#include "cuda/variant_kernels.h"
#include "variants_plain.h"

namespace {

bool run_case(const Case& c, Arithmetic arithmetic, Exchange exchange, bool backward) {
  Shape s;
  s.dtype = dtype_of(arithmetic);
  s.steps = c.steps, s.batch = c.batch, s.hidden = c.hidden, s.directions = c.directions;
  s.reversed = c.directions == 1 && c.packed;
  Packing packing;
  const int64_t n = c.packed ? packing.pack(s) : s.steps * s.batch;
  const Rules rules(s, n, c.bare);
  std::vector<Direction> directions;
  VariantForwardLoop forward{};
  VariantBackwardLoop back{};
  forward.shape = back.shape = s;
  forward.variant = back.variant = rules.variant();
  for (int d = 0; d < s.directions; ++d) directions.emplace_back(s, n, pick(0, 1));
  for (int d = 0; d < s.directions; ++d) {
    Direction& a = directions[d];
    plain_forward(s, rules, a, s.backwards(d));
    const auto arguments = a.arguments(s, c.bare);
    forward.direction[d] = {{a.inputs.in(s.batch), a.hx.in(), a.w_hh.in(), c.bare ? nullptr : a.b_ih.bytes.data(),
                             c.bare ? nullptr : a.b_hh.bytes.data(), a.output.out(s.batch), a.h_n.out(),
                             c.bare ? Rows<void>{} : a.gates.out(s.batch)},
                            arguments};
    back.direction[d] = {
        {a.grad_output.in(s.batch), c.bare ? Rows<const void>{} : a.grad_h_n.in(), a.hx.in(), a.w_hh.in(),
         a.true_output.in(s.batch), a.true_gates.in(s.batch), a.grads.out(s.batch), a.grad_hx.out()},
        arguments,
        c.bare ? Rows<void>{} : a.grad_update.out(s.batch),
        c.bare ? Rows<void>{} : a.grad_reset_state.out()};
  }
  const Problem problem{arithmetic, s.batch, s.hidden, s.directions, backward, true};
  Plan plan;
  std::string wrong = plan_of(c, problem, exchange, plan);
  if (wrong.empty() && plan.regime == Regime::steps) wrong = "the plan goes step by step";
  if (wrong.empty()) wrong = backward ? launch(plan, back) : launch(plan, forward);
  if (!wrong.empty()) {
    std::printf("%s %s: failed: %s\n", c.name, backward ? "backward" : "forward", wrong.c_str());
    return false;
  }
  double worst = 0;
  for (int d = 0; d < s.directions; ++d)
    larger(worst, backward ? compare_backward(s, rules, directions[d], s.backwards(d))
                           : compare_forward(directions[d], c.bare));
  if (worst <= bound_of(arithmetic)) return true;
  std::printf("%s %s: wrong by %.3g\n", c.name, backward ? "backward" : "forward", worst);
  return false;
}

// ---- The kernels without a loop.

// to = a b^T, or with `transposed` a b; `to` begins at a column.
void multiply(Matrix& to, int64_t first, const Matrix& a, int64_t a_first, int64_t n, const Matrix& b, int64_t b_first,
              int64_t count, bool transposed) {
  for (int64_t r = 0; r < to.rows; ++r)
    for (int64_t c = 0; c < count; ++c) {
      double sum = 0;
      for (int64_t i = 0; i < n; ++i)
        sum += a.get(r, a_first + i) * (transposed ? b.get(b_first + i, c) : b.get(b_first + c, i));
      to.set(r, first + c, sum);
    }
}

double largest(const Matrix& matrix, int64_t rows = -1) {  // NaN if one is
  double worst = 0;
  for (int64_t r = 0; r < (rows < 0 ? matrix.rows : rows); ++r)
    for (int64_t c = 0; c < matrix.columns; ++c) larger(worst, std::fabs(matrix.get(r, c)));
  return worst;
}

struct StepsCheck {
  const Shape& s;
  const Rules& rules;
  Recurrence recurrence;
  Direction& d;
  int64_t n;
  DType wide = s.dtype == DType::f64 ? DType::f64 : DType::f32;
  Matrix normal{s.dtype, n, 3 * s.hidden}, scale{wide, n, 1};
  bool good = true;

  void succeeded(const std::string& problem) {
    if (problem.empty()) return;
    good = false;
    std::printf("failed: %s\n", problem.c_str());
  }
  bool norm() const { return Cell{recurrence}.norm(); }

  template <class Step>
  Step step_of() const {
    Step step{};
    step.shape = s;
    step.variant = rules.variant(recurrence);
    step.arguments = d.arguments(s, rules.bare);
    step.arguments.gain = d.gain.bytes.data();
    return step;
  }

  void forward() {
    const int64_t H = s.hidden;
    Matrix state(wide, s.batch, H, 0, true), operand(s.dtype, s.batch, H, 0, true), products(s.dtype, s.batch, 3 * H);
    auto one = step_of<VariantStepForward>();
    one.inputs = d.inputs.in(s.batch);
    one.products = products.in();
    one.b_ih = rules.bare || norm() ? nullptr : d.b_ih.bytes.data();
    one.b_hh = rules.bare && !norm() ? nullptr : d.b_hh.bytes.data();
    one.hx = d.hx.in();
    one.state = state.bytes.data();
    one.operand = operand.bytes.data();
    one.output = d.output.out(s.batch);
    one.gates = d.gates.out(s.batch);
    if (norm()) one.normal = normal.out(s.batch), one.scale = scale.out(s.batch);
    succeeded(run_variant_step(ForwardPhase::begin, one, nullptr));
    for (one.step = 0; one.step < s.steps; ++one.step) {
      const int64_t first = recurrence == Recurrence::reset_before ? 2 * H : 3 * H;
      multiply(products, 0, operand, 0, H, d.w_hh, 0, first, false);
      if (first < 3 * H) {
        succeeded(run_variant_step(ForwardPhase::reset, one, nullptr));
        multiply(products, first, operand, 0, H, d.w_hh, first, H, false);
      }
      succeeded(norm() ? run_variant_norm(one, nullptr) : run_variant_step(ForwardPhase::finish, one, nullptr));
    }
    for (int64_t b = 0; b < s.batch; ++b)
      for (int64_t i = 0; i < H; ++i) d.h_n.set(b, i, state.get(b, i));
  }

  // From the numbers of the forward above, or of the plain one.
  void backward(const Matrix& output, const Matrix& gates) {
    const int64_t H = s.hidden;
    Matrix state(wide, s.batch, H, 0, true), of_reset(wide, s.batch, H, 0, true), products(s.dtype, s.batch, H),
        candidate(s.dtype, s.batch, H), grad_products(s.dtype, n, 3 * H), grad_gain(s.dtype, n, 3 * H),
        grad_inputs(s.dtype, n, 3 * H);
    clear(of_reset);
    for (int64_t b = 0; b < s.batch; ++b)
      for (int64_t i = 0; i < H; ++i) state.set(b, i, rules.bare ? 0 : d.grad_h_n.get(b, i));
    auto one = step_of<VariantStepBackward>();
    one.grad_output = d.grad_output.in(s.batch);
    one.products = products.in();
    one.candidate = candidate.in();
    one.hx = d.hx.in();
    one.output = output.in(s.batch);
    one.gates = gates.in(s.batch);
    one.normal = normal.in(s.batch);
    one.scale = scale.in(s.batch);
    one.state = state.bytes.data();
    one.grad_reset_state = rules.bare ? nullptr : of_reset.bytes.data();
    one.grads = d.grads.out(s.batch);
    if (!rules.bare) one.grad_update = d.grad_update.out(s.batch);
    if (norm()) {
      one.grad_products = grad_products.out(s.batch);
      one.grad_gain = grad_gain.out(s.batch);
      if (recurrence == Recurrence::norm_recurrent) one.grad_inputs = grad_inputs.out(s.batch);
    }
    for (one.step = s.steps - 1; one.step >= -1; --one.step) {
      succeeded(norm() ? run_variant_norm(one, nullptr) : run_variant_step(BackwardPhase::step, one, nullptr));
      if (one.step < 0) break;
      const int64_t t = s.time_of(one.step, 0), alive = s.rows_at(t);
      const auto of_step = [&](const Matrix& all) {
        Matrix rows(s.dtype, s.batch, all.columns);
        for (int64_t b = 0; b < alive; ++b)
          for (int64_t c = 0; c < all.columns; ++c) rows.set(b, c, all.get(rules.row(t, b), c));
        return rows;
      };
      if (norm()) {
        multiply(products, 0, of_step(grad_products), 0, 3 * H, d.w_hh, 0, H, true);
      } else if (recurrence == Recurrence::reset_before) {
        multiply(candidate, 0, of_step(d.grads), 3 * H, H, d.w_hh, 2 * H, H, true);
        succeeded(run_variant_step(BackwardPhase::reset, one, nullptr));
        multiply(products, 0, of_step(d.grads), H, 2 * H, d.w_hh, 0, H, true);
      } else {  // d_gh lies as n, r, z
        Matrix rz(s.dtype, s.batch, H);
        const Matrix grads = of_step(d.grads);
        multiply(products, 0, grads, 0, H, d.w_hh, 2 * H, H, true);
        multiply(rz, 0, grads, H, 2 * H, d.w_hh, 0, H, true);
        for (int64_t b = 0; b < s.batch; ++b)
          for (int64_t i = 0; i < H; ++i) products.set(b, i, products.get(b, i) + rz.get(b, i));
      }
    }
    for (int64_t b = 0; b < s.batch; ++b)
      for (int64_t i = 0; i < H; ++i) {
        d.grad_hx.set(b, i, state.get(b, i));
        d.grad_reset_state.set(b, i, of_reset.get(b, i));
      }
    if (norm()) good = good && std::isfinite(largest(grad_products) + largest(grad_gain));
    if (recurrence == Recurrence::norm_recurrent) good = good && std::isfinite(largest(grad_inputs));
  }

  // What the products over all steps are made with.
  void operands() {
    const int64_t H = s.hidden;
    const bool reset_before = recurrence == Recurrence::reset_before;
    Matrix hd(s.dtype, n, H, 0, true), reset_hd(s.dtype, n, H, 0, true), copy(s.dtype, n, 3 * H, 0, true);
    const auto one = step_of<VariantStep>();
    succeeded(
        run_variant_operands({s, one.variant, one.arguments, 0, d.hx.in(), d.output.in(s.batch), d.gates.in(s.batch),
                              hd.bytes.data(), reset_before ? reset_hd.bytes.data() : nullptr},
                             nullptr));
    succeeded(run_alive_rows({s, one.variant, d.inputs.in(s.batch), 3 * H, copy.bytes.data()}, nullptr));
    good = good && std::isfinite(largest(hd) + largest(copy) + (reset_before ? largest(reset_hd) : 0));
  }
};

bool check_steps(DType dtype, double bound) {
  double worst = 0;
  bool good = true;
  for (const Recurrence recurrence :
       {Recurrence::reset_after, Recurrence::reset_before, Recurrence::norm_recurrent, Recurrence::norm_sum})
    for (int i = 0; i < 3; ++i) {  // few launches: ThreadSanitizer takes long to begin each of their 256 threads
      const bool norm = Cell{recurrence}.norm();
      if (i == 1 ? recurrence != Recurrence::reset_after : i == 2 && !norm) continue;
      Shape s{dtype, 2, i ? 1 : 2, 0, i == 2 ? 86 : 7, 1, i == 1};  // of 86 units a norm has more numbers than threads
      Packing packing;
      const int64_t n = i == 2 ? packing.pack(s) : s.steps * s.batch;
      const Rules rules(s, n, i == 1);
      Direction d(s, n, i == 0);
      StepsCheck check{s, rules, recurrence, d, n};
      plain_forward(s, rules, d, s.reversed);
      check.forward();
      check.operands();
      if (recurrence == Recurrence::reset_after) {
        larger(worst, compare_forward(d, rules.bare));
        check.backward(d.true_output, d.true_gates);
        larger(worst, compare_backward(s, rules, d, s.reversed));
      } else {
        check.backward(d.output, d.gates);
        larger(worst, std::isfinite(largest(d.output) + largest(d.grads) + largest(d.grad_hx)) ? 0 : NAN);
      }
      good = good && check.good;
    }
  if (!(worst <= bound)) std::printf("steps: wrong by %.3g\n", worst);
  return good && worst <= bound;
}

}  // namespace

int main(int count, char** arguments) { return check_all(count, arguments, true, run_case, check_steps); }

// Runs the CPU kernels over random shapes against plain double loops, for sanitizers to watch.
//
//   kernels_check NAME CASES    NAME: base, avx2, avx512, avx512_bf16 or amx_bf16
//
// Every array is a heap block of its exact size, so that AddressSanitizer sees a step past any end; pieces run on
// threads of their own, so that ThreadSanitizer sees two of them touch one number. Exits with 1 on a wrong result.
#include "arrays.h"

namespace {

double sigmoid(double x) { return 1 / (1 + std::exp(-x)); }

// One direction of one call: its arrays, and what plain loops make of them.
struct Direction {
  Matrix x, hx, w_ih, w_hh, b_ih, b_hh, output, h_n, gates;
  Matrix grad_output, grad_h_n, grad_x, grad_hx, grad_w_ih, grad_w_hh, grad_b_ih, grad_b_hh;

  Direction(const Shape& s, int64_t n)
      : x(s.dtype, n, s.inputs, 1),
        hx(s.dtype, s.batch, s.hidden, 1),
        w_ih(s.dtype, 3 * s.hidden, s.inputs, 1 / std::sqrt(double(s.inputs))),
        w_hh(s.dtype, 3 * s.hidden, s.hidden, 1 / std::sqrt(double(s.hidden))),
        b_ih(s.dtype, 1, 3 * s.hidden, 1),
        b_hh(s.dtype, 1, 3 * s.hidden, 1),
        output(s.dtype, n, s.hidden),
        h_n(s.dtype, s.batch, s.hidden),
        gates(s.dtype, n, 4 * s.hidden),
        grad_output(s.dtype, n, s.hidden, 1),
        grad_h_n(s.dtype, s.batch, s.hidden, 1),
        grad_x(s.dtype, n, s.inputs),
        grad_hx(s.dtype, s.batch, s.hidden),
        grad_w_ih(s.dtype, 3 * s.hidden, s.inputs, 0, true),
        grad_w_hh(s.dtype, 3 * s.hidden, s.hidden, 0, true),
        grad_b_ih(s.dtype, 1, 3 * s.hidden),
        grad_b_hh(s.dtype, 1, 3 * s.hidden) {}
};

struct Worst {
  double forward = 0, backward = 0;
};

// Compares one direction with plain loops; the backward takes the kernel's own gates, or recomputes them from its own
// states, so that each is judged alone.
Worst compare(const Shape& s, const Direction& d, bool reverse, bool recompute) {
  Worst worst;
  const int64_t H = s.hidden, I = s.inputs;
  std::vector<double> b_ih(3 * H), b_hh(3 * H), w_ih(3 * H * I), w_hh(3 * H * H);
  const auto row_at = [&](int64_t t, int64_t b) { return (s.offsets ? s.offsets[t] : t * s.batch) + b; };
  std::vector<double> gates(4 * H), gi(3 * H), gh(3 * H);  // r, z, n, gh_n
  const auto make_gates = [&](int64_t row, const std::vector<double>& h) {
    for (int64_t j = 0; j < 3 * H; ++j) {
      gi[j] = d.b_ih.get(0, j), gh[j] = d.b_hh.get(0, j);
      for (int64_t i = 0; i < I; ++i) gi[j] += d.w_ih.get(j, i) * d.x.get(row, i);
      for (int64_t i = 0; i < H; ++i) gh[j] += d.w_hh.get(j, i) * h[i];
    }
    for (int64_t i = 0; i < H; ++i) {
      const double r = sigmoid(gi[i] + gh[i]);
      gates[i] = r, gates[H + i] = sigmoid(gi[H + i] + gh[H + i]);
      gates[2 * H + i] = std::tanh(gi[2 * H + i] + r * gh[2 * H + i]), gates[3 * H + i] = gh[2 * H + i];
    }
  };
  for (int64_t b = 0; b < s.batch; ++b) {
    int64_t length = 0;
    while (length < s.steps && s.rows_at(length) > b) ++length;
    std::vector<double> h(H), grad(H), next(H), a(4 * H), before(H);
    for (int64_t i = 0; i < H; ++i) h[i] = d.hx.get(b, i);
    for (int64_t k = 0; k < length; ++k) {
      const int64_t row = row_at(reverse ? length - 1 - k : k, b);
      make_gates(row, h);
      for (int64_t i = 0; i < H; ++i) {
        const double z = gates[H + i], n = gates[2 * H + i];
        next[i] = n + z * (h[i] - n);
        larger(worst.forward, std::fabs(next[i] - d.output.get(row, i)));
      }
      h = next;
    }
    for (int64_t i = 0; i < H; ++i) {
      larger(worst.forward, std::fabs(h[i] - d.h_n.get(b, i)));
      grad[i] = d.grad_h_n.get(b, i);
    }
    for (int64_t k = length - 1; k >= 0; --k) {
      const int64_t row = row_at(reverse ? length - 1 - k : k, b);
      for (int64_t i = 0; i < H; ++i)
        before[i] = k == 0 ? d.hx.get(b, i) : d.output.get(row_at(reverse ? length - k : k - 1, b), i);
      if (recompute) make_gates(row, before);
      for (int64_t i = 0; i < H; ++i) {
        const auto gate = [&](int64_t g) { return recompute ? gates[g * H + i] : d.gates.get(row, g * H + i); };
        const double r = gate(0), z = gate(1), n = gate(2), gh_n = gate(3);
        const double dh = grad[i] + d.grad_output.get(row, i);
        const double a_n = dh * (1 - z) * (1 - n * n), a_z = dh * (before[i] - n) * z * (1 - z);
        const double grads[4] = {a_n * r, a_n * gh_n * r * (1 - r), a_z, a_n};
        a[i] = grads[1], a[H + i] = grads[2], a[2 * H + i] = grads[0], a[3 * H + i] = grads[3];
        next[i] = dh * z;
        b_ih[i] += grads[1], b_ih[H + i] += grads[2], b_ih[2 * H + i] += grads[3];
        b_hh[i] += grads[1], b_hh[H + i] += grads[2], b_hh[2 * H + i] += grads[0];
      }
      for (int64_t j = 0; j < 3 * H; ++j)
        for (int64_t i = 0; i < H; ++i) {
          next[i] += a[j] * d.w_hh.get(j, i);
          w_hh[j * H + i] += a[j] * before[i];
        }
      const auto input_grad = [&](int64_t j) { return a[j < 2 * H ? j : j + H]; };  // of r, z, n
      for (int64_t i = 0; i < I; ++i) {
        double grad_x = 0;
        for (int64_t j = 0; j < 3 * H; ++j) {
          grad_x += input_grad(j) * d.w_ih.get(j, i);
          w_ih[j * I + i] += input_grad(j) * d.x.get(row, i);
        }
        larger(worst.backward, std::fabs(grad_x - d.grad_x.get(row, i)));
      }
      grad = next;
    }
    for (int64_t i = 0; i < H; ++i) larger(worst.backward, std::fabs(grad[i] - d.grad_hx.get(b, i)));
  }
  const double scale = std::sqrt(double(s.steps * s.batch));  // of a sum over all rows
  const auto compare_sums = [&](const std::vector<double>& exact, const Matrix& found) {
    for (int64_t r = 0; r < found.rows; ++r)
      for (int64_t c = 0; c < found.columns; ++c)
        larger(worst.backward, std::fabs(exact[r * found.columns + c] - found.get(r, c)) / scale);
  };
  compare_sums(b_ih, d.grad_b_ih);
  compare_sums(b_hh, d.grad_b_hh);
  compare_sums(w_ih, d.grad_w_ih);
  compare_sums(w_hh, d.grad_w_hh);
  return worst;
}

bool run_case(const cpu::Kernels& kernels, int64_t index) {
  Shape s;
  s.dtype = DType(index % 4);
  s.directions = int(pick(1, 2));
  s.steps = index % 13 == 0 ? pick(30, 60) : pick(1, 6);
  s.batch = index % 13 == 1 ? pick(60, 90) : pick(1, 11);
  s.hidden = index % 7 == 0 ? pick(60, 70) : pick(1, 20);
  s.inputs = index % 11 == 0 ? pick(40, 60) : pick(1, 20);
  if (index % 17 == 0) s.batch = 1, s.hidden = pick(130, 150), s.steps += 10;  // with threads enough: a team
  if (index % 13 == 2) s.batch = pick(16, 24), s.hidden = pick(60, 70);  // whole steps, of a single step by a team
  // A team whose weights are not packed, with work enough to wake it.
  const bool in_place = index % 19 == 3;
  if (in_place) s.batch = 1, s.hidden = pick(250, 260), s.inputs = pick(200, 210), s.steps = pick(13, 16);
  // Rows that go together, whose weights are not packed in wide vectors.
  const bool together = index % 36 == 16;
  if (together) s.batch = pick(8, 13), s.hidden = pick(250, 260), s.inputs = pick(200, 210), s.steps = pick(1, 2);
  const bool many_threads = index % 5 == 0 || index % 17 == 0 || index % 26 == 2 || in_place;
  const int64_t thread_count = many_threads ? 64 : pick(1, together ? 2 : 3);
  Packing packing;
  const int64_t n = packing.apply(s);

  const bool recompute = pick(0, 1);  // then no gates are saved
  std::vector<Direction> directions;
  ForwardParams forward{s, {}};
  BackwardParams backward{s, {}};
  for (int d = 0; d < s.directions; ++d) directions.emplace_back(s, n);
  for (int d = 0; d < s.directions; ++d) {
    Direction& a = directions[d];
    const DirectionArguments given{a.x.in(s.batch), a.hx.in(),           a.w_ih.in(),
                                   a.w_hh.in(),     a.b_ih.bytes.data(), a.b_hh.bytes.data()};
    forward.direction[d] = {given, a.output.out(s.batch), a.h_n.out(), recompute ? Rows<void>{} : a.gates.out(s.batch)};
    BackwardDirection& to = backward.direction[d];
    static_cast<DirectionArguments&>(to) = given;
    to.grad_output = a.grad_output.in(s.batch);
    to.grad_h_n = a.grad_h_n.in();
    to.output = a.output.in(s.batch);
    if (!recompute) to.gates = a.gates.in(s.batch);
    to.grad_x = a.grad_x.out(s.batch);
    to.grad_hx = a.grad_hx.out();
    to.grad_w_ih = a.grad_w_ih.bytes.data();
    to.grad_w_hh = a.grad_w_hh.bytes.data();
    to.grad_b_ih = a.grad_b_ih.bytes.data();
    to.grad_b_hh = a.grad_b_hh.bytes.data();
  }
  launch(forward, kernels.forward_scratch, kernels.forward, thread_count);
  launch(backward, kernels.backward_scratch, kernels.backward, thread_count);

  // About 16 units in the last place of the stored type, at the scale of the numbers here (a few units); sums of many
  // terms gather more, as a random walk does.
  const double of_type = s.dtype == DType::f64   ? 1e-14
                         : s.dtype == DType::f32 ? 8e-6
                         : s.dtype == DType::f16 ? 2e-2
                                                 : 0.15;
  const double bound = of_type * std::sqrt(std::max(1.0, double(std::max(3 * s.hidden, s.inputs)) / 200));
  bool good = true;
  for (int d = 0; d < s.directions; ++d) {
    const Worst worst = compare(s, directions[d], d == 1, recompute);
    if (worst.forward <= bound && worst.backward <= bound) continue;
    good = false;
    std::printf("case %lld direction %d dtype %d T%lld B%lld I%lld H%lld %s%s: forward %.3g backward %.3g\n",
                (long long)index, d, int(s.dtype), (long long)s.steps, (long long)s.batch, (long long)s.inputs,
                (long long)s.hidden, s.batch_sizes ? "packed" : "padded", recompute ? " recompute" : "", worst.forward,
                worst.backward);
  }
  return good;
}

}  // namespace

int main(int, char** arguments) { return check_cases(arguments, run_case); }

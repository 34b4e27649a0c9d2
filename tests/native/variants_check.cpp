// Runs the kernels of the cell's variants over random shapes and options, for sanitizers to watch.
//
//   variants_check NAME CASES    as kernels_check.cpp
//
// Every output is compared with plain loops. These carry a tangent along: the derivative of the loss in one random
// direction through all arguments, which is what the gradients, in that direction, have to add up to.
#include <algorithm>

#include "arrays.h"

namespace {

struct Number {
  double value, tangent = 0;

  Number(double value = 0, double tangent = 0) : value(value), tangent(tangent) {}
};
Number operator+(Number x, Number y) { return {x.value + y.value, x.tangent + y.tangent}; }
Number operator-(Number x, Number y) { return {x.value - y.value, x.tangent - y.tangent}; }
Number operator*(Number x, Number y) { return {x.value * y.value, x.value * y.tangent + x.tangent * y.value}; }
Number function(Number x, double value, double slope) { return {value, slope * x.tangent}; }
Number inverse(Number x) { return function(x, 1 / x.value, -1 / (x.value * x.value)); }
Number root(Number x) { return function(x, std::sqrt(x.value), 0.5 / std::sqrt(x.value)); }

Number active(Activation activation, Number x) {
  const double linear = activation == Activation::hard_sigmoid ? 1.0 / 6 : 0.2;
  const double y = linear * x.value + 0.5, sigmoid = 1 / (1 + std::exp(-x.value)), tanh = std::tanh(x.value);
  switch (activation) {
    case Activation::sigmoid:
      return function(x, sigmoid, sigmoid * (1 - sigmoid));
    case Activation::hard_sigmoid:
    case Activation::hard_sigmoid_fifth:
      return function(x, std::clamp(y, 0.0, 1.0), y > 0 && y < 1 ? linear : 0);
    case Activation::tanh:
      return function(x, tanh, 1 - tanh * tanh);
    case Activation::relu:
      return function(x, std::max(x.value, 0.0), x.value > 0);
    case Activation::softsign:
      break;
  }
  const double rest = 1 + std::fabs(x.value);
  return function(x, x.value / rest, 1 / (rest * rest));
}

// An argument, the direction that it moves in, and its gradient. One that is not used has no rows.
struct Argument {
  Matrix values, along, grad;

  Argument(DType dtype, int64_t rows, int64_t columns, double scale, double middle = 0, bool weight = false)
      : values(dtype, rows, columns, scale),
        along(DType::f64, rows, columns, 1),
        grad(dtype, rows, columns, 0, weight) {
    for (int64_t r = 0; middle && r < rows; ++r)
      for (int64_t c = 0; c < columns; ++c) values.set(r, c, middle + values.get(r, c));
  }

  bool used() const { return values.rows > 0; }
  Number at(int64_t r, int64_t c) const { return {values.get(r, c), along.get(r, c)}; }
  Number at(int64_t r, int64_t c, double otherwise) const { return used() ? at(r, c) : Number(otherwise); }
  Rows<const void> in(int64_t step_rows = 0) const { return used() ? values.in(step_rows) : Rows<const void>{}; }
  const void* data() const { return used() ? values.bytes.data() : nullptr; }
  void keep_still() { std::fill(along.bytes.begin(), along.bytes.end(), 0); }
  // Where its gradient goes, if it is wanted.
  Rows<void> out(bool wanted, int64_t step_rows = 0) {
    if (!wanted) keep_still();
    return wanted && used() ? grad.out(step_rows) : Rows<void>{};
  }
};

struct Options {
  Variant variant;
  bool bias, learned, dropout, per_unit, update;
  std::vector<int64_t> lengths;
  std::vector<unsigned char> reset;

  Options(const Shape& s, int64_t n)
      : bias(pick(0, 1)), learned(pick(0, 1)), dropout(pick(0, 1)), per_unit(pick(0, 1)), update(pick(0, 1)) {
    // A rounded number may fall on the other side of a kink.
    const bool smooth = size_of(s.dtype) == 2;
    variant.cell = {Recurrence(pick(0, 3)), Activation(smooth ? 0 : pick(0, 2)), Activation(smooth ? 3 : pick(3, 5)),
                    1e-2};
    if (!s.batch_sizes && pick(0, 1)) {
      for (int64_t b = 0; b < s.batch; ++b) lengths.push_back(pick(-1, s.steps + 1));
      variant.lengths = lengths.data();
    }
    if (pick(0, 1)) {
      for (int64_t row = 0; row < n; ++row) reset.push_back(pick(0, 2) == 0);
      variant.reset = {reset.data(), s.batch, 1};
    } else {
      learned = false;
    }
  }
};

struct Direction {
  Argument x, hx, w_ih, w_hh, b_ih, b_hh, gain, reset_state, update;
  Matrix dropout, output, h_n, gates, normal, scale, inferred, inferred_h_n, grad_output, grad_h_n, grad_update;

  Direction(const Shape& s, int64_t n, const Options& o, int64_t H, bool norm)
      : x(s.dtype, n, norm ? 3 * H : s.inputs, 1),
        hx(s.dtype, s.batch, H, 1),
        w_ih(s.dtype, norm ? 0 : 3 * H, s.inputs, 1 / std::sqrt(double(s.inputs + 1)), 0, true),
        w_hh(s.dtype, 3 * H, H, 1 / std::sqrt(double(H)), 0, true),
        b_ih(s.dtype, o.bias && !norm, 3 * H, 1),
        b_hh(s.dtype, o.bias || norm, 3 * H, 1),
        gain(s.dtype, norm, 3 * H, 0.5, 1),
        reset_state(s.dtype, o.learned ? s.batch : 0, H, 1),
        update(s.dtype, o.update ? n : 0, o.per_unit ? H : 1, 0.5, 0.5),
        dropout(s.dtype, o.dropout ? s.batch : 0, H, 1),
        output(s.dtype, n, H),
        h_n(s.dtype, s.batch, H),
        gates(s.dtype, n, 4 * H),
        normal(s.dtype, norm ? n : 0, 3 * H),
        scale(s.dtype == DType::f64 ? DType::f64 : DType::f32, norm ? n : 0, 1),
        inferred(s.dtype, n, H),
        inferred_h_n(s.dtype, s.batch, H),
        grad_output(s.dtype, n, H, 1),
        grad_h_n(s.dtype, s.batch, H, 1),
        grad_update(s.dtype, o.update ? n : 0, H) {}
};

int64_t row_at(const Shape& s, int64_t t, int64_t b) { return (s.offsets ? s.offsets[t] : t * s.batch) + b; }

// The state after a step.
std::vector<Number> step(const Shape& s, const Direction& d, const Cell& cell, int64_t row, int64_t b,
                         const std::vector<Number>& h0) {
  const int64_t H = s.hidden;
  const bool norm = cell.norm(), before = cell.recurrence == Recurrence::reset_before;
  std::vector<Number> hd(H), gi(3 * H), gh(3 * H), r(H), next(H);
  for (int64_t i = 0; i < H; ++i) hd[i] = h0[i] * Number(d.dropout.rows ? d.dropout.get(b, i) : 1);
  const auto product = [&](int64_t j) {
    Number sum;
    for (int64_t i = 0; i < H; ++i) sum = sum + d.w_hh.at(j, i) * hd[i];
    return sum;
  };
  for (int64_t j = 0; j < 3 * H; ++j) {
    if (norm) {
      gi[j] = d.x.at(row, j), gh[j] = product(j);
      continue;
    }
    gi[j] = d.b_ih.at(0, j, 0);
    for (int64_t i = 0; i < s.inputs; ++i) gi[j] = gi[j] + d.w_ih.at(j, i) * d.x.at(row, i);
    if (!before || j < 2 * H) gh[j] = product(j) + d.b_hh.at(0, j, 0);
  }
  if (norm) {
    Number mean, variance;
    for (int64_t j = 0; j < 3 * H; ++j) {
      if (cell.recurrence == Recurrence::norm_sum) gh[j] = gh[j] + gi[j], gi[j] = 0;
      mean = mean + gh[j] * (1.0 / (3 * H));
    }
    for (const Number y : gh) variance = variance + (y - mean) * (y - mean) * (1.0 / (3 * H));
    const Number scale = inverse(root(variance + cell.epsilon));
    for (int64_t j = 0; j < 3 * H; ++j) gh[j] = (gh[j] - mean) * scale * d.gain.at(0, j) + d.b_hh.at(0, j);
  }
  for (int64_t i = 0; i < H; ++i) r[i] = active(cell.gate, gi[i] + gh[i]);
  if (before) {
    for (int64_t i = 0; i < H; ++i) hd[i] = r[i] * hd[i];
    for (int64_t i = 0; i < H; ++i) gh[2 * H + i] = product(2 * H + i) + d.b_hh.at(0, 2 * H + i, 0);
  }
  for (int64_t i = 0; i < H; ++i) {
    const Number z = active(cell.gate, gi[H + i] + gh[H + i]), gh_n = gh[2 * H + i];
    const Number n = active(cell.candidate, gi[2 * H + i] + (before ? gh_n : r[i] * gh_n));
    const Number keep = Number(1) - d.update.at(row, d.update.values.columns == 1 ? 0 : i, 1) * (Number(1) - z);
    next[i] = n + keep * (h0[i] - n);
  }
  return next;
}

struct Found {
  double forward = 0;  // the largest error
  double loss = 0;     // its derivative
};

Found compare(const Shape& s, const Direction& d, const Variant& variant, bool backwards) {
  Found found;
  const int64_t H = s.hidden;
  const auto same = [&](double exact, double a, double b) {
    larger(found.forward, std::fabs(exact - a));
    larger(found.forward, a == b ? 0 : NAN);  // without saved gates the same bits
  };
  for (int64_t b = 0; b < s.batch; ++b) {
    int64_t length = 0;
    while (length < s.steps && s.rows_at(length) > b) ++length;
    const int64_t places = length;
    if (variant.lengths) length = std::clamp<int64_t>(variant.lengths[b], 0, s.steps);
    std::vector<Number> h(H);
    for (int64_t i = 0; i < H; ++i) h[i] = d.hx.at(b, i);
    for (int64_t k = 0; k < length; ++k) {
      const int64_t t = backwards ? length - 1 - k : k, first = backwards ? t + 1 : t;
      const auto* reset = static_cast<const unsigned char*>(variant.reset.data);
      if (reset && first < length && reset[row_at(s, first, b)])
        for (int64_t i = 0; i < H; ++i) h[i] = d.reset_state.at(b, i, 0);
      const int64_t row = row_at(s, t, b);
      h = step(s, d, variant.cell, row, b, h);
      for (int64_t i = 0; i < H; ++i) {
        same(h[i].value, d.output.get(row, i), d.inferred.get(row, i));
        found.loss += h[i].tangent * d.grad_output.get(row, i);
      }
    }
    for (int64_t t = length; t < places; ++t)
      for (int64_t i = 0; i < H; ++i) same(0, d.output.get(row_at(s, t, b), i), d.inferred.get(row_at(s, t, b), i));
    for (int64_t i = 0; i < H; ++i) {
      same(h[i].value, d.h_n.get(b, i), d.inferred_h_n.get(b, i));
      found.loss += h[i].tangent * d.grad_h_n.get(b, i);
    }
  }
  return found;
}

// The gradients' sum in the direction of the tangents, and that of its terms' sizes.
struct Sum {
  double value = 0, size = 0;

  void add(const Matrix& grad, const Matrix& along) {
    for (int64_t r = 0; r < along.rows; ++r)
      for (int64_t c = 0; c < grad.columns; ++c) {
        const double v = along.get(r, along.columns == 1 ? 0 : c);
        if (v == 0) continue;
        value += v * grad.get(r, c), size += std::fabs(v * grad.get(r, c));
      }
  }
};

bool run_case(const cpu::Kernels& kernels, int64_t index) {
  Shape s;
  s.dtype = DType(index % 4);
  s.directions = int(pick(1, 2));
  s.reversed = s.directions == 1 && pick(0, 1);
  s.steps = index % 13 == 0 ? pick(30, 60) : pick(1, 6);
  s.batch = index % 13 == 1 ? pick(60, 90) : pick(1, 11);
  s.hidden = index % 7 == 0 ? pick(60, 70) : pick(1, 20);
  s.inputs = pick(1, 20);
  if (index % 17 == 0) s.batch = 1, s.hidden = pick(130, 150), s.steps += 10;  // with threads enough: a team
  const int64_t thread_count = index % 5 == 0 || index % 17 == 0 ? 64 : pick(1, 3);
  Packing packing;
  const int64_t n = packing.apply(s), H = s.hidden;
  const Options options(s, n);
  const Variant& variant = options.variant;
  const bool norm = variant.cell.norm();
  if (norm) s.inputs = 0;
  const bool need_x = pick(0, 3), need_weights = pick(0, 3), need_update = pick(0, 3), need_reset_state = pick(0, 3);

  std::vector<Direction> directions;
  VariantForwardParams forward{s, variant, {}}, inference = forward;
  VariantBackwardParams backward{s, variant, {}};
  for (int d = 0; d < s.directions; ++d) directions.emplace_back(s, n, options, H, norm);
  for (int d = 0; d < s.directions; ++d) {
    Direction& a = directions[d];
    for (int64_t t = 0; variant.lengths && t < s.steps; ++t)  // what is not alive does not count, and gets zeros
      for (int64_t b = 0; b < s.batch; ++b) {
        if (variant.alive(s, t, b)) continue;
        for (Matrix* array : {&a.x.values, &a.update.values, &a.grad_output})
          for (int64_t c = 0; array->rows && c < array->columns; ++c) array->set(t * s.batch + b, c, NAN);
      }
    const DirectionArguments given{a.x.in(s.batch), a.hx.in(), a.w_ih.in(), a.w_hh.in(), a.b_ih.data(), a.b_hh.data()};
    const VariantArguments more{a.update.in(s.batch), options.per_unit,
                                a.dropout.rows ? a.dropout.in() : Rows<const void>{}, a.reset_state.in(),
                                a.gain.data()};
    VariantForwardDirection& forth = forward.direction[d];
    static_cast<DirectionArguments&>(forth) = given;
    static_cast<VariantArguments&>(forth) = more;
    inference.direction[d] = forth;
    inference.direction[d].output = a.inferred.out(s.batch), inference.direction[d].h_n = a.inferred_h_n.out();
    forth.output = a.output.out(s.batch), forth.h_n = a.h_n.out(), forth.gates = a.gates.out(s.batch);
    VariantBackwardDirection& back = backward.direction[d];
    static_cast<DirectionArguments&>(back) = given;
    static_cast<VariantArguments&>(back) = more;
    back.grad_output = a.grad_output.in(s.batch), back.grad_h_n = a.grad_h_n.in();
    back.output = a.output.in(s.batch), back.gates = a.gates.in(s.batch);
    if (norm) {
      forth.normal = a.normal.out(s.batch), forth.scale = a.scale.out(s.batch);
      back.normal = a.normal.in(s.batch), back.scale = a.scale.in(s.batch);
    }
    back.grad_x = a.x.out(need_x, s.batch), back.grad_hx = a.hx.out(true);
    back.grad_w_ih = a.w_ih.out(need_weights).data, back.grad_w_hh = a.w_hh.out(need_weights).data;
    back.grad_b_ih = a.b_ih.out(need_weights).data, back.grad_b_hh = a.b_hh.out(need_weights).data;
    back.grad_gain = a.gain.out(need_weights).data;
    back.grad_reset_state = a.reset_state.out(need_reset_state);
    a.update.out(need_update);
    if (need_update && options.update) back.grad_update = a.grad_update.out(s.batch);
  }
  launch(forward, kernels.variant_forward_scratch, kernels.variant_forward, thread_count);
  launch(inference, kernels.variant_forward_scratch, kernels.variant_forward, thread_count);
  launch(backward, kernels.variant_backward_scratch, kernels.variant_backward, thread_count);

  // Some 30 units in the last place of the stored type, at the scale of the numbers here (a few units).
  const double bound = s.dtype == DType::f64   ? 1e-13
                       : s.dtype == DType::f32 ? 2e-5
                       : s.dtype == DType::f16 ? 4e-2
                                               : 0.3;
  bool good = true;
  for (int d = 0; d < s.directions; ++d) {
    const Direction& a = directions[d];
    const Found found = compare(s, a, variant, s.backwards(d));
    Sum sum;
    for (const Argument* argument : {&a.x, &a.hx, &a.w_ih, &a.w_hh, &a.b_ih, &a.b_hh, &a.gain, &a.reset_state})
      sum.add(argument->grad, argument->along);
    sum.add(a.grad_update, a.update.along);
    double error = 0;
    larger(error, std::fabs(sum.value - found.loss) / (1 + sum.size));
    if (found.forward <= bound && error <= bound) continue;
    good = false;
    std::printf("case %lld direction %d dtype %d recurrence %d activations %d %d T%lld B%lld I%lld H%lld %s%s%s%s%s: ",
                (long long)index, d, int(s.dtype), int(variant.cell.recurrence), int(variant.cell.gate),
                int(variant.cell.candidate), (long long)s.steps, (long long)s.batch, (long long)s.inputs, (long long)H,
                s.batch_sizes ? "packed" : "padded", variant.lengths ? " lengths" : "",
                variant.reset.data ? " reset" : "", options.update ? " update" : "", options.dropout ? " dropout" : "");
    std::printf("forward %.3g gradient %.3g\n", found.forward, error);
  }
  return good;
}

}  // namespace

int main(int, char** arguments) { return check_cases(arguments, run_case); }

// What the ops on a CUDA device share: matrices of torch's, and the device, stream and shape of a call.
#pragma once

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <limits>

#include "../cuda/kernels.h"
#include "layer.h"
#include "stream.h"

namespace gru_fused::ops {

inline void check_status(const std::string& status) { check(status.empty(), "CUDA: ", status); }

// ---- Matrices: views of two dimensions. To make one is a part of a step's time.
inline Tensor block(const Tensor& matrix, int64_t row, int64_t rows, int64_t column, int64_t columns) {
  if (rows == matrix.size(0) && columns == matrix.size(1)) return matrix;
  const int64_t strides[] = {matrix.stride(0), matrix.stride(1)};
  return strided(matrix, row * strides[0] + column * strides[1], {rows, columns}, {strides[0], strides[1]});
}
inline Tensor columns(const Tensor& matrix, int64_t first, int64_t count) {
  return block(matrix, 0, matrix.size(0), first, count);
}
inline Tensor rows(const Tensor& matrix, int64_t first, int64_t count) {
  return block(matrix, first, count, 0, matrix.size(1));
}
inline Tensor transposed(const Tensor& matrix) {
  return strided(matrix, 0, {matrix.size(1), matrix.size(0)}, {matrix.stride(1), matrix.stride(0)});
}
inline Tensor of_direction(const Tensor& array, int64_t d) {  // of [D, rows, n]
  return strided(array, d * array.stride(0), {array.size(1), array.size(2)}, {array.stride(1), array.stride(2)});
}

// [T, B, n] or [rows, n] as [rows, n].
inline Tensor flat(const Tensor& steps) {
  if (steps.dim() == 2) return steps;
  const int64_t T = steps.size(0), B = steps.size(1), n = steps.size(2);
  // An axis of one element has any stride, even in a contiguous array.
  const int64_t row = B == 1 ? steps.stride(0) : steps.stride(1);
  if (T == 1 || B == 1 || steps.stride(0) == B * row) return strided(steps, 0, {T * B, n}, {row, steps.stride(2)});
  return strided(torch::stable::contiguous(steps), 0, {T * B, n}, {n, 1});
}

inline void multiply(const Tensor& out, const Tensor& a, const Tensor& b) {
#ifndef GRU_FUSED_EMULATED
  // The function behind the dispatcher, which a small call would notice: there is nothing for it to decide.
  using Product = AOTITorchError (*)(AtenTensorHandle, AtenTensorHandle, AtenTensorHandle);
  static const auto product = in_torch_cuda<Product>("aoti_torch_cuda_mm_out");
  if (product) {
    STABLE_TORCH_ERROR_CODE_CHECK(product(out.get(), a.get(), b.get()));
    return;
  }
#endif
  using torch::stable::detail::from;
  StableIValue stack[3] = {from(a), from(b), from(out)};
  STABLE_TORCH_ERROR_CODE_CHECK(torch_call_dispatcher("aten::mm", "out", stack, TORCH_ABI_VERSION));
  (void)torch::stable::detail::to<Tensor>(stack[0]);
}

inline void sum_rows(Tensor out, const Tensor& matrix) {
  const int64_t first = 0;
  torch::stable::sum_out(out, matrix, torch::headeronly::IntHeaderOnlyArrayRef(&first, 1));
}

inline Tensor part(const Tensor& vector, int64_t first, int64_t count) { return strided(vector, first, {count}, {1}); }

// torch's functions with an output refuse arguments that require a gradient, unless nobody records.
class NoGrad {
 public:
  NoGrad() : before_(aoti_torch_grad_mode_is_enabled()) { aoti_torch_grad_mode_set_enabled(false); }
  ~NoGrad() { aoti_torch_grad_mode_set_enabled(before_); }
  NoGrad(const NoGrad&) = delete;

 private:
  const bool before_;
};

// ---- What a call of either kind has in common.
class Run {
 public:
  Run(const Shape& shape, const Tensor& like, bool tf32, bool backward, bool variant = false)
      : guard(like), stream(guard.stream()), shape(shape), on_device(shape) {
    check_status(cuda::current_device(device));
    problem.arithmetic = arithmetic_of(shape.dtype, tf32);
    problem.batch = shape.batch;
    problem.hidden = shape.hidden;
    problem.directions = shape.directions;
    problem.backward = backward;
    problem.variant = variant;
    problem.steps = shape.steps;
    if (shape.steps == 1) problem.inputs = shape.inputs;
    const int64_t T = shape.steps,
                  packed_rows = shape.batch_sizes && T > 0 ? shape.offsets[T - 1] + shape.batch_sizes[T - 1] : 0;
    check(std::max(T, packed_rows) < std::numeric_limits<int32_t>::max(),
          "on a CUDA device: expected fewer than 2147483647 steps, and rows of a packed batch; got ", T, " and ",
          packed_rows);
    if (!shape.batch_sizes) return;
    Tensor host = torch::stable::empty({2 * T}, ScalarType::Long);
    auto* const numbers = static_cast<int64_t*>(host.data_ptr());
    std::memcpy(numbers, shape.batch_sizes, T * sizeof(int64_t));
    std::memcpy(numbers + T, shape.offsets, T * sizeof(int64_t));
    sizes = torch::stable::new_empty(like, {2 * T}, ScalarType::Long);
    torch::stable::copy_(*sizes, host);
    on_device.batch_sizes = static_cast<const int64_t*>(sizes->data_ptr());
    on_device.offsets = on_device.batch_sizes + T;
  }

  // `by_row`: whether a loop of one row can take the arrays.
  cuda::Plan plan(bool by_row = true) const {
    cuda::Plan plan;
    cuda::Allowed wanted = allowed();
    wanted.row &= by_row;
    check_status(cuda::resident_plan(device, problem, wanted, plan));
    return plan;
  }

  template <class Loop>
  void loop(const cuda::Plan& plan, const Loop& loop, const Tensor& like) const {
    const int64_t bytes = cuda::workspace_bytes(plan);
    std::optional<Tensor> workspace;
    if (bytes) workspace = torch::stable::new_empty(like, {bytes}, ScalarType::Byte);
    check_status(cuda::run_loop(plan, loop, workspace ? workspace->data_ptr() : nullptr, stream));
  }

  // In the type that the kernels compute in.
  Tensor new_wide(const Tensor& like, std::initializer_list<int64_t> sizes) const {
    return torch::stable::new_empty(like, sizes, shape.dtype == DType::f64 ? ScalarType::Double : ScalarType::Float);
  }
  // States as the kernels of single steps keep them: [B, H].
  Tensor wide_states(const Tensor& like) const { return new_wide(like, {shape.batch, shape.hidden}); }

  // The states before each step, [rows, H].
  Tensor previous_states(int d, const Rows<const void>& hx, const Rows<const void>& output, const Tensor& like,
                         int64_t all_rows) const {
    const Tensor previous = new_tensor(like, {all_rows, shape.hidden});
    check_status(cuda::run_previous({on_device, d, hx, output, previous.data_ptr()}, stream));
    return previous;
  }

  int64_t first_row(int64_t t) const { return shape.offsets ? shape.offsets[t] : t * shape.batch; }

  const NoGrad no_grad;
  const DeviceGuard guard;
  const cudaStream_t stream;
  const Shape shape;
  Shape on_device;  // its arrays are the device's
  std::optional<Tensor> sizes;
  cuda::Device device;
  cuda::Problem problem;

 private:
  static cuda::Arithmetic arithmetic_of(DType dtype, bool tf32) {
    switch (dtype) {
      case DType::f32:
        return tf32 ? cuda::Arithmetic::tf32 : cuda::Arithmetic::f32;
      case DType::f64:
        return cuda::Arithmetic::f64;
      case DType::bf16:
        return cuda::Arithmetic::bf16;
      case DType::f16:
        break;
    }
    return cuda::Arithmetic::f16;
  }

  // For tests and measurements. GRU_FUSED_CUDA_REGIME: row, block, cluster, packets, flags, single or steps; steps if
  // it can't be. With it GRU_FUSED_CUDA_CUT: groups of units a CTA, and tiles of batch rows a team ("2x4").
  static cuda::Allowed allowed() {
    const char* const wanted = std::getenv("GRU_FUSED_CUDA_REGIME");
    if (!wanted || !*wanted) return {};
    cuda::Allowed allowed{false, false, false, false, false, false, false};
    if (const char* const cut = std::getenv("GRU_FUSED_CUDA_CUT"))
      check(std::sscanf(cut, "%dx%d", &allowed.groups_per_cta, &allowed.tiles) == 2,
            "the environment variable GRU_FUSED_CUDA_CUT: expected groups x tiles, as 2x4, got ", cut);
    bool* const flags[] = {&allowed.block, &allowed.cluster, &allowed.packets, &allowed.flags,
                           &allowed.steps, &allowed.row,     &allowed.single};
    const char* const names[] = {"block", "cluster", "packets", "flags", "steps", "row", "single"};
    for (int i = 0; i < 7; ++i)
      if (!std::strcmp(wanted, names[i])) {
        *flags[i] = true;
        return allowed;
      }
    fail(
        "the environment variable GRU_FUSED_CUDA_REGIME: expected row, block, cluster, packets, flags, single or "
        "steps, got ",
        wanted);
  }
};

inline Rows<void> matrix_of(const Tensor& matrix) { return {matrix.data_ptr(), 0, matrix.stride(0)}; }
inline Rows<const void> read_only(const Rows<void>& rows) { return {rows.data, rows.step, rows.row}; }

// A matrix [rows, n] as the rows of all steps.
inline Rows<void> all_steps(const Shape& shape, const Tensor& matrix) {
  return {matrix.data_ptr(), shape.batch * matrix.stride(0), matrix.stride(0)};
}

// The rows of one step.
template <class Void>
Rows<Void> of_step(const Shape& shape, const Rows<Void>& all, int64_t t) {
  using Byte = std::conditional_t<std::is_const_v<Void>, const char, char>;
  if (!all.data) return all;
  return {static_cast<Byte*>(all.data) + shape.step_offset(all, t) * size_of(shape.dtype), 0, all.row};
}

// A state's rows as a tensor: the arguments' own strides, or the ones of an array [.., B, H].
inline Tensor state_of(const Tensor& states, int d) { return states.dim() == 2 ? states : of_direction(states, d); }

// The weights as d_gh lies in the first 3H columns of the gates' gradients: n, r, z.
inline Tensor reordered(const Tensor& w_hh) {
  const int64_t H = w_hh.size(1);
  const Tensor result = new_tensor(w_hh, {3 * H, H});
  Tensor n = rows(result, 0, H), rz = rows(result, H, 2 * H);
  torch::stable::copy_(n, rows(w_hh, 2 * H, H));
  torch::stable::copy_(rz, rows(w_hh, 0, 2 * H));
  return result;
}

// States of one direction in the type that the kernels of single steps keep them in; zero if there are none.
inline Tensor wide_copy(const Run& run, const OptionalTensor& states, int d, const Tensor& like) {
  Tensor state = run.wide_states(like);
  if (states)
    torch::stable::copy_(state, state_of(*states, d));
  else
    torch::stable::zero_(state);
  return state;
}

// Gradients of the biases, from the gates' gradients as the loops leave them, or (`single`) a single step.
inline void bias_gradients(const Run& run, const Tensor& b_ih, const Tensor& b_hh, const Tensor& grads, bool single) {
  cuda::BiasGradients sums{};
  sums.dtype = run.shape.dtype;
  sums.rows = grads.size(0);
  sums.hidden = run.shape.hidden;
  sums.grads = read_only(matrix_of(grads));
  sums.single = single;
  sums.b_ih = b_ih.data_ptr();
  sums.b_hh = b_hh.data_ptr();
  std::optional<Tensor> parts;
  if (const int64_t count = cuda::bias_gradient_parts(sums.rows); count > 1)
    parts = run.new_wide(grads, {count, sums.columns()});
  if (parts) sums.parts = parts->data_ptr();
  check_status(cuda::run_bias_gradients(sums, run.stream));
}

// Gradients of one direction's weights, from the gates' gradients of all steps: of w_ih, w_hh and, with bias, b_ih,
// b_hh. hd is what W_hh's rows of r and z multiplied, hd_n what those of n did.
inline void weight_gradients(const Run& run, const Tensor* to, bool bias, const Tensor& x, const Tensor& grads,
                             const Tensor& hd, const Tensor& hd_n) {
  const int64_t H = hd.size(1);
  multiply(to[0], transposed(columns(grads, H, 3 * H)), x);
  multiply(rows(to[1], 0, 2 * H), transposed(columns(grads, H, 2 * H)), hd);
  multiply(rows(to[1], 2 * H, H), transposed(columns(grads, 0, H)), hd_n);
  if (bias) bias_gradients(run, to[2], to[3], grads, false);
}

// The same of a single step: SingleBackward.
inline void weight_gradients_of_single(const Run& run, const Tensor* to, bool bias, const Tensor& x,
                                       const Tensor& grads, const Tensor& hx) {
  const int64_t H = hx.size(1);
  multiply(to[0], transposed(columns(grads, 0, 3 * H)), x);
  multiply(to[1], transposed(columns(grads, 3 * H, 3 * H)), hx);
  if (bias) bias_gradients(run, to[2], to[3], grads, true);
}

}  // namespace gru_fused::ops

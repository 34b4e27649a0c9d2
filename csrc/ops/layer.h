// The arguments of the ops, checked and turned into what the kernels take; the same for every device.
//
// One op is one layer over both of its directions. T steps, B rows, I inputs, H units, D directions; packed: N rows
// stand in place of T x B.
#pragma once

#include <vector>

#include "tensors.h"

namespace gru_fused::ops {

// Views of the list of weights: w_ih, w_hh and, with bias, b_ih, b_hh of each direction.
class Weights {
 public:
  Weights(const std::vector<Tensor>& tensors, bool bias);

  int directions() const { return directions_; }
  bool has_bias() const { return bias_; }
  const Tensor& w_ih(int d) const { return tensors_[d * stride()]; }
  const Tensor& w_hh(int d) const { return tensors_[d * stride() + 1]; }
  const Tensor& b_ih(int d) const { return tensors_[d * stride() + 2]; }
  const Tensor& b_hh(int d) const { return tensors_[d * stride() + 3]; }

  void check_all(const Tensor& like, int64_t inputs, int64_t hidden) const;

 private:
  int stride() const { return bias_ ? 4 : 2; }

  const std::vector<Tensor>& tensors_;
  bool bias_;
  int directions_;
};

class Layer {
 public:
  Layer(const Tensor& x, const Tensor& hx, const Weights& weights, const OptionalTensor& batch_sizes);

  const Shape& shape() const { return shape_; }
  int64_t inputs() const { return inputs_; }
  int64_t rows() const { return rows_; }  // T x B, or N
  int64_t element_size() const { return size_of(shape_.dtype); }

  // (T, B, n) or, packed, (N, n).
  std::vector<int64_t> step_sizes(int64_t n) const;
  void check_steps(const char* name, const Tensor& tensor, int64_t n) const;

  // An array of our own, [D, rows, n], and its rows for one direction.
  Tensor new_rows(const Tensor& like, int64_t n) const;
  template <class Void>
  Rows<Void> own_rows(const Tensor& array, int64_t direction) const {
    return {static_cast<char*>(array.data_ptr()) + direction * array.stride(0) * element_size(),
            shape_.batch * array.stride(1), array.stride(1)};
  }

 private:
  Shape shape_;
  int64_t inputs_ = 0, rows_ = 0;
  OptionalTensor batch_sizes_;
  std::vector<int64_t> offsets_;
};

// A call of the forward: its results, and the kernel's parameters, which point into them and into `held`.
// The input projection is done by the constructor.
struct ForwardCall {
  Layer layer;
  Tensor output, h_n;
  Tensor gates;  // [D, rows, 4H] if saved, else only the input projection, [D, rows, 3H]
  std::vector<Tensor> held;
  ForwardParams params;

  ForwardCall(const Tensor& x, const Tensor& hx, const Weights& weights, const OptionalTensor& batch_sizes, bool save);
};

// A call of the backward. After the kernel has run, grad_hx, grad_x and grad_weights make the large products.
struct BackwardCall {
  Layer layer;
  Tensor grad_gates;
  OptionalTensor h_prev;            // if the weights' gradients are needed
  std::vector<Tensor> grad_biases;  // b_ih, b_hh of each direction, if needed
  Tensor grad_h;  // [1, D, B, H] or, if shape.single_product(), parts whose sum over the first axis is the gradient
  std::vector<Tensor> held;
  BackwardParams params;

  BackwardCall(const OptionalTensor& grad_output, const OptionalTensor& grad_h_n, const Tensor& x, const Tensor& hx,
               const Tensor& output, const Tensor& gates, const Weights& weights, const OptionalTensor& batch_sizes,
               bool need_weights);

  Tensor grad_hx(const Weights& weights) const;
  Tensor grad_x(const Tensor& x, const Weights& weights) const;
  // In the order of the weights.
  std::vector<Tensor> grad_weights(const Tensor& x, const Weights& weights) const;
};

}  // namespace gru_fused::ops

// The arguments of the ops, checked and turned into what the kernels take; the same for every device.
//
// One op is one layer over both of its directions, or one step of a cell. T steps, B rows, I inputs, H units, D
// directions; packed: N rows stand in place of T x B.
#pragma once

#include <forward_list>
#include <vector>

#include "tensors.h"

namespace gru_fused::ops {

// Views of a list of weights: w_ih, w_hh and, with bias, b_ih, b_hh of each direction; from one of them on.
class Weights {
 public:
  Weights(const std::vector<Tensor>& tensors, bool bias);  // of one layer
  Weights(const std::vector<Tensor>& tensors, bool bias, int directions, int layer);

  int directions() const { return directions_; }
  bool has_bias() const { return bias_; }
  const Tensor& w_ih(int d) const { return tensors_[first_ + d * stride()]; }
  const Tensor& w_hh(int d) const { return tensors_[first_ + d * stride() + 1]; }
  const Tensor& b_ih(int d) const { return tensors_[first_ + d * stride() + 2]; }
  const Tensor& b_hh(int d) const { return tensors_[first_ + d * stride() + 3]; }

  void check_all(const Tensor& like, int64_t inputs, int64_t hidden) const;

 private:
  int stride() const { return bias_ ? 4 : 2; }

  const std::vector<Tensor>& tensors_;
  bool bias_;
  int directions_;
  int first_ = 0;
};

class Layer {
 public:
  // A cell has x (B, I) and hx (B, H).
  Layer(const Tensor& x, const Tensor& hx, const Weights& weights, const OptionalTensor& batch_sizes, bool cell);
  // From the rows of all steps, which hold `blocks` times H numbers for each direction: for sweeps that see no inputs.
  Layer(const char* name, const Tensor& rows, int64_t blocks, const Tensor& hx, const OptionalTensor& batch_sizes);

  // One direction, backwards in time.
  void reverse();

  const Shape& shape() const { return shape_; }
  int64_t inputs() const { return shape_.inputs; }
  int64_t rows() const { return rows_; }  // T x B, or N
  int64_t element_size() const { return size_of(shape_.dtype); }

  void check_steps(const char* name, const Tensor& tensor, int64_t n) const;
  void check_states(const char* name, const Tensor& tensor) const;

  // Arrays of our own: (T, B, n) or, packed or for a cell, (rows, n); (D, B, H) or (B, H); and (D, rows, n).
  Tensor new_steps(const Tensor& like, int64_t n) const;
  Tensor new_states(const Tensor& like) const;
  Tensor new_rows(const Tensor& like, int64_t n) const;
  // The rows of an array (D, rows, n) for one direction.
  template <class Void>
  Rows<Void> own_rows(const Tensor& array, int64_t direction) const {
    return {static_cast<char*>(array.data_ptr()) + direction * array.stride(0) * element_size(),
            shape_.batch * array.stride(1), array.stride(1)};
  }
  // What a direction is computed from; x and hx have dense rows already.
  DirectionArguments arguments(const Tensor& x, const Tensor& hx, const Weights& weights, int d,
                               std::forward_list<Tensor>& copies) const;
  // An array (D, rows, n) summed over its directions, in the layout of x.
  Tensor sum_directions(const Tensor& array) const;

 private:
  void read_steps(const char* name, const Tensor& rows);  // of x or of the states of all steps

  Shape shape_;
  bool cell_;
  int64_t rows_ = 0;
  OptionalTensor batch_sizes_;
  std::vector<int64_t> offsets_;
};

// A call of the forward: its results (h_n is given or made), and the kernel's parameters, which point into them, into
// the arguments and into `copies` of arguments whose rows are not dense.
struct ForwardCall {
  Layer layer;
  Tensor hx;
  Tensor h_n, output;    // of a cell the same tensor
  OptionalTensor gates;  // [D, rows, 4H], if saved
  std::forward_list<Tensor> copies;
  ForwardParams params;

  ForwardCall(const Tensor& x, const Tensor& hx, const Weights& weights, const OptionalTensor& batch_sizes, bool cell,
              bool save, const OptionalTensor& h_n = std::nullopt);
};

// A call of the backward.
struct BackwardCall {
  Layer layer;
  Tensor hx;  // with dense rows
  OptionalTensor grad_h_n;
  Tensor grad_hx;
  OptionalTensor grad_x;  // of each direction: [D, ...]
  std::vector<Tensor> grad_weights;
  std::forward_list<Tensor> copies;
  BackwardParams params;

  BackwardCall(const OptionalTensor& grad_output, const OptionalTensor& grad_h_n, const Tensor& x, const Tensor& hx,
               const Tensor& output, const OptionalTensor& gates, const Weights& weights,
               const OptionalTensor& batch_sizes, bool cell, bool need_x, bool need_weights);
};

}  // namespace gru_fused::ops

// The arguments of the ops, checked and turned into what the kernels take; the same for every device.
#pragma once

#include <vector>

#include "tensors.h"

namespace gru_fused::ops {

// One layer over both of its directions. T steps, B rows, H units, D directions; packed: N rows in all.
class Layer {
 public:
  Layer(const Tensor& steps, bool gates_are_saved, const Tensor& hx, const Tensor& w_hh,
        const OptionalTensor& w_hh_reverse, const OptionalTensor& batch_sizes);

  const Shape& shape() const { return shape_; }
  bool packed() const { return batch_sizes_.has_value(); }

  // (T, B, n) or, packed, (N, n); `saved` has the directions in front.
  std::vector<int64_t> step_sizes(int64_t n) const;
  std::vector<int64_t> saved_sizes(int64_t n) const;
  void check_steps(const char* name, const Tensor& tensor, int64_t n) const;
  void check_saved(const char* name, const Tensor& tensor, int64_t n) const;

 private:
  Shape shape_;
  int64_t rows_ = 0;  // N
  OptionalTensor batch_sizes_;
  std::vector<int64_t> offsets_;
};

struct ForwardCall {
  Layer layer;
  Tensor output, h_n;
  OptionalTensor gates;
  std::vector<Tensor> held;  // inputs whose memory the parameters point to
  ForwardParams params;

  ForwardCall(const Tensor& gi, const OptionalTensor& gi_reverse, const Tensor& hx, const Tensor& w_hh,
              const OptionalTensor& w_hh_reverse, const OptionalTensor& b_hh, const OptionalTensor& b_hh_reverse,
              const OptionalTensor& batch_sizes, bool save);
};

struct BackwardCall {
  Layer layer;
  Tensor grad_gates, h_prev, grad_hx;
  std::vector<Tensor> held;
  BackwardParams params;

  BackwardCall(const OptionalTensor& grad_output, const OptionalTensor& grad_h_n, const Tensor& output,
               const Tensor& gates, const Tensor& hx, const Tensor& w_hh, const OptionalTensor& w_hh_reverse,
               const OptionalTensor& batch_sizes);
};

}  // namespace gru_fused::ops

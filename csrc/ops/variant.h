// The arguments of the ops of the cell's variants, checked and turned into what the kernels take; the same for every
// device. Shapes are in schema.cpp.
#pragma once

#include "../variant_params.h"
#include "layer.h"

namespace gru_fused::ops {

// What of a variant is not a result: the options of a call, in the schema's order.
struct VariantOptions {
  int64_t recurrence, gate, candidate;  // the enumerations of variant_cell.h
  double epsilon;
  bool reverse;
  OptionalTensor lengths, reset, reset_state, update, dropout;

  Cell cell() const;
};

// Views of the weights. Without a norm those of a plain layer; with one, of each direction w_hh, gain and b_hh.
class VariantWeights {
 public:
  VariantWeights(const std::vector<Tensor>& tensors, bool bias, bool norm);

  bool norm() const { return norm_; }
  int directions() const { return norm_ ? int(tensors_.size()) / 3 : plain_->directions(); }
  const Weights& plain() const { return *plain_; }
  const Tensor& w_hh(int d) const { return norm_ ? tensors_[3 * d] : plain_->w_hh(d); }
  const Tensor& gain(int d) const { return tensors_[3 * d + 1]; }
  const Tensor& b_hh(int d) const { return norm_ ? tensors_[3 * d + 2] : plain_->b_hh(d); }

 private:
  const std::vector<Tensor>& tensors_;
  bool norm_;
  std::optional<Weights> plain_;
};

struct VariantForwardCall {
  Layer layer;
  Tensor hx, h_n, output;
  OptionalTensor gates, normal, scale;  // [D, rows, 4H], [D, rows, 3H], [D, rows, 1]
  std::forward_list<Tensor> copies;
  VariantForwardParams params;

  VariantForwardCall(const Tensor& x, const Tensor& hx, const VariantWeights& weights,
                     const OptionalTensor& batch_sizes, const VariantOptions& options, bool save);
};

struct VariantBackwardCall {
  Layer layer;
  OptionalTensor grad_h_n;
  Tensor grad_hx;
  OptionalTensor grad_x;             // of each direction, [D, rows, I]; with a norm as x, [T, B, D 3H]
  std::vector<Tensor> grad_weights;  // in the order of the weights
  OptionalTensor grad_update;        // [D, rows, H]
  OptionalTensor grad_reset_state;   // [D, B, H]
  std::forward_list<Tensor> copies;
  VariantBackwardParams params;

  VariantBackwardCall(const OptionalTensor& grad_output, const OptionalTensor& grad_h_n, const Tensor& x,
                      const Tensor& hx, const Tensor& output, const Tensor& gates, const OptionalTensor& normal,
                      const OptionalTensor& scale, const VariantWeights& weights, const OptionalTensor& batch_sizes,
                      const VariantOptions& options, bool need_x, bool need_weights, bool need_update,
                      bool need_reset_state);
};

}  // namespace gru_fused::ops

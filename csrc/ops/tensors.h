// Small helpers over torch's stable tensor: checks with readable messages, and views for the kernels.
#pragma once

#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <algorithm>
#include <forward_list>
#include <initializer_list>
#include <optional>
#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

#include "../gru_params.h"

namespace gru_fused::ops {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;
using OptionalTensor = std::optional<Tensor>;

// Unlike STD_TORCH_CHECK, without the path of the source file in the user's message.
template <class... Parts>
[[noreturn]] void fail(const Parts&... parts) {
  std::ostringstream message;
  message << "gru_fused: ";
  ((message << parts), ...);
  throw std::runtime_error(message.str());
}

template <class... Parts>
inline void check(bool condition, const Parts&... parts) {
  if (!condition) fail(parts...);
}

template <class Sizes>
inline std::string shape_text(const Sizes& sizes) {
  std::ostringstream text;
  text << '(';
  const char* comma = "";
  for (const int64_t size : sizes) {
    text << comma << size;
    comma = ", ";
  }
  text << ')';
  return text.str();
}

inline void check_shape(const char* name, const Tensor& tensor, std::initializer_list<int64_t> expected) {
  const auto sizes = tensor.sizes();
  bool same = sizes.size() == expected.size();
  size_t axis = 0;
  for (const int64_t size : expected) {
    if (!same) break;
    same = sizes[axis++] == size;
  }
  // The texts are made only for an error: a check costs nothing else.
  if (!same) fail(name, ": expected shape ", shape_text(expected), ", got ", shape_text(sizes));
}

// The same dtype and device as the input.
inline void check_like(const char* name, const Tensor& tensor, const Tensor& like) {
  using torch::headeronly::toString;
  check(tensor.scalar_type() == like.scalar_type(), name, ": expected the dtype of the input, ",
        toString(like.scalar_type()), ", got ", toString(tensor.scalar_type()));
  check(tensor.device() == like.device(), name, ": expected the device of the input, got another");
}

inline DType dtype_of(const char* name, const Tensor& tensor) {
  switch (tensor.scalar_type()) {
    case ScalarType::Float:
      return DType::f32;
    case ScalarType::Double:
      return DType::f64;
    case ScalarType::BFloat16:
      return DType::bf16;
    case ScalarType::Half:
      return DType::f16;
    default:
      break;
  }
  fail(name, ": expected float32, float64, bfloat16 or float16, got ",
       torch::headeronly::toString(tensor.scalar_type()));
}

// Kernels take any strides but the last, which must be 1: the tensor itself, or a copy that `copies` keeps.
inline const Tensor& with_dense_rows(const Tensor& tensor, std::forward_list<Tensor>& copies) {
  const int64_t last = tensor.dim() - 1;
  if (tensor.stride(last) == 1 || tensor.size(last) <= 1) return tensor;
  return copies.emplace_front(torch::stable::contiguous(tensor));
}

// Uninitialised and contiguous. Cheaper than torch::stable::new_empty, which a small call would notice.
inline Tensor new_tensor(const Tensor& like, std::initializer_list<int64_t> sizes) {
  int64_t strides[4];
  int64_t stride = 1;
  for (size_t axis = sizes.size(); axis-- > 0;) {
    strides[axis] = stride;
    stride *= std::max<int64_t>(sizes.begin()[axis], 1);
  }
  int32_t dtype, device_type, device_index;
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_get_dtype(like.get(), &dtype));
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_type(like.get(), &device_type));
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_index(like.get(), &device_index));
  AtenTensorHandle made = nullptr;
  STABLE_TORCH_ERROR_CODE_CHECK(
      aoti_torch_empty_strided(int64_t(sizes.size()), sizes.begin(), strides, dtype, device_type, device_index, &made));
  return Tensor(made);
}

// A view of the tensor's storage, `offset` elements past the tensor's first.
inline Tensor strided(const Tensor& tensor, int64_t offset, std::initializer_list<int64_t> sizes,
                      std::initializer_list<int64_t> strides) {
  AtenTensorHandle view = nullptr;
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch__reinterpret_tensor(tensor.get(), int64_t(sizes.size()), sizes.begin(),
                                                               strides.begin(), offset, &view));
  return Tensor(view);
}

// The sum over the first axis.
inline Tensor sum_first_axis(const Tensor& tensor) {
  using torch::stable::detail::from;
  StableIValue stack[4] = {from(tensor), from(std::optional(std::vector<int64_t>{0})), from(false),
                           from(std::optional<ScalarType>())};
  STABLE_TORCH_ERROR_CODE_CHECK(torch_call_dispatcher("aten::sum", "dim_IntList", stack, TORCH_ABI_VERSION));
  return torch::stable::detail::to<Tensor>(stack[0]);
}

// Rows of a [T, B, n] tensor, or of a [N, n] or [B, n] one, from element `first` on.
template <class Void>
inline Rows<Void> step_rows(const Tensor& tensor, int64_t first, int64_t element_size) {
  const int64_t dim = tensor.dim();
  return {static_cast<char*>(tensor.data_ptr()) + first * element_size, dim == 3 ? tensor.stride(0) : 0,
          tensor.stride(dim - 2)};
}

// Slice `index` of states [D, B, H]; or the only ones, [B, H].
template <class Void>
inline Rows<Void> state_rows(const Tensor& tensor, int64_t index, int64_t element_size) {
  const int64_t dim = tensor.dim(), skip = dim == 3 ? index * tensor.stride(0) : 0;
  return {static_cast<char*>(tensor.data_ptr()) + skip * element_size, 0, tensor.stride(dim - 2)};
}

inline Rows<const void> matrix_rows(const Tensor& matrix) { return {matrix.data_ptr(), 0, matrix.stride(0)}; }

}  // namespace gru_fused::ops

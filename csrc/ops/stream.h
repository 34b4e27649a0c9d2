// The CUDA device and stream that torch is on.
//
// They are looked up in the torch that is loaded: one build of this library serves a torch with CUDA and one without,
// and a function of libtorch_cuda linked directly could not be found in the latter.
#pragma once

#include <cuda_runtime.h>

#ifndef GRU_FUSED_EMULATED
#include <dlfcn.h>
#endif

#include "tensors.h"

namespace gru_fused::ops {

#ifdef GRU_FUSED_EMULATED
class DeviceGuard {
 public:
  explicit DeviceGuard(const Tensor&) {}
  cudaStream_t stream() const { return nullptr; }
};
#else
// A function of torch's CUDA library, or null.
template <class Function>
Function in_torch_cuda(const char* name) {
  static void* const library = dlopen("libtorch_cuda.so", RTLD_NOLOAD | RTLD_LAZY);
  return reinterpret_cast<Function>(library ? dlsym(library, name) : nullptr);
}

// Makes the tensor's device the current one.
class DeviceGuard {
 public:
  explicit DeviceGuard(const Tensor& tensor) : index_(tensor.get_device_index()) {
    static const auto create = find<decltype(&aoti_torch_create_cuda_guard)>("aoti_torch_create_cuda_guard");
    STABLE_TORCH_ERROR_CODE_CHECK(create(index_, &guard_));
  }
  ~DeviceGuard() {
    static const auto remove = find<decltype(&aoti_torch_delete_cuda_guard)>("aoti_torch_delete_cuda_guard");
    remove(guard_);
  }
  DeviceGuard(const DeviceGuard&) = delete;

  cudaStream_t stream() const {
    void* stream = nullptr;
    static const auto current =
        find<decltype(&aoti_torch_get_current_cuda_stream)>("aoti_torch_get_current_cuda_stream");
    STABLE_TORCH_ERROR_CODE_CHECK(current(index_, &stream));
    return static_cast<cudaStream_t>(stream);
  }

 private:
  template <class Function>
  static Function find(const char* name) {
    const auto found = in_torch_cuda<Function>(name);
    check(found, "this torch has no CUDA (", name, " was not found in libtorch_cuda.so)");
    return found;
  }

  int32_t index_;
  CUDAGuardHandle guard_ = nullptr;
};
#endif

}  // namespace gru_fused::ops

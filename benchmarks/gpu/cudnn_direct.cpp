// cuDNN's GRU called directly through its v8 interface, with any of its algorithms: nn.GRU never asks for
// PERSIST_STATIC, so this, and not nn.GRU, is the top bar. A C interface for ctypes: memory, weights and the stream are
// torch's; see cudnn_direct.py.
#include <cuda_runtime_api.h>
#include <cudnn.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <memory>
#include <vector>

namespace {

struct Refused {
  const char* call;
  cudnnStatus_t status;
};

#define CHECK(call)                                                     \
  do {                                                                  \
    const cudnnStatus_t status_ = (call);                               \
    if (status_ != CUDNN_STATUS_SUCCESS) throw Refused{#call, status_}; \
  } while (0)

struct Spec {  // as cudnn_direct.py lays it out
  int32_t algorithm, data, math, packed, T, B, I, H, layers, directions;
};

// Device memory; y, dy: (T, B, D*H), hx, hy, dhx, dhy: (L*D, B, H). dw is added to.
struct Buffers {
  int32_t* lengths;
  void *x, *y, *hx, *hy, *dy, *dx, *dhy, *dhx, *w, *dw, *work, *reserve;
};

struct Plan {
  cudnnHandle_t handle = nullptr;
  cudnnRNNDescriptor_t rnn = nullptr;
  cudnnDropoutDescriptor_t dropout = nullptr;
  cudnnRNNDataDescriptor_t x = nullptr, y = nullptr;
  cudnnTensorDescriptor_t h = nullptr, matrix = nullptr, bias = nullptr;
  size_t weights = 0, work = 0, reserve = 0;  // bytes
  int pseudo_layers = 0;

  void make(const Spec& s);
  ~Plan();
};

void Plan::make(const Spec& s) {
  pseudo_layers = s.layers * s.directions;
  const auto data = static_cast<cudnnDataType_t>(s.data);
  const auto algorithm = static_cast<cudnnRNNAlgo_t>(s.algorithm);
  CHECK(cudnnCreate(&handle));
  CHECK(cudnnCreateRNNDescriptor(&rnn));
  CHECK(cudnnCreateDropoutDescriptor(&dropout));
  CHECK(cudnnCreateRNNDataDescriptor(&x));
  CHECK(cudnnCreateRNNDataDescriptor(&y));
  CHECK(cudnnCreateTensorDescriptor(&h));
  CHECK(cudnnCreateTensorDescriptor(&matrix));
  CHECK(cudnnCreateTensorDescriptor(&bias));
  CHECK(cudnnSetDropoutDescriptor(dropout, handle, 0.f, nullptr, 0, 0));
  CHECK(cudnnSetRNNDescriptor_v8(rnn, algorithm, CUDNN_GRU, CUDNN_RNN_DOUBLE_BIAS,
                                 s.directions == 2 ? CUDNN_BIDIRECTIONAL : CUDNN_UNIDIRECTIONAL, CUDNN_LINEAR_INPUT,
                                 data, CUDNN_DATA_FLOAT, static_cast<cudnnMathType_t>(s.math), s.I, s.H, s.H, s.layers,
                                 dropout, s.packed ? CUDNN_RNN_PADDED_IO_DISABLED : CUDNN_RNN_PADDED_IO_ENABLED));
  if (algorithm == CUDNN_RNN_ALGO_PERSIST_DYNAMIC) CHECK(cudnnBuildRNNDynamic(handle, rnn, s.B));
  const std::vector<int> lengths(s.B, s.T);
  float padding = 0;  // there is none
  const auto layout = s.packed ? CUDNN_RNN_DATA_LAYOUT_SEQ_MAJOR_PACKED : CUDNN_RNN_DATA_LAYOUT_SEQ_MAJOR_UNPACKED;
  CHECK(cudnnSetRNNDataDescriptor(x, data, layout, s.T, s.B, s.I, lengths.data(), &padding));
  CHECK(cudnnSetRNNDataDescriptor(y, data, layout, s.T, s.B, s.H * s.directions, lengths.data(), &padding));
  const int dim[] = {pseudo_layers, s.B, s.H}, stride[] = {s.B * s.H, s.H, 1};
  CHECK(cudnnSetTensorNdDescriptor(h, data, 3, dim, stride));
  size_t work_infer = 0, reserve_infer = 0;
  CHECK(cudnnGetRNNWeightSpaceSize(handle, rnn, &weights));
  CHECK(cudnnGetRNNTempSpaceSizes(handle, rnn, CUDNN_FWD_MODE_INFERENCE, x, &work_infer, &reserve_infer));
  CHECK(cudnnGetRNNTempSpaceSizes(handle, rnn, CUDNN_FWD_MODE_TRAINING, x, &work, &reserve));
  work = std::max(work, work_infer);
}

Plan::~Plan() {
  if (bias) cudnnDestroyTensorDescriptor(bias);
  if (matrix) cudnnDestroyTensorDescriptor(matrix);
  if (h) cudnnDestroyTensorDescriptor(h);
  if (y) cudnnDestroyRNNDataDescriptor(y);
  if (x) cudnnDestroyRNNDataDescriptor(x);
  if (dropout) cudnnDestroyDropoutDescriptor(dropout);
  if (rnn) cudnnDestroyRNNDescriptor(rnn);
  if (handle) cudnnDestroy(handle);
}

char last_error[512] = "";

// 0, or -1 with the reason in last_error.
template <class Body>
int guarded(Body body) {
  try {
    body();
    return 0;
  } catch (const Refused& refused) {
    char detail[256] = "";
    cudnnGetLastErrorString(detail, sizeof detail);
    snprintf(last_error, sizeof last_error, "%s by %.60s: %s", cudnnGetErrorString(refused.status), refused.call,
             detail);
    return -1;
  }
}

}  // namespace

extern "C" {

const char* gru_cudnn_error() { return last_error; }

// sizes: bytes of the weights, the workspace and the reserve. null if cuDNN refuses.
void* gru_cudnn_plan(const Spec* spec, int64_t* sizes) {
  auto plan = std::make_unique<Plan>();
  if (guarded([&] { plan->make(*spec); })) return nullptr;
  sizes[0] = static_cast<int64_t>(plan->weights);
  sizes[1] = static_cast<int64_t>(plan->work);
  sizes[2] = static_cast<int64_t>(plan->reserve);
  return plan.release();
}

void gru_cudnn_free(void* plan) { delete static_cast<Plan*>(plan); }

// offsets[pseudo layer][6][2]: bytes from w to the matrix and to the bias of the gates r, z, n of the input, then of
// the state.
int gru_cudnn_offsets(void* opaque, void* w, int64_t* offsets) {
  Plan& plan = *static_cast<Plan*>(opaque);
  return guarded([&] {
    for (int layer = 0; layer < plan.pseudo_layers; layer++)
      for (int gate = 0; gate < 6; gate++) {
        void *matrix = nullptr, *bias = nullptr;
        CHECK(cudnnGetRNNWeightParams(plan.handle, plan.rnn, layer, plan.weights, w, gate, plan.matrix, &matrix,
                                      plan.bias, &bias));
        *offsets++ = static_cast<char*>(matrix) - static_cast<char*>(w);
        *offsets++ = static_cast<char*>(bias) - static_cast<char*>(w);
      }
  });
}

int gru_cudnn_forward(void* opaque, void* stream, int training, const Buffers* b) {
  Plan& p = *static_cast<Plan*>(opaque);
  return guarded([&] {
    CHECK(cudnnSetStream(p.handle, static_cast<cudaStream_t>(stream)));
    CHECK(cudnnRNNForward(p.handle, p.rnn, training ? CUDNN_FWD_MODE_TRAINING : CUDNN_FWD_MODE_INFERENCE, b->lengths,
                          p.x, b->x, p.y, b->y, p.h, b->hx, b->hy, nullptr, nullptr, nullptr, p.weights, b->w, p.work,
                          b->work, training ? p.reserve : 0, training ? b->reserve : nullptr));
  });
}

int gru_cudnn_backward(void* opaque, void* stream, const Buffers* b) {
  Plan& p = *static_cast<Plan*>(opaque);
  return guarded([&] {
    CHECK(cudnnSetStream(p.handle, static_cast<cudaStream_t>(stream)));
    CHECK(cudnnRNNBackwardData_v8(p.handle, p.rnn, b->lengths, p.y, b->y, b->dy, p.x, b->dx, p.h, b->hx, b->dhy, b->dhx,
                                  nullptr, nullptr, nullptr, nullptr, p.weights, b->w, p.work, b->work, p.reserve,
                                  b->reserve));
    CHECK(cudnnRNNBackwardWeights_v8(p.handle, p.rnn, CUDNN_WGRAD_MODE_ADD, b->lengths, p.x, b->x, p.h, b->hx, p.y,
                                     b->y, p.weights, b->dw, p.work, b->work, p.reserve, b->reserve));
  });
}

}  // extern "C"

// Tensors come by DLPack's exchange API, a table of C functions that torch.Tensor carries: no reference is counted, no
// object made. What does not fit is refused without an error: the caller then takes the op, which has the words for it.
#include "direct.h"

#include <ATen/dlpack.h>

#include <cstdlib>
#include <cstring>
#include <exception>
#include <initializer_list>
#include <memory>
#include <new>
#include <vector>

namespace gru_fused::ops {
namespace {

const DLPackExchangeAPI* exchange = nullptr;
PyObject *tensor_type = nullptr, *parameter_type = nullptr;
PyObject* is_neg = nullptr;  // Tensor.is_neg

// A tensor may be the negative of what lies in its memory, as conj().imag is: a flag that DLPack knows nothing of.
bool negative(PyObject* tensor) {
  PyObject* const answer = PyObject_CallFunctionObjArgs(is_neg, tensor, nullptr);
  if (!answer) PyErr_Clear();
  Py_XDECREF(answer);
  return answer != Py_False;
}

// Whether a Python object is a tensor on the CPU, and then its description; `fresh`: no view, so not negative.
bool describe(PyObject* object, DLTensor& to, bool fresh = false) {
  if (!object) return false;
  PyObject* const type = reinterpret_cast<PyObject*>(Py_TYPE(object));
  if (type != tensor_type && type != parameter_type) return false;  // a subclass may mean anything
  if (!fresh && negative(object)) return false;
  if (exchange->dltensor_from_py_object_no_sync(object, &to) != 0) {
    PyErr_Clear();  // a tensor without memory or strides
    return false;
  }
  return to.device.device_type == kDLCPU && to.data && to.strides;
}

bool dtype_of(const DLDataType& type, DType& to) {
  if (type.lanes != 1) return false;
  if (type.code == kDLBfloat && type.bits == 16) return to = DType::bf16, true;
  if (type.code != kDLFloat) return false;
  if (type.bits == 32) return to = DType::f32, true;
  if (type.bits == 64) return to = DType::f64, true;
  if (type.bits == 16) return to = DType::f16, true;
  return false;
}

// A dense last axis, the dtype of the call and these sizes.
struct Expected {
  DLDataType dtype;

  bool operator()(PyObject* object, std::initializer_list<int64_t> sizes, DLTensor& to, bool fresh = false) const {
    return describe(object, to, fresh) && fits(to, sizes);
  }

  bool fits(const DLTensor& tensor, std::initializer_list<int64_t> sizes) const {
    if (tensor.ndim != int(sizes.size()) || tensor.strides[tensor.ndim - 1] != 1) return false;
    if (tensor.dtype.code != dtype.code || tensor.dtype.bits != dtype.bits || tensor.dtype.lanes != 1) return false;
    const int64_t* size = tensor.shape;
    for (const int64_t expected : sizes)
      if (*size++ != expected) return false;
    return true;
  }
};

char* data_of(const DLTensor& tensor) { return static_cast<char*>(tensor.data) + tensor.byte_offset; }

struct Free {
  void operator()(void* memory) const { std::free(memory); }
};
using Memory = std::unique_ptr<char, Free>;

// To the parameters: another thread may replace them while the call computes.
struct References {
  std::vector<PyObject*> objects;

  ~References() {
    for (PyObject* const object : objects) Py_DECREF(object);
  }
  void add(PyObject* object) {
    objects.push_back(object);
    Py_INCREF(object);
  }
};

// All layers of a call.
struct Call {
  Shape shape;  // of the first layer
  bool cell = false, bias = false;
  int64_t layers = 0;
  Rows<const void> inputs;
  DLTensor hx, output, h_n;  // hx.data is null for zeros
  PyObject *parameters = nullptr, *names = nullptr;
  Expected expected;
  References held;

  int64_t element() const { return size_of(shape.dtype); }
  int64_t width() const { return shape.directions * shape.hidden; }

  bool read(PyObject* const* arguments) {
    int flags[3];  // as nn.GRU takes them: whatever is true
    for (int i = 0; i < 3; ++i) flags[i] = PyObject_IsTrue(arguments[6 + i]);
    if (PyErr_Occurred()) return PyErr_Clear(), false;
    DLTensor x;
    if (!describe(arguments[0], x) || !dtype_of(x.dtype, shape.dtype)) return false;
    if ((x.ndim != 2 && x.ndim != 3) || x.strides[x.ndim - 1] != 1) return false;
    expected.dtype = x.dtype;
    cell = x.ndim == 2;
    const int batch_axis = cell || flags[2] > 0 ? 0 : 1, step_axis = 1 - batch_axis;
    inputs = {data_of(x), cell ? 0 : x.strides[step_axis], x.strides[batch_axis]};
    shape.steps = cell ? 1 : x.shape[step_axis];
    shape.batch = x.shape[batch_axis];
    shape.inputs = x.shape[x.ndim - 1];

    parameters = arguments[2];
    names = arguments[3];
    if (!PyDict_Check(parameters) || !PyList_Check(names)) return false;
    bias = flags[0] > 0;
    shape.directions = flags[1] > 0 ? 2 : 1;
    const int64_t of_layer = shape.directions * (bias ? 4 : 2), count = PyList_Size(names);
    layers = count / of_layer;
    held.objects.reserve(count);
    if (layers == 0 || layers * of_layer != count || (cell && layers * shape.directions != 1)) return false;

    if (!describe(arguments[5], h_n, true) || h_n.ndim == 0) return false;
    shape.hidden = h_n.shape[h_n.ndim - 1];
    if (shape.steps * shape.batch * shape.inputs * shape.hidden == 0) return false;

    const auto states_fit = [&](const DLTensor& tensor) {
      return cell ? expected.fits(tensor, {shape.batch, shape.hidden})
                  : expected.fits(tensor, {layers * shape.directions, shape.batch, shape.hidden});
    };
    hx.data = nullptr;
    if (arguments[1] != Py_None && !(describe(arguments[1], hx) && states_fit(hx))) return false;
    if (!states_fit(h_n)) return false;
    if (!cell) return expected(arguments[4], {shape.steps, shape.batch, width()}, output, true);
    output = h_n;
    return arguments[4] == arguments[5];
  }

  // A parameter by its place among the names; null if it is computed, or deleted.
  PyObject* parameter(Py_ssize_t i) {
    PyObject* const found = PyDict_GetItemWithError(parameters, PyList_GetItem(names, i));
    if (found)
      held.add(found);
    else
      PyErr_Clear();
    return found;
  }

  // The weights of one layer and direction.
  bool read_weights(int64_t layer, int direction, int64_t inputs, DirectionArguments& to) {
    const int64_t H = shape.hidden;
    Py_ssize_t at = (layer * shape.directions + direction) * (bias ? 4 : 2);
    DLTensor w_ih, w_hh, b_ih, b_hh;
    if (!expected(parameter(at), {3 * H, inputs}, w_ih) || !expected(parameter(at + 1), {3 * H, H}, w_hh)) return false;
    to.w_ih = {data_of(w_ih), 0, w_ih.strides[0]};
    to.w_hh = {data_of(w_hh), 0, w_hh.strides[0]};
    if (!bias) return true;
    if (!expected(parameter(at + 2), {3 * H}, b_ih) || !expected(parameter(at + 3), {3 * H}, b_hh)) return false;
    to.b_ih = data_of(b_ih);
    to.b_hh = data_of(b_hh);
    return true;
  }
};

// Rows of an array [T, B, n] or, of a cell, [B, n]; and of the states [L D, B, H] or [B, H].
Rows<void> steps_of(const DLTensor& tensor, int64_t first, int64_t element) {
  return {data_of(tensor) + first * element, tensor.ndim == 3 ? tensor.strides[0] : 0, tensor.strides[tensor.ndim - 2]};
}
template <class Void>
Rows<Void> states_of(const DLTensor& tensor, int64_t index, int64_t element) {
  const int64_t skip = tensor.ndim == 3 ? index * tensor.strides[0] : 0;
  return {data_of(tensor) + skip * element, 0, tensor.strides[tensor.ndim - 2]};
}

// The parameters of every layer; what passes between layers lies in `memory`, behind a row of zeros for hx.
bool lay_out(Call& call, ForwardParams* params, char* memory) {
  const int64_t element = call.element(), hidden = call.shape.hidden, width = call.width();
  const int64_t between = call.shape.steps * call.shape.batch * width * element;
  char* const passed[2] = {memory + hidden * element, memory + hidden * element + between};
  for (int64_t layer = 0; layer < call.layers; ++layer) {
    ForwardParams& of_layer = params[layer];
    of_layer.shape = call.shape;
    if (layer > 0) of_layer.shape.inputs = width;
    for (int d = 0; d < call.shape.directions; ++d) {
      ForwardDirection& to = of_layer.direction[d];
      const int64_t state = layer * call.shape.directions + d;
      if (!call.read_weights(layer, d, of_layer.shape.inputs, to)) return false;
      const int64_t step = call.shape.batch * width;
      to.x = layer == 0 ? call.inputs : Rows<const void>{passed[(layer - 1) % 2], step, width};
      to.hx = call.hx.data ? states_of<const void>(call.hx, state, element) : Rows<const void>{memory, 0, 0};
      to.output = layer == call.layers - 1 ? steps_of(call.output, d * hidden, element)
                                           : Rows<void>{passed[layer % 2] + d * hidden * element, step, width};
      to.h_n = states_of<void>(call.h_n, state, element);
    }
  }
  return true;
}

struct WithoutGil {
  PyThreadState* const released = PyEval_SaveThread();
  ~WithoutGil() { PyEval_RestoreThread(released); }
};

// Computes the call, or returns false if there is something about its arguments.
bool forward(PyObject* const* arguments) {
  Call call;
  if (!call.read(arguments)) return false;
  constexpr int64_t few = 4;
  ForwardParams some[few];
  std::unique_ptr<ForwardParams[]> more;
  if (call.layers > few) more = std::make_unique<ForwardParams[]>(call.layers);
  ForwardParams* const params = more ? more.get() : some;

  const int64_t rows = call.layers == 1 ? 0 : 2 * call.shape.steps * call.shape.batch * call.shape.directions;
  const size_t row_bytes = call.shape.hidden * call.element();
  const Memory memory(static_cast<char*>(std::malloc((1 + rows) * row_bytes)));
  if (!memory) throw std::bad_alloc();
  std::memset(memory.get(), 0, row_bytes);
  if (!lay_out(call, params, memory.get())) return false;

  const WithoutGil without;
  for (int64_t layer = 0; layer < call.layers; ++layer) forward_on_cpu(params[layer]);
  return true;
}

}  // namespace

PyObject* direct_attach(PyObject*, PyObject* const* arguments, Py_ssize_t count) {
  if (count != 2) return PyErr_Format(PyExc_TypeError, "attach: expected 2 arguments, got %zd", count);
  PyObject* const capsule = PyObject_GetAttrString(arguments[0], "__dlpack_c_exchange_api__");
  const DLPackExchangeAPI* table = nullptr;
  if (capsule) table = static_cast<const DLPackExchangeAPI*>(PyCapsule_GetPointer(capsule, "dlpack_exchange_api"));
  Py_XDECREF(capsule);
  PyErr_Clear();
  if (!table || table->header.version.major != DLPACK_MAJOR_VERSION || !table->dltensor_from_py_object_no_sync)
    Py_RETURN_FALSE;
  is_neg = PyObject_GetAttrString(arguments[0], "is_neg");
  if (!is_neg) return nullptr;
  exchange = table;
  tensor_type = arguments[0];
  parameter_type = arguments[1];
  Py_INCREF(tensor_type);
  Py_INCREF(parameter_type);
  Py_RETURN_TRUE;
}

PyObject* direct_forward(PyObject*, PyObject* const* arguments, Py_ssize_t count) {
  if (count != 9) return PyErr_Format(PyExc_TypeError, "forward: expected 9 arguments, got %zd", count);
  try {
    if (exchange && forward(arguments)) Py_RETURN_TRUE;
    Py_RETURN_FALSE;
  } catch (const std::bad_alloc&) {
    return PyErr_NoMemory();
  } catch (const std::exception& error) {
    PyErr_SetString(PyExc_RuntimeError, error.what());
    return nullptr;
  }
}

}  // namespace gru_fused::ops

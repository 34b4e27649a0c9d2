// A layer, or one step of a cell, as a node of C++ in autograd's graph: what _PlainLayer (gru_fused/_autograd.py) is in
// Python, which takes a small layer's step longer than its arithmetic. torch's stable ABI has no nodes, so this is a
// module of its own, of the one torch and the one Python that it was built beside; without it the Python one serves.
// And shorter ways from Python for inference: to its ops than torch.ops', to new tensors than Tensor.new_empty's.
#include <ATen/Context.h>
#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/ops/empty.h>
#include <torch/csrc/Exceptions.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/csrc/autograd/python_variable.h>
#include <torch/csrc/utils/pybind.h>
#include <torch/library.h>

#include <optional>
#include <tuple>
#include <vector>

namespace gru_fused {
namespace {

using at::Tensor;
using at::TensorList;
using OptionalTensor = std::optional<Tensor>;
using torch::autograd::AutogradContext;

// An op of gru_fused by its name: its signature is the schema's, which is checked once.
template <class Signature>
class Op {
 public:
  explicit Op(const char* name)
      : handle_(c10::Dispatcher::singleton().findSchemaOrThrow(name, "").typed<Signature>()) {}

  template <class... Arguments>
  auto operator()(const Arguments&... arguments) const {
    return handle_.call(arguments...);
  }

 private:
  c10::TypedOperatorHandle<Signature> handle_;
};

using Backward = std::vector<Tensor>(const OptionalTensor& grad_output, const OptionalTensor& grad_h_n, const Tensor& x,
                                     const Tensor& hx, const Tensor& output, const OptionalTensor& gates,
                                     TensorList weights, bool bias, const OptionalTensor& batch_sizes, bool need_x,
                                     bool need_weights, bool tf32);

struct Ops {
  Op<std::tuple<Tensor, Tensor>(const Tensor&, const Tensor&, TensorList, bool, bool, const OptionalTensor&, bool)>
      forward{"gru_fused::gru_forward"};
  Op<std::tuple<Tensor, Tensor, Tensor>(const Tensor&, const Tensor&, TensorList, bool, const OptionalTensor&, bool)>
      forward_train{"gru_fused::gru_forward_train"};
  Op<Backward> backward{"gru_fused::gru_backward"};
  Op<Tensor(const Tensor&, const Tensor&, TensorList, bool, bool)> cell{"gru_fused::gru_cell"};
  Op<std::tuple<Tensor, Tensor>(const Tensor&, const Tensor&, TensorList, bool, bool)> cell_train{
      "gru_fused::gru_cell_train"};
  Op<std::vector<Tensor>(const Tensor&, const Tensor&, const Tensor&, const Tensor&, const Tensor&, TensorList, bool,
                         bool, bool, bool)>
      cell_backward{"gru_fused::gru_cell_backward"};
  Op<Backward> backward_differentiable{"gru_fused::gru_backward_differentiable"};

  static const Ops& get() {
    static const Ops ops;
    return ops;
  }
};

// As _ops.tf32.
bool tf32(const Tensor& x) {
  return x.is_cuda() && x.scalar_type() == at::kFloat && at::globalContext().allowTF32CuDNN();
}

OptionalTensor if_defined(const Tensor& tensor) { return tensor.defined() ? OptionalTensor(tensor) : std::nullopt; }

struct LayerNode : torch::autograd::Function<LayerNode> {
  static constexpr bool is_traceable = true;  // the tensors that the backward reads are in its context

  static std::vector<Tensor> forward(AutogradContext* context, const Tensor& x, const Tensor& hx, TensorList weights,
                                     const OptionalTensor& batch_sizes, bool bias, bool recompute) {
    const at::AutoDispatchBelowADInplaceOrView below;
    const Ops& ops = Ops::get();
    std::vector<Tensor> results;
    Tensor gates;
    if (hx.dim() == 2) {
      results.resize(1);
      std::tie(results[0], gates) = ops.cell_train(x, hx, weights, bias, tf32(x));
    } else if (recompute) {
      results.resize(2);
      std::tie(results[0], results[1]) = ops.forward(x, hx, weights, bias, hx.size(0) == 2, batch_sizes, tf32(x));
    } else {
      results.resize(2);
      std::tie(results[0], results[1], gates) = ops.forward_train(x, hx, weights, bias, batch_sizes, tf32(x));
    }
    std::vector<Tensor> saved{x, hx, results[0], gates, batch_sizes.value_or(Tensor())};
    saved.insert(saved.end(), weights.begin(), weights.end());
    context->save_for_backward(std::move(saved));
    context->set_materialize_grads(false);
    context->saved_data["bias"] = bias;
    return results;
  }

  static std::vector<Tensor> backward(AutogradContext* context, const std::vector<Tensor>& grads) {
    const std::vector<Tensor> saved = context->get_saved_variables();
    const Tensor &x = saved[0], &hx = saved[1], &output = saved[2], &gates = saved[3], &batch_sizes = saved[4];
    const TensorList weights = TensorList(saved).slice(5);
    const size_t before = 2, after = 3;  // x, hx; batch_sizes, bias, recompute
    std::vector<Tensor> results(before + weights.size() + after);
    const bool cell = hx.dim() == 2;
    if (!grads[0].defined() && (cell || !grads[1].defined())) return results;

    const bool need_x = context->needs_input_grad(0), bias = context->saved_data["bias"].toBool();
    bool need_weights = false;
    for (size_t i = 0; i < weights.size(); ++i) need_weights |= context->needs_input_grad(before + i);

    const Ops& ops = Ops::get();
    const auto call = [&](const Op<Backward>& op) {
      return op(if_defined(grads[0]), cell ? std::nullopt : if_defined(grads[1]), x, hx, output, if_defined(gates),
                weights, bias, if_defined(batch_sizes), need_x, need_weights, tf32(x));
    };
    std::vector<Tensor> made;
    if (at::GradMode::is_enabled()) {  // create_graph=True: the gradient itself will be differentiated
      made = call(ops.backward_differentiable);
    } else {
      const at::AutoDispatchBelowADInplaceOrView below;
      made = cell ? ops.cell_backward(grads[0], x, hx, output, gates, weights, bias, need_x, need_weights, tf32(x))
                  : call(ops.backward);
    }
    auto next = made.begin();
    results[1] = std::move(*next++);
    if (need_x) results[0] = std::move(*next++);
    std::move(next, made.end(), results.begin() + before);
    return results;
  }
};

// Only plain tensors: a subclass may mean anything.
bool is_plain(py::handle object) { return THPVariable_CheckExact(object.ptr()); }

// The tensors of a call.
struct Given {
  bool plain = true;  // all of them
  std::vector<Tensor> tensors;
  OptionalTensor batch_sizes;

  Given(py::handle x, py::handle hx, const py::sequence& weights, py::handle sizes = py::none()) {
    tensors.reserve(2 + weights.size());
    add(x);
    add(hx);
    for (const py::object weight : weights) add(weight);  // the only reference, if it was made for us
    if (sizes.is_none()) return;
    add(sizes);
    if (!plain) return;
    batch_sizes = std::move(tensors.back());
    tensors.pop_back();
  }

  const Tensor& x() const { return tensors[0]; }
  const Tensor& hx() const { return tensors[1]; }
  TensorList weights() const { return TensorList(tensors).slice(2); }

 private:
  void add(py::handle object) {
    plain &= is_plain(object);
    if (plain) tensors.push_back(THPVariable_Unpack(object.ptr()));
  }
};

// One layer, or a cell, with its gradient.
py::object apply(py::handle x, py::handle hx, const py::sequence& weights, bool bias, py::handle batch_sizes,
                 bool recompute) {
  const Given given(x, hx, weights, batch_sizes);
  if (!given.plain) return py::none();
  std::vector<Tensor> results;
  {
    const py::gil_scoped_release without;
    results = LayerNode::apply(given.x(), given.hx(), given.weights(), given.batch_sizes, bias, recompute);
  }
  return py::make_tuple(results[0], results.size() == 2 ? py::cast(results[1]) : py::none());
}

// All layers without gradients.
py::object infer(py::handle x, py::handle hx, const py::sequence& weights, bool bias, bool bidirectional,
                 py::handle batch_sizes) {
  const Given given(x, hx, weights, batch_sizes);
  if (!given.plain) return py::none();
  std::tuple<Tensor, Tensor> results;
  {
    const py::gil_scoped_release without;
    results = Ops::get().forward(given.x(), given.hx(), given.weights(), bias, bidirectional, given.batch_sizes,
                                 tf32(given.x()));
  }
  return py::make_tuple(std::get<0>(results), std::get<1>(results));
}

py::object infer_cell(py::handle x, py::handle hx, const py::sequence& weights, bool bias) {
  const Given given(x, hx, weights);
  if (!given.plain) return py::none();
  Tensor h;
  {
    const py::gil_scoped_release without;
    h = Ops::get().cell(given.x(), given.hx(), given.weights(), bias, tf32(given.x()));
  }
  return py::cast(h);
}

// x.new_empty(*sizes). torch reads the arguments of that for longer than it makes the tensor; so would pybind11.
PyObject* empty(PyObject*, PyObject* const* arguments, Py_ssize_t count) {
  HANDLE_TH_ERRORS
  TORCH_CHECK_TYPE(count > 0 && THPVariable_Check(arguments[0]), "empty: expected a tensor and sizes");
  c10::SmallVector<int64_t, 3> sizes;
  for (Py_ssize_t i = 1; i < count; ++i) {
    sizes.push_back(PyLong_AsLongLong(arguments[i]));
    if (PyErr_Occurred()) return nullptr;
  }
  return THPVariable_Wrap(at::empty(sizes, THPVariable_Unpack(arguments[0]).options()));
  END_HANDLE_TH_ERRORS
}

PyMethodDef kEmpty = {"empty", reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(&empty)), METH_FASTCALL,
                      "empty(x, *sizes) -> Tensor"};

}  // namespace
}  // namespace gru_fused

TORCH_LIBRARY_FRAGMENT(gru_fused, m) {
  // gru_backward, or gru_cell_backward, whose results can be differentiated again: Python has that.
  m.def(
      "gru_backward_differentiable(Tensor? grad_output, Tensor? grad_h_n, Tensor x, Tensor hx, Tensor output, Tensor? "
      "gates, Tensor[] weights, bool bias, Tensor? batch_sizes, bool need_x, bool need_weights, bool tf32=False) -> "
      "Tensor[] grads");
}

PYBIND11_MODULE(TORCH_EXTENSION_NAME, m) {
  gru_fused::Ops::get();  // a node that knows other ops than this library's is refused now, and not by the first call
  // None where an argument is not a plain tensor.
  m.def("apply", &gru_fused::apply, "apply(x, hx, weights, bias, batch_sizes, recompute) -> (output, h_n or None)");
  m.def("infer", &gru_fused::infer, "infer(x, hx, weights, bias, bidirectional, batch_sizes) -> (output, h_n)");
  m.attr("empty") = py::reinterpret_steal<py::object>(PyCFunction_New(&gru_fused::kEmpty, nullptr));
  m.def("infer_cell", &gru_fused::infer_cell, "infer_cell(x, hx, weights, bias) -> h");
}

// What is no op, bound for the tests: the vector arithmetic, the plan, and the judgement of other work. Built on
// demand, never in a wheel.
#ifndef GRU_FUSED_VECTOR_BYTES
#define GRU_FUSED_VECTOR_BYTES 32
#endif
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include "../../csrc/cpu/other_work.h"
#include "../../csrc/cpu/plan.h"
#include "../../csrc/cpu/simd_math.h"

namespace py = pybind11;
using namespace gru_fused;

namespace {

template <class T>
using Array = py::array_t<T, py::array::c_style | py::array::forcecast>;

// apply(in, out, count) over whole vectors and the rest.
template <class From, class To, class Apply>
Array<To> mapped(const Array<From>& array, const Apply& apply) {
  constexpr int lanes = Simd<Accumulate<From>>::lanes;
  Array<To> result(array.size());
  const auto* from = array.data();
  auto* to = result.mutable_data();
  for (py::ssize_t i = 0; i < array.size(); i += lanes)
    apply(from + i, to + i, int(array.size() - i < lanes ? array.size() - i : lanes));
  return result;
}

template <class T>
Array<T> sigmoid(const Array<T>& x) {
  return mapped<T, T>(
      x, [](const T* from, T* to, int count) { store(to, VectorMath<T>::sigmoid(load(from, count)), count); });
}

template <class T>
Array<T> tanh(const Array<T>& x) {
  return mapped<T, T>(
      x, [](const T* from, T* to, int count) { store(to, VectorMath<T>::tanh(load(from, count)), count); });
}

template <class S>
Array<uint16_t> encoded(const Array<float>& x) {
  return mapped<float, uint16_t>(
      x, [](const float* from, uint16_t* to, int count) { store(reinterpret_cast<S*>(to), load(from, count), count); });
}

template <class S>
Array<float> decoded(const Array<uint16_t>& x) {
  constexpr int lanes = Simd<float>::lanes;
  Array<float> result(x.size());
  for (py::ssize_t i = 0; i < x.size(); i += lanes) {
    const int count = int(x.size() - i < lanes ? x.size() - i : lanes);
    store(result.mutable_data() + i, load(reinterpret_cast<const S*>(x.data()) + i, count), count);
  }
  return result;
}

py::dict plan(int64_t steps, int64_t batch, int64_t inputs, int64_t hidden, int directions, int64_t threads,
              bool backward, bool wide, bool tiles, const std::vector<int64_t>& batch_sizes) {
  Shape shape;
  std::vector<int64_t> offsets;
  for (int64_t rows = 0; const int64_t alive : batch_sizes) offsets.push_back(rows), rows += alive;
  if (!batch_sizes.empty()) shape.batch_sizes = batch_sizes.data(), shape.offsets = offsets.data();
  shape.steps = steps, shape.batch = batch, shape.inputs = inputs, shape.hidden = hidden;
  shape.directions = directions;
  if (tiles) shape.dtype = DType::bf16;
  const cpu::Plan plan = cpu::plan_of(shape, threads, backward ? cpu::Sweep::backward : cpu::Sweep::forward,
                                      tiles  ? cpu::Products::tiles
                                      : wide ? cpu::Products::wide
                                             : cpu::Products::vectors);
  using namespace py::literals;
  return py::dict("share_rows"_a = plan.share_rows, "shares"_a = plan.shares, "tile_rows"_a = plan.tile_rows,
                  "chunk_steps"_a = plan.chunk_steps, "team"_a = plan.team, "packed"_a = plan.packed,
                  "brief"_a = plan.brief, "whole"_a = plan.whole, "once"_a = plan.once, "parallel"_a = plan.parallel);
}

// Times in microseconds since any moment.
cpu::OtherWork::Time at(int64_t time) { return cpu::OtherWork::Time(std::chrono::microseconds(time)); }

}  // namespace

PYBIND11_MODULE(MODULE_NAME, m) {
  m.def("sigmoid_f32", &sigmoid<float>);
  m.def("sigmoid_f64", &sigmoid<double>);
  m.def("tanh_f32", &tanh<float>);
  m.def("tanh_f64", &tanh<double>);
  m.def("encode_bf16", &encoded<bf16>);
  m.def("encode_f16", &encoded<f16>);
  m.def("decode_bf16", &decoded<bf16>);
  m.def("decode_f16", &decoded<f16>);
  m.def("plan", &plan, py::kw_only(), py::arg("steps"), py::arg("batch"), py::arg("inputs") = 1, py::arg("hidden"),
        py::arg("directions") = 1, py::arg("threads") = 1, py::arg("backward") = false, py::arg("wide") = false,
        py::arg("tiles") = false, py::arg("batch_sizes") = std::vector<int64_t>{});
  py::class_<cpu::OtherWork>(m, "OtherWork", py::module_local())
      .def(py::init())
      .def("expected", [](const cpu::OtherWork& self, int64_t now) { return self.expected(at(now)); })
      .def("was_late",
           [](cpu::OtherWork& self, int64_t now, int64_t by) { self.was_late(at(now), std::chrono::microseconds(by)); })
      .def("was_in_time", [](cpu::OtherWork& self, int64_t now, int64_t worked) {
        self.was_in_time(at(now), std::chrono::microseconds(worked));
      });
  py::class_<cpu::Streak>(m, "Streak", py::module_local())
      .def(py::init())
      .def("goes_on", [](cpu::Streak& self, int64_t now) { return self.goes_on(at(now)); });
}

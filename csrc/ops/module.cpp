// The Python module gru_fused._C. Importing it loads the library, whose static initialisers register the ops; and it
// has the way past them (direct.h).
#include <Python.h>

#include "direct.h"

extern "C" __attribute__((visibility("default"))) PyObject* PyInit__C() {
  using namespace gru_fused::ops;
  const auto fast = [](auto function) { return reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(function)); };
  static PyMethodDef methods[] = {
      {"attach", fast(direct_attach), METH_FASTCALL, "attach(Tensor, Parameter) -> bool"},
      {"forward", fast(direct_forward), METH_FASTCALL,
       "forward(x, hx, parameters, names, output, h_n, bias, bidirectional, batch_first) -> bool"},
      {nullptr, nullptr, 0, nullptr}};
  static PyModuleDef module = {PyModuleDef_HEAD_INIT, "_C", nullptr, -1, methods, nullptr, nullptr, nullptr, nullptr};
  return PyModule_Create(&module);
}

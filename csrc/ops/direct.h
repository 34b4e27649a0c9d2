// Inference on the CPU past torch's dispatcher, whose way of a call takes longer than a small layer's arithmetic.
#pragma once

#include <Python.h>

#include "../gru_params.h"

namespace gru_fused::ops {

// One layer, as the op does it (cpu.cpp). Throws std::exception.
void forward_on_cpu(const ForwardParams&);

// The functions of gru_fused._C, which gru_fused/_direct.py calls and describes.
PyObject* direct_attach(PyObject* self, PyObject* const* arguments, Py_ssize_t count);
PyObject* direct_forward(PyObject* self, PyObject* const* arguments, Py_ssize_t count);

}  // namespace gru_fused::ops

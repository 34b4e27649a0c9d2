// Stands in for the CUDA toolkit's header of this name, so that a kernel's includes need no #ifdef.
#pragma once

#include "cuda_runtime_api.h"
#include "device_functions.h"
#include "vector_types.h"

#ifndef GRU_FUSED_EMULATED
#error "this is the emulator's cuda_runtime.h: compile with -DGRU_FUSED_EMULATED, or take it off the include path"
#endif

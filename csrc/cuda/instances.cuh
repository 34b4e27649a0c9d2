// Every kernel of one form of arithmetic.
#pragma once

#include "backward.cuh"
#include "forward.cuh"
#include "kernels.h"

namespace gru_fused::cuda {

template <class Form>
const LoopKernels& loops_of() {
  static const LoopKernels kernels = {{forward_loop<Form, BlockExchange>, forward_loop<Form, ClusterExchange>,
                                       forward_loop<Form, PacketExchange>, forward_loop<Form, FlagExchange>},
                                      {backward_loop<Form, BlockExchange>, backward_loop<Form, ClusterExchange>,
                                       backward_loop<Form, PacketExchange>, backward_loop<Form, FlagExchange>}};
  return kernels;
}

}  // namespace gru_fused::cuda

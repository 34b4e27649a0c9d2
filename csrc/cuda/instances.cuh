// Every kernel of one form of arithmetic.
#pragma once

#include "backward.cuh"
#include "forward.cuh"
#include "kernels.h"

namespace gru_fused::cuda {

template <class Form, class Forward, class Backward>
const KernelsOf<Forward, Backward>& kernels_of() {
  static const KernelsOf<Forward, Backward> kernels = {
      {forward_loop<Form, BlockExchange, Forward>, forward_loop<Form, ClusterExchange, Forward>,
       forward_loop<Form, PacketExchange, Forward>, forward_loop<Form, FlagExchange, Forward>},
      {backward_loop<Form, BlockExchange, Backward>, backward_loop<Form, ClusterExchange, Backward>,
       backward_loop<Form, PacketExchange, Backward>, backward_loop<Form, FlagExchange, Backward>}};
  return kernels;
}

template <class Form>
const LoopKernels& loops_of() {
  return kernels_of<Form, ForwardLoop, BackwardLoop>();
}

template <class Form>
const VariantLoopKernels& variant_loops_of() {
  return kernels_of<OfVariant<Form>, VariantForwardLoop, VariantBackwardLoop>();
}

}  // namespace gru_fused::cuda

"""Other libraries' GRU weights, to and from: Keras, ONNX, haste, Flax.

``from_x(*layers)`` takes what library x has of each layer, first to last, and returns one :class:`gru_fused.GRU`;
``to_x(gru)`` takes a ``gru_fused.GRU`` or ``torch.nn.GRU`` and returns a list with an entry for each layer. The weights
are copied. All of it works on plain arrays: only the functions for whole ONNX models import a library.

The cell is the same in all of them: the reset gate is applied after the recurrent product. What differs is the order of
the gates, which way the matrices lie, and which biases there are.

==========  ==================  ==============================  ==========================================
library     gates               matrices                        biases
==========  ==================  ==============================  ==========================================
torch       r, z, n             (3H, I), (3H, H)                (3H,), (3H,)
Keras       z, r, n             (I, 3H), (H, 3H)                (2, 3H)
ONNX        z, r, n             (D, 3H, I), (D, 3H, H)          (D, 6H)
haste       z, r, n             (I, 3H), (H, 3H)                (3H,), (3H,)
Flax        a matrix for each   (I, H), (H, H)                  (H,) for the input's three and for h's n
==========  ==================  ==============================  ==========================================

Many tutorials let z weigh the new state instead of the old one; see :func:`negate_update_gate`.
"""

from gru_fused.weights._layers import negate_update_gate
from gru_fused.weights.flax import from_flax, to_flax
from gru_fused.weights.haste import from_haste, to_haste
from gru_fused.weights.keras import from_keras, to_keras
from gru_fused.weights.onnx import OnnxGRU, from_onnx, to_onnx
from gru_fused.weights.onnx_model import from_onnx_model, to_onnx_model

__all__ = [
    "OnnxGRU",
    "from_flax",
    "from_haste",
    "from_keras",
    "from_onnx",
    "from_onnx_model",
    "negate_update_gate",
    "to_flax",
    "to_haste",
    "to_keras",
    "to_onnx",
    "to_onnx_model",
]

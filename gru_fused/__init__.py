"""A fused GRU for PyTorch: drop-ins for ``torch.nn.GRU`` and ``torch.nn.GRUCell``.

Example:
    >>> import torch, gru_fused
    >>> rnn = gru_fused.GRU(10, 20, num_layers=2)  # instead of torch.nn.GRU
    >>> output, h_n = rnn(torch.randn(5, 3, 10))
    >>> output.shape, h_n.shape
    (torch.Size([5, 3, 20]), torch.Size([2, 3, 20]))
"""

from gru_fused import compat, functional, reference, variants, weights
from gru_fused._version import __version__
from gru_fused.cell import GRUCell
from gru_fused.explain import explain
from gru_fused.modules import GRU
from gru_fused.options import Options
from gru_fused.swap import convert, revert

__all__ = [
    "GRU",
    "GRUCell",
    "Options",
    "__version__",
    "compat",
    "convert",
    "explain",
    "functional",
    "reference",
    "revert",
    "variants",
    "weights",
]

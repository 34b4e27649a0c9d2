"""A GRU for libraries that ask ``isinstance(module, torch.nn.GRU)``."""

from __future__ import annotations

from torch import nn

from gru_fused import modules

__all__ = ["GRU"]


class GRU(modules.GRU, nn.GRU):
    """:class:`gru_fused.GRU` that is a :class:`torch.nn.GRU` too.

    The price: ``torch.compile(fullgraph=True)`` refuses every nn.GRU, and so this one.

    Example:
        >>> import torch
        >>> from gru_fused import compat
        >>> isinstance(compat.GRU(3, 4), torch.nn.GRU)
        True
    """

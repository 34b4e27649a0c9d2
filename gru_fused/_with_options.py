"""What gru_fused.GRU and gru_fused.GRUCell share: the options of their cell, and the parameters that come with them."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from gru_fused.options import PLAIN, Options


class WithOptions(nn.Module):
    """Comes before torch's class among the bases."""

    _options: Options | None = None  # None: nn.GRU's cell

    @property
    def options(self) -> Options:
        """What the cell computes. May be set to anything with the same ``layer_norm``, whose parameters are there."""
        return self._options or PLAIN

    @options.setter
    def options(self, options: Options) -> None:
        if options.layer_norm != self.options.layer_norm:
            raise ValueError(
                f"options: expected layer_norm={self.options.layer_norm!r}, which the module has the parameters of, "
                f"got {options.layer_norm!r}"
            )
        self._check_options(options)
        self._options = None if options == PLAIN else options

    def _take_options(self, options: Options, like: Tensor) -> None:
        """At the end of a constructor; ``like`` has 3H rows."""
        self._check_options(options)
        self._options = None if options == PLAIN else options
        for name in self._norm_names():
            self.register_parameter(name, nn.Parameter(torch.ones_like(like[:, 0])))

    def _check_options(self, options: Options) -> None:
        """Raises ValueError for what this module can't do."""

    def _norm_names(self) -> list[str]:
        """The norms' parameters, in the order that the functions take them in."""
        raise NotImplementedError

    def reset_parameters(self) -> None:
        """Weights and biases uniform within 1 / sqrt(H), as in nn.GRU; the gains of norms are 1."""
        super().reset_parameters()
        for name in self._norm_names():
            nn.init.ones_(getattr(self, name))

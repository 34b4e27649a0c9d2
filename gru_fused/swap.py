"""Every nn.GRU and nn.GRUCell of a model to ours, and back.

A module changes its class and nothing else: it stays the same object with the same parameters, hooks, parametrizations
and training flag, so optimizers and other references to it go on working.
"""

from __future__ import annotations

from torch import nn
from torch.nn.utils import parametrize

from gru_fused import cell, compat, modules
from gru_fused._with_options import WithOptions
from gru_fused.options import PLAIN

__all__ = ["convert", "revert"]

_OURS: dict[type[nn.Module], type[nn.Module]] = {nn.GRU: modules.GRU, nn.GRUCell: cell.GRUCell}
_TORCHS: dict[type[nn.Module], type[nn.Module]] = {
    modules.GRU: nn.GRU,
    compat.GRU: nn.GRU,
    cell.GRUCell: nn.GRUCell,
}


def convert(model: nn.Module) -> nn.Module:
    """Makes every ``nn.GRU`` and ``nn.GRUCell`` in a model a ``gru_fused`` one, in place, and returns the model.

    A user's own subclass of nn.GRU is left alone: it may compute something else.

    Example:
        >>> import torch, gru_fused
        >>> model = torch.nn.Sequential(torch.nn.Embedding(9, 3), torch.nn.GRU(3, 4))
        >>> gru_fused.convert(model)[1]
        GRU(3, 4)
        >>> isinstance(model[1], gru_fused.GRU)
        True
    """
    return _swap(model, _OURS)


def revert(model: nn.Module) -> nn.Module:
    """The way back: every ``gru_fused`` GRU and GRUCell in a model becomes torch's, in place.

    Raises:
        ValueError: for one whose options torch's doesn't have; then none has become torch's.

    Example:
        >>> import torch, gru_fused
        >>> type(gru_fused.revert(gru_fused.GRU(3, 4))) is torch.nn.GRU
        True
    """
    for name, module in model.named_modules():
        if isinstance(module, WithOptions) and module.options != PLAIN:
            what = f"model.{name}" if name else "model"
            raise ValueError(f"{what}: expected a GRU that torch has too, got one with {module.options.changed()}")
    return _swap(model, _TORCHS)


def _swap(model: nn.Module, table: dict[type[nn.Module], type[nn.Module]]) -> nn.Module:
    for module in model.modules():
        cls = type(module)
        if parametrize.is_parametrized(module):
            # torch gives a parametrized module a class of its own: the base, and a property for each parameter
            base = cls.__bases__[0]
            if base in table:
                new = table[base]
                module.__class__ = type(f"Parametrized{new.__name__}", (new,), dict(cls.__dict__))
        elif cls in table:
            module.__class__ = table[cls]
        if isinstance(module, nn.RNNBase):
            module.__dict__.pop("_flat_weights", None)  # ours reads the parameters; torch's makes the list again
            module._init_flat_weights()
    return model

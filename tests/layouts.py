"""Ways to lay a tensor out in memory other than contiguous."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Layout:
    """A name, and what makes a tensor of the same shape with other strides (and sometimes other values)."""

    name: str
    of: Callable[[Tensor], Tensor]

    def __call__(self, x: Tensor) -> Tensor:
        return self.of(x)

    def __str__(self) -> str:
        return self.name


def _transposed(x: Tensor) -> Tensor:
    return x.mT.contiguous().mT if x.dim() > 1 else _sliced(x)


def _first_two_swapped(x: Tensor) -> Tensor:
    return x.transpose(0, 1).contiguous().transpose(0, 1) if x.dim() > 1 else _sliced(x)


def _sliced(x: Tensor) -> Tensor:
    return x.repeat_interleave(2, -1)[..., ::2]


def _offset(x: Tensor) -> Tensor:
    wide = x.new_zeros(*x.shape[:-1], x.shape[-1] + 3)
    wide[..., 1:-2] = x
    return wide[..., 1:-2]


LAYOUTS = [
    Layout("transposed", _transposed),
    Layout("first-two-swapped", _first_two_swapped),
    Layout("sliced", _sliced),
    Layout("offset", _offset),
    Layout("expanded-first", lambda x: x[:1].expand_as(x)),
    Layout("expanded-middle", lambda x: x[:, :1].expand_as(x) if x.dim() > 1 else x[:1].expand_as(x)),
    Layout("expanded-last", lambda x: x[..., :1].expand_as(x)),
    Layout("scalar", lambda x: x.flatten()[0].expand_as(x)),
]

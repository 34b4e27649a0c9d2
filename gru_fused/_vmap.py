"""The batching rule of a layer and of its derivatives: many calls are one call with a larger batch.

The vmapped axis of V is folded into the batch rows, so that row b of call v is row b * V + v: with that order packed
sequences stay packed, each step with V times as many rows. Weights of which every call has its own can't share a
product, and neither can weights' gradients that are wanted for each call: then the calls are made one after the other.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import torch
from torch import Tensor

Optional = Tensor | None


def vmap(
    function: type[torch.autograd.Function],
    size: int,
    in_dims: Sequence[int | None],
    args: Sequence[Any],
    *,
    batch_sizes: int,
    weights: Collection[int],
    each: bool = False,
) -> tuple[tuple[Optional, ...], tuple[int | None, ...]]:
    """Results of ``size`` calls along axis 0, and these axes.

    ``batch_sizes`` and ``weights`` are places in ``args``; ``each``: the results have gradients of the weights.
    """
    if each or any(in_dims[i] is not None for i in weights):
        calls = [
            function.apply(*(a if dim is None else a.select(dim, v) for a, dim in zip(args, in_dims, strict=True)))
            for v in range(size)
        ]
        results = [None if of_calls[0] is None else torch.stack(of_calls) for of_calls in zip(*calls, strict=True)]
    else:
        folded = []
        for i, (a, dim) in enumerate(zip(args, in_dims, strict=True)):
            if isinstance(a, Tensor) and i not in weights:
                a = a * size if i == batch_sizes else _fold(a, dim, size)
            folded.append(a)
        results = [None if y is None else y.unflatten(-2, (-1, size)).movedim(-2, 0) for y in function.apply(*folded)]
    return tuple(results), tuple(None if y is None else 0 for y in results)


def _fold(y: Tensor, dim: int | None, size: int) -> Tensor:
    """[..., rows, n] with the vmapped axis anywhere: [..., rows * V, n]."""
    if dim is None:
        y = y.unsqueeze(-2).expand(*y.shape[:-1], size, y.shape[-1])
    else:
        y = y.movedim(dim, -2)
    return y.flatten(-3, -2)

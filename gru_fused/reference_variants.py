"""The variants of the cell in readable torch, as :mod:`gru_fused.reference` has the plain one.

What a step makes of the state before it, h, is said at the top of csrc/variant_cell.h. As the functions are made of
ordinary torch operations, they work under every transform; derivatives of the second order of a variant come from here.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["ACTIVATIONS", "RECURRENCES", "layer"]

# In the order of csrc/variant_cell.h's enumerations.
RECURRENCES = ("reset_after", "reset_before", "norm_recurrent", "norm_sum")
ACTIVATIONS = {
    "sigmoid": torch.sigmoid,
    "hard_sigmoid": lambda x: (x / 6 + 0.5).clamp(0, 1),  # F.hardsigmoid's gradient has 1/6 in float32, always
    "hard_sigmoid_fifth": lambda x: (0.2 * x + 0.5).clamp(0, 1),
    "tanh": torch.tanh,
    "relu": torch.relu,
    "softsign": F.softsign,
}


def layer(
    x: Tensor,
    hx: Tensor,
    weights: Sequence[Tensor],
    bias: bool,
    batch_sizes: Tensor | None,
    recurrence: str = "reset_after",
    gate: str = "sigmoid",
    candidate: str = "tanh",
    epsilon: float = 1e-5,
    reverse: bool = False,
    lengths: Tensor | None = None,
    reset: Tensor | None = None,
    reset_state: Tensor | None = None,
    update: Tensor | None = None,
    dropout: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """One layer over all of its directions; arguments as of the op ``gru_variant`` (csrc/ops/schema.cpp).

    Example:
        >>> import torch
        >>> from gru_fused import reference_variants
        >>> rnn = torch.nn.GRU(3, 4)
        >>> x, hx = torch.randn(5, 2, 3), torch.zeros(1, 2, 4)
        >>> output, h_n = reference_variants.layer(x, hx, list(rnn.parameters()), True, None)
        >>> torch.allclose(output, rnn(x)[0], atol=1e-6)
        True
    """
    norm = recurrence.startswith("norm")
    per_direction = 3 if norm else 4 if bias else 2
    outputs, finals = [], []
    for d in range(hx.shape[0]):
        if norm:
            w_hh, gain, b_hh = weights[3 * d : 3 * (d + 1)]
            gi = x.chunk(hx.shape[0], -1)[d]
        else:
            w_ih, w_hh, *biases = weights[per_direction * d : per_direction * (d + 1)]
            b_ih, b_hh = biases if bias else (None, None)
            gain = None
            gi = F.linear(x if lengths is None else _alive_only(x, lengths), w_ih, b_ih)
        step = _Step(
            recurrence,
            ACTIVATIONS[gate],
            ACTIVATIONS[candidate],
            epsilon,
            w_hh,
            b_hh,
            gain,
            None if dropout is None else dropout[d],
        )
        learned = hx.new_zeros(hx.shape[1:]) if reset_state is None else reset_state[d]
        output, final = _scan(
            gi,
            hx[d],
            step,
            reverse or d == 1,
            batch_sizes,
            lengths,
            reset,
            learned,
            None if update is None else update[d],
        )
        outputs.append(output)
        finals.append(final)
    return torch.cat(outputs, -1), torch.stack(finals)


def _alive_only(x: Tensor, lengths: Tensor) -> Tensor:
    """What stands past a row's length must not count, not even NaN."""
    alive = torch.arange(x.shape[0], device=x.device)[:, None] < lengths
    return torch.where(alive[..., None], x, 0)


class _Step:
    """The state after a step from gi, the state before it and how much of the update is made."""

    def __init__(self, recurrence, gate, candidate, epsilon, w_hh, b_hh, gain, dropout) -> None:
        self.recurrence, self.gate, self.candidate = recurrence, gate, candidate
        self.epsilon, self.gain = epsilon, gain
        self.w_hh, self.b_hh, self.dropout = w_hh, b_hh, dropout

    def __call__(self, gi: Tensor, h0: Tensor, update: Tensor | float) -> Tensor:
        hd = h0 if self.dropout is None else h0 * self.dropout[: h0.shape[0]]
        gi_r, gi_z, gi_n = gi.chunk(3, -1)
        if self.recurrence == "reset_before":
            size = 2 * h0.shape[-1]
            b_rz, b_n = (None, None) if self.b_hh is None else (self.b_hh[:size], self.b_hh[size:])
            gh_r, gh_z = F.linear(hd, self.w_hh[:size], b_rz).chunk(2, -1)
            r, z = self.gate(gi_r + gh_r), self.gate(gi_z + gh_z)
            n = self.candidate(gi_n + F.linear(r * hd, self.w_hh[size:], b_n))
        else:
            gh = self._projected(gi, hd)
            if self.recurrence == "norm_sum":
                gi_r, gi_z, gi_n = torch.zeros_like(gi).chunk(3, -1)
            gh_r, gh_z, gh_n = gh.chunk(3, -1)
            r, z = self.gate(gi_r + gh_r), self.gate(gi_z + gh_z)
            n = self.candidate(gi_n + r * gh_n)
        return n + (1 - update * (1 - z)) * (h0 - n)

    def _projected(self, gi: Tensor, hd: Tensor) -> Tensor:
        if self.recurrence == "reset_after":
            return F.linear(hd, self.w_hh, self.b_hh)
        y = F.linear(hd, self.w_hh)
        if self.recurrence == "norm_sum":
            y = gi + y
        return F.layer_norm(y, y.shape[-1:], self.gain, self.b_hh, self.epsilon)


def _scan(gi, hx, step, backwards, batch_sizes, lengths, reset, learned, update) -> tuple[Tensor, Tensor]:
    """The recurrence of one direction: the states of all steps, and the last of each row."""
    if batch_sizes is not None:
        sizes = batch_sizes.tolist()
        gi, reset, update = (y if y is None else y.split(sizes) for y in (gi, reset, update))
    steps = len(gi)
    outputs: list[Tensor] = [hx] * steps
    h = hx
    for t in range(steps - 1, -1, -1) if backwards else range(steps):
        rows = gi[t].shape[0]
        alive = torch.ones(rows, 1, dtype=torch.bool, device=h.device) if lengths is None else (t < lengths)[:, None]
        h0 = h[:rows]
        first = t + 1 if backwards else t
        if reset is not None and first < steps:
            begins = reset[first][:, None]
            if lengths is not None:
                begins = begins & (first < lengths)[:, None]
            begins = F.pad(begins, (0, 0, 0, rows - begins.shape[0]))  # rows that end here have no next step
            h0 = torch.where(begins, learned[:rows].to(h0.dtype), h0)
        new = step(gi[t], h0, 1.0 if update is None else update[t])
        outputs[t] = torch.where(alive, new, 0)
        h = torch.cat([torch.where(alive, new, h[:rows]), h[rows:]])
    return (torch.cat(outputs) if batch_sizes is not None else torch.stack(outputs)), h

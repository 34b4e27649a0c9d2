"""The GRU in readable torch: what the fused kernels compute, one plain line per formula.

Every function here works in any dtype, on any device and under every torch transform, because it is
made of ordinary torch operations. It is slow on purpose (a Python loop over time) and serves as the
truth that the kernels are tested against.

The cell is the one of cuDNN and ``torch.nn.GRU`` (gate order r, z, n; reset applied after the
recurrent product)::

    r  = sigmoid(W_ir x + b_ir + W_hr h + b_hr)
    z  = sigmoid(W_iz x + b_iz + W_hz h + b_hz)
    n  = tanh(W_in x + b_in + r * (W_hn h + b_hn))
    h' = (1 - z) * n + z * h
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["cell", "gru", "gru_cell", "scan"]


def cell(gi: Tensor, gh: Tensor, h: Tensor) -> Tensor:
    """One step of the cell from its two projections.

    Args:
        gi: ``x W_ih^T + b_ih``, shape ``(B, 3H)``, gates r, z, n side by side.
        gh: ``h W_hh^T + b_hh``, shape ``(B, 3H)``.
        h: the state before the step, shape ``(B, H)``.

    Returns:
        The state after the step, shape ``(B, H)``.
    """
    gi_r, gi_z, gi_n = gi.chunk(3, -1)
    gh_r, gh_z, gh_n = gh.chunk(3, -1)
    r = torch.sigmoid(gi_r + gh_r)
    z = torch.sigmoid(gi_z + gh_z)
    n = torch.tanh(gi_n + r * gh_n)
    return n + z * (h - n)


def scan(
    gi: Tensor,
    hx: Tensor,
    w_hh: Tensor,
    b_hh: Tensor | None = None,
    *,
    reverse: bool = False,
    batch_sizes: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """The recurrence of one layer in one direction.

    Args:
        gi: input gates, ``(T, B, 3H)``; with ``batch_sizes`` the packed rows, ``(N, 3H)``.
        hx: initial state, ``(B, H)``.
        w_hh: ``(3H, H)``.
        b_hh: ``(3H,)`` or None.
        reverse: go from the last step to the first.
        batch_sizes: int64 ``(T,)`` on the CPU, not increasing, as in ``PackedSequence``.

    Returns:
        The states of all steps, ``(T, B, H)`` or packed ``(N, H)``, aligned with the input in time, and the
        last state of each row, ``(B, H)``.
    """
    steps = list(gi.split(batch_sizes.tolist())) if batch_sizes is not None else list(gi.unbind(0))
    order = range(len(steps) - 1, -1, -1) if reverse else range(len(steps))
    outputs: list[Tensor] = [hx] * len(steps)
    h = hx
    for t in order:
        rows = steps[t].shape[0]  # rows past this count have ended (forward) or not begun (reverse)
        new = cell(steps[t], F.linear(h[:rows], w_hh, b_hh), h[:rows])
        h = torch.cat([new, h[rows:]]) if rows < h.shape[0] else new
        outputs[t] = new
    return (torch.cat(outputs) if batch_sizes is not None else torch.stack(outputs)), h


def gru(
    input: Tensor,
    hx: Tensor | None,
    weights: Sequence[Tensor],
    *,
    bias: bool = True,
    num_layers: int = 1,
    dropout: float = 0.0,
    training: bool = False,
    bidirectional: bool = False,
    batch_first: bool = False,
    batch_sizes: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """The whole GRU; arguments (but for ``recompute``) and results as :func:`gru_fused.functional.gru`.

    Example:
        >>> import torch
        >>> from gru_fused import reference
        >>> rnn = torch.nn.GRU(3, 4)
        >>> x = torch.randn(5, 2, 3)
        >>> output, h_n = reference.gru(x, None, list(rnn.parameters()))
        >>> torch.allclose(output, rnn(x)[0], atol=1e-6)
        True
    """
    directions = 2 if bidirectional else 1
    per_direction = 4 if bias else 2
    x = input.transpose(0, 1) if batch_first and batch_sizes is None else input
    batch = int(batch_sizes[0]) if batch_sizes is not None else x.shape[1]
    if hx is None:
        hx = x.new_zeros(num_layers * directions, batch, weights[1].shape[1])
    finals = []
    for layer in range(num_layers):
        outputs = []
        for direction in range(directions):
            index = layer * directions + direction
            w_ih, w_hh, *biases = weights[per_direction * index : per_direction * (index + 1)]
            b_ih, b_hh = biases if bias else (None, None)
            out, last = scan(
                F.linear(x, w_ih, b_ih), hx[index], w_hh, b_hh, reverse=direction == 1, batch_sizes=batch_sizes
            )
            outputs.append(out)
            finals.append(last)
        x = torch.cat(outputs, -1)
        if layer < num_layers - 1:
            x = F.dropout(x, dropout, training)
    return (x.transpose(0, 1) if batch_first and batch_sizes is None else x), torch.stack(finals)


def gru_cell(
    input: Tensor, hx: Tensor, w_ih: Tensor, w_hh: Tensor, b_ih: Tensor | None = None, b_hh: Tensor | None = None
) -> Tensor:
    """One step from the weights; arguments and result as :func:`gru_fused.functional.gru_cell`."""
    return cell(F.linear(input, w_ih, b_ih), F.linear(hx, w_hh, b_hh), hx)

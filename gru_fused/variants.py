"""The GRU as a function of tensors with everything that nn.GRU doesn't have: other cells, lengths, resets, attention.

The plain GRU is in :mod:`gru_fused.functional`, and pays for none of this.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from gru_fused import _sequences, functional
from gru_fused._variants import layer
from gru_fused.options import PLAIN, Options

__all__ = ["gru", "gru_cell"]


def gru(
    input: Tensor,
    hx: Tensor | None,
    weights: Sequence[Tensor],
    *,
    options: Options = PLAIN,
    norms: Sequence[Tensor] = (),
    lengths: Tensor | Sequence[int] | None = None,
    reset: Tensor | None = None,
    reset_state: Tensor | None = None,
    attention: Tensor | None = None,
    recurrent_mask: Tensor | None = None,
    all_layers: bool = False,
    allow_empty: bool = False,
    bias: bool = True,
    num_layers: int = 1,
    dropout: float = 0.0,
    training: bool = False,
    bidirectional: bool = False,
    batch_first: bool = False,
    batch_sizes: Tensor | None = None,
    recompute: bool = False,
) -> tuple[Tensor | tuple[Tensor, ...], Tensor]:
    """A GRU of one or more layers over a batch of sequences, with options.

    T steps, B sequences, I inputs, H units, L layers, D directions; what is not said here is as in
    :func:`gru_fused.functional.gru`.

    Args:
        options: what the cell computes: :class:`gru_fused.Options`.
        norms: with ``options.layer_norm``, for each layer and direction the gains ``(3H,)`` of both projections, or of
            their sum.
        lengths: integers ``(B,)``, how many steps each sequence has: past them it keeps its state, the output is zero,
            and what stands in the input has no effect. Nothing is packed or sorted, and on a GPU nobody waits. On a
            CPU they are checked; on a GPU, where that would take a wait, a number out of range counts as 0 or T.
        reset: bool, in the layout of the input without its last axis: an episode begins with this step, from
            ``reset_state`` in place of the state before. Nothing passes from one episode to another, in either
            direction, and neither do gradients.
        reset_state: ``(L * D, H)`` or ``(L * D, B, H)``; None for zeros.
        attention: in the layout of ``reset``: how much of its update a step makes, 0 to 1, in every layer
            (AUGRU, https://arxiv.org/abs/1809.03672).
        recurrent_mask: ``(L * D, B, H)``: what states are multiplied with in the recurrent product, in place of a mask
            that ``options.recurrent_dropout`` would draw.
        all_layers: return the states of every layer.
        allow_empty: T = 0 and lengths of 0 are no errors: the state stays as it is.

    Returns:
        The last layer's states, ``(T, B, D * H)`` (``(B, T, D * H)``, ``(N, D * H)``), or with ``all_layers`` a tuple
        of every layer's, before dropout; and the last state of every layer and direction, ``(L * D, B, H)``.

    Raises:
        RuntimeError: for T = 0, tensors on different devices, or shapes that do not fit.
        TypeError, ValueError: for ``lengths``, ``reset``, ``reset_state``, ``attention``, ``norms`` or options that do
            not fit.
        NotImplementedError: for a device that this build has no kernels for.

    Example:
        >>> import torch
        >>> from gru_fused import variants
        >>> rnn = torch.nn.GRU(3, 4)
        >>> x = torch.randn(5, 2, 3)
        >>> output, h_n = variants.gru(x, None, list(rnn.parameters()), lengths=torch.tensor([5, 2]))
        >>> output[2:, 1].abs().sum().item()
        0.0
    """
    directions = 2 if bidirectional else 1
    per_layer = directions * (4 if bias else 2)
    functional._check_counts(hx, weights, num_layers, directions, per_layer, bias)
    options.check_directions(bidirectional)
    hidden = weights[1].shape[1]
    per_norms = directions * len(options.norm_names())
    if len(norms) != num_layers * per_norms or any(gain.shape != (3 * hidden,) for gain in norms):
        raise ValueError(
            f"norms: expected {num_layers * per_norms} tensors of shape ({3 * hidden},) for {num_layers} layers, "
            f"{directions} directions and layer_norm={options.layer_norm!r}, got {[tuple(y.shape) for y in norms]}"
        )
    packed = batch_sizes is not None
    batch_first = batch_first and not packed
    x = input.transpose(0, 1) if batch_first else input
    if x.shape[0] == 0 and not allow_empty:
        raise RuntimeError("Expected sequence length to be larger than 0 in RNN")
    if hx is None:
        hx = functional._zero_states(x, num_layers * directions, hidden, batch_sizes)
    dtype = hx.dtype
    if torch._C._is_any_autocast_enabled():
        x, hx, weights, dtype = functional._autocast(x, hx, weights)
        norms = [gain.to(x.dtype) for gain in norms]
    steps, reset_state = _sequences.steps_of(
        x, hx, batch_first, packed, lengths, reset, reset_state, attention, allow_empty
    )

    if x.shape[0] == 0:
        empty = _sequences.no_steps(input, directions * hidden).to(dtype)
        return (num_layers * (empty,) if all_layers else empty), hx.clone().to(dtype)

    outputs, finals = [], []
    try:
        for k in range(num_layers):
            if dropout and k:
                x = F.dropout(x, dropout, training)
            of_layer = slice(k * directions, (k + 1) * directions)
            given = weights[k * per_layer : (k + 1) * per_layer], norms[k * per_norms : (k + 1) * per_norms]
            begin = None if reset_state is None else reset_state[of_layer]
            mask = None if recurrent_mask is None else recurrent_mask[of_layer].to(x.dtype)
            needs_grad = functional._needs_grad(x, hx, [*given[0], *given[1], *_tensors(begin, steps.attention)])
            x, h_n = layer(
                x,
                hx[of_layer],
                *given,
                bias,
                batch_sizes,
                options,
                steps,
                begin,
                mask,
                training,
                recompute,
                needs_grad,
            )
            outputs.append(x)
            finals.append(h_n)
    except RuntimeError:
        functional._check_same_device(x, hx, weights)
        raise
    outputs = [y.to(dtype) for y in (outputs if all_layers else outputs[-1:])]
    if batch_first:
        outputs = [y.transpose(0, 1) for y in outputs]
    h_n = finals[0] if num_layers == 1 else torch.cat(finals)
    return (tuple(outputs) if all_layers else outputs[0]), h_n.to(dtype)


def gru_cell(
    input: Tensor,
    hx: Tensor,
    w_ih: Tensor,
    w_hh: Tensor,
    b_ih: Tensor | None = None,
    b_hh: Tensor | None = None,
    *,
    options: Options = PLAIN,
    norms: Sequence[Tensor] = (),
    reset: Tensor | None = None,
    reset_state: Tensor | None = None,
    attention: Tensor | None = None,
    recurrent_mask: Tensor | None = None,
    training: bool = False,
) -> Tensor:
    """One step; what is not said here is as in :func:`gru_fused.functional.gru_cell` and :func:`gru`.

    Args:
        norms: with ``options.layer_norm``, the gains ``(3H,)``.
        reset: bool ``(B,)``.
        reset_state: ``(H,)`` or ``(B, H)``; None for zeros.
        attention: ``(B,)``.
        recurrent_mask: ``(B, H)``, what the state is multiplied with in the recurrent product; None: with
            ``options.recurrent_dropout``, if ``training``, each call draws its own.

    Returns:
        The state after the step, ``(B, H)``.

    Raises:
        RuntimeError, TypeError, ValueError: as :func:`gru` does.

    Example:
        >>> import torch
        >>> from gru_fused import variants
        >>> cell = torch.nn.GRUCell(3, 4)
        >>> h = variants.gru_cell(
        ...     torch.randn(2, 3), torch.ones(2, 4), *cell.parameters(), attention=torch.zeros(2)
        ... )
        >>> torch.equal(h, torch.ones(2, 4))
        True
    """
    bias = b_ih is not None or b_hh is not None
    weights = [w_ih, w_hh]
    if bias:
        weights += [w_ih.new_zeros(w_ih.shape[0]) if b is None else b for b in (b_ih, b_hh)]
    functional._check_cell(input, hx, w_ih, w_hh)
    if recurrent_mask is not None and recurrent_mask.shape != hx.shape:
        raise ValueError(f"recurrent_mask: expected shape {tuple(hx.shape)}, got {tuple(recurrent_mask.shape)}")
    _, h = gru(
        input.unsqueeze(0),
        hx.unsqueeze(0),
        weights,
        options=options,
        norms=norms,
        reset=None if reset is None else reset.unsqueeze(0),
        reset_state=None if reset_state is None else reset_state.unsqueeze(0),
        attention=None if attention is None else attention.unsqueeze(0),
        recurrent_mask=None if recurrent_mask is None else recurrent_mask.unsqueeze(0),
        bias=bias,
        training=training,
    )
    return h.squeeze(0)


def _tensors(*optional: Tensor | None) -> list[Tensor]:
    return [y for y in optional if y is not None]

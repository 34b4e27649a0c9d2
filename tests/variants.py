"""Layers of the cell's variants as the ops take them: what to try, and the results with all gradients."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from helpers import Results
from torch import Tensor

from gru_fused import _ops, reference_variants
from gru_fused.reference_variants import ACTIVATIONS, RECURRENCES


@dataclass(frozen=True)
class Variant:
    """One layer, the shape of its input and its options. ``sizes`` are packed batch sizes and replace T and B."""

    T: int = 5
    B: int = 3
    I: int = 4  # noqa: E741 - the letter of the formulas
    H: int = 6
    D: int = 1
    bias: bool = True
    sizes: tuple[int, ...] | None = None
    recurrence: str = "reset_after"
    gate: str = "sigmoid"
    candidate: str = "tanh"
    reverse: bool = False
    lengths: bool = False
    reset: bool = False
    learned: bool = False  # the state that a reset sets
    update: str = ""  # "rows" or "units"
    dropout: bool = False

    def __str__(self) -> str:
        shape = f"T{self.T}-B{self.B}" if self.sizes is None else "sizes" + "_".join(map(str, self.sizes))
        words = [f"{shape}-I{self.I}-H{self.H}", self.recurrence]
        words += [word for word in (self.gate, self.candidate) if word not in ("sigmoid", "tanh")]
        flags = {"bidirectional": self.D == 2, "nobias": not self.bias, f"update_{self.update}": bool(self.update)}
        for name in ("reverse", "lengths", "reset", "learned", "dropout"):
            flags[name] = getattr(self, name)
        return "-".join([*words, *(word for word, said in flags.items() if said)])

    @property
    def norm(self) -> bool:
        return self.recurrence.startswith("norm")

    def arguments(self, dtype: torch.dtype = torch.float64, scale: float = 1.0) -> dict[str, Any]:
        """Random arguments of the op but for the enumerations: as ``reference_variants.layer`` takes them."""
        D, H = self.D, self.H
        batch = self.sizes[0] if self.sizes else self.B
        steps = (sum(self.sizes),) if self.sizes else (self.T, self.B)

        def random(*shape: int) -> Tensor:
            return torch.randn(*shape, dtype=torch.float64).to(dtype)

        bound = H**-0.5
        if self.norm:
            shapes = D * [(3 * H, H), (3 * H,), (3 * H,)]
        else:
            shapes = D * [(3 * H, self.I), (3 * H, H), *(2 * [(3 * H,)] if self.bias else [])]
        weights = [random(*shape) * bound for shape in shapes]
        if self.norm:
            weights[1::3] = [1 + gain for gain in weights[1::3]]
        x = random(*steps, D * 3 * H if self.norm else self.I) * scale
        lengths = None
        if self.lengths:
            lengths = torch.randint(0, self.T + 1, (batch,))
            lengths[torch.randint(batch, (1,))] = self.T
            for row, length in enumerate(lengths.tolist()):
                x[length:, row] = float("nan")  # must not count
        update = None
        if self.update:
            update = torch.rand(D, *steps, H if self.update == "units" else 1, dtype=torch.float64).to(dtype)
        dropout = None
        if self.dropout:
            dropout = torch.bernoulli(torch.full((D, batch, H), 0.7, dtype=torch.float64)).to(dtype) / 0.7
        return {
            "x": x,
            "hx": random(D, batch, H),
            "weights": weights,
            "bias": self.bias,
            "batch_sizes": torch.tensor(self.sizes) if self.sizes else None,
            "recurrence": self.recurrence,
            "gate": self.gate,
            "candidate": self.candidate,
            "epsilon": 1e-3,
            "reverse": self.reverse,
            "lengths": lengths,
            "reset": torch.rand(steps) < 0.3 if self.reset else None,
            "reset_state": random(D, batch, H) if self.learned else None,
            "update": update,
            "dropout": dropout,
        }

    def cotangents(self, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
        batch = self.sizes[0] if self.sizes else self.B
        steps = (sum(self.sizes),) if self.sizes else (self.T, self.B)
        output = torch.randn(*steps, self.D * self.H, dtype=torch.float64)
        return output.to(dtype), torch.randn(self.D, batch, self.H, dtype=torch.float64).to(dtype)


def ops_results(arguments: dict[str, Any], cotangents: tuple[Tensor, Tensor]) -> Results:
    """Output, h_n and every gradient, from the two ops."""
    options = _enumerated(arguments)
    x, hx, weights, bias, batch_sizes, *rest = options.values()
    output, h_n, gates, normal, scale = _ops.variant(*options.values(), True, _ops.tf32(x))
    update, reset_state = arguments["update"], arguments["reset_state"]
    grads = _ops.variant_backward(
        *cotangents,
        x,
        hx,
        output,
        gates,
        normal,
        scale,
        weights,
        bias,
        batch_sizes,
        *rest,
        True,
        True,
        update is not None,
        reset_state is not None,
        _ops.tf32(x),
    )
    names = ["hx", "x", *(f"weights[{i}]" for i in range(len(weights)))]
    names += ["update"] if update is not None else []
    names += ["reset_state"] if reset_state is not None else []
    found = dict(zip(names, grads, strict=True))
    if update is not None:
        found["update"] = _like_update(found["update"], update)
    return {"output": output, "h_n": h_n, **{f"grad {name}": grad for name, grad in found.items()}}


def reference_results(
    arguments: dict[str, Any], cotangents: tuple[Tensor, Tensor], dtype: torch.dtype = torch.float64
) -> Results:
    """The same by automatic differentiation of the reference, in a dtype of its own."""
    given = dict(arguments)
    given["weights"] = [weight.detach().to(dtype).requires_grad_() for weight in given["weights"]]
    leaves = {}
    for name in ("hx", "x", "weights", "update", "reset_state"):  # in the order of the op's gradients
        if name == "weights":
            leaves |= {f"weights[{i}]": weight for i, weight in enumerate(given["weights"])}
        elif given[name] is not None:
            given[name] = leaves[name] = given[name].detach().to(dtype).requires_grad_()
    if given["dropout"] is not None:
        given["dropout"] = given["dropout"].to(dtype)
    if given["lengths"] is not None and given["recurrence"].startswith("norm"):
        given["x"] = reference_variants.alive_only(given["x"], given["lengths"])
    output, h_n = reference_variants.layer(**given)
    grads = torch.autograd.grad((output, h_n), list(leaves.values()), [y.to(dtype) for y in cotangents])
    results = {"output": output.detach(), "h_n": h_n.detach()}
    return results | {f"grad {name}": grad for name, grad in zip(leaves, grads, strict=True)}


def _enumerated(arguments: dict[str, Any]) -> dict[str, Any]:
    places = list(ACTIVATIONS)
    return arguments | {
        "recurrence": RECURRENCES.index(arguments["recurrence"]),
        "gate": places.index(arguments["gate"]),
        "candidate": places.index(arguments["candidate"]),
    }


def _like_update(grad: Tensor, update: Tensor) -> Tensor:
    grad = grad.reshape(*update.shape[:-1], grad.shape[-1])
    return grad.sum(-1, keepdim=True) if update.shape[-1] == 1 else grad

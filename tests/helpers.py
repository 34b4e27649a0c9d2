"""What the tests share: the shapes to try, runs that collect every gradient, and how an error is judged."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_sequence

import gru_fused
from gru_fused import reference

DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
LOW_DTYPES = DTYPES[1:]  # those whose error a float64 run can measure

Input = Tensor | PackedSequence
Results = dict[str, Tensor]
Module = TypeVar("Module", bound=nn.Module)


def dtype_id(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


@dataclass(frozen=True)
class Case:
    """One GRU and the shape of its input. ``B=None`` is unbatched; ``lengths`` makes it packed and replaces T and B."""

    T: int = 5
    B: int | None = 3
    I: int = 4  # noqa: E741 - the letter of the formulas
    H: int = 6
    layers: int = 1
    bidirectional: bool = False
    bias: bool = True
    batch_first: bool = False
    hx: bool = True
    lengths: tuple[int, ...] | None = None

    def __str__(self) -> str:
        shape = f"T{self.T}-B{self.B}" if self.B is not None else f"T{self.T}-unbatched"
        if self.lengths is not None:
            shape = "lengths" + "_".join(map(str, self.lengths))
        words = {
            f"{self.layers}layers": self.layers > 1,
            "bidirectional": self.bidirectional,
            "nobias": not self.bias,
            "batch_first": self.batch_first,
            "nohx": not self.hx,
        }
        return "-".join([shape, f"I{self.I}", f"H{self.H}", *(word for word, said in words.items() if said)])

    @property
    def directions(self) -> int:
        return 2 if self.bidirectional else 1

    def module(self, cls: Callable[..., Module], dtype: torch.dtype = torch.float64) -> Module:
        return cls(
            self.I,
            self.H,
            num_layers=self.layers,
            bias=self.bias,
            batch_first=self.batch_first,
            bidirectional=self.bidirectional,
            dtype=dtype,
        )

    def shapes(self) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
        """Shapes of a padded input, of its output, and of hx and h_n."""
        time = (self.T,) if self.B is None else (self.B, self.T) if self.batch_first else (self.T, self.B)
        batch = () if self.B is None else (self.B,)
        return (*time, self.I), (*time, self.directions * self.H), (self.layers * self.directions, *batch, self.H)

    def inputs(self, dtype: torch.dtype = torch.float64, scale: float = 1.0) -> tuple[Input, Tensor | None]:
        """Random values; a large scale leaves hx alone, as no state of a GRU is large."""
        if self.lengths is not None:
            return self._packed_inputs(dtype)
        x_shape, _, h_shape = self.shapes()
        x = scale * torch.randn(x_shape, dtype=dtype)
        return x, (min(scale, 1) * torch.randn(h_shape, dtype=dtype) if self.hx else None)

    def _packed_inputs(self, dtype: torch.dtype) -> tuple[PackedSequence, Tensor | None]:
        assert self.lengths is not None
        x = pack_sequence([torch.randn(n, self.I, dtype=dtype) for n in self.lengths], enforce_sorted=False)
        h_shape = (self.layers * self.directions, len(self.lengths), self.H)
        return x, (torch.randn(h_shape, dtype=dtype) if self.hx else None)

    def cotangents(self, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
        """Random ones, for output and h_n: a gradient of a plain sum hides errors that cancel."""
        if self.lengths is not None:
            out_shape: tuple[int, ...] = (sum(self.lengths), self.directions * self.H)
            h_shape: tuple[int, ...] = (self.layers * self.directions, len(self.lengths), self.H)
        else:
            _, out_shape, h_shape = self.shapes()
        return torch.randn(out_shape, dtype=dtype), torch.randn(h_shape, dtype=dtype)


# Sizes that don't fit any tile, vector or thread count.
AWKWARD = [
    Case(T=1, B=1, I=1, H=1),
    Case(T=2, B=3, I=1, H=7),
    Case(T=63, B=3, I=5, H=7),
    Case(T=63, B=17, I=1, H=1, bidirectional=True),
    Case(T=3, B=17, I=4, H=130),
    Case(T=2, B=3, I=10, H=500),
    Case(T=2, B=21, I=270, H=290),  # a panel of the backward in more slices than gates
    Case(T=63, B=1, I=16, H=33, layers=2),
    Case(T=1, B=17, I=33, H=32, bidirectional=True, bias=False),
    Case(T=2, B=1, I=3, H=130, layers=3, bidirectional=True),
    Case(T=3, B=17, I=7, H=7, layers=3, batch_first=True, hx=False),
    Case(T=7, B=3, I=130, H=7, layers=2, bidirectional=True, batch_first=True),
    Case(T=2, B=None, I=1, H=7, layers=2, bidirectional=True),
    Case(T=63, B=None, I=3, H=5, batch_first=True, bias=False, hx=False),
    Case(T=3, B=190, I=3, H=9, bidirectional=True),  # three tiles of up to 64 rows
    Case(T=4, B=0, I=3, H=5),
    Case(T=3, B=0, I=3, H=5, layers=2, bidirectional=True, batch_first=True, hx=False),
]

PACKED = [
    Case(lengths=(3, 5, 1)),
    Case(lengths=(1,), layers=2, hx=False),
    Case(lengths=(2, 2, 2), bidirectional=True),
    Case(lengths=(1, 7, 4, 4, 2), layers=2, bidirectional=True),
    Case(lengths=(9, 3, 63, 1), I=1, H=7, layers=3, bias=False),
    Case(lengths=(5, 4, 3, 2, 1), H=33, bidirectional=True, bias=False, hx=False),
    Case(lengths=(4, 6), I=3, H=130, batch_first=True),
]

# Every combination of the options, at one small size.
OPTIONS = [
    Case(T=3, B=batch, I=3, H=5, layers=layers, bidirectional=two, bias=bias, batch_first=first, hx=hx)
    for layers, two, bias, first, hx, batch in product(
        (1, 2, 3), (False, True), (True, False), (False, True), (True, False), (2, None)
    )
]


class ReferenceGRU(nn.GRU):
    """nn.GRU with the arithmetic of ``gru_fused.reference``."""

    def forward(self, input: Input, hx: Tensor | None = None) -> tuple[Input, Tensor]:
        if isinstance(input, PackedSequence):
            data, batch_sizes, order, back = input
            hx = hx if hx is None or order is None else hx[:, order]
            output, h_n = self._reference(data, hx, batch_sizes=batch_sizes)
            return PackedSequence(output, batch_sizes, order, back), (h_n if back is None else h_n[:, back])
        if input.dim() == 3:
            return self._reference(input, hx, batch_first=self.batch_first)
        output, h_n = self._reference(input.unsqueeze(1), None if hx is None else hx.unsqueeze(1))
        return output.squeeze(1), h_n.squeeze(1)

    def _reference(self, x: Tensor, hx: Tensor | None, **options: Tensor | bool) -> tuple[Tensor, Tensor]:
        assert self.dropout == 0
        return reference.gru(
            x,
            hx,
            list(self.parameters()),
            bias=self.bias,
            num_layers=self.num_layers,
            bidirectional=self.bidirectional,
            **options,
        )


def twin(rnn: nn.RNNBase, cls: type[Module], dtype: torch.dtype | None = None) -> Module:
    """A module of another class with the same options, values, dtype (or the given one) and mode."""
    weight = rnn.weight_ih_l0
    other = cls(
        rnn.input_size,
        rnn.hidden_size,
        num_layers=rnn.num_layers,
        bias=rnn.bias,
        batch_first=rnn.batch_first,
        dropout=rnn.dropout,
        bidirectional=rnn.bidirectional,
        dtype=dtype or weight.dtype,
    )
    other.load_state_dict(rnn.state_dict())
    return other.train(rnn.training)


def leaf(x: Tensor) -> Tensor:
    """A tensor of the same values and strides that collects its own gradient."""
    return x.detach().requires_grad_()


def data_of(x: Input) -> Tensor:
    return x.data if isinstance(x, PackedSequence) else x


def with_data(x: Input, data: Tensor) -> Input:
    """The same input, or packed input, with other values."""
    if isinstance(x, PackedSequence):
        return PackedSequence(data, x.batch_sizes, x.sorted_indices, x.unsorted_indices)
    return data


def forward(rnn: nn.Module, x: Input, hx: Tensor | None, dtype: torch.dtype | None = None) -> Results:
    """Output and h_n as inference computes them; with a dtype, of the same values in that dtype."""
    dtype = dtype or data_of(x).dtype
    with torch.no_grad():
        output, h_n = rnn(with_data(x, data_of(x).to(dtype)), None if hx is None else hx.to(dtype))
    return {"output": data_of(output), "h_n": h_n}


def run(
    rnn: nn.Module,
    x: Input,
    hx: Tensor | None,
    cotangents: tuple[Tensor | None, Tensor | None],
    dtype: torch.dtype | None = None,
) -> Results:
    """Output, h_n, gradients of input, hx and every parameter, for cotangents of output and h_n (None: unused)."""
    dtype = dtype or data_of(x).dtype
    data = leaf(data_of(x).to(dtype))
    hx = None if hx is None else leaf(hx.to(dtype))
    output, h_n = rnn(with_data(x, data), hx)
    results = {"output": data_of(output), "h_n": h_n}
    wanted = {"input": data, **({} if hx is None else {"hx": hx}), **dict(rnn.named_parameters())}
    used = [(y, c.to(dtype)) for y, c in zip(results.values(), cotangents, strict=True) if c is not None]
    gradients = torch.autograd.grad(
        [y for y, _ in used], list(wanted.values()), [c for _, c in used], allow_unused=True, materialize_grads=True
    )
    results = {name: y.detach() for name, y in results.items()}
    return {**results, **{f"grad of {name}": g for name, g in zip(wanted, gradients, strict=True)}}


def _same_form(ours: Results, theirs: Results) -> None:
    assert list(ours) == list(theirs)
    for name in ours:
        assert ours[name].shape == theirs[name].shape, f"{name}: {ours[name].shape} is not {theirs[name].shape}"
        assert ours[name].dtype == theirs[name].dtype, f"{name}: {ours[name].dtype} is not {theirs[name].dtype}"


def _largest(x: Tensor) -> float:
    return x.abs().max().item() if x.numel() else 0.0


def _rms(x: Tensor) -> float:
    return x.square().mean().sqrt().item() if x.numel() else 0.0


def assert_equal_to_rounding(ours: Results, truth: Results, eps: float = 1e-13) -> None:
    """float64 against float64: every element within eps of the scale of its tensor. No formula error is that small."""
    _same_form(ours, truth)
    for name in truth:
        error, scale = _largest(ours[name] - truth[name]), _largest(truth[name])
        assert error <= eps * scale, f"{name}: error {error:.2e} at scale {scale:.2e}"


def assert_as_good_as(ours: Results, theirs: Results, truth: Results, floor: float = 1.0) -> None:
    """The error of ours is at most twice that of theirs, both measured against float64, in the root mean square.

    ``floor`` eps at the tensor's scale are free, as theirs may be exact. The largest error is luck, so it is allowed
    more: that finds a few wrong elements among many.
    """
    _same_form(ours, theirs)
    for name in truth:
        for measure, factor, free in ((_rms, 2, floor), (_largest, 4, 4 * floor)):
            eps = torch.finfo(theirs[name].dtype).eps * measure(truth[name])
            error, other = measure(ours[name].double() - truth[name]), measure(theirs[name].double() - truth[name])
            text = f"{name}: {measure.__name__[1:]} error {error:.2e}, theirs {other:.2e}, eps at scale {eps:.2e}"
            assert error <= factor * other + free * eps, text


def pooled(draws: Sequence[Results]) -> Results:
    """The results of several draws as one: the error of a handful of numbers says little of a method."""
    return {name: torch.stack([draw[name] for draw in draws]) for name in draws[0]}


def assert_gru_as_good(
    case: Case,
    dtype: torch.dtype,
    *,
    gradients: bool,
    scale: float = 1.0,
    made: Callable[..., gru_fused.GRU] = gru_fused.GRU,
) -> None:
    """``gru_fused.GRU`` against nn.GRU over several draws of weights, inputs and cotangents, in one dtype."""
    ours, theirs, truth = [], [], []
    for _ in range(8 if case.H > 1 else 32):  # the fewer the numbers, the more of them
        rnn = case.module(made, dtype)
        given = case.inputs(dtype, scale)
        compute = partial(run, cotangents=case.cotangents(dtype)) if gradients else forward
        ours.append(compute(rnn, *given))
        theirs.append(compute(twin(rnn, nn.GRU), *given))
        truth.append(compute(twin(rnn, ReferenceGRU, torch.float64), *given, dtype=torch.float64))
    assert_as_good_as(pooled(ours), pooled(theirs), pooled(truth))


def assert_equal_to_reference(case: Case) -> None:
    """Results and all gradients in float64, for random cotangents, are the reference's."""
    ours = case.module(gru_fused.GRU)
    x, hx = case.inputs()
    cotangents = case.cotangents()
    truth = run(twin(ours, ReferenceGRU), x, hx, cotangents)
    assert_equal_to_rounding(run(ours, x, hx, cotangents), truth, eps=1e-12)


def assert_right_without_inputs() -> None:
    """The gradients of a GRUCell(0, H) are those of nn.GRUCell."""
    ours, theirs = gru_fused.GRUCell(0, 4, dtype=torch.float64), nn.GRUCell(0, 4, dtype=torch.float64)
    theirs.load_state_dict(ours.state_dict())
    x, hx, c = torch.empty(3, 0).double(), torch.randn(3, 4).double(), torch.randn(3, 4).double()
    results = [torch.autograd.grad(cell(x, hx), list(cell.parameters()), c) for cell in (ours, theirs)]
    for mine, truth in zip(*results, strict=True):
        torch.testing.assert_close(mine, truth, rtol=1e-12, atol=1e-14)


def outcome(call: Callable[[], object]) -> tuple[str, str]:
    """Type and message of the exception that a call raises; a call that returns fails the test."""
    try:
        result = call()
    except Exception as error:  # any type, because the tests compare it
        return type(error).__name__, str(error)
    raise AssertionError(f"nothing was raised; the call returned {result!r}")

"""Construction: the same arguments are taken, the same ones refused, in the same words, as by nn.GRU and nn.GRUCell."""

from __future__ import annotations

import re
import warnings
from typing import Any

import pytest
import torch
from helpers import outcome
from torch import nn

import gru_fused

Arguments = tuple[tuple[Any, ...], dict[str, Any]]


def arguments(*args: Any, **kwargs: Any) -> Arguments:
    return args, kwargs


def spelled(given: Arguments) -> str:
    args, kwargs = given
    return "-".join([*map(str, args), *(f"{name}={value}" for name, value in kwargs.items())]) or "nothing"


ACCEPTED = [
    arguments(3, 4),
    arguments(input_size=3, hidden_size=4),
    arguments(3, 4, 2, False, True, 0.5, True),
    arguments(3, 4, num_layers=3, bias=False, batch_first=True, dropout=0.25, bidirectional=True),
    arguments(3, 4, 1, True, False, 0.0, False, 0),  # nn.GRU passes its eighth argument on as proj_size
    arguments(3, 4, 1, True, False, 0.0, False, 0, "meta", torch.float64),
    arguments(3, 4, device="meta", dtype=torch.bfloat16),
    arguments(3, 4, device=torch.device("cpu"), dtype=torch.float64),
    arguments(3, 4, 2, dropout=0),
    arguments(3, 4, 2, dropout=1),
    arguments(3, 4, 2, dropout=1.0),
    arguments(3, 4, num_layers=True),
    arguments(3, 4, bidirectional=1),
    arguments(True, 4),
]

# The arguments and the text that docs and users know; None where only nn.GRU's own text counts.
REFUSED = [
    (arguments(3, 4, proj_size=2), ValueError, "proj_size argument is only supported for LSTM, not RNN or GRU"),
    (arguments(3, 4, proj_size=0), ValueError, "proj_size argument is only supported for LSTM, not RNN or GRU"),
    (arguments(3, 4, dropout=-0.1), ValueError, "dropout should be a number in range [0, 1] representing"),
    (arguments(3, 4, 2, dropout=1.1), ValueError, "dropout should be a number in range [0, 1] representing"),
    (arguments(3, 4, dropout=float("nan")), ValueError, "dropout should be a number in range [0, 1] representing"),
    (arguments(3, 4, dropout=True), ValueError, "dropout should be a number in range [0, 1] representing"),
    (arguments(3, 4, dropout=False), ValueError, "dropout should be a number in range [0, 1] representing"),
    (arguments(3, 4, dropout="half"), ValueError, None),
    (arguments(3, 4, dropout=None), TypeError, None),
    (arguments(3, 4, bias=1), TypeError, "bias should be of type bool, got: int"),
    (arguments(3, 4, bias="yes"), TypeError, "bias should be of type bool, got: str"),
    (arguments(3, 4, bias=None), TypeError, "bias should be of type bool, got: NoneType"),
    (arguments(3, 4, batch_first=0), TypeError, "batch_first should be of type bool, got: int"),
    (arguments(3, 4, batch_first="no"), TypeError, "batch_first should be of type bool, got: str"),
    (arguments(3.0, 4), TypeError, "input_size should be of type int, got: float"),
    (arguments("3", 4), TypeError, "input_size should be of type int, got: str"),
    (arguments(3, 4.0), TypeError, "hidden_size should be of type int, got: float"),
    (arguments(3, [4]), TypeError, "hidden_size should be of type int, got: list"),
    (arguments(0, 4), ValueError, "input_size must be greater than zero"),
    (arguments(-3, 4), ValueError, "input_size must be greater than zero"),
    (arguments(3, 0), ValueError, "hidden_size must be greater than zero"),
    (arguments(3, -4), ValueError, "hidden_size must be greater than zero"),
    (arguments(3, 4, 0), ValueError, "num_layers must be greater than zero"),
    (arguments(3, 4, -1), ValueError, "num_layers must be greater than zero"),
    (arguments(3, 4, 1.5), TypeError, None),
    (arguments(), TypeError, None),
    (arguments(3), TypeError, None),
    (arguments(3, 4, nonlinearity="tanh"), TypeError, None),
    (arguments(3, 4, hidden_size=4), TypeError, None),
]

CELL_ACCEPTED = [
    arguments(3, 4),
    arguments(input_size=3, hidden_size=4, bias=False),
    arguments(3, 4, False),
    arguments(3, 4, True, "meta", torch.float64),
    arguments(3, 4, bias=0),
    arguments(3, 4, bias="yes"),  # bias isn't type-checked
    arguments(3, 0),
    arguments(0, 4),
    arguments(3, 4, device="cpu", dtype=torch.bfloat16),
]

CELL_REFUSED = [
    arguments(),
    arguments(3),
    arguments(3, -4),
    arguments(3.0, 4),
    arguments(3, 4, nonlinearity="tanh"),
    arguments(3, 4, num_layers=1),
    arguments(3, 4, proj_size=0),
]


def without_class(message: str) -> str:
    """A wrong call is reported under the name of the function whose signature refused it."""
    return re.sub(r"\w+\.__init__\(\)", "__init__()", message)


def form(module: nn.Module) -> dict[str, tuple[torch.Size, torch.dtype, torch.device]]:
    return {name: (p.shape, p.dtype, p.device) for name, p in module.named_parameters()}


@pytest.mark.parametrize("given", ACCEPTED, ids=spelled)
def test_gru_accepts(given: Arguments) -> None:
    args, kwargs = given
    ours, theirs = gru_fused.GRU(*args, **kwargs), nn.GRU(*args, **kwargs)
    assert form(ours) == form(theirs)
    assert repr(ours) == repr(theirs)
    assert ours.extra_repr() == theirs.extra_repr()
    for name in nn.RNNBase.__constants__:
        assert getattr(ours, name) == getattr(theirs, name), name
        assert type(getattr(ours, name)) is type(getattr(theirs, name)), name


@pytest.mark.parametrize("given, error, text", REFUSED, ids=[spelled(row[0]) for row in REFUSED])
def test_gru_refuses(given: Arguments, error: type[Exception], text: str | None) -> None:
    args, kwargs = given
    ours = outcome(lambda: gru_fused.GRU(*args, **kwargs))
    theirs = outcome(lambda: nn.GRU(*args, **kwargs))
    assert ours[0] == theirs[0] == error.__name__
    assert without_class(ours[1]) == without_class(theirs[1])
    assert text is None or text in ours[1]


def test_gru_refuses_projections_by_position() -> None:
    """nn.GRU builds a module that can't run; the words are those for the keyword."""
    keyword = outcome(lambda: nn.GRU(3, 4, proj_size=2))
    assert outcome(lambda: gru_fused.GRU(3, 4, 1, True, False, 0.0, False, 2)) == keyword


@pytest.mark.parametrize("given", CELL_ACCEPTED, ids=spelled)
def test_cell_accepts(given: Arguments) -> None:
    args, kwargs = given
    ours, theirs = gru_fused.GRUCell(*args, **kwargs), nn.GRUCell(*args, **kwargs)
    assert form(ours) == form(theirs)
    assert repr(ours) == repr(theirs)
    assert set(ours._parameters) == set(theirs._parameters) == {"weight_ih", "weight_hh", "bias_ih", "bias_hh"}
    assert (ours.input_size, ours.hidden_size, ours.bias) == (theirs.input_size, theirs.hidden_size, theirs.bias)


@pytest.mark.parametrize("given", CELL_REFUSED, ids=spelled)
def test_cell_refuses(given: Arguments) -> None:
    args, kwargs = given
    ours = outcome(lambda: gru_fused.GRUCell(*args, **kwargs))
    theirs = outcome(lambda: nn.GRUCell(*args, **kwargs))
    assert ours[0] == theirs[0]
    assert without_class(ours[1]) == without_class(theirs[1])


@pytest.mark.parametrize("dropout, layers, warned", [(0.5, 1, True), (1, 1, True), (0.5, 2, False), (0.0, 1, False)])
def test_dropout_of_one_layer_warns(dropout: float, layers: int, warned: bool) -> None:
    def texts(cls: type[nn.Module]) -> list[tuple[type[Warning], str]]:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            cls(3, 4, num_layers=layers, dropout=dropout)
        return [(w.category, str(w.message)) for w in caught]

    ours = texts(gru_fused.GRU)
    assert ours == texts(nn.GRU)
    assert len(ours) == warned
    if warned:
        category, text = ours[0]
        assert category is UserWarning
        assert text.startswith("dropout option adds dropout after all but last recurrent layer")


def test_base_classes() -> None:
    assert issubclass(gru_fused.GRU, nn.RNNBase)
    assert not issubclass(gru_fused.GRU, nn.GRU), "dynamo refuses subclasses of nn.GRU"
    assert issubclass(gru_fused.GRUCell, nn.RNNCellBase)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)
def test_default_dtype_is_followed(dtype: torch.dtype) -> None:
    torch.set_default_dtype(dtype)
    for module in (gru_fused.GRU(3, 4), gru_fused.GRUCell(3, 4)):
        assert {p.dtype for p in module.parameters()} == {dtype}


def test_default_device_is_followed() -> None:
    with torch.device("meta"):
        for module in (gru_fused.GRU(3, 4), gru_fused.GRUCell(3, 4)):
            assert {p.device.type for p in module.parameters()} == {"meta"}


@pytest.mark.parametrize("given", ACCEPTED[:7], ids=spelled)
def test_same_seed_same_parameters(given: Arguments) -> None:
    args, kwargs = given
    modules = []
    for cls in (gru_fused.GRU, nn.GRU):
        torch.manual_seed(3)
        modules.append(cls(*args, **kwargs))
    for (name, ours), theirs in zip(modules[0].named_parameters(), modules[1].parameters(), strict=True):
        assert ours.is_meta or torch.equal(ours, theirs), name


def test_same_seed_same_cell_parameters() -> None:
    cells = []
    for cls in (gru_fused.GRUCell, nn.GRUCell):
        torch.manual_seed(3)
        cells.append(cls(3, 4))
    assert all(torch.equal(a, b) for a, b in zip(cells[0].parameters(), cells[1].parameters(), strict=True))


@pytest.mark.parametrize("module", [gru_fused.GRU(20, 49, 2, bidirectional=True), gru_fused.GRUCell(20, 49)], ids=repr)
def test_reset_parameters_draws_uniformly(module: nn.Module) -> None:
    """U(-1/sqrt(H), 1/sqrt(H)) = U(-1/7, 1/7): the bounds are nearly reached, the moments are the uniform's."""
    with torch.no_grad():
        for p in module.parameters():
            p.fill_(9)
    module.reset_parameters()
    values = torch.cat([p.detach().flatten() for p in module.parameters()]) * 7
    assert values.abs().max() <= 1
    assert values.abs().max() > 0.999
    count = len(values) ** 0.5
    assert values.mean().abs() < 4 * (1 / 3) ** 0.5 / count
    assert (values.square().mean() - 1 / 3).abs() < 4 * (4 / 45) ** 0.5 / count

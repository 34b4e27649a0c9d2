"""torch's own checks of nn.GRU and nn.GRUCell, from the samples and error inputs in its wheel, on our classes.

torch marks several of them as expected failures for its CUDA GRU; here all pass, unmarked.
"""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from helpers import dtype_id, leaf
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence
from torch.testing._internal.common_modules import (
    ErrorModuleInput,
    ModuleErrorEnum,
    ModuleInfo,
    ModuleInput,
    module_error_inputs_torch_nn_RNN_GRU,
    module_error_inputs_torch_nn_RNN_GRU_Cell,
    module_inputs_torch_nn_RNN_GRU,
    module_inputs_torch_nn_RNN_GRU_Cell,
)
from torch.utils._pytree import tree_flatten, tree_unflatten

import gru_fused

pytestmark = pytest.mark.usefixtures("poisoned")

GRU = ModuleInfo(
    gru_fused.GRU,
    train_and_eval_differ=True,
    module_inputs_func=partial(module_inputs_torch_nn_RNN_GRU, is_rnn=False, with_packed_sequence=True),
    module_error_inputs_func=module_error_inputs_torch_nn_RNN_GRU,
)
CELL = ModuleInfo(
    gru_fused.GRUCell,
    module_inputs_func=module_inputs_torch_nn_RNN_GRU_Cell,
    module_error_inputs_func=module_error_inputs_torch_nn_RNN_GRU_Cell,
)
DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]


def samples(info: ModuleInfo, dtype: torch.dtype, training: bool, requires_grad: bool = False) -> list[ModuleInput]:
    torch.manual_seed(0)
    return list(
        info.module_inputs_func(info, device="cpu", dtype=dtype, requires_grad=requires_grad, training=training)
    )


def is_packed(sample: ModuleInput) -> bool:
    return any(isinstance(x, PackedSequence) for x in sample.forward_input.args)


def each_sample(test: Callable[..., None]) -> Callable[..., None]:
    """Run a test as (info, index of a sample) over all samples of both classes, named by the sample's options."""
    rows, names = [], []
    for info, word in ((GRU, "GRU"), (CELL, "GRUCell")):
        for index, sample in enumerate(samples(info, torch.float64, True)):
            given = sample.constructor_input
            options = [*map(str, given.args), *(f"{k}={v}" for k, v in given.kwargs.items() if "size" not in k)]
            options += ["packed" if is_packed(sample) else f"{len(sample.forward_input.args)}inputs", str(index)]
            rows.append((info, index))
            names.append("-".join([word, *options]))
    return pytest.mark.parametrize("info, index", rows, ids=names)(test)


def build(info: ModuleInfo, sample: ModuleInput, dtype: torch.dtype, training: bool = True) -> nn.Module:
    given = sample.constructor_input
    torch.manual_seed(1)
    return info.module_cls(*given.args, **given.kwargs, device="cpu", dtype=dtype).train(training)


def call(module: nn.Module, sample: ModuleInput) -> Any:
    return module(*sample.forward_input.args, **sample.forward_input.kwargs)


def tensors(tree: Any) -> list[Tensor]:
    return [x for x in tree_flatten(tree)[0] if isinstance(x, Tensor) and x.is_floating_point()]


def close(ours: Any, theirs: Any, **tolerances: float) -> None:
    torch.testing.assert_close(tensors(ours), tensors(theirs), **tolerances)


@each_sample
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("dtype", DTYPES, ids=dtype_id)
def test_forward(info: ModuleInfo, index: int, dtype: torch.dtype, training: bool) -> None:
    """As nn's, and as the sample's own reference function: the module at batch size 1, for samples with no batch."""
    sample = samples(info, dtype, training)[index]
    module = build(info, sample, dtype, training)
    original = (nn.GRU if info is GRU else nn.GRUCell)(
        *sample.constructor_input.args, **sample.constructor_input.kwargs, dtype=dtype
    ).train(training)
    original.load_state_dict(module.state_dict())
    output = call(module, sample)
    # The samples' values, and so the states, are up to 9 in magnitude.
    tolerances = {"rtol": 8 * torch.finfo(dtype).eps, "atol": 8 * torch.finfo(dtype).eps}
    close(output, call(original, sample), **tolerances)
    if not is_packed(sample):
        expected = sample.reference_fn(module, *sample.forward_input.args, **sample.forward_input.kwargs)
        close(output, expected, **tolerances)


@each_sample
def test_factory_arguments(info: ModuleInfo, index: int) -> None:
    given = samples(info, torch.float64, True)[index].constructor_input
    for dtype in DTYPES:
        assert {p.dtype for p in info.module_cls(*given.args, **given.kwargs, dtype=dtype).parameters()} == {dtype}
    on_meta = info.module_cls(*given.args, **given.kwargs, device="meta", dtype=torch.float64)
    assert all(p.is_meta and p.dtype == torch.float64 for p in on_meta.parameters())


@each_sample
def test_repr(info: ModuleInfo, index: int) -> None:
    module = build(info, samples(info, torch.float64, True)[index], torch.float64)
    assert repr(module) == str(module)
    assert repr(module).startswith(info.module_cls.__name__ + "(")


@each_sample
def test_pickle(info: ModuleInfo, index: int) -> None:
    sample = samples(info, torch.float64, True)[index]
    module = build(info, sample, torch.float64)
    output = call(module, sample)
    restored = pickle.loads(pickle.dumps(module))
    assert type(restored) is info.module_cls
    assert all(torch.equal(a, b) for a, b in zip(tensors(call(restored, sample)), tensors(output), strict=True))


@each_sample
def test_state_dict(info: ModuleInfo, index: int) -> None:
    sample = samples(info, torch.float64, True)[index]
    module = build(info, sample, torch.float64)
    torch.manual_seed(2)
    other = info.module_cls(*sample.constructor_input.args, **sample.constructor_input.kwargs, dtype=torch.float64)
    assert not torch.equal(tensors(call(other, sample))[0], tensors(call(module, sample))[0])
    other.load_state_dict(module.state_dict(), strict=True)
    close(call(other, sample), call(module, sample), rtol=0, atol=0)


@each_sample
def test_deepcopy(info: ModuleInfo, index: int) -> None:
    sample = samples(info, torch.float64, True)[index]
    module = build(info, sample, torch.float64)
    clone = copy.deepcopy(module)
    before = call(module, sample)
    with torch.no_grad():
        for p in module.parameters():
            p.zero_()
    close(call(clone, sample), before, rtol=0, atol=0)
    assert not torch.equal(tensors(call(module, sample))[0], tensors(before)[0])


def sparse_strides(x: Tensor) -> Tensor:
    """The same values, every second element of a longer row, over a buffer full of NaN."""
    wide = x.new_full((*x.shape, 2), float("nan"))
    wide[..., 0] = x.detach()
    return wide[..., 0]


@each_sample
def test_non_contiguous_tensors(info: ModuleInfo, index: int) -> None:
    """Inputs, parameters and cotangents with gaps give the results and gradients of contiguous ones."""
    sample = samples(info, torch.float64, True)[index]
    module = build(info, sample, torch.float64)
    flat, spec = tree_flatten(sample.forward_input.args)

    def results(layout: Callable[[Tensor], Tensor]) -> tuple[Tensor, ...]:
        given = [leaf(layout(x)) if x is not None and x.is_floating_point() else x for x in flat]
        for p in module.parameters():
            p.data = layout(p.data.contiguous())
        outputs = tensors(module(*tree_unflatten(given, spec)))
        torch.manual_seed(4)
        cotangents = [layout(torch.randn_like(y.detach().contiguous())) for y in outputs]
        wanted = [*tensors(given), *module.parameters()]
        return (*outputs, *torch.autograd.grad(outputs, wanted, cotangents))

    plain, strided = results(torch.clone), results(sparse_strides)
    assert not all(p.is_contiguous() for p in module.parameters())
    torch.testing.assert_close(strided, plain, rtol=1e-11, atol=1e-13)


def gradient_arguments(info: ModuleInfo, index: int) -> tuple[Callable[..., Any], tuple[Tensor, ...]]:
    """The module of a sample as a function of all its floating inputs and parameters."""
    sample = samples(info, torch.float64, True)[index]
    module = build(info, sample, torch.float64)
    flat, spec = tree_flatten(sample.forward_input.args)
    places = [i for i, x in enumerate(flat) if x is not None and x.is_floating_point()]
    names = [name for name, _ in module.named_parameters()]

    def function(*values: Tensor) -> Any:
        given = list(flat)
        for place, value in zip(places, values, strict=False):
            given[place] = value
        parameters = dict(zip(names, values[len(places) :], strict=True))
        return tuple(tensors(torch.func.functional_call(module, parameters, tree_unflatten(given, spec))))

    values = tuple(leaf(x.clone()) for x in [*(flat[i] for i in places), *module.parameters()])
    return function, values


@each_sample
def test_grad(info: ModuleInfo, index: int) -> None:
    function, values = gradient_arguments(info, index)
    assert torch.autograd.gradcheck(function, values, fast_mode=True)


@each_sample
def test_gradgrad(info: ModuleInfo, index: int) -> None:
    function, values = gradient_arguments(info, index)
    assert torch.autograd.gradgradcheck(function, values, fast_mode=True)


ERRORS = [
    pytest.param(info, index, dtype, id=f"{word}-{dtype_id(dtype)}-{index}-{error.error_type.__name__}")
    for info, word in ((GRU, "GRU"), (CELL, "GRUCell"))
    for dtype in (torch.float32, torch.float64)
    for index, error in enumerate(
        info.module_error_inputs_func(info, device="cpu", dtype=dtype, requires_grad=False, training=False)
    )
]


@pytest.mark.parametrize("info, index, dtype", ERRORS)
def test_errors(info: ModuleInfo, index: int, dtype: torch.dtype) -> None:
    errors: list[ErrorModuleInput] = info.module_error_inputs_func(
        info, device="cpu", dtype=dtype, requires_grad=False, training=False
    )
    error = errors[index]
    given = error.module_error_input.constructor_input
    if error.error_on == ModuleErrorEnum.CONSTRUCTION_ERROR:
        with pytest.raises(error.error_type, match=error.error_regex):
            info.module_cls(*given.args, **given.kwargs)
        return
    module = info.module_cls(*given.args, **given.kwargs)
    with pytest.raises(error.error_type, match=error.error_regex):
        call(module, error.module_error_input)


def test_train_and_eval_differ() -> None:
    """Of a GRU with dropout, as torch's flag of that name says; without it they agree."""
    x = torch.randn(5, 3, 4)
    for dropout, differ in ((0.5, True), (0.0, False)):
        rnn = gru_fused.GRU(4, 6, 2, dropout=dropout)
        assert torch.equal(rnn(x)[0], rnn.eval()(x)[0]) != differ


def test_samples_are_there() -> None:
    """A torch that renames or drops its samples must not turn these tests into none."""
    assert len(samples(GRU, torch.float64, True)) >= 32
    assert len(samples(CELL, torch.float64, True)) >= 2
    assert len(ERRORS) >= 2 * (14 + 6)
    assert any(is_packed(sample) for sample in samples(GRU, torch.float64, True))

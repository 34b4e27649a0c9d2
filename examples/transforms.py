"""Which of torch's ways to differentiate, compile and ship a module work: ours and nn.GRU's, as a table.

    python -m examples.transforms

A check runs the transform on a small two-layer GRU and says what it raised, if anything. That the numbers are right is
for the tests to show.
"""

from __future__ import annotations

import contextlib
import logging
import os
import tempfile
import warnings
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.export import Dim
from torch.func import functional_call, grad, hessian, jacfwd, jacrev, jvp, stack_module_state, vmap
from torch.nn.utils.rnn import pack_sequence

import gru_fused
import gru_fused.onnx

Check = Callable[[type[nn.Module]], object]
CHECKS: dict[str, Check] = {}


def check(name: str) -> Callable[[Check], Check]:
    def add(function: Check) -> Check:
        CHECKS[name] = function
        return function

    return add


def made(cls: type[nn.Module]) -> tuple[nn.Module, Tensor]:
    return cls(3, 4, num_layers=2), torch.randn(5, 2, 3)


@check("double backward")
def _(cls: type[nn.Module]) -> None:
    rnn, x = made(cls)
    (slope,) = torch.autograd.grad(rnn(x.requires_grad_())[0].square().sum(), x, create_graph=True)
    slope.square().sum().backward()


@check("dual numbers (forward_ad)")
def _(cls: type[nn.Module]) -> None:
    rnn, x = made(cls)
    with forward_ad.dual_level():
        output, _ = rnn(forward_ad.make_dual(x, torch.ones_like(x)))
        assert forward_ad.unpack_dual(output).tangent is not None


@check("torch.func.jvp")
def _(cls: type[nn.Module]) -> None:
    rnn, x = made(cls)
    jvp(lambda x: rnn(x)[0], (x,), (x,))


@check("jacrev, jacfwd")
def _(cls: type[nn.Module]) -> None:
    rnn, x = made(cls)
    torch.testing.assert_close(jacrev(lambda x: rnn(x)[0])(x), jacfwd(lambda x: rnn(x)[0])(x))


@check("hessian")
def _(cls: type[nn.Module]) -> None:
    rnn, x = made(cls)
    hessian(lambda x: rnn(x)[0].sum())(x)


@check("vmap")
def _(cls: type[nn.Module]) -> None:
    rnn, x = made(cls)
    vmap(lambda x: rnn(x)[0])(x.expand(6, 5, 2, 3))


def per_sample(cls: type[nn.Module], compiled: bool = False) -> None:
    rnn, x = made(cls)
    parameters = {name: p.detach() for name, p in rnn.named_parameters()}
    gradients = vmap(grad(lambda p, x: functional_call(rnn, p, (x,))[0].sum()), in_dims=(None, 1))
    if compiled:
        torch._dynamo.reset()
        gradients = torch.compile(gradients, fullgraph=True)
    gradients(parameters, x)


@check("per-sample gradients, vmap(grad)")
def _(cls: type[nn.Module]) -> None:
    per_sample(cls)


@check("ensemble, stack_module_state")
def _(cls: type[nn.Module]) -> None:
    rnn, x = made(cls)
    parameters, buffers = stack_module_state([rnn, made(cls)[0]])
    vmap(lambda p, b: functional_call(rnn, (p, b), (x,))[0])(parameters, buffers)


def compiled(cls: type[nn.Module], dynamic: bool) -> None:
    torch._dynamo.reset()
    rnn, _ = made(cls)
    call = torch.compile(rnn, fullgraph=True)
    call(torch.randn(5, 2, 3))[0].sum().backward()
    if dynamic:
        call(torch.randn(6, 3, 3))[0].sum().backward()
        with torch.compiler.set_stance("fail_on_recompile"):
            call(torch.randn(9, 7, 3))[0].sum().backward()


@check("torch.compile(fullgraph=True), training")
def _(cls: type[nn.Module]) -> None:
    compiled(cls, dynamic=False)


@check("the same, other T and B without recompiling")
def _(cls: type[nn.Module]) -> None:
    compiled(cls, dynamic=True)


@check("torch.compile(fullgraph=True), packed")
def _(cls: type[nn.Module]) -> None:
    torch._dynamo.reset()
    torch.compile(made(cls)[0], fullgraph=True)(pack_sequence([torch.randn(n, 3) for n in (3, 1)]))


@check("torch.compile(fullgraph=True) of vmap(grad)")
def _(cls: type[nn.Module]) -> None:
    per_sample(cls, compiled=True)


def exported(cls: type[nn.Module], strict: bool) -> torch.export.ExportedProgram:
    rnn, x = made(cls)
    sizes = {0: Dim("T", min=2, max=99), 1: Dim("B", min=2, max=99)}
    return torch.export.export(rnn.eval(), (x,), dynamic_shapes=(sizes,), strict=strict)


@check("torch.export, strict, dynamic T and B")
def _(cls: type[nn.Module]) -> None:
    exported(cls, True)


@check("torch.export, non-strict, dynamic T and B")
def _(cls: type[nn.Module]) -> None:
    exported(cls, False)


@check("AOTInductor, dynamic T and B")
def _(cls: type[nn.Module]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = torch._inductor.aoti_compile_and_package(exported(cls, False), package_path=f"{folder}/gru.pt2")
        torch._inductor.aoti_load_package(path)(torch.randn(7, 4, 3))


@check("ONNX, dynamic T and B, one node a layer")
def _(cls: type[nn.Module]) -> None:
    rnn, x = made(cls)
    sizes = {0: Dim("T", min=2, max=99), 1: Dim("B", min=2, max=99)}
    options = dict(dynamo=True, dynamic_shapes=(sizes,), verbose=False)
    if cls is gru_fused.GRU:
        options["custom_translation_table"] = gru_fused.onnx.translations()
    program = torch.onnx.export(rnn.eval(), (x,), **options)
    nodes = [node.op_type for node in program.model.graph]
    assert nodes.count("GRU") == 2, f"{len(nodes)} nodes, {nodes.count('GRU')} of them GRU"


@contextlib.contextmanager
def quiet() -> object:
    """The exporters say at length what goes wrong; the table says it in a line."""
    logging.disable(logging.CRITICAL)
    with warnings.catch_warnings(), open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
        warnings.simplefilter("ignore")
        with contextlib.redirect_stderr(nowhere):
            yield
    logging.disable(logging.NOTSET)


def outcome(function: Check, cls: type[nn.Module]) -> str:
    """ "yes", or the first words of what was raised."""
    torch.manual_seed(0)
    try:
        with quiet():
            function(cls)
    except Exception as error:  # whatever it is, it is the answer
        text = " ".join(str(error).split())
        return f"{type(error).__name__}: {text[:70]}{'...' if len(text) > 70 else ''}"
    return "yes"


def main() -> None:
    print("| | gru_fused.GRU | nn.GRU |\n|---|---|---|")
    for name, function in CHECKS.items():
        ours, theirs = (outcome(function, cls) for cls in (gru_fused.GRU, nn.GRU))
        print(f"| {name} | {ours} | {theirs} |", flush=True)


if __name__ == "__main__":
    main()

"""What a CUDA user counts on beside the numbers: the current stream, graphs, the current device, torch.compile."""

from __future__ import annotations

import pytest
import torch
from compared import on
from helpers import Case, dtype_id, run, twin
from torch import Tensor, nn

import gru_fused

SIZES = [7, 130, 500, 1024]
SLEEP = 20_000_000  # cycles, about 10 ms: long enough for anything on another stream to come first


def made(H: int, device: torch.device) -> tuple[gru_fused.GRU, Tensor]:
    return gru_fused.GRU(9, H, device=device), torch.randn(6, 4, 9, device=device)


@pytest.mark.parametrize("H", SIZES)
def test_work_goes_to_the_current_stream(cuda: torch.device, H: int) -> None:
    rnn, x = made(H, cuda)
    late = torch.zeros_like(x)
    expected = gradients(rnn, x)
    torch.cuda.synchronize()
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        torch.cuda._sleep(SLEEP)
        late.copy_(x)  # whoever does not wait for this stream reads zeros
        results = gradients(rnn, late)
        results = [result.clone() for result in results]
    stream.synchronize()
    assert all(torch.equal(a, b) for a, b in zip(results, expected, strict=True))


def gradients(rnn: nn.Module, x: Tensor) -> tuple[Tensor, ...]:
    x = x.detach().requires_grad_()
    output, h_n = rnn(x)
    wanted = (x, *rnn.parameters())
    return output.detach(), h_n.detach(), *torch.autograd.grad((output, h_n), wanted, (output.detach(), h_n.detach()))


@pytest.mark.parametrize("H", SIZES)
def test_inference_in_a_graph(cuda: torch.device, H: int) -> None:
    rnn, x = made(H, cuda)
    place = torch.randn_like(x)
    with torch.no_grad():
        graph, results = captured(lambda: rnn(place))
        for _ in range(3):
            place.copy_(torch.randn_like(x))
            graph.replay()
            assert all(torch.equal(a, b) for a, b in zip(results, rnn(place), strict=True))


@pytest.mark.parametrize("H", SIZES)
def test_training_in_a_graph(cuda: torch.device, H: int) -> None:
    rnn, x = made(H, cuda)
    place = torch.randn_like(x)
    graph, results = captured(lambda: gradients(rnn, place))
    for _ in range(3):
        place.copy_(torch.randn_like(x))
        graph.replay()
        assert all(torch.equal(a, b) for a, b in zip(results, gradients(rnn, place), strict=True))


def captured(call) -> tuple[torch.cuda.CUDAGraph, tuple[Tensor, ...]]:
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            call()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        results = call()
    return graph, results


@pytest.mark.parametrize("H", SIZES)
def test_another_device_than_the_current(cuda: torch.device, H: int) -> None:
    if torch.cuda.device_count() < 2:
        pytest.skip("there is one CUDA device only")
    case = Case(T=6, B=4, I=9, H=H)
    rnn, given, cotangents = case.module(gru_fused.GRU, torch.float32), case.inputs(torch.float32), case.cotangents()
    results = []
    for index in (0, 1):
        device = torch.device("cuda", index)
        there = tuple(c.to(device, torch.float32) for c in cotangents)
        results.append(run(rnn.to(device), *on(device, *given), there))
        assert torch.cuda.current_device() == 0
    first, second = results
    assert all(result.get_device() == 1 for result in second.values())
    for name in first:  # the devices may differ in kind, and then in rounding
        torch.testing.assert_close(first[name].cpu(), second[name].cpu(), msg=name)


def test_tensors_on_two_kinds_of_device_are_refused(cuda: torch.device) -> None:
    rnn, x = made(7, cuda)
    with pytest.raises((RuntimeError, ValueError)):
        rnn(x.cpu())


@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
def test_compiled(device: torch.device, backend: str) -> None:
    if backend == "inductor" and device.type == "cuda":
        pytest.importorskip("triton")
    rnn, x = made(130, device)
    compiled = torch.compile(rnn, fullgraph=True, backend=backend)
    for ours, theirs in zip(gradients(compiled, x), gradients(rnn, x), strict=True):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("cudnn", [True, False], ids=["cudnn", "native"])
@pytest.mark.parametrize("given", [torch.float32, torch.float64], ids=dtype_id)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=dtype_id)
def test_autocast_gives_nn_grus_dtype(
    device: torch.device, dtype: torch.dtype, given: torch.dtype, cudnn: bool
) -> None:
    """But for autocast to bfloat16 with cuDNN, which makes float16 of it: ours is what was asked for."""
    rnn, x = (y.to(given) for y in made(130, device))
    theirs = twin(rnn, nn.GRU).to(device)
    cells = [cls(9, 130, device=device, dtype=given) for cls in (gru_fused.GRUCell, nn.GRUCell)]
    with torch.autocast(device.type, dtype=dtype), torch.backends.cudnn.flags(enabled=cudnn):
        found, expected = (
            [y.dtype for y in (*module(x), cell(x[0]))] for module, cell in zip((rnn, theirs), cells, strict=True)
        )
    if cudnn and device.type == "cuda" and (dtype, given) == (torch.bfloat16, torch.float32):
        expected[:2] = [torch.bfloat16] * 2
    assert found == expected


def test_nothing_waits_for_the_device(cuda: torch.device) -> None:
    """A call returns before the device is done: it neither synchronizes nor copies to the host."""
    rnn, x = made(130, cuda)
    gradients(rnn, x)
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        start = torch.cuda.Event()
        torch.cuda._sleep(SLEEP)
        start.record()
        gradients(rnn, x)
        assert not start.query()  # the sleep goes on
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_kernels_are_found_by_name(cuda: torch.device) -> None:
    """The sanitizers of `make gpu-check` look at kernels with gru_fused in their name; others they would pass over."""
    rnn, x = made(130, cuda)
    gradients(rnn, x)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        gradients(rnn, x)
        torch.cuda.synchronize()
    names = [event.key for event in profile.key_averages()]
    assert any("gru_fused" in name for name in names), names

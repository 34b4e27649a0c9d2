"""The least time a GPU could take: an ESTIMATE by the formulas below, from constants that others have measured.

A step needs the state of the step before, so T steps are a chain, and a step is at least

    exchange + gates + max(products, reading of shared memory) + gathering of h

on the best of several ways to spread a layer: a team of n SMs holds W_hh still, in registers and shared memory, and
walks through time with some of the batch's rows; other teams have other rows. Without such a team (W_hh doesn't
fit) a step is a kernel, launched from a graph, that reads W_hh. Before the chain and after it come products over
all steps at once, at the peak of the dtype or at the speed of memory. Layers follow one another by a step (a
wavefront), directions run side by side. Clocks below the maximum, launches and what an epilogue costs are left out.
No kernel need be able to reach it.
"""

from __future__ import annotations

from typing import NamedTuple

from benchmarks.workloads import Workload

SIZES = {"fp32": 4, "tf32": 4, "fp16": 2, "bf16": 2}


class Device(NamedTuple):
    """Dense peaks in flop/s without sparsity, and memory in bytes/s, as NVIDIA's data sheets give them."""

    sms: int
    clock: float  # Hz, at which the peaks are reached
    peaks: dict[str, float]
    memory: float


# Data sheets "NVIDIA H100 Tensor Core GPU" and "NVIDIA H200 Tensor Core GPU", the SXM parts; the clock is
# 989.4e12 / (132 SMs * 4096 flop). The parts on PCIe cards have other figures and are not here.
HOPPER_PEAKS = {"fp32": 66.9e12, "tf32": 494.7e12, "fp16": 989.4e12, "bf16": 989.4e12}
DEVICES = {
    "H200": Device(132, 1.83e9, HOPPER_PEAKS, 4.8e12),
    "H100 80GB HBM3": Device(132, 1.83e9, HOPPER_PEAKS, 3.35e12),
}

# per SM, bytes: CUDA C++ Programming Guide, technical specifications of compute capability 9.0
REGISTERS, SHARED = 256 << 10, 227 << 10
SHARED_PER_CYCLE = 128  # bytes per SM: 32 banks of 4
L2_PER_CYCLE = 64  # bytes per SM [estimate: half the banks' width]

# measured on an H100 SXM by others (public microbenchmarks); latencies of gpu/latency replace them where it has run
SHARED_CYCLES = 29  # a read of shared memory
CLUSTER_CYCLES = 180  # a read of another SM's shared memory in the cluster
GRID_SECONDS = 0.4e-6  # data with its own arrival tag, through L2 [estimate; flag hop measured: 0.56e-6]
LAUNCH_SECONDS = 1.4e-6  # a kernel after another in a replayed graph
GATE_CYCLES = 60  # two sigmoids, one tanh, one after the other [estimate]

TEAMS = (1, 2, 4, 8, 16)  # SMs that exchange as a cluster; and all of them


def device_of(name: str) -> Device | None:
    return next((device for key, device in DEVICES.items() if key in name), None)


def floor_of(workload: Workload, dtype: str, part: str, device: Device) -> float:
    """Seconds for a part ("infer", "forward", "backward", "both") of the whole workload."""
    if part == "both":
        return floor_of(workload, dtype, "forward", device) + floor_of(workload, dtype, "backward", device)
    w = workload
    size, peak = SIZES[dtype], device.peaks[dtype]
    inputs = [w.I, *[w.directions * w.H] * (w.layers - 1)]  # of each layer
    weights = [3 * w.H * n * w.directions for n in inputs]
    recurrent = 3 * w.H * w.H * w.directions
    rows = w.B * w.T

    if w.kind == "cell":  # a call for every step
        flop, read = 2 * w.B * (weights[0] + recurrent), size * (weights[0] + recurrent)
        step = LAUNCH_SECONDS + max(
            flop / peak, read / device.memory / 4
        )  # a step finds its weights in L2 [estimate: 4x memory]
        return w.T * step * (2 if part == "backward" else 1)

    chain = (w.T + w.layers - 1) * step_of(w, dtype, device)
    seconds = max(chain, 2 * rows * recurrent * w.layers / peak)
    for n, weight in zip(inputs, weights, strict=True):
        traffic = size * (rows * n + rows * w.directions * w.H + weight)
        if part != "backward":
            seconds += max(2 * rows * weight / peak, traffic / device.memory)
        else:  # of the input; of W_ih and W_hh
            seconds += max(2 * rows * (2 * weight + recurrent) / peak, 2 * traffic / device.memory)
    return seconds


def step_of(workload: Workload, dtype: str, device: Device) -> float:
    """Seconds of one step of the chain, by the best way to spread it."""
    return min(step for _, step in ways(workload, dtype, device))


def ways(workload: Workload, dtype: str, device: Device) -> list[tuple[str, float]]:
    w, size = workload, SIZES[dtype]
    matrix = 3 * w.H * w.H
    peak = device.peaks[dtype] / device.sms
    tile = 1 if dtype == "fp32" else 8  # rows that a product takes at once
    found = []
    for n in (*TEAMS, device.sms // w.directions):
        if n * w.directions > device.sms or size * matrix / n > REGISTERS + SHARED:
            continue
        teams = min(device.sms // (n * w.directions), -(-w.B // tile))
        rows = tile * -(-w.B // (tile * teams))
        alone, cluster = n == 1, n in TEAMS
        exchange = (2 * SHARED_CYCLES if alone else CLUSTER_CYCLES) / device.clock if cluster else GRID_SECONDS
        state = size * rows * w.H
        reading = (max(0, size * matrix / n - REGISTERS) + state) / SHARED_PER_CYCLE / device.clock
        gathering = 0.0 if cluster else state / L2_PER_CYCLE / device.clock
        products = 2 * matrix * rows / (n * peak)
        found.append((f"{n} SMs", exchange + GATE_CYCLES / device.clock + max(products, reading) + gathering))
    products = 2 * matrix * w.B * w.directions / device.peaks[dtype]
    reading = size * matrix * w.directions / (4 * device.memory)  # from L2 [estimate: 4x memory]
    found.append(("a kernel a step", LAUNCH_SECONDS + max(products, reading)))
    return found

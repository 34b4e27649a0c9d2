"""Planted bugs: textual patches of the CUDA kernels, each of which the checks must notice, and how.

A patch is applied to a copy of csrc/cuda; the product's source knows nothing of it. Only the loop that shows the bug is
compiled, so that one costs a few seconds.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from emulator.build import BUILD, CSRC, build_program, run_program

HERE = Path(__file__).parent.resolve()
CHECKS = {"plain": HERE / "kernels_check.cu", "variant": HERE / "variants_check.cu"}  # by cell
FORMS = {
    "f32": "MultiplyAdd<float>",
    "f64": "MultiplyAdd<double>",
    "tf32": "TensorCores<float>",
    "bf16": "TensorCores<__nv_bfloat16>",
    "f16": "TensorCores<__half>",
}
EXCHANGES = {"block": "Block", "cluster": "Cluster", "packets": "Packet", "flags": "Flag"}
# Those that a schedule finds, it finds under one of these.
SCHEDULES = [("fifo", 1), ("lifo", 1), *(("random", seed) for seed in range(1, 9))]


@dataclass(frozen=True)
class Bug:
    name: str
    file: str  # of csrc/cuda
    old: str  # what stands there exactly once
    new: str
    exchange: str
    way: str  # forward or backward
    # numbers: wrong results; report: the emulator ends the launch, with `text`;
    # any: one of both; address, thread: the sanitizers
    detector: str
    arithmetic: str = "f32"
    text: str = ""
    cell: str = "plain"  # or variant

    def __str__(self) -> str:
        return self.name


BUGS = [
    # ---- Order within a CTA
    Bug(
        "no-barrier-after-products",
        "team.cuh",
        "    if (cut.splits > 1 || barrier) __syncthreads();\n",
        "",
        "block",
        "forward",
        "numbers",
    ),
    Bug(
        "no-barrier-before-the-operand-is-overwritten",
        "exchange.cuh",
        "kNeedsClusters = false, kBarrierAfterProducts = true;\n\n  __device__ __forceinline__ PacketExchange",
        "kNeedsClusters = false, kBarrierAfterProducts = false;\n\n  __device__ __forceinline__ PacketExchange",
        "packets",
        "backward",
        "thread",
    ),
    Bug(
        "one-buffer-of-partial-sums",
        "team.cuh",
        "const int index = ((parity * cut.tiles + tile)",
        "const int index = ((0 * parity * cut.tiles + tile)",
        "cluster",
        "forward",
        "thread",
    ),
    Bug(
        "a-block-does-not-wait",
        "exchange.cuh",
        "    if (step > 0) __syncthreads();\n",
        "",
        "block",
        "backward",
        "numbers",
    ),
    Bug(
        "one-buffer-of-a-blocks-operand",
        "exchange.cuh",
        "    place_.operand(step % 2)[row * place_.layout.row_words + word] = bits;\n",
        "    place_.operand((step + 1) % 2)[row * place_.layout.row_words + word] = bits;\n",
        "block",
        "forward",
        "numbers",
    ),
    # ---- Clusters
    Bug(
        "a-cluster-does-not-wait",
        "exchange.cuh",
        "    if (step > 0 && place_.live) arch::mbarrier_wait(",
        "    if (false) arch::mbarrier_wait(",
        "cluster",
        "forward",
        "numbers",
        "bf16",
    ),
    Bug(
        "wrong-parity-of-the-wait",
        "exchange.cuh",
        "uint32_t((step - 1) / 2 % 2)",
        "uint32_t(step / 2 % 2)",
        "cluster",
        "backward",
        "numbers",
    ),
    Bug(
        "too-many-bytes-expected",
        "exchange.cuh",
        "uint32_t(place_.valid_rows * place_.layout.operand_words * 4)",
        "uint32_t(place_.valid_rows * place_.layout.operand_words * 4 + 4)",
        "cluster",
        "forward",
        "report",
        text="mbarrier.try_wait",
    ),
    Bug(
        "too-few-bytes-expected",
        "exchange.cuh",
        "uint32_t(place_.valid_rows * place_.layout.operand_words * 4)",
        "uint32_t(place_.valid_rows * place_.layout.operand_words * 4 - 4)",
        "cluster",
        "backward",
        "any",
    ),
    Bug(
        "bytes-of-rows-that-are-not-there",
        "exchange.cuh",
        "uint32_t(place_.valid_rows * place_.layout.operand_words * 4)",
        "uint32_t(place_.cut.tiles * Form::kTraits.rows * place_.layout.operand_words * 4)",
        "cluster",
        "backward",
        "report",
        text="mbarrier.try_wait",
    ),
    # The barrier at a cluster's end guards nothing that is not waited for already, so that its loss is no bug.
    Bug(
        "sends-after-the-last-step",
        "forward.cuh",
        "                   if (step + 1 < shape.steps) {\n",
        "                   if (step + 1 == shape.steps) send_elements(place, exchange, step + 1, tile, 0, h);\n"
        "                   if (step + 1 < shape.steps) {\n",
        "cluster",
        "forward",
        "report",
        text="exited",
    ),
    Bug(
        "no-cluster-barrier-at-the-start",
        "exchange.cuh",
        "void start() const { arch::cluster_sync(); }",
        "void start() const { __syncthreads(); }",
        "cluster",
        "forward",
        "report",
        text="not started",
    ),
    Bug(
        "a-lane-without-rows-is-not-waited-for",
        "team.cuh",
        "        __syncwarp();",
        "       ",
        "cluster",
        "forward",
        "thread",
    ),
    Bug(
        "a-warp-without-a-group-reads",
        "team.cuh",
        "const int tiles = live ? cut.tiles : 0;",
        "const int tiles = cut.tiles;",
        "cluster",
        "backward",
        "thread",
    ),
    # ---- Packets and flags
    Bug(
        "packets-of-the-step-before-are-taken",
        "exchange.cuh",
        "uint32_t(packet[i] >> 32) != uint32_t(step)",
        "uint32_t(packet[i] >> 32) + 2 < uint32_t(step)",
        "packets",
        "forward",
        "numbers",
    ),
    Bug(
        "packets-of-the-next-step-are-awaited",
        "exchange.cuh",
        "uint32_t(packet[i] >> 32) != uint32_t(step)",
        "uint32_t(packet[i] >> 32) != uint32_t(step + 1)",
        "packets",
        "backward",
        "report",
        text="a poll of global memory",
    ),
    Bug(
        "one-buffer-of-packets",
        "exchange.cuh",
        "    next_ = rows * words_;\n  }\n  __device__ __forceinline__ void start() const { __syncthreads(); }\n"
        "  __device__ __forceinline__ const uint32_t* wait(int64_t step) const {\n"
        "    uint32_t* const operand = place_.operand(0);\n    if (step == 0) return operand;\n"
        "    const uint64_t*",
        "    next_ = 0;\n  }\n  __device__ __forceinline__ void start() const { __syncthreads(); }\n"
        "  __device__ __forceinline__ const uint32_t* wait(int64_t step) const {\n"
        "    uint32_t* const operand = place_.operand(0);\n    if (step == 0) return operand;\n"
        "    const uint64_t*",
        "packets",
        "forward",
        "report",
        text="a poll of global memory",
    ),
    Bug(
        "a-counter-without-release",
        "arch.h",
        "fetch_add(1, std::memory_order_release)",
        "fetch_add(1, std::memory_order_relaxed)",
        "flags",
        "forward",
        "thread",
    ),
    Bug(
        "a-counter-without-acquire",
        "arch.h",
        "load(std::memory_order_acquire)",
        "load(std::memory_order_relaxed)",
        "flags",
        "backward",
        "thread",
    ),
    Bug(
        "the-counter-is-added-to-before-all-have-stored",
        "exchange.cuh",
        "    __syncthreads();\n    if (place_.thread == 0) arch::add_release(counter());\n",
        "    if (place_.thread == 0) arch::add_release(counter());\n",
        "flags",
        "forward",
        "thread",
    ),
    Bug(
        "one-member-too-few-is-waited-for",
        "exchange.cuh",
        "const auto expected = uint32_t(step) * uint32_t(place_.cut.ctas);",
        "const auto expected = uint32_t(step) * uint32_t(place_.cut.ctas) - 1;",
        "flags",
        "backward",
        "numbers",
    ),
    Bug(
        "one-member-too-many-is-waited-for",
        "exchange.cuh",
        "const auto expected = uint32_t(step) * uint32_t(place_.cut.ctas);",
        "const auto expected = uint32_t(step) * uint32_t(place_.cut.ctas) + 1;",
        "flags",
        "forward",
        "report",
        text="a poll of global memory",
    ),
    Bug(
        "the-memory-of-packets-is-not-cleared",
        "run.cu",
        "if (const int64_t bytes = workspace_bytes(plan))",
        "if (const int64_t bytes = 0 * workspace_bytes(plan))",
        "packets",
        "backward",
        "numbers",
    ),
    Bug(
        "the-memory-of-flags-is-not-cleared",
        "run.cu",
        "if (const int64_t bytes = workspace_bytes(plan))",
        "if (const int64_t bytes = 0 * workspace_bytes(plan))",
        "flags",
        "forward",
        "numbers",
    ),
    # ---- Bounds
    Bug(
        "a-row-beyond-the-operand",
        "exchange.cuh",
        "  for (int row = 0; row < operand_buffers(exchange) * rows; ++row)",
        "  for (int row = 0; row <= 8 * operand_buffers(exchange) * rows; ++row)",
        "block",
        "forward",
        "address",
    ),
    Bug(
        "fragments-beyond-the-shared-memory",
        "team.cuh",
        "reinterpret_cast<uint4*>(shared + layout.weights) + int64_t(warp) * beyond * kGates * kWarp + lane;",
        "reinterpret_cast<uint4*>(shared + layout.weights) + int64_t(warp + 1) * beyond * kGates * kWarp + lane;",
        "flags",
        "forward",
        "address",
    ),
    Bug(
        "a-row-beyond-the-batch",
        "team.cuh",
        "return row(tile, element) < valid_rows && unit(element) < hidden;",
        "return row(tile, element) <= valid_rows && unit(element) < hidden;",
        "packets",
        "forward",
        "address",
    ),
    Bug(
        "a-unit-beyond-the-layer",
        "team.cuh",
        "return row(tile, element) < valid_rows && unit(element) < hidden;",
        "return row(tile, element) < valid_rows && unit(element) <= hidden;",
        "block",
        "backward",
        "address",
    ),
    Bug(
        "rows-beyond-the-batch-are-sent",
        "exchange.cuh",
        "    if (row < place.valid_rows) exchange.send(",
        "    exchange.send(",
        "cluster",
        "backward",
        "report",
    ),
    Bug(
        "weights-of-units-beyond-the-layer-are-read",
        "forward.cuh",
        "return unit < H && input < H ? ",
        "return unit < H ? ",
        "block",
        "forward",
        "address",
    ),
    # ---- Sense
    Bug(
        "padded-units-send-what-they-have",
        "forward.cuh",
        "                     h[e] = place.state(tile, e);\n",
        "                     h[e] = place.state(tile, e) + (place.unit(e) < H ? 0 : NAN);\n",
        "packets",
        "forward",
        "numbers",
        "bf16",
    ),
    Bug(
        "packed-rows-go-on-in-the-forward",
        "forward.cuh",
        "if (!place.exists(tile, e) || place.first_row + place.row(tile, e) >= alive) continue;\n"
        "                     if constexpr",
        "if (!place.exists(tile, e)) continue;\n                     if constexpr",
        "cluster",
        "forward",
        "numbers",
    ),
    Bug(
        "packed-rows-go-on-in-the-backward",
        "backward.cuh",
        "if (place.exists(tile, e) && place.first_row + place.row(tile, e) < alive) {",
        "if (place.exists(tile, e) && !last) {",
        "flags",
        "backward",
        "numbers",
        "bf16",
    ),
    Bug(
        "the-state-after-the-step-is-taken-for-the-one-before",
        "backward.cuh",
        "shape.step_offset(my.output, before), row, unit)",
        "shape.step_offset(my.output, t), row, unit)",
        "block",
        "backward",
        "numbers",
    ),
    Bug(
        "the-first-state-of-a-row-that-begins-late",
        "backward.cuh",
        "row < alive_before ?",
        "step > 0 ?",
        "packets",
        "backward",
        "any",
    ),
    Bug(
        "gates-in-the-order-of-their-gradients",
        "backward.cuh",
        "*at<Scalar>(my.w_hh, 0, gate * H + input, unit)",
        "*at<Scalar>(my.w_hh, 0, (gate + 2) % 3 * H + input, unit)",
        "cluster",
        "backward",
        "numbers",
        "bf16",
    ),
    Bug(
        "weights-not-transposed",
        "backward.cuh",
        "*at<Scalar>(my.w_hh, 0, gate * H + input, unit)",
        "*at<Scalar>(my.w_hh, 0, gate * H + unit, input)",
        "flags",
        "backward",
        "numbers",
    ),
    Bug(
        "the-bias-of-n-outside-the-reset-product",
        "forward.cuh",
        "inputs.gate[2][e] + bias[2][u],",
        "inputs.gate[2][e] + bias[2][u] + bias[3][u],",
        "block",
        "forward",
        "numbers",
    ),
    Bug(
        "the-reset-products-bias-is-forgotten",
        "forward.cuh",
        "products[2][e] + bias[3][u]",
        "products[2][e]",
        "flags",
        "forward",
        "numbers",
        "bf16",
    ),
    Bug(
        "inputs-of-the-first-tile-for-every-tile",
        "forward.cuh",
        "if (tile != place.split) load_inputs(step, tile, inputs);",
        "",
        "packets",
        "forward",
        "numbers",
    ),
    Bug(
        "what-is-left-of-dldh-is-not-kept",
        "backward.cuh",
        "                     place.state(tile, e) = d;\n                   }\n",
        "                     if (!last) place.state(tile, e) = d;\n                   }\n",
        "block",
        "backward",
        "numbers",
    ),
]


def planted(bug: Bug, *others: tuple[str, str, str]) -> list[Path]:
    """The sources of a program that runs one loop of a patched copy; `others`: more (file, old, new)."""
    folder = BUILD / "bugs" / bug.name
    cuda = folder / "cuda"
    cuda.mkdir(parents=True, exist_ok=True)
    for header in CSRC.glob("*.h"):
        shutil.copy(header, folder)
    for source in (CSRC / "cuda").iterdir():
        shutil.copy(source, cuda)
    for file, old, new in ((bug.file, bug.old, bug.new), *others):
        text = (cuda / file).read_text()
        assert text.count(old) == 1, f"{bug.name}: the text to replace is in {file} {text.count(old)} times"
        (cuda / file).write_text(text.replace(old, new))
    loop = folder / "one_loop.cu"
    loop.write_text(one_loop(bug))
    # What is not patched is compiled once for all bugs.
    names = ("run.cu", "plan.cpp", "steps.cu", "variant_steps.cu", "variant_norm.cu")
    host = {name: CSRC / "cuda" / name for name in names}
    if bug.file in host:
        host[bug.file] = cuda / bug.file
    return [loop, CHECKS[bug.cell], *host.values()]


def one_loop(bug: Bug) -> str:
    """The source of the tables of kernels, with one kernel in them."""
    lines = ['#include "cuda/backward.cuh"', '#include "cuda/forward.cuh"', '#include "cuda/kernels.h"', ""]
    lines += ["namespace gru_fused::cuda {"]
    form, way = FORMS[bug.arithmetic], bug.way
    if bug.cell == "variant":
        form, loop = f"OfVariant<{form}>", f"Variant{way.title()}Loop"
    else:
        loop = f"{way.title()}Loop"
    kernel = (
        f"kernels.{way}[int(Exchange::{bug.exchange})] = {way}_loop<{form}, {EXCHANGES[bug.exchange]}Exchange, {loop}>;"
    )
    for cell, table, name in (("plain", "LoopKernels", "loops"), ("variant", "VariantLoopKernels", "variant_loops")):
        for arithmetic in FORMS:
            fill = kernel if (arithmetic, cell) == (bug.arithmetic, bug.cell) else ""
            body = f"static {table} kernels{{}}; {fill} return kernels;"
            lines.append(f"const {table}& {name}_{arithmetic}() {{ {body} }}")
    return "\n".join([*lines, "}  // namespace gru_fused::cuda", ""])


def runs(bug: Bug, sources: list[Path], size: str = "all") -> Iterator[subprocess.CompletedProcess[str]]:
    """The check under every schedule; a sanitizer needs one or two."""
    sanitizer = bug.detector if bug.detector in ("address", "thread") else None
    program = build_program(f"bug-{bug.name}", sources, sanitizer=sanitizer, optimize="-O0")
    for order, seed in SCHEDULES if sanitizer is None else SCHEDULES[:3]:
        yield run_program(program, bug.arithmetic, bug.exchange, bug.way, order, seed, size)


def found(bug: Bug, run: subprocess.CompletedProcess[str]) -> bool:
    """Whether this run shows the bug as its detector should."""
    if bug.detector == "address":
        return run.returncode != 0 and "ERROR: AddressSanitizer" in run.stderr
    if bug.detector == "thread":
        return run.returncode == 66 and "WARNING: ThreadSanitizer: data race" in run.stderr
    failed = re.search(r": failed: .*\((.*)\)$", run.stdout, re.MULTILINE)
    wrong = " wrong by " in run.stdout
    if bug.detector == "any":
        return bool(failed) or wrong
    return bool(failed and bug.text in failed[1]) if bug.detector == "report" else wrong

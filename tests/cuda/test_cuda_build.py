"""nvcc builds the CUDA half beside any torch: it loads, registers its ops, and its kernels keep to their budget."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from itertools import product
from pathlib import Path

import pytest
from sass import EXCHANGES, FORMS, Kernel, kernels_of, tools

ROOT = Path(__file__).parents[2]
WAYS = ("forward", "backward", "variant forward", "variant backward")
LOOPS = [f"{way} {form} {exchange}" for way in WAYS for form in FORMS.values() for exchange in EXCHANGES]
ROWS = [
    f"row {way} {form} {units}{packed}"
    for way, form, units, packed in product(WAYS[:2], ("f32", "bf16", "f16"), (32, 64, 96, 128), ("", " packed"))
]
ARCHS = ("sm_80", "sm_90a")
# W_hh of 128 units leaves a thread 32 registers. What does not fit into them lies in local memory.
SPILLED_BYTES, SPILLS = 32, 24


@pytest.fixture(scope="session")
def built() -> Path:
    """The extension with its CUDA half, in build/cuda; ninja compiles again only what has changed."""
    if shutil.which("nvcc") is None and "CUDA_HOME" not in os.environ:
        pytest.skip("nvcc was not found")
    folder = ROOT / "build" / "cuda"
    environment = {**os.environ, "GRU_FUSED_CUDA": "1", "TORCH_CUDA_ARCH_LIST": "8.0 9.0a"}
    command = [sys.executable, "setup.py", "build_ext", "--build-lib", str(folder / "lib")]
    command += ["--build-temp", str(folder / "temp")]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    return folder / "lib" / "gru_fused"


@pytest.fixture(scope="session")
def kernels(built: Path) -> dict[tuple[str, str], Kernel]:
    if not any(path.exists() for path in tools()):
        pytest.skip("cuobjdump was not found")
    library = next(built.glob("_C*.so"))
    return {(kernel.name, kernel.arch): kernel for kernel in kernels_of(library)}


def test_the_library_loads_and_registers_its_ops_without_a_gpu(built: Path) -> None:
    shutil.copytree(ROOT / "gru_fused", built, dirs_exist_ok=True, ignore=shutil.ignore_patterns("*.so", "__pycache__"))
    code = (
        "import torch, gru_fused\n"
        "from gru_fused import _ops\n"
        f"assert _ops._C.__file__.startswith({str(built)!r})\n"
        "assert _ops.has_cuda_kernels()\n"
        "ops = [name.split('::')[1] for name in torch._C._dispatch_get_registrations_for_dispatch_key('CUDA')\n"
        "       if name.startswith('gru_fused::')]\n"
        "print(*sorted(ops))\n"
        "gru_fused.GRU(3, 4)(torch.randn(5, 2, 3))[0].sum().backward()\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(built.parent)}
    done = subprocess.run([sys.executable, "-c", code], cwd=built, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    expected = [
        "backward",
        "cell",
        "cell_backward",
        "cell_train",
        "forward",
        "forward_train",
        "tangent",
        "tangent_backward",
        "variant",
        "variant_backward",
    ]
    assert done.stdout.split() == [f"gru_{name}" for name in expected]


@pytest.mark.parametrize("arch", ARCHS)
def test_nothing_spills(kernels: dict[tuple[str, str], Kernel], arch: str) -> None:
    of_arch = [kernel for kernel in kernels.values() if kernel.arch == arch]
    assert {kernel.name for kernel in of_arch} >= {*LOOPS, *ROWS}
    for kernel in of_arch:
        few = kernel.name.startswith("row backward") and "128" in kernel.name
        assert kernel.stack <= (SPILLED_BYTES if few else 0), f"{kernel.name}: {kernel.stack} bytes of stack"
        assert kernel.local == 0, kernel.name
        assert kernel.count("LDL", "STL") <= (SPILLS if few else 0), f"{kernel.name} uses local memory"
        assert kernel.registers <= (128 if kernel.name.startswith("row") and "128" in kernel.name else 255), kernel.name


@pytest.mark.parametrize("arch", ARCHS)
@pytest.mark.parametrize("name", LOOPS)
def test_the_products_are_the_instructions_they_should_be(
    kernels: dict[tuple[str, str], Kernel], name: str, arch: str
) -> None:
    kernel = kernels[name, arch]
    if arch == "sm_80" and name.endswith("Cluster"):
        assert len(kernel.code) < 100, "a device without clusters needs no code for them"
        return
    form = name.split()[-2]
    held = {"f32": 4, "f64": 5}.get(form, 10)
    if name.startswith("variant") and form != "f32":
        held -= 1 if form == "f64" else 2
    if form in ("f32", "f64"):  # 3 gates x 4 rows x the inputs of a lane's fragment
        multiply_adds = kernel.count("FFMA" if form == "f32" else "DFMA")
        assert multiply_adds >= held * 3 * 4 * (4 if form == "f32" else 2)
        assert kernel.count("HMMA") == 0
    else:
        assert kernel.count("HMMA") >= (held + 1) * 3


@pytest.mark.parametrize("arch", ARCHS)
@pytest.mark.parametrize("name", ROWS)
def test_a_row_holds_its_weights(kernels: dict[tuple[str, str], Kernel], name: str, arch: str) -> None:
    """A multiply-add for each of a thread's weights."""
    units = int(name.split()[3])
    assert kernels[name, arch].count("FFMA") >= 3 * units // 4


@pytest.mark.parametrize("form", FORMS.values())
@pytest.mark.parametrize("way", WAYS)
def test_a_cluster_exchanges_without_a_fence(kernels: dict[tuple[str, str], Kernel], way: str, form: str) -> None:
    """A fence in the loop would cost as much as the exchange; the cluster's barrier before and after it has some."""
    code = kernels[f"{way} {form} Cluster", "sm_90a"].code
    sends = [i for i, instruction in enumerate(code) if instruction.startswith("STAS")]
    waits = [i for i, instruction in enumerate(code) if instruction.startswith("SYNCS.PHASECHK")]
    assert sends and waits, sorted({instruction for instruction in code if instruction.startswith("SYNCS")})
    loop = code[min(sends + waits) : max(sends + waits)]
    assert not [instruction for instruction in loop if instruction.startswith(("MEMBAR", "ERRBAR", "UCGABAR"))]


@pytest.mark.parametrize("form", FORMS.values())
def test_packets_need_no_fence(kernels: dict[tuple[str, str], Kernel], form: str) -> None:
    for way, arch in product(WAYS, ARCHS):
        assert kernels[f"{way} {form} Packet", arch].count("MEMBAR", "ERRBAR") == 0

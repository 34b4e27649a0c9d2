"""Builds the extension with its CUDA half, in place, and writes what each kernel takes: OUT/ptxas.csv.

Only for the architecture of the device at hand (without one: sm_90a, as a rehearsal), unless TORCH_CUDA_ARCH_LIST
says otherwise. The objects go into a folder of their own, so that everything is compiled, and ptxas reports every
kernel, each time.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.gpu.toolchain import find_program
from benchmarks.gpu_check.probe import ROOT, architecture
from benchmarks.gpu_check.ptxas import kernels_in, report, write_csv


def main() -> int:
    out = Path(sys.argv[1])
    nvcc = find_program("nvcc")
    environment = {
        **os.environ,
        "GRU_FUSED_CUDA": "1",
        "TORCH_CUDA_ARCH_LIST": os.environ.get("TORCH_CUDA_ARCH_LIST") or architecture() or "9.0a",
        "NVCC_APPEND_FLAGS": f"{os.environ.get('NVCC_APPEND_FLAGS', '')} -Xptxas -v".strip(),
        "PATH": os.pathsep.join([os.environ.get("PATH", ""), str(Path(nvcc).parent) if nvcc else ""]),
    }
    print("TORCH_CUDA_ARCH_LIST =", environment["TORCH_CUDA_ARCH_LIST"], flush=True)
    lines = []
    with tempfile.TemporaryDirectory() as objects:
        build = subprocess.Popen(
            [sys.executable, "setup.py", "build_ext", "--inplace", "--force", "--build-temp", objects],
            cwd=ROOT,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for line in build.stdout:  # told at once: the log of a build that is cut short says how far it came
            print(line, end="", flush=True)
            lines.append(line)
        status = build.wait()
    kernels = kernels_in("".join(lines))
    write_csv(kernels, out / "ptxas.csv")
    print(report(kernels))
    if status:
        print("the build failed")
        return 1
    if not kernels:
        print("built, but ptxas reported no kernel")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

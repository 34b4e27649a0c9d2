"""The stages of a GPU check: what runs, for how long at most, and what it needs."""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path

from benchmarks.gpu.toolchain import find_program
from benchmarks.gpu_check.probe import cuda_build, file, gpu, module, program
from benchmarks.gpu_check.runner import Stage

WHOLE = 580.0  # seconds, of all stages together
SANITIZERS = ("memcheck", "racecheck", "synccheck")


def all_stages(out: Path) -> list[Stage]:
    def python(*arguments: str) -> tuple[str, ...]:
        return (sys.executable, *arguments)

    def pytest(*paths: str) -> tuple[str, ...]:
        # a checkout may be read-only, so no cache
        return python("-m", "pytest", "-q", "-p", "no:cacheprovider", *paths)

    on_gpu = (gpu, cuda_build)
    # one after the other the tests take minutes; each worker has its own memory on the device
    workers = ("-n", str(min(os.cpu_count() or 1, 12))) if importlib.util.find_spec("xdist") else ()
    no_excuse = {"GRU_FUSED_REQUIRE_CUDA": "1"}
    sanitizer = find_program("compute-sanitizer") or "compute-sanitizer"
    return [
        Stage("environment", python("-m", "benchmarks.gpu_check.environment", str(out)), 40),
        Stage(
            "build",
            python("-m", "benchmarks.gpu_check.build", str(out)),
            150,
            (module("torch"), module("setuptools"), module("ninja"), program("nvcc"), file("csrc/cuda/*.cu")),
        ),
        Stage(
            "conformance",
            pytest("tests/gpu/test_conformance.py"),
            60,
            (module("pytest"), file("tests/gpu/test_conformance.py"), *on_gpu),
            no_excuse,
        ),
        Stage(
            "tests",
            pytest("tests/gpu", "--durations=5", "--ignore=tests/gpu/test_conformance.py", *workers),
            150,
            (module("pytest"), *on_gpu),
            no_excuse,
        ),
        *(
            Stage(
                tool,
                (
                    *(sanitizer, "--tool", tool, "--error-exitcode", "1", "--report-api-errors", "no"),
                    # our kernels alone, as torch's would take minutes; tests/gpu asserts that this name finds them
                    *("--kernel-name", "kns=gru_fused"),
                    *python("-m", "benchmarks.gpu_check.small_calls"),
                ),
                40,
                (program("compute-sanitizer"), *on_gpu),
                {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"},  # past the end of a tensor is then past an allocation
            )
            for tool in SANITIZERS
        ),
        Stage(
            "benchmark",
            python("-m", "benchmarks.gpu", "--quick", "--seconds", "135", "--out", str(out / "benchmark")),
            165,
            on_gpu,
        ),
        Stage(
            "latency",
            python("-m", "benchmarks.gpu.latency", "--seconds", "55", "--out", str(out / "latency.jsonl")),
            80,
            (program("nvcc"), gpu),
        ),
        Stage(
            "kernels",
            python("-m", "benchmarks.gpu.kernels", "--seconds", "25", "--out", str(out / "benchmark" / "kernels.csv")),
            45,
            on_gpu,
        ),
    ]

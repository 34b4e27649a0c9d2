"""Where a check ran and with what: OUT/environment.json. What can't be found out is said to be missing, and why."""

from __future__ import annotations

import datetime
import importlib.metadata
import importlib.util
import json
import os
import platform
import subprocess
import sys
from pathlib import Path

from benchmarks.gpu.toolchain import find_program
from benchmarks.gpu_check.probe import ROOT

PACKAGES = ("torch", "triton", "numpy", "pytest", "hypothesis", "ninja", "setuptools", "matplotlib")
PROGRAMS = ("nvcc", "compute-sanitizer", "ncu", "c++", "ninja", "cuobjdump")
SMI = ("name", "driver_version", "clocks.max.sm", "clocks.sm", "clocks.mem", "power.limit", "temperature.gpu")


def main() -> int:
    facts = environment()
    Path(sys.argv[1], "environment.json").write_text(json.dumps(facts, indent=2) + "\n")
    for name, value in facts.items():
        print(f"{name}: {value}")
    return 0


def environment() -> dict[str, object]:
    smi = nvidia_smi()
    return {
        **of_torch(),
        "driver": smi.get("driver_version", "missing"),
        "nvidia-smi": smi,
        # a copy of the sources without .git can be told which commit it is
        "commit": os.environ.get("GRU_FUSED_COMMIT")
        or said_by("git", "describe", "--always", "--dirty", "--exclude=*"),
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="minutes"),
        "python": platform.python_version(),
        "machine": f"{platform.platform()}, {os.cpu_count()} CPUs",
        "packages": {name: version_of(name) for name in PACKAGES},
        "programs": {name: find_program(name) or "not found" for name in PROGRAMS},
        "nvcc": (said_by(find_program("nvcc") or "nvcc", "--version").splitlines() or [""])[-1],
    }


def of_torch() -> dict[str, object]:
    """The device first: it is what everything else is about."""
    if importlib.util.find_spec("torch") is None:
        return {"device": "missing: torch is not installed", "torch": "not installed", "cuda": None, "cudnn": None}
    import torch

    facts: dict[str, object] = {"device": "missing: torch sees no CUDA device"}
    if torch.cuda.is_available():
        p = torch.cuda.get_device_properties(0)
        facts["device"] = p.name
        facts["capability"] = f"{p.major}.{p.minor}"
        facts["sms"] = p.multi_processor_count
        facts["memory_gib"] = round(p.total_memory / 2**30, 1)
        facts["l2_mib"] = p.L2_cache_size / 2**20
        facts["devices"] = torch.cuda.device_count()
    facts |= {"torch": torch.__version__, "cuda": torch.version.cuda, "cudnn": torch.backends.cudnn.version()}
    return facts


def nvidia_smi() -> dict[str, str]:
    answer = said_by("nvidia-smi", f"--query-gpu={','.join(SMI)}", "--format=csv,noheader")
    values = answer.splitlines()[0].split(", ")
    return dict(zip(SMI, values, strict=True)) if len(values) == len(SMI) else {"missing": answer}


def said_by(*command: str) -> str:
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"missing: {error}"
    return done.stdout.strip() or f"missing: {(done.stderr.strip().splitlines() or ['no answer'])[-1]}"


def version_of(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


if __name__ == "__main__":
    sys.exit(main())

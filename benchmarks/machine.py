"""Where and with what a measurement was made."""

from __future__ import annotations

import datetime
import os
import platform
import re
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

import torch

from gru_fused import _ops


@dataclass(frozen=True)
class Machine:
    device: str  # model name of the GPU; of the CPU, with the kernels that gru_fused has for it
    torch: str
    gru_fused: str
    python: str
    date: str

    @property
    def slug(self) -> str:
        """For the name of a file: 2026-01-31-amd-epyc-9654."""
        return f"{self.date}-{re.sub(r'[^a-z0-9]+', '-', self.device.lower()).strip('-')}"


def this_machine(device: str) -> Machine:
    return Machine(
        device=torch.cuda.get_device_name() if device == "cuda" else f"{cpu_name()} ({_ops.cpu_capability()})",
        torch=torch.__version__,
        gru_fused=getattr(import_module("gru_fused"), "__version__", "unknown"),
        python=platform.python_version(),
        date=datetime.date.today().isoformat(),
    )


def recent_load() -> float:
    """Processes that wanted a core at a time, over the last minute."""
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0


def cpu_name() -> str:
    """The model's name with its family and model number: a guest may see no more of the name than "AMD EPYC"."""
    cpuinfo = Path("/proc/cpuinfo")
    text = cpuinfo.read_text() if cpuinfo.exists() else ""
    fields = dict(re.findall(r"^(model name|cpu family|model)\s*:\s*(.+)$", text, re.MULTILINE))
    if len(fields) < 3:
        return fields.get("model name") or platform.processor() or platform.machine()
    return f"{fields['model name']}, family {fields['cpu family']} model {fields['model']}"

"""What nvcc made of the kernels: registers, stack and instructions of each, read with NVIDIA's cuobjdump.

python tests/cuda/sass.py LIBRARY prints the table of docs/kernels.md.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

FORMS = {
    "MultiplyAddIfE": "f32",
    "MultiplyAddIdE": "f64",
    "TensorCoresIfE": "tf32",
    "TensorCoresI13__nv_bfloat16E": "bf16",
    "TensorCoresI6__halfE": "f16",
}
EXCHANGES = ("Block", "Cluster", "Packet", "Flag")
STEPS = ("step_forward", "step_backward", "step_tangent_backward", "step_tangent", "previous_states", "alive_rows")
STEPS += ("single_gradients", "single_backward", "bias_gradients")  # of the last two there are two passes each
STEPS += tuple(
    f"variant_{phase}" for phase in ("begin", "reset", "finish", "back", "reset_back", "norm", "norm_back", "operands")
)


@dataclass
class Kernel:
    """One kernel on one architecture. ``code`` is its instructions in order, without operands."""

    arch: str
    name: str
    registers: int = 0
    stack: int = 0
    local: int = 0
    code: list[str] = field(default_factory=list)

    def count(self, *opcodes: str) -> int:
        """Instructions whose opcode, up to its first dot, is one of these."""
        counts = Counter(instruction.split(".")[0] for instruction in self.code)
        return sum(counts[opcode] for opcode in opcodes)


def kernels_of(library: Path) -> list[Kernel]:
    """Every kernel of a library, by architecture and name. A loop's name is like ``forward bf16 Cluster``,
    of the cell's variants ``variant forward bf16 Cluster``, of one row ``row forward bf16 64``."""
    found: dict[tuple[str, str], Kernel] = {}
    for arch, symbol, text in _sections(_cuobjdump("--dump-resource-usage", library), r"Function (\S+):"):
        used = {key: int(value) for key, value in re.findall(r"(REG|STACK|LOCAL):(\d+)", text)}
        found[arch, symbol] = Kernel(arch, readable(symbol), used["REG"], used["STACK"], used["LOCAL"])
    for arch, symbol, text in _sections(_cuobjdump("-sass", library), r"Function : (\S+)"):
        found[arch, symbol].code = re.findall(r"/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+ )?([A-Z][A-Z0-9_.]*)", text)
    return sorted(found.values(), key=lambda kernel: (kernel.name, kernel.arch))


def readable(symbol: str) -> str:
    scalars = {"f": "f32", "d": "f64", "13__nv_bfloat16": "bf16", "6__half": "f16"}
    if row := re.search(r"row_(forward|backward)_loopI(f|13__nv_bfloat16|6__half)N.*?Li(\d+)ELb([01])E", symbol):
        return f"row {row[1]} {scalars[row[2]]} {row[3]}{' packed' if row[4] == '1' else ''}"
    if loop := re.search(r"\d+(forward|backward)_loop", symbol):
        form = next(name for mangled, name in FORMS.items() if mangled in symbol)
        exchange = next(name for name in EXCHANGES if f"{name}Exchange" in symbol)
        cell = "variant " if "VariantLoop" in symbol else ""
        return f"{cell}{loop[1]} {form} {exchange}"
    if single := re.search(r"single_forwardINS\w*?ArithmeticOfI(\w+?)EELi(\d)ELb([01])E", symbol):
        return f"single_forward {scalars[single[1]]} {single[2]} rows{' by 16 bytes' if single[3] == '1' else ''}"
    step = re.search(rf"\d({'|'.join(STEPS)})INS\w*?ArithmeticOfI(\w+?)E", symbol)
    return f"{step[1]} {scalars[step[2]]}{' second pass' if 'Lb1E' in symbol else ''}"


def _sections(text: str, start: str) -> Iterator[tuple[str, str, str]]:
    """(architecture, symbol, what follows) of every function in cuobjdump's output."""
    for part in re.split(r"(?m)^arch = ", text)[1:]:
        arch, _, rest = part.partition("\n")
        pieces = re.split(start, rest)
        for symbol, body in zip(pieces[1::2], pieces[2::2], strict=True):
            yield arch.strip(), symbol, body


def _cuobjdump(option: str, library: Path) -> str:
    tool = next((path for path in tools() if path.exists()), None)
    if tool is None:
        raise FileNotFoundError("cuobjdump (pip install nvidia-cuda-cuobjdump nvidia-cuda-nvdisasm)")
    environment = {**os.environ, "PATH": f"{tool.parent}{os.pathsep}{os.environ['PATH']}"}
    command = [str(tool), option, str(library)]
    return subprocess.run(command, capture_output=True, text=True, check=True, env=environment).stdout


def tools() -> list[Path]:
    """Where cuobjdump may be: in this environment's packages, or beside nvcc."""
    in_packages = [Path(folder) / "nvidia/cu13/bin/cuobjdump" for folder in sys.path]
    on_path = [Path(folder) / "cuobjdump" for folder in os.environ["PATH"].split(os.pathsep)]
    return [*in_packages, *on_path]


def table(kernels: list[Kernel]) -> str:
    lines = ["| kernel | architecture | registers | stack | instructions | HMMA | FFMA, DFMA | MEMBAR |"]
    lines.append("|---|---|---|---|---|---|---|---|")
    for k in kernels:
        if len(k.code) < 100:  # no such exchange on this architecture: an empty kernel
            continue
        numbers = k.registers, k.stack, len(k.code), k.count("HMMA"), k.count("FFMA", "DFMA"), k.count("MEMBAR")
        lines.append(f"| {k.name} | {k.arch} | {' | '.join(map(str, numbers))} |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(table(kernels_of(Path(sys.argv[1]))))

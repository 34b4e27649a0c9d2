"""`pip wheel .` gives one wheel for every Python from 3.10 and every torch from 2.11, with autograd's node for one.

To compile takes minutes and has been done already: here the compiler is a script that copies the libraries at hand.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch

import gru_fused
from gru_fused import _C, _ops

ROOT = Path(__file__).parents[1]
LIBRARY = Path(_C.__file__)
NODE = Path(_ops.node.__file__ if _ops.node else "none")

COMPILER = f"""#!/bin/sh
while [ "$1" != -o ]; do shift; done
case "$2" in
  */_node_*) cp '{NODE}' "$2" ;;
  *) cp '{LIBRARY}' "$2" ;;
esac
"""


def run(*command: str | Path, **options: object) -> str:
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, **options)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout + done.stderr


def tool(name: str) -> str:
    path = shutil.which(name, path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}")
    return path or pytest.skip(f"{name} is not installed")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    compiler = folder / "c++"
    compiler.write_text(COMPILER)
    return build(folder, compiler)


def build(folder: Path, compiler: Path) -> Path:
    compiler.chmod(0o755)
    keep = shutil.ignore_patterns(
        "build", "*.so", "*.egg-info", ".git", ".venv", "__pycache__", "results", ".hypothesis"
    )
    shutil.copytree(ROOT, folder / "source", ignore=keep)
    pip = [sys.executable, "-m", "pip", "wheel", "--no-build-isolation", "--no-deps"]
    environment = {**os.environ, "CXX": str(compiler), "GRU_FUSED_CUDA": "0"}
    run(*pip, "--wheel-dir", folder, folder / "source", env=environment)
    (made,) = folder.glob("*.whl")
    return made


def test_one_wheel_for_every_python(wheel: Path) -> None:
    assert wheel.name.startswith(f"gru_fused-{gru_fused.__version__}-cp310-abi3-")
    with zipfile.ZipFile(wheel) as file:
        names = {name for name in file.namelist() if ".dist-info/" not in name}
    modules = {str(path.relative_to(ROOT)) for path in (ROOT / "gru_fused").rglob("*.py")}
    assert names == {*modules, "gru_fused/_C.abi3.so", f"gru_fused/{NODE.name}"}
    assert NODE.name.startswith("_node_")


def test_without_a_node_there_is_a_wheel_too(tmp_path: Path) -> None:
    """If it can't be compiled (headers that changed) the build says so and goes on."""
    compiler = tmp_path / "c++"
    compiler.write_text(COMPILER.replace(f"cp '{NODE}' \"$2\"", "exit 1"))
    built = build(tmp_path, compiler)
    with zipfile.ZipFile(built) as file:
        names = file.namelist()
    assert "gru_fused/_C.abi3.so" in names and not [name for name in names if "_node_" in name]


def test_the_library_keeps_to_pythons_limited_api(wheel: Path, tmp_path: Path) -> None:
    """Not the node, which is of one Python; another does not see it, by the name of its file."""
    with zipfile.ZipFile(wheel) as file:
        library = file.extract("gru_fused/_C.abi3.so", tmp_path)
    assert "0 ABI version mismatches and 0 ABI violations found" in " ".join(
        run(tool("abi3audit"), "--verbose", library).split()
    )


@pytest.mark.skipif(sys.platform != "linux", reason="auditwheel is for Linux")
def test_only_torch_itself_is_missing_from_a_manylinux_system(wheel: Path) -> None:
    """Without torch's own libraries, which are the user's, the wheel needs nothing but glibc and libstdc++."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    report = run(tool("auditwheel"), "show", wheel, env={**os.environ, "PATH": path})
    assert 'constrains the platform tag to "manylinux_2_' in " ".join(report.split())


@pytest.mark.skipif(sys.platform != "linux", reason="nm's options")
def test_the_library_asks_torch_for_its_stable_abi_only() -> None:
    symbols = run(tool("nm"), "-D", "--undefined-only", "--demangle", LIBRARY)
    of_torch = [line.split(maxsplit=1)[1] for line in symbols.splitlines() if "torch" in line or "c10" in line]
    assert of_torch
    for symbol in of_torch:
        assert symbol.startswith(("aoti_torch_", "torch_")), symbol  # C functions; C++ ones are of one torch only


def test_the_wheel_runs(wheel: Path, tmp_path: Path) -> None:
    run(sys.executable, "-m", "pip", "install", "--no-deps", "--no-index", "--target", tmp_path, wheel)
    code = (
        "import gru_fused, torch; output, h_n = gru_fused.GRU(3, 4)(torch.randn(5, 2, 3)); h_n.sum().backward(); "
        "print(gru_fused.__file__, torch.__version__)"
    )
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    assert run(sys.executable, "-c", code, env=environment, cwd=tmp_path).split() == [
        str(tmp_path / "gru_fused/__init__.py"),
        torch.__version__,
    ]

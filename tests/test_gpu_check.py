"""The runner of `make gpu-check` without a GPU: whatever becomes of a stage, the next runs and the summary is whole."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from time import monotonic, sleep

import pytest

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))  # the benchmarks are not installed

from benchmarks.gpu_check import runner  # noqa: E402
from benchmarks.gpu_check.__main__ import main, readable  # noqa: E402
from benchmarks.gpu_check.ptxas import kernels_in, report  # noqa: E402
from benchmarks.gpu_check.runner import FAILED, PASSED, SKIPPED, Stage, run_all  # noqa: E402
from benchmarks.gpu_check.stages import WHOLE, all_stages  # noqa: E402


def python(name: str, code: str, limit: float = 20, **rest: object) -> Stage:
    return Stage(name, (sys.executable, "-c", code), limit, **rest)


def run(stages: list[Stage], out: Path, seconds: float = 60) -> dict[str, dict]:
    """The stages of summary.json, by name; it says the same as what was returned."""
    returned = run_all(stages, out, seconds, ROOT, say=lambda line: None)
    written = json.loads((out / "summary.json").read_text())
    assert written == returned
    assert written["complete"]
    assert sum(written["counts"].values()) == len(written["stages"]) == len(stages)
    assert set(written["stages"][0]) == {"name", "status", "reason", "seconds", "log"}
    return {stage["name"]: stage for stage in written["stages"]}


def test_a_stage_that_fails_leaves_the_others_be(tmp_path: Path) -> None:
    stages = [
        python("fine", "print('done')"),
        python("wrong", "import sys; print('to stdout'); print('the reason', file=sys.stderr); sys.exit(3)"),
        python("killed", "import os; os.kill(os.getpid(), 11)"),
        Stage("absent", ("/no/such/program",), 5),
        python("after", "import os; print(os.environ['ADDED'])", environment={"ADDED": "from the stage"}),
    ]
    done = run(stages, tmp_path)
    assert [stage["status"] for stage in done.values()] == [PASSED, FAILED, FAILED, FAILED, PASSED]
    assert done["wrong"]["reason"] == "exit status 3: the reason"
    assert done["killed"]["reason"].startswith("ended by SIGSEGV")
    assert "No such file" in done["absent"]["reason"]
    assert "to stdout\nthe reason\n" in (tmp_path / "wrong.log").read_text()
    assert "from the stage" in (tmp_path / done["after"]["log"]).read_text()


def test_a_stage_past_its_limit_is_ended_with_its_children(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "GRACE", 0.5)
    code = (
        "import subprocess, sys, signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
        "print(child.pid, flush=True); child.wait(); import time; time.sleep(600)"
    )
    start = monotonic()
    done = run([python("hangs", code, limit=3), python("after", "")], tmp_path)
    assert monotonic() - start < 30
    assert done["hangs"]["status"] == FAILED
    assert done["hangs"]["reason"] == "not done within 3 s"
    assert done["after"]["status"] == PASSED
    child = int((tmp_path / "hangs.log").read_text().splitlines()[-1])
    assert gone(child)


def gone(pid: int) -> bool:
    for _ in range(50):
        status = Path(f"/proc/{pid}/stat")
        if not status.exists() or status.read_text().rsplit(")", 1)[1].split()[0] == "Z":
            return True
        sleep(0.1)
    return False


def test_a_stage_that_lacks_something_is_skipped_by_name(tmp_path: Path) -> None:
    def nothing() -> None:
        return None

    stages = [
        python("lacking", "raise SystemExit(1)", needs=(nothing, lambda: "no torch", lambda: "no GPU")),
        python("found out", "print('no driver'); raise SystemExit(77)"),
        python("able", "", needs=(nothing,)),
    ]
    done = run(stages, tmp_path)
    assert [stage["status"] for stage in done.values()] == [SKIPPED, SKIPPED, PASSED]
    assert done["lacking"]["reason"] == "no torch; no GPU"
    assert done["found out"]["reason"] == "no driver"


def test_needs_are_asked_for_when_their_stage_comes_up(tmp_path: Path) -> None:
    made = tmp_path / "made"
    need = (lambda: None if made.exists() else "not built",)
    done = run([python("build", f"open({str(made)!r}, 'w')"), python("use", "", needs=need)], tmp_path)
    assert done["use"]["status"] == PASSED


def test_no_stage_starts_without_time_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "LEAST", 1.0)
    done = run([python("long", "import time; time.sleep(60)", limit=60), python("after", "")], tmp_path, seconds=2)
    assert done["long"]["reason"] == "not done within 2 s"
    assert done["after"]["status"] == SKIPPED
    assert done["after"]["reason"].startswith("no time left")


def test_the_summary_is_there_after_every_stage(tmp_path: Path) -> None:
    look = (
        f"import json; s = json.load(open({str(tmp_path / 'summary.json')!r})); print(s['complete'], len(s['stages']))"
    )
    run([python("first", ""), python("second", look)], tmp_path)
    assert (tmp_path / "second.log").read_text().splitlines()[-1] == "False 1"


def test_the_stages_of_a_gpu_check(tmp_path: Path) -> None:
    names = [stage.name for stage in all_stages(tmp_path)]
    assert names[:2] == ["environment", "build"]
    assert {"conformance", "tests", "memcheck", "racecheck", "synccheck", "benchmark", "latency", "kernels"} < set(
        names
    )
    assert len(set(names)) == len(names)
    assert WHOLE < 600


def test_the_environment_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    """The one stage that always runs; its facts are in the summary, and what is missing is said to be."""
    monkeypatch.setattr(sys, "argv", ["gpu_check", str(tmp_path), "--only", "environment"])
    monkeypatch.setenv("GRU_FUSED_COMMIT", "as told")
    assert main() == 0
    facts = json.loads((tmp_path / "summary.json").read_text())["environment"]
    assert {"device", "driver", "torch", "cuda", "cudnn", "commit", "date", "python", "packages"} <= set(facts)
    assert facts["commit"] == "as told"
    assert "1 passed, 0 failed, 0 skipped" in capsys.readouterr().out


def test_without_a_gpu_nothing_counts_as_passed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    monkeypatch.setattr(sys, "argv", ["gpu_check", str(tmp_path), "--only", "tests,benchmark,memcheck,latency"])
    assert main() == 3
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert [stage["status"] for stage in summary["stages"]] == [SKIPPED] * 4
    assert all("torch sees no CUDA device" in stage["reason"] for stage in summary["stages"])
    assert readable(summary, tmp_path).count("torch sees no CUDA device") >= 4


LOG = """\
[1/9] nvcc a.cu
ptxas info    : 0 bytes gmem
ptxas info    : Compiling entry function '_ZN9gru_fused4fastEPf' for 'sm_90a'
ptxas info    : Function properties for _ZN9gru_fused4fastEPf
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 168 registers, used 1 barriers, 4096 bytes smem
ptxas info    : Compile time = 3.1 ms
ptxas info    : Function properties for helper
    16 bytes stack frame, 4 bytes spill stores, 4 bytes spill loads
ptxas info    : Compiling entry function '_ZN9gru_fused4slowEPf' for 'sm_90a'
ptxas info    : Function properties for _ZN9gru_fused4slowEPf
    32 bytes stack frame, 24 bytes spill stores, 48 bytes spill loads
ptxas info    : Used 255 registers
"""


def test_registers_and_spills_of_each_kernel() -> None:
    fast, slow = kernels_in(LOG)
    assert (fast.registers, fast.spill_stores, fast.spill_loads, fast.shared) == (168, 0, 0, 4096)
    assert (slow.registers, slow.spill_stores, slow.spill_loads, slow.stack) == (255, 24, 48, 32)
    assert "fast" in fast.name and slow.arch == "sm_90a"
    lines = report([fast, slow]).splitlines()
    assert "slow" in lines[1] and lines[-1] == "2 kernels, 1 of them spill"


def test_ptxas_of_a_real_kernel(tmp_path: Path) -> None:
    from benchmarks.gpu.toolchain import find_program

    if (nvcc := find_program("nvcc")) is None:
        pytest.skip("nvcc was not found")
    import subprocess

    source = tmp_path / "k.cu"
    source.write_text("__global__ void twice(float* x) { x[threadIdx.x] *= 2; }\n")
    command = [nvcc, "-arch=sm_90", "-cubin", "-o", os.devnull, str(source)]
    environment = {**os.environ, "NVCC_APPEND_FLAGS": "-Xptxas -v"}  # as the build stage asks
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    (kernel,) = kernels_in(done.stdout + done.stderr)
    assert "twice" in kernel.name and 0 < kernel.registers < 32 and kernel.arch == "sm_90"

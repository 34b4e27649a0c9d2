"""Runs stages one after the other and goes on after each, whatever became of it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from time import monotonic

PASSED, FAILED, SKIPPED = "passed", "failed", "skipped"
SKIP_STATUS = 77  # a command that exits with it found out by itself what it lacks; its last line says what
LEAST = 8.0  # seconds; with fewer left, a stage isn't started
GRACE = 5.0  # seconds, to end by itself before it is killed

Need = Callable[[], str | None]  # what is lacking, or None


@dataclass(frozen=True)
class Stage:
    name: str
    command: tuple[str, ...]
    limit: float  # seconds
    needs: tuple[Need, ...] = ()
    environment: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Outcome:
    name: str
    status: str
    reason: str  # empty if it passed
    seconds: float
    log: str  # name of the file in OUT; empty if the stage wasn't started


def run_all(stages: Sequence[Stage], out: Path, seconds: float, root: Path, say: Callable[[str], None]) -> dict:
    """All outcomes, as OUT/summary.json has them; a run that is cut short leaves it as it was after the last stage."""
    end = monotonic() + seconds
    outcomes: list[Outcome] = []
    for stage in stages:
        say(f"{stage.name} ...")
        outcomes.append(run_stage(stage, out, end - monotonic(), root))
        say(line_of(outcomes[-1]))
        write_summary(outcomes, out, complete=len(outcomes) == len(stages))
    return write_summary(outcomes, out, complete=True)


def run_stage(stage: Stage, out: Path, left: float, root: Path) -> Outcome:
    if lacking := [reason for need in stage.needs if (reason := need()) is not None]:
        return Outcome(stage.name, SKIPPED, "; ".join(lacking), 0.0, "")
    if left < LEAST:
        return Outcome(stage.name, SKIPPED, f"no time left: {left:.0f} s of the whole run's", 0.0, "")

    log = out / f"{stage.name}.log"
    limit = min(stage.limit, left)
    start = monotonic()
    with log.open("w") as file:
        print("$", *stage.command, file=file, flush=True)
        try:
            process = subprocess.Popen(
                stage.command,
                stdout=file,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                cwd=root,
                env={**os.environ, "PYTHONUNBUFFERED": "1", **stage.environment},
                start_new_session=True,  # so that its children can be ended with it
            )
        except OSError as error:
            print(error, file=file)
            return Outcome(stage.name, FAILED, str(error), 0.0, log.name)
        status = wait(process, limit)
    status_text, reason = verdict(status, limit, last_line(log))
    return Outcome(stage.name, status_text, reason, round(monotonic() - start, 1), log.name)


def wait(process: subprocess.Popen, limit: float) -> int | None:
    """The exit status; None if it ran past the limit and was ended, with all its children."""
    try:
        return process.wait(limit)
    except subprocess.TimeoutExpired:
        return None
    finally:
        for number in (signal.SIGTERM, signal.SIGKILL):
            try:
                os.killpg(process.pid, number)  # the group outlives its leader where that left children
                process.wait(GRACE)
            except (ProcessLookupError, PermissionError):
                break
            except subprocess.TimeoutExpired:
                continue


def verdict(status: int | None, limit: float, last: str) -> tuple[str, str]:
    if status == 0:
        return PASSED, ""
    if status == SKIP_STATUS:
        return SKIPPED, last
    if status is None:
        return FAILED, f"not done within {limit:.0f} s"
    how = f"exit status {status}" if status > 0 else f"ended by {signal.Signals(-status).name}"
    return FAILED, f"{how}: {last}"


def last_line(log: Path) -> str:
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return lines[-1][:300] if lines else ""


def write_summary(outcomes: Sequence[Outcome], out: Path, complete: bool) -> dict:
    environment = out / "environment.json"
    summary = {
        "environment": json.loads(environment.read_text()) if environment.exists() else {},
        "complete": complete,
        "counts": {status: sum(o.status == status for o in outcomes) for status in (PASSED, FAILED, SKIPPED)},
        "stages": [asdict(outcome) for outcome in outcomes],
    }
    (out / "summary.json").write_text(json.dumps(summary, indent=2) + "\n")
    return summary


def line_of(outcome: Outcome) -> str:
    reason = f"  {outcome.reason}" if outcome.reason else ""
    return f"  {outcome.status:8}{outcome.seconds:6.1f} s{reason}"

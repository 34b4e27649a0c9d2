"""``python -m benchmarks.gpu_check OUT``: runs all stages; results, logs and summary.json land in OUT.

Exit status: 0 if every stage passed, 1 if one failed, 3 if none failed but some were skipped. A check that was
skipped is not a pass.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path

from benchmarks.gpu_check.probe import ROOT
from benchmarks.gpu_check.runner import FAILED, SKIPPED, run_all
from benchmarks.gpu_check.stages import WHOLE, all_stages


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu_check", description=__doc__)
    parser.add_argument("out", type=Path, metavar="OUT")
    parser.add_argument("--seconds", type=float, default=WHOLE, help="for all stages together (default: %(default)s)")
    parser.add_argument("--patience", type=float, default=1, help="times as long for every stage, on a slow machine")
    parser.add_argument("--only", type=lambda text: text.split(","), help="some of the stages: environment,tests")
    arguments = parser.parse_args()
    out = arguments.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    stages = all_stages(out)
    if arguments.only:
        names = [stage.name for stage in stages]
        if unknown := set(arguments.only) - set(names):
            parser.error(f"no stage {', '.join(sorted(unknown))}; there are {', '.join(names)}")
        stages = [stage for stage in stages if stage.name in arguments.only]

    stages = [replace(stage, limit=stage.limit * arguments.patience) for stage in stages]
    seconds = arguments.seconds * arguments.patience
    summary = run_all(stages, out, seconds, ROOT, say=lambda line: print(line, flush=True))
    print(readable(summary, out))
    counts = summary["counts"]
    return 1 if counts[FAILED] else 3 if counts[SKIPPED] else 0


def readable(summary: dict, out: Path) -> str:
    environment = summary["environment"]
    lines = [
        "",
        "  ".join(f"{key} {environment.get(key)}" for key in ("device", "driver", "torch", "cuda", "commit", "date")),
    ]
    for stage in summary["stages"]:
        lines.append(f"{stage['name']:12} {stage['status']:8} {stage['seconds']:6.1f} s  {stage['reason']}".rstrip())
    counts = ", ".join(f"{number} {status}" for status, number in summary["counts"].items())
    return "\n".join([*lines, f"{counts}; logs and summary.json in {out}"])


if __name__ == "__main__":
    sys.exit(main())

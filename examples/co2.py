"""The CO2 record of Mauna Loa, by month: fetched from PyPI once with pip, then read from examples/data/.

Weekly averages from 1958 to 2001, in ppm: C.D. Keeling and T.P. Whorf, "Atmospheric CO2 concentrations derived from
flask air samples at sites in the SIO network" (2004), public domain. The file comes inside the wheels of statsmodels.
"""

import csv
import hashlib
import statistics
import tempfile
import zipfile
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from examples.demo.download import DataUnavailable, pip_download, write_atomically

CACHED_FILE = Path(__file__).parent / "data" / "co2.csv"
INNER_FILE = "statsmodels/datasets/co2/co2.csv"
SHA256 = "16695fa2786e53414e5a6b54767a3fdf5de99cfbc68617f69d1362d92776a92f"
MONTHS = 12
TEST_YEARS = 10


class Series(NamedTuple):
    """The change of CO2 from month to month, in units of its standard deviation; the last ten years are for testing."""

    ppm: Tensor  # (N,), one a month
    changes: Tensor  # (N - 1,)
    scale: float  # ppm
    train: int  # so many changes are for training

    def pairs(self, start: int, stop: int) -> tuple[Tensor, Tensor]:
        """The changes of these months and the ones that follow them, (T, 1, 1) each."""
        x, y = self.changes[start : stop - 1], self.changes[start + 1 : stop]
        return x.view(-1, 1, 1), y.view(-1, 1, 1)

    def error(self, forecast: Tensor) -> float:
        """Root mean square error in ppm of a forecast of all test months."""
        return self.scale * (forecast.flatten() - self.changes[self.train :]).square().mean().sqrt().item()

    @property
    def seasonal_error(self) -> float:
        """Of the guess that a month's change is that of a year before."""
        return self.error(self.changes[self.train - MONTHS : -MONTHS])


def co2_file() -> Path:
    """The cached file, downloaded first if it is not there yet."""
    if not CACHED_FILE.exists():
        print("Fetching the CO2 record (from a wheel of statsmodels on PyPI, 12 MB) ...", flush=True)
        with tempfile.TemporaryDirectory() as folder:
            pip_download(
                ["--only-binary", ":all:", "--dest", folder, "statsmodels"],  # a wheel runs no code
                what="the CO2 record",
                otherwise=f"  1. run `pip download --no-deps statsmodels` and unzip the wheel,\n"
                f"  2. copy {INNER_FILE} to {CACHED_FILE} or name it with --data FILE.",
            )
            (wheel,) = Path(folder).glob("*.whl")
            with zipfile.ZipFile(wheel) as archive:
                content = archive.read(INNER_FILE)
        if hashlib.sha256(content).hexdigest() != SHA256:
            raise DataUnavailable(f"{wheel.name} holds another version of {INNER_FILE} than the one looked at")
        write_atomically(CACHED_FILE, content)
    return CACHED_FILE


def read_co2(path: Path) -> Series:
    """``date,co2`` lines, dates as 19580329, some without a value; a month of none gets the mean of its neighbours."""
    months: dict[str, list[float]] = {}
    try:
        for row in csv.DictReader(path.read_text(encoding="utf-8").splitlines()):
            values = months.setdefault(row["date"][:6], [])
            if row["co2"]:
                values.append(float(row["co2"]))
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path}: not lines of date,co2") from error
    means = [statistics.fmean(values) if values else None for values in months.values()]
    known = [(i, mean) for i, mean in enumerate(means) if mean is not None]
    if len(known) < 2 * TEST_YEARS * MONTHS:
        raise ValueError(f"{path}: {len(known)} months are too few to learn from")
    for i, mean in enumerate(means):
        if mean is None:
            before = max((k for k in known if k[0] < i), default=known[0])
            after = min((k for k in known if k[0] > i), default=known[-1])
            means[i] = (before[1] + after[1]) / 2
    ppm = torch.tensor(means)
    changes = ppm.diff()
    scale = changes.std().item()
    return Series(ppm, changes / scale, scale, len(changes) - TEST_YEARS * MONTHS)

"""The cuts that csrc/cuda/plan.cpp chooses among, again: those of a size, and what a step of each consists of."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

GROUP, WARPS, WARP, PIECE_ROWS, SUM_STRIDE = 16, 8, 32, 2, 20
GATES, FRAGMENT_BYTES = 3, 512
TILES = (1, 2, 4, 8, 16)
REGIMES = ("row", "block", "cluster", "packets", "flags")
ROW_UNITS, ROW_LANES, LARGEST_ROW, ROW_PLACES = 32, 4, 128, 128  # of a CTA with one batch row
REGISTERS = 65536  # of an SM
SMS, SHARED_BYTES, LARGEST_CLUSTER, PORTABLE_CLUSTER = 132, 227 * 1024, 16, 8  # of an H100 or H200


class Traits(NamedTuple):
    """plan.h, traits_of."""

    step: int
    rows: int
    operand_bytes: int
    value_bytes: int
    held: int


TRAITS = {"fp32": Traits(8, 4, 4, 4, 4), "tf32": Traits(8, 8, 4, 4, 10), "bf16": Traits(16, 8, 2, 4, 10)}


def ceil_div(a: int, b: int) -> int:
    return -(-a // b)


@dataclass(frozen=True)
class Cut:
    """``groups`` of units a CTA and ``tiles`` of batch rows a team, for one size in one pass."""

    dtype: str
    B: int
    H: int
    backward: bool
    regime: str
    groups: int
    tiles: int

    @property
    def name(self) -> str:
        """As GRU_FUSED_CUDA_CUT has it."""
        return f"{self.groups}x{self.tiles}"

    @property
    def traits(self) -> Traits:
        return TRAITS[self.dtype]

    @property
    def ctas(self) -> int:
        return ceil_div(ceil_div(self.H, GROUP), self.groups)

    @property
    def is_row(self) -> bool:
        return self.regime == "row"

    @property
    def units(self) -> int:
        return self.groups * GROUP if self.is_row else ceil_div(self.H, GROUP) * GROUP

    @property
    def steps_per_warp(self) -> int:
        steps = self.units // self.traits.step
        return ceil_div(steps, min(WARPS // self.groups, steps))

    @property
    def splits(self) -> int:
        if self.is_row:
            return GROUP * ROW_LANES // WARP
        return ceil_div(self.units // self.traits.step, self.steps_per_warp)

    @property
    def warps(self) -> int:
        return self.groups * self.splits

    @property
    def teams(self) -> int:
        return self.B if self.is_row else ceil_div(self.B, self.tiles * self.traits.rows)

    @property
    def at_once(self) -> int:
        """Teams of a launch."""
        return min(self.teams, SMS // self.ctas) if self.regime in ("packets", "flags") else self.teams

    @property
    def launches(self) -> int:
        return ceil_div(self.teams, self.at_once)

    @property
    def beyond(self) -> int:
        """Fragments of a gate that a warp has in shared memory."""
        return max(0, self.steps_per_warp - self.traits.held)

    @property
    def shared_bytes(self) -> int:
        """plan.h, layout_of and row_shared_bytes."""
        if self.is_row:
            operands, width = (2 * GATES, self.units + 4) if self.backward else (2, self.units)
            return ROW_PLACES * 4 + (operands * self.units + GATES * ROW_UNITS * width) * 4
        _, rows, operand_bytes, value_bytes, _ = self.traits
        rows *= self.tiles
        words = (GATES if self.backward else 1) * self.units * operand_bytes // 4
        buffers = 2 if self.regime in ("block", "cluster") else 1
        operand = buffers * rows * (ceil_div(words, 32) * 32 + 8) * 4
        sums = 2 * self.splits * (1 if self.backward else GATES) * rows * self.groups * SUM_STRIDE * value_bytes
        state = rows * self.groups * GROUP * value_bytes
        return 16 + 64 * 16 + operand + sums + state + self.warps * self.beyond * GATES * FRAGMENT_BYTES

    def can_be(self) -> bool:
        if self.is_row:
            return self.H <= LARGEST_ROW
        if self.shared_bytes > SHARED_BYTES or self.tiles >= 2 * ceil_div(self.B, self.traits.rows):
            return False
        if self.regime == "block":
            return self.ctas == 1
        if self.regime == "cluster":
            return 2 <= self.ctas <= LARGEST_CLUSTER
        return 2 <= self.ctas <= SMS

    def parts(self) -> dict[str, float]:
        """What a step consists of, by the names of the costs in plan.cpp, times how often it is done."""
        if self.is_row:
            return self.parts_of_row()
        rows = min(self.B, self.tiles * self.traits.rows)
        tiles, pieces = ceil_div(rows, self.traits.rows), ceil_div(ceil_div(rows, PIECE_ROWS), self.splits)
        busy = max(1.0, self.warps / 4)
        kilobytes = rows * self.units * self.traits.operand_bytes * (GATES if self.backward else 1) / 1024
        large = "Large" if self.regime == "cluster" and self.ctas > PORTABLE_CLUSTER else ""
        form, back = "fma" if self.dtype == "fp32" else "mma", "Back" if self.backward else ""
        parts = {
            f"kBase.{form}": 1.0,
            f"kFragment{back}.{form}": GATES * self.steps_per_warp * tiles * busy,
            "kShared": self.beyond * GATES * FRAGMENT_BYTES * self.warps * tiles / 1024,
            f"kPiece{back}": (pieces - 1) * busy,
            f"{self.regime}.{'backward' if self.backward else 'forward'}": 1.0,
            f"{self.regime}{large}.kilobyte": kilobytes,
            f"{self.regime}.megabyte": kilobytes * self.ctas * self.at_once / 1024,
        }
        if self.regime == "cluster":
            waves = ceil_div(self.teams, max(1, int(16 // self.ctas * (SMS / 17.5))))
        else:
            waves = ceil_div(self.teams, SMS) if self.regime == "block" else self.launches
        return {name: amount * waves for name, amount in parts.items()}

    def parts_of_row(self) -> dict[str, float]:
        weights = GATES * self.units**2
        at_once = REGISTERS // (self.warps * WARP * min(48 + self.units, 128))
        back = "Back" if self.backward else ""
        parts = {
            f"kRow{back}.base": 1.0,
            f"kRow{back}.weight": weights,
            f"kRow{back}.shared": weights * (min(at_once, ceil_div(self.teams, SMS)) - 1),
        }
        waves = ceil_div(self.teams, at_once * SMS)
        return {name: amount * waves for name, amount in parts.items()}


def cuts_of(dtype: str, B: int, H: int, backward: bool) -> list[Cut]:
    groups = min(ceil_div(H, GROUP), WARPS)
    sizes = [("row", ceil_div(H, ROW_UNITS) * ROW_UNITS // GROUP, 1)]
    sizes += [(regime, n, tiles) for regime in REGIMES[1:] for n in range(1, groups + 1) for tiles in TILES]
    every = (Cut(dtype, B, H, backward, *size) for size in sizes)
    return [cut for cut in every if cut.can_be()]

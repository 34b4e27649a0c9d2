"""A library that was built with the emulator: how its launches run, and what came of them."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

Order = Literal["fifo", "lifo", "random"]


@dataclass(frozen=True)
class Stats:
    launches: int
    switches: int
    barriers: int
    collectives: int
    async_stores: int


class Emulated:
    """`library` has the exported functions; the rest is the emulator's."""

    def __init__(self, path: Path) -> None:
        self.library = ctypes.CDLL(str(path))
        self.library.emulator_last_error.restype = ctypes.c_char_p

    def schedule(self, order: Order, seed: int = 1, late_stores: bool = True) -> None:
        """In which order threads run, and whether st.async and cp.async land as late as they may."""
        number = get_args(Order).index(order)
        self.library.emulator_schedule(number, ctypes.c_ulonglong(seed), int(late_stores))

    def limits(self, livelock_rounds: int = 10_000, max_switches: int = 200_000_000) -> None:
        """How long threads may poll in vain, and how long a launch may take, before it is a livelock."""
        self.library.emulator_limits(ctypes.c_uint(livelock_rounds), ctypes.c_ulonglong(max_switches))

    def device(self, compute_capability: int, sms: int = 0) -> None:
        """The device model: 80, 90, 100 or 120, with all of its SMs or with fewer."""
        self.library.emulator_device(compute_capability, sms)

    @property
    def last_error(self) -> str:
        """Of the latest launch, in words; empty if it succeeded."""
        return self.library.emulator_last_error().decode()

    @property
    def stats(self) -> Stats:
        """Counted since the library was loaded."""
        numbers = (ctypes.c_ulonglong * 5)()
        self.library.emulator_stats(numbers)
        return Stats(*numbers)

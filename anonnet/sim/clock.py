"""Time in the simulator: whole ns of a virtual clock, and what nodes' own clocks make of it."""

from __future__ import annotations

from typing import Final

MS: Final = 1_000_000
SECOND: Final = 1000 * MS
START: Final = 1_000 * SECOND  # of the virtual clock
_MILLION: Final = 1_000_000


class Clock:
    """A node's clock that gains `ppm` parts in a million on the virtual one; both begin at `START`."""

    def __init__(self, ppm: int = 0) -> None:
        if ppm <= -_MILLION:
            raise ValueError("a clock goes forward")
        self._rate = _MILLION + ppm

    def own(self, virtual: int) -> int:
        """Return what this clock shows at a time of the virtual one."""
        return START + (virtual - START) * self._rate // _MILLION

    def virtual(self, own: int) -> int:
        """Return when on the virtual clock this one has come to show `own`."""
        return START - (START - own) * _MILLION // self._rate


TRUE_CLOCK: Final = Clock()

"""Time in the simulator: whole ns of a virtual clock, and what nodes' own clocks make of it."""

from __future__ import annotations

from typing import Final

MS: Final = 1_000_000
SECOND: Final = 1000 * MS
START: Final = 1_000 * SECOND  # of the virtual clock
_MILLION: Final = 1_000_000


class Clock:
    """A node's clock that gains `ppm` parts in a million on the virtual one; both begin at `START`.

    `stood` is how many ns it stood still since: a monotonic clock does while its host is suspended.
    """

    def __init__(self, ppm: int = 0, stood: int = 0) -> None:
        if ppm <= -_MILLION:
            raise ValueError("a clock goes forward")
        self.ppm = ppm
        self.stood = stood
        self._rate = _MILLION + ppm

    def own(self, virtual: int) -> int:
        """Return what this clock shows at a time of the virtual one."""
        return START + (virtual - START) * self._rate // _MILLION - self.stood

    def virtual(self, own: int) -> int:
        """Return when on the virtual clock this one has come to show `own`."""
        return START - (START - own - self.stood) * _MILLION // self._rate

    def later(self, stood: int) -> Clock:
        """Return this clock after it has stood still for another while."""
        return Clock(self.ppm, self.stood + stood)


TRUE_CLOCK: Final = Clock()

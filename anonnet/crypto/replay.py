"""Sliding replay window over a link's 64-bit counters (the idea of RFC 6479, on one big integer)."""

from __future__ import annotations

from typing import Final

WINDOW: Final = 2048  # counters; at t3 about half a second of cells
_MASK: Final = (1 << WINDOW) - 1


class ReplayWindow:
    """Which of the last `WINDOW` counters have been seen. Ask only about authenticated datagrams.

    Counters nearly always come in order, so an unbroken run at the top is kept as its length alone.
    """

    __slots__ = ("_base", "_seen", "greatest")

    def __init__(self) -> None:
        self.greatest = -1  # counter seen
        self._base = -1  # those after it, up to `greatest`, have all been seen
        self._seen = 0  # bit i: counter (base - i)

    def accept(self, counter: int) -> bool:
        """Return True, once, for each counter that is new and not older than the window."""
        if counter == self.greatest + 1:
            self.greatest = counter
            return True
        self._fold()
        ahead = counter - self.greatest
        if ahead > 0:
            self.greatest = self._base = counter
            self._seen = (self._seen << ahead | 1) & _MASK if ahead < WINDOW else 1
            return True
        if ahead <= -WINDOW or self._seen >> -ahead & 1:
            return False
        self._seen |= 1 << -ahead
        return True

    def _fold(self) -> None:
        """Write the unbroken run into the bits."""
        run = self.greatest - self._base
        self._base = self.greatest
        self._seen = (self._seen << run | (1 << run) - 1) & _MASK if run < WINDOW else _MASK

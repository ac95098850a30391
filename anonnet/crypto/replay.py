"""Sliding replay window over a link's 64-bit counters (the idea of RFC 6479, on one big integer)."""

from __future__ import annotations

from typing import Final

WINDOW: Final = 2048  # counters; at t3 about half a second of cells
_MASK: Final = (1 << WINDOW) - 1


class ReplayWindow:
    """Which of the last `WINDOW` counters have been seen. Ask only about authenticated datagrams."""

    __slots__ = ("_greatest", "_seen")

    def __init__(self) -> None:
        self._greatest = -1
        self._seen = 0  # bit i: counter (greatest - i)

    def accept(self, counter: int) -> bool:
        """Return True, once, for each counter that is new and not older than the window."""
        ahead = counter - self._greatest
        if ahead == 1:  # in order: nearly always
            self._greatest = counter
            self._seen = (self._seen << 1 | 1) & _MASK
            return True
        if ahead > 0:
            self._greatest = counter
            self._seen = (self._seen << ahead | 1) & _MASK if ahead < WINDOW else 1
            return True
        if ahead <= -WINDOW or self._seen >> -ahead & 1:
            return False
        self._seen |= 1 << -ahead
        return True

"""Whether a route still delivers, judged at its end by the cells that are recognised there.

Caller and exit fill every slot, so what does not come is missing. Three grades (docs/protocol.md section 5,
"Teardown rule"): after a short silence no more data is entrusted to the route; after a long one, or when too
large a share of a while is missing, the route is gone. A node that stalls for a second costs that second.
"""

from __future__ import annotations

from typing import Final

from anonnet.proto.orders import RATE_UNIT

MS: Final = 1_000_000
QUIET_NS: Final = 200 * MS  # or the time of QUIET_CELLS, whichever is longer
QUIET_CELLS: Final = 8
GONE_NS: Final = 1_500 * MS
GONE_CELLS: Final = 60
WHILE_NS: Final = 5_000 * MS
WHILE_CELLS: Final = 200
LEAST_SHARE: Final = 0.7  # of the cells of a while


class Health:
    """One route's end. `rate` is what should come, in millicells per second; times are monotonic ns."""

    __slots__ = (
        "_counted",
        "_gone",
        "_last",
        "_leaving",
        "_per_cell",
        "_since",
        "_told",
        "_while",
        "quiet_after",
        "well",
    )

    def __init__(self, rate: int, now: int) -> None:
        self._per_cell = RATE_UNIT // rate
        self.quiet_after = max(QUIET_NS, QUIET_CELLS * self._per_cell)
        self._gone = max(GONE_NS, GONE_CELLS * self._per_cell)
        self._while = max(WHILE_NS, WHILE_CELLS * self._per_cell)
        self._last = self._since = now
        self._counted = 0
        self._told = False
        self._leaving = False
        self.well = True  # whether data may be entrusted to the route

    def heard(self, now: int) -> None:
        """A recognised cell came."""
        self._last = now
        self._counted += 1

    def leave(self) -> None:
        """The route is to end: it gets no more data."""
        self._leaving = True
        self.well = False

    def check(self, now: int) -> bool:
        """Judge; True once, when the route is gone."""
        silence = now - self._last
        self.well = silence <= self.quiet_after and not self._leaving
        gone = silence > self._gone
        if now - self._since >= self._while:
            gone |= self._counted * self._per_cell < LEAST_SHARE * (now - self._since)
            self._since = now
            self._counted = 0
        if not gone or self._told:
            return False
        self._told = True
        return True

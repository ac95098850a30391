"""What a bad network does to packets, as a seeded rule. Pure: packets and time in, packets and deadline out.

The fate of the n-th packet from one address to another follows from the seed, the two addresses and n alone,
so a run can be repeated and predicted whatever else crosses the router.
"""

from __future__ import annotations

import random
from collections import Counter
from heapq import heappop, heappush
from typing import Final

import msgspec

from anonnet.errors import OperatorError

QUEUE_LIMIT: Final = 200_000  # packets in flight; a router's memory is not endless either
_V4: Final = slice(12, 20)  # source and destination in an IPv4 header
_V6: Final = slice(8, 40)


class Rule(msgspec.Struct, frozen=True):
    """What happens to each packet: shares are 0..1, times nanoseconds.

    delay: added to every packet. jitter: up to so much more, order kept. reorder: this share is held back for
    `hold` more, so that later packets overtake it. duplicate: this share arrives twice. drop: never arrives.
    """

    drop: float = 0.0
    duplicate: float = 0.0
    reorder: float = 0.0
    delay: int = 0
    jitter: int = 0
    hold: int = 10_000_000
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("drop", "duplicate", "reorder"):
            if not 0 <= getattr(self, name) <= 1:
                raise OperatorError(f"weather: {name} is {getattr(self, name):.3g}", "a share is 0% to 100%")
        if min(self.delay, self.jitter, self.hold) < 0:
            raise OperatorError("weather: a negative time", "delay, jitter and hold are 0 ms or more")


class _Flow:
    """One direction between two addresses: its own draws, and when its last packet is due."""

    __slots__ = ("draw", "last")

    def __init__(self, seed: str) -> None:
        self.draw = random.Random(seed).random  # noqa: S311  repeatable on purpose
        self.last = 0


class Weather:
    """Applies a rule. `submit` packets as they come; `due` hands over those whose time has come."""

    def __init__(self, rule: Rule) -> None:
        self.rule = rule
        self.counts: Counter[str] = Counter()
        self._flows: dict[bytes, _Flow] = {}
        self._heap: list[tuple[int, int, bytes]] = []  # due, order of arrival, packet
        self._serial = 0

    def submit(self, packet: bytes, now: int) -> None:
        """Decide the fate of one IP packet that arrived at `now` (ns)."""
        rule, counts = self.rule, self.counts
        ends = packet[_V4] if packet[0] >> 4 == 4 else packet[_V6]
        flow = self._flows.get(ends)
        if flow is None:
            flow = self._flows[ends] = _Flow(f"{rule.seed}/{ends.hex()}")
        draw = flow.draw
        # Four draws for every packet, used or not: changing one share leaves the other fates as they were.
        drop, duplicate, reorder, jitter = draw(), draw(), draw(), draw()
        counts["received"] += 1
        if drop < rule.drop:
            counts["dropped"] += 1
            return
        if len(self._heap) >= QUEUE_LIMIT:
            counts["overflowed"] += 1
            return
        at = now + rule.delay + int(jitter * rule.jitter)
        if reorder < rule.reorder:
            counts["reordered"] += 1
            at += rule.hold
        else:
            flow.last = at = max(at, flow.last)
        self._serial += 1
        heappush(self._heap, (at, self._serial, packet))
        if duplicate < rule.duplicate:
            counts["duplicated"] += 1
            self._serial += 1
            heappush(self._heap, (at, self._serial, packet))

    def due(self, now: int) -> list[bytes]:
        """Take out the packets due by `now`, in order."""
        heap, out = self._heap, []
        while heap and heap[0][0] <= now:
            out.append(heappop(heap)[2])
        self.counts["sent"] += len(out)
        return out

    def next_deadline(self) -> int | None:
        """Return when the next packet is due (ns); None if none waits."""
        return self._heap[0][0] if self._heap else None

"""What the parts of a hop take, hot and one by one: planes moved by hand, medians of many ticks.

`seal` and `open` are timed on link nulls, a layer by itself; `switch` is what the relay's plane takes beyond
those: finding session and route, replay window, queue, pacing. The real thing, with its sockets and its
cold caches, is in `relay`.
"""

from __future__ import annotations

import os
import statistics
import sys
import time
import tracemalloc
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from anonnet.bench.planes import Site, join, lay_routes, layer_keys, left, right
from anonnet.proto import orders as o
from anonnet.proto.engine import Engine, choose
from anonnet.proto.inbox import NAME_LEN, STRIDE, Inbox
from anonnet.proto.plane import Plane
from anonnet.proto.profile import Schedule
from anonnet.spec import Format
from anonnet.wire.cell import rows

CELLS: Final = 22  # per tick and link: t3 with wide cells
SCHEDULE: Final = Schedule(5_000_000, CELLS, CELLS)
HERE: Final = o.Endpoint("raw", "192.0.2.1", 0)
SITE: Final = Site(HERE, HERE, HERE)
WARM_TICKS: Final = 20


@dataclass(frozen=True)
class Parts:
    """Microseconds for each cell, but for the last two."""

    seal: float
    open: float
    encipher: float
    decipher: float
    switch: float
    kept_blocks: float  # memory blocks that a forwarded cell leaves behind
    peak_kib: float  # memory that forwarding a tick takes and gives back


class Wire:
    """Carries one link's outbox to the plane at its other end."""

    def __init__(self, source: Plane, link: int, target: Plane) -> None:
        self._link, self._target = source.links[link], target
        count = self._link.outbox.count
        self._inbox = Inbox(count, 0, lambda index: HERE, bytearray(count * NAME_LEN))

    def carry(self) -> None:
        """Copy what is ready; `deliver` takes it up."""
        for index, view in enumerate(self._link.outbox.views[: self._link.ready]):
            self._inbox.memory[index * STRIDE : index * STRIDE + len(view)] = view
        self._inbox.lengths = [self._link.outbox.length] * self._link.ready

    def deliver(self, now: int) -> None:
        """Let the other end open and switch them."""
        self._target.receive(self._inbox, now)


class Chain:
    """Caller, relay and exit, one tick at a time."""

    def __init__(
        self, fmt: Format, engine: Engine | None = None, *, schedule: Schedule = SCHEDULE,
        links: int = 1, routes: int = 1,
    ) -> None:  # fmt: skip
        self.caller, self.relay, self.exit = (Plane(0, os.urandom, engine=engine) for _ in range(3))
        lay_routes(self.caller, self.relay, self.exit, fmt, schedule, SITE, links, routes)
        each = range(links)
        self._in = [Wire(self.caller, left(i), self.relay) for i in each]
        self._in += [Wire(self.exit, right(i), self.relay) for i in each]
        self._out = [Wire(self.relay, left(i), self.caller) for i in each]
        self._out += [Wire(self.relay, right(i), self.exit) for i in each]

    def feed(self) -> int:
        """Let the ends seal a tick and carry it to the relay; return the time."""
        for plane in (self.caller, self.exit):
            tick(plane)
        for wire in self._in:
            wire.carry()
        (beat,) = self.relay.beats.values()
        return beat.deadline

    def forward(self, now: int) -> None:
        """All that the relay's plane does in a tick."""
        for wire in self._in:
            wire.deliver(now)
        tick(self.relay)

    def drain(self, now: int) -> None:
        """Carry the relay's tick to the ends."""
        for wire in self._out:
            wire.carry()
            wire.deliver(now)

    def lost(self) -> int:
        """Cells that the exit missed or could not read."""
        return sum(route.missing for route in self.exit._stats(0).routes)


def tick(plane: Plane) -> None:
    """Seal a plane's next tick and count it as sent."""
    (beat,) = plane.beats.values()
    plane.prepare(beat)
    plane.emitted(beat, beat.deadline)


def measure(fmt: Format, ticks: int) -> Parts:
    """Measure every part of one format."""
    seal, open_ = _nulls(fmt, ticks)
    encipher, decipher = _layers(fmt, ticks)
    chain = Chain(fmt)
    forwarding = _forwarding(chain, ticks)
    kept, peak = _memory(chain, ticks)
    return Parts(seal, open_, encipher, decipher, forwarding - seal - open_ - encipher, kept, peak)


def _median_us(work: Callable[[], object], times: int, cells: int = CELLS) -> float:
    """Return the median cost of `work` in microseconds for each of its `cells`."""
    return statistics.median(_timed(work) for _ in range(times)) / cells / 1000


def _timed(work: Callable[[], object]) -> int:
    start = time.perf_counter_ns()
    work()
    return time.perf_counter_ns() - start


def _nulls(fmt: Format, ticks: int) -> tuple[float, float]:
    one, other = Plane(0, os.urandom), Plane(0, os.urandom)
    join(one, other, left(0), fmt, SCHEDULE, HERE, HERE)
    wire = Wire(one, left(0), other)
    sealed, opened = [], []
    for _ in range(ticks):
        sealed.append(_timed(lambda: tick(one)))
        wire.carry()
        opened.append(_timed(lambda: wire.deliver(0)))
    return statistics.median(sealed) / CELLS / 1000, statistics.median(opened) / CELLS / 1000


def _layers(fmt: Format, ticks: int) -> tuple[float, float]:
    layer, (row,) = choose().layer(layer_keys()), rows(fmt, 1)
    encipher = _median_us(lambda: [layer.encipher(slot, row, row) for slot in range(CELLS)], ticks)
    decipher = _median_us(lambda: [layer.decipher(slot, row) for slot in range(CELLS)], ticks)
    return encipher, decipher


def _forwarding(chain: Chain, ticks: int) -> float:
    costs = []
    for _ in range(ticks):
        now = chain.feed()
        costs.append(_timed(lambda at=now: chain.forward(at)))  # type: ignore[misc]
        chain.drain(now)
    assert chain.lost() <= 2 * CELLS, "the exit must read all but the relay's first substitutes"
    return statistics.median(costs) / (2 * CELLS) / 1000


def _memory(chain: Chain, ticks: int) -> tuple[float, float]:
    """Return blocks kept for each cell, and the greatest passing use of memory in a tick, in KiB."""

    def forward() -> None:
        now = chain.feed()
        chain.forward(now)
        chain.drain(now)
        for plane in (chain.caller, chain.relay, chain.exit):
            plane.reports.clear()  # as control would

    for _ in range(WARM_TICKS):
        forward()
    before = sys.getallocatedblocks()
    for _ in range(ticks):
        forward()
    kept = sys.getallocatedblocks() - before
    tracemalloc.start()
    try:
        peaks = []
        for _ in range(WARM_TICKS):
            now = chain.feed()
            tracemalloc.reset_peak()
            before, _ = tracemalloc.get_traced_memory()
            chain.forward(now)
            peaks.append(tracemalloc.get_traced_memory()[1] - before)
            chain.drain(now)
    finally:
        tracemalloc.stop()
    return kept / ticks / (2 * CELLS), max(peaks[1:]) / 1024

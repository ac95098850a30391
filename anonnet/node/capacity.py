"""Whether this host can hold the links that it is to have: measured at start, in CPU time.

A link sends all its slots, whatever they hold, so what a node must do is known before it begins. Routes take
their slots from those of links and never more than there are: a node that can hold its links full of others'
routes, a layer for each cell that comes in, can hold any route that it is asked for. What opening and sealing
take can be shared by several cores; what the kernel does for each datagram is one thread's, and so are the
layers of a burst if all of it is one route's, which nothing forbids.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

from anonnet.crypto.onion import LayerKeys
from anonnet.crypto.suite import ANONNET_2026, Suite
from anonnet.errors import OperatorError
from anonnet.proto.engine import Engine
from anonnet.proto.link import LinkPeer
from anonnet.proto.profile import SECOND_NS
from anonnet.spec import HEADER_LEN, TAG_LEN, Format
from anonnet.wire.cell import rows

CELLS: Final = 32  # timed at once
TRIES: Final = 5  # the best counts: others may be at the caches
SHARE: Final = 0.8  # of a core that the data plane may plan with; the rest is for its ends, and for the host
EASY: Final = 0.6  # of a core that one thread does by itself: a second one costs half as much again in all
SPREAD: Final = 1.55  # how much more all of it takes in all if it is shared: cells go from cache to cache
TICK_US: Final = 180.0  # what a tick costs beside its cells (docs/performance.md)
SEND_US: Final = {"raw": 3.0, "udp": 1.0}  # of the kernel's for each cell (docs/performance.md) ...
RECEIVE_US: Final = 1.0  # ... and of the loop's


class Cost(NamedTuple):
    """Microseconds: sealing a cell that goes out, opening one that comes in, and its layer."""

    out: float
    into: float
    layer: float


def measure(suite: Suite, engine: Engine, fmt: Format) -> Cost:
    """Time sealing, opening and a layer."""
    key, nonce = os.urandom(suite.link_key_len), memoryview(os.urandom(HEADER_LEN))
    seal, open_ = engine.sealer(key), engine.opener(key)
    layer = engine.layer(LayerKeys(os.urandom(32), os.urandom(32), os.urandom(32)))
    row, sealed = rows(fmt, 1)[0], memoryview(bytearray(fmt.cell_len + TAG_LEN))
    out = _best(lambda: seal(nonce, row.cell, None, sealed))
    opened = _best(lambda: open_(nonce, sealed, None, row.cell))
    return Cost(out, opened, _best(lambda: layer.encipher(1, row, row)))


def _best(work: Callable[[], object]) -> float:
    found = []
    for _ in range(TRIES):
        start = time.thread_time_ns()
        for _ in range(CELLS):
            work()
        found.append(time.thread_time_ns() - start)
    return min(found) / CELLS / 1000


class Load(NamedTuple):
    """Shares of a core that links take when they are full of routes."""

    own: float  # that one thread must do
    layers: float  # that one thread must do if few routes fill the links
    shared: float  # that several can

    def on(self, threads: int) -> float:
        """Return the share of its core that the busiest thread takes, at the worst."""
        return self.own + (self.layers + self.shared / threads) * (1.0 if threads == 1 else SPREAD)


def load(links: Sequence[LinkPeer], cost: Callable[[Format], Cost]) -> Load:
    """Return what the links take."""
    own = sum(TICK_US * 1000 / tick_ns for tick_ns in {link.schedule.tick_ns for link in links})
    layers = shared = 0.0
    for link in links:
        schedule, (out, into, layer) = link.schedule, cost(link.profile.format)
        ticks_per_us = 1000 / schedule.tick_ns
        sending = schedule.cells_out * SEND_US[link.endpoint.transport]
        own += (sending + schedule.cells_in * RECEIVE_US) * ticks_per_us
        layers += schedule.cells_in * layer * ticks_per_us
        shared += (schedule.cells_out * out + schedule.cells_in * into) * ticks_per_us
    return Load(own, layers, shared)


def _best_threads(needs: Load, cores: int) -> int:
    """Choose the fewest threads that have it easy, or those that have it easiest."""
    counts = range(1, cores + 1)
    return next((n for n in counts if needs.on(n) <= EASY), min(counts, key=needs.on))


def require(links: Sequence[LinkPeer], suite: Suite, engine: Engine, threads: int | None = None,
            cores: int | None = None) -> int:  # fmt: skip
    """Return how many threads the data plane is to have; OperatorError if it could not hold the links.

    `threads` are wanted, None: as many as it takes; `cores` can be used, None: all that this process may.
    """
    costs = {fmt: measure(suite, engine, fmt) for fmt in {link.profile.format for link in links}}
    needs = load(links, costs.__getitem__)
    usable = (cores or len(os.sched_getaffinity(0))) if engine.name == "native" else 1
    best = _best_threads(needs, usable)
    chosen = best if threads is None else min(threads, usable)
    share = needs.on(chosen)
    if share > SHARE:
        cells = sum(
            (link.schedule.cells_out + link.schedule.cells_in) * SECOND_NS // link.schedule.tick_ns
            for link in links
        )
        what = f"these links' {cells} cells a second need {share:.0%} of a core; {SHARE:.0%} can be had"
        if chosen > 1:
            what += f" ({chosen} threads share it)"
        hint = "configure fewer links, or slower profiles"
        if engine.name != "native" and suite is ANONNET_2026:
            hint += "; the native data plane carries more"
        if chosen != best:
            hint += f"; or {best} data_plane.threads"
        raise OperatorError(what, hint)
    return chosen

"""What threads are worth to a data plane: a relay's plane moved by hand, by the wall's clock and the CPU's.

    python -m anonnet.bench.crew [--links 8] [--routes 64] [--cells 512] [--threads 1 2]

No sockets: what the kernel takes for each datagram is not in it, and stays on one thread. What comes in a
tick comes in batches of the size that the driver receives, its links' bursts one after the other.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Final

from anonnet.bench.parts import HERE
from anonnet.bench.planes import join, layer_keys
from anonnet.net.mmsg import BATCH
from anonnet.proto import orders as o
from anonnet.proto.engine import Engine, choose
from anonnet.proto.inbox import NAME_LEN, STRIDE, Inbox
from anonnet.proto.plane import Plane
from anonnet.proto.profile import Schedule
from anonnet.spec import WIDE

TICK_NS: Final = 5_000_000
WARM: Final = 10


@dataclass(frozen=True)
class Shared:
    """Microseconds for each cell that a relay forwards: medians of the relay's ticks."""

    threads: int
    wall: float
    cpu: float  # of all threads, those that wait for work included
    take_in: float  # of `wall`: opening, switching, enciphering
    seal: float  # of `wall`: choosing and sealing


class Relay:
    """A relay between neighbours on the left and on the right, every slot a route's."""

    def __init__(self, engine: Engine, links: int, routes: int, cells: int) -> None:
        self.plane = Plane(0, os.urandom, engine=engine)
        self._ends = [Plane(0, os.urandom, engine=engine) for _ in range(2)]
        per_link, per_route = cells // links, cells // routes
        schedule = Schedule(TICK_NS, per_link, per_link)
        for side, end in enumerate(self._ends):
            for number in range(links):
                join(end, self.plane, 2 * number + side + 1, WIDE, schedule, HERE, HERE)
        rate = per_route * o.RATE_UNIT // TICK_NS
        for route in range(1, routes + 1):
            left, right = 2 * (route % links) + 1, 2 * (route % links) + 2
            forward, backward = layer_keys(), layer_keys()
            self.plane.obey(o.AddRelayRoute(route, left, 255 + route, rate, rate, forward, backward, 7))
            self.plane.obey(o.ExtendRelayRoute(route, right, 255 + route))
            # An end that only fills its slots: what it sends need not make sense to anybody.
            for end, link in zip(self._ends, (left, right), strict=True):
                end.obey(o.AddCallerRoute(route, link, 255 + route, rate, rate))
                end.obey(o.AddHop(route, layer_keys(), layer_keys(), 0, 0))
        self._inbox = Inbox(BATCH, 0, lambda _: HERE, bytearray(BATCH * NAME_LEN))

    def tick(self) -> tuple[int, int, int]:
        """Let a tick go by; return ns of wall time taking in and sealing, and of CPU time of both."""
        batches = []
        for end in self._ends:
            (beat,) = end.beats.values()
            links = end.prepare(beat)
            datagrams = [bytes(view) for link in links for view in link.outbox.views[: link.ready]]
            batches += [datagrams[at : at + BATCH] for at in range(0, len(datagrams), BATCH)]
            end.emitted(beat, beat.deadline)
        (beat,) = self.plane.beats.values()
        took_in = cpu = 0
        for batch in batches:
            for index, datagram in enumerate(batch):
                self._inbox.memory[index * STRIDE : index * STRIDE + len(datagram)] = datagram
            self._inbox.lengths = [len(datagram) for datagram in batch]
            start, began = time.process_time_ns(), time.perf_counter_ns()
            self.plane.receive(self._inbox, beat.deadline)
            took_in += time.perf_counter_ns() - began
            cpu += time.process_time_ns() - start
        start, began = time.process_time_ns(), time.perf_counter_ns()
        self.plane.prepare(beat)
        sealed = time.perf_counter_ns() - began
        cpu += time.process_time_ns() - start
        self.plane.emitted(beat, beat.deadline)
        for plane in (self.plane, *self._ends):
            plane.reports.clear()
        return took_in, sealed, cpu


def measure(threads: int, links: int, routes: int, cells: int, ticks: int) -> Shared:
    """Measure a relay of `cells` a tick each way with so many threads."""
    engine = choose()
    had = engine.threads(threads)
    try:
        relay = Relay(engine, links, routes, cells)
        for _ in range(WARM):
            relay.tick()
        took_in, sealed, cpu = (
            statistics.median(column) / (2 * cells) / 1000
            for column in zip(*(relay.tick() for _ in range(ticks)), strict=True)
        )
        return Shared(had, took_in + sealed, cpu, took_in, sealed)
    finally:
        engine.threads(1)


def main(arguments: Sequence[str] | None = None) -> None:
    """Print a line of JSON for each number of threads."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--links", type=int, default=8, help="on each side")
    parser.add_argument("--routes", type=int, default=64)
    parser.add_argument("--cells", type=int, default=512, help="a tick, each way")
    parser.add_argument("--ticks", type=int, default=300)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    given = parser.parse_args(arguments)
    for threads in given.threads:
        found = measure(threads, given.links, given.routes, given.cells, given.ticks)
        print(json.dumps({key: round(value, 3) for key, value in asdict(found).items()}))


if __name__ == "__main__":
    main()

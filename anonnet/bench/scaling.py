"""How a cell's cost and a whole chain grow with links, routes and nodes."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from anonnet.bench import chain, relay
from anonnet.bench.parts import Chain
from anonnet.proto.profile import Schedule, parse_profile
from anonnet.spec import WIDE

CELLS: Final = 512  # a tick in all, each way, whatever the number of links
GRID: Final = ((1, 1), (1, 64), (1, 500), (8, 8), (64, 64), (64, 500))  # links on each side, routes
TICK_NS: Final = 5_000_000
RELAYS: Final = (  # rate of a link, links on each side, routes: 64 cells a tick in all each way,
    ("128m:5ms", 1, 1), ("128m:5ms", 1, 64), ("128m:5ms", 1, 500), ("16m:5ms", 8, 64), ("2m:5ms", 64, 64),
    ("2m:5ms", 1, 1), ("2m:5ms", 8, 8),  # and links of one cell, like the last of those
)  # fmt: skip
RUNS: Final = 3
SECONDS_OF_RELAY: Final = 3.0
HOPS: Final = (2, 5, 8, 11)  # with the caller, 3 to 12 nodes
NODES_RATE: Final = "10m"


@dataclass(frozen=True)
class Cost:
    """A relay's plane moved by hand: CPU time for each cell, with nothing of the kernel's."""

    links: int  # on each side
    routes: int
    us: float


@dataclass(frozen=True)
class Whole(Cost):
    """A whole relay, the kernel's part included; the median of several runs."""

    transport: str
    rate: str  # of a link


@dataclass(frozen=True)
class Scaling:
    """All of it; `nodes` and `relays` need root."""

    costs: list[Cost]
    nodes: list[chain.Measured]
    relays: list[Whole] = field(default_factory=list)


def measure(ticks: int, seconds: float, root: bool, say: Callable[[str], None]) -> Scaling:
    """Measure all of it."""
    costs = []
    for links, routes in GRID:
        say(f"{links} links on each side, {routes} routes")
        costs.append(Cost(links, routes, cost(links, routes, ticks)))
    relays = _relays(say) if root else []
    nodes = []
    for hops in HOPS if root else ():
        say(f"{hops + 1} nodes in a row")
        nodes.append(chain.measure(NODES_RATE, "raw", seconds, hops=hops, flows=("down",), pages=False))
    return Scaling(costs, nodes, relays)


def _relays(say: Callable[[str], None]) -> list[Whole]:
    """Measure all in turn, several times: what else the machine does then falls on each alike."""
    runs: dict[tuple[int, int, str, str], list[float]] = {}
    for number in range(RUNS):
        for rate, links, routes in RELAYS:
            for transport in ("raw", "udp"):
                say(f"run {number + 1}: relay, {transport}, {links} links of {rate} a side, {routes} routes")
                profile = parse_profile(rate)
                ran = relay.forward(profile, transport, SECONDS_OF_RELAY, links=links, routes=routes)
                runs.setdefault((links, routes, transport, rate), []).append(ran.cpu_us)
    return [
        Whole(links, routes, statistics.median(costs), transport, rate)
        for (links, routes, transport, rate), costs in runs.items()
    ]


def cost(links: int, routes: int, ticks: int) -> float:
    """Return the CPU time of a relay's plane for each cell, us; median of so many ticks."""
    cells = CELLS // links
    row = Chain(WIDE, schedule=Schedule(TICK_NS, cells, cells), links=links, routes=routes)
    costs = []
    for number in range(ticks + 2):  # two until its queues are filled
        now = row.feed()
        began = time.thread_time_ns()
        row.forward(now)
        if number >= 2:
            costs.append(time.thread_time_ns() - began)
        row.drain(now)
    return statistics.median(costs) / (2 * CELLS) / 1000

"""How a cell's cost and a whole chain grow with links, routes and nodes."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from anonnet.bench import chain, mesh, relay
from anonnet.bench.mesh import Mesh
from anonnet.bench.parts import Chain
from anonnet.proto.profile import Schedule, parse_profile
from anonnet.spec import WIDE

CELLS: Final = 512  # a tick in all, each way, whatever the number of links
GRID: Final = ((1, 1), (1, 64), (1, 500), (8, 8), (64, 64), (64, 500))  # links on each side, routes
TICK_NS: Final = 5_000_000
LOADED, LIGHT, ADDED = "loaded", "lightly loaded", "links of a cell each"
RELAYS: Final = {  # rate of a link, links on each side, routes
    LOADED: (  # 512 cells a tick in all each way: what so many links and routes are there for
        ("512m:10ms", 1, 1), ("512m:10ms", 1, 64), ("512m:10ms", 1, 500), ("64m:10ms", 8, 64),
        ("8m:10ms", 64, 64), ("8m:10ms", 64, 500),
    ),
    LIGHT: (  # 64 cells
        ("128m:5ms", 1, 1), ("128m:5ms", 1, 64), ("128m:5ms", 1, 500), ("16m:5ms", 8, 64), ("2m:5ms", 64, 64),
    ),
    ADDED: (("2m:5ms", 1, 1), ("2m:5ms", 8, 8), ("2m:5ms", 64, 64)),
}  # fmt: skip
RUNS: Final = 3
SECONDS_OF_RELAY: Final = 3.0
HOPS: Final = (2, 5, 8, 11)  # with the caller, 3 to 12 nodes
MESHES: Final = (3, 6, 9, 12)  # nodes
NODES_RATE: Final = "10m"  # of a link, of chains and meshes


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
    load: str = LIGHT  # a name of RELAYS
    missed: float = 0.0  # share of the cells that came late or not at all, in the worst run
    skipped: int = 0  # ticks, in all runs


@dataclass(frozen=True)
class Scaling:
    """All of it; only `costs` needs no root."""

    costs: list[Cost]
    nodes: list[chain.Measured]  # in a row
    relays: list[Whole] = field(default_factory=list)
    meshes: list[Mesh] = field(default_factory=list)


def measure(ticks: int, seconds: float, root: bool, say: Callable[[str], None]) -> Scaling:
    """Measure all of it."""
    costs = []
    for links, routes in GRID:
        say(f"{links} links on each side, {routes} routes")
        costs.append(Cost(links, routes, cost(links, routes, ticks)))
    if not root:
        return Scaling(costs, [])
    relays = _relays(say)
    nodes = []
    for hops in HOPS:
        say(f"{hops + 1} nodes in a row")
        nodes.append(chain.measure(NODES_RATE, "raw", seconds, hops=hops, flows=("down",), pages=False))
    meshes = []
    for number in MESHES:
        say(f"a mesh of {number} nodes")
        meshes.append(mesh.measure(number, NODES_RATE, seconds))
    return Scaling(costs, nodes, relays, meshes)


def _relays(say: Callable[[str], None]) -> list[Whole]:
    """Measure all in turn, several times: what else the machine does then falls on each alike."""
    wanted = dict.fromkeys((transport, *row) for transport in ("raw", "udp")
                           for rows in RELAYS.values() for row in rows)  # fmt: skip
    runs: dict[tuple[str, str, int, int], list[relay.Forwarded]] = {one: [] for one in wanted}
    for number in range(RUNS):
        for (transport, rate, links, routes), done in runs.items():
            say(f"run {number + 1}: relay, {transport}, {links} links of {rate} a side, {routes} routes")
            profile = parse_profile(rate)
            done.append(relay.forward(profile, transport, SECONDS_OF_RELAY, links=links, routes=routes))
    return [
        Whole(
            links, routes, statistics.median(run.cpu_us for run in done), transport, rate, load,
            max(run.missing / (run.cells + run.missing) for run in done), sum(run.skipped for run in done),
        )
        for load, rows in RELAYS.items()
        for (transport, rate, links, routes), done in runs.items()
        if (rate, links, routes) in rows
    ]  # fmt: skip


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

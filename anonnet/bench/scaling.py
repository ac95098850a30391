"""How a cell's cost, a node's memory and a whole chain grow with links, routes and nodes."""

from __future__ import annotations

import multiprocessing
import os
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from anonnet.bench import chain, memory
from anonnet.bench.parts import HERE, Chain
from anonnet.bench.planes import FIRST_ROUTE_ID, add_hop, add_link, layer_keys, left, right
from anonnet.node.privileges import cling
from anonnet.proto import orders as o
from anonnet.proto.orders import RATE_UNIT
from anonnet.proto.plane import Plane
from anonnet.proto.profile import Schedule
from anonnet.spec import WIDE

CELLS: Final = 512  # a tick in all, each way, whatever the number of links
GRID: Final = ((1, 1), (1, 64), (1, 500), (8, 8), (64, 64), (64, 500))  # links on each side, routes
TICK_NS: Final = 5_000_000
HOPS: Final = (2, 5, 8, 11)  # with the caller, 3 to 12 nodes
NODES_RATE: Final = "10m"
ROUTES: Final = 500  # of which the memory is taken
LINKS: Final = 64
LINK_CELLS: Final = 20
_FORK: Final = multiprocessing.get_context("fork")


@dataclass(frozen=True)
class Cost:
    """A relay's plane moved by hand: CPU time for each cell, with nothing of the kernel's."""

    links: int  # on each side
    routes: int
    us: float


@dataclass(frozen=True)
class Growth:
    """What one more takes of a data plane's resident memory, KiB."""

    route_kib: float  # at a relay, a cell a tick each way
    link_kib: float  # of 20 cells a tick


@dataclass(frozen=True)
class Scaling:
    """All of it; `nodes` need root."""

    costs: list[Cost]
    growth: Growth
    nodes: list[chain.Measured]


def measure(ticks: int, seconds: float, root: bool, say: Callable[[str], None]) -> Scaling:
    """Measure all of it."""
    costs = []
    for links, routes in GRID:
        say(f"{links} links on each side, {routes} routes")
        costs.append(Cost(links, routes, cost(links, routes, ticks)))
    nodes = []
    for hops in HOPS if root else ():
        say(f"{hops + 1} nodes in a row")
        nodes.append(chain.measure(NODES_RATE, "raw", seconds, hops=hops, flows=("down",), pages=False))
    return Scaling(costs, growth(), nodes)


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


def growth() -> Growth:
    """Return what links and routes add to the memory of a process that has nothing else to do."""
    return Growth(_in_a_child(_add_routes) / ROUTES, _in_a_child(_add_links) / (2 * LINKS))


def _add_routes() -> float:
    relay, schedule = Plane(0, os.urandom), Schedule(TICK_NS, ROUTES, ROUTES)
    for link in (left(0), right(0)):
        add_link(relay, link, WIDE, schedule, HERE, os.urandom(32), os.urandom(32))

    def add() -> None:
        for route in range(ROUTES):
            add_hop(relay, route, left(0), RATE_UNIT // TICK_NS, layer_keys(), layer_keys())
            relay.obey(o.ExtendRelayRoute(route, right(0), FIRST_ROUTE_ID + route))

    return _grown(add)


def _add_links() -> float:
    relay, schedule = Plane(0, os.urandom), Schedule(TICK_NS, LINK_CELLS, LINK_CELLS)

    def add() -> None:
        for link in range(2 * LINKS):
            add_link(relay, link, WIDE, schedule, HERE, os.urandom(32), os.urandom(32))

    return _grown(add)


def _grown(work: Callable[[], None]) -> float:
    """Return what work adds to resident memory, KiB; as root, to locked memory, like a daemon's."""
    cling(0, os.geteuid() == 0)  # else what is not yet used is not seen
    before = memory.read(os.getpid()).rss
    work()
    return (memory.read(os.getpid()).rss - before) * 1024


def _in_a_child(work: Callable[[], float]) -> float:
    """Do it where nothing that others left free can be used again."""
    ours, theirs = _FORK.Pipe()
    child = _FORK.Process(target=lambda: theirs.send(work()))
    child.start()
    found: float = ours.recv()
    child.join()
    return found

"""What each route and each link takes of a relay's data plane: resident memory of a process that gets many.

    python -m anonnet.bench.footprint

A process of its own, since one that has done other things fills what these have left.
"""

from __future__ import annotations

import gc
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Final

import msgspec

from anonnet.bench.parts import HERE, tick
from anonnet.bench.planes import FIRST_ROUTE_ID, SHIFT, add_link, layer_keys, left, right
from anonnet.errors import OperatorError
from anonnet.proto import orders as o
from anonnet.proto.hops import HopRoute
from anonnet.proto.plane import Plane
from anonnet.proto.profile import parse_profile
from anonnet.spec import WIDE
from anonnet.wire.cell import rows

RATE: Final = "100m"
WARM: Final = 20
LINKS: Final = 100
ROUTES: Final = 500
PER_TICK: Final = 1.0  # cells of a route
RECEIVE_KEYS: Final = 3  # of a link in the middle of a change of keys


@dataclass(frozen=True)
class Footprint:
    """Bytes of resident memory each: a route through a relay, while no cells wait; a link at RATE."""

    route: float
    link: float


def measure() -> Footprint:
    """Measure in a fresh process. OperatorError if it fails."""
    done = subprocess.run([sys.executable, "-m", __name__], capture_output=True, text=True, check=False)
    if done.returncode:
        raise OperatorError("the memory of routes and links cannot be measured", done.stderr.strip()[-200:])
    return msgspec.json.decode(done.stdout, type=Footprint)


def main() -> None:
    """Print the footprint as JSON."""
    plane = Plane(0, os.urandom)
    schedule = parse_profile(RATE).schedule("raw", 4)
    receiver = count(1)
    (row,) = rows(WIDE, 1)

    def give_link(link: int) -> None:
        add_link(plane, link, WIDE, schedule, HERE, os.urandom(32), os.urandom(32))
        for _ in range(RECEIVE_KEYS):
            index = LINKS * RECEIVE_KEYS + next(receiver)
            plane.obey(o.SetSession(link, index, index, os.urandom(32), os.urandom(32), confirm=False))
        tick(plane)

    def give_route(route: int) -> None:
        there, back, number = layer_keys(), layer_keys(), FIRST_ROUTE_ID + route
        plane.obey(o.AddRelayRoute(route, left(0), number, 1, 1, there, back, SHIFT))
        plane.obey(o.ExtendRelayRoute(route, right(0), number))
        hop = plane._routes[route]
        assert isinstance(hop, HopRoute)
        # What the first cells bring: contexts of ciphers, and the queue of the way back for its beginning.
        for layer in (hop._forward, hop._backward):
            layer.encipher(0, row, row)
        hop._beginning = None
        hop.backward_in.queue = hop.backward_out.queue = plane.engine.queue(WIDE, PER_TICK)

    link = _each(give_link, LINKS)
    route = _each(give_route, ROUTES)
    print(msgspec.json.encode(Footprint(route, link)).decode())


def _each(give: Callable[[int], None], number: int) -> float:
    """Return by how much each of so many makes this process grow, once it has had a few."""
    for index in range(1, WARM + 1):
        give(index)
    gc.collect()
    before = _resident()
    for index in range(WARM + 1, WARM + 1 + number):
        give(index)
    gc.collect()
    return (_resident() - before) / number


def _resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE")


if __name__ == "__main__":
    main()

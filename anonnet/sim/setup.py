"""Bringing a simulated network to where an experiment begins.

       .-- a1 --- a2 --.
caller +-- b1 --- b2 --+ exit      three rows: eight nodes, up to three routes that share no relay
       '-- c1 --- c2 --'
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from anonnet.proto.caller import OwnRoute, RouteState, Watcher, Wish
from anonnet.proto.link import LinkState
from anonnet.sim.clock import SECOND
from anonnet.sim.world import World

ROWS: Final = ("a", "b", "c")
NAMES: Final = ("caller", "exit", *(f"{row}{i}" for row in ROWS for i in (1, 2)))
LINKS: Final = tuple(
    link for row in ROWS for link in (("caller", f"{row}1"), (f"{row}1", f"{row}2"), (f"{row}2", "exit"))
)
_SECRET_LEN: Final = 32
_NOBODY = Watcher(lambda step: None, lambda handle: None, lambda handle, reason: None, lambda *seen: None)


def links_up(world: World) -> bool:
    """Whether every link is up at both ends."""
    links = [link for node in world.nodes.values() for link in node.core.links.values()]
    return all(link.state is LinkState.UP for link in links)


def open_route(world: World, caller: str, path: Sequence[str], rate: int) -> OwnRoute:
    """Open a circuit of one route along these nodes, `rate` millicells per second each way."""
    node = world.nodes[caller]
    known = [node.known(world.nodes[name]) for name in path]
    wish = Wish(1, caller.encode().rjust(_SECRET_LEN, b"-"))
    route = node.core.caller.build(known, (rate, rate), wish, _NOBODY, node.now)
    assert isinstance(route, OwnRoute), f"{caller}: {route}"
    node.wake()
    assert world.run(300 * SECOND, lambda: route.state is RouteState.OPEN), f"{caller}: {route.state}"
    return route

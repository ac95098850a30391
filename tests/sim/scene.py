"""Networks and traffic that the simulator's tests share.

caller --- r1 --- r2 --- exit      a chain, so that the route is known: three hops, every link on it
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Final

from anonnet.proto.caller import OwnRoute, Watcher, Wish
from anonnet.proto.hops import CallerRoute, HopRoute
from anonnet.proto.keeper import CircuitState
from anonnet.proto.link import LinkState
from anonnet.proto.plane import Plane
from anonnet.sim.books import all_holdings, holdings
from anonnet.sim.clock import SECOND
from anonnet.sim.simnode import SimNode
from anonnet.sim.traffic import SERVER, Traffic, number_of, packet
from anonnet.sim.world import World
from anonnet.wire.control import Reason

__all__ = [
    "CHAIN", "CHAIN_LINKS", "SERVER", "Attempt", "Traffic", "all_holdings", "chain", "down", "holdings",
    "hop_route", "links_up", "number_of", "own_route", "packet", "up",
]  # fmt: skip

CHAIN: Final = ("caller", "r1", "r2", "exit")
CHAIN_LINKS: Final = (("caller", "r1"), ("r1", "r2"), ("r2", "exit"))


def chain(seed: int = 1, profile: str = "t1", planes: Mapping[str, type[Plane]] | None = None) -> World:
    """Make the chain and wait until its links are up."""
    world = World(seed, profile)
    world.build(CHAIN, CHAIN_LINKS, ["exit"], planes)
    assert world.run(30 * SECOND, lambda: links_up(world)), "links did not come up"
    return world


def links_up(world: World) -> bool:
    return all(
        link.state is LinkState.UP for node in world.nodes.values() for link in node.core.links.values()
    )


def up(world: World, hops: int = 3, wait: int = 60 * SECOND) -> None:
    """Open the caller's circuit."""
    caller = world.nodes["caller"]
    caller.core.keeper.want(None, hops, 1, world.now)
    caller.wake()
    assert world.run(wait, lambda: caller.core.keeper.state is CircuitState.UP), caller.core.keeper.trouble


def down(world: World) -> None:
    """Close it."""
    caller = world.nodes["caller"]
    caller.core.keeper.drop()
    caller.wake()


def own_route(node: SimNode) -> CallerRoute:
    """The data plane's side of the one route that a node calls."""
    (route,) = [route for route in node.plane._routes.values() if isinstance(route, CallerRoute)]
    return route


def hop_route(node: SimNode) -> HopRoute:
    """The same for the one route through a node."""
    (route,) = [route for route in node.plane._routes.values() if isinstance(route, HopRoute)]
    return route


# -- single routes --------------------------------------------------------------------------------


class Attempt:
    """One route built by hand along named nodes, and what became of it."""

    def __init__(self, world: World, path: tuple[str, ...], rate: int = 10_000, circuit: bool = False,
                 onion_of: Mapping[str, str] | None = None) -> None:  # fmt: skip
        """Ask for it; `onion_of` puts another node's onion key under a name, as an outdated invite would."""
        self.reason: Reason | None = None
        self.ready = False
        self.echoes: list[int] = []
        self.steps: list[str] = []
        caller = world.nodes["caller"]
        known = [caller.known(world.nodes[name]) for name in path]
        for index, name in enumerate(path):
            if other := (onion_of or {}).get(name):
                known[index] = replace(known[index], onion_public=world.nodes[other].keys.onion_public)
        watcher = Watcher(
            self.steps.append, self._on_ready, self._on_dead, lambda *seen: self.echoes.append(seen[2])
        )
        wish = Wish(1, bytes(32)) if circuit else None
        built = caller.core.caller.build(known, (rate, rate), wish, watcher, world.now)
        assert isinstance(built, OwnRoute)
        self.route = built
        caller.wake()

    def _on_ready(self, _handle: int) -> None:
        self.ready = True

    def _on_dead(self, _handle: int, reason: Reason) -> None:
        self.reason = reason

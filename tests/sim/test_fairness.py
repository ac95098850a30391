r"""In a mesh each caller finds slots, whoever came before; in a chain the only one has all of them.

n1 -- n2 -- n3 -- n4 -- n5 -- n6     a ring, each node linked with its next two on either side; all six call,
  \___ ___/ \___ ___/                one after the other, and every third is an exit
"""

from __future__ import annotations

import pytest

from anonnet.proto import planner, relay
from anonnet.proto.budget import PARTS, TEST_SHARE
from anonnet.proto.caller import OwnRoute
from anonnet.proto.keeper import CircuitState
from anonnet.proto.keepers import Wanted
from anonnet.sim.clock import SECOND
from anonnet.sim.world import World
from tests.sim.scene import chain, links_up, up

NODES = 6
NAMES = tuple(f"n{number + 1}" for number in range(NODES))
LINKS = tuple((NAMES[at], NAMES[(at + step) % NODES]) for at in range(NODES) for step in (1, 2))
LEAST = 1 / 9  # of a link; 12 links between 6 callers' 12 routes of 3 hops would be a third for each route


def mesh(seed: int) -> World:
    world = World(seed, "t1")
    world.build(NAMES, LINKS, NAMES[2::3])
    assert world.run(30 * SECOND, lambda: links_up(world)), "links did not come up"
    return world


def call(world: World, name: str, wait: int = 10 * SECOND) -> bool:
    """Open a circuit as `up` does by default; whether it is up in time."""
    node = world.nodes[name]
    node.core.keepers.want(Wanted(None, 3, 2), node.now)
    node.wake()
    return world.run(wait, lambda: node.core.keepers.state is CircuitState.UP)


def parts(route: OwnRoute) -> list[float]:
    """What a route has of its first link, each way."""
    budget = route.first.budget
    return [route.rate[0] / budget.capacity_out, route.rate[1] / budget.capacity_in]


@pytest.mark.parametrize("seed", [1, 2])
def test_every_caller_gets_something_whatever_the_order(seed: int) -> None:
    world = mesh(seed)
    order = world.stream("order").sample(NAMES, NODES)
    for name in order:
        assert call(world, name), f"{name} of {order}: {world.nodes[name].core.keepers.trouble}"
    routes = [route for name in order for route in world.nodes[name].core.keepers.routes]
    assert min(min(parts(route)) for route in routes) >= LEAST
    # Few sizes: what one route has does not tell it from others.
    assert len({route.rate for route in routes}) <= 3

    # An hour after it had to ask for less, a caller asks for twice as much again.
    last = world.nodes[order[-1]]
    less = last.core.keepers.routes[0].rate[0]
    plan = last.core.keeper.planner.plan((), 2, None, last.now + planner.REGAIN_NS)
    assert plan is not None
    assert plan.rate[0] == pytest.approx(2 * less, rel=0.01)


def test_first_come_first_served_would_leave_somebody_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (planner, relay):
        monkeypatch.setattr(module, "parts_of", lambda links: 1)
    world = mesh(1)
    assert not all(call(world, name) for name in NAMES)


def test_a_greedy_caller_is_refused_by_the_relay(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fairness does not hang on callers being fair: one that ignores the rule gets no more by it."""
    world = mesh(1)
    monkeypatch.setattr(planner, "parts_of", lambda links: 1)
    assert call(world, "n1", 30 * SECOND)
    (route, *_) = world.nodes["n1"].core.keepers.routes
    assert max(parts(route)) <= 1 / PARTS


def test_a_chain_is_all_its_only_callers() -> None:
    world = chain()
    up(world)
    (route,) = world.nodes["caller"].core.keepers.routes
    assert min(parts(route)) == pytest.approx(1 - 1 / TEST_SHARE, rel=0.001)

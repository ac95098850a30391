"""Which guards and exits a circuit uses, and what they can do to it. The network is that of test_routes."""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import ip_network
from typing import Any

import pytest

from anonnet.ids import NodeId
from anonnet.proto import relay
from anonnet.proto.caller import Caller, OwnRoute
from anonnet.proto.keeper import CircuitState
from anonnet.proto.path import Exclusion, KnownNode
from anonnet.sim.clock import MS, SECOND
from anonnet.sim.world import World
from anonnet.wire import signal
from anonnet.wire.control import Reason
from tests.sim.scene import Traffic, chain, links_up, up
from tests.sim.test_routes import LINKS, NAMES, count_open, open_circuit, used


def names(world: World, ids: list[NodeId]) -> list[str]:
    return [node.name for one in ids for node in world.nodes.values() if node.keys.node_id == one]


def guards(world: World) -> list[str]:
    return names(world, [one.node_id for one in world.nodes["caller"].core.ends.guards])


def test_routes_begin_with_the_first_guards() -> None:
    """One route of a kept pair of guards, however often the circuit is opened anew."""
    world = open_circuit(1)
    caller = world.nodes["caller"]
    first, second = guards(world)
    assert used(world) == {first, first.replace("1", "2")}
    for _ in range(5):
        caller.core.keeper.drop()
        world.run(SECOND)
        up(world)
        assert first in used(world)
    assert guards(world) == [first, second]


def test_a_guard_that_lets_nothing_through_holds_up_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """It refuses every extension, as one would that waits for its own exit, and has many paths."""
    middle = ["m1", "m2", "m3", "m4"]
    links = [("caller", guard) for guard in ("g1", "g2")]
    links += [(guard, relay) for guard in ("g1", "g2") for relay in middle]
    world = World(1, "t1")
    world.build(["caller", "g1", "g2", *middle, "exit"], [*links, *((m, "exit") for m in middle)], ["exit"])
    assert world.run(30 * SECOND, lambda: links_up(world))
    up(world)
    corrupt, _ = guards(world)
    assert corrupt in used(world)
    world.nodes["caller"].core.keeper.drop()
    world.run(SECOND)
    honest, refused = relay.Relay._extend, []

    def extend(self: relay.Relay, handle: int, message: signal.Extend, now: int) -> None:
        if self is not world.nodes[corrupt].core.relay:
            honest(self, handle, message, now)
        elif route := self.routes.get(handle):
            refused.append(now)
            self._signal(route, signal.ExtendRefused(Reason.NO_LINK), now)

    monkeypatch.setattr(relay.Relay, "_extend", extend)
    up(world, wait=2 * SECOND)
    assert corrupt not in used(world)
    world.run(20 * SECOND)
    assert len(refused) == 1


def test_an_exit_that_restarts_gets_a_new_circuit() -> None:
    """It has forgotten the old one's numbers: on that, what it sends back would be taken for old."""
    world = chain()
    up(world)
    traffic = Traffic(world, 20 * MS)
    world.run(3 * SECOND)
    world.nodes["exit"].stop()
    world.nodes["exit"].start()
    keeper = world.nodes["caller"].core.keeper
    assert world.run(10 * SECOND, lambda: keeper.state is CircuitState.CONNECTING)
    assert world.run(10 * SECOND, lambda: keeper.state is CircuitState.UP), keeper.trouble
    world.run(SECOND)
    out, back = len(traffic.out), len(traffic.back)
    world.run(2 * SECOND)
    assert len(traffic.out) - out >= 95
    assert len(traffic.back) - back >= 95


def test_an_exit_that_forgot_cannot_hide_it_by_what_it_made_since() -> None:
    """It makes the circuit anew for a route that dies before OPENED comes; the next finds it there."""
    world = chain()
    up(world)
    traffic = Traffic(world, 20 * MS)
    world.run(3 * SECOND)
    caller, leaver = world.nodes["caller"], world.nodes["exit"]
    steps: list[str] = []
    caller.core.keeper.on_step = steps.append
    leaver.stop()
    leaver.start()
    assert world.run(20 * SECOND, lambda: bool(leaver.plane._circuits)), "made anew"
    (dying,) = caller.core.caller.routes
    caller.core.caller.end(dying, Reason.FINISHED)
    caller.wake()
    assert world.run(20 * SECOND, lambda: any("forgotten" in step for step in steps))
    assert world.run(20 * SECOND, lambda: caller.core.keeper.state is CircuitState.UP)
    world.run(SECOND)
    out, back = len(traffic.out), len(traffic.back)
    world.run(2 * SECOND)
    assert min(len(traffic.out) - out, len(traffic.back) - back) >= 95


def test_an_exit_that_always_says_that_it_forgot_wins_no_builds(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each time the caller begins another circuit, and pays for it."""
    honest = signal.encode
    opened: list[int] = []

    def lie(message: signal.SignalMessage) -> bytes:
        if isinstance(message, signal.Opened):
            opened.append(message.incarnation)
            message = signal.Opened(len(opened))
        return honest(message)

    monkeypatch.setattr(signal, "encode", lie)
    world = World(1, "t1")
    world.build(NAMES, LINKS, ["exit"])
    assert world.run(30 * SECOND, lambda: links_up(world))
    keeper = world.nodes["caller"].core.keeper
    keeper.want(None, 3, 2, world.now)
    world.nodes["caller"].wake()
    world.run(60 * SECOND)
    assert len(set(opened)) < len(opened), "it did forget nothing"
    assert len(opened) <= 20, "the pace of the budget: one in ten seconds, after the first few"


def test_where_there_is_one_path_two_routes_are_one_and_nobody_is_asked_for_another(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    world = chain()
    built: list[object] = []
    honest = Caller.build

    def build(self: Caller, path: Sequence[KnownNode], *rest: Any) -> OwnRoute | Reason:
        built.append(path)
        return honest(self, path, *rest)

    monkeypatch.setattr(Caller, "build", build)
    keeper = world.nodes["caller"].core.keeper
    keeper.want(None, 3, 2, world.now)
    world.nodes["caller"].wake()
    assert world.run(10 * SECOND, lambda: keeper.state is CircuitState.UP)
    world.run(60 * SECOND)
    assert len(built) == 1
    assert keeper.state is CircuitState.UP
    assert keeper.trouble == ""
    assert keeper.waits(world.now) == 0


@pytest.mark.parametrize("by", ["id", "network"])
def test_excluded_nodes_are_no_part_of_any_route(by: str) -> None:
    world = World(1, "t1")
    world.build(NAMES, LINKS, ["exit"])
    assert world.run(30 * SECOND, lambda: links_up(world))
    caller = world.nodes["caller"]
    unwanted = [caller.known(world.nodes[name]) for name in ("a1", "b2")]
    ids = frozenset(node.node_id for node in unwanted)
    networks = frozenset(ip_network((address, 16), strict=False) for n in unwanted for address in n.addresses)
    excluded = Exclusion(ids) if by == "id" else Exclusion(networks=networks)
    caller.core.keeper.want(None, 3, 3, world.now, excluded=excluded)
    caller.wake()
    assert world.run(10 * SECOND, lambda: count_open(world) == 1)
    assert not world.run(10 * SECOND, lambda: count_open(world) > 1), "no other path is left"
    assert used(world) == {"c1", "c2"}

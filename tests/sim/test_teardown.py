"""However a route ends, every node on it is as it was before: no slot, id, lane or key is left behind."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from anonnet.crypto.hop import HopKeys, hop_respond
from anonnet.proto import orders as o
from anonnet.proto import relay
from anonnet.proto.plane import Plane
from anonnet.proto.relay import UNACKED_NS
from anonnet.sim.clock import MS, SECOND
from anonnet.sim.world import World
from anonnet.wire import signal
from anonnet.wire.control import Reason
from tests.sim.scene import (
    CHAIN,
    CHAIN_LINKS,
    Attempt,
    Traffic,
    all_holdings,
    chain,
    down,
    holdings,
    links_up,
    up,
)

LINGER = 65 * SECOND  # an exit keeps a circuit for 60 s after its last route


def test_an_open_circuit_holds_something_everywhere() -> None:
    """The control: `holdings` sees what the tests below find gone."""
    world = chain()
    before = all_holdings(world)
    up(world)
    after = all_holdings(world)
    assert all(before[name] != after[name] for name in CHAIN)


def test_down_and_up_and_down_again() -> None:
    world = chain()
    before = all_holdings(world)
    for _ in range(3):
        up(world)
        traffic = Traffic(world, 20 * MS)
        world.run(SECOND)
        traffic.stop()
        down(world)
        world.run(SECOND)
    world.run(LINGER)
    assert all_holdings(world) == before


@pytest.mark.parametrize("victim", CHAIN)
def test_a_node_of_the_route_dies(victim: str) -> None:
    world = chain()
    before = all_holdings(world)
    up(world)
    world.nodes[victim].stop()
    world.run(5 * SECOND)
    if victim != "caller":
        down(world)
    world.run(LINGER)
    left = all_holdings(world)
    assert victim not in left
    assert left == {name: before[name] for name in left}


@pytest.mark.parametrize("victim", ["r1", "r2", "exit"])
def test_it_dies_and_comes_back_and_the_circuit_with_it(victim: str) -> None:
    world = chain()
    before = all_holdings(world)
    up(world)
    world.nodes[victim].stop()
    world.run(5 * SECOND)
    world.nodes[victim].start()
    assert world.run(60 * SECOND, lambda: links_up(world))
    up(world)
    traffic = Traffic(world, 20 * MS)
    world.run(SECOND)
    assert len(traffic.out) > 40
    traffic.stop()
    down(world)
    world.run(LINGER)
    assert all_holdings(world) == before


@pytest.mark.parametrize("profile", ["t1", "10m"])
def test_the_caller_changes_its_mind_at_any_moment(profile: str) -> None:
    """Also at once: CREATE and the DESTROY after it then come in one batch, and teardowns are done first."""
    world = chain(profile=profile)
    before = all_holdings(world)
    caller = world.nodes["caller"]
    finished = False
    for moment in range(0, 600, 13):
        attempt = Attempt(world, ("r1", "r2", "exit"), rate=60_000)
        world.run(moment * MS)
        finished |= attempt.ready
        caller.core.caller.end(attempt.route.handle, Reason.FINISHED)
        caller.wake()
        world.run(SECOND)
        assert all_holdings(world) == before, f"{moment} ms after CREATE"
    assert finished, "every moment of the set-up was tried"


def refused(world: World, path: tuple[str, ...], onion_of: dict[str, str] | None = None) -> Reason | None:
    """Try a route that cannot be; check that nothing of it is left; return the reason that is given."""
    before = all_holdings(world)
    attempt = Attempt(world, path, onion_of=onion_of)
    assert world.run(30 * SECOND, lambda: attempt.reason is not None)
    world.run(SECOND)
    assert not attempt.ready
    assert all_holdings(world) == before
    return attempt.reason


def test_refused_no_link() -> None:
    assert refused(chain(), ("r1", "exit")) is Reason.NO_LINK


def test_refused_no_link_back_where_it_came_from() -> None:
    assert refused(chain(), ("r1", "r2", "r1")) is Reason.NO_LINK


@pytest.mark.parametrize(
    ("full", "towards"), [("r1", "caller"), ("r1", "r2"), ("r2", "exit"), ("exit", "r2")]
)
def test_refused_no_slots(full: str, towards: str) -> None:
    world = chain()
    neighbour = world.nodes[full].core.neighbours.find(world.nodes[towards].keys.node_id)
    assert neighbour is not None
    assert neighbour.budget.reserve(10**6, neighbour.budget.free_out, 0)
    assert refused(world, ("r1", "r2", "exit")) is Reason.NO_SLOTS


def test_refused_bad_format() -> None:
    world = World(1, "t1")
    narrow = {("r2", "exit"): "1.544m:narrow", ("exit", "r2"): "1.544m:narrow"}
    world.build(CHAIN, CHAIN_LINKS, ["exit"], profiles=narrow)
    assert world.run(10 * SECOND, lambda: links_up(world))
    assert refused(world, ("r1", "r2", "exit")) is Reason.BAD_FORMAT


@pytest.mark.parametrize("hop", ["r1", "r2", "exit"])
def test_refused_outdated_key(hop: str) -> None:
    assert refused(chain(), ("r1", "r2", "exit"), {hop: "caller"}) is Reason.BAD_HANDSHAKE


@pytest.mark.parametrize("liar", [1, 2, 3])
def test_a_hop_answers_in_anothers_place(liar: int, monkeypatch: pytest.MonkeyPatch) -> None:
    honest = hop_respond
    answers = 0

    def respond(*given: object) -> tuple[bytes, HopKeys]:
        nonlocal answers
        reply, keys = honest(*given)  # type: ignore[arg-type]
        answers += 1
        return (bytes([reply[0] ^ 1]) + reply[1:] if answers == liar else reply), keys

    monkeypatch.setattr(relay, "hop_respond", respond)
    assert refused(chain(), ("r1", "r2", "exit")) is Reason.BAD_HANDSHAKE
    assert answers == liar


def test_not_an_exit() -> None:
    world = chain()
    before = all_holdings(world)
    attempt = Attempt(world, ("r1", "r2"), circuit=True)
    assert world.run(10 * SECOND, lambda: attempt.reason is not None)
    world.nodes["caller"].core.order(o.CloseCircuit(1))
    world.nodes["caller"].wake()
    world.run(SECOND)
    assert attempt.reason is Reason.NOT_EXIT
    assert all_holdings(world) == before


class Mute(Plane):
    """Carries cells but says nothing to the caller."""

    def _on_SendSignal(self, order: o.SendSignal) -> None:  # noqa: N802
        pass


@pytest.mark.parametrize("mute", ["r1", "r2", "exit"])
def test_timeout(mute: str) -> None:
    world = chain(planes={mute: Mute})
    before = all_holdings(world)
    attempt = Attempt(world, ("r1", "r2", "exit"), circuit=True)
    assert world.run(60 * SECOND, lambda: attempt.reason is not None)
    world.nodes["caller"].core.order(o.CloseCircuit(1))
    world.nodes["caller"].wake()
    world.run(LINGER)
    assert attempt.reason is Reason.TIMEOUT
    left = all_holdings(world)
    left["caller"]["plane"] = before["caller"]["plane"]
    assert left == before


def silent(world: World, name: str) -> Callable[[], bool]:
    """Whether a node holds nothing for routes any more."""
    empty = holdings(world.nodes[name])
    return lambda: holdings(world.nodes[name]) == empty


def test_a_caller_that_never_acknowledges_costs_its_route_only() -> None:
    """It asks and asks, and takes in no answer: the hop gives up the route, and no link with it."""
    world = chain(profile="10m")
    gone = silent(world, "r1")
    attempt = Attempt(world, ("r1",), rate=500_000)
    assert world.run(5 * SECOND, lambda: attempt.ready)
    caller = world.nodes["caller"]
    stream = attempt.route.streams[0]
    assert not gone()

    def ask() -> None:
        """A cheating caller: acknowledges nothing, so that the answers pile up at the hop."""
        stream._expected = 0
        stream._early.clear()
        if attempt.reason is None and stream.backlog < 4000:
            for _ in range(64):
                stream.send(signal.encode(signal.Echo(1)))
            caller.wake()
        world.at(world.now + 10 * MS, ask)

    ask()
    assert world.run(600 * SECOND, gone)
    assert links_up(world)


def test_a_caller_that_goes_deaf_costs_its_route_only() -> None:
    """It takes in no answer at all; before its route is a circuit's, nobody else would notice."""
    world = chain(profile="10m")
    gone = silent(world, "r1")
    attempt = Attempt(world, ("r1",), rate=500_000)
    assert world.run(5 * SECOND, lambda: attempt.ready)
    caller = world.nodes["caller"]
    caller.core.caller.on_frame = lambda *_: None  # type: ignore[method-assign]
    attempt.route.streams[0].send(signal.encode(signal.Echo(1)))
    caller.wake()
    assert not world.run(UNACKED_NS - SECOND, gone)
    assert world.run(3 * SECOND, gone)
    assert links_up(world)

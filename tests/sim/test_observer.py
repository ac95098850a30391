"""The anonymity claim: who sees every wire sees the same whether or not anybody communicates.

One seed, several lives. The observer has time, ends, length, type and counter of every datagram, so also the
moment at which each link takes fresh keys.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

import pytest

from anonnet.proto import rekey
from anonnet.proto.lane import PlaneLink
from anonnet.proto.pacer import Beat
from anonnet.proto.plane import Plane
from anonnet.sim.clock import MS, SECOND
from anonnet.sim.network import Sent
from anonnet.sim.world import World
from tests.sim.scene import Traffic, chain, down, up

LIFE = 140 * SECOND  # a rekey at 120 s among it
PROFILES = ("modem", "t1", "10m")


def observe(profile: str, life: str, planes: Mapping[str, type[Plane]] | None = None) -> list[Sent]:
    """Live one life of the network and return all that went over its wires."""
    seconds = LIFE
    if profile == "10m":  # a twelfth of the time, rekeys included, is as many datagrams as on a t1
        seconds //= 10
    world = chain(7, profile, planes)
    world.run(SECOND)
    world.network.trace = []
    moments = [world.now + seconds * part // 20 for part in (1, 8, 10, 18)]
    end = world.now + seconds
    if life != "idle":
        traffic = start(world, profile, moments[0])
        if life == "up and down":
            world.run(moments[1] - world.now)
            down(world)
            world.run(moments[2] - world.now)
            up(world)
        world.run(moments[3] - world.now)
        traffic.stop()
        down(world)
        assert min(len(traffic.out), len(traffic.back)) > 20, "this life carried traffic, both ways"
    world.run(end - world.now)
    return world.network.trace


def start(world: World, profile: str, when: int) -> Traffic:
    """Open the circuit and fill it from both ends with more than it carries."""
    world.run(when - world.now)
    up(world)
    return Traffic(world, (400 if profile == "modem" else 4) * MS, 500 if profile == "modem" else 1100)


@pytest.mark.parametrize("profile", PROFILES)
def test_the_wire_shows_nothing_of_what_it_carries(profile: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if profile == "10m":
        monkeypatch.setattr(rekey, "REKEY_NS", rekey.REKEY_NS // 10)
    idle = observe(profile, "idle")
    restarts = Counter((sent.source, sent.target) for sent in idle if sent.counter == 0)
    assert set(restarts.values()) == {1}, "each direction of each link was rekeyed once"
    assert len({sent.length for sent in idle}) == 1
    for life in ("loaded", "up and down"):
        seen = observe(profile, life)
        assert first_difference(idle, seen) is None


class Eager(Plane):
    """What must not be: nulls left out while there is a circuit to send for."""

    def prepare(self, beat: Beat) -> list[PlaneLink]:
        links = super().prepare(beat)
        for outgoing in links:
            outgoing.convoy.stir()
            outgoing.ready -= bool(self._callers.circuits) and beat.tick % 4 == 0
        return links


class Hasty(rekey.Rekeying):
    """What was: fresh keys used as soon as both ends have them, later on a link that is full of routes."""

    def finish(self, noise: bytes) -> None:
        super().finish(noise)
        assert self._fresh is not None
        self._order(self._fresh)
        self._fresh = None


def test_the_observer_finds_out_a_node_that_saves_nulls() -> None:
    idle = observe("modem", "idle", {"caller": Eager})
    loaded = observe("modem", "loaded", {"caller": Eager})
    difference = first_difference(idle, loaded)
    assert difference is not None
    assert difference[0] is not None
    assert difference[0].source == "10.1.0.1"


def test_the_observer_finds_out_who_is_up_if_keys_change_when_they_can(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("anonnet.proto.link.Rekeying", Hasty)
    assert first_difference(observe("modem", "idle"), observe("modem", "loaded")) is not None


def first_difference(one: list[Sent], other: list[Sent]) -> tuple[Sent | None, Sent | None] | None:
    """Compare without printing a hundred thousand lines."""
    for a, b in zip(one, other, strict=False):
        if a != b:
            return a, b
    return None if len(one) == len(other) else (None, None)

"""A neighbour that moves: its link follows at once, to wherever its newest datagram came from."""

from __future__ import annotations

import os

import pytest

from anonnet.bench.planes import join
from anonnet.proto import orders as o
from anonnet.proto.engine import Engine
from anonnet.proto.inbox import NAME_LEN, STRIDE, Inbox
from anonnet.proto.lane import KEPT_SESSIONS
from anonnet.proto.plane import Plane
from anonnet.proto.profile import Schedule
from anonnet.spec import NARROW

LINK = 1
HOME, AWAY, FAR = (o.Endpoint("udp", f"192.0.2.{host}", 4000) for host in (1, 2, 3))


class Pair:
    """A plane that listens, and its neighbour, whose datagrams come from wherever one says."""

    def __init__(self, engine: Engine, named: bool) -> None:
        self.near, self.far = (Plane(0, os.urandom, engine=engine) for _ in range(2))
        join(self.near, self.far, LINK, NARROW, Schedule(5_000_000, 2, 2), HOME, HOME)
        self.link = self.near.links[LINK]
        self._named = named

    def seal(self) -> list[bytes]:
        """What the neighbour sends in a tick."""
        (beat,) = self.far.beats.values()
        (link,) = self.far.prepare(beat)
        self.far.emitted(beat, beat.deadline)
        return [bytes(view) for view in link.outbox.views]

    def hear(self, datagrams: list[bytes], source: o.Endpoint, now: int = 0) -> list[o.Report]:
        """Let them come from there; return what is reported of it."""
        names = bytearray(source.address.encode().ljust(NAME_LEN) * len(datagrams)) if self._named else None
        inbox = Inbox(len(datagrams), 0, lambda _: source, names)
        for index, datagram in enumerate(datagrams):
            inbox.memory[index * STRIDE : index * STRIDE + len(datagram)] = datagram
        inbox.lengths = [len(datagram) for datagram in datagrams]
        self.near.receive(inbox, now)
        reports = list(self.near.reports)
        self.near.reports.clear()
        return reports


@pytest.fixture(params=[True, False], ids=["named", "nameless"])
def pair(request: pytest.FixtureRequest, engine: Engine) -> Pair:
    return Pair(engine, request.param)


def test_a_link_follows_its_neighbour_there_and_back(pair: Pair) -> None:
    assert [type(report) for report in pair.hear(pair.seal(), HOME)] == [o.Confirmed]
    for source in (HOME, AWAY, AWAY, HOME, HOME, FAR):
        moves = source != pair.link.endpoint
        assert pair.hear(pair.seal(), source) == [o.Roamed(LINK, source)] * moves
        assert pair.link.endpoint == source


def test_what_was_late_or_comes_again_moves_nothing(pair: Pair) -> None:
    late, seen = pair.seal(), pair.seal()
    pair.hear(seen, HOME, now=5)
    assert pair.hear(late, AWAY, now=6) == []
    assert pair.hear(seen, AWAY, now=7) == []
    assert pair.link.endpoint == HOME
    assert pair.link.stats().last_received == 5


def test_where_control_sends_a_link_it_stays_only_until_it_is_heard_from_elsewhere(pair: Pair) -> None:
    pair.hear(pair.seal(), HOME)
    pair.near.obey(o.SetSession(LINK, 9, 9, os.urandom(32), os.urandom(32), confirm=True, endpoint=FAR))
    assert pair.link.endpoint == FAR
    assert pair.hear(pair.seal(), HOME) == [o.Roamed(LINK, HOME)], "by the keys from before"


def test_when_a_neighbour_was_last_heard_outlives_its_keys(pair: Pair) -> None:
    for now in (3, 8):
        pair.hear(pair.seal(), HOME, now)
        assert pair.link.stats().last_received == now
    pair.near.obey(o.DropSession(LINK))
    assert pair.link.stats().last_received == 8


def test_counts_of_what_came_outlive_the_keys(pair: Pair) -> None:
    def counts() -> tuple[int, int]:
        stats = pair.link.stats()
        return stats.cells_received, stats.cells_missed

    pair.hear(pair.seal(), HOME)
    pair.hear(pair.seal()[1:], HOME)
    assert counts() == (3, 1)
    for index in range(2, 3 + KEPT_SESSIONS):  # until those that were used have been thrown away
        pair.near.obey(o.SetSession(LINK, index, index, os.urandom(32), os.urandom(32), confirm=True))
    assert pair.hear(pair.seal(), HOME) == []
    assert counts() == (3, 1)
    pair.near.obey(o.DropSession(LINK))
    assert counts() == (3, 1)

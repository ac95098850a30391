"""When the loop looks at what: nothing that comes in shifts what goes out, or wakes a relay for nothing."""

from __future__ import annotations

import errno
import select
import socket
from collections.abc import Iterator, Sequence
from random import Random
from typing import NamedTuple

import pytest

from anonnet.net.driver import NAP_S, SPIN_NS, Driver
from anonnet.net.mmsg import BATCH
from anonnet.proto import orders as o
from anonnet.proto.pacer import LEAD_BASE_NS, Beat
from anonnet.proto.plane import Plane
from anonnet.spec import NARROW

MS = 1_000_000
TICK = 5 * MS
LOOK = 100  # ns


class Pipe:
    """Control's end of the orders: those to be given, and the reports that came."""

    def __init__(self) -> None:
        self.ours, self._theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.orders: list[tuple[o.Order, int | None]] = []
        self.given_back: list[int] = []

    def give(self, order: o.Order, descriptor: int | None = None) -> None:
        self.orders.append((order, descriptor))
        self._theirs.send(b"!")

    def fileno(self) -> int:
        return self.ours.fileno()

    def receive(self) -> list[tuple[o.Order, int | None]]:
        self.ours.recv(1)
        given, self.orders = self.orders, []
        return given

    def send(self, reports: list[o.Report]) -> None:
        pass

    def give_back(self, descriptor: int) -> None:
        self.given_back.append(descriptor)

    def close(self) -> None:
        self.ours.close()
        self._theirs.close()


class Wait(NamedTuple):
    """One wait of the driver's."""

    watched: frozenset[int]
    seconds: float  # at most
    ahead: int  # ns until the next deadline


class Bench:
    """A driver with a link of one cell a tick, whose clock moves when it waits, and a little at each look."""

    def __init__(self, wire: socket.socket, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000 * MS
        self.wire = wire
        self.pipe = Pipe()
        self.plane = Plane(self.now, Random(1).randbytes)
        self.driver = Driver(self.plane, {("udp", 4): wire}, self.pipe, self._clock)
        self.waits: list[Wait] = []
        self.toil = 0  # ns that it takes to take something in
        self._left = 0
        self._select = select.select
        monkeypatch.setattr("anonnet.net.driver.select.select", self._wait)
        monkeypatch.setattr("anonnet.net.driver.time.sleep", lambda seconds: self._wait((), (), (), seconds))

    def _clock(self) -> int:
        self.now += LOOK
        return self.now

    def _wait(self, watched: Sequence[int], _w: object, _x: object, seconds: float) -> object:
        (beat,) = self.plane.beats.values()
        self.waits.append(Wait(frozenset(watched), seconds, beat.deadline - self.now))
        found = self._select(watched, (), (), 0)
        self.now += self.toil if found[0] else int(seconds * 1e9)
        self._left -= 1
        if not self._left:
            self.pipe.give(o.Stop())
        return found

    @property
    def everything(self) -> frozenset[int]:
        """What there is to watch, without a TUN."""
        return frozenset([self.pipe.fileno(), self.wire.fileno()])

    @property
    def sleeps(self) -> list[Wait]:
        """The waits that take time."""
        return [wait for wait in self.waits if wait.seconds]

    def link(self, tick: int = TICK, address: str = "127.0.0.1") -> None:
        """Keep a link with a neighbour that nobody plays."""
        endpoint = o.Endpoint("udp", address, self.wire.getsockname()[1])
        self.plane.obey(o.AddLink(1, NARROW.code, endpoint, tick, 1, 1))

    def run(self, waits: int) -> None:
        """Let it wait so often, then tell it to stop."""
        self._left = waits
        self.driver.run()


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as wire:
        wire.bind(("127.0.0.1", 0))
        wire.setblocking(False)
        made = Bench(wire, monkeypatch)
        yield made
        made.pipe.close()


def test_a_relay_naps_between_ticks_and_wakes_for_orders_only(bench: Bench) -> None:
    bench.link()
    bench.run(40)
    assert {wait.watched for wait in bench.sleeps} == {frozenset(), frozenset([bench.pipe.fileno()])}
    assert all(wait.seconds <= wait.ahead / 1e9 for wait in bench.sleeps)


def test_the_last_moments_before_a_deadline_are_not_slept_through(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else when a batch leaves says how long the host took to wake up."""
    emitted: list[int] = []

    def advance(beat: Beat, began: int, took: int = 0) -> tuple[bool, int]:
        emitted.append(began + took - beat.deadline)
        assert took > 0
        return genuine(beat, began, took)

    genuine = Beat.advance
    monkeypatch.setattr(Beat, "advance", advance)
    bench.link()
    bench.run(40)
    assert len(emitted) > 5
    assert all(0 <= late <= 3 * LOOK for late in emitted)
    assert min(wait.ahead - wait.seconds * 1e9 for wait in bench.sleeps) >= SPIN_NS - 20 * LOOK


def test_nothing_is_taken_in_while_a_sealed_batch_waits(bench: Bench) -> None:
    bench.link()
    bench.wire.sendto(b"from a stranger", bench.wire.getsockname())
    bench.run(40)
    looks = [wait for wait in bench.waits if bench.wire.fileno() in wait.watched]
    assert len(looks) > 3
    assert min(look.ahead for look in looks) >= LEAD_BASE_NS
    assert bench.plane._intake.unknown == 1, "but it is taken in"


def test_all_that_has_come_is_taken_in_before_a_batch_is_sealed(bench: Bench) -> None:
    """However many there are: one look more than they fill, each of as many as the socket gives at once."""
    bench.link()
    for _ in range(3 * BATCH):
        bench.wire.sendto(b"from a stranger", bench.wire.getsockname())
    bench.run(1000)
    assert bench.plane._intake.unknown == 3 * BATCH
    looks = [wait for wait in bench.waits if wait.watched == bench.everything]
    ticks = len([wait for wait in bench.waits if not wait.watched])
    assert len(looks) < ticks + 3 * BATCH // 8, "one is enough when little has come"


def test_what_there_was_no_time_for_is_taken_in_after_the_batch(bench: Bench) -> None:
    bench.link()
    bench.toil = MS
    for _ in range(BATCH):
        bench.wire.sendto(b"from a stranger", bench.wire.getsockname())
    bench.run(40)
    looks = [wait for wait in bench.waits if wait.watched == bench.everything]
    assert {look.seconds for look in looks if look.ahead > TICK // 2} == {0}
    assert bench.plane._intake.unknown == BATCH


def test_a_slow_link_does_not_keep_what_comes_unread_for_long(bench: Bench) -> None:
    bench.link(tick=1000 * MS)
    bench.run(12)
    long = [wait.watched for wait in bench.sleeps if wait.seconds > NAP_S]
    assert len(long) > 3
    assert set(long) == {bench.everything}


def test_the_end_of_a_circuit_takes_cells_in_as_they_come_and_packets_when_they_are_due(bench: Bench) -> None:
    tun, host = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with tun, host:
        bench.link()
        bench.pipe.give(o.AttachTun("caller"), tun.fileno())
        host.send(b"no packet")
        bench.run(40)
        naps = [wait.watched for wait in bench.sleeps[1:] if wait.watched]  # the first: before the order
        assert set(naps) == {bench.everything}
        assert {wait.seconds for wait in bench.waits if tun.fileno() in wait.watched} == {0}
        assert bench.plane._unroutable == 1, "there is no circuit"


@pytest.mark.parametrize(("address", "error"), [("127.0.0.1", 0), ("255.255.255.255", errno.EACCES)])
def test_a_link_that_cannot_send_says_why(bench: Bench, address: str, error: int) -> None:
    """A socket that has not asked for them may not send broadcasts."""
    bench.link(address=address)
    bench.plane.obey(o.SendHandshake(1, [bytes(NARROW.datagram_len)]))
    bench.run(40)
    assert bench.plane.links[1].stats().send_error == error


def test_what_leaves_follows_what_becomes_of_a_link(bench: Bench) -> None:
    """Where it goes and how much is not asked in each tick, but noticed when it changes."""
    plane, driver = bench.plane, bench.driver

    def tick() -> list[int]:
        (beat,) = plane.beats.values()
        links = plane.prepare(beat)
        driver._emit(beat, links, driver._address(links))
        counts = []
        for wire in (here, there):
            counts.append(0)
            while select.select([wire], (), (), 0)[0]:
                wire.recv(2048)
                counts[-1] += 1
        return counts

    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as here,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as there,
    ):
        for wire in (here, there):
            wire.bind(("127.0.0.1", 0))
        old, new = (o.Endpoint("udp", "127.0.0.1", wire.getsockname()[1]) for wire in (here, there))
        plane.obey(o.AddLink(1, NARROW.code, old, TICK, 3, 3))
        assert tick() == [0, 0]
        plane.obey(o.SendHandshake(1, [bytes(NARROW.datagram_len)] * 2))
        assert [tick() for _ in range(3)] == [[2, 0], [0, 0], [0, 0]]
        plane.obey(o.SetSession(1, 1, 2, bytes(32), bytes(32), confirm=False))
        assert [tick() for _ in range(3)] == [[3, 0]] * 3
        plane.obey(o.AddLink(2, NARROW.code, new, TICK, 1, 1))
        plane.obey(o.SetSession(2, 3, 4, bytes(32), bytes(32), confirm=False))
        assert [tick() for _ in range(3)] == [[3, 1]] * 3
        plane.links[1].move(new)
        assert [tick() for _ in range(3)] == [[0, 4]] * 3
        plane.obey(o.RemoveLink(2))
        assert [tick() for _ in range(3)] == [[0, 3]] * 3
        plane.obey(o.DropSession(1))
        assert [tick() for _ in range(3)] == [[0, 0]] * 3
        assert plane.links[1].stats().cells_sent == 3 * 12

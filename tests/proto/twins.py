"""Pairs of planes, one of each engine, told the same.

caller ==LEFT== relay ==RIGHT== exit       each a pair
"""

from __future__ import annotations

from collections.abc import Iterator
from random import Random

import msgspec
from hypothesis import strategies as st
from scapy.layers.inet import IP, UDP

from anonnet.crypto.onion import LayerKeys
from anonnet.proto import orders as o
from anonnet.proto.engine import PYTHON, Engine
from anonnet.proto.inbox import NAME_LEN, STRIDE, Inbox
from anonnet.proto.plane import Plane
from anonnet.spec import NARROW, WIDE, Format

FORMAT = st.sampled_from([NARROW, WIDE])
SEED = st.integers(0, 2**32)
LEFT, RIGHT, ROUTE, ROUTE_ID = 1, 2, 5, 300
TICK = 5_000_000
CELLS = 6
RATE = CELLS * o.RATE_UNIT // TICK
HERE, THERE = (o.Endpoint("raw", f"192.0.2.{host}", 0) for host in (1, 2))
POOL4, POOL6 = bytes([100, 127, 0, 9]), bytes(15) + b"\x09"


def layer_keys(random: Random) -> LayerKeys:
    return LayerKeys(*(random.randbytes(32) for _ in range(3)))


class Twins:
    """Two planes that are told the same; whatever differs fails."""

    def __init__(self, seed: int, fast: Engine) -> None:
        self.planes = [Plane(0, Random(seed).randbytes, engine=engine) for engine in (PYTHON, fast)]
        self.now = 0
        self._source = HERE

    def obey(self, order: o.Order) -> None:
        for plane in self.planes:
            plane.obey(order)

    def packets(self, role: str, packet: bytes) -> None:
        for plane in self.planes:
            plane.packets(role, [bytearray(packet)])

    def receive(self, datagrams: list[bytes], source: o.Endpoint = HERE) -> None:
        for plane in self.planes:
            count = max(1, len(datagrams))
            name = source.address.encode().ljust(NAME_LEN)
            inbox = Inbox(count, 0, lambda _: source, bytearray(name * count))
            for index, datagram in enumerate(datagrams):
                inbox.memory[index * STRIDE : index * STRIDE + len(datagram)] = datagram
            inbox.lengths = [len(datagram) for datagram in datagrams]
            plane.receive(inbox, self.now)

    def tick(self, late: int = 0) -> dict[int, list[bytes]]:
        """Let a tick go by, or several; return what went out over each link."""
        sent = []
        for plane in self.planes:
            (beat,) = plane.beats.values()
            links = plane.prepare(beat)
            self.now = beat.deadline + late
            sent.append([(k.handle, [bytes(v) for v in k.outbox.views[: k.ready]]) for k in links])
            plane.emitted(beat, self.now)
        assert sent[0] == sent[1]
        return dict(sent[0])

    @staticmethod
    def unsigned(report: o.Report) -> o.Report:
        """A report that does not say which engine it is from."""
        return msgspec.structs.replace(report, engine="") if isinstance(report, o.Stats) else report

    @staticmethod
    def subject(report: o.Report) -> tuple[str, int]:
        """What a report is of: with threads, those of several links and routes may come in another order."""
        return type(report).__name__, getattr(report, "link", getattr(report, "route", 0))

    def compare(self) -> list[o.Report]:
        """Look at all else that a plane does; return what it reported."""
        reports = [
            sorted((self.unsigned(report) for report in plane.reports), key=self.subject)
            for plane in self.planes
        ]
        assert reports[0] == reports[1]
        views = [
            (
                self.unsigned(plane._stats(self.now)),
                plane.to_tun, plane.strays, plane._intake.unknown,
                [(list(k.sessions), k.endpoint, [x.credit for x in k.lanes], len(k.control))
                 for k in plane.links.values()],
            )
            for plane in self.planes
        ]  # fmt: skip
        assert views[0] == views[1]
        for plane in self.planes:
            plane.reports.clear()
            for packets in plane.to_tun.values():
                packets.clear()
        return reports[0]


class Chain:
    """Caller, relay and exit, and the bad network between them."""

    def __init__(self, fast: Engine, seed: int, fmt: Format) -> None:
        self.random = Random(seed)
        self.fmt = fmt
        self.caller, self.relay, self.exit = (Twins(seed + n, fast) for n in range(3))
        self.loss = 0.0
        self.delivered = 0
        self.source = HERE  # of whatever comes to anybody
        self._late: list[tuple[Twins, bytes]] = []
        self.join(self.caller, self.relay, LEFT)
        self.join(self.relay, self.exit, RIGHT)
        self.lay()

    def join(self, one: Twins, other: Twins, link: int) -> None:
        for twins in (one, other):
            twins.obey(o.AddLink(link, self.fmt.code, HERE, TICK, CELLS, CELLS))
        self.rekey(one, other, link, confirm=False)

    def rekey(self, one: Twins, other: Twins, link: int, confirm: bool) -> None:
        index, there, back = self.random.getrandbits(24), self.random.randbytes(32), self.random.randbytes(32)
        one.obey(o.SetSession(link, index, index, there, back, confirm=False))
        other.obey(o.SetSession(link, index, index, back, there, confirm=confirm))

    def lay(self) -> None:
        """A route of two hops that owns most slots."""
        self.caller.obey(o.AddCallerRoute(ROUTE, LEFT, ROUTE_ID, RATE * 5 // 6, RATE * 5 // 6))
        self.hops = []
        for twins, link, shift in ((self.relay, LEFT, 7), (self.exit, RIGHT, 11)):
            forward, backward = layer_keys(self.random), layer_keys(self.random)
            twins.obey(
                o.AddRelayRoute(ROUTE, link, ROUTE_ID, RATE * 5 // 6, RATE * 5 // 6, forward, backward, shift)
            )
            self.hops.append((forward, backward, shift))
        self.caller.obey(o.AddHop(ROUTE, *self.hops[0], 0))

    def extend(self) -> None:
        """The relay goes on to the exit; a circuit begins when it has told the shift of what comes back."""
        self.relay.obey(o.ExtendRelayRoute(ROUTE, RIGHT, ROUTE_ID))

    def open(self, shift: int) -> None:
        self.caller.obey(o.AddHop(ROUTE, *self.hops[1], shift))
        self.caller.obey(o.OpenCircuit(ROUTE, 1))
        self.exit.obey(o.OpenCircuit(ROUTE, 1, POOL4, POOL6))
        for twins in (self.caller, self.exit):
            twins.obey(o.UseRoute(ROUTE))

    def end(self) -> None:
        for twins in (self.caller, self.relay, self.exit):
            twins.obey(o.RemoveRoute(ROUTE))

    def tick(self, late: int = 0) -> None:
        """A tick of everybody; what was sent arrives, by the network's mercy."""
        sent = {twins: twins.tick(late if twins is self.relay else 0)
                for twins in (self.caller, self.relay, self.exit)}  # fmt: skip
        came: dict[Twins, list[bytes]] = {self.caller: [], self.relay: [], self.exit: []}
        for twins, datagram in self._late:
            came[twins].append(datagram)
        self._late.clear()
        for source, link, target in (
            (self.caller, LEFT, self.relay), (self.relay, LEFT, self.caller),
            (self.relay, RIGHT, self.exit), (self.exit, RIGHT, self.relay),
        ):  # fmt: skip
            for datagram in sent[source].get(link, []):
                came[target] += self.carry(target, datagram)
        for twins, datagrams in came.items():
            twins.receive(datagrams, self.source)
            for report in twins.compare():
                self.hear(twins, report)

    def hear(self, twins: Twins, report: o.Report) -> None:
        if isinstance(report, o.ControlSeen) and twins is self.relay:
            self.delivered += 1
        elif isinstance(report, o.Joined):
            self.open(report.backward_shift)

    def carry(self, target: Twins, datagram: bytes) -> Iterator[bytes]:
        random = self.random
        if random.random() >= self.loss:
            yield datagram
            return
        fate = random.choice(["drop", "twice", "late", "harm", "cut", "noise", "other"])
        if fate == "twice":
            yield from (datagram, datagram)
        elif fate == "late":
            self._late.append((target, datagram))
        elif fate == "harm":
            harmed = bytearray(datagram)
            harmed[random.randrange(len(harmed))] ^= 1 << random.randrange(8)
            yield bytes(harmed)
        elif fate == "cut":
            yield datagram[: random.randrange(len(datagram))]
        elif fate == "noise":
            yield bytes([random.randrange(6)]) + random.randbytes(len(datagram) - 1)
        elif fate == "other":
            other = NARROW if self.fmt is WIDE else WIDE
            yield (datagram + bytes(WIDE.datagram_len))[: other.datagram_len]


def packet(random: Random, source: str, target: str) -> bytes:
    body = random.randbytes(random.randrange(0, 1400))
    return bytes(IP(src=source, dst=target) / UDP(sport=4000, dport=5000) / body)

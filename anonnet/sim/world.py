"""A network of real cores on a virtual clock.

Each `SimNode` is a control core and a data plane core, joined as the daemon joins them; datagrams travel
through `Network`, which may delay, drop, repeat or show them to an observer. One seed decides everything
but the ephemeral keys inside the cryptographic library, and nothing ever sleeps.
"""

from __future__ import annotations

import heapq
import random as stdlib_random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from ipaddress import IPv4Address, IPv4Network, IPv6Network
from typing import Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from anonnet.crypto.gate import TimestampGuard
from anonnet.crypto.keys import NodeKeys
from anonnet.crypto.suite import ANONNET_2026
from anonnet.ids import NodeId
from anonnet.proto import orders as o
from anonnet.proto.exits import ExitCircuits
from anonnet.proto.inbox import STRIDE, Inbox
from anonnet.proto.lane import PlaneLink
from anonnet.proto.link import LinkPeer
from anonnet.proto.node import Identity, Node
from anonnet.proto.pacer import Beat
from anonnet.proto.path import KnownNode
from anonnet.proto.plane import Plane
from anonnet.proto.profile import parse_profile
from anonnet.spec import DatagramType
from anonnet.wire.datagram import HEADER
from anonnet.wire.handshake import tai64n

MS: Final = 1_000_000
SECOND: Final = 1000 * MS
START: Final = 1_000 * SECOND
ORDER_DELAY: Final = MS // 5  # between control and data plane


@dataclass(frozen=True)
class Sent:
    """One datagram as a wire observer sees it: `kind` and `counter` stand open in its header."""

    at: int
    source: str
    target: str
    length: int
    kind: int
    counter: int


Fate = Callable[[stdlib_random.Random, bytes], Sequence[int]]  # delays in ns of the copies that arrive


def steady(_random: stdlib_random.Random, _datagram: bytes) -> Sequence[int]:
    """Every datagram arrives after two milliseconds."""
    return (2 * MS,)


@dataclass
class Network:
    """What lies between nodes. `fates` overrides `fate` for one direction of one link."""

    random: stdlib_random.Random
    fate: Fate = steady
    fates: dict[tuple[str, str], Fate] = field(default_factory=dict)
    trace: list[Sent] | None = None

    def arrivals(self, source: str, target: str, datagram: bytes, now: int) -> list[int]:
        """Return when copies of a datagram arrive."""
        if self.trace is not None:
            word, counter = HEADER.unpack_from(datagram)
            kind = word >> 24  # what follows a handshake's type is random, and of no meaning to an observer
            shown = counter if kind == DatagramType.DATA else 0
            self.trace.append(Sent(now, source, target, len(datagram), kind, shown))
        return [now + delay for delay in self.fates.get((source, target), self.fate)(self.random, datagram)]


class World:
    """The clock, the network and the nodes, named."""

    def __init__(self, seed: int = 1, profile: str = "10m") -> None:
        self.now = START
        self.seed = seed
        self.network = Network(self.stream("network"))
        self.nodes: dict[str, SimNode] = {}
        self.profile = profile
        self._events: list[tuple[int, int, Callable[[], None]]] = []
        self._count = 0

    def stream(self, purpose: str) -> stdlib_random.Random:
        """Return a source of randomness of its own: what one part draws, no other part can tell."""
        return stdlib_random.Random(f"{self.seed} {purpose}")

    def at(self, when: int, act: Callable[[], None]) -> None:
        """Do something at a time of the virtual clock."""
        self._count += 1
        heapq.heappush(self._events, (max(when, self.now), self._count, act))

    def run(self, duration: int, until: Callable[[], bool] = lambda: False) -> bool:
        """Let time pass; stop early, and return True, when `until` holds."""
        end = self.now + duration
        while self._events and self._events[0][0] <= end:
            self.now, _, act = heapq.heappop(self._events)
            act()
            if until():
                return True
        self.now = end
        return until()

    def build(self, names: Sequence[str], links: Sequence[tuple[str, str]], exits: Sequence[str],
              planes: Mapping[str, type[Plane]] | None = None,
              profiles: Mapping[tuple[str, str], str] | None = None) -> None:  # fmt: skip
        """Make nodes, and the links between them.

        `planes` replaces the data plane of some nodes (cheaters), `profiles` what (here, there) is set to.
        """
        keys = {name: self._keys(name) for name in names}
        address = {name: f"10.{index + 1}.0.1" for index, name in enumerate(names)}
        known: dict[NodeId, KnownNode] = {}
        for name in names:
            near = [b if a == name else a for a, b in links if name in (a, b)]
            known[keys[name].node_id] = KnownNode(
                keys[name].node_id, name, keys[name].onion_public, name in exits,
                frozenset(keys[other].node_id for other in near), (IPv4Address(address[name]),),
            )  # fmt: skip
        for name in names:
            plane = (planes or {}).get(name, Plane)
            self.nodes[name] = SimNode(self, name, address[name], keys[name], known, name in exits, plane)
        for one, other in links:
            for here, there in ((one, other), (other, one)):
                profile = (profiles or {}).get((here, there), self.profile)
                self.nodes[here].link_to(keys[there], address[there], profile)

    def _keys(self, name: str) -> NodeKeys:
        """Keys from the seed: which of two nodes has the greater id decides who wins and who picks ids."""
        draw = self.stream(f"{name} keys").randbytes
        link, onion = (X25519PrivateKey.from_private_bytes(draw(32)) for _ in range(2))
        return NodeKeys(Ed25519PrivateKey.from_private_bytes(draw(32)), link, onion)

    def deliver(self, source: str, target: str, datagram: bytes) -> None:
        """Send a datagram from one address to another, as the network will have it."""
        for when in self.network.arrivals(source, target, datagram, self.now):
            self.at(when, lambda: self._arrive(source, target, datagram))

    def _arrive(self, source: str, target: str, datagram: bytes) -> None:
        for node in self.nodes.values():
            if node.address == target:
                node.receive([datagram], source)


class SimNode:
    """One node: both cores, joined. What a restart keeps is here, what it loses is made in `start`."""

    core: Node
    plane: Plane

    def __init__(self, world: World, name: str, address: str, keys: NodeKeys,
                 known: Mapping[NodeId, KnownNode], is_exit: bool, plane: type[Plane]) -> None:  # fmt: skip
        self.world = world
        self.name = name
        self.address = address
        self.keys = keys
        self.on_packet: Callable[[str, bytearray], None] = lambda role, packet: None
        self.running = False
        self._known = known
        self._is_exit = is_exit
        self._plane = plane
        self._guard = TimestampGuard()
        self._peers: list[LinkPeer] = []
        self._lives = 0
        self._stalled_until = 0
        self._source = ""
        self._inbox = Inbox(64, 0, lambda index: o.Endpoint("raw", self._source, 0))
        self._driven: set[int] = set()  # ticks of the beats that have events
        self._deadline: int | None = None
        self.start()

    def known(self, other: SimNode) -> KnownNode:
        """Return what this node knows of another."""
        return self._known[other.keys.node_id]

    # -- what happens to a node -------------------------------------------------------------------

    def start(self) -> None:
        """Start, or start again with the same keys and links and nothing else."""
        self._lives += 1

        def draw(purpose: str) -> Callable[[int], bytes]:
            return self.world.stream(f"{self.name} {self._lives} {purpose}").randbytes

        exits = ExitCircuits(IPv4Network("100.127.0.0/16"), IPv6Network("fd00::/64"))
        pool = exits if self._is_exit else None
        identity = Identity(self.keys.node_id, self.keys.link, self.keys.link_public, self.keys.onion)
        self.plane = self._plane(self.world.now, draw("plane"), schedule_random=draw("schedule"))
        self.core = Node(identity, ANONNET_2026, self._known, pool, draw("core"),
                         lambda: tai64n(self.world.now), self._guard)  # fmt: skip
        for peer in self._peers:
            self.core.add_link(peer, self.world.now)
        self.running = True
        self._driven.clear()
        self._deadline = None
        self.wake()

    def stop(self) -> None:
        """Die without a word."""
        self.running = False

    def stall(self, duration: int) -> None:
        """Stand still, both cores, for so many ns: a host that was starved of its processor."""
        self._stalled_until = self.world.now + duration

    def link_to(self, keys: NodeKeys, address: str, profile: str) -> None:
        """Keep a link with another node."""
        parsed = parse_profile(profile)
        endpoint = o.Endpoint("raw", address, 0)
        peer = LinkPeer(keys.node_id, keys.link_public, endpoint, parsed, parsed.schedule("raw", 4))
        self._peers.append(peer)
        self.core.add_link(peer, self.world.now)
        self.wake()

    def receive(self, datagrams: Sequence[bytes], source: str) -> None:
        """Datagrams arrive; a node that stands still finds them in its socket later."""
        if self.world.now < self._stalled_until:
            self.world.at(self._stalled_until, lambda: self.receive(datagrams, source))
        elif self.running:
            self._source = source
            for index, datagram in enumerate(datagrams):
                self._inbox.memory[index * STRIDE : index * STRIDE + len(datagram)] = datagram
            self._inbox.lengths = [len(datagram) for datagram in datagrams]
            self.plane.receive(self._inbox, self.world.now)
            self.settle()

    def send(self, role: str, packet: bytes) -> None:
        """Put a packet into this node's TUN."""
        self.plane.packets(role, [bytearray(packet)])

    # -- the joints -------------------------------------------------------------------------------

    def wake(self) -> None:
        """Let control act now, carry out its orders, and see to the next deadlines."""
        if self.running:
            self.core.on_deadline(self.world.now)
            self.settle()

    def settle(self) -> None:
        """Carry orders and reports between the cores until there are none."""
        while True:
            for order in self.core.take_orders():
                self.plane.obey(order)
            reports, self.plane.reports[:] = list(self.plane.reports), []
            if not reports:
                break
            for report in reports:
                self.core.on_report(report, self.world.now)
        for datagram, endpoint in self.plane.strays:
            self.world.deliver(self.address, endpoint.address, datagram)
        self.plane.strays.clear()
        for role, packets in self.plane.to_tun.items():
            taken, packets[:] = list(packets), []
            for packet in taken:
                self.on_packet(role, packet)
        self._schedule()

    def _schedule(self) -> None:
        for tick_ns, beat in self.plane.beats.items():
            if tick_ns not in self._driven:
                self._driven.add(tick_ns)
                self._at(beat.prepare_at, partial(self._prepare, beat))
        deadline = self.core.next_deadline()
        if deadline is not None and (self._deadline is None or deadline < self._deadline):
            self._deadline = max(deadline, self.world.now + ORDER_DELAY)
            self._at(self._deadline, self._on_deadline)

    def _at(self, when: int, act: Callable[[], None]) -> None:
        """Do something in this life of the node, but not while it stands still."""
        life = self._lives

        def due() -> None:
            if self.world.now < self._stalled_until:
                self.world.at(self._stalled_until, due)
            elif self.running and life == self._lives:
                act()

        self.world.at(when, due)

    def _on_deadline(self) -> None:
        self._deadline = None
        self.wake()

    def _prepare(self, beat: Beat) -> None:
        links = self.plane.prepare(beat)
        self._at(beat.deadline, lambda: self._emit(beat, links))

    def _emit(self, beat: Beat, links: list[PlaneLink]) -> None:
        for link in links:
            for index in range(link.ready):
                self.world.deliver(self.address, link.endpoint.address, bytes(link.outbox.views[index]))
        self.plane.emitted(beat, links, self.world.now)
        self.settle()
        self._at(beat.prepare_at, lambda: self._prepare(beat))

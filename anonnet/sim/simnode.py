"""One node of a simulated network: both cores, joined as the daemon joins them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from ipaddress import IPv4Network, IPv6Network
from typing import TYPE_CHECKING, Any, Final

from anonnet.crypto.gate import TimestampGuard
from anonnet.crypto.keys import NodeKeys
from anonnet.crypto.suite import ANONNET_2026, Suite
from anonnet.ids import NodeId
from anonnet.proto import orders as o
from anonnet.proto.engine import python
from anonnet.proto.exits import ExitCircuits
from anonnet.proto.inbox import Inbox
from anonnet.proto.lane import PlaneLink
from anonnet.proto.link import LinkPeer
from anonnet.proto.node import Identity, Node
from anonnet.proto.pacer import Beat
from anonnet.proto.path import KnownNode
from anonnet.proto.plane import Plane
from anonnet.proto.profile import parse_profile
from anonnet.sim.clock import MS, TRUE_CLOCK, Clock
from anonnet.wire.handshake import tai64n

if TYPE_CHECKING:
    from anonnet.sim.world import World

ORDER_DELAY: Final = MS // 5  # between control and data plane


class Reference(Plane):
    """A plane of the parts in Python, for those who look inside."""

    def __init__(self, now: int, random: Callable[[int], bytes], *, suite: Suite, **given: Any) -> None:
        super().__init__(now, random, suite=suite, engine=python(suite), **given)


class SimNode:
    """Both cores and what joins them. What a restart keeps is here, what it loses is made in `start`."""

    core: Node
    plane: Plane

    def __init__(self, world: World, name: str, address: str, keys: NodeKeys,
                 known: Mapping[NodeId, KnownNode], is_exit: bool, plane: type[Plane] = Plane,
                 clock: Clock = TRUE_CLOCK, suite: Suite = ANONNET_2026) -> None:  # fmt: skip
        self.world = world
        self.name = name
        self.address = address
        self.keys = keys
        self.clock = clock
        self.suite = suite
        self.on_packet: Callable[[str, bytearray], None] = lambda role, packet: None
        self.running = False
        self._known = known
        self._is_exit = is_exit
        self._plane = plane
        self._guard = TimestampGuard()
        self.peers: list[LinkPeer] = []
        self._lives = 0
        self._stalled_until = 0  # on the world's clock
        self._deaf_until = 0
        self._source = ""
        self._inbox = Inbox(1, 0, lambda index: o.Endpoint("raw", self._source, 0))
        self._driven: set[int] = set()  # ticks of the beats that have events
        self._deadline: int | None = None
        self.start()

    @property
    def now(self) -> int:
        """What this node's own clock shows."""
        return self.clock.own(self.world.now)

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
        self.plane = self._plane(self.now, draw("plane"), schedule_random=draw("schedule"),
                                 suite=self.suite)  # fmt: skip
        self.core = Node(identity, self.suite, self._known, pool, draw("core"),
                         lambda: tai64n(self.now + self.clock.stood), self._guard)  # fmt: skip
        for peer in self.peers:
            self.core.add_link(peer, self.now)
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

    def suspend(self, duration: int, clock_stands: bool = True) -> None:
        """Sleep for so many ns: what arrives is lost, and usually the clock of both cores stands still."""
        self.stall(duration)
        self._deaf_until = self._stalled_until
        if clock_stands:
            self.clock = self.clock.later(duration)

    def link_to(self, keys: NodeKeys, address: str, profile: str) -> None:
        """Keep a link with another node."""
        parsed = parse_profile(profile)
        endpoint = o.Endpoint("raw", address, 0)
        peer = LinkPeer(keys.node_id, keys.link_public, endpoint, parsed, parsed.schedule("raw", 4))
        self.peers.append(peer)
        self.core.add_link(peer, self.now)
        self.wake()

    def receive(self, datagram: bytes, source: str) -> None:
        """A datagram arrives; a node that stands still finds it in its socket later."""
        if self.world.now < self._deaf_until:
            return
        if self.world.now < self._stalled_until:
            self.world.at(self._stalled_until, self.receive, datagram, source)
        elif self.running:
            self._source = source
            self._inbox.memory[: len(datagram)] = datagram
            self._inbox.lengths = (len(datagram),)
            self.plane.receive(self._inbox, self.now)
            self.settle()

    def send(self, role: str, packet: bytes) -> None:
        """Put a packet into this node's TUN."""
        self.plane.packets(role, [bytearray(packet)])

    # -- the joints -------------------------------------------------------------------------------

    def wake(self) -> None:
        """Let control act now, carry out its orders, and see to the next deadlines."""
        if self.running:
            self.core.on_deadline(self.now)
            self.settle(woken=True)

    def settle(self, woken: bool = False) -> None:
        """Carry orders and reports between the cores until there are none."""
        while True:
            orders = self.core.take_orders()
            for order in orders:
                self.plane.obey(order)
            reports, self.plane.reports[:] = list(self.plane.reports), []
            woken |= bool(orders or reports)
            if not reports:
                break
            for report in reports:
                self.core.on_report(report, self.now)
        for datagram, endpoint in self.plane.strays:
            self.world.deliver(self.address, endpoint.address, datagram)
        self.plane.strays.clear()
        for role, packets in self.plane.to_tun.items():
            if packets:
                taken, packets[:] = list(packets), []
                for packet in taken:
                    self.on_packet(role, packet)
        if woken:  # else control has heard nothing, and its deadlines stand
            self._schedule()

    def _schedule(self) -> None:
        for tick_ns, beat in self.plane.beats.items():
            if tick_ns not in self._driven:
                self._driven.add(tick_ns)
                self._at(beat.prepare_at, self._prepare, beat)
        deadline = self.core.next_deadline()
        if deadline is not None and (self._deadline is None or deadline < self._deadline):
            self._deadline = max(deadline, self.now + ORDER_DELAY)
            self._at(self._deadline, self._on_deadline, self._deadline)

    def _at(self, when: int, act: Callable[..., None], *given: Any) -> None:
        """Do something in this life of the node, but not while it stands still; `when` is its own time."""
        self.world.at(self.clock.virtual(when), self._due, self._lives, when, act, given)

    def _due(self, life: int, when: int, act: Callable[..., None], given: tuple[Any, ...]) -> None:
        if self.world.now < self._stalled_until:
            self.world.at(self._stalled_until, self._due, life, when, act, given)
        elif self.now < when:  # it has been suspended since
            self.world.at(self.clock.virtual(when), self._due, life, when, act, given)
        elif self.running and life == self._lives:
            act(*given)

    def _on_deadline(self, deadline: int) -> None:
        if deadline == self._deadline:  # else there was an earlier one since, which has seen to the next
            self._deadline = None
            self.wake()

    def _prepare(self, beat: Beat) -> None:
        self._at(beat.deadline, self._emit, beat, self.plane.prepare(beat))

    def _emit(self, beat: Beat, links: list[PlaneLink]) -> None:
        for link in links:
            for index in range(link.ready):
                self.world.deliver(self.address, link.endpoint.address, bytes(link.outbox.views[index]))
        self.plane.emitted(beat, self.now)
        self.settle()
        self._at(beat.prepare_at, self._prepare, beat)

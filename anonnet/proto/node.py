"""A node's control side without its sockets: reports in, orders out, and what a person may ask of it.

Joins links, relay and caller. `now` is set at each entrance; the callbacks between machines use it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from anonnet.crypto.gate import Challenge, CookieJar, Foreign, HandshakeGate, Pass, TimestampGuard
from anonnet.crypto.link import LinkResponder
from anonnet.crypto.suite import Suite
from anonnet.errors import PeerFault
from anonnet.ids import NodeId
from anonnet.proto import orders as o
from anonnet.proto.budget import LinkBudget
from anonnet.proto.caller import Caller
from anonnet.proto.exits import ExitCircuits
from anonnet.proto.guards import Exits, Guards
from anonnet.proto.keeper import CircuitKeeper
from anonnet.proto.keepers import Keepers
from anonnet.proto.link import Link, LinkPeer, LinkState, Surroundings
from anonnet.proto.neighbours import Neighbour, Neighbours
from anonnet.proto.path import KnownNode
from anonnet.proto.planner import Ends, Planner
from anonnet.proto.relay import Relay
from anonnet.spec import DatagramType
from anonnet.wire import control, handshake
from anonnet.wire.control import Reason

HANDSHAKES_PER_SECOND: Final = 50  # more than this is load, and cookies are asked for
INDEX_LEN: Final = 3


@dataclass(frozen=True)
class Identity:
    """Who this node is: its id and private static keys."""

    node_id: NodeId
    link: X25519PrivateKey
    link_public: bytes
    onion: X25519PrivateKey


class Node:
    """Control core of one node."""

    def __init__(
        self, identity: Identity, suite: Suite, nodes: Mapping[NodeId, KnownNode], exits: ExitCircuits | None,
        random: Callable[[int], bytes], timestamp: Callable[[], bytes], guard: TimestampGuard,
        share: float = 1.0, ends: Ends | None = None,
    ) -> None:  # fmt: skip
        self.node_id = identity.node_id
        self.random = random
        self.links: dict[int, Link] = {}
        self.stats: o.Stats | None = None
        self.guard_changed = False
        self.now = 0
        self._orders: list[o.Order] = []
        self._handles = 0
        self._indices: dict[int, list[int]] = {}  # link -> receiver indices it may still be called by
        self._jars: dict[int, CookieJar] = {}
        self._message_ids: dict[int, int] = {}
        self._guard = guard
        self._gate = HandshakeGate(identity.link_public, HANDSHAKES_PER_SECOND, random, suite.code)
        self._partials = handshake.Reassembler()
        self._suite = suite
        self._responder = LinkResponder(suite, identity.link)
        self.neighbours = Neighbours(self.node_id, random)
        self.relay = Relay(self, suite, identity.onion, self.neighbours, exits)
        self.caller = Caller(self, suite, self.neighbours)
        self.nodes = nodes
        self.ends = ends or Ends(Guards(nodes, random, lambda: 0), Exits(nodes, random, lambda: 0))

        def make(number: int) -> CircuitKeeper:
            planner = Planner(self.node_id, nodes, self.neighbours, self.ends, self.caller, random, share)
            return CircuitKeeper(number, planner, self.caller, self.new_route, random, self.order)

        self.keepers = Keepers(make, self.order)
        self._around = Surroundings(
            self.node_id, suite, identity.link, random, timestamp, self._new_index, self.order,
            self._on_up, self._on_down, self._on_message,
        )  # fmt: skip

    @property
    def keeper(self) -> CircuitKeeper:
        """The first circuit's keeper: the only one unless the host wants several."""
        return self.keepers.all[0]

    # -- what the machines inside need ------------------------------------------------------------

    def order(self, order: o.Order) -> None:
        """Tell the data plane."""
        self._orders.append(order)

    def take_orders(self) -> list[o.Order]:
        """Return and forget the orders that have gathered."""
        orders, self._orders = self._orders, []
        return orders

    def say(self, link: int, message: control.ControlMessage) -> None:
        """Send a control message to a neighbour; one that cannot take it is as good as dead."""
        self.links[link].send(message, self.now)
        self.links[link].transmit(self.now)

    def new_route(self) -> int:
        """Give out a handle for a route or a circuit."""
        self._handles += 1
        return self._handles

    def _new_index(self, link: int) -> int:
        taken = {index for indices in self._indices.values() for index in indices}
        while (index := int.from_bytes(self.random(INDEX_LEN), "big")) in taken:
            pass
        own = self._indices.setdefault(link, [])
        own.append(index)
        del own[:-4]
        return index

    # -- links ------------------------------------------------------------------------------------

    def add_link(self, peer: LinkPeer, now: int) -> int:
        """Keep a link with a neighbour from now on; return its handle."""
        handle = len(self.links) + 1
        self.links[handle] = Link(handle, peer, self._around, now)
        self._jars[handle] = CookieJar(peer.link_public)
        self.neighbours.add(Neighbour(handle, peer.node_id, peer.profile.format, peer.schedule,
                                      LinkBudget(peer.schedule), since=now))  # fmt: skip
        return handle

    def _on_up(self, link: int) -> None:
        neighbour = self.neighbours[link]
        neighbour.up, neighbour.since = True, self.now

    def _on_down(self, link: int) -> None:
        neighbour = self.neighbours[link]
        neighbour.up, neighbour.since = False, self.now
        self.relay.on_link_down(link)
        self.caller.on_link_down(link)
        neighbour.budget.clear()
        neighbour.routes.clear()

    def _on_message(self, link: int, message: control.ControlMessage) -> None:
        route_id = getattr(message, "route", None)
        if route_id is not None and self.caller.owns(link, route_id):
            self.caller.on_message(link, message, self.now)
        else:
            self.relay.on_message(link, message, self.now)

    # -- reports ----------------------------------------------------------------------------------

    def on_report(self, report: o.Report, now: int) -> None:
        """Take in what the data plane saw."""
        self.now = now
        match report:
            case o.ControlSeen(link, frame):
                self.links[link].on_frame(frame, now)
                self.links[link].transmit(now)
            case o.SignalSeen(route, hop, frame):
                self._on_signal(route, hop, frame)
            case o.Joined(route, backward_shift):
                self.relay.on_joined(route, backward_shift, now)
            case o.HandshakeSeen(source, datagram):
                self._on_handshake(source, datagram, now)
            case o.RouteGone(route):
                self.caller.end(route, Reason.GAPS)
                self.relay.end(route, Reason.GAPS)
            case o.Confirmed(link):
                self.links[link].on_confirmed(now)
                self.links[link].transmit(now)
            case o.Roamed(link, endpoint):
                self.links[link].endpoint = endpoint
            case o.Stats():
                self.stats = report
                for stats in report.links:
                    self.links[stats.link].on_heard(stats.last_received, report.now)
            case _:
                pass

    def _on_signal(self, route: int, hop: int, frame: bytes) -> None:
        if route in self.caller.routes:
            self.caller.on_frame(route, hop, frame, self.now)
        else:
            self.relay.on_frame(route, frame, self.now)

    def _on_handshake(self, source: o.Endpoint, datagram: bytes, now: int) -> None:
        """Nothing here is authenticated: the gate first, then the macs, then the handshake itself."""
        if datagram[0] == DatagramType.COOKIE:
            for jar in self._jars.values():
                if jar.take(datagram, now):
                    break
            return
        where = f"{source.address} {source.port}".encode()
        match self._gate.check(datagram, where, now):
            case Challenge(answer):
                self.order(o.SendHandshake(0, [answer], source))
            case Foreign(suite_code):
                for link in self.links.values():
                    if link.endpoint == source:
                        link.on_other_suite(suite_code)
            case Pass(piece):
                if piece.kind is DatagramType.RESPONSE and self._awaiting(piece) is None:
                    return  # nobody asked: it must not take the place of a message that somebody waits for
                message = self._partials.add(piece, where, now)
                if message is not None:
                    try:
                        self._on_handshake_message(source, message, now)
                    except PeerFault:
                        return  # silence; the data plane counts what it cannot open
            case _:
                pass

    def _awaiting(self, piece: handshake.Fragment | handshake.Message) -> Link | None:
        """The link whose attempt a RESPONSE answers."""
        for handle, link in self.links.items():
            if link.opening_index == piece.index and self._message_ids.get(handle) == piece.message_id:
                return link
        return None

    def _on_handshake_message(self, source: o.Endpoint, message: handshake.Message, now: int) -> None:
        if message.kind is DatagramType.RESPONSE:
            awaited = self._awaiting(message)
            if awaited is not None:
                awaited.on_answer(message.data, source, now)
            return
        accepted = self._responder.read(message.data)
        offer = handshake.LinkOffer.decode(accepted.payload)
        link = next((k for k in self.links.values() if k.peer.link_public == accepted.remote_public), None)
        if link is None or not self._guard.accept(accepted.remote_public, offer.timestamp):
            return
        self.guard_changed = True
        answer = link.on_offer(accepted, offer, source, now)
        if answer is not None:
            key = handshake.mac1_key(accepted.remote_public, self._suite.code)
            datagrams = handshake.fragment(answer, message.fmt, DatagramType.RESPONSE, offer.index,
                                           message.message_id, key, None, self.random)  # fmt: skip
            self.order(o.SendHandshake(link.handle, datagrams, source))

    def _open(self, link: Link, now: int) -> None:
        message = link.open(now)
        message_id = int.from_bytes(self.random(4), "big")
        jar = self._jars[link.handle]
        datagrams = handshake.fragment(
            message, link.peer.profile.format, DatagramType.INITIATION, link.opening_index, message_id,
            handshake.mac1_key(link.peer.link_public, self._suite.code), jar.cookie(now), self.random,
        )  # fmt: skip
        jar.sent(datagrams[0])
        self._message_ids[link.handle] = message_id
        self.order(o.SendHandshake(link.handle, datagrams))

    # -- time -------------------------------------------------------------------------------------

    def next_deadline(self) -> int | None:
        """When `on_deadline` has something to do."""
        due = [link.next_deadline() for link in self.links.values()]
        due += [self.relay.next_deadline(), self.caller.next_deadline(), self.keepers.next_deadline()]
        return min((at for at in due if at is not None), default=None)

    def on_deadline(self, now: int) -> None:
        """Let every machine do what its time has come for."""
        self.now = now
        for link in self.links.values():
            if link.wants_open(now):
                self._open(link, now)
            link.on_deadline(now)
        self.relay.on_deadline(now)
        self.caller.on_deadline(now)
        self.keepers.on_deadline(now)

    def stop(self, now: int) -> None:
        """Say goodbye to every neighbour and give up every route."""
        self.now = now
        self.keepers.drop()
        for handle in list(self.relay.routes):
            self.relay.end(handle, Reason.STOPPING)
        for link in self.links.values():
            if link.state is LinkState.UP:
                link.send(control.Bye(Reason.STOPPING), now)
                link.transmit(now)

"""One node between two neighbours, both cores joined, without network or clock: cheap to put right again.

left ===== node ===== right        the node is an exit as well, and calls a route of its own
"""

from __future__ import annotations

import random as stdlib_random
from ipaddress import IPv4Address, IPv4Network, IPv6Network
from typing import Final

from anonnet.crypto.gate import TimestampGuard
from anonnet.crypto.hop import HopInitiator, hop_respond
from anonnet.crypto.keys import NodeKeys
from anonnet.crypto.link import SessionKeys
from anonnet.crypto.suite import ANONNET_2026
from anonnet.ids import RouteId
from anonnet.proto import orders as o
from anonnet.proto.caller import OwnRoute, Watcher, Wish
from anonnet.proto.engine import Engine
from anonnet.proto.exits import ExitCircuits
from anonnet.proto.inbox import Inbox
from anonnet.proto.link import Link, LinkPeer, LinkState
from anonnet.proto.neighbours import Neighbour
from anonnet.proto.node import Identity, Node
from anonnet.proto.path import KnownNode
from anonnet.proto.plane import Plane
from anonnet.proto.profile import parse_profile
from anonnet.proto.rekey import REKEY_NS
from anonnet.spec import ROUTE_FIRST, ROUTE_PARITY_BIT
from anonnet.wire import control, signal
from anonnet.wire.control import Reason
from anonnet.wire.handshake import PARTIALS_LIMIT, tai64n
from anonnet.wire.stream import FRAME_HEADER_LEN, Frame
from anonnet.wire.stream import decode as decode_frame
from anonnet.wire.stream import encode as encode_frame

MS: Final = 1_000_000
START: Final = 10**15
PROFILE: Final = parse_profile("10m")
LEFT, RIGHT = 1, 2  # handles of the links
BATCH: Final = 6 * MS
OWN_CIRCUIT: Final = 10**9  # a handle that no circuit of others has


class Rig:
    """The node, what its neighbours know, and their ends of the reliable channels."""

    def __init__(self, engine: Engine | None = None) -> None:
        self.random = stdlib_random.Random(1)
        self.now = START
        self.keys = {name: NodeKeys.generate() for name in ("node", "left", "right")}
        own = self.keys["node"]
        self.known = {keys.node_id: self._known(name) for name, keys in self.keys.items()}
        identity = Identity(own.node_id, own.link, own.link_public, own.onion)
        exits = ExitCircuits(IPv4Network("100.127.0.0/16"), IPv6Network("fd00::/64"))
        self.node = Node(identity, ANONNET_2026, self.known, exits, self.random.randbytes,
                         lambda: tai64n(self.now), TimestampGuard())  # fmt: skip
        self.plane = Plane(self.now, self.random.randbytes, engine=engine)
        schedule = PROFILE.schedule("raw", 4)
        for index, name in enumerate(("left", "right"), start=1):
            keys, endpoint = self.keys[name], o.Endpoint("raw", f"10.{index}.0.1", 0)
            peer = LinkPeer(keys.node_id, keys.link_public, endpoint, PROFILE, schedule)
            self.node.add_link(peer, self.now)
        self.source = o.Endpoint("raw", "10.1.0.1", 0)
        self.inbox = Inbox(64, 0, lambda _: self.source)
        self.channels: dict[int, Channel] = {}
        self.deaf = False  # neighbours that acknowledge nothing
        self.greetings = [  # a relay answers the same one as often as it comes
            HopInitiator(ANONNET_2026, own.onion_public, own.node_id).message for _ in range(4)
        ]
        for handle in (LEFT, RIGHT):
            self.raise_link(handle)

    def _known(self, name: str) -> KnownNode:
        keys = self.keys[name]
        others = frozenset(k.node_id for n, k in self.keys.items() if n != name)
        number = list(self.keys).index(name)
        return KnownNode(
            keys.node_id, name, keys.onion_public, True, others, (IPv4Address(f"10.{number}.0.1"),)
        )

    # -- the two cores ----------------------------------------------------------------------------

    def settle(self) -> list[o.Order]:
        """Carry out orders until there are none; return them."""
        done: list[o.Order] = []
        while orders := self.node.take_orders():
            for order in orders:
                self.plane.obey(order)
                if isinstance(order, o.SendControl) and not self.deaf:
                    self.channels[order.link].hear(order.frames)
            done += orders
        self.plane.reports.clear()
        return done

    def tell(self, report: o.Report) -> list[o.Order]:
        """Report something to control, and carry out what it wants done about it."""
        self.node.on_report(report, self.now)
        return self.settle()

    def wait(self, duration: int = BATCH) -> list[o.Order]:
        """Let time pass for control."""
        self.now += duration
        for link in self.node.links.values():
            link.on_heard(self.now, self.now)
        self.node.on_deadline(self.now)
        return self.settle()

    def datagram(self, data: bytes) -> list[o.Report]:
        """One datagram comes; return what the data plane reports of it."""
        self.inbox.memory[: len(data)] = data
        self.inbox.lengths = [len(data)]
        self.plane.receive(self.inbox, self.now)
        reports = list(self.plane.reports)
        self.plane.reports.clear()
        return reports

    # -- links ------------------------------------------------------------------------------------

    def link(self, handle: int) -> Link:
        return self.node.links[handle]

    def neighbour(self, handle: int) -> Neighbour:
        return self.node.neighbours[handle]

    def raise_link(self, handle: int) -> None:
        """Put a link up as a handshake would, with channels that begin anew at both ends."""
        link = self.link(handle)
        link._reset(self.now)
        keys = SessionKeys(bytes(32), bytes([handle]) * 32, bytes(32))
        link._rise(keys, self.now, opened=False)
        assert link.state is LinkState.UP
        index = self.node._new_index(handle)
        self.node.order(o.SetSession(handle, index, handle, keys.send, keys.receive, confirm=False))
        self.channels[handle] = Channel(PROFILE.format.body_len)
        self.settle()

    def say(self, handle: int, message: bytes) -> list[o.Order]:
        """A neighbour says something, well framed, on its control channel; it acknowledges what it hears."""
        orders: list[o.Order] = []
        for frame in self.channels[handle].cut(message):
            orders += self.tell(o.ControlSeen(handle, frame))
        return orders + self.wait(0)

    def fresh(self) -> None:
        """For the next example: links up, everything heard acknowledged, no routes of others."""
        for handle in (LEFT, RIGHT):
            link, stream = self.link(handle), self.link(handle)._stream
            stuck = stream._expected != self.channels[handle]._sequence or stream._parts
            old = self.now - link._rekeying._used_at >= REKEY_NS  # and would fall: nobody here rekeys
            if link.state is LinkState.UP and (stuck or old):  # stuck by a harmed frame that makes no sense
                link._fall(self.now)
                self.settle()
            if link.state is not LinkState.UP:
                self.raise_link(handle)
            self.tell(o.ControlSeen(handle, self.channels[handle].acknowledge()))
        for route in list(self.node.relay.routes):
            self.node.relay.end(route, Reason.NONE)
        self.wait()
        self.sound()

    # -- routes -----------------------------------------------------------------------------------

    def create(self, handle: int, route_id: int, rate: int = 1000) -> control.Create:
        """Return a CREATE that the node will accept."""
        greeting = self.random.choice(self.greetings)
        return control.Create(RouteId(route_id), rate, rate, PROFILE.format.code, greeting)

    def parity(self, handle: int) -> int:
        """The half of the route ids that a neighbour picks from."""
        return ROUTE_PARITY_BIT if self.neighbour(handle).node_id > self.node.node_id else 0

    def relay_route(self) -> int:
        """Make the left neighbour create a route that ends here; return its handle."""
        before = set(self.node.relay.routes)
        route_id = next(
            i for i in range(ROUTE_FIRST, 1 << 20) if i | self.parity(LEFT) not in self.neighbour(LEFT).routes
        )
        self.say(LEFT, control.encode(self.create(LEFT, route_id | self.parity(LEFT))))
        self.wait()
        (made,) = set(self.node.relay.routes) - before
        return made

    def own_route(self, opened: bool) -> OwnRoute:
        """Make the node call a route of two hops over the right link; what the hops say is up to the test."""
        path = [self.known[self.keys[name].node_id] for name in ("right", "left")]
        nothing = Watcher(lambda _: None, lambda _: None, lambda _, __: None, lambda *_: None)
        caller = self.node.caller
        route = caller.build(path, (1000, 1000), Wish(OWN_CIRCUIT, bytes(32)), nothing, self.now)
        assert isinstance(route, OwnRoute)
        self.settle()
        assert route.shaking is not None
        self.tell_caller(route, control.Created(route.route_id, self.answer("right", route.shaking.message)))
        if opened:
            channel = Channel(PROFILE.format.content_len)
            message = signal.Extended(0, self.answer("left", route.shaking.message))
            for frame in channel.cut(signal.encode(message)):
                self.tell(o.SignalSeen(route.handle, 0, frame))
        return route

    def end_own_routes(self) -> None:
        """Give up what the node calls."""
        for handle in list(self.node.caller.routes):
            self.node.caller.end(handle, Reason.NONE)
        self.settle()

    def tell_caller(self, route: OwnRoute, message: control.ControlMessage) -> None:
        """The first hop says something about a route, past the control channel."""
        self.node.caller.on_message(RIGHT, message, self.now)
        self.settle()

    def answer(self, name: str, greeting: bytes) -> bytes:
        """What a hop of that name answers."""
        return hop_respond(ANONNET_2026, self.keys[name].onion, self.keys[name].node_id, greeting)[0]

    # -- what must hold ---------------------------------------------------------------------------

    def state(self) -> dict[str, object]:
        """All that a stranger must not change."""
        node, plane = self.node, self.plane
        return {
            "links": [
                (k.state, k.endpoint, k.trouble, k._opening, k._answered, k._heard)
                for k in node.links.values()
            ],
            "keys": [(k._rekeying._asked, k._rekeying._channel) for k in node.links.values()],
            "sessions": [list(k.sessions) for k in plane.links.values()],
            "endpoints": [k.endpoint for k in plane.links.values()],
            "queued": [(len(k.control), len(k.handshakes), len(k.lanes)) for k in plane.links.values()],
            "routes": (list(node.relay.routes), list(node.caller.routes), list(plane._routes)),
            "budgets": [(n.budget.free_out, n.budget.free_in) for n in node.neighbours],
            "ids": [dict(n.routes) for n in node.neighbours],
            "strays": len(plane.strays),
        }

    def sound(self) -> None:
        """What holds at all times: books balance, nothing is promised twice, nothing grows without bound."""
        node, plane = self.node, self.plane
        for neighbour in node.neighbours:
            assert 0 <= neighbour.budget.free_out <= neighbour.budget.capacity_out
            assert 0 <= neighbour.budget.free_in <= neighbour.budget.capacity_in
            assert set(neighbour.budget._promised) == set(neighbour.routes.values())
        handles = {*node.relay.routes, *node.caller.routes}
        assert {handle for n in node.neighbours for handle in n.routes.values()} <= handles
        assert set(plane._routes) <= handles
        assert set(plane._lanes_of) == set(plane._routes)
        for handle, link in plane.links.items():
            assert set(link.routes) <= set(node.neighbours[handle].routes)
            assert len(link.lanes) <= len(node.neighbours[handle].routes), "no lane without a promise"
        assert node.relay._exits is not None
        known = {circuit.handle for circuit in node.relay._exits._by_name.values()}
        assert set(plane._circuits) <= known | {OWN_CIRCUIT}
        assert set(plane._sessions) == {start for k in plane.links.values() for start in k.sessions}
        assert len(node._partials) <= PARTIALS_LIMIT
        assert sum(map(len, node._indices.values())) <= 8
        assert len(node._message_ids) <= 2
        assert len(node.relay._batch) <= 64


class Channel:
    """The far end of a reliable channel, as its wire format has it: numbers frames, acknowledges at once."""

    def __init__(self, frame_len: int) -> None:
        self._room = frame_len - FRAME_HEADER_LEN
        self._sequence = 0
        self._heard = 0

    def cut(self, message: bytes) -> list[bytes]:
        """Return a message in frames."""
        pieces = [message[at : at + self._room] for at in range(0, len(message), self._room)]
        frames = []
        for number, piece in enumerate(pieces, start=1):
            frame = Frame(self._heard, 0, self._sequence, piece, number == len(pieces))
            frames.append(encode_frame(frame))
            self._sequence += 1
        return frames

    def acknowledge(self) -> bytes:
        """Return a frame that says no more than what was heard."""
        return encode_frame(Frame(self._heard, 0))

    def hear(self, frames: list[bytes]) -> None:
        """Take in what the node sent."""
        for raw in frames:
            frame = decode_frame(raw)
            if frame.data:
                self._heard = max(self._heard, frame.sequence + 1)

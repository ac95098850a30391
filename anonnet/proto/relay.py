"""Other people's routes through this node: set-up, admission, teardown (docs/protocol.md section 5).

    CREATE ok              EXTEND             CREATED, first cell back
    ---------->  END  ------------>  EXTENDING  ------------>  THROUGH
                  |  ^                   |
            OPEN  |  '----- REFUSED -----'
                  v
                 EXIT

From every state a Destroy from either side, a lost link or a breach of the protocol ends the route, both
ways, and gives back all that it held. Requests are gathered for `BATCH_NS` and acted on in random order,
so that the order in which neighbours hear of them says nothing about the order in which they came;
teardowns before set-ups, since the slots that one frees may be what the other needs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from functools import partial
from typing import Final

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from anonnet.crypto.hop import hop_respond
from anonnet.crypto.suite import Suite
from anonnet.errors import PeerFault
from anonnet.ids import RouteId
from anonnet.proto import orders as o
from anonnet.proto.budget import parts_of
from anonnet.proto.exits import ExitCircuits
from anonnet.proto.neighbours import Host, Neighbour, Neighbours
from anonnet.proto.stream import Stream, StreamFull
from anonnet.wire import control, signal
from anonnet.wire.control import Reason

BATCH_NS: Final = 5_000_000
MAX_ROUTES: Final = 4096  # of this node; a neighbour may begin its even part of them
UNACKED_NS: Final = 30_000_000_000  # a caller that takes in nothing for so long is gone


class HopState(Enum):
    """Where a route is in its life at this hop."""

    END = "end"
    EXTENDING = "extending"
    THROUGH = "through"
    EXIT = "exit"


@dataclass
class HopRoute:
    """One route at this hop. `towards` is the caller's side."""

    handle: int
    towards: Neighbour
    towards_id: RouteId
    forward_rate: int
    backward_rate: int
    stream: Stream
    answered: int | None  # when CREATED was sent, until the caller says something; ns
    state: HopState = HopState.END
    onward: Neighbour | None = None
    onward_id: RouteId | None = None
    reply: bytes = b""  # the next hop's handshake, until the first cell comes back from it


class Relay:
    """All routes of others at this node."""

    def __init__(self, host: Host, suite: Suite, onion: X25519PrivateKey, neighbours: Neighbours,
                 exits: ExitCircuits | None) -> None:  # fmt: skip
        self.routes: dict[int, HopRoute] = {}
        self._host = host
        self._suite = suite
        self._onion = onion
        self._neighbours = neighbours
        self._exits = exits
        self._batch: list[tuple[bool, bytes, Callable[[int], None]]] = []  # is set-up, lot, what to do
        self._batch_at: int | None = None

    # -- batches ----------------------------------------------------------------------------------

    def _later(self, now: int, act: Callable[[int], None], *, setup: bool) -> None:
        self._batch.append((setup, self._host.random(8), act))
        if self._batch_at is None:
            self._batch_at = now + BATCH_NS

    def next_deadline(self) -> int | None:
        """When a batch is due or a signalling stream wants to send."""
        due = []
        for route in self.routes.values():
            wakes = (route.stream.next_deadline(), route.stream.unacked_until(UNACKED_NS))
            due += [at for at in wakes if at is not None]
        if self._batch_at is not None:
            due.append(self._batch_at)
        if self._exits is not None and (at := self._exits.next_deadline()) is not None:
            due.append(at)
        return min(due, default=None)

    def on_deadline(self, now: int) -> None:
        """Act on the batch in random order; let streams send again."""
        if self._batch_at is not None and self._batch_at <= now:
            batch, self._batch, self._batch_at = self._batch, [], None
            for _, _, act in sorted(batch, key=lambda entry: entry[:2]):
                act(now)
        for route in list(self.routes.values()):
            if route.stream.unacked_for(now) >= UNACKED_NS:
                self.end(route.handle, Reason.TIMEOUT)
            else:
                self._transmit(route, now)
        for circuit in self._exits.expired(now) if self._exits is not None else ():
            self._host.order(o.CloseCircuit(circuit))

    # -- link control messages --------------------------------------------------------------------

    def owns(self, link: int, route_id: RouteId) -> bool:
        """Whether a route id of a link belongs to a route through this node."""
        return self._neighbours[link].routes.get(route_id, -1) in self.routes

    def on_message(self, link: int, message: control.ControlMessage, now: int) -> None:
        """A message of a neighbour about a route that does not start here."""
        if isinstance(message, control.Created | control.Refused):
            answered = self._onward(link, message.route)
            if answered is not None and answered.reply:  # twice; the data plane has a lane for it already
                self.end(answered.handle, Reason.PROTOCOL)
                return
        match message:
            case control.Create():
                self._later(now, lambda at: self._create(link, message, at), setup=True)
            case control.Created(route_id, reply):
                if (route := self._onward(link, route_id)) is not None:
                    self._host.order(o.ExtendRelayRoute(route.handle, link, route_id))
                    route.reply = reply
                elif route_id not in self._neighbours[link].routes:
                    # Given up in the meantime; our DESTROY came before the route that it should have ended.
                    self._host.say(link, control.Destroy(route_id, Reason.ROUTE_DEAD))
            case control.Refused(route_id, reason):
                if (route := self._onward(link, route_id)) is not None:
                    self._forget_onward(route)
                    route.state = HopState.END
                    self._signal(route, signal.ExtendRefused(reason), now)
            case control.Destroy(route_id, reason):
                handle = self._neighbours[link].routes.get(route_id)
                if handle in self.routes:
                    self._later(now, lambda _: self.end(handle, reason, said_by=link), setup=False)
            case _:
                pass

    def _onward(self, link: int, route_id: RouteId) -> HopRoute | None:
        """The route that waits for this neighbour's answer."""
        route = self.routes.get(self._neighbours[link].routes.get(route_id, -1))
        if route is None or route.state is not HopState.EXTENDING or route.onward_id != route_id:
            return None
        return route if route.onward is self._neighbours[link] else None

    def _create(self, link: int, message: control.Create, now: int) -> None:
        neighbour = self._neighbours[link]
        if not neighbour.up:
            return
        reason = self._admit(neighbour, message, now)
        if reason is not Reason.NONE:
            self._host.say(link, control.Refused(message.route, reason))

    def _admit(self, neighbour: Neighbour, message: control.Create, now: int) -> Reason:
        if not self._neighbours.may_pick(neighbour, message.route):
            return Reason.PROTOCOL
        if message.format_code != neighbour.format.code:
            return Reason.BAD_FORMAT
        begun = sum(route.towards is neighbour for route in self.routes.values())
        if begun >= MAX_ROUTES // len(self._neighbours):
            return Reason.OVERLOAD
        handle = self._host.new_route()
        if not neighbour.budget.reserve(handle, message.backward_rate, message.forward_rate):
            return Reason.NO_SLOTS
        try:
            reply, keys = hop_respond(self._suite, self._onion, self._host.node_id, message.handshake)
        except PeerFault:
            neighbour.budget.release(handle)
            return Reason.BAD_HANDSHAKE
        self.routes[handle] = HopRoute(
            handle, neighbour, message.route, message.forward_rate, message.backward_rate,
            Stream(neighbour.format.content_len), now,
        )  # fmt: skip
        neighbour.routes[message.route] = handle
        self._host.order(o.AddRelayRoute(
            handle, neighbour.handle, message.route, message.forward_rate, message.backward_rate,
            keys.forward, keys.backward, keys.slot_shift,
        ))  # fmt: skip
        self._host.say(neighbour.handle, control.Created(message.route, reply))
        return Reason.NONE

    # -- signalling with the caller ---------------------------------------------------------------

    def on_frame(self, handle: int, frame: bytes, now: int) -> None:
        """A signalling frame of the caller's. A breach of the protocol costs the route."""
        route = self.routes.get(handle)
        if route is None:
            return
        if route.answered is not None:
            route.stream.expect(now - route.answered, min(route.forward_rate, route.backward_rate))
            route.answered = None
        try:
            for raw in route.stream.receive(frame, now):
                message = signal.decode(raw)
                if isinstance(message, signal.Extend):
                    self._later(now, partial(self._extend, handle, message), setup=True)
                else:
                    self._on_signal(route, message, now)
        except PeerFault:
            self.end(handle, Reason.PROTOCOL)
            return
        self._transmit(route, now)

    def _on_signal(self, route: HopRoute, message: signal.SignalMessage, now: int) -> None:
        match message:
            case signal.Open(secret):
                self._open(route, secret, now)
            case signal.Joined() if route.state is HopState.EXIT:
                self._host.order(o.UseRoute(route.handle))
            case signal.Arrange(shares) if route.state is HopState.EXIT and self._exits is not None:
                self._host.order(o.ArrangeCircuit(self._exits.circuit_of(route.handle), shares))
            case signal.Drain() if route.state is HopState.EXIT:
                self._host.order(o.DrainRoute(route.handle))
                self._signal(route, signal.Drained(), now)
            case control.Echo(token):
                self._signal(route, control.EchoReply(token), now)
            case signal.End(reason):
                self._later(now, lambda _: self.end(route.handle, reason), setup=False)
            case _:
                raise PeerFault("a message that only hops send")

    def _extend(self, handle: int, message: signal.Extend, now: int) -> None:
        route = self.routes.get(handle)
        if route is None:
            return
        onward = self._neighbours.find(message.next_hop)
        reason = Reason.NONE
        if route.state is not HopState.END:
            reason = Reason.PROTOCOL
        elif onward is None or onward is route.towards:
            reason = Reason.NO_LINK
        elif onward.format is not route.towards.format:
            reason = Reason.BAD_FORMAT
        elif not onward.budget.reserve(
            handle, route.forward_rate, route.backward_rate, parts_of(len(self._neighbours))
        ):
            reason = Reason.NO_SLOTS
        if reason is not Reason.NONE or onward is None:
            self._signal(route, signal.ExtendRefused(reason), now)
            return
        route.state = HopState.EXTENDING
        route.onward = onward
        route.onward_id = self._neighbours.new_id(onward)
        onward.routes[route.onward_id] = handle
        self._host.say(onward.handle, control.Create(
            route.onward_id, route.forward_rate, route.backward_rate, onward.format.code, message.handshake,
        ))  # fmt: skip

    def on_joined(self, handle: int, backward_shift: int, now: int) -> None:
        """The first cell came back from the next hop, so the caller can be told how slots go on."""
        route = self.routes.get(handle)
        if route is not None and route.state is HopState.EXTENDING:
            route.state = HopState.THROUGH
            self._signal(route, signal.Extended(backward_shift, route.reply), now)
            route.reply = b""

    def _open(self, route: HopRoute, secret: bytes, now: int) -> None:
        if route.state is not HopState.END:
            raise PeerFault("a route is opened once, at its end")
        if self._exits is None:
            self._signal(route, signal.OpenRefused(Reason.NOT_EXIT), now)
            return
        incarnation = int.from_bytes(self._host.random(4), "big")
        circuit = self._exits.join(secret, route.handle, self._host.new_route(), incarnation)
        if circuit is None:
            self._signal(route, signal.OpenRefused(Reason.OVERLOAD), now)
            return
        route.state = HopState.EXIT
        self._host.order(o.OpenCircuit(route.handle, circuit.handle, circuit.pool4, circuit.pool6))
        self._signal(route, signal.Opened(circuit.incarnation), now)

    def _signal(self, route: HopRoute, message: signal.SignalMessage, now: int) -> None:
        """Tell the caller; one that takes nothing in loses its route."""
        try:
            route.stream.send(signal.encode(message))
        except StreamFull:
            self.end(route.handle, Reason.TIMEOUT)
        else:
            self._transmit(route, now)

    def _transmit(self, route: HopRoute, now: int) -> None:
        frames = route.stream.poll_transmit(now)
        if frames:
            self._host.order(o.SendSignal(route.handle, 0, frames))

    # -- the end ----------------------------------------------------------------------------------

    def end(self, handle: int | None, reason: Reason, said_by: int | None = None) -> None:
        """Close a route both ways and give back its slots; neighbours but `said_by` are told."""
        route = self.routes.pop(handle, None) if handle is not None else None
        if route is None:
            return
        if route.state is HopState.EXIT and self._exits is not None:
            self._exits.leave(route.handle, self._host.now)
        self._host.order(o.RemoveRoute(route.handle))
        sides = [(route.towards, route.towards_id)]
        if route.onward is not None and route.onward_id is not None:
            sides.append((route.onward, route.onward_id))
        for neighbour, route_id in sides:
            neighbour.budget.release(route.handle)
            neighbour.routes.pop(route_id, None)
            if neighbour.up and neighbour.handle != said_by:
                self._host.say(neighbour.handle, control.Destroy(route_id, reason))

    def _forget_onward(self, route: HopRoute) -> None:
        if route.onward is not None and route.onward_id is not None:
            route.onward.budget.release(route.handle)
            route.onward.routes.pop(route.onward_id, None)
            route.onward = route.onward_id = None

    def on_link_down(self, link: int) -> None:
        """A neighbour is lost: every route over it dies, towards both ends."""
        gone = self._neighbours[link]
        for route in list(self.routes.values()):
            if route.towards is gone or route.onward is gone:
                self.end(route.handle, Reason.ROUTE_DEAD, said_by=link)

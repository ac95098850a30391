"""This node's own routes: telescoping set-up, use, teardown (docs/protocol.md section 5).

    CREATING --CREATED--> EXTENDING --EXTENDED x (hops - 1)--> OPENING --OPENED--> OPEN ----> DRAINING
       |                      |                                   |                 |    drain     |
       '--------- refused, no answer in time, link lost ----------'-----------------'--> DEAD <----'

DRAINING ends when the exit has answered DRAINED, or `DRAIN_NS` later: then no data is on its way any more.
A route that only tests (a debugging run, `ping`) stays in EXTENDED and never opens a circuit.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Final

from anonnet.crypto.hop import HopInitiator, HopKeys
from anonnet.crypto.suite import Suite
from anonnet.errors import PeerFault
from anonnet.ids import RouteId, short
from anonnet.proto import orders as o
from anonnet.proto.neighbours import Host, Neighbour, Neighbours
from anonnet.proto.path import KnownNode
from anonnet.proto.redundancy import STRIPE, Redundancy
from anonnet.proto.stream import Stream, StreamFull
from anonnet.wire import control, signal
from anonnet.wire.control import Reason
from anonnet.wire.signal import SignalMessage

SECOND: Final = 1_000_000_000
STEP_NS: Final = 8 * SECOND  # patience for one step of the set-up ...
STEP_CELLS: Final = 64  # ... plus the time that so many cells take at the route's rate
DRAIN_NS: Final = SECOND // 2  # for DRAIN and DRAINED to pass ...
DRAIN_CELLS: Final = 16  # ... plus the time that so many cells take
SETTLE_NS: Final = 40_000_000  # for cells that DRAINED overtook
SECRET_LEN: Final = signal.CIRCUIT_SECRET_LEN


class RouteState(Enum):
    """Where a route of ours is in its life; the value is what people read."""

    CREATING = "creating"
    EXTENDING = "extending"
    EXTENDED = "extended"
    OPENING = "opening"
    OPEN = "open"
    DRAINING = "draining"
    DEAD = "dead"


@dataclass(frozen=True)
class Watcher:
    """Who hears of a route: every step in words, and its end."""

    on_step: Callable[[str], None]
    on_ready: Callable[[int], None]  # handle: extended as wished, and open if that was wished
    on_dead: Callable[[int, Reason], None]
    on_echo: Callable[[int, int, int], None]  # handle, hop, token


@dataclass(frozen=True)
class Wish:
    """The circuit that a route is built for: its handle, and the secret that names it to the exit."""

    handle: int
    secret: bytes
    redundancy: Redundancy = STRIPE
    number: int = 1  # among the host's circuits


class OwnRoute:
    """One route of which this node is the caller."""

    def __init__(
        self, handle: int, path: Sequence[KnownNode], first: Neighbour, route_id: RouteId,
        rate: tuple[int, int], circuit: Wish | None, watcher: Watcher, now: int,
    ) -> None:  # fmt: skip
        self.handle = handle
        self.path = path
        self.first = first
        self.route_id = route_id
        self.rate = rate  # forward, backward
        self.circuit = circuit
        self.watcher = watcher
        self.state = RouteState.CREATING
        self.streams: list[Stream] = []
        self.reason = Reason.NONE
        self.shaking: HopInitiator | None = None
        self.started = self.asked = now  # the whole, and the step that is under way
        self.expires = 0  # when its keeper replaces it
        self.incarnation = 0  # of the circuit at the exit, as this route found it
        self.deadline = 0

    def patience(self, now: int, least_ns: int = STEP_NS, cells: int = STEP_CELLS) -> None:
        """Give the next step its time."""
        self.deadline = now + least_ns + cells * SECOND * 1000 // max(1, min(self.rate))


class Caller:
    """All routes of our own."""

    def __init__(self, host: Host, suite: Suite, neighbours: Neighbours) -> None:
        self.routes: dict[int, OwnRoute] = {}
        self._host = host
        self._suite = suite
        self._neighbours = neighbours

    @property
    def now(self) -> int:
        """Monotonic ns, of what is being handled."""
        return self._host.now

    # -- set-up -----------------------------------------------------------------------------------

    def build(self, path: Sequence[KnownNode], rate: tuple[int, int], circuit: Wish | None,
              watcher: Watcher, now: int) -> OwnRoute | Reason:  # fmt: skip
        """Start a route along a path; a Reason if its first link cannot carry it."""
        first = self._neighbours.find(path[0].node_id)
        if first is None:
            return Reason.NO_LINK
        handle = self._host.new_route()
        if not first.budget.reserve(handle, *rate):
            return Reason.NO_SLOTS
        route_id = self._neighbours.new_id(first)
        route = OwnRoute(handle, path, first, route_id, rate, circuit, watcher, now)
        self.routes[handle] = route
        first.routes[route_id] = handle
        route.shaking = HopInitiator(self._suite, path[0].onion_public, path[0].node_id)
        route.patience(now)
        watcher.on_step(f"create: asking {self._hop_name(route, 0)}")
        create = control.Create(route_id, *rate, first.format.code, route.shaking.message)
        self._host.say(first.handle, create)
        return route if handle in self.routes else route.reason

    def owns(self, link: int, route_id: RouteId) -> bool:
        """Whether a route id of a link belongs to a route of ours."""
        return self._neighbours[link].routes.get(route_id, -1) in self.routes

    def on_message(self, link: int, message: control.ControlMessage, now: int) -> None:
        """A neighbour's message about a route of ours."""
        if not isinstance(message, control.Created | control.Refused | control.Destroy):
            return
        route = self.routes.get(self._neighbours[link].routes.get(message.route, -1))
        if route is None:
            return
        if isinstance(message, control.Created):
            if route.state is RouteState.CREATING:
                self._host.order(o.AddCallerRoute(route.handle, link, route.route_id, *route.rate))
                route.state = RouteState.EXTENDING  # the data plane has it now, also if the reply is no good
                self._grown(route, message.handshake, 0, now)
        else:
            self.end(route.handle, message.reason, tell=False)

    def _grown(self, route: OwnRoute, reply: bytes, backward_shift: int, now: int) -> None:
        """A hop answered: check that it is who it should be, then go on to the next."""
        assert route.shaking is not None
        try:
            keys: HopKeys = route.shaking.finish(reply)
        except PeerFault:
            self.end(route.handle, Reason.BAD_HANDSHAKE)
            return
        done = len(route.streams)
        self._host.order(o.AddHop(route.handle, keys.forward, keys.backward, keys.slot_shift, backward_shift))
        stream = Stream(route.first.format.content_len)
        stream.expect(now - route.asked, min(route.rate))
        route.streams.append(stream)
        route.asked = now
        route.watcher.on_step(f"hop {done + 1} of {len(route.path)}: {self._hop_name(route, done)} answered")
        route.patience(now)
        if done + 1 < len(route.path):
            target = route.path[done + 1]
            route.state = RouteState.EXTENDING
            route.shaking = HopInitiator(self._suite, target.onion_public, target.node_id)
            route.watcher.on_step(f"extend: asking {self._hop_name(route, done + 1)}")
            self.signal(route, done, signal.Extend(target.node_id, route.shaking.message), now)
        elif route.circuit is not None:
            route.state = RouteState.OPENING
            route.shaking = None
            route.watcher.on_step(f"open: asking the exit {self._hop_name(route, done)}")
            self._host.order(o.OpenCircuit(route.handle, route.circuit.handle, number=route.circuit.number))
            self.signal(route, done, signal.Open(route.circuit.secret), now)
        else:
            route.state = RouteState.EXTENDED
            route.watcher.on_ready(route.handle)

    @staticmethod
    def _hop_name(route: OwnRoute, index: int) -> str:
        node = route.path[index]
        return f"{node.name} ({short(node.node_id)})" if node.name else short(node.node_id)

    # -- signalling -------------------------------------------------------------------------------

    def signal(self, route: OwnRoute, hop: int, message: SignalMessage, now: int) -> None:
        """Send a message to one hop of a route."""
        try:
            route.streams[hop].send(signal.encode(message))
        except StreamFull:
            self.end(route.handle, Reason.TIMEOUT)
        else:
            self._transmit(route, now)

    def _arrange(self, route: OwnRoute, wish: Wish, hop: int, now: int) -> None:
        """Send as wished, and ask the exit to: over each route, since any may be the only one."""
        self._host.order(o.ArrangeCircuit(wish.handle, wish.redundancy.shares))
        self.signal(route, hop, signal.Arrange(wish.redundancy.shares), now)

    def rearrange(self, wish: Wish, now: int) -> None:
        """Change the redundancy of an open circuit, without a break."""
        for route in self.routes.values():
            if route.circuit is not None and route.circuit.handle == wish.handle:
                route.circuit = wish
                if route.state is RouteState.OPEN:
                    self._arrange(route, wish, len(route.streams) - 1, now)

    def _transmit(self, route: OwnRoute, now: int) -> None:
        for hop, stream in enumerate(route.streams):
            frames = stream.poll_transmit(now)
            if frames:
                self._host.order(o.SendSignal(route.handle, hop, frames))

    def on_frame(self, handle: int, hop: int, frame: bytes, now: int) -> None:
        """A signalling frame from a hop. A breach of the protocol costs the route."""
        route = self.routes.get(handle)
        if route is None or hop >= len(route.streams):
            return
        try:
            for raw in route.streams[hop].receive(frame, now):
                self._on_signal(route, hop, signal.decode(raw), now)
        except PeerFault:
            self.end(handle, Reason.PROTOCOL)
        if handle in self.routes:
            self._transmit(route, now)

    def _on_signal(self, route: OwnRoute, hop: int, message: SignalMessage, now: int) -> None:
        last = hop == len(route.streams) - 1
        match message:
            case signal.Extended(backward_shift, reply) if last and route.state is RouteState.EXTENDING:
                self._grown(route, reply, backward_shift, now)
            case signal.ExtendRefused(reason) if last and route.state is RouteState.EXTENDING:
                self.end(route.handle, reason)
            case signal.Opened(incarnation) if last and route.state is RouteState.OPENING:
                route.state = RouteState.OPEN
                route.incarnation = incarnation
                self._host.order(o.UseRoute(route.handle))
                self.signal(route, hop, signal.Joined(), now)
                if route.circuit is not None:
                    self._arrange(route, route.circuit, hop, now)
                route.watcher.on_step("the exit opened the circuit")
                route.watcher.on_ready(route.handle)
            case signal.OpenRefused(reason) if last and route.state is RouteState.OPENING:
                self.end(route.handle, reason)
            case signal.Drained() if last and route.state is RouteState.DRAINING:
                route.deadline = min(route.deadline, now + SETTLE_NS)
            case control.EchoReply(token):
                route.watcher.on_echo(route.handle, hop, token)
            case signal.End(reason):
                self.end(route.handle, reason)
            case _:
                raise PeerFault("a message that makes no sense now")

    # -- time and the end -------------------------------------------------------------------------

    def next_deadline(self) -> int | None:
        """When a step runs out of time or a stream wants to send."""
        due: list[int] = []
        for route in self.routes.values():
            if route.state not in (RouteState.OPEN, RouteState.EXTENDED):
                due.append(route.deadline)
            due += [at for stream in route.streams if (at := stream.next_deadline()) is not None]
        return min(due, default=None)

    def on_deadline(self, now: int) -> None:
        """Give up on steps that take too long; let streams send again."""
        for route in list(self.routes.values()):
            if route.state not in (RouteState.OPEN, RouteState.EXTENDED) and now >= route.deadline:
                drained = route.state is RouteState.DRAINING
                self.end(route.handle, Reason.FINISHED if drained else Reason.TIMEOUT)
            else:
                self._transmit(route, now)

    def drain(self, handle: int, now: int) -> None:
        """End an open route without loss: no more data at either end, then time for what is on its way."""
        route = self.routes[handle]
        if route.state is RouteState.OPEN:
            route.state = RouteState.DRAINING
            route.patience(now, DRAIN_NS, DRAIN_CELLS)
            self._host.order(o.DrainRoute(handle))
            self.signal(route, len(route.streams) - 1, signal.Drain(), now)

    def end(self, handle: int, reason: Reason, *, tell: bool = True) -> None:
        """Close a route: its first hop is told, which passes it on."""
        route = self.routes.pop(handle, None)
        if route is None:
            return
        known = route.state is not RouteState.CREATING
        route.state = RouteState.DEAD
        route.reason = reason
        if known:
            self._host.order(o.RemoveRoute(handle))
        route.first.budget.release(handle)
        route.first.routes.pop(route.route_id, None)
        if tell and route.first.up:
            self._host.say(route.first.handle, control.Destroy(route.route_id, reason))
        route.watcher.on_dead(handle, reason)

    def on_link_down(self, link: int) -> None:
        """A neighbour is lost, and with it every route that starts there."""
        for route in list(self.routes.values()):
            if route.first.handle == link:
                self.end(route.handle, Reason.ROUTE_DEAD, tell=False)

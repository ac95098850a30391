"""The data plane without its sockets: datagrams and packets in, sealed outboxes and packets out.

    receive   an inbox of datagrams: open, switch, layer; handshakes are only passed on
    prepare   seal one beat's outboxes, complete, before its deadline
    emitted   the shell sent them; keep the schedule and the counts
    obey      an order from control
    packets   IP packets read from a TUN
    reports, to_tun   drained by the shell

It parses nothing unauthenticated beyond the datagram header.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Final

from anonnet.crypto.suite import ANONNET_2026, Suite
from anonnet.errors import Malformed
from anonnet.proto import orders as o
from anonnet.proto.circuit import Circuit
from anonnet.proto.engine import Engine, choose
from anonnet.proto.health import Health
from anonnet.proto.hops import MAX_SIGNALS, CallerRoute, HopRoute, Scratch
from anonnet.proto.inbox import Inbox
from anonnet.proto.intake import ReceiveSession
from anonnet.proto.isolation import Sorter
from anonnet.proto.lane import Convoy, PlaneLink
from anonnet.proto.normalise import Normaliser
from anonnet.proto.pacer import Beat
from anonnet.proto.redundancy import Redundancy
from anonnet.proto.rewrite import Rewriter, destination
from anonnet.proto.slots import Lane, Skip, Take
from anonnet.spec import FORMAT_BY_CODE
from anonnet.wire.cell import CellRow, rows

STATS_NS: Final = 500_000_000


class Plane:
    """State of the data plane. `random` must be fit for keys; `now` is monotonic nanoseconds.

    `schedule_random` draws what a wire observer sees (beats, order of links). Given apart, it shows that the
    schedule is drawn without a look at traffic: the trace of a seed is the same, idle or loaded.
    """

    def __init__(self, now: int, random: Callable[[int], bytes], randomised: bool = False,
                 schedule_random: Callable[[int], bytes] | None = None,
                 suite: Suite = ANONNET_2026, engine: Engine | None = None) -> None:  # fmt: skip
        self.links: dict[int, PlaneLink] = {}
        self.beats: dict[int, Beat] = {}
        self._convoys: dict[Beat, Convoy] = {}
        self.reports = o.Reports()
        self.to_tun: dict[str, list[bytearray]] = {"caller": [], "exit": []}
        self.strays: list[tuple[bytes, o.Endpoint]] = []
        self.engine = engine or choose(suite)
        self._random = random
        self._schedule_random = schedule_random or random
        self._randomised = randomised
        self._now = now
        self._next_stats = now + STATS_NS
        self._routes: dict[int, HopRoute | CallerRoute] = {}
        self._judged: dict[int, Health] = {}  # of those routes that end here, and are in use
        self._lanes_of: dict[int, tuple[tuple[PlaneLink, Lane, int], ...]] = {}
        self._circuits: dict[int, Circuit] = {}
        self._by_pool: dict[bytes, Circuit] = {}
        self._callers = Sorter()
        plain = {f.datagram_len: rows(f, 1)[0] for f in FORMAT_BY_CODE.values()}
        self._intake = self.engine.intake(plain, self._heard, self._heard_control, self._heard_handshake)
        self._sessions = self._intake.sessions
        self._scratch = {f.name: Scratch(f, random) for f in FORMAT_BY_CODE.values()}
        self._normaliser = Normaliser(random)
        self._tun_packets = 0
        self._unroutable = 0

    # -- datagrams in -----------------------------------------------------------------------------

    def receive(self, inbox: Inbox, now: int) -> None:
        """Open and switch every datagram of an inbox; what is forged or unknown is counted, not answered."""
        self._now = now
        self._intake.receive(inbox, now)

    def _heard(self, link: PlaneLink, session: ReceiveSession, inbox: Inbox, index: int) -> None:
        source = inbox.source(index)
        if source != link.endpoint:
            link.move(source)
            self.reports.append(o.Roamed(link.handle, source))
        if session.confirms and session is next(reversed(link.sessions.values())):
            session.confirms = False
            link.switch()
            self.reports.append(o.Confirmed(link.handle))

    def _heard_control(self, link: PlaneLink, row: CellRow) -> None:
        self.reports.offer(o.ControlSeen(link.handle, bytes(row.body)))

    def _heard_handshake(self, inbox: Inbox, index: int) -> None:
        self.reports.offer(o.HandshakeSeen(inbox.source(index), inbox.datagram(index)))

    # -- ticks out --------------------------------------------------------------------------------

    def prepare(self, beat: Beat) -> list[PlaneLink]:
        """Seal the beat's outboxes; return its links in random order, ready to emit."""
        convoy = self._convoys.get(beat)
        if convoy is None:  # its last link has gone
            return []
        convoy.prepare(beat.tick)
        due = convoy.links
        order = list(self._schedule_random(len(due)))  # asked for an item, a list answers sooner than bytes
        return [due[index] for index in sorted(range(len(due)), key=order.__getitem__)]

    def emitted(self, beat: Beat, began: int, took: int = 0) -> None:
        """The beat's outboxes went out, which took so long (ns)."""
        now = began + took
        late, skipped = beat.advance(began, took)
        convoy = self._convoys.get(beat)
        if convoy is not None:
            convoy.emitted(late, skipped)
        for circuit in self._circuits.values():
            circuit.on_deadline(now)
        for handle, health in self._judged.items():
            if health.check(now):
                self.reports.append(o.RouteGone(handle))
        if now >= self._next_stats:
            self._next_stats = now + STATS_NS
            self.reports.append(self._stats(now))

    def _stats(self, now: int) -> o.Stats:
        routes = []
        for route in self._routes.values():
            slips = sum(queue.slips for queue in route.queues)
            routes.append(o.RouteStats(route.handle, route.received, route.missing, slips))
        dropped = self._unroutable + sum(c.dropped for c in self._circuits.values())
        links = [link.stats() for link in self.links.values()]
        return o.Stats(now, links, routes, dropped, self._tun_packets, self.engine.name,
                       self._callers.counts)  # fmt: skip

    # -- packets ----------------------------------------------------------------------------------

    def packets(self, role: str, packets: list[bytearray]) -> None:
        """IP packets that the host (`caller`) or the Internet (`exit`) sent into a TUN."""
        self._tun_packets += len(packets)
        for packet in packets:
            if role == "caller":
                circuit = self._callers.choose(packet)
            else:
                circuit = self._by_pool.get(destination(packet) or b"")
            if circuit is None:
                self._unroutable += 1
            else:
                circuit.send(packet)

    # -- orders -----------------------------------------------------------------------------------

    def obey(self, order: o.Order) -> None:
        """Carry out one order of control's; an order that makes no sense is reported as a Fault."""
        handler = getattr(self, f"_on_{type(order).__name__}", None)
        assert handler is not None, f"no such order here: {order!r}"
        try:
            handler(order)
        except KeyError as error:
            self.reports.append(o.Fault(f"{type(order).__name__}: no such handle {error}"))
        except Malformed as error:
            self.reports.append(o.Fault(str(error)))

    def _on_AddLink(self, order: o.AddLink) -> None:  # noqa: N802  (named after the order)
        beat = self.beats.get(order.tick_ns)
        if beat is None:
            beat = self.beats[order.tick_ns] = Beat(
                order.tick_ns,
                self._now,
                self._schedule_random,
                self._randomised,
                self.engine.lead_cell_ns,
            )
            self._convoys[beat] = Convoy(beat, self.engine)
        convoy = self._convoys[beat]
        link = PlaneLink(order.link, FORMAT_BY_CODE[order.format_code], order.endpoint, convoy,
                         order.cells_out, self.engine)  # fmt: skip
        convoy.add(link)
        self.links[order.link] = link

    def _on_RemoveLink(self, order: o.RemoveLink) -> None:  # noqa: N802
        link = self.links.pop(order.link)
        self._forget_sessions(link)
        link.convoy.remove(link)
        if not link.beat.cells:
            del self.beats[link.beat.tick_ns], self._convoys[link.beat]

    def _on_SetSession(self, order: o.SetSession) -> None:  # noqa: N802
        link = self.links[order.link]
        link.set_session(
            order.local_index, order.remote_index, order.send_key, order.receive_key, order.confirm
        )
        if order.endpoint is not None:
            link.move(order.endpoint)
        self._forget_sessions(link)
        self._sessions.update(link.sessions)

    def _on_DropSession(self, order: o.DropSession) -> None:  # noqa: N802
        link = self.links[order.link]
        link.drop_session()
        self._forget_sessions(link)

    def _forget_sessions(self, link: PlaneLink) -> None:
        for start in [start for start, session in self._sessions.items() if session.link is link]:
            del self._sessions[start]

    def _on_SendControl(self, order: o.SendControl) -> None:  # noqa: N802
        self.links[order.link].control.extend(order.frames)

    def _on_SendHandshake(self, order: o.SendHandshake) -> None:  # noqa: N802
        link = self.links.get(order.link)
        for datagram in order.datagrams:
            # An answer goes where the question came from and has its format: maybe not the link's.
            fits = link is not None and len(datagram) == link.format.datagram_len
            if link is not None and fits and order.endpoint in (None, link.endpoint):
                link.shake(datagram)
            elif order.endpoint is not None:
                self.strays.append((datagram, order.endpoint))

    def _on_AddRelayRoute(self, order: o.AddRelayRoute) -> None:  # noqa: N802
        link = self.links[order.link]
        first_slot = int.from_bytes(self._random(4), "big")
        route = HopRoute(order.route, order.route_id, order.forward, order.backward, order.slot_shift,
                         link.format, self._scratch[link.format.name], first_slot, self.reports,
                         self.engine)  # fmt: skip
        self._routes[order.route] = route
        link.routes[order.route_id] = route.forward_in
        self._add_lane(link, order.route, order.backward_rate, route.backward_out, route.skip_backward,
                       order.route_id)  # fmt: skip
        route.rates = (order.forward_rate, order.backward_rate)

    def _on_ExtendRelayRoute(self, order: o.ExtendRelayRoute) -> None:  # noqa: N802
        route, link = self._routes[order.route], self.links[order.link]
        assert isinstance(route, HopRoute)
        towards = self._lanes_of[order.route][0][0]
        ticks = max(link.beat.tick_ns, towards.beat.tick_ns)
        forward_per_tick, backward_per_tick = (rate * ticks / o.RATE_UNIT for rate in route.rates)
        route.extend(order.route_id, forward_per_tick, backward_per_tick, ticks)
        link.routes[order.route_id] = route.backward_in
        self._add_lane(link, order.route, route.rates[0], route.forward_out, route.skip_forward,
                       order.route_id)  # fmt: skip

    def _on_AddCallerRoute(self, order: o.AddCallerRoute) -> None:  # noqa: N802
        link = self.links[order.link]
        first_slot = int.from_bytes(self._random(4), "big")
        scratch = self._scratch[link.format.name]
        route = CallerRoute(order.route, order.route_id, scratch, first_slot, self.reports, self.engine)
        self._routes[order.route] = route
        route.rates = (order.forward_rate, order.backward_rate)
        link.routes[order.route_id] = route.backward_in
        self._add_lane(link, order.route, order.forward_rate, route.forward_out, route.skip_forward,
                       order.route_id)  # fmt: skip

    def _add_lane(self, link: PlaneLink, handle: int, rate: int, take: Take, skip: Skip,
                  route_id: int) -> None:  # fmt: skip
        lane = self.engine.lane(handle, rate, link.beat.tick_ns, take, skip)
        link.add_lane(lane)
        self._lanes_of[handle] = (*self._lanes_of.get(handle, ()), (link, lane, route_id))

    def _on_AddHop(self, order: o.AddHop) -> None:  # noqa: N802
        route = self._routes[order.route]
        assert isinstance(route, CallerRoute)
        route.add_hop(order.forward, order.backward, order.slot_shift, order.backward_shift)

    def _on_SendSignal(self, order: o.SendSignal) -> None:  # noqa: N802
        route = self._routes[order.route]
        if isinstance(route, CallerRoute):
            route.signals.extend((order.hop, frame) for frame in order.frames)
        else:
            route.signals.extend(order.frames)
        del route.signals[:-MAX_SIGNALS]  # the oldest go: control sends again what is not acknowledged

    def _on_OpenCircuit(self, order: o.OpenCircuit) -> None:  # noqa: N802
        route = self._routes[order.route]
        link = self._lanes_of[order.route][0][0]
        caller = isinstance(route, CallerRoute)
        circuit = self._circuits.get(order.circuit)
        if circuit is not None and circuit.format is not link.format:
            raise Malformed("a circuit's routes must all carry one format")
        if circuit is None and caller:
            admits = partial(self._admits, order.number)
            circuit = Circuit(order.circuit, link.format, self.engine, self._normaliser.outward, admits,
                              self.to_tun["caller"].append)  # fmt: skip
            self._callers.circuits[order.number] = circuit
        elif circuit is None:
            rewriter = Rewriter(order.pool4, order.pool6, self.engine.rewrite)
            circuit = Circuit(order.circuit, link.format, self.engine, rewriter.inward, rewriter.outward,
                              self.to_tun["exit"].append)  # fmt: skip
            self._by_pool[order.pool4] = self._by_pool[order.pool6] = circuit
        self._circuits[order.circuit] = route.circuit = circuit

    def _admits(self, number: int, packet: bytearray) -> bool:
        """Whether what came out of the caller's circuit of that number may enter the host."""
        return self._normaliser.inward(packet) and self._callers.admits(number, packet)

    def _on_UseRoute(self, order: o.UseRoute) -> None:  # noqa: N802
        route = self._routes[order.route]
        if route.circuit is None:
            raise Malformed("a route that belongs to no circuit")
        outgoing, incoming = route.rates if isinstance(route, CallerRoute) else reversed(route.rates)
        route.circuit.resize(order.route, outgoing / 1000)
        route.circuit.expect(order.route, incoming / 1000)
        route.health = self._judged[order.route] = Health(incoming, self._now)

    def _on_ArrangeCircuit(self, order: o.ArrangeCircuit) -> None:  # noqa: N802
        self._circuits[order.circuit].arrange(Redundancy(order.shares))

    def _on_Isolate(self, order: o.Isolate) -> None:  # noqa: N802
        self._callers.arrange(order.by, order.circuits)

    def _on_DrainRoute(self, order: o.DrainRoute) -> None:  # noqa: N802
        route = self._routes[order.route]
        if route.circuit is not None and route.health is not None:
            route.health.leave()
            route.circuit.leave(order.route)

    def _on_CloseCircuit(self, order: o.CloseCircuit) -> None:  # noqa: N802
        circuit = self._circuits.pop(order.circuit, None)
        if circuit is None:
            return
        for route in self._routes.values():
            if route.circuit is circuit:
                route.circuit = None
        for address in [a for a, c in self._by_pool.items() if c is circuit]:
            del self._by_pool[address]
        for number in [n for n, c in self._callers.circuits.items() if c is circuit]:
            del self._callers.circuits[number]

    def _on_RemoveRoute(self, order: o.RemoveRoute) -> None:  # noqa: N802
        route = self._routes.pop(order.route)
        self._judged.pop(order.route, None)
        if route.circuit is not None and route.health is not None:
            route.circuit.resize(order.route, 0)
            route.circuit.expect(order.route, 0)
        for link, lane, route_id in self._lanes_of.pop(order.route, ()):
            link.routes.pop(route_id, None)
            if lane in link.lanes:
                link.lanes.remove(lane)
        route.close()

"""What nodes hold: for routes, promised slots, and memory that others can make them fill."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from anonnet.proto import redundancy, segment, stream, waiting
from anonnet.proto.exits import MAX_ROUTES
from anonnet.proto.hops import MAX_SIGNALS
from anonnet.proto.lane import KEPT_SESSIONS, MAX_CONTROL
from anonnet.proto.neighbours import Neighbour
from anonnet.proto.orders import MAX_REPORTS, RATE_UNIT
from anonnet.proto.stream import Stream
from anonnet.sim.clock import SECOND
from anonnet.sim.simnode import SimNode
from anonnet.sim.world import World
from anonnet.wire.handshake import PARTIALS_LIMIT
from anonnet.wire.stream import MAX_MESSAGE, WINDOW

_HANDSHAKES = 64  # datagrams that wait for a link


def holdings(node: SimNode) -> dict[str, object]:
    """All that a node holds for routes: it must be the same before a route and after it."""
    plane = node.plane
    return {
        "budgets": [(n.budget.free_out, n.budget.free_in) for n in node.core.neighbours],
        "ids": [dict(n.routes) for n in node.core.neighbours],
        "control": (len(node.core.relay.routes), len(node.core.caller.routes)),
        "plane": (len(plane._routes), len(plane._lanes_of), len(plane._circuits), len(plane._by_pool)),
        "links": [(len(link.lanes), len(link.routes)) for link in plane.links.values()],
        "caller": dict(plane._callers.circuits),
    }


def all_holdings(world: World) -> dict[str, dict[str, object]]:
    """The same for every node that runs."""
    return {name: holdings(node) for name, node in world.nodes.items() if node.running}


# -- slots ----------------------------------------------------------------------------------------


def owed(node: SimNode, neighbour: Neighbour) -> dict[int, tuple[int, int]]:
    """What a link owes to the routes over it, by the routes themselves: handle -> rates out and in."""
    rates = {}
    for relayed in node.core.relay.routes.values():
        if relayed.towards is neighbour:
            rates[relayed.handle] = relayed.backward_rate, relayed.forward_rate
        if relayed.onward is neighbour:
            rates[relayed.handle] = relayed.forward_rate, relayed.backward_rate
    for own in node.core.caller.routes.values():
        if own.first is neighbour:
            rates[own.handle] = own.rate
    return rates


def check_slots(node: SimNode) -> None:
    """Promised is the sum over routes, within what the link has, and what the data plane sends by."""
    for neighbour in node.core.neighbours:
        budget = neighbour.budget
        rates = owed(node, neighbour)
        assert budget._promised == rates, f"{node.name}: promised {budget._promised}, owed {rates}"
        assert set(neighbour.routes.values()) == set(rates), f"{node.name}: route ids of no route"
        assert budget.free_out >= 0, f"{node.name}: more promised than there is"
        assert budget.free_in >= 0, f"{node.name}: more promised than there is"
        link = node.plane.links[neighbour.handle]
        lanes = [lane.route for lane in link.lanes]
        assert len(lanes) == len(set(lanes)), f"{node.name}: two lanes of one route"
        for lane in link.lanes:
            assert lane.route in rates, f"{node.name}: a lane of no route"
            assert lane.per_tick == rates[lane.route][0] * link.beat.tick_ns, f"{node.name}: another rate"
        assert sum(lane.per_tick for lane in link.lanes) < link.outbox.count * RATE_UNIT


def check_both_ends(world: World) -> None:
    """Both ends of a link keep the same books; true when nothing is on its way between them."""
    nodes = {node.keys.node_id: node for node in world.nodes.values() if node.running}
    for node in nodes.values():
        for here in node.core.neighbours:
            there = nodes[here.node_id].core.neighbours.find(node.keys.node_id)
            if there is None:
                continue
            ours = {route_id: here.budget._promised[handle] for route_id, handle in here.routes.items()}
            theirs = {i: there.budget._promised[handle][::-1] for i, handle in there.routes.items()}
            assert ours == theirs, f"{node.name} and a neighbour disagree: {ours} {theirs}"


# -- memory ---------------------------------------------------------------------------------------


class Bound(NamedTuple):
    """Something that grows with what others do, and what it may grow to."""

    what: str
    size: int
    most: int


def bounds(node: SimNode) -> Iterator[Bound]:
    """Yield everything in a node that waits, with its cap."""
    core, plane = node.core, node.plane
    relayed, own = core.relay.routes.values(), core.caller.routes.values()
    yield Bound("reports to control", len(plane.reports), MAX_REPORTS)
    yield Bound("handshakes in pieces", len(core._partials), PARTIALS_LIMIT)
    yield Bound("sessions", len(plane._sessions), KEPT_SESSIONS * len(plane.links))
    yield Bound("receiver indices", sum(map(len, core._indices.values())), 4 * len(core.links))
    for link in core.links.values():
        yield from _stream("link", link._stream)
    for relay in relayed:
        yield from _stream("relayed route", relay.stream)
    for route in own:
        for hop in route.streams:
            yield from _stream("own route", hop)
    for wire in plane.links.values():
        yield Bound("control cells", len(wire.control), MAX_CONTROL)
        yield Bound("handshake datagrams", len(wire.handshakes), _HANDSHAKES)
    for way in plane._routes.values():
        yield Bound("signalling cells", len(way.signals), MAX_SIGNALS)
        for queue in way.queues:
            yield Bound("forward queue", sum(slot >= 0 for slot in queue._filled), queue._mask + 1)
    for circuit in plane._circuits.values():
        reassembler, recovery = circuit._reassembler, circuit._recovery
        full = sum(link.outbox.count * SECOND / link.beat.tick_ns for link in plane.links.values())
        rate = full * circuit.format.content_len
        queue_len = max(waiting.LEAST_LIMIT, int(rate * waiting.LIMIT_NS / SECOND))
        lag = max(redundancy.LAG_LEAST, round(full * redundancy.LAG_NS / SECOND))
        yield Bound("packets to send, bytes", circuit._waiting.backlog, queue_len)
        yield Bound("flows", len(circuit._waiting._flows), waiting.BUCKETS)
        yield Bound("cells held", len(reassembler._held), segment.MAX_HELD)
        yield Bound("cells left by a former mode", len(circuit._left), lag * MAX_ROUTES)
        yield Bound("cells kept for recovery", len(recovery._recent), redundancy._RECENT)
        yield Bound("groups of parity", len(recovery._shape), redundancy._GROUPS)
        yield Bound("parity", len(recovery._parity), redundancy._GROUPS)
        yield Bound("members of groups", len(recovery._group_of), redundancy._GROUPS * redundancy.MAX_SHARES)
        sender = circuit._sender
        if isinstance(sender, redundancy.Mirror):
            yield Bound("cells to repeat", len(sender._kept), lag)
        if isinstance(sender, redundancy.Coded):
            yield Bound("shares dealt", sum(map(len, sender._queues.values())), lag * MAX_ROUTES)


def _stream(whose: str, channel: Stream) -> Iterator[Bound]:
    yield Bound(f"{whose}: bytes not acknowledged", channel.backlog, stream.MAX_QUEUE)
    yield Bound(f"{whose}: fragments", len(channel._queue), stream.MAX_FRAGMENTS + MAX_MESSAGE)
    yield Bound(f"{whose}: frames sent", len(channel._sent), WINDOW)
    yield Bound(f"{whose}: frames that came early", len(channel._early), WINDOW)


def check_memory(node: SimNode) -> None:
    """Nothing is beyond its cap."""
    for what, size, most in bounds(node):
        assert size <= most, f"{node.name}: {what}: {size} of at most {most}"

"""What the control socket answers, read off the core."""

from __future__ import annotations

import os
import time
from typing import Literal

from anonnet.errors import OperatorError
from anonnet.ids import NodeId, node_id_text
from anonnet.node import api
from anonnet.node.address import address_text
from anonnet.node.control import Control
from anonnet.node.invite import own_invite
from anonnet.node.kept import today
from anonnet.node.peers import find_node
from anonnet.proto.caller import OwnRoute
from anonnet.proto.isolation import Isolation
from anonnet.proto.keeper import CircuitState
from anonnet.proto.kept import Kept, KeptNodes
from anonnet.proto.link import Link
from anonnet.proto.orders import RATE_UNIT, LinkStats


def find(control: Control, text: str) -> NodeId:
    """Return the peer that an id, the beginning of one, or a name means; OperatorError if none."""
    wanted = find_node(list(control.peers), text)
    return next(p.descriptor.node_id for p in control.peers if node_id_text(p.descriptor.node_id) == wanted)


def circuits(control: Control) -> tuple[api.CircuitStatus, ...]:
    """The circuits of which this node is the caller."""
    keepers = control.node.keepers
    if keepers.wanted is None:
        return ()
    stats, isolating = control.node.stats, keepers.wanted.isolate is not Isolation.OFF
    counts = dict(enumerate(stats.keys, start=1)) if stats and isolating else {}
    found = []
    for keeper in keepers.all:
        routes = tuple(_route(route) for route in keeper.routes)
        trouble = "" if keeper.state is CircuitState.UP else keeper.trouble
        exit_ = routes[0].hops[-1] if routes else ""
        keys = counts.get(keeper.number, 0)
        now = control.now()
        found.append(api.CircuitStatus(
            keeper.number, exit_, routes, keeper.state.value, trouble, keys,
            keeper.budget.left(now), round(keeper.waits(now) / 1e9, 1),
        ))  # fmt: skip
    return tuple(found)


def _route(route: OwnRoute) -> api.RouteStatus:
    per_tick = route.rate[0] * route.first.schedule.tick_ns / RATE_UNIT
    hops = tuple(node_id_text(node.node_id) for node in route.path)
    return api.RouteStatus(route.handle, hops, route.state.value, round(per_tick, 3))


def status(control: Control) -> api.Status:
    """What `status --json` prints."""
    found = circuits(control)
    return api.Status(
        schema=api.SCHEMA,
        id=node_id_text(control.node.node_id),
        state=control.node.keepers.state.value,
        exit=next((circuit.exit for circuit in found if circuit.exit), None),
        circuits=found,
        links=tuple(_link(control, handle, link) for handle, link in control.node.links.items()),
        engine=control.node.stats.engine if control.node.stats else None,
        guards=_kept(control, control.node.ends.guards),
        exits=_kept(control, control.node.ends.exits),
        suite=control.config.node.suite,
        warnings=control.config.warnings,
    )


def _kept(control: Control, nodes: KeptNodes) -> tuple[api.KeptStatus, ...]:
    """Return guards or exits; of an exit it is not known whether it can be reached."""
    links = {neighbour.node_id: neighbour.up for neighbour in control.node.neighbours}
    is_guard, now, day = nodes is control.node.ends.guards, control.now(), today()

    def state(one: Kept) -> Literal["up", "down", "failing", "unlisted"]:
        if one.unlisted is not None:
            return "unlisted"
        if is_guard and not links.get(one.node_id, False):
            return "down"
        return "failing" if one.retry_at > now else "up"

    return tuple(api.KeptStatus(node_id_text(k.node_id), k.expires - day, state(k)) for k in nodes)


def _link(control: Control, handle: int, link: Link) -> api.LinkStatus:
    stats = control.node.stats
    counted = next((s for s in stats.links if s.link == handle), None) if stats else None
    neighbour = control.node.neighbours[handle]
    counted = counted or LinkStats(handle, 0, 0, 0, 0, 0, 0, 0, 0)
    return api.LinkStatus(
        peer=node_id_text(link.peer.node_id),
        state=link.state.value,
        transport=link.endpoint.transport,
        profile=link.peer.profile.name,
        tick_us=link.peer.schedule.tick_ns / 1000,
        cells_per_tick=link.peer.schedule.cells_out,
        cells_sent=counted.cells_sent,
        cells_received=counted.cells_received,
        cells_missed=counted.cells_missed,
        late_ticks=counted.late_ticks,
        skipped_ticks=counted.skipped_ticks,
        trouble=f"cannot send: {os.strerror(failed)}" if (failed := counted.send_error) else link.trouble,
        routes=len(neighbour.routes),
        promised_out=neighbour.budget.capacity_out - neighbour.budget.free_out,
        promised_in=neighbour.budget.capacity_in - neighbour.budget.free_in,
    )


def peers(control: Control) -> api.Peers:
    """What `peers` prints."""
    states = {link.peer.node_id: link.state.value for link in control.node.links.values()}
    return api.Peers(
        tuple(
            api.PeerStatus(
                node_id_text(peer.descriptor.node_id), peer.descriptor.name,
                peer.descriptor.exit4 or peer.descriptor.exit6,
                tuple(address_text(address) for address in peer.descriptor.addresses),
                states.get(peer.descriptor.node_id),
            )
            for peer in control.peers
        )
    )  # fmt: skip


def invite(control: Control) -> api.Invite:
    """This node's own invite, as of now."""
    neighbours = [link.peer.node_id for link in control.node.links.values()]
    return api.Invite(own_invite(control.config, control.keys, neighbours, int(time.time())))


def require_up(control: Control) -> None:
    """OperatorError unless some link is up."""
    if not any(neighbour.up for neighbour in control.node.neighbours):
        raise OperatorError("no link is up", "`anonnet-tun status` says why, link by link")

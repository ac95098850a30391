"""What a peer of the configuration is to the core: a node that is known, a neighbour that can be reached."""

from __future__ import annotations

from anonnet.errors import OperatorError
from anonnet.ids import short
from anonnet.node.peers import Peer
from anonnet.proto import orders as o
from anonnet.proto.link import LinkPeer
from anonnet.proto.path import KnownNode
from anonnet.wire.descriptor import Address, Transport


def known(peer: Peer) -> KnownNode:
    """Return what planning may know of a peer."""
    d = peer.descriptor
    return KnownNode(
        d.node_id, d.name, d.onion, d.exit4 or d.exit6, frozenset(d.neighbours),
        tuple({address.host for address in d.addresses}),
    )  # fmt: skip


def _endpoint(address: Address) -> o.Endpoint:
    """Return an address as the data plane writes it."""
    return o.Endpoint(address.transport.name.lower(), str(address.host), address.port)


def link_peer(peer: Peer, transports: frozenset[tuple[str, int]]) -> LinkPeer:
    """Choose where to reach a neighbour. One without a usable address must come to us (UDP behind NAT)."""
    candidates = [peer.address] if peer.address else list(peer.descriptor.addresses)
    usable = [
        _endpoint(address)
        for address in candidates
        if (peer.transport is None or address.transport is peer.transport)
        and (address.transport.name.lower(), address.host.version) in transports
    ]
    if candidates and not usable:
        name = peer.descriptor.name or short(peer.descriptor.node_id)
        hint = "enable its transport under [transport], or give the peer another address"
        raise OperatorError(f"no address of peer {name} can be used here", hint)
    if usable:
        chosen = usable[0]
    else:
        chosen = o.Endpoint((peer.transport or Transport.UDP).name.lower(), LinkPeer.NOWHERE, 0)
    schedule = peer.profile.schedule(chosen.transport, chosen.ip_version)
    return LinkPeer(peer.descriptor.node_id, peer.descriptor.link, chosen, peer.profile, schedule)

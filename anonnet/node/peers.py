"""The peers of a configuration: invites read, defaults filled in."""

from __future__ import annotations

from dataclasses import dataclass

from anonnet.errors import ConfigError, Malformed
from anonnet.ids import NodeId, short
from anonnet.node.config import Config
from anonnet.node.endpoint import Endpoint, Transport
from anonnet.proto.profile import Profile, parse_profile
from anonnet.wire.descriptor import Descriptor, parse_invite


@dataclass(frozen=True, slots=True)
class Peer:
    """One [[peers]] table. `transport` and `address` are None where the descriptor decides."""

    descriptor: Descriptor
    link: bool
    transport: Transport | None
    address: Endpoint | None
    profile: Profile


def read_peers(config: Config, own: NodeId, source: str) -> list[Peer]:
    """Parse every peer's invite; raise ConfigError for a damaged, repeated or own one, or if none has a link."""
    peers: list[Peer] = []
    seen: dict[NodeId, int] = {}
    for index, section in enumerate(config.peers):
        key = f"{source}: peers[{index}]"
        try:
            descriptor = parse_invite(section.invite)
        except Malformed as error:
            hint = "copy all that `anonnet-tun invite` printed on that node"
            raise ConfigError(f"{key}.invite is damaged ({error})", hint) from None
        node_id = descriptor.node_id
        if node_id == own:
            raise ConfigError(f"{key}.invite is this node's own", "name other nodes only")
        if (first := seen.setdefault(node_id, index)) != index:
            raise ConfigError(f"{key} and peers[{first}] are both {short(node_id)}", "keep the newer one")
        address = section.endpoint
        transport = address.transport if address else section.transport
        profile = parse_profile(section.profile or config.links.profile)
        peers.append(Peer(descriptor, section.link, transport, address, profile))
    if not any(peer.link for peer in peers):
        hint = "add a [[peers]] table with the line that `anonnet-tun invite` prints on another node"
        raise ConfigError(f"{source}: no peer to link with", hint)
    return peers

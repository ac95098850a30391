"""The peers of a configuration: invites read, defaults filled in."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import ip_network

from anonnet.crypto.suite import SUITE_CODES, suite_text
from anonnet.errors import ConfigError, Malformed, OperatorError
from anonnet.ids import NodeId, node_id_text, parse_node_id, short
from anonnet.node.sections import Config
from anonnet.proto.path import Exclusion
from anonnet.proto.profile import Profile, parse_profile
from anonnet.wire.descriptor import Address, Descriptor, Transport, parse_invite


@dataclass(frozen=True, slots=True)
class Peer:
    """One [[peers]] table. `transport` and `address` are None where the descriptor decides."""

    descriptor: Descriptor
    link: bool
    transport: Transport | None
    address: Address | None
    profile: Profile


def read_peers(config: Config, own: NodeId | None, source: str) -> list[Peer]:
    """Parse every peer's invite; `own` is this node's id, if known.

    Raises ConfigError for an invite that is damaged, of a known node or this node's own.
    """
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
        address = section.parsed
        transport = Transport[section.transport.upper()] if section.transport else None
        if address:
            transport = address.transport
        profile = parse_profile(section.profile or config.links.profile)
        if descriptor.suite_code != SUITE_CODES[config.node.suite]:
            theirs = suite_text(descriptor.suite_code)
            what = f"{key} uses suite {theirs}, this node {config.node.suite}"
            raise ConfigError(what, "all nodes of a network must set the same node.suite")
        peers.append(Peer(descriptor, section.link, transport, address, profile))
    return peers


def parse_exclusion(texts: Iterable[str]) -> Exclusion:
    """Read node ids and networks; raise Malformed or ValueError."""
    ids, networks = set(), set()
    for text in texts:
        try:
            ids.add(parse_node_id(text))
        except Malformed:
            networks.add(ip_network(text))
    return Exclusion(frozenset(ids), frozenset(networks))


def require_link(peers: list[Peer], source: str) -> None:
    """Raise ConfigError unless there is somebody to link with: a node alone can do nothing."""
    if not any(peer.link for peer in peers):
        hint = "add a [[peers]] table with the line that `anonnet-tun invite` prints on another node"
        raise ConfigError(f"{source}: no peer to link with", hint)


def find_exit(peers: list[Peer], text: str | None) -> str | None:
    """Return what to ask for: None and "auto" as they are, else the full id of the exit that is meant."""
    if text is None or text == "auto":
        return text
    found = find_node(peers, text)
    known = next(one.descriptor for one in peers if node_id_text(one.descriptor.node_id) == found)
    if not (known.exit4 or known.exit6):
        raise OperatorError(f"{text} is no exit", "`anonnet-tun peers` says which nodes are")
    return found


def find_node(peers: list[Peer], text: str) -> str:
    """Return the full id of the peer that `text` means: its id, the beginning of it, or its name."""
    ids = [node_id_text(peer.descriptor.node_id) for peer in peers]
    named = [found for found, peer in zip(ids, peers, strict=True) if peer.descriptor.name == text]
    for found in (named, [found for found in ids if found.startswith(text.lower())]):
        if len(found) == 1:
            return found[0]
        if found:
            raise OperatorError(f"{text!r} fits {len(found)} nodes", f"say which: {', '.join(found)}")
    raise OperatorError(f"no node {text!r} is known", "`anonnet-tun peers` lists those that are")

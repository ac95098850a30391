"""What this node says of itself, made from its configuration and keys."""

from __future__ import annotations

from collections.abc import Iterable

from anonnet.crypto.keys import NodeKeys
from anonnet.crypto.suite import SUITE_CODES
from anonnet.ids import NodeId
from anonnet.node.sections import Config
from anonnet.wire.descriptor import MAX_NEIGHBOURS, Descriptor, invite, sign


def own_descriptor(config: Config, keys: NodeKeys, neighbours: Iterable[NodeId], epoch: int) -> Descriptor:
    """Return this node's descriptor; `epoch` is seconds since 1970, so that a later one replaces it."""
    return Descriptor(
        suite_code=SUITE_CODES[config.node.suite],
        epoch=epoch,
        identity=keys.identity_public,
        link=keys.link_public,
        onion=keys.onion_public,
        exit4=config.exit.enabled and config.exit.ipv4,
        exit6=config.exit.enabled and config.exit.ipv6,
        addresses=config.transport.parsed,
        neighbours=tuple(sorted(set(neighbours)))[:MAX_NEIGHBOURS],
        name=config.node.name,
    )


def own_invite(config: Config, keys: NodeKeys, neighbours: Iterable[NodeId], epoch: int) -> str:
    """Return `own_descriptor`, signed, as the URI that another operator adds to [[peers]]."""
    return invite(sign(own_descriptor(config, keys, neighbours, epoch), keys.identity))

"""Identifiers as types, so that one kind cannot be passed for another.

A node's id is the first 20 bytes of SHA-256 over its Ed25519 identity key; on screen it is base32 in
lower case, 32 characters, or its first 8 where a short form is enough for a person.
"""

from __future__ import annotations

import base64
import binascii
from typing import Final, NewType

from anonnet.errors import Malformed

NodeId = NewType("NodeId", bytes)  # 20 bytes
RouteId = NewType("RouteId", int)  # u32, means something on one link only

NODE_ID_LEN: Final = 20


def node_id_text(node_id: NodeId) -> str:
    """Return the 32 base32 characters that stand for a node on screen and in files."""
    return base64.b32encode(node_id).decode("ascii").lower()


def short(node_id: NodeId) -> str:
    """Return the first 8 characters of the id: for people, never for look-ups."""
    return node_id_text(node_id)[:8]


def parse_node_id(text: str) -> NodeId:
    """Read what `node_id_text` wrote; raise Malformed on anything else."""
    try:
        raw = base64.b32decode(text.upper())
    except (binascii.Error, ValueError) as error:
        raise Malformed(f"not a node id: {text!r}") from error
    if len(raw) != NODE_ID_LEN:
        raise Malformed(f"a node id has 32 base32 characters, not {len(text)}")
    return NodeId(raw)

"""Hop handshakes (docs/protocol.md, "Hop handshake"): caller anonymous, relay known; of anonnet-2026:

    -> e, es, e1
    <- e, ee, ekem1

Both payloads are empty, so both messages have one length. The node's id is in the prologue: a relay that
is asked in another's name answers nothing useful. The tag of the reply confirms the keys to the caller.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from anonnet.crypto.noise import Role
from anonnet.crypto.onion import SUBKEY_LEN, LayerKeys
from anonnet.crypto.suite import Handshake, Suite
from anonnet.errors import Malformed
from anonnet.ids import NodeId

LABEL: Final = b"AnonNet hop"
KEYS_LABEL: Final = b"AnonNet hop keys"


@dataclass(frozen=True, slots=True)
class HopKeys:
    """One hop of one route: forward is away from the caller. Equal at both ends."""

    forward: LayerKeys = field(repr=False)
    backward: LayerKeys = field(repr=False)
    slot_shift: int = field(repr=False)  # u32, both directions: slot numbers of two links do not match up


class HopInitiator:
    """The caller's end. `finish` may be tried again after a reply that is not genuine."""

    def __init__(
        self,
        suite: Suite,
        onion_public: bytes,
        node_id: NodeId,
        **ephemerals: Any,
    ) -> None:
        """Make the message for the node of that id and onion key. Ephemeral keys: test vectors only.

        Raises Forged when `onion_public` is a point of low order.
        """
        self._suite = suite
        self._handshake = suite.handshake(
            suite.hop_handshake,
            Role.INITIATOR,
            prologue=suite.prologue(LABEL, node_id),
            remote_static=onion_public,
            **ephemerals,
        )
        self.message: Final = self._handshake.write()

    def finish(self, reply: bytes) -> HopKeys:
        """Return the hop's keys; PeerFault, and nothing changed, when the reply is not the node's."""
        _check(reply, self._suite.hop_lengths[1])
        self._handshake.read(reply)
        return _derive(self._suite, self._handshake)


def hop_respond(
    suite: Suite, onion_private: X25519PrivateKey, node_id: NodeId, message: bytes
) -> tuple[bytes, HopKeys]:
    """Answer a caller as the node `node_id`: (reply, keys). PeerFault when the message is not for it."""
    _check(message, suite.hop_lengths[0])
    handshake = suite.handshake(
        suite.hop_handshake, Role.RESPONDER, prologue=suite.prologue(LABEL, node_id), static=onion_private
    )
    handshake.read(message)
    return handshake.write(), _derive(suite, handshake)


def _check(message: bytes, length: int) -> None:
    if len(message) != length:
        raise Malformed(f"a hop handshake message has {length} bytes, not {len(message)}")


def _derive(suite: Suite, handshake: Handshake) -> HopKeys:
    """Six subkeys and the slot shift from the split keys and the transcript."""
    length = 6 * SUBKEY_LEN + 4
    material = suite.derive(b"".join(handshake.split()), handshake.handshake_hash, KEYS_LABEL, length)
    subkeys = [material[i : i + SUBKEY_LEN] for i in range(0, 6 * SUBKEY_LEN, SUBKEY_LEN)]
    return HopKeys(LayerKeys(*subkeys[:3]), LayerKeys(*subkeys[3:]), int.from_bytes(material[-4:], "big"))

"""Hop handshakes (docs/protocol.md, "Hop handshake"): Noise NKhfs, caller anonymous, relay known.

    -> e, es, e1
    <- e, ee, ekem1

Both payloads are empty, so both messages have one length. The node's id is in the prologue: a relay that
is asked in another's name answers nothing useful. The tag of the reply confirms the keys to the caller.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from anonnet.crypto import kem
from anonnet.crypto.noise import DH_LEN, TAG_LEN, HandshakeState, Role
from anonnet.crypto.onion import SUBKEY_LEN, LayerKeys
from anonnet.crypto.suite import Suite
from anonnet.errors import Malformed
from anonnet.ids import NodeId

LABEL: Final = b"AnonNet hop"
KEYS_LABEL: Final = b"AnonNet hop keys"
MESSAGE_LEN: Final = DH_LEN + kem.PUBLIC_LEN + TAG_LEN + TAG_LEN  # 1248
REPLY_LEN: Final = DH_LEN + kem.CIPHERTEXT_LEN + TAG_LEN + TAG_LEN  # 1152


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
        *,
        ephemeral: X25519PrivateKey | None = None,
        kem_ephemeral: kem.KemPrivateKey | None = None,
    ) -> None:
        """Make the message for the node of that id and onion key. Ephemeral keys: test vectors only.

        Raises Forged when `onion_public` is a point of low order.
        """
        self._noise = HandshakeState(
            suite.hop_handshake,
            Role.INITIATOR,
            prologue=suite.prologue(LABEL, node_id),
            remote_static=onion_public,
            ephemeral=ephemeral,
            kem_ephemeral=kem_ephemeral,
        )
        self.message: Final = self._noise.write()

    def finish(self, reply: bytes) -> HopKeys:
        """Return the hop's keys; PeerFault, and nothing changed, when the reply is not the node's."""
        _check(reply, REPLY_LEN)
        self._noise.read(reply)
        return _derive(self._noise)


def hop_respond(
    suite: Suite, onion_private: X25519PrivateKey, node_id: NodeId, message: bytes
) -> tuple[bytes, HopKeys]:
    """Answer a caller as the node `node_id`: (reply, keys). PeerFault when the message is not for it."""
    _check(message, MESSAGE_LEN)
    noise = HandshakeState(
        suite.hop_handshake, Role.RESPONDER, prologue=suite.prologue(LABEL, node_id), static=onion_private
    )
    noise.read(message)
    return noise.write(), _derive(noise)


def _check(message: bytes, length: int) -> None:
    if len(message) != length:
        raise Malformed(f"a hop handshake message has {length} bytes, not {len(message)}")


def _derive(noise: HandshakeState) -> HopKeys:
    """HKDF-SHA256 (RFC 5869): six subkeys and the slot shift from the split keys and the transcript."""
    length = 6 * SUBKEY_LEN + 4
    material = HKDF(SHA256(), length, noise.handshake_hash, KEYS_LABEL).derive(b"".join(noise.split()))
    subkeys = [material[i : i + SUBKEY_LEN] for i in range(0, 6 * SUBKEY_LEN, SUBKEY_LEN)]
    return HopKeys(LayerKeys(*subkeys[:3]), LayerKeys(*subkeys[3:]), int.from_bytes(material[-4:], "big"))
